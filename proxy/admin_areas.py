"""Who may ask what of the admin listener: whoever is on this host, all of it; others, the areas that `admin_remote` names."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

#: By the first part of the path; the rest is CloudTrail's API.
_AREAS = {"health": "health", "metrics": "metrics", "tlog": "tlog"}


def only_areas(remote: Callable[[], Collection[str]]) -> Middleware:
    """A middleware; `remote` are the areas that are open to other hosts now."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        area = _AREAS.get(request.path.split("/")[1], "cloudtrail")
        if area not in remote() and not is_loopback(request.remote):
            return web.Response(status=403, text=f"Not for other hosts: `{area}` is not in the setting `admin_remote`.\n")
        return await handler(request)

    return check


def is_loopback(address: str | None) -> bool:
    """Whether a socket's other end is on this host, as far as the address tells."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
