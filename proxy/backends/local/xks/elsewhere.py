"""Names that callers say, and where they may lead: not to this machine, nor to its link.

A store's endpoint is a caller's word. What is set (`xks_hosts`) is the operator's, and is not asked here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from proxy.backends.aws.resolver import Address, Resolver
from proxy.backends.aws.transport import NotSent


class Elsewhere:
    """A `Resolver`: what `others` find, which it owns, but for addresses that are loopback, link-local or no host's."""

    def __init__(self, others: Resolver) -> None:
        self._others = others

    async def resolve(self, host: str) -> Sequence[Address]:
        found = [address for address in await self._others.resolve(host) if _is_elsewhere(address.host)]
        if not found:
            raise NotSent(host, "the name leads to this machine or to its link: where that is meant, set xks_hosts")
        return found

    async def close(self) -> None:
        await self._others.close()


def _is_elsewhere(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)  # getattr: IPv4 addresses have none
    known = mapped or address
    return not (known.is_loopback or known.is_link_local or known.is_unspecified or known.is_multicast)
