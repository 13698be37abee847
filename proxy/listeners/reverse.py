"""The endpoint that clients call: HTTP/1.1 in, `RawRequest` out, and the response back. It decides nothing about KMS.

One `Connection` a client, on httptools (llhttp): routing, request objects and an application framework stay off the hot path
(docs/adr/0001). Rules kept:

- One call at a time and in order on each connection; what is pipelined behind it waits, and reading pauses meanwhile.
- Whatever arrives ends in a response in AWS's form, or in a closed connection: a request that cannot be parsed, is too large
  or too slow becomes a `RawRequest` with a fault, so that it is recorded like any other, and then the connection closes.
- A client that goes away while its call is under way cancels nothing: the call is finished and recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias, cast

import httptools

from proxy.domain import HttpFault, Origin, RawRequest, RawResponse
from proxy.kms.hosts import kms_region, sts_region

MAX_HEAD_BYTES = 32 << 10
MAX_CHUNK_OVERHEAD = 8  # a body in chunks of one byte takes six times its size
LINGER_S = 5.0
_JSON = "Content-Type: application/x-amz-json-1.1\r\n"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
}
_REASONS |= {500: "Internal Server Error", 503: "Service Unavailable"}
_BROKEN = HttpFault(400, "SerializationException", "The HTTP request could not be parsed.")
_UPGRADE = HttpFault(400, "SerializationException", "Neither CONNECT nor another protocol is served here.")
_NO_PATH = HttpFault(400, "SerializationException", "The request's target is not a path.")
_NOT_KMS = HttpFault(403, "AccessDeniedException", "On this connection keytrail answers calls to AWS KMS and STS alone.")
_TWO_HOSTS = HttpFault(400, "SerializationException", "The request's target and its Host header name different hosts.")
_SLOW = HttpFault(408, "RequestTimeoutException", "The request was not received in time.")
_LARGE_HEAD = HttpFault(431, "RequestHeaderSectionTooLarge", f"The request's head is over {MAX_HEAD_BYTES} bytes.")


Future: TypeAlias = "asyncio.Future[Any]"  # Any: what it holds is between the walk and whoever gave it
#: Answers a call. It waits for futures, and where it yields None, for the other calls to come as far.
Walk: TypeAlias = Callable[[RawRequest], Coroutine["Future | None", None, RawResponse]]
#: Where the client of a transport comes from.
OriginOf: TypeAlias = Callable[[asyncio.BaseTransport], Origin]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask of a connection; seconds and bytes."""

    body_bytes: int
    request_s: float  # from a request's first byte to its last
    idle_s: float  # between requests


class Listener:
    """The connections of one listening socket; `walk` answers one call."""

    def __init__(self, walk: Walk, limits: Limits) -> None:
        self.walk = walk
        self.limit(limits)
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.busy = 0  # calls under way, those of clients that have gone among them
        self.idle: asyncio.Event | None = None
        self.draining = False
        self._turn: list[Connection] = []
        self._second = -1
        self._date = ""
        self._sweeping = self.loop.call_later(1.0, self._sweep)

    def __call__(self) -> Connection:
        return Connection(self)

    def limit(self, limits: Limits) -> None:
        """Have these limits from now on."""
        self.limits = limits
        self.too_large = HttpFault(413, "RequestEntityTooLargeException", f"The body is over {limits.body_bytes} bytes.")

    def connection(self, origin_of: OriginOf, begun: bytes = b"") -> Connection:
        """A connection of a client that said something before HTTP; `begun` is what of HTTP was read already."""
        return Connection(self, origin_of, begun)

    def date(self) -> str:
        """The value of the Date header, true to the second."""
        now = int(time.time())
        if now != self._second:
            self._second, self._date = now, email.utils.formatdate(now, usegmt=True)
        return self._date

    async def drain(self, limit_s: float) -> bool:
        """Let the calls under way finish, for `limit_s` at most, and close every connection; whether all finished."""
        self.draining = True
        self._sweeping.cancel()
        for connection in tuple(self.connections):
            connection.close_when_idle()
        if self.busy:
            self.idle = asyncio.Event()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.idle.wait(), limit_s)
        for connection in tuple(self.connections):
            connection.abort()
        return not self.busy

    def take_turn(self, connection: Connection) -> None:
        """Have the call of `connection` go on when every other call that takes a turn has gone as far (docs/adr/0007)."""
        if not self._turn:
            self.loop.call_soon(self._take_turns)
        self._turn.append(connection)

    def _take_turns(self) -> None:
        taken = 0
        try:
            for connection in self._turn:  # it grows meanwhile: who takes another turn comes behind all others
                taken += 1
                connection.go_on()
        finally:  # a fault of ours in one must not keep the others waiting
            del self._turn[:taken]
            if self._turn:
                self.loop.call_soon(self._take_turns)

    def _sweep(self) -> None:
        """Close what is too slow or idle. One timer for all: a timer for each request would cost more than the request."""
        now = self.loop.time()
        for connection in tuple(self.connections):
            connection.expire(now)
        self._sweeping = self.loop.call_later(1.0, self._sweep)


class _Phase(Enum):
    """What of a request the parser is in."""

    BETWEEN = 0
    HEAD = 1
    BODY = 2


class Connection(asyncio.Protocol):
    """One client connection. Callbacks come from the event loop (upper half) and from the parser that it feeds (lower half)."""

    def __init__(self, listener: Listener, origin_of: OriginOf | None = None, begun: bytes = b"") -> None:
        self.is_busy = False  # a call is under way
        self._listener = listener
        self._transport: asyncio.Transport
        self._origin: Origin
        self._origin_of = origin_of or _plain_origin
        self._begun = begun
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[_Parsed] = deque()
        self._answering: _Parsed
        self._call: Coroutine[Future | None, None, RawResponse]  # that is under way
        self._deaf = False  # nothing more is taken in: a fault, or the last request of the connection
        self._headers: list[tuple[bytes, bytes]]
        self._writable = True
        self._paused = False  # reading
        self._phase = _Phase.BETWEEN
        self._raw_bytes = 0  # of the request that is arriving
        self._deadline = listener.loop.time() + listener.limits.idle_s
        self._reset()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._origin = self._origin_of(transport)
        self._listener.connections.add(self)
        if self._begun:
            self.data_received(self._begun)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self._waiting.clear()
        self._listener.connections.discard(self)

    def eof_received(self) -> bool:
        """A client may shut its sending side and still wait for its answer; within TLS the transport ends in any case."""
        self._deaf = True
        return self._origin.tls is None and (self.is_busy or bool(self._waiting))

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        phase = self._phase
        self._completed = False
        self._fed_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse_upgrade()
        except httptools.HttpParserError:
            self._fail(_BROKEN)
        if not self._completed:  # what the parser holds back (half a header, a chunk's extensions) no callback tells of
            self._count(len(data), phase)
        self._next()

    def expire(self, now: float) -> None:
        """Give up on a client that is idle or slow; `now` is the event loop's time."""
        if self.is_busy or now < self._deadline:
            return
        if self._transport.is_closing() or not self._writable:
            self._transport.abort()  # a client that does not read: closing would wait for it
        elif self._phase is _Phase.BETWEEN or self._deaf:
            self._transport.close()
        else:
            self._fail(_SLOW)
            self._next()

    def close_when_idle(self) -> None:
        """Close behind the call that is under way; what is pipelined behind it is not begun."""
        self._deaf = True
        self._waiting.clear()
        if not self.is_busy:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # --- one call after the other

    def _next(self) -> None:
        """Start the next call that waits, if none is under way; read on only while none waits."""
        if self._waiting and not self.is_busy and self._writable:
            self._answering = self._waiting.popleft()
            self.is_busy = True
            self._listener.busy += 1
            self._call = self._listener.walk(self._answering.request)
            self._listener.take_turn(self)
        if bool(self._waiting) is not self._paused and not self._transport.is_closing():
            self._paused = not self._paused
            if self._paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def go_on(self, _: Future | None = None) -> None:
        """Run the call under way to where it waits: for a future, or (for None) until the others have come as far."""
        try:
            waits_for = self._call.send(None)
        except StopIteration as end:
            self._end_call()
            if not self._transport.is_closing():
                self._send(end.value)
            self._next()
        except (Exception, asyncio.CancelledError) as error:  # no answer is better than a wrong one; `walk` itself raises nothing
            self._end_call()
            self._transport.abort()
            self._listener.loop.call_exception_handler({"message": "a call broke off", "exception": error})
        else:
            if waits_for is None:
                self._listener.take_turn(self)
            else:
                waits_for._asyncio_future_blocking = False
                waits_for.add_done_callback(self.go_on)

    def _end_call(self) -> None:
        self.is_busy = False
        self._listener.busy -= 1
        if not self._listener.busy and self._listener.idle is not None:
            self._listener.idle.set()

    def _send(self, response: RawResponse) -> None:
        keep = bool(self._waiting) or not self._deaf
        self._transport.write(self._encode(response, keep))
        now = self._listener.loop.time()
        if keep:
            self._deadline = now + (
                self._listener.limits.idle_s if self._phase is _Phase.BETWEEN else self._listener.limits.request_s
            )
            return
        self._deadline = now + LINGER_S
        if self._answering.request.fault is not None and not self._listener.draining and self._transport.can_write_eof():
            # Closing with unread bytes would reset the connection, and the client would lose the answer.
            self._transport.write_eof()
        else:
            self._transport.close()

    def _encode(self, response: RawResponse, keep: bool) -> bytes:
        connection = "" if keep and not self._answering.is_http_1_0 else f"Connection: {'keep-alive' if keep else 'close'}\r\n"
        receipt = f"x-keytrail-receipt: {response.receipt}\r\n" if response.receipt else ""
        head = (
            f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Error')}\r\n"
            f"x-amzn-RequestId: {response.request_id}\r\nDate: {self._listener.date()}\r\n{receipt}"
            f"{_further(response.headers) if response.headers else _JSON}Content-Length: {len(response.body)}\r\n{connection}\r\n"
        )
        return head.encode() if self._answering.request.method == b"HEAD" else head.encode() + response.body

    def _fail(self, fault: HttpFault) -> None:
        """End the connection with an answer that says what was wrong."""
        if not self._deaf:
            self._enqueue(fault)
            self._deaf = True

    def _refuse_upgrade(self) -> None:
        """A request that asks for another protocol is not answered like any other, since the parser passes over its body."""
        if self._waiting and self._waiting[-1].request.fault is None:
            self._waiting[-1] = replace(self._waiting[-1], request=replace(self._waiting[-1].request, fault=_UPGRADE))
        self._deaf = True

    def _count(self, size_bytes: int, began_in: _Phase) -> None:
        """Bound what one request sends: `size_bytes` arrived that did not complete it; before them it was in `began_in`."""
        self._raw_bytes += size_bytes
        if self._phase is _Phase.HEAD:
            if self._raw_bytes > MAX_HEAD_BYTES:
                self._fail(_LARGE_HEAD)
        elif began_in is not _Phase.BODY:
            self._raw_bytes = 0  # the head has ended among them
        elif self._raw_bytes > MAX_HEAD_BYTES + MAX_CHUNK_OVERHEAD * self._listener.limits.body_bytes:
            self._fail(self._listener.too_large)

    # --- the parser's side (httptools' callbacks)

    def on_message_begin(self) -> None:
        self._reset()
        self._phase = _Phase.HEAD
        self._deadline = self._listener.loop.time() + self._listener.limits.request_s

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._phase = _Phase.BODY
        headers = _normal(self._headers)
        self._headers, self._head = headers, len(headers)
        # Only a head that fills what arrived needs counting: what arrived before is in `_raw_bytes`.
        if self._raw_bytes + self._fed_bytes > MAX_HEAD_BYTES and _size_bytes(headers) + len(self._target) > MAX_HEAD_BYTES:
            self._fail(_LARGE_HEAD)
            return
        values = dict(headers)
        if int(values.get(b"content-length", 0)) > self._listener.limits.body_bytes:
            self._fail(self._listener.too_large)
            return
        expects = values.get(b"expect", b"").lower() == b"100-continue" and self._parser.get_http_version() != "1.0"
        if expects and not self.is_busy and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._listener.limits.body_bytes:
            self._fail(self._listener.too_large)

    def on_message_complete(self) -> None:
        self._phase = _Phase.BETWEEN
        self._completed = True
        if len(self._headers) > self._head and _size_bytes(self._headers[self._head :]) > MAX_HEAD_BYTES:
            self._fail(_LARGE_HEAD)
        if not self._deaf:
            self._enqueue(None)
            self._deaf = not self._parser.should_keep_alive()

    def _enqueue(self, fault: HttpFault | None) -> None:
        in_head = self._phase is _Phase.HEAD
        # Trailers are read over: none may stand for a header (RFC 9110 §6.5.1).
        headers = _normal(self._headers) if in_head else self._headers[: self._head]
        target = self._target
        if fault is None and not target.startswith(b"/"):
            target, fault = _in_origin_form(target, headers, self._origin)
        request = RawRequest(
            method=b"" if in_head else self._parser.get_method(),
            target=target,
            headers=tuple(headers),
            body=b"" if fault is not None else b"".join(self._body),
            origin=self._origin,
            received_us=time.time_ns() // 1_000,
            fault=fault,
        )
        self._waiting.append(_Parsed(request, not in_head and self._parser.get_http_version() == "1.0"))

    def _reset(self) -> None:
        self._completed = False  # was a request, by the bytes that arrived last
        self._target = b""
        self._headers = []
        self._body: list[bytes] = []
        self._head = 0  # how many of them are in the head; the rest are trailers
        self._raw_bytes = 0
        self._body_bytes = 0


@dataclass(slots=True)
class _Parsed:
    """A request in its turn."""

    request: RawRequest
    is_http_1_0: bool


def _plain_origin(transport: asyncio.BaseTransport) -> Origin:
    peer = transport.get_extra_info("peername")
    return Origin(peer[0] if isinstance(peer, tuple) else "unknown")


def _in_origin_form(target: bytes, headers: list[tuple[bytes, bytes]], origin: Origin) -> tuple[bytes, HttpFault | None]:
    """The path and query of a target in absolute form, which is what the client signed (RFC 9112 §3.2.2). It is for a proxy, and
    for KMS or STS: any other is a fault."""
    scheme, _, rest = target.partition(b"://")
    authority, slash, path = rest.partition(b"/")
    if origin.topology != "forward-proxy" or scheme.lower() != b"http":
        return target, _NO_PATH
    host = authority.decode("latin-1").removesuffix(":80")
    if kms_region(host) is None and sts_region(host) is None:
        return target, _NOT_KMS
    if [value.lower() for name, value in headers if name == b"host"] != [authority.lower()]:
        return target, _TWO_HOSTS
    return slash + path or b"/", None


def _further(headers: tuple[tuple[str, str], ...]) -> str:
    """The header lines of a response that are not the same in all; the type of the content stands first."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return lines if "content-type:" in lines.lower() else _JSON + lines


def _normal(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value.rstrip()) for name, value in headers]


def _size_bytes(headers: list[tuple[bytes, bytes]]) -> int:
    """With the colon, a blank and the line's end of each."""
    return sum([len(name) + len(value) + 4 for name, value in headers])
