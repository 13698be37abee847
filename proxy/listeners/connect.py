"""The forward proxy: for clients with HTTPS_PROXY (CONNECT) and, in plain HTTP, HTTP_PROXY (absolute form).

CONNECT to KMS is answered, and TLS is ended here under a leaf of the corporate CA; what is within are calls like any other. So is
CONNECT to STS, where the embedded KMS answers: callers' sessions are its own. In front of AWS sessions are AWS's, and STS is a
host like others, and so it is where it is listed. Other hosts are tunnelled unread, refused, or tunnelled where they are listed.
A name is KMS's only as a whole, and only on port 443.

Source: RFC 9110 §9.3.6 (CONNECT), RFC 9112 §3.2.2 (absolute form).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.domain import Origin
from proxy.errors import SetupError
from proxy.kms.hosts import kms_region, sts_region
from proxy.listeners.door import Unwelcome, Visitor, answer, take_head
from proxy.listeners.reverse import MAX_HEAD_BYTES, Listener
from proxy.listeners.tls import ServerNames, begin_tls
from proxy.listeners.tunnel import Refused, Tunnels

_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]{1,255}):([0-9]{1,5})")
_LISTED = re.compile(r"((?:\*\.)?[a-z0-9_.-]{1,255}|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*")  # RFC 9112 §5.1: no blank before the colon, nothing folded
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_FORWARD_PROXY = (
    "This is the port of a forward proxy: it takes CONNECT, or a request with the whole URL (HTTPS_PROXY, HTTP_PROXY)."
)


class Leaves(Protocol):
    """Where the certificates of intercepted hosts come from: `proxy.authority.Authority`."""

    def known(self, host: str) -> bool:
        """Whether the context for `host` is at hand."""
        ...

    def leaf_context(self, host: str) -> ssl.SSLContext:
        """The context for `host`, made where it is not at hand: that takes some milliseconds. For any thread."""
        ...


class OtherHosts:
    """What becomes of hosts that are not KMS. `listed`: ``host``, ``*.host``, each with ``:port`` or for 443."""

    def __init__(self, rule: Literal["refuse", "tunnel", "listed"], listed: Sequence[str]) -> None:
        self._rule = rule
        self._exact: set[tuple[str, int]] = set()
        self._below: list[tuple[str, int]] = []
        for entry in listed:
            found = _LISTED.fullmatch(entry.lower())
            port = int(found[2] or 443) if found else 0
            if found is None or not 0 < port < 1 << 16:
                raise SetupError(f"forward_listed: {entry!r} is not HOST, *.HOST, HOST:PORT or *.HOST:PORT")
            name = found[1].strip("[]")
            if name.startswith("*."):
                self._below.append((name[1:], port))
            else:
                self._exact.add((name, port))

    def lists(self, host: str, port: int) -> bool:
        """Whether the list has it; `host` is in lower case, an IPv6 address without brackets."""
        return (host, port) in self._exact or any(port == p and host.endswith(end) for end, p in self._below)

    def allows(self, host: str, port: int) -> bool:
        """Whether a tunnel may go there."""
        return self._rule == "tunnel" or (self._rule == "listed" and self.lists(host, port))


@dataclass(frozen=True, slots=True)
class _Request:
    """The first request of a visitor, its head as it came. For CONNECT and in absolute form, host and port; else None."""

    head: bytes
    method: bytes
    host: str | None
    port: int

    @property
    def is_connect(self) -> bool:
        return self.method == b"CONNECT"


class ForwardProxy:
    """How visitors of the forward proxy's port are taken over. `names` watch the contexts of `leaves`; `handshake_s` bounds TLS
    with an intercepted client. `answers_sts`: whether calls to STS are answered here."""

    def __init__(
        self,
        listener: Listener,
        leaves: Leaves,
        names: ServerNames,
        others: OtherHosts,
        tunnels: Tunnels,
        *,
        handshake_s: float,
        answers_sts: bool = False,
    ) -> None:
        self.answers_sts = answers_sts
        self.others = others
        self.leaves = leaves
        self.intercepted = 0
        self.refused = 0
        self._listener = listener
        self._names = names
        self._tunnels = tunnels
        self._handshake_s = handshake_s

    async def welcome(self, visitor: Visitor) -> None:
        """See `door.Welcome`."""
        request = _read(await take_head(visitor.sock, _end_of_head, MAX_HEAD_BYTES))
        if request is None or request.host is None:
            answer(visitor.sock, "400 Bad Request", _FORWARD_PROXY)
            raise Unwelcome("its first request was none for a forward proxy")
        is_answered = self._answers(request.host, request.port)
        if request.is_connect and is_answered and request.port == 443:
            await self._intercept(visitor, request.host)
        elif not request.is_connect and is_answered and request.port == 80:
            await self._take_plain(visitor, request)
        else:
            await self._pass_on(visitor, request, request.host)

    def _answers(self, host: str, port: int) -> bool:
        """Whether calls to `host` are answered here."""
        if kms_region(host) is not None:
            return True
        return self.answers_sts and sts_region(host) is not None and not self.others.lists(host, port)

    async def _intercept(self, visitor: Visitor, host: str) -> None:
        self.intercepted += 1
        loop = asyncio.get_running_loop()
        if self.leaves.known(host):
            context = self.leaves.leaf_context(host)
        else:
            context = await loop.run_in_executor(None, self.leaves.leaf_context, host)
        await loop.sock_sendall(visitor.sock, _ESTABLISHED)
        await begin_tls(visitor, self._listener, context, "forward-proxy", self._handshake_s, self._names)

    async def _take_plain(self, visitor: Visitor, request: _Request) -> None:
        """A call to KMS or STS over plain HTTP: answered like any other; to AWS it goes on over TLS."""
        origin = Origin(visitor.peer, "forward-proxy", visitor.claimed_peer)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self._listener.connection(lambda _: origin, request.head), visitor.sock)

    async def _pass_on(self, visitor: Visitor, request: _Request, host: str) -> None:
        if not self.others.allows(host, request.port):
            self._refuse(visitor, f"keytrail is the proxy for AWS KMS, and {host}:{request.port} is not on its list.")
        begun = b"" if request.is_connect else _in_origin_form(request)
        try:
            there = await self._tunnels.connect(host, request.port, is_listed=self.others.lists(host, request.port))
        except Refused as refusal:
            self._refuse(visitor, str(refusal))
        except OSError:
            answer(visitor.sock, "502 Bad Gateway", f"keytrail cannot reach {host}:{request.port}.")
            raise Unwelcome(f"{host}:{request.port} cannot be reached") from None
        if request.is_connect:
            try:
                await asyncio.get_running_loop().sock_sendall(visitor.sock, _ESTABLISHED)
            except BaseException:  # who asked for the tunnel has gone
                there.close()
                raise
        self._tunnels.begin(visitor.sock, there, begun)

    def _refuse(self, visitor: Visitor, why: str) -> None:
        self.refused += 1
        answer(visitor.sock, "403 Forbidden", why)
        raise Unwelcome(why)


def _end_of_head(data: bytes) -> int | None:
    """Where the head of the first request ends: none is longer than what is looked at."""
    end = data.find(b"\r\n\r\n")
    if end >= 0:
        return end + 4
    line, newline, _ = data.partition(b"\n")
    if (newline and not line.endswith(b"\r")) or not re.match(rb"[!-~]{0,32}(?: |\Z)", data):
        return len(data)  # no HTTP: to be answered now, rather than waited for
    return None


def _read(head: bytes) -> _Request | None:
    """The first request by its head; None for what is no HTTP."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not head.endswith(b"\r\n\r\n"):
        return None
    if not all(map(_HEADER.fullmatch, lines)):
        return None
    method, target = words[0], words[1].decode("latin-1")
    if method != b"CONNECT":
        if target[:7].lower() != "http://":
            return _Request(head, method, None, 0)
        target = target[7:].partition("/")[0].partition("?")[0]
        if not re.search(r":[0-9]+\Z", target):
            target += ":80"
    found = _HOST_AND_PORT.fullmatch(target)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        return _Request(head, method, None, 0)
    return _Request(head, method, found[1].strip("[]").lower().removesuffix("."), int(found[2]))


#: Headers for this hop alone, besides those that Connection names (RFC 9110 §7.6.1), and Host, which the target stands in for.
_FOR_THIS_HOP = frozenset([b"connection", b"host", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"upgrade"])

_FRAMING = frozenset([b"content-length", b"transfer-encoding"])  # the body is passed on as it is framed, so they must stay


def _in_origin_form(request: _Request) -> bytes:
    """The head of a request in absolute form as its host is to get it: one request, and then the connection ends.

    Host says what the target says, whatever the client wrote there (RFC 9112 §3.2.2): by it the rule for other hosts was asked.
    """
    first, *lines = request.head[:-4].split(b"\r\n")
    method, url, version = first.split(b" ")
    authority = re.split(rb"[/?]", url[7:], maxsplit=1)[0]
    path = url[7 + len(authority) :]
    headers = [(line.partition(b":")[0].lower(), line) for line in lines]
    named = [line.partition(b":")[2].lower().split(b",") for name, line in headers if name == b"connection"]
    dropped = _FOR_THIS_HOP.union(name.strip() for names in named for name in names) - _FRAMING
    target = path if path.startswith(b"/") else b"/" + path
    kept = [line for name, line in headers if name not in dropped]
    return b"\r\n".join([b"%b %b %b" % (method, target, version), b"Host: " + authority, *kept, b"Connection: close", b"", b""])
