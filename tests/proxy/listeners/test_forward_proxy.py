"""The forward proxy's port by itself: heads in pieces, rules for other hosts, tunnels; on asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.domain import RawRequest, RawResponse
from proxy.errors import SetupError
from proxy.forwarded import TrustedNetworks
from proxy.listeners import tunnel
from proxy.listeners.connect import ForwardProxy, OtherHosts
from proxy.listeners.door import Door
from proxy.listeners.reverse import Limits, Listener
from proxy.listeners.tls import ServerNames
from proxy.listeners.tunnel import Tunnels
from tests.proxy.listeners.loops import Run, sockets

KMS = "kms.us-east-1.amazonaws.com"


class NoLeaves:
    def known(self, host: str) -> bool:
        return False

    def leaf_context(self, host: str) -> ssl.SSLContext:
        raise AssertionError("nothing is intercepted here")


@dataclass
class World:
    """A forward proxy; `port` is its own, `seen` the requests that came through as calls."""

    port: int
    proxy: ForwardProxy
    tunnels: Tunnels
    door: Door
    seen: list[RawRequest] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, message: bytes) -> bytes:
        """Everything that is answered to `message`, to the connection's end."""
        reader, writer = await self.connect()
        writer.write(message)
        try:
            return await reader.read()
        except ConnectionResetError:  # it was closed with something unread
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def forward_proxy(
    rule: Any = "refuse",
    listed: tuple[str, ...] = (),
    greeting_s: float = 5.0,
    proxied: TrustedNetworks | None = None,
    address: str = "127.0.0.1",
    answers_sts: bool = False,
) -> AsyncIterator[World]:
    """A forward proxy on loopback, which believes to listen on `address`; afterwards no task and no descriptor of it is left."""
    before = sockets()
    seen: list[RawRequest] = []

    async def walk(raw: RawRequest) -> RawResponse:
        seen.append(raw)
        return RawResponse(200, b"{}", "id-1")

    sock = socket.create_server(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    listener = Listener(walk, Limits(1 << 16, 5.0, 5.0))
    tunnels = Tunnels(frozenset({(address, port)}), connect_s=2.0, idle_s=5.0)
    others = OtherHosts(rule, listed)
    proxy = ForwardProxy(listener, NoLeaves(), ServerNames(), others, tunnels, handshake_s=2.0, answers_sts=answers_sts)
    door = Door(sock, proxy.welcome, greeting_s=greeting_s, proxied=proxied)
    try:
        yield World(port, proxy, tunnels, door, seen)
    finally:
        await door.close()
        await tunnels.close(0.0)
        await listener.drain(1.0)
    for _ in range(200):
        if sockets() <= before and len(asyncio.all_tasks()) <= 2:
            return
        await asyncio.sleep(0.01)
    assert sockets() <= before and len(asyncio.all_tasks()) <= 2


@asynccontextmanager
async def other_host(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """A host that answers what it got, when its client has sent all; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await reader.read()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_a_tunnel_passes_each_sides_end_on(run: Run) -> None:
    async def scenario() -> None:
        async with other_host(lambda got: got[::-1] * 1_000) as port, forward_proxy("listed", (f"127.0.0.1:{port}",)) as world:
            reader, writer = await world.connect()
            for byte in f"CONNECT 127.0.0.1:{port} HTTP/1.0\r\n\r\n".encode():  # byte by byte
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"abc" * 10_000)
            writer.write_eof()
            assert await reader.read() == (b"abc" * 10_000)[::-1] * 1_000
            writer.close()
            counts = world.tunnels.counts()
            assert (counts["tunnels"], counts["tunnel_bytes_from_clients"]) == (1, 30_000)
            assert counts["tunnel_bytes_to_clients"] == 30_000_000

    run(scenario())


def test_what_follows_connect_in_one_segment_is_not_lost(run: Run) -> None:
    async def scenario() -> None:
        async with other_host(bytes.upper) as port, forward_proxy("listed", (f"127.0.0.1:{port}",)) as world:
            reader, writer = await world.connect()
            writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\nhello".encode())
            writer.write_eof()
            assert (await reader.read()).endswith(b"\r\n\r\nHELLO")
            writer.close()

    run(scenario())


def test_a_request_in_absolute_form_goes_on_alone_and_without_what_is_for_the_proxy(run: Run) -> None:
    async def scenario() -> None:
        got: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, forward_proxy("listed", (f"127.0.0.1:{port}",)) as world:
            here = f"127.0.0.1:{port}"
            request = f"GET http://{here}/a?b HTTP/1.1\r\nHost: {here}\r\nProxy-Authorization: secret\r\nX: y\r\n\r\n"
            assert (await world.ask(request.encode())).startswith(b"HTTP/1.1 204 ")
        assert got == [f"GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX: y\r\nConnection: close\r\n\r\n".encode()]

    run(scenario())


@pytest.mark.parametrize(
    ("request_line", "headers", "passed_on"),
    [
        ("GET http://HERE/a HTTP/1.1", "Host: internal.example", "GET /a HTTP/1.1\r\nHost: HERE"),
        ("GET http://HERE/a HTTP/1.0", "X: y", "GET /a HTTP/1.0\r\nHost: HERE\r\nX: y"),
        ("GET http://HERE?b=/c HTTP/1.1", "Host: HERE", "GET /?b=/c HTTP/1.1\r\nHost: HERE"),
        (
            "GET http://HERE HTTP/1.1",
            "Connection: X-One, X-Two\r\nX-One: 1\r\nx-two: 2\r\nX: y",
            "GET / HTTP/1.1\r\nHost: HERE\r\nX: y",
        ),
        (
            "GET http://HERE/ HTTP/1.1",
            "Connection: Content-Length\r\nContent-Length: 0",
            "GET / HTTP/1.1\r\nHost: HERE\r\nContent-Length: 0",
        ),
    ],
)
def test_what_goes_on_says_what_the_rule_was_asked_for(run: Run, request_line: str, headers: str, passed_on: str) -> None:
    async def scenario() -> None:
        async with other_host(lambda got: got) as port, forward_proxy("listed", (f"127.0.0.1:{port}",)) as world:
            here = f"127.0.0.1:{port}"
            reader, writer = await world.connect()
            writer.write(f"{request_line}\r\n{headers}\r\n\r\n".replace("HERE", here).encode())
            writer.write_eof()
            assert await reader.read() == f"{passed_on}\r\nConnection: close\r\n\r\n".replace("HERE", here).encode()
            writer.close()

    run(scenario())


@pytest.mark.parametrize(
    "line", ["Proxy-Authorization : c2VjcmV0", "X: y\r\nProxy-Authorization: Basic\r\n c2VjcmV0", "nonsense"]
)
def test_no_header_that_is_not_understood_goes_on(run: Run, line: str) -> None:
    async def scenario() -> None:
        async with other_host(lambda got: got) as port, forward_proxy("listed", (f"127.0.0.1:{port}",)) as world:
            answer = await world.ask(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 400 ") and b"c2VjcmV0" not in answer
            assert world.tunnels.counts()["tunnels"] == 0

    run(scenario())


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..b", "."])
def test_a_name_that_no_host_can_have_is_told_so(run: Run, host: str) -> None:
    async def scenario() -> None:
        async with forward_proxy("tunnel") as world:
            assert (await world.ask(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())).startswith(b"HTTP/1.1 502 ")
            assert world.door.unwelcome == 1

    run(scenario())


def test_calls_to_kms_in_absolute_form_are_calls(run: Run) -> None:
    async def scenario() -> None:
        async with forward_proxy() as world:
            reader, writer = await world.connect()
            for path in ("/", "/again"):
                writer.write(f"POST http://{KMS}{path} HTTP/1.1\r\nHost: {KMS}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 ")
            writer.write(f"GET http://example.org/ HTTP/1.1\r\nHost: {KMS}\r\nConnection: close\r\n\r\n".encode())
            await reader.read()
            writer.close()
            assert [(raw.target, raw.origin.topology, raw.fault and raw.fault.status) for raw in world.seen] == [
                (b"/", "forward-proxy", None),
                (b"/again", "forward-proxy", None),
                (b"http://example.org/", "forward-proxy", 403),
            ]

    run(scenario())


@pytest.mark.parametrize("host", ["sts.us-east-1.amazonaws.com", "sts.amazonaws.com"])
@pytest.mark.parametrize(
    ("answers_sts", "listed", "status"),
    [(True, (), 200), (False, (), 403), (True, ("sts.amazonaws.com:80", "sts.us-east-1.amazonaws.com:80"), 403)],
)
def test_calls_to_sts_are_calls_where_it_is_answered_here_and_not_listed(
    run: Run, host: str, answers_sts: bool, listed: tuple[str, ...], status: int
) -> None:
    async def scenario() -> None:
        async with forward_proxy("refuse", listed, answers_sts=answers_sts) as world:
            message = f"POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            assert (await world.ask(message.encode())).startswith(b"HTTP/1.1 %d " % status)
            assert [(raw.target, raw.origin.topology) for raw in world.seen] == [(b"/", "forward-proxy")] * (status == 200)

    run(scenario())


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST https://example.org/ HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT example.org HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT example.org:99999 HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT a b:443 HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"CONNECT example.org:443\n\n", b"400"),
        (f"CONNECT {KMS}.evil.example:443 HTTP/1.1\r\n\r\n".encode(), b"403"),
        (f"GET http://{KMS}:8080/ HTTP/1.1\r\n\r\n".encode(), b"403"),
    ],
)
def test_what_is_refused(run: Run, message: bytes, status: bytes) -> None:
    async def scenario() -> None:
        async with forward_proxy() as world:
            assert (await world.ask(message)).startswith(b"HTTP/1.1 " + status)
            assert world.seen == []
            assert world.door.unwelcome == 1

    run(scenario())


def test_no_tunnel_leads_back_to_keytrail_or_to_this_host_unlisted(run: Run) -> None:
    async def scenario() -> None:
        async with forward_proxy("tunnel") as world:
            back = await world.ask(f"CONNECT 127.0.0.1:{world.port} HTTP/1.1\r\n\r\n".encode())
            assert b"lead back to keytrail" in back
            for host in (
                "127.0.0.1:1",
                "[::1]:1",
                "169.254.169.254:80",
                "[fd00:ec2::254]:80",
                "[::ffff:127.0.0.1]:1",
                "0.0.0.0:1",
            ):
                assert b"403" in (await world.ask(f"CONNECT {host} HTTP/1.1\r\n\r\n".encode()))[:12], host

    run(scenario())


def test_a_listener_on_every_address_is_known_by_any_of_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(tunnel, "_is_of_this_host", lambda address: str(address) == "192.0.2.1")
        async with forward_proxy("tunnel", address="0.0.0.0") as world:  # noqa: S104 - that is what is tried
            back = await world.ask(f"CONNECT 192.0.2.1:{world.port} HTTP/1.1\r\n\r\n".encode())
            assert b"lead back to keytrail" in back

    run(scenario())


def test_other_services_of_this_host_are_reached_by_none_of_its_addresses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(tunnel, "_is_of_this_host", lambda address: str(address) == "192.0.2.1")
        async with forward_proxy("tunnel") as world:
            assert b"only where they are listed" in await world.ask(b"CONNECT 192.0.2.1:9 HTTP/1.1\r\n\r\n")

    run(scenario())


@pytest.mark.parametrize(("address", "is_here"), [("127.0.0.1", True), ("127.8.8.8", True), ("203.0.113.1", False)])
def test_which_addresses_this_host_has(address: str, is_here: bool) -> None:
    assert tunnel._is_of_this_host(ipaddress.ip_address(address)) is is_here


def test_a_slow_head_and_a_large_one_are_ended(run: Run) -> None:
    async def scenario() -> None:
        async with forward_proxy(greeting_s=0.2) as world:
            assert await world.ask(b"CONNECT exam") == b""
            reader, writer = await world.connect()
            writer.write(b"CONNECT example.org:443 HTTP/1.1\r\nX: " + b"x" * 100_000)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
            assert world.door.unwelcome == 2

    run(scenario())


def test_who_comes_only_to_see_whether_somebody_is_there_is_no_trouble(run: Run) -> None:
    async def scenario() -> None:
        async with forward_proxy() as world:
            (await world.connect())[1].close()
            reader, writer = await world.connect()
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            assert world.door.unwelcome == 0

    run(scenario())


@pytest.mark.parametrize("header", [b"PROXY TCP4 198.51.100.7 192.0.2.1 1 2\r\n", b""])
def test_the_proxy_protocol_is_required_of_the_proxies_that_speak_it(run: Run, header: bytes) -> None:
    async def scenario() -> None:
        async with forward_proxy(proxied=TrustedNetworks(["127.0.0.0/8"])) as world:
            message = header + f"GET http://{KMS}/ HTTP/1.1\r\nHost: {KMS}\r\nConnection: close\r\n\r\n".encode()
            answer = await world.ask(message)
            assert (answer[:13], len(world.seen)) == ((b"HTTP/1.1 200 ", 1) if header else (b"", 0))
            if header:
                assert (world.seen[0].origin.peer, world.seen[0].origin.claimed_peer) == ("127.0.0.1", "198.51.100.7")

    run(scenario())


@pytest.mark.parametrize(
    ("host", "port", "is_listed"),
    [
        ("example.org", 443, True),
        ("example.org", 80, False),
        ("www.example.org", 443, False),
        ("a.example.com", 8443, True),
        ("a.b.example.com", 8443, True),
        ("example.com", 8443, False),
        ("aexample.com", 8443, False),
        ("a.example.com", 443, False),
        ("::1", 443, True),
    ],
)
def test_the_list_of_other_hosts(host: str, port: int, is_listed: bool) -> None:
    listed = ["Example.org", "*.example.com:8443", "[::1]"]
    assert OtherHosts("listed", listed).allows(host, port) is is_listed
    assert OtherHosts("tunnel", listed).allows(host, port)
    assert not OtherHosts("refuse", listed).allows(host, port)


@pytest.mark.parametrize(
    "entry", ["", "*", "a b", "example.org:", "example.org:0", "example.org:70000", "https://example.org", "a.*.b"]
)
def test_what_is_no_entry_of_the_list(entry: str) -> None:
    with pytest.raises(SetupError, match="forward_listed"):
        OtherHosts("listed", [entry])
