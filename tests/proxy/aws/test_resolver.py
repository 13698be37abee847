"""Names to addresses, with a nameserver on loopback that says what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from proxy.backends.aws.resolver import (
    ASK_AGAIN_S,
    MAX_TTL_S,
    STALE_S,
    Address,
    NameserverResolver,
    StaticResolver,
    SystemResolver,
    is_own,
    parse_address,
)
from proxy.backends.aws.transport import NotSent
from proxy.errors import SetupError

NAME = "kms.us-east-1.amazonaws.com"
A, CNAME, AAAA = 1, 5, 28
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound to it


@dataclass
class Nameserver(asyncio.DatagramProtocol):
    """Answers each question of `zone`: (name, type) → (type, ttl, value) records. `code` is for all other names."""

    zone: dict[tuple[str, int], list[tuple[int, int, str]]] = field(default_factory=dict)
    code: int = NXDOMAIN
    asked: list[tuple[str, int]] = field(default_factory=list)
    is_silent: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        labels, at = [], 12
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode().lower())
            at += 1 + length
        name, (kind,) = ".".join(labels), struct.unpack_from("!H", data, at + 1)
        self.asked.append((name, kind))
        if self.is_silent:
            return
        records = self.zone.get((name, kind), [])
        known = bool(records) or any(each == name for each, _ in self.zone)
        head = data[:2] + struct.pack("!HHHHH", 0x8180 | (NOERROR if known else self.code), 1, len(records), 0, 0)
        self.transport.sendto(head + data[12 : at + 5] + b"".join(_record(*record) for record in records), addr)


def _record(kind: int, ttl: int, value: str) -> bytes:
    if kind == CNAME:
        octets = b"".join(bytes([len(label)]) + label.encode() for label in value.split(".")) + b"\0"
    else:
        octets = ipaddress.ip_address(value).packed
    return b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, ttl, len(octets)) + octets


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def nameserver() -> AsyncIterator[tuple[Nameserver, str]]:
    """One, and its address and port."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(Nameserver, ("127.0.0.1", 0))
    try:
        host, port = transport.get_extra_info("sockname")
        yield server, f"{host}:{port}"
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def resolver(*nameservers: str, clock: Clock | None = None, timeout_s: float = 5.0) -> AsyncIterator[NameserverResolver]:
    asks = NameserverResolver(nameservers, timeout_s=timeout_s, tries=1, clock=clock)
    try:
        async with asyncio.timeout(20.0):
            yield asks
    finally:
        await asks.close()


async def test_both_families_are_asked_for_at_the_port_that_is_set() -> None:
    async with nameserver() as (server, where), resolver(where) as asks:
        server.zone = {(NAME, A): [(A, 60, "10.0.0.1"), (A, 60, "10.0.0.2")], (NAME, AAAA): [(AAAA, 60, "fd00::1")]}
        assert await asks.resolve(NAME) == (Address("10.0.0.1"), Address("10.0.0.2"), Address("fd00::1"))
        assert sorted(server.asked) == [(NAME, A), (NAME, AAAA)]


async def test_one_family_is_enough() -> None:
    async with nameserver() as (server, where), resolver(where) as asks:
        server.zone = {(NAME, AAAA): [(AAAA, 60, "fd00::1")]}
        assert await asks.resolve(NAME) == (Address("fd00::1"),)


async def test_an_alias_is_followed() -> None:
    async with nameserver() as (server, where), resolver(where) as asks:
        server.zone = {(NAME, A): [(CNAME, 60, "kms.test"), (A, 60, "10.0.0.1")]}
        assert await asks.resolve(NAME.upper() + ".") == (Address("10.0.0.1"),)


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(0, 1), (60, 60), (86_400, MAX_TTL_S)])
async def test_an_answer_is_kept_for_its_time_within_bounds(ttl_s: int, kept_s: int) -> None:
    clock = Clock()
    async with nameserver() as (server, where), resolver(where, clock=clock) as asks:
        server.zone = {(NAME, A): [(A, ttl_s, "10.0.0.1")]}
        await asks.resolve(NAME)
        server.zone = {(NAME, A): [(A, ttl_s, "10.0.0.2")]}
        clock.now += kept_s - 0.5
        assert await asks.resolve(NAME) == (Address("10.0.0.1"),)
        clock.now += 1.0
        assert await asks.resolve(NAME) == (Address("10.0.0.2"),)


async def test_who_asks_at_once_shares_one_question() -> None:
    async with nameserver() as (server, where), resolver(where) as asks:
        server.zone = {(NAME, A): [(A, 60, "10.0.0.1")]}
        given_up = asyncio.create_task(asks.resolve(NAME))
        others = [asyncio.create_task(asks.resolve(NAME)) for _ in range(10)]
        await asyncio.sleep(0)
        given_up.cancel()
        assert await asyncio.gather(*others) == [(Address("10.0.0.1"),)] * 10
        assert len(server.asked) == 2


async def test_the_last_good_answer_stands_in_for_a_while() -> None:
    clock = Clock()
    async with nameserver() as (server, where), resolver(where, clock=clock) as asks:
        server.zone = {(NAME, A): [(A, 0, "10.0.0.1")]}
        await asks.resolve(NAME)
        server.zone, server.code = {}, SERVFAIL
        clock.now += 2.0
        asked = len(server.asked)
        assert await asks.resolve(NAME) == (Address("10.0.0.1"),)
        assert len(server.asked) > asked
        asked = len(server.asked)
        clock.now += ASK_AGAIN_S - 0.5
        assert await asks.resolve(NAME) == (Address("10.0.0.1"),)
        assert len(server.asked) == asked
        clock.now += STALE_S
        with pytest.raises(NotSent, match=f"{where} gave no answer"):
            await asks.resolve(NAME)


async def test_that_a_name_is_gone_is_believed_at_once() -> None:
    clock = Clock()
    async with nameserver() as (server, where), resolver(where, clock=clock) as asks:
        server.zone = {(NAME, A): [(A, 0, "10.0.0.1")]}
        await asks.resolve(NAME)
        server.zone = {}
        clock.now += 2.0
        for _ in range(2):
            with pytest.raises(NotSent, match="not known to the nameservers"):
                await asks.resolve(NAME)


async def test_a_nameserver_that_is_silent() -> None:
    async with nameserver() as (server, where), resolver(where, timeout_s=0.3) as asks:
        server.is_silent = True
        with pytest.raises(NotSent) as caught:
            await asks.resolve(NAME)
        assert caught.value.timed_out


async def test_the_next_nameserver_is_asked() -> None:
    async with nameserver() as (silent, first), nameserver() as (server, second), resolver(first, second, timeout_s=1.0) as asks:
        silent.is_silent = True
        server.zone = {(NAME, A): [(A, 60, "10.0.0.1")]}
        assert await asks.resolve(NAME) == (Address("10.0.0.1"),)


async def test_addresses_and_bad_names_are_not_asked_for() -> None:
    async with nameserver() as (server, where), resolver(where) as asks:
        assert await asks.resolve("10.1.2.3") == (Address("10.1.2.3"),)
        assert await asks.resolve("fd00::1") == (Address("fd00::1"),)
        with pytest.raises(NotSent):
            await asks.resolve("a" * 64 + ".test")
        assert server.asked == []


async def test_closing_while_a_question_is_open() -> None:
    async with nameserver() as (server, where):
        server.is_silent = True
        asks = NameserverResolver([where], timeout_s=10.0)
        waiting = asyncio.create_task(asks.resolve(NAME))
        while not server.asked:  # noqa: ASYNC110 - the nameserver has no event for it
            await asyncio.sleep(0)
        await asks.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_set_addresses_come_first() -> None:
    class Others:
        is_closed = False

        async def resolve(self, host: str) -> list[Address]:
            return [Address(f"else {host}")]

        async def close(self) -> None:
            self.is_closed = True

    others = Others()
    asks = StaticResolver({"KMS.Test.": "10.0.0.1:8443", "six.test": "[fd00::1]:443"}, others)
    assert await asks.resolve("kms.test") == (Address("10.0.0.1", 8443),)
    assert await asks.resolve("SIX.test.") == (Address("fd00::1", 443),)
    assert await asks.resolve("other.test") == [Address("else other.test")]
    await asks.close()
    assert others.is_closed


async def test_as_the_system_does() -> None:
    assert Address("127.0.0.1") in await SystemResolver().resolve("127.0.0.1")
    with pytest.raises(NotSent, match="could not be resolved"):
        await SystemResolver().resolve("a" * 64 + ".test")


async def test_what_the_system_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    with pytest.raises(NotSent, match=r"could not be resolved \(Name or service not known"):
        await SystemResolver().resolve("unknown.test")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.2", Address("10.0.0.2")),
        ("10.0.0.2:5353", Address("10.0.0.2", 5353)),
        ("::1", Address("::1")),
        ("[::1]", Address("::1")),
        ("[::1]:53", Address("::1", 53)),
    ],
)
def test_an_address_with_or_without_a_port(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name.test",
        "10.0.0.2:",
        "10.0.0.2:0",
        "10.0.0.2:65536",
        "10.0.0.2:-1",
        "10.0.0.256",
        "[::1",
        "[::1]53",
        "[]:53",
        "10.0.0.2:²",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(SetupError):
        parse_address(text)


async def test_no_nameserver_is_a_fault_in_the_settings() -> None:
    for nameservers in ([], ["dns.test"], ["10.0.0.2", ""]):
        with pytest.raises(SetupError):
            NameserverResolver(nameservers)


@pytest.mark.parametrize(
    ("host", "port", "own", "expected"),
    [
        ("10.0.0.1", 443, {("10.0.0.1", 443)}, True),
        ("10.0.0.1", 443, {("10.0.0.1", 8443)}, False),
        ("10.0.0.1", 443, {("10.0.0.2", 443)}, False),
        ("fd00:0::1", 443, {("fd00::1", 443)}, True),
        ("127.0.0.1", 443, {(EVERYWHERE, 443)}, True),
        ("127.8.8.8", 443, {(EVERYWHERE, 443)}, True),
        ("::1", 443, {("::", 443)}, True),
        ("192.0.2.1", 443, {(EVERYWHERE, 443), ("::", 443)}, False),
        ("192.0.2.1", 443, set(), False),
    ],
)
def test_what_is_our_own(host: str, port: int, own: set[tuple[str, int]], expected: bool) -> None:
    assert is_own(host, port, own) is expected


def test_every_address_of_this_machine_is_our_own_where_we_listen_on_all() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent; it asks the kernel which address it would call from
        except OSError:
            pytest.skip("this machine has no address but loopback")
        assert is_own(probe.getsockname()[0], 443, {(EVERYWHERE, 443)})
