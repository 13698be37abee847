"""A listening socket whose connections have something before HTTP: the PROXY protocol, CONNECT, TLS (docs/adr/0009).

A `Door` accepts, reads the PROXY header where one must be there, and hands the visitor on; whoever takes it over reads what else
stands before HTTP, to the byte, and only then is the socket the event loop's. Until then each visitor is a task with a time
limit. What goes wrong with one is counted, told in the log now and then, and nobody else's trouble.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from proxy.errors import ProxyError
from proxy.forwarded import ProxyHeader, TrustedNetworks, read_proxy_header

_log = logging.getLogger(__name__)
_TELL_EVERY_S = 10.0
_UNREAD_BYTES = 64 << 10
_PAUSE_S = 0.1  # where the process has no descriptor left for another connection
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Unwelcome(ProxyError):
    """A visitor who did not get as far as HTTP; the text says why."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A connection that was accepted. `claimed_peer` is the client's address by the PROXY protocol."""

    sock: socket.socket
    peer: str
    claimed_peer: str | None


#: Takes a visitor over, socket and all, or closes it. Raises Unwelcome, OSError, ssl.SSLError; the socket is closed then.
Welcome: TypeAlias = Callable[[Visitor], Awaitable[None]]


class Door:
    """Accepts the connections of `sock`, which listens. `greeting_s` is what a visitor may take until HTTP begins.

    With `proxied`, a connection from one of those networks begins with the PROXY protocol, and any other begins without. Both may
    be set anew, for the connections to come.
    """

    def __init__(
        self, sock: socket.socket, welcome: Welcome, *, greeting_s: float, proxied: TrustedNetworks | None = None
    ) -> None:
        self.unwelcome = 0
        sock.setblocking(False)
        self._sock = sock
        self.greeting_s = greeting_s
        self.proxied = proxied
        self._welcome = welcome
        self._loop = asyncio.get_running_loop()
        self._visits: set[asyncio.Task[None]] = set()
        self._told_s = float("-inf")
        self._accepting = self._loop.create_task(self._accept())

    async def close(self) -> None:
        """Accept nobody any more, and turn away those who are not in yet."""
        tasks = [self._accepting, *self._visits]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sock.close()

    async def _accept(self) -> None:
        while True:
            try:
                sock, address = await self._loop.sock_accept(self._sock)
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._tell(f"no connection can be accepted: {error.strerror}")
                    await asyncio.sleep(_PAUSE_S)
                continue  # else: it was gone before it was accepted
            visit = self._loop.create_task(self._visit(sock, address[0]))
            self._visits.add(visit)
            visit.add_done_callback(self._visits.discard)

    async def _visit(self, sock: socket.socket, peer: str) -> None:
        try:
            async with asyncio.timeout(self.greeting_s):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                claimed_peer = None
                if self.proxied is not None and self.proxied.trusts(peer):
                    claimed_peer = await _proxy_source(sock)
                await self._welcome(Visitor(sock, peer, claimed_peer))
        except TimeoutError:
            sock.close()
            self._turn_away(peer, "it took too long")
        except (ProxyError, ssl.SSLError) as error:
            sock.close()
            self._turn_away(peer, str(error))
        except (OSError, EOFError):  # gone before it said anything, as load balancers do to see whether somebody is there
            sock.close()
        except BaseException:  # the door is being closed, or a fault of ours: the event loop tells of that
            sock.close()
            raise

    def _turn_away(self, peer: str, why: str) -> None:
        self.unwelcome += 1
        self._tell(f"a connection from {peer} did not get as far as HTTP: {why}")

    def _tell(self, what: str) -> None:
        """Say it in the log, but not for each of many."""
        if self._loop.time() - self._told_s >= _TELL_EVERY_S:
            self._told_s = self._loop.time()
            _log.warning("%s (%d so far)", what, self.unwelcome)


def answer(sock: socket.socket, status: str, why: str) -> None:
    """A short answer in plain HTTP, to a visitor who gets no further; where the socket takes nothing, it goes without."""
    body = f"{why}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with contextlib.suppress(OSError):
        sock.send(head.encode() + body)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(_UNREAD_BYTES)  # closing with something unread would reset the connection, and lose the answer


async def peek(sock: socket.socket, size_bytes: int) -> bytes:
    """What has arrived, left where it is. Waits for a byte. Raises EOFError where the other end has closed."""
    while True:
        try:
            seen = sock.recv(size_bytes, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await _readable(sock)
            continue
        if not seen:
            raise EOFError
        return seen


async def _readable(sock: socket.socket) -> None:
    """Wait until something has arrived, or the other end has closed."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(sock, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(sock)


async def take_head(sock: socket.socket, end_of: Callable[[bytes], int | None], limit_bytes: int) -> bytes:
    """The bytes up to where `end_of` says that the head ends (None: not yet), taken out of the socket, and not one more.

    What has no end yet is taken out as it comes, since a socket with something in it stays readable. Raises Unwelcome where the
    head is over `limit_bytes`, EOFError.
    """
    taken = b""
    while True:
        seen = await peek(sock, limit_bytes + 1)
        end = end_of(taken + seen)
        if end is not None:
            while len(taken) < end:
                taken += sock.recv(end - len(taken))
            return taken
        taken += sock.recv(len(seen))
        if len(taken) > limit_bytes:
            raise Unwelcome(f"what stands before HTTP is over {limit_bytes} bytes")


async def _proxy_source(sock: socket.socket) -> str | None:
    """The client's address by the PROXY header, which is taken out of `sock`."""
    found: list[ProxyHeader] = []

    def end_of(data: bytes) -> int | None:
        header = read_proxy_header(data)
        if header is None:
            return None
        found.append(header)
        return header.size_bytes

    await take_head(sock, end_of, 8_192)
    return found[0].source
