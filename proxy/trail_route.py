"""CloudTrail's API on the admin listener: `POST /` is handed to the process that answers it (`proxy.cloudtrail`), as it came.

Nothing is decided here but limits: who calls, whether they may, and what is recorded, that process decides. What does not reach
it whole is no call: a body that does not arrive in time, or more of them at once than can be held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing

import orjson
from aiohttp import web

from proxy.cloudtrail.place import PEER, connect
from proxy.settings import Settings

_log = logging.getLogger(__name__)
_AT_ONCE = 64
_ANSWER_S = 60.0
#: Headers of the connection, and those that this process says anew.
_NOT_HANDED_OVER = frozenset(
    [b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"expect", b"te", b"trailer", b"upgrade", PEER]
)
_HANDED_BACK = frozenset(["content-type", "x-amzn-requestid", "x-keytrail-receipt"])


def add_trail_route(app: web.Application, settings: Callable[[], Settings]) -> None:
    """Hand `POST /` of `app` over, while `settings` say so."""
    under_way = 0

    async def hand_over(request: web.Request) -> web.Response:
        nonlocal under_way
        if not settings().cloudtrail_api:
            return _refusal(404, "UnknownOperationException", "CloudTrail's API is not served: the setting is `cloudtrail_api`.")
        if under_way >= _AT_ONCE:
            return _refusal(503, "ServiceUnavailable", "Too many calls at once.")
        under_way += 1
        try:
            async with asyncio.timeout(settings().request_timeout_s):
                body = await _read(request, settings().max_body_bytes)
            async with asyncio.timeout(_ANSWER_S):
                return await _ask(settings(), request, body)
        except TimeoutError:
            return _refusal(408, "RequestTimeout", "The request was not received, or not answered, in time.")
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            _log.error("CloudTrail's API does not answer: %s", error)
            return _refusal(503, "ServiceUnavailable", "The process that answers is not there.")
        finally:
            under_way -= 1

    app.router.add_post("/", hand_over)


async def _read(request: web.Request, most: int) -> bytes:
    """The body; of one that is larger than it may be, so much that this shows."""
    body = b""
    while len(body) <= most and (piece := await request.content.read(most + 1 - len(body))):
        body += piece
    return body


async def _ask(settings: Settings, request: web.Request, body: bytes) -> web.Response:
    """The answer of the process. Raises OSError, asyncio.IncompleteReadError, ValueError where there is none."""
    lines = [
        f"POST {request.raw_path} HTTP/1.1".encode("utf-8", "surrogateescape"),
        PEER + b": " + (request.remote or "unknown").encode(),
    ]
    lines += [name + b": " + value for name, value in request.raw_headers if name.lower() not in _NOT_HANDED_OVER]
    lines += [b"Content-Length: %d" % len(body), b"Connection: close"]
    reader, writer = await connect(settings.data)
    with closing(writer):
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        told = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        answer = await reader.readexactly(int(told.get("content-length", "")))
    headers = {name: value for name, value in told.items() if name in _HANDED_BACK}
    return web.Response(status=int(head[0].split()[1]), body=answer, headers=headers)


def _refusal(status: int, code: str, message: str) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps({"__type": code, "message": message}), content_type="application/x-amz-json-1.1"
    )
