"""One connection to AWS, on httptools (llhttp): one request at a time, and its response.

It is used again only when its response ended as it should, and nothing came since: a byte that no request asked for ends it, and
so does a peer that closes. Responses by length, in chunks, and up to the end of the stream; interim ones (1xx) are read over.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from proxy.backends.aws.transport import (
    BROKEN_OFF,
    CLOSED,
    LARGE,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    SLOW,
    UNANSWERED,
    Endpoint,
    MayHaveBeenSent,
    UpstreamFailed,
    UpstreamResponse,
)


class Keeper(Protocol):
    """Whom a connection belongs to (`pool.Pool`). Seconds."""

    loop: asyncio.AbstractEventLoop
    read_timeout_s: float
    idle_s: float

    def returned(self, connection: Connection) -> None:
        """`connection` is free."""

    def leave(self, connection: Connection) -> None:
        """`connection` is not used again."""

    def lost(self, connection: Connection) -> None:
        """`connection` is closed."""


class Exchange:
    """One request and its answer, on its way through the pool."""

    __slots__ = ("answer", "deadline", "endpoint", "fresh", "is_head", "message", "place")

    def __init__(
        self, endpoint: Endpoint, message: bytes, is_head: bool, fresh: bool, deadline: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.endpoint = endpoint
        self.message = message
        self.is_head = is_head
        self.fresh = fresh
        self.deadline = deadline
        self.answer: asyncio.Future[UpstreamResponse] = loop.create_future()
        self.place: Connection | asyncio.Task[None] | None = None  # None while it waits its turn

    def fail(self, failure: UpstreamFailed) -> None:
        if not self.answer.done():
            self.answer.set_exception(failure)

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self.answer.cancel()
        if isinstance(self.place, Connection):
            self.place.abandon(self)
        elif self.place is not None:
            self.place.cancel()


class Connection(asyncio.Protocol):
    """One connection. Callbacks come from the event loop (upper half) and from the parser that it feeds (lower half)."""

    def __init__(self, keeper: Keeper, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.is_over = False  # not to be used again
        self.heard_at = keeper.loop.time()  # or began
        self._keeper = keeper
        self._transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._response: UpstreamResponse | None = None  # complete
        self._keep = False
        self._raw_bytes = 0  # of the response, so far
        self._fields: tuple[tuple[bytes, bytes], ...]
        self._reset()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_stream(clean=exc is None)
        self._keeper.lost(self)

    def eof_received(self) -> None:
        self._end_of_stream(clean=True)

    def start(self, exchange: Exchange) -> bool:
        """Send the request of `exchange`; whether that could be begun."""
        if self.is_over or self._transport.is_closing():
            return False
        self._exchange = exchange
        exchange.place = self
        self._response = None
        self._raw_bytes = 0
        self.heard_at = self._keeper.loop.time()
        self._transport.write(exchange.message)
        return True

    def abandon(self, exchange: Exchange) -> None:
        if self._exchange is exchange:
            self.end(UNANSWERED)

    def expire(self, now: float) -> None:
        exchange = self._exchange
        if exchange is None:
            if now - self.heard_at >= self._keeper.idle_s:
                self.end()
        elif now >= exchange.deadline or now - self.heard_at >= self._keeper.read_timeout_s:
            self.end(SLOW, timed_out=True)

    def end(self, what: str = CLOSED, *, timed_out: bool = False) -> None:
        """Close; what is under way fails by `what` happened."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.fail(MayHaveBeenSent(self.endpoint.host, what, timed_out=timed_out))
        if not self.is_over:
            self.is_over = True
            self._keeper.leave(self)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.end(UNANSWERED)
            return
        self.heard_at = self._keeper.loop.time()
        self._raw_bytes += len(data)
        fault = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            fault = "changed to a protocol that nobody asked for"
        except httptools.HttpParserError as error:  # its text is the parser's, and holds nothing of the response
            fault = f"answered with something that is not HTTP ({error})"
        if self._response is not None:
            self._complete(self._keep and fault is None)
        elif fault is not None:
            self.end(fault)
        elif self._raw_bytes > MAX_HEAD_BYTES and (self._in_head or self._raw_bytes > MAX_HEAD_BYTES + MAX_BODY_BYTES):
            self.end(LARGE)

    def _complete(self, keep: bool) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self._response is not None and not exchange.answer.done():
            exchange.answer.set_result(self._response)
        self._response = None
        if keep:
            self._keeper.returned(self)
        else:
            self.end()

    def _end_of_stream(self, *, clean: bool) -> None:
        if self._exchange is not None and clean and self._ends_with_stream:
            self._response = self._as_received()
            self._complete(keep=False)
        self.end(UNANSWERED if self._raw_bytes == 0 else BROKEN_OFF)

    # --- the parser's side (httptools' callbacks)

    def on_message_begin(self) -> None:
        if self._response is not None:  # a second answer to one request: the first counts, the connection ends
            self._keep = False
        self._reset()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._status = self._parser.get_status_code()
        self._fields = tuple(self._headers)  # what comes later are trailers, and read over (RFC 9110 §6.5.1)
        names = {name for name, _ in self._fields}
        no_body = self._status < 200 or self._status in (204, 304)
        self._ends_with_stream = b"content-length" not in names and b"transfer-encoding" not in names and not no_body
        if self._raw_bytes > MAX_HEAD_BYTES and sum([len(n) + len(v) + 4 for n, v in self._fields]) > MAX_HEAD_BYTES:
            self._in_head = True  # never to end
        elif self._exchange is not None and self._exchange.is_head and self._status >= 200 and self._response is None:
            # The parser expects a body, since it does not know of the request.
            self._keep, self._response = False, self._as_received()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._in_head = True  # of the answer that follows
        elif self._response is None and not self._in_head:
            self._keep = self._parser.should_keep_alive()
            self._response = self._as_received()

    def _as_received(self) -> UpstreamResponse:
        return UpstreamResponse(self._status, self._fields, b"".join(self._body))

    def _reset(self) -> None:
        self._in_head = True
        self._ends_with_stream = False
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._fields = ()
        self._body: list[bytes] = []
