"""From a name to addresses: by the system, by nameservers of our own, or as set.

Where the clients' DNS sends the names of real KMS to this proxy, the system's resolver would send the proxy to itself:
`NameserverResolver` and `StaticResolver` are for that, and `is_own` notices when neither is set.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import aiodns
import pycares

from proxy.backends.aws.transport import NotSent
from proxy.errors import SetupError

MIN_TTL_S, MAX_TTL_S = 1, 300
STALE_S = 3_600  # for so long behind its end an answer is good while no nameserver answers
ASK_AGAIN_S = 5  # how often they are asked meanwhile
MAX_NAMES = 1_000
_NO_SUCH_NAME = frozenset({aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a name leads: an IP address as text and, where it is set, a port that goes before the endpoint's."""

    host: str
    port: int | None = None


class Resolver(Protocol):
    """Knows the addresses of names."""

    async def resolve(self, host: str) -> Sequence[Address]:
        """The addresses of `host`, IPv4 and IPv6, at least one, in the order in which to try them.

        Raises NotSent. May be called concurrently; runs in a task.
        """
        ...

    async def close(self) -> None: ...


class SystemResolver:
    """As the host resolves names (nsswitch.conf, /etc/hosts), in a thread of the loop's executor; nothing is cached here."""

    async def resolve(self, host: str) -> Sequence[Address]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NotSent(host, f"the name could not be resolved ({getattr(error, 'strerror', None) or error})") from error
        return [Address(str(sockaddr[0])) for _, _, _, _, sockaddr in found]

    async def close(self) -> None:
        pass


class StaticResolver:
    """Names with set addresses; every other is for `otherwise`, which it owns.

    `hosts` is name → ``address``, ``address:port`` or ``[address]:port``. Raises SetupError for anything else.
    """

    def __init__(self, hosts: Mapping[str, str], otherwise: Resolver) -> None:
        self._hosts = {_normal(name): (parse_address(text),) for name, text in hosts.items()}
        self._otherwise = otherwise

    async def resolve(self, host: str) -> Sequence[Address]:
        return self._hosts.get(_normal(host)) or await self._otherwise.resolve(host)

    async def close(self) -> None:
        await self._otherwise.close()


@dataclass(slots=True)
class _Known:
    addresses: Sequence[Address]
    until: float  # by the clock: when to ask again
    at_most: float  # and until when it may stand in if there is no answer then


class NameserverResolver:
    """Asks nameservers of our own, each ``address``, ``address:port`` or ``[address]:port``; no hosts file, no search domain.

    An answer is kept for its TTL, but between 1 and 300 s. If then no nameserver answers, the last good answer stands in for up
    to an hour, and they are asked again every 5 s; that a name does not exist is an answer, and is believed at once.
    Nameservers are tried in their order, `tries` times, each for `timeout_s` or (later rounds) longer. `clock` is in seconds.
    """

    def __init__(
        self,
        nameservers: Sequence[str],
        *,
        timeout_s: float = 1.0,
        tries: int = 2,
        clock: Callable[[], float] | None = None,
    ) -> None:
        servers = [_server(parse_address(text)) for text in nameservers]
        if not servers:
            raise SetupError("at least one nameserver is needed")
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self._servers = servers
        self._timeout_s = timeout_s
        self._tries = tries
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[Sequence[Address]]] = {}

    async def resolve(self, host: str) -> Sequence[Address]:
        name = _normal(host)
        if _is_address(name):
            return (Address(name),)
        known = self._known.get(name)
        if known is not None and self._clock() < known.until:
            return known.addresses
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = self._loop.create_task(self._ask(name))
            asking.add_done_callback(lambda task: self._asked(name, task))
        return await asyncio.shield(asking)  # who gives up must not spoil the answer for others

    async def close(self) -> None:
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _asked(self, name: str, task: asyncio.Task[Sequence[Address]]) -> None:
        del self._asking[name]
        if not task.cancelled():
            task.exception()  # which whoever waits has too, if anyone still does

    async def _ask(self, name: str) -> Sequence[Address]:
        # One c-ares channel for each question, since a channel has a cache of its own that knows nothing of our bounds.
        async with aiodns.DNSResolver(self._servers, self._loop, timeout=self._timeout_s, tries=self._tries) as dns:
            answers = await asyncio.gather(dns.query_dns(name, "A"), dns.query_dns(name, "AAAA"), return_exceptions=True)
        records = [record for answer in answers if not isinstance(answer, BaseException) for record in answer.answer]
        addresses = tuple(
            Address(record.data.addr)
            for record in records
            if isinstance(record.data, (pycares.ARecordData, pycares.AAAARecordData))
        )
        now = self._clock()
        if addresses:
            until = now + min(max(min(record.ttl for record in records), MIN_TTL_S), MAX_TTL_S)
            self._known.pop(name, None)  # the newest stand last
            self._known[name] = _Known(addresses, until, until + STALE_S)
            if len(self._known) > MAX_NAMES:
                del self._known[next(iter(self._known))]
            return addresses
        nameservers = ", ".join(self._servers)
        failure = next((a for a in answers if isinstance(a, BaseException) and _code(a) not in _NO_SUCH_NAME), None)
        if failure is None:
            self._known.pop(name, None)
            raise NotSent(name, f"the name is not known to the nameservers {nameservers}")
        known = self._known.get(name)
        if known is not None and now < known.at_most:
            known.until = now + ASK_AGAIN_S
            return known.addresses
        raise NotSent(
            name,
            f"the nameservers {nameservers} gave no answer ({failure.args[-1] if failure.args else failure})",
            timed_out=_code(failure) == aiodns.error.ARES_ETIMEOUT,
        ) from failure


def parse_address(text: str) -> Address:
    """``address``, ``address:port`` or ``[address]:port``. Raises SetupError."""
    host, port = text, None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        has_port = bool(rest)
        if not bracket or (has_port and not rest.startswith(":")):
            raise SetupError(f"{text!r} is no address: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT")
        port = rest[1:] if has_port else None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not _is_address(host) or (port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16)):
        raise SetupError(f"{text!r} is no address: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT")
    return Address(host, None if port is None else int(port))


def is_own(host: str, port: int, own: Collection[tuple[str, int]]) -> bool:
    """Whether (`host`, `port`) is one of the `own` listeners, where ``0.0.0.0`` and ``::`` mean every address of this machine."""
    address = ipaddress.ip_address(host)
    for own_host, own_port in own:
        if own_port != port:
            continue
        listens = ipaddress.ip_address(own_host)
        if listens == address or (listens.is_unspecified and _is_local(address)):
            return True
    return False


def _is_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether `address` is this machine's: then the kernel would call from the address that it calls. Nothing is sent."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return bool(probe.getsockname()[0] == str(address))
    except OSError:  # no route there
        return False


def _normal(host: str) -> str:
    return host.rstrip(".").lower()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _server(address: Address) -> str:
    """As c-ares reads it."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port or 53}"


def _code(error: BaseException) -> int | None:
    return error.args[0] if isinstance(error, aiodns.error.DNSError) and error.args else None
