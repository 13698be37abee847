"""In-process stand-ins for what lies beyond keytrail, on loopback: an upstream with scripted faults, and a corporate proxy.

Both are async context managers. Both keep every byte that they were sent, and count their connections.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import socket
import ssl
import struct
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

#: What the upstream does with a request: True keeps the connection. Whoever wants to be asked before the request is read
#: stands in `Upstream.greeting`.
Step = Callable[["Channel"], Awaitable[bool]]


@dataclass
class Received:
    """One request as it arrived."""

    head: bytes  # with the empty line
    body: bytes

    @property
    def request_line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case, in the order in which they came."""
        lines = self.head.split(b"\r\n")[1:-2]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]


@dataclass
class Channel:
    """One connection that the stand-in serves."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self) -> Received | None:
        """The next request; None where the client has closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        received = Received(head, b"")
        length = int(dict(received.headers).get(b"content-length", 0))
        received.body = await self.reader.readexactly(length)
        return received

    def reset(self) -> None:
        """Close with a TCP reset."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def answers(status: int = 200, body: bytes = b"{}", *headers: tuple[str, str]) -> Step:
    """A whole response."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return sends(f"HTTP/1.1 {status} Whatever\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body, keep=True)


def sends(*pieces: bytes, keep: bool = False) -> Step:
    """`pieces`, each in a write of its own; then the connection ends, or is kept."""

    async def step(channel: Channel) -> bool:
        for piece in pieces:
            channel.writer.write(piece)
            await channel.writer.drain()
            await asyncio.sleep(0)
        return keep

    return step


def resets(*before: bytes) -> Step:
    """`before` is sent, then the connection is reset."""

    async def step(channel: Channel) -> bool:
        for piece in before:
            channel.writer.write(piece)
            await channel.writer.drain()
        channel.reset()
        return False

    return step


def hangs(*before: bytes) -> Step:
    """`before` is sent, then nothing, until the client closes."""

    async def step(channel: Channel) -> bool:
        for piece in before:
            channel.writer.write(piece)
            await channel.writer.drain()
        with contextlib.suppress(ConnectionError):
            await channel.reader.read()
        return False

    return step


class Listening:
    """A server on a free port of 127.0.0.1. `most_open` is the most connections that were ever open at a time."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.opened = 0
        self.open = 0
        self.most_open = 0
        self.port = 0
        self._server: asyncio.Server
        self._serving: set[asyncio.Task[None]] = set()
        self._channels: set[Channel] = set()
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Listen no more, and end every connection. It may be entered again, on the same port."""
        self._server.close()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._server.wait_closed()

    async def until_open(self, count: int) -> None:
        """Wait until `count` connections are open."""
        async with asyncio.timeout(10.0), self._changed:
            await self._changed.wait_for(lambda: self.open == count)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.opened += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._announce()
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await self.serve(Channel(reader, writer))
            await _ended(writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.transport.abort()
            self.open -= 1
            await self._announce()
            self._serving.discard(task)

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def serve(self, channel: Channel) -> None:
        raise NotImplementedError


class Upstream(Listening):
    """KMS, as far as bytes go: each request takes the next step of the script, or `otherwise` when that is at its end."""

    def __init__(self, tls: ssl.SSLContext | None = None, *script: Step, otherwise: Step | None = None) -> None:
        super().__init__(tls)
        self.script: deque[Step] = deque(script)
        self.otherwise = otherwise or answers()
        self.greeting: Step | None = None
        self.received: list[Received] = []

    async def serve(self, channel: Channel) -> None:
        if self.greeting is not None and not await self.greeting(channel):
            return
        keep = True
        while keep and (received := await channel.request()) is not None:
            self.received.append(received)
            step = self.script.popleft() if self.script else self.otherwise
            keep = await step(channel)

    async def drop_idle(self) -> None:
        """Close every connection, as a server does with those that idle; it goes on listening."""
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


class CorporateProxy(Listening):
    """A forward proxy: CONNECT and absolute form. `names` is where each host it knows leads; `user` is ``name:password``."""

    def __init__(self, names: dict[str, int], tls: ssl.SSLContext | None = None, user: str | None = None) -> None:
        super().__init__(tls)
        self.names = names
        self.user = user
        self.received: list[Received] = []
        self.greeting: Step | None = None

    async def serve(self, channel: Channel) -> None:
        if self.greeting is not None and not await self.greeting(channel):
            return
        received = await channel.request()
        if received is None:
            return
        self.received.append(received)
        method, target, _ = received.request_line.split(b" ")
        if self.user is not None:
            expected = b"Basic " + base64.b64encode(self.user.encode())
            if dict(received.headers).get(b"proxy-authorization") != expected:
                await self._refuse(channel, "407 Proxy Authentication Required", 'Proxy-Authenticate: Basic realm="corp"\r\n')
                return
        authority = target if method == b"CONNECT" else target.split(b"/")[2]
        port = self.names.get(authority.decode().rpartition(":")[0])
        try:
            if port is None:
                raise ConnectionRefusedError
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await self._refuse(channel, "502 Bad Gateway", "")
            return
        try:
            if method == b"CONNECT":
                channel.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                writer.write(_origin_form(received))
            await _relay((reader, channel.writer), (channel.reader, writer))
        finally:
            writer.transport.abort()

    async def _refuse(self, channel: Channel, status: str, headers: str) -> None:
        channel.writer.write(f"HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await channel.writer.drain()


def _origin_form(received: Received) -> bytes:
    method, target, version = received.request_line.split(b" ")
    path = b"/" + target.split(b"/", 3)[3]
    headers = [b"%b: %b" % header for header in received.headers if not header[0].startswith(b"proxy-")]
    return b"\r\n".join([b"%b %b %b" % (method, path, version), *headers, b"", received.body])


async def _relay(*ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Bytes both ways, until either side ends."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()

    copying = [asyncio.ensure_future(copy(*way)) for way in ways]
    try:
        await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
        for _, writer in ways:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.drain()
    finally:
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)
        for _, writer in ways:
            await _ended(writer)


async def _ended(writer: asyncio.StreamWriter) -> None:
    """Close in good order; what the other side does not take within a second is dropped."""
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


# --- Certificates


@dataclass
class Authority:
    """A private CA, and contexts on both sides of a connection that it vouches for."""

    name: str = "keytrail tests"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = self._signed(self.name, self.key, (), is_ca=True)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def server(self, *names: str) -> ssl.SSLContext:
        """A server that is `names` (DNS names or addresses)."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(names[0], key, names, is_ca=False)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "server.pem"
            path.write_bytes(
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
            )
            context.load_cert_chain(path)
        return context

    def client(self) -> ssl.SSLContext:
        """A client that trusts this CA and no other."""
        return ssl.create_default_context(cadata=self.pem)

    def _signed(self, subject: str, key: ec.EllipticCurvePrivateKey, names: Iterable[str], *, is_ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_called(subject))
            .issuer_name(_called(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        return builder.sign(self.key, SHA256())


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
