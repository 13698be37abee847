"""Messages that are good, bad, and in between, each with what is answered to it."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.listeners.reverse import MAX_HEAD_BYTES
from tests.proxy.listeners.front import BODY_LIMIT, post


@dataclass(frozen=True)
class Case:
    """What is sent, the statuses that come back, and whether the connection stays open."""

    sent: bytes
    statuses: tuple[int, ...]
    stays: bool
    bodies: tuple[bytes, ...] | None = None  # as the walk gets them


HUGE_HEADER = b"X-Filler: " + b"a" * MAX_HEAD_BYTES
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CASES = {
    "one request": Case(post(b'{"a":1}'), (200,), True, (b'{"a":1}',)),
    "no body": Case(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", (200,), True, (b"",)),
    "blank lines before": Case(b"\r\n\r\n" + post(), (200,), True),
    "pipelined": Case(post(b"1") + post(b"2") + post(b"3"), (200, 200, 200), True, (b"1", b"2", b"3")),
    "connection: close": Case(post(b"1", b"Connection: close"), (200,), False),
    "pipelined, the last one closes": Case(post(b"1") + post(b"2", b"Connection: close"), (200, 200), False),
    "pipelined behind a close": Case(post(b"1", b"Connection: close") + post(b"2"), (200,), False, (b"1",)),
    "1.0": Case(post(version=b"1.0"), (200,), False),
    "1.0 with keep-alive": Case(post(b"{}", b"Connection: keep-alive", version=b"1.0"), (200,), True),
    "chunked": Case(CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", (200,), True, (b"abcde",)),
    "chunked, then another": Case(CHUNKED + b"1\r\na\r\n0\r\n\r\n" + post(b"b"), (200, 200), True, (b"a", b"b")),
    "expect with the body": Case(post(b"{}", b"Expect: 100-continue"), (100, 200), True, (b"{}",)),
    "expect, too large": Case(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\nExpect: 100-continue\r\n\r\n", (413,), False
    ),
    "too large": Case(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT + 1), (413,), False),
    "too large in chunks": Case(CHUNKED + b"%x\r\n" % (BODY_LIMIT + 1) + b"a" * (BODY_LIMIT + 1), (413,), False),
    "at the limit": Case(post(b"a" * BODY_LIMIT), (200,), True),
    "huge header": Case(b"POST / HTTP/1.1\r\n" + HUGE_HEADER, (431,), False),
    "huge header, complete": Case(b"POST / HTTP/1.1\r\n" + HUGE_HEADER + b"\r\n\r\n", (431,), False),
    "huge target": Case(b"POST /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n", (431,), False),
    "many headers": Case(b"POST / HTTP/1.1\r\n" + b"a:b\r\n" * (MAX_HEAD_BYTES // 5 + 1), (431,), False),
    "large head": Case(post(b"{}", b"X-Filler: " + b"a" * (MAX_HEAD_BYTES - 200)), (200,), True),
    "large head, many headers": Case(post(b"{}", *[b"X-Filler: abcdef"] * 1_000), (200,), True),
    "huge trailers": Case(CHUNKED + b"1\r\na\r\n0\r\n" + b"a: bcdefgh\r\n" * 4_000 + b"\r\n", (431,), False),
    "garbage": Case(b"\x00\x01\x02 nonsense \xff\r\n\r\n", (400,), False),
    "garbage behind a request": Case(post(b"1") + b"nonsense", (200, 400), False),
    "TLS": Case(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)), (400,), False),
    "HTTP/2": Case(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,), False),
    "smuggling": Case(post(b"{}", b"Transfer-Encoding: chunked"), (400,), False),
    "two lengths": Case(post(b"{}", b"Content-Length: 3"), (400,), False),
    "bad chunk": Case(CHUNKED + b"zz\r\n", (400,), False),
    "bad length": Case(b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", (400,), False),
    "length beyond numbers": Case(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % 10**30, (400,), False),
    "unknown coding": Case(b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", (400,), False),
    "CONNECT": Case(b"CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.0\r\n\r\n", (400,), False),
    "upgrade": Case(post(b"ab", b"Connection: upgrade", b"Upgrade: h2c") + b"PRI", (400,), False),
    "upgrade behind another": Case(post(b"1") + post(b"", b"Connection: upgrade", b"Upgrade: h2c"), (200, 400), False),
    "endless chunk extension": Case(CHUNKED + b"1;" + b"a" * 600_000, (413,), False),
    "endless trailer": Case(CHUNKED + b"1\r\na\r\n0\r\na: " + b"a" * 600_000, (413,), False),
    "chunks of one byte": Case(CHUNKED + b"1\r\na\r\n" * BODY_LIMIT + b"0\r\n\r\n", (200,), True, (b"a" * BODY_LIMIT,)),
}
