"""The direct way to AWS: connections that are kept (`connection.Connection`), one request at a time on each.

Rules kept:

- One future for a request, and no task: every wait of `Pool.send` is for that future, whoever completes it. Opening a connection
  is a task of its own.
- At most `connections` at a time, those that are being opened or closed among them. Who finds none free waits in turn; a
  connection that idles for another endpoint makes room. The one used last is used first, so that those too many grow old.
- Time is kept by one timer for all (`TICK_S`), since one for each request would cost more than the rest of it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Collection

from proxy.backends.aws.connection import Connection, Exchange
from proxy.backends.aws.resolver import Address, Resolver, is_own
from proxy.backends.aws.transport import (
    CLOSED,
    NO_ROOM,
    UNCONNECTED,
    Endpoint,
    NotSent,
    UpstreamRequest,
    UpstreamResponse,
    encode,
)

TICK_S = 0.05


class Pool:
    """Connections straight to AWS. One for each worker, made on its event loop; it owns `resolver`.

    `connect_timeout_s` is for name, TCP and TLS together, shared evenly among the addresses; `read_timeout_s` runs from one byte
    of the response to the next; `idle_s` should be below the peer's own. `own_addresses` are the (address, port) where this
    process listens, and never calls. TLS below 1.2 is not spoken, whatever `tls` says.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        tls: ssl.SSLContext,
        connections: int,
        connect_timeout_s: float,
        read_timeout_s: float,
        idle_s: float = 20.0,
        own_addresses: Collection[tuple[str, int]] = (),
    ) -> None:
        tls.minimum_version = max(tls.minimum_version, ssl.TLSVersion.TLSv1_2)
        self.loop = asyncio.get_running_loop()
        self.read_timeout_s = read_timeout_s
        self.idle_s = idle_s
        self._resolver = resolver
        self._tls = tls
        self._limit = connections
        self._connect_timeout_s = connect_timeout_s
        self._own_addresses = own_addresses
        self._connections: set[Connection] = set()
        self._opening: dict[asyncio.Task[None], Exchange] = {}
        self._idle: dict[Endpoint, list[Connection]] = {}  # the one used last stands last
        self._waiting: deque[Exchange] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._all_lost: asyncio.Future[None] | None = None

    async def send(
        self, endpoint: Endpoint, request: UpstreamRequest, *, fresh: bool = False, deadline: float
    ) -> UpstreamResponse:
        message = encode(endpoint.host, request)
        exchange = Exchange(endpoint, message, request.method == b"HEAD", fresh, deadline, self.loop)
        self._begin(exchange)
        try:
            return await exchange.answer
        finally:
            if exchange.answer.cancelled() or not exchange.answer.done():
                exchange.abandon()

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for exchange in self._waiting:
            exchange.fail(NotSent(exchange.endpoint.host, CLOSED))
        self._waiting.clear()
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for connection in tuple(self._connections):
            connection.end(CLOSED)
        if self._connections and self._all_lost is None:
            self._all_lost = self.loop.create_future()
        if self._all_lost is not None:
            await self._all_lost
        await self._resolver.close()

    # --- one place for each request

    def _begin(self, exchange: Exchange) -> None:
        if self._closed:
            raise NotSent(exchange.endpoint.host, CLOSED)
        if self.loop.time() >= exchange.deadline:
            raise NotSent(exchange.endpoint.host, NO_ROOM, timed_out=True)
        if not exchange.fresh:
            idle = self._idle.get(exchange.endpoint)
            while idle:
                if idle.pop().start(exchange):
                    return
        self._waiting.append(exchange)
        self._make_room()
        self._keep_time()

    def _make_room(self) -> None:
        """Open connections for those that wait, as far as the limit goes; then close idle ones for those that still do."""
        while self._waiting and len(self._connections) + len(self._opening) < self._limit:
            exchange = self._waiting.popleft()
            if not exchange.answer.done():
                task = exchange.place = self.loop.create_task(self._open(exchange))
                self._opening[task] = exchange
                task.add_done_callback(self._opened)
        idle = [connection for connections in self._idle.values() for connection in connections] if self._waiting else []
        if idle:
            closing = sum(1 for connection in self._connections if connection.is_over)
            idle.sort(key=_heard_at)
            for connection in idle[: max(0, len(self._waiting) - closing)]:
                connection.end()

    def returned(self, connection: Connection) -> None:
        """`connection` is free: for who waits first, else to idle."""
        while self._waiting:
            first = self._waiting[0]
            if first.answer.done():
                self._waiting.popleft()
            elif first.fresh or first.endpoint != connection.endpoint:
                connection.end(CLOSED)  # its place is theirs when it is gone
                return
            else:
                self._waiting.popleft()
                if not connection.start(first):
                    self._waiting.appendleft(first)
                return
        self._idle.setdefault(connection.endpoint, []).append(connection)

    def leave(self, connection: Connection) -> None:
        """`connection` is not used again."""
        idle = self._idle.get(connection.endpoint)
        if idle is not None:
            if connection in idle:
                idle.remove(connection)
            if not idle:
                del self._idle[connection.endpoint]

    def lost(self, connection: Connection) -> None:
        """`connection` is closed."""
        self.leave(connection)
        self._connections.discard(connection)
        if self._all_lost is not None and not self._connections and not self._all_lost.done():
            self._all_lost.set_result(None)
        self._make_room()

    # --- opening

    async def _open(self, exchange: Exchange) -> None:
        """A connection for `exchange`, which begins on it."""
        host = exchange.endpoint.host
        until = min(self.loop.time() + self._connect_timeout_s, exchange.deadline)
        try:
            async with asyncio.timeout_at(until):
                connection = await self._connect(exchange.endpoint, until)
        except NotSent as failure:
            exchange.fail(failure)
        except TimeoutError:
            exchange.fail(NotSent(host, UNCONNECTED, timed_out=True))
        except asyncio.CancelledError:
            exchange.fail(NotSent(host, CLOSED))
        else:
            self._connections.add(connection)
            if connection.is_over:
                self._connections.discard(connection)
                exchange.fail(NotSent(host, "closed the connection before anything was sent"))
            elif exchange.answer.done():
                self.returned(connection)
            elif not connection.start(exchange):
                exchange.fail(NotSent(host, "closed the connection before anything was sent"))

    def _opened(self, task: asyncio.Task[None]) -> None:
        exchange = self._opening.pop(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled():  # before it began
            exchange.fail(NotSent(exchange.endpoint.host, CLOSED))
        elif error is not None:
            exchange.fail(NotSent(exchange.endpoint.host, f"could not be connected ({type(error).__name__})"))
            self.loop.call_exception_handler({"message": "opening a connection broke off", "exception": error})
        if not self._closed:
            self._make_room()

    async def _connect(self, endpoint: Endpoint, until: float) -> Connection:
        """Each address in turn, for an even share of the time. Raises NotSent for the last one's failure, and TimeoutError."""
        addresses = await self._resolver.resolve(endpoint.host)
        failure = NotSent(endpoint.host, "the name has no address")
        for place, address in enumerate(addresses):
            now = self.loop.time()
            try:
                async with asyncio.timeout_at(now + (until - now) / (len(addresses) - place)):
                    return await self._connect_to(endpoint, address)
            except NotSent as error:
                failure = error
            except TimeoutError:
                failure = NotSent(endpoint.host, f"{UNCONNECTED} at {address.host}", timed_out=True)
        raise failure

    async def _connect_to(self, endpoint: Endpoint, address: Address) -> Connection:
        port = endpoint.port if address.port is None else address.port
        where = f"at {address.host} port {port}"
        if is_own(address.host, port, self._own_addresses):
            raise NotSent(endpoint.host, f"resolves to keytrail itself, {where}: set aws_nameservers or aws_hosts")
        connection = Connection(self, endpoint)
        try:
            await self.loop.create_connection(
                lambda: connection,
                address.host,
                port,
                ssl=self._tls if endpoint.tls else None,
                server_hostname=endpoint.host if endpoint.tls else None,
            )
        except ssl.SSLCertVerificationError as error:
            raise NotSent(endpoint.host, f"the certificate {where} is not to be trusted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise NotSent(endpoint.host, f"TLS failed {where}: {error.reason or error}") from error
        except TimeoutError:
            raise
        except ConnectionRefusedError as error:
            raise NotSent(endpoint.host, f"the connection was refused {where}") from error
        except (OSError, ValueError) as error:  # ValueError: a name that TLS cannot carry
            raise NotSent(
                endpoint.host, f"could not be connected {where}: {getattr(error, 'strerror', None) or error}"
            ) from error
        return connection

    # --- time

    def _keep_time(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self.loop.time()
        for connection in tuple(self._connections):
            connection.expire(now)
        if self._waiting:
            for exchange in self._waiting:
                if now >= exchange.deadline:
                    exchange.fail(NotSent(exchange.endpoint.host, NO_ROOM, timed_out=True))
            self._waiting = deque(exchange for exchange in self._waiting if not exchange.answer.done())
        if self._connections or self._waiting or self._opening:
            self._keep_time()


def _heard_at(connection: Connection) -> float:
    return connection.heard_at
