"""The TLS listener by itself, with real handshakes in whatever pieces they arrive; on asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import create_server
from typing import TypeVar

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from proxy.domain import RawRequest, RawResponse
from proxy.errors import SetupError
from proxy.forwarded import TrustedNetworks
from proxy.listeners.connect import ForwardProxy, OtherHosts
from proxy.listeners.door import Door
from proxy.listeners.reverse import Limits, Listener
from proxy.listeners.tls import (
    ClientCertificates,
    ClientTrust,
    ServerNames,
    ServerTls,
    read_certificate,
    welcome_with_tls,
)
from proxy.listeners.tunnel import Tunnels
from tests.proxy.listeners.loops import Run, sockets

KMS = "kms.us-east-1.amazonaws.com"
PROXIED = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n"
BODY_LIMIT = 4_096
LIMIT_S = 20.0
T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files and as themselves."""

    certificate: Path
    key: Path
    subject: x509.Certificate
    private: ec.EllipticCurvePrivateKey


def make(folder: Path, name: str, issuer: Pair | None = None, encryption: KeySerializationEncryption | None = None) -> Pair:
    """A certificate for `name` by `issuer`, or a CA of its own."""
    private, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject.subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(private if issuer is None else issuer.private, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    return Pair(*paths, certificate, private)


def trusting(*authorities: Pair, own: Pair | None = None) -> ssl.SSLContext:
    """A client's context. It names no host by itself: that is `server_name` of `Client`."""
    context = ssl.create_default_context()
    context.check_hostname = False
    for authority in authorities:
        context.load_verify_locations(authority.certificate)
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


class Client:
    """A TLS client whose handshake goes out in the pieces that a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session: ssl.SSLObject

    async def begin(self, context: ssl.SSLContext, name: str | None = None, before: bytes = b"", bytewise: bool = False) -> None:
        """The handshake; `before` and the ClientHello are sent as one segment, or all byte by byte."""
        self.session = context.wrap_bio(self._in, self._out, server_hostname=name)
        with suppress(ssl.SSLWantReadError):
            self.session.do_handshake()
        hello = before + self._out.read()
        for piece in [hello[at : at + 1] for at in range(len(hello))] if bytewise else [hello]:
            self.writer.write(piece)
            await asyncio.sleep(0)  # a turn of the loop: the other side reads
        if b"CONNECT" in before:
            assert (await self._reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await self._step(self.session.do_handshake)

    async def call(self, body: bytes = b"{}") -> bytes:
        """The answer to a request. Raises EOFError where the connection ends instead, ssl.SSLError."""
        self.session.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = b""
        while b"\r\n\r\n{}" not in answer:
            answer += await self._step(lambda: self.session.read(65_536))
            if not answer:
                raise EOFError
        return answer

    async def _step(self, act: Callable[[], T]) -> T:
        """What `act` gives when it has what it waits for. Raises EOFError."""
        while True:
            try:
                done = act()
            except ssl.SSLWantReadError:
                self.writer.write(self._out.read())
                if not (came := await self._reader.read(65_536)):
                    raise EOFError from None
                self._in.write(came)
            else:
                self.writer.write(self._out.read())
                return done


@dataclass
class World:
    """A listener behind a TLS door and a forward proxy's; `seen` are the requests that came through as calls."""

    folder: Path
    ca: Pair
    tls: ServerTls
    listener: Listener
    doors: dict[str, tuple[Door, int]]
    seen: list[RawRequest]
    gate: asyncio.Event
    clients: list[Client] = field(default_factory=list)

    async def connect(self, door: str = "tls") -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.doors[door][1]))
        self.clients.append(client)
        return client

    def unwelcome(self, door: str = "tls") -> int:
        return self.doors[door][0].unwelcome


class Leaves:
    """A leaf that takes its time, for any host."""

    def __init__(self, pair: Pair) -> None:
        self.context = ServerTls(pair.certificate, pair.key, ClientTrust()).context

    def known(self, host: str) -> bool:
        return False

    def leaf_context(self, host: str) -> ssl.SSLContext:
        return self.context


async def until(reached: Callable[[], bool]) -> None:
    """Turn the loop until it has come about."""
    async with asyncio.timeout(LIMIT_S):
        while not reached():  # noqa: ASYNC110 - a condition inside the listener, which no event tells of
            await asyncio.sleep(0.001)


@asynccontextmanager
async def world_of(
    folder: Path, demand: ClientCertificates = "none", *, greeting_s: float = 10.0, proxied: bool = False
) -> AsyncIterator[World]:
    """Both doors on loopback; afterwards no task and no descriptor is left."""
    before, tasks = sockets(), len(asyncio.all_tasks())
    ca = make(folder, "ca.example")
    server = make(folder, "keytrail.example", ca)
    seen: list[RawRequest] = []
    gate = asyncio.Event()
    gate.set()

    async def walk(raw: RawRequest) -> RawResponse:
        seen.append(raw)
        await gate.wait()
        return RawResponse(200 if raw.fault is None else raw.fault.status, b"{}", "id-1")

    listener = Listener(walk, Limits(BODY_LIMIT, 5.0, 5.0))
    tls = ServerTls(server.certificate, server.key, ClientTrust(demand, None if demand == "none" else ca.certificate))
    tunnels = Tunnels(frozenset(), connect_s=2.0, idle_s=5.0)
    leaves, names = Leaves(make(folder, KMS, ca)), ServerNames()
    names.watch(leaves.context)
    forward = ForwardProxy(listener, leaves, names, OtherHosts("refuse", ()), tunnels, handshake_s=5.0)
    networks = TrustedNetworks(["127.0.0.0/8"]) if proxied else None
    doors = {}
    for name, welcome in (("tls", welcome_with_tls(listener, tls, 5.0)), ("forward", forward.welcome)):
        sock = create_server(("127.0.0.1", 0), backlog=256)
        doors[name] = Door(sock, welcome, greeting_s=greeting_s, proxied=networks), sock.getsockname()[1]
    world = World(folder, ca, tls, listener, doors, seen, gate)
    try:
        yield world
    finally:
        gate.set()
        for door, _ in doors.values():
            await door.close()
        await tunnels.close(0.0)
        await listener.drain(1.0)
        for client in world.clients:
            client.writer.transport.abort()
    await until(lambda: sockets() <= before and len(asyncio.all_tasks()) <= tasks)


# --- what is recorded of a session


@pytest.mark.parametrize(
    ("name", "topology"),
    [
        *((None, "endpoint"), ("keytrail.example", "endpoint"), (f"{KMS}.evil.example", "endpoint")),
        *((KMS, "private-dns"), ("sts.us-east-1.amazonaws.com", "private-dns"), ("sts.amazonaws.com", "private-dns")),
    ],
)
def test_the_session_is_known_with_a_name_and_without(run: Run, tmp_path: Path, name: str | None, topology: str) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            client = await world.connect()
            await client.begin(trusting(world.ca), name)
            await client.call()
            origin = world.seen[0].origin
            assert (origin.peer, origin.claimed_peer, origin.topology) == ("127.0.0.1", None, topology)
            assert origin.client_certificate is None
            cipher = client.session.cipher()
            assert origin.tls is not None and cipher is not None
            assert (origin.tls.version, origin.tls.cipher_suite, origin.tls.server_name) == ("TLSv1.3", cipher[0], name)

    run(scenario())


def test_http_2_is_not_agreed_upon(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            context = trusting(world.ca)
            context.set_alpn_protocols(["h2", "http/1.1"])
            client = await world.connect()
            await client.begin(context)
            assert client.session.selected_alpn_protocol() == "http/1.1"
            assert await client.call()

    run(scenario())


# --- client certificates


@pytest.mark.parametrize("demand", ["optional", "required"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_known(run: Run, tmp_path: Path, demand: ClientCertificates, version: ssl.TLSVersion) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path, demand) as world:
            own = make(tmp_path, "alice.example", world.ca)
            context = trusting(world.ca, own=own)
            context.maximum_version = version
            client = await world.connect()
            await client.begin(context)
            await client.call()
            certificate = world.seen[0].origin.client_certificate
            assert certificate is not None
            assert (certificate.subject, certificate.issuer) == ("CN=alice.example", "CN=ca.example")
            assert certificate.alternative_names == ("DNS:alice.example",)
            assert certificate.sha256 == own.subject.fingerprint(hashes.SHA256()).hex()

    run(scenario())


@pytest.mark.parametrize("name", ["a" * 1_000, "\x01" * 1_000])  # the latter takes six times its size in JSON
def test_a_certificate_with_many_names_leaves_room_in_a_record(name: str) -> None:
    private, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "many")])
    certificate = (
        x509.CertificateBuilder(subject, subject, private.public_key(), 1, now, now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{number}{name}") for number in range(80)]), critical=False)
        .sign(private, hashes.SHA256())
    )
    names = read_certificate(certificate.public_bytes(Encoding.DER)).alternative_names
    assert names == tuple(f"DNS:{number}{name}" for number in range(len(names)))
    assert 8_000 < len(orjson.dumps(names)) <= 17_000


@pytest.mark.parametrize(("demand", "shows"), [("required", "none"), ("required", "another CA's"), ("optional", "another CA's")])
def test_who_shows_none_or_another_cas_is_turned_away(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, demand: ClientCertificates, shows: str
) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path, demand) as world:
            other = None if shows == "none" else make(tmp_path, "mallory.example", make(tmp_path, "other.example"))
            for _ in range(3):
                client = await world.connect()
                with pytest.raises((EOFError, ssl.SSLError, ConnectionError)):
                    await client.begin(trusting(world.ca, own=other))
                    await client.call()
            await until(lambda: world.unwelcome() == 3)
            assert world.seen == []
        assert [record.levelname for record in caplog.records] == ["WARNING"], "told now and then, not for each"
        assert "certificate" in caplog.text and "127.0.0.1" in caplog.text

    run(scenario())


def test_none_is_needed_where_it_is_optional(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path, "optional") as world:
            client = await world.connect()
            await client.begin(trusting(world.ca))
            await client.call()
            assert world.seen[0].origin.client_certificate is None

    run(scenario())


# --- reload


def test_new_files_are_for_the_connections_to_come(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            old = await world.connect()
            await old.begin(trusting(world.ca))
            new = make(tmp_path, "new.example", world.ca)
            world.tls.reload(new.certificate, new.key, ClientTrust())
            client = await world.connect()
            await client.begin(trusting(world.ca))
            assert client.session.getpeercert(binary_form=True) == new.subject.public_bytes(Encoding.DER)
            assert await old.call() and await client.call()

    run(scenario())


@pytest.mark.parametrize("broken", ["missing", "rubbish", "not its key", "encrypted", "no CA"])
def test_files_that_are_not_as_they_must_be_change_nothing(run: Run, tmp_path: Path, broken: str) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            pair = make(tmp_path, "new.example", world.ca, BestAvailableEncryption(b"secret") if broken == "encrypted" else None)
            certificate, key, clients = pair.certificate, pair.key, ClientTrust()
            if broken == "missing":
                certificate = tmp_path / "nowhere.pem"
            elif broken == "rubbish":
                certificate.write_text("rubbish")
            elif broken == "not its key":
                key = world.ca.key
            elif broken == "no CA":
                clients = ClientTrust("required", tmp_path / "nowhere.pem")
            held = world.tls.context
            with pytest.raises(SetupError):
                world.tls.reload(certificate, key, clients)
            assert world.tls.context is held
            client = await world.connect()
            await client.begin(trusting(world.ca))
            assert await client.call()

    run(scenario())


# --- what stands before the handshake, in one segment with it and byte by byte

CONNECT = f"CONNECT {KMS}:443 HTTP/1.0\r\n\r\n".encode()


@pytest.mark.parametrize("name", ["other.example", None])
def test_within_connect_the_name_on_record_is_the_one_that_tls_was_asked_for(run: Run, tmp_path: Path, name: str | None) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            client = await world.connect("forward")
            await client.begin(trusting(world.ca), name, CONNECT)
            await client.call()
            tls = world.seen[0].origin.tls
            assert tls is not None and tls.server_name == name

    run(scenario())


@pytest.mark.parametrize("bytewise", [False, True], ids=["one-segment", "byte-by-byte"])
@pytest.mark.parametrize(
    ("door", "before", "topology"),
    [
        ("tls", PROXIED, "private-dns"),
        ("forward", CONNECT, "forward-proxy"),
        ("forward", PROXIED + CONNECT, "forward-proxy"),
    ],
    ids=["PROXY", "CONNECT", "PROXY-CONNECT"],
)
def test_no_byte_of_the_handshake_is_lost(
    run: Run, tmp_path: Path, door: str, before: bytes, topology: str, bytewise: bool
) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path, proxied=before.startswith(b"PROXY")) as world:
            client = await world.connect(door)
            await client.begin(trusting(world.ca), KMS, before, bytewise)
            await client.call()
            origin = world.seen[0].origin
            assert origin.topology == topology and origin.tls is not None and origin.tls.server_name == KMS
            assert origin.claimed_peer == ("198.51.100.7" if before.startswith(b"PROXY") else None)

    run(scenario())


@pytest.mark.parametrize("header", [b"", b"PROXY TCP4 rubbish\r\n"], ids=["none", "rubbish"])
def test_a_trusted_proxy_that_tells_no_address_is_turned_away(run: Run, tmp_path: Path, header: bytes) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path, proxied=True) as world:
            client = await world.connect()
            with pytest.raises((EOFError, ssl.SSLError, ConnectionError)):
                await client.begin(trusting(world.ca), None, header)
            assert (world.unwelcome(), world.seen) == (1, [])

    run(scenario())


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", PROXIED, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)])
def test_what_is_no_tls_is_told_so(run: Run, tmp_path: Path, sent: bytes) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.doors["tls"][1])
            writer.write(sent)
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
            writer.close()
            assert (world.unwelcome(), world.seen) == (1, [])

    run(scenario())


# --- clients that are slow, gone, or many


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_a_handshake_that_is_too_slow_is_ended(run: Run, tmp_path: Path, sent: bytes) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path, greeting_s=0.05) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.doors["tls"][1])
            writer.write(sent)
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            assert world.unwelcome() == 1

    run(scenario())


def test_a_door_closes_on_those_who_are_half_in(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            streams = [await asyncio.open_connection("127.0.0.1", world.doors["tls"][1]) for _ in range(10)]
            for _, writer in streams[5:]:
                writer.write(b"\x16\x03\x01\x02\x00\x01\x00")
            await until(lambda: len(world.doors["tls"][0]._visits) == 10)
            await world.doors["tls"][0].close()
            for reader, writer in streams:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()

    run(scenario())


def test_a_client_that_leaves_during_its_call_cancels_nothing_and_is_no_trouble(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            world.gate.clear()
            client = await world.connect()
            await client.begin(trusting(world.ca))
            calling = asyncio.create_task(client.call())
            await until(lambda: len(world.seen) == 1)
            with suppress(ssl.SSLWantReadError):
                client.session.unwrap()
            client.writer.write(client._out.read())  # close_notify: TLS has no half that stays open
            await until(lambda: not world.listener.connections)
            assert world.listener.busy == 1
            world.gate.set()
            await until(lambda: not world.listener.busy)
            with pytest.raises((EOFError, ssl.SSLError, ConnectionError)):
                await calling
        assert caplog.records == []

    run(scenario())


def test_who_sends_too_much_is_told_so(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            client = await world.connect()
            await client.begin(trusting(world.ca))
            assert (await client.call(b"x" * (BODY_LIMIT + 1))).startswith(b"HTTP/1.1 413 ")

    run(scenario())


def test_a_hundred_at_once_of_whom_some_leave_in_the_middle(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world_of(tmp_path) as world:
            context = trusting(world.ca)

            async def visit(number: int) -> bool:
                client = await world.connect("forward" if number % 2 else "tls")
                if number % 5 == 0:
                    client.writer.write(CONNECT[: number + 1] if number % 2 else b"\x16\x03\x01")
                    client.writer.close()
                    return False
                await client.begin(context, KMS, CONNECT if number % 2 else b"")
                return (await client.call()).startswith(b"HTTP/1.1 200 ")

            answered = await asyncio.gather(*(visit(number) for number in range(100)))
            assert (sum(answered), len(world.seen)) == (80, 80)

    run(scenario())
