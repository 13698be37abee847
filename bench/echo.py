"""The floor: an aiohttp application that reads a request and answers a fixed JSON document. No work at all."""

from __future__ import annotations

import sys

from aiohttp import web

_BODY = b'{"CiphertextBlob":"' + b"A" * 248 + b'","Plaintext":"' + b"A" * 44 + b'","KeyId":"' + b"a" * 75 + b'"}'


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=_BODY, content_type="application/x-amz-json-1.1")


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/", answer)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
