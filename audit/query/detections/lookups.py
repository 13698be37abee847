"""What rules need of an address or a user agent and SQL cannot tell. Pure."""

from __future__ import annotations

import ipaddress
import re

_COMMENT = re.compile(r"\([^()]*\)")
#: Parts of an AWS SDK's user agent that differ from call to call, or say nothing of the client.
_NOISE = frozenset(("api", "cfg", "ft", "m", "md", "ua"))
#: Parts whose value, without its version, says what the client is.
_TELLING = frozenset(("app", "exec-env", "lang", "os"))


def network_of(source: str) -> str:
    """The network of an address: of IPv4 the /24, of IPv6 the /64; a service's name is itself."""
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(source.partition("%")[0])  # without a zone
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ipaddress.ip_network(f"{address}/{24 if address.version == 4 else 64}", strict=False))


def family_of(user_agent: str) -> str:
    """The user agent without versions, comments, and what differs from call to call: ``Boto3 os/linux lang/python Botocore``."""
    words = []
    for word in _COMMENT.sub(" ", user_agent).split():
        name, _, value = word.partition("/")
        kind = name.lower()
        if kind in _TELLING and value:
            words.append(f"{name}/{value.split('#')[0]}")
        elif kind not in _NOISE:
            words.append(name)
    return " ".join(dict.fromkeys(words))
