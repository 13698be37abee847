"""Tunnels to other hosts: bytes go through unread, and are counted.

A tunnel never leads back to keytrail, and to this host, link-local addresses (the metadata service among them) or unspecified
ones only where they are listed: a forward proxy must not be the way into what listens on its own host. One side's end is passed
on, and the other direction goes on; what is idle for too long is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Collection, Mapping

from proxy.errors import ProxyError

_PIECE_BYTES = 64 << 10
_METADATA = ipaddress.ip_network("fd00:ec2::/32")  # EC2's metadata service by IPv6, which is not link-local


class Refused(ProxyError):
    """A tunnel that would lead where none may; the text says why."""


class Tunnels:
    """The tunnels of one worker. `own` are (address, port) where keytrail listens. Seconds."""

    def __init__(self, own: Collection[tuple[str, int]], *, connect_s: float, idle_s: float) -> None:
        self._own = own
        self._connect_s = connect_s
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._open: set[asyncio.Task[None]] = set()
        self._begun = 0
        self._from_clients = 0
        self._to_clients = 0

    def limit(self, *, connect_s: float, idle_s: float) -> None:
        """Take these for the tunnels to come."""
        self._connect_s = connect_s
        self._idle_s = idle_s

    def counts(self) -> Mapping[str, int]:
        """By the names of `proxy.metrics`."""
        return {
            "tunnels": self._begun,
            "tunnels_open": len(self._open),
            "tunnel_bytes_from_clients": self._from_clients,
            "tunnel_bytes_to_clients": self._to_clients,
        }

    async def connect(self, host: str, port: int, *, is_listed: bool) -> socket.socket:
        """A connection to the first address of `host` that answers. Raises Refused, OSError."""
        error: OSError = OSError("no address")
        async with asyncio.timeout(self._connect_s):
            try:
                found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except UnicodeError as failure:  # an empty label, or one of more than 63 characters
                raise OSError("no host can have this name") from failure
            for family, kind, protocol, _, address in found:
                self._require_foreign(str(address[0]), port, is_listed)
                sock = socket.socket(family, kind, protocol)
                sock.setblocking(False)
                try:
                    await self._loop.sock_connect(sock, address)
                    return sock
                except OSError as failure:
                    sock.close()
                    error = failure
                except BaseException:
                    sock.close()
                    raise
        raise error

    def begin(self, here: socket.socket, there: socket.socket, begun: bytes) -> None:
        """Join two sockets, which are the tunnel's from now on; `begun` goes there first."""
        self._begun += 1
        tunnel = self._loop.create_task(self._run(here, there, begun))
        self._open.add(tunnel)
        tunnel.add_done_callback(self._open.discard)

    async def close(self, limit_s: float) -> None:
        """Wait for those that are open, for `limit_s` at most, and cut the rest."""
        if self._open:
            await asyncio.wait(self._open, timeout=limit_s)
        tunnels = list(self._open)
        for tunnel in tunnels:
            tunnel.cancel()
        await asyncio.gather(*tunnels, return_exceptions=True)

    def _require_foreign(self, text: str, port: int, is_listed: bool) -> None:
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        address = mapped or address
        is_here = address.is_loopback or address.is_unspecified or _is_of_this_host(address)
        for own, own_port in self._own:
            listens = ipaddress.ip_address(own)
            if port == own_port and (listens == address or (listens.is_unspecified and is_here)):
                raise Refused("The tunnel would lead back to keytrail.")
        if (is_here or address.is_link_local or address in _METADATA) and not is_listed:
            raise Refused("Tunnels lead to this host and to link-local addresses only where they are listed.")

    async def _run(self, here: socket.socket, there: socket.socket, begun: bytes) -> None:
        with here, there, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._idle_s) as idle, asyncio.TaskGroup() as both:
                await self._loop.sock_sendall(there, begun)
                both.create_task(self._pump(here, there, idle, from_client=True))
                both.create_task(self._pump(there, here, idle, from_client=False))

    async def _pump(self, source: socket.socket, sink: socket.socket, idle: asyncio.Timeout, *, from_client: bool) -> None:
        """One direction, to its end, which is passed on."""
        try:
            while piece := await self._loop.sock_recv(source, _PIECE_BYTES):
                if from_client:
                    self._from_clients += len(piece)
                else:
                    self._to_clients += len(piece)
                idle.reschedule(self._loop.time() + self._idle_s)
                await self._loop.sock_sendall(sink, piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one end broke: the other is told by the same
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def _is_of_this_host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether one of this host's interfaces has `address`: only then can a socket be bound to it."""
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True
