"""The HTTP front on a real loopback socket: whatever arrives ends in an answer in AWS's form, or in a closed connection."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.domain import RawRequest, RawResponse
from proxy.listeners.reverse import MAX_HEAD_BYTES, Limits, Listener

T = TypeVar("T")
Runner = Callable[[Coroutine[Any, Any, T]], T]  # Any: what a coroutine is sent is nobody's business here
BODY_LIMIT = 4_096
LIMITS = Limits(body_bytes=BODY_LIMIT, request_s=5.0, idle_s=5.0)
LIMIT_S = 10.0  # no test waits for anything longer than this
OK = b'{"ok":true}'


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner[None]:
    """Both event loops: production runs on uvloop, whose transports are not asyncio's."""
    runner: Runner[None] = request.param
    return runner


@dataclass
class Walk:
    """Answers every request, with its fault where it has one; while `gate` is clear, calls stay under way."""

    requests: list[RawRequest] = field(default_factory=list)
    finished: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(self, raw: RawRequest) -> RawResponse:
        self.requests.append(raw)
        number = len(self.requests)
        async with self.changed:
            self.changed.notify_all()
        await self.gate.wait()
        self.finished += 1
        async with self.changed:
            self.changed.notify_all()
        if raw.fault is not None:
            body = json.dumps({"__type": raw.fault.code, "message": raw.fault.message}).encode()
            return RawResponse(raw.fault.status, body, f"id-{number}")
        return RawResponse(200, OK, f"id-{number}", receipt=f"log {number} leaf")

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S), self.changed:
            await self.changed.wait_for(reached)


async def until(reached: Callable[[], bool]) -> None:
    """Turn the loop until it has come about."""
    async with asyncio.timeout(LIMIT_S):
        while not reached():  # noqa: ASYNC110 - a condition inside the listener, which no event tells of
            await asyncio.sleep(0)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One client connection. Everything that waits, waits `LIMIT_S` at most."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes, *, bytewise: bool = False) -> None:
        for piece in _pieces(data) if bytewise else [data]:
            if self.writer.is_closing():
                return
            self.writer.write(piece)
            await asyncio.sleep(0)  # a turn of the loop: the other side reads

    async def reply(self, *, to_head: bool = False) -> Reply:
        """The next answer. Raises EOFError where the connection was closed instead."""
        async with asyncio.timeout(LIMIT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status_line, *lines = head.decode().split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            status = int(status_line.split(" ")[1])
            if status == 100:
                return Reply(status, headers, b"")
            body = b"" if to_head else await self.reader.readexactly(int(headers["content-length"]))
            return Reply(status, headers, body)

    async def is_closed(self) -> bool:
        """Whether the server closes, with nothing more to say."""
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self.reader.read() == b""
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        """Go away at once, without a goodbye."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def _pieces(data: bytes) -> list[bytes]:
    """Single bytes; where it is long, what is in the middle in larger pieces."""
    middle = range(500, len(data) - 500, 97)
    edges = [*range(min(500, len(data))), *middle, *range(max(500, len(data) - 500), len(data)), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


@dataclass
class World:
    listener: Listener
    walk: Walk
    port: int
    server: asyncio.Server
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients.append(client)
        return client

    async def all_gone(self) -> None:
        """Until the server holds no connection any more."""
        await until(lambda: not self.listener.connections)

    def expire(self, after_s: float) -> None:
        """What the sweeper does, as if `after_s` had gone by."""
        for connection in tuple(self.listener.connections):
            connection.expire(self.listener.loop.time() + after_s)


@asynccontextmanager
async def listening(limits: Limits = LIMITS) -> AsyncIterator[World]:
    walk = Walk()
    listener = Listener(walk, limits)
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    world = World(listener, walk, server.sockets[0].getsockname()[1], server)
    try:
        yield world
    finally:
        walk.gate.set()
        for client in world.clients:
            client.writer.transport.abort()
        server.close()
        await listener.drain(LIMIT_S)


def post(body: bytes = b"{}", *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = (b"POST / HTTP/%b" % version, b"Host: x", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def require_aws_form(reply: Reply) -> str:
    """The error code of a refusal in AWS's form."""
    document = json.loads(reply.body)
    assert reply.headers["content-type"] == "application/x-amz-json-1.1"
    assert reply.headers["x-amzn-requestid"]
    code: str = document["__type"]
    return code


# --- what is sent at once, and byte by byte


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


@pytest.mark.parametrize("bytewise", [False, True], ids=["at-once", "byte-by-byte"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_case(run: Runner[None], case: Case, bytewise: bool) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            sending = asyncio.create_task(client.send(case.sent, bytewise=bytewise))
            for status in case.statuses:
                reply = await client.reply()
                assert reply.status == status
                if status >= 400:
                    require_aws_form(reply)
            await sending
            if case.bodies is not None:
                assert tuple(raw.body for raw in world.walk.requests if raw.fault is None) == case.bodies
            assert len(world.walk.requests) == len([status for status in case.statuses if status != 100])
            if case.stays:
                await client.send(post(b"again"))
                assert (await client.reply()).status == 200
            else:
                assert await client.is_closed()

    run(scenario())


def test_what_the_walk_gets(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(b"POST /team-a%20/?x=1 HTTP/1.1\r\nHOST: a b \r\nX-Two: 1\r\nX-Two:2\r\nContent-Length: 1\r\n\r\nz")
            reply = await client.reply()
            (raw,) = world.walk.requests
            assert (raw.method, raw.target, raw.body) == (b"POST", b"/team-a%20/?x=1", b"z")
            assert raw.headers == ((b"host", b"a b"), (b"x-two", b"1"), (b"x-two", b"2"), (b"content-length", b"1"))
            assert (raw.origin.peer, raw.fault) == ("127.0.0.1", None)
            assert reply.headers["x-amzn-requestid"] == "id-1"
            assert reply.headers["content-type"] == "application/x-amz-json-1.1"
            assert "connection" not in reply.headers
            assert reply.headers["date"].endswith(" GMT")

    run(scenario())


def test_a_receipt_is_a_header_and_no_receipt_is_none(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post() + post() + post(b"1", b"Content-Length: 2"))
            told = [(await client.reply()).headers.get("x-keytrail-receipt") for _ in range(3)]
            assert told == ["log 1 leaf", "log 2 leaf", None]

    run(scenario())


def test_a_trailer_is_no_header(run: Runner[None]) -> None:
    """RFC 9110 §6.5.1: a trailer must not stand for what was signed, or not signed, in the head."""

    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(CHUNKED + b"1\r\na\r\n0\r\nX-Amz-Target: TrentService.Decrypt\r\n\r\n")
            assert (await client.reply()).status == 200
            assert dict(world.walk.requests[0].headers).get(b"x-amz-target") is None

    run(scenario())


def test_a_fault_does_not_carry_the_headers_of_the_request_before(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post(b"1", b"Authorization: alice"))
            await client.reply()
            await client.send(b"\x16\x03\x01")
            assert (await client.reply()).status == 400
            raw = world.walk.requests[1]
            assert raw.fault is not None
            assert (raw.method, raw.target, raw.headers, raw.body) == (b"", b"", (), b"")

    run(scenario())


def test_http_1_0_is_told_that_its_connection_is_kept(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post(b"{}", b"Connection: keep-alive", version=b"1.0"))
            assert (await client.reply()).headers["connection"] == "keep-alive"

    run(scenario())


def test_head_is_answered_without_a_body(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + post(b"2"))
            reply = await client.reply(to_head=True)
            assert (reply.status, reply.headers["content-length"]) == (200, str(len(OK)))
            assert (await client.reply()).body == OK

    run(scenario())


def test_expect_is_answered_before_the_body_is_sent(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            for body in (b"abc", b"defg"):
                await client.send(post(body, b"Expect: 100-continue")[: -len(body)])
                assert (await client.reply()).status == 100
                await client.send(body)
                assert (await client.reply()).status == 200
            assert [raw.body for raw in world.walk.requests] == [b"abc", b"defg"]

    run(scenario())


# --- one after the other


def test_a_pipelined_call_waits_until_the_one_before_is_answered(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(b"".join(post(b"%d" % number) for number in range(20)))
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            await client.send(post(b"20"))
            assert len(world.walk.requests) == 1
            world.walk.gate.set()
            for number in range(21):
                assert (await client.reply()).headers["x-amzn-requestid"] == f"id-{number + 1}"
            assert [raw.body for raw in world.walk.requests] == [b"%d" % number for number in range(21)]

    run(scenario())


def test_a_client_that_has_shut_its_sending_side_gets_its_answers(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(post(b"1") + post(b"2"))
            client.writer.write_eof()
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            world.walk.gate.set()
            assert [(await client.reply()).status for _ in range(2)] == [200, 200]
            assert await client.is_closed()

    run(scenario())


@pytest.mark.parametrize("sent", [b"", post()[:9], post(b"abc")[:-1]], ids=["nothing", "half a head", "half a body"])
def test_a_client_that_shuts_its_sending_side_too_early_is_closed(run: Runner[None], sent: bytes) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(sent)
            client.writer.write_eof()
            assert await client.is_closed()
            assert world.walk.requests == []

    run(scenario())


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_who_sends_too_much_gets_the_answer_while_still_sending(run: Runner[None], chunked: bool) -> None:
    head = CHUNKED + b"400000\r\n" if chunked else b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4194304\r\n\r\n"

    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            client.writer.write(head)
            for _ in range(64):
                client.writer.write(b"a" * (64 << 10))
                await client.writer.drain()
            reply = await client.reply()
            assert reply.status == 413
            assert require_aws_form(reply) == "RequestEntityTooLargeException"
            assert reply.headers["connection"] == "close"
            assert world.walk.requests[0].body == b""
            client.writer.write_eof()
            assert await client.is_closed()

    run(scenario())


# --- clients that are slow, idle, or gone


@pytest.mark.parametrize(
    "sent", [b"P", post()[:20], post(b"abc")[:-1], CHUNKED + b"5\r\na"], ids=["one byte", "head", "body", "chunk"]
)
def test_a_request_that_is_too_slow_is_told_so(run: Runner[None], sent: bytes) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post())
            await client.reply()
            await client.send(sent)
            # until the bytes have arrived, the connection is idle, and nothing is late
            await until(lambda: any(connection._phase.value for connection in world.listener.connections))
            world.expire(LIMITS.request_s - 1)
            assert len(world.walk.requests) == 1
            world.expire(LIMITS.request_s)
            reply = await client.reply()
            assert (reply.status, require_aws_form(reply)) == (408, "RequestTimeoutException")
            world.expire(2 * LIMITS.request_s)  # it lingers, but not for good
            assert await client.is_closed()

    run(scenario())


def test_an_idle_connection_is_closed_without_a_word(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            fresh, used = await world.connect(), await world.connect()
            await used.send(post())
            await used.reply()
            world.expire(LIMITS.idle_s - 1)
            assert len(world.listener.connections) == 2
            world.expire(LIMITS.idle_s)
            assert await fresh.is_closed() and await used.is_closed()
            assert len(world.walk.requests) == 1

    run(scenario())


def test_a_call_under_way_is_never_expired(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(post())
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            world.expire(1_000)
            world.walk.gate.set()
            assert (await client.reply()).status == 200

    run(scenario())


def test_the_sweeper_runs_by_itself() -> None:
    async def scenario() -> None:
        async with listening(Limits(BODY_LIMIT, request_s=0.01, idle_s=0.01)) as world:
            idle, slow = await world.connect(), await world.connect()
            await slow.send(b"POST")
            assert (await slow.reply()).status == 408
            assert await idle.is_closed()

    uvloop.run(scenario())


def test_a_client_that_reads_nothing_does_not_stay_for_good(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post())
            client.reader._transport.pause_reading()  # type: ignore[attr-defined] # its answers are to pile up
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            (connection,) = world.listener.connections
            for end in (connection._transport, client.writer):
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 4_096)
            client.writer.write(post(b"1") * 10_000)
            await until(lambda: not connection._writable)
            before = len(world.walk.requests)
            await until(lambda: not connection.is_busy)
            assert len(world.walk.requests) <= before + 1, "calls go on, whose answers nobody reads"
            world.expire(LIMITS.idle_s)
            await world.all_gone()

    run(scenario())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_goes_away_cancels_nothing_and_harms_nobody(run: Runner[None], reset: bool) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            gone, other = await world.connect(), await world.connect()
            await gone.send(post(b"gone"))
            await other.send(post(b"other"))
            await world.walk.until(lambda: len(world.walk.requests) == 2)
            if reset:
                gone.reset()
            else:
                gone.writer.close()
            await until(lambda: not reset or len(world.listener.connections) == 1)
            world.walk.gate.set()
            assert (await other.reply()).body == OK
            await world.walk.until(lambda: world.walk.finished == 2)

    run(scenario())


# --- drain


def test_drain_finishes_what_is_under_way_and_closes_the_rest(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            idle, half, busy = [await world.connect() for _ in range(3)]
            await half.send(post()[:10])
            await busy.send(post(b"1") + post(b"2"))
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            draining = asyncio.create_task(world.listener.drain(LIMIT_S))
            assert await idle.is_closed() and await half.is_closed()
            assert not draining.done()
            world.walk.gate.set()
            reply = await busy.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await busy.is_closed()
            assert await draining
            assert len(world.walk.requests) == 1, "a call was begun that nobody would wait for"

    run(scenario())


def test_drain_waits_for_the_call_of_a_client_that_has_gone(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(post())
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            client.reset()
            await world.all_gone()
            draining = asyncio.create_task(world.listener.drain(LIMIT_S))
            await asyncio.sleep(0)
            assert not draining.done()
            world.walk.gate.set()
            assert await draining
            assert world.walk.finished == 1

    run(scenario())


def test_drain_gives_up_after_its_limit(run: Runner[None]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(post())
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            assert not await world.listener.drain(0.01)
            assert await client.is_closed()

    run(scenario())


def test_a_walk_that_breaks_its_promise_closes_the_connection_and_no_other(
    run: Runner[None], caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(raw: RawRequest) -> RawResponse:
        raise RuntimeError("no answer")

    async def scenario() -> None:
        async with listening() as world:
            good, bad = await world.connect(), await world.connect()
            await good.send(post())
            await good.reply()
            working, world.listener.walk = world.listener.walk, broken
            await bad.send(post())
            assert await bad.is_closed()
            world.listener.walk = working
            await good.send(post())
            assert (await good.reply()).status == 200

    run(scenario())
    assert "no answer" in caplog.text


# --- anything at all

SAMPLES = [case.sent for case in CASES.values() if len(case.sent) < 600]


class _Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self, *, is_broken: bool = False) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.is_broken = is_broken

    def write(self, data: object) -> None:
        if self.is_broken:
            raise RuntimeError("this wire is broken")
        assert isinstance(data, bytes)
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def test_calls_take_each_step_together_and_one_that_breaks_off_stops_no_other(run: Runner[None]) -> None:
    async def scenario() -> None:
        steps: list[str] = []
        broken: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context["exception"]))

        async def walk(raw: RawRequest) -> RawResponse:
            who = raw.body.decode()
            steps.append(f"{who}1")
            await asyncio.sleep(0)  # yields None
            steps.append(f"{who}2")
            if who == "b":
                raise RuntimeError("a fault of ours")
            await asyncio.sleep(0)
            steps.append(f"{who}3")
            return RawResponse(200, OK, who)

        listener = Listener(walk, LIMITS)
        wires = [_Wire() for _ in "abc"]
        for who, wire in zip("abc", wires, strict=True):
            connection = listener()
            connection.connection_made(wire)
            connection.data_received(post(who.encode()))
        assert steps == []
        await until(lambda: listener.busy == 0)
        assert steps == ["a1", "b1", "c1", "a2", "b2", "c2", "a3", "c3"]
        assert [wire.written.startswith(b"HTTP/1.1 200") for wire in wires] == [True, False, True]
        assert [wire.closed for wire in wires] == [False, True, False]
        assert [str(error) for error in broken] == ["a fault of ours"]
        await listener.drain(0)

    run(scenario())


def test_a_fault_while_one_is_answered_keeps_no_other_waiting(run: Runner[None]) -> None:
    async def scenario() -> None:
        broken: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(str(context["exception"])))

        async def walk(raw: RawRequest) -> RawResponse:
            await asyncio.sleep(0)  # yields None
            return RawResponse(200, OK, "id")

        listener = Listener(walk, LIMITS)
        wires = [_Wire(is_broken=True), _Wire(), _Wire()]
        connections = [listener() for _ in wires]
        for connection, wire in zip(connections, wires, strict=True):
            connection.connection_made(wire)
            connection.data_received(post())
        await until(lambda: listener.busy == 0)
        connections[2].data_received(post())
        await until(lambda: listener.busy == 0)
        assert [wire.written.count(b"HTTP/1.1 200") for wire in wires] == [0, 1, 2]
        assert broken == ["this wire is broken"]
        await listener.drain(0)

    run(scenario())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A request that is valid, or nearly, with some of its bytes cut out, changed, doubled, or swapped for others."""
    data = bytearray(draw(st.sampled_from(SAMPLES)) + draw(st.sampled_from([b"", *SAMPLES])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 12)))
        data[start:end] = draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"\r\n", b"\r\n\r\n", b"\0", b" ", bytes(data[start:end]) * 2]))
        )
    return bytes(data)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=300), mutated()), st.lists(st.integers(0, 600), max_size=4))
def test_anything_ends_in_an_answer_or_a_closed_connection(data: bytes, cuts: list[int]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
            for start, end in itertools.pairwise(edges):
                await client.send(data[start:end])
            client.writer.write_eof()
            async with asyncio.timeout(LIMIT_S):
                try:
                    answer = await client.reader.read()
                except ConnectionResetError:
                    return
            require_answers(answer, [raw.method == b"HEAD" and raw.fault is None for raw in world.walk.requests])

    uvloop.run(scenario())


def require_answers(received: bytes, to_head: list[bool]) -> None:
    """`received` is nothing but whole answers: 200, 100, or 4xx in AWS's form."""
    answers = iter(to_head)
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        assert end and head.startswith(b"HTTP/1.1 ")
        status = int(head[9:12])
        if status == 100:
            continue
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body, received = (b"", received) if next(answers) else (received[:length], received[length:])
        assert status == 200 or (400 <= status < 500 and json.loads(body)["__type"])
