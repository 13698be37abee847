"""What a proxy in front says of the client: the PROXY protocol and X-Forwarded-For, believed only from trusted networks. Pure.

Source: HAProxy, "The PROXY protocol", versions 1 & 2 (proxy-protocol.txt, §2.1, §2.2); X-Forwarded-For as proxies write it: each
appends the address that it was called from, so the list is true from its right end as far as those who wrote it are trusted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from proxy.errors import ProxyError, SetupError

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

_MAX_HOPS = 32
_MAX_V1_BYTES = 107  # §2.1
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEAD_BYTES = 16
_MAX_V2_BYTES = 4_096  # §2.2 asks for 536 at least; what lies behind the addresses is skipped
_LOCAL, _PROXY = 0x20, 0x21  # version 2, and the command
_ADDRESS_BYTES = {1: 12, 2: 36, 3: 216}  # by family: IPv4, IPv6, UNIX
_V1_FAMILIES = {b"TCP4": 4, b"TCP6": 6}


class BadProxyHeader(ProxyError):
    """What stands before the first byte of a connection is no PROXY protocol header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A PROXY protocol header of `size_bytes`: the client's address, or None where it tells none (health checks)."""

    source: str | None
    size_bytes: int


class TrustedNetworks:
    """Networks whose word on a client's address is taken. Raises SetupError for what is no network."""

    def __init__(self, networks: Iterable[str]) -> None:
        try:
            self._networks = tuple(ipaddress.ip_network(network) for network in networks)
        except ValueError as error:
            raise SetupError(f"trusted_networks: {error}") from error
        self._is_trusted = lru_cache(maxsize=4_096)(self._look_up)

    def trusts(self, address: str) -> bool:
        """Whether `address` is in one of the networks."""
        return self._is_trusted(address)

    def client_of(self, peer: str, forwarded_for: Sequence[bytes]) -> str | None:
        """The client's address by the X-Forwarded-For headers of a call from `peer`: the rightmost that is not trusted itself,
        or the leftmost where all are. None where `peer` is not trusted, or the list is rubbish as far as it is read."""
        if not forwarded_for or not self.trusts(peer):
            return None
        hops = b",".join(forwarded_for).split(b",")
        client: str | None = None
        for hop in reversed(hops[-_MAX_HOPS:]):
            address = _address(hop.strip())
            if address is None:
                return None
            client = str(address)
            if not self.trusts(client):
                break
        return client

    def _look_up(self, address: str) -> bool:
        try:
            parsed = _plain(ipaddress.ip_address(address))
        except ValueError:
            return False
        return any(parsed.version == network.version and parsed in network for network in self._networks)


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """The PROXY protocol header that `data` begins with; None while it is not whole. Raises BadProxyHeader."""
    if _V2.startswith(data[: len(_V2)]):
        return _read_v2(data) if len(data) >= _V2_HEAD_BYTES else None
    if b"PROXY ".startswith(data[:6]):
        return _read_v1(data)
    raise BadProxyHeader("the connection does not begin with a PROXY protocol header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:_MAX_V1_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= _MAX_V1_BYTES or b"\n" in data:
            raise BadProxyHeader("the PROXY line has no end")
        return None
    size_bytes = len(line) + 2
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(None, size_bytes)
    family = _V1_FAMILIES.get(words[1])
    if family is None or len(words) != 6 or not all(map(_is_port, words[4:])):
        raise BadProxyHeader("the PROXY line is not as it must be")
    try:
        source, destination = (_parse(word.decode("ascii")) for word in words[2:4])
    except ValueError:
        raise BadProxyHeader("the PROXY line names no addresses") from None
    if {source.version, destination.version} != {family}:
        raise BadProxyHeader("the PROXY line names addresses of another family")
    return ProxyHeader(str(_plain(source)), size_bytes)


def _read_v2(data: bytes) -> ProxyHeader | None:
    command, family = data[12], data[13] >> 4
    length = int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY) or data[13] not in (0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32):
        raise BadProxyHeader("the PROXY header is of a version or a protocol that is not known")
    if length > _MAX_V2_BYTES:
        raise BadProxyHeader("the PROXY header is too long")
    size_bytes = _V2_HEAD_BYTES + length
    if len(data) < size_bytes:
        return None
    if command == _LOCAL or family == 0:
        return ProxyHeader(None, size_bytes)
    if length < _ADDRESS_BYTES[family]:
        raise BadProxyHeader("the PROXY header has no room for its addresses")
    if family == 3:  # a UNIX socket has a path, and no address
        return ProxyHeader(None, size_bytes)
    octets = data[16:20] if family == 1 else data[16:32]
    return ProxyHeader(str(_plain(ipaddress.ip_address(octets))), size_bytes)


def _is_port(word: bytes) -> bool:
    return word.isdigit() and len(word) <= 5 and int(word) < 1 << 16 and word == b"%d" % int(word)


def _address(hop: bytes) -> Address | None:
    """An entry of X-Forwarded-For: an address, some with a port behind it."""
    text = hop.decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return _plain(_parse(text))
    except ValueError:
        return None


def _parse(text: str) -> Address:
    """An address without a zone: that is a name of the sender's own, of any length and with any characters. Raises ValueError."""
    if "%" in text:
        raise ValueError("an address with a zone")
    return ipaddress.ip_address(text)


def _plain(address: Address) -> Address:
    """An IPv4 address that is written as IPv6 is the IPv4 address."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
