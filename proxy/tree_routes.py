"""The logs' trees on the admin listener: `GET /tlog/LOG/…`, by C2SP tlog-tiles.

Hashes and checkpoints hold nothing secret. Entries are the records themselves: they are given only where the settings say so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from audit.errors import AuditError
from audit.instance import Instance
from audit.served_tree import EntryTooLong, find_resource, is_of_entries

_log = logging.getLogger(__name__)
_FOR_GOOD = "max-age=31536000, immutable"


def add_tree_routes(app: web.Application, data: Path, gives_entries: Callable[[], bool]) -> None:
    """Serve the trees of the instance in `data`."""

    async def give(request: web.Request) -> web.Response:
        log, path = request.match_info["log"], request.match_info["path"]
        if is_of_entries(path) and not gives_entries():
            return web.Response(status=403, text="Entries are not served: the setting is `tlog_entries`.\n")
        try:
            found = await asyncio.to_thread(lambda: find_resource(Instance.load(data), log, path))
        except EntryTooLong as error:
            return web.Response(status=500, text=f"{error}\n")
        except (AuditError, OSError) as error:  # what they say has paths of this host in it
            _log.error("/tlog/%s/%s: %s", log, path, error)
            return web.Response(status=500, text="It cannot be read; keytrail's own log says why.\n")
        if found is None:
            return web.Response(status=404, text="There is no such log, tile or bundle under its newest checkpoint.\n")
        if not found.is_immutable:
            return web.Response(
                body=found.body, headers={"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-cache"}
            )
        scope = "private" if is_of_entries(path) else "public"
        response = web.Response(
            body=found.body, headers={"Content-Type": "application/octet-stream", "Cache-Control": f"{scope}, {_FOR_GOOD}"}
        )
        if is_of_entries(path):
            response.enable_compression()
        return response

    app.router.add_get("/tlog/{log}/{path:.+}", give)
