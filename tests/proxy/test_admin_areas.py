"""What of the admin listener is open to whom, by the address of the socket."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.admin_areas import is_loopback, only_areas

PATHS = {"/health/ready": "health", "/metrics": "metrics", "/tlog/w0/checkpoint": "tlog", "/": "cloudtrail", "/x": "cloudtrail"}


async def status(path: str, peer: str | None, remote: tuple[str, ...]) -> int:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    transport = Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: (peer, 1) if name == "peername" and peer else default
    request = make_mocked_request("GET", path, transport=transport)
    assert request.remote == peer
    return (await only_areas(lambda: remote)(request, handler)).status


@pytest.mark.parametrize("path", PATHS)
async def test_another_host_may_ask_what_the_setting_names(path: str) -> None:
    for area in ("health", "metrics", "tlog", "cloudtrail"):
        assert await status(path, "192.0.2.7", (area,)) == (204 if PATHS[path] == area else 403)
        assert await status(path, "2001:db8::7", (area,)) == (204 if PATHS[path] == area else 403)
    assert await status(path, "192.0.2.7", ()) == 403


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_this_host_may_ask_everything(path: str, peer: str) -> None:
    assert await status(path, peer, ()) == 204


@pytest.mark.parametrize("address", [None, "", "unknown", "127.0.0.1.evil", "::ffff:192.0.2.7", "::"])
def test_what_is_not_loopback_is_another_host(address: str | None) -> None:
    assert not is_loopback(address)
