"""The trees on the admin listener: statuses, headers, and who is given records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from proxy.tree_routes import add_tree_routes
from tests.audit.forge import Forge, line


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    made = Forge.create(tmp_path)
    made.grow(300)
    made.seal()
    return made


@asynccontextmanager
async def asking(forge: Forge, *, entries: bool = False) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    app = web.Application()
    add_tree_routes(app, forge.instance.data, lambda: entries)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_what_changes_is_not_kept_and_what_does_not_is_kept_for_good(forge: Forge) -> None:
    async with asking(forge) as client:
        checkpoint = await client.get("/tlog/admin/checkpoint")
        assert (checkpoint.status, await checkpoint.text()) == (200, forge.latest)
        assert checkpoint.headers["Cache-Control"] == "no-cache"
        assert checkpoint.headers["Content-Type"] == "text/plain; charset=utf-8"
        tile = await client.get("/tlog/admin/tile/0/000")
        assert (tile.status, len(await tile.read())) == (200, 8_192)
        assert tile.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert tile.headers["Content-Type"] == "application/octet-stream"


async def test_records_are_given_by_setting_and_kept_by_no_shared_cache(forge: Forge) -> None:
    async with asking(forge) as client:
        refused = await client.get("/tlog/admin/tile/entries/000")
        assert refused.status == 403 and "`tlog_entries`" in await refused.text()
    async with asking(forge, entries=True) as client:
        bundle = await client.get("/tlog/admin/tile/entries/001.p/44")
        assert bundle.status == 200 and bundle.headers["Cache-Control"].startswith("private, ")
        assert (await bundle.read()).endswith(line(299)[:-1])
        plain = await client.get("/tlog/admin/tile/entries/001.p/44", headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain.headers and await plain.read() == await bundle.read()


@pytest.mark.parametrize("path", ["admin/tile/0/001", "admin/tile/0/x", "w0/checkpoint", "admin/latest", "admin/%2e%2e/x"])
async def test_what_is_not_there(forge: Forge, path: str) -> None:
    async with asking(forge, entries=True) as client:
        assert (await client.get(URL(f"/tlog/{path}", encoded=True))).status == 404


async def test_a_bundle_with_a_record_that_is_too_long_says_which(forge: Forge, caplog: pytest.LogCaptureFixture) -> None:
    forge.append(line(300, word="w" * 70_000))
    forge.seal()
    async with asking(forge, entries=True) as client:
        found = await client.get("/tlog/admin/tile/entries/001.p/45")
        assert found.status == 500
        assert "record 300 of admin has 70" in await found.text()
        assert (await client.get("/tlog/admin/tile/entries/001.p/44")).status == 200
        (forge.checkpoints / "leaves").unlink()
        damaged = await client.get("/tlog/admin/tile/0/001.p/45")
        assert damaged.status == 500 and await damaged.text() == "It cannot be read; keytrail's own log says why.\n"
        assert "leaves: it is missing; it is derived" in caplog.text
