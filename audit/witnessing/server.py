"""The witness's front, HTTP by aiohttp: `POST /add-checkpoint`, `GET /DIGEST/checkpoint`. What is answered, `witness` decides.

Nobody is authenticated but the logs, by their signatures. So everything that a stranger sends is bounded: the size of a
request, the time that it may take, how many connections there are, and how many requests are worked on.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from audit.witnessing.protocol import MAX_BODY_BYTES
from audit.witnessing.witness import Answer, Witness

_log = logging.getLogger(__name__)
_MAX_CONNECTIONS = 500
_MAX_AT_WORK = 100
_THREADS = 4
_BODY_S = 10.0
_HEAD_S = 75.0  # for the next head to have come whole
_KEPT_ALIVE_S = 60.0
_SWEEP_S = 5.0
_LINGER_S = 1.0  # for a sender to see its refusal before it has sent everything

_CHECKPOINT = re.compile(r"/([0-9a-f]{64})/checkpoint")
_BUSY = Answer(503, b"too many requests at once\n")
_NOT_FOUND = Answer(404, b"there is only /add-checkpoint here, and /SHA-256-OF-AN-ORIGIN/checkpoint\n")
_NO_POST = Answer(405, b"add-checkpoint is a POST\n")
_TOO_LARGE = Answer(413, f"the request is longer than {MAX_BODY_BYTES} bytes\n".encode())
_TOO_SLOW = Answer(408, b"the request took too long\n")
_NOT_REMEMBERED = Answer(500, b"the checkpoint could not be stored\n")


class WitnessServer:
    """Serves `witness` between `start` and `stop`."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._threads = ThreadPoolExecutor(_THREADS, "witness")
        self._at_work = 0
        self._http = web.Server(
            self._handle, access_log=None, keepalive_timeout=_KEPT_ALIVE_S, lingering_time=_LINGER_S, auto_decompress=False
        )
        self._busy: set[object] = set()  # aiohttp's protocols, one a connection: those with a request under way
        self._waiting: dict[object, float] = {}  # the others, and since when they bring no head

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connection, host, port, reuse_address=True)
        self._sweeping = loop.create_task(self._sweep())
        name = self._listener.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def stop(self) -> None:
        """Take no more requests, and finish those under way."""
        self._listener.close()
        self._sweeping.cancel()
        self._http.pre_shutdown()  # ends those connections that only wait
        await self._http.shutdown(_BODY_S)
        self._threads.shutdown()

    # --- connections: aiohttp by itself takes as many as come, and waits for a head for ever

    def _connection(self) -> asyncio.Protocol:
        return self._http() if len(self._http.connections) < _MAX_CONNECTIONS else _Refusing()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.close_idle(asyncio.get_running_loop().time())

    def close_idle(self, now_s: float) -> None:
        """Close what is connected and has brought no request for too long; `now_s` of a clock that only goes forward."""
        idle = [connection for connection in self._http.connections if connection not in self._busy]
        self._waiting = {connection: self._waiting.get(connection, now_s) for connection in idle}
        for connection in idle:
            if now_s - self._waiting[connection] > _HEAD_S:
                connection.force_close()

    # --- requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._busy.add(request.protocol)
        self._waiting.pop(request.protocol, None)
        try:
            answer = await self._answer(request)
        finally:
            self._busy.discard(request.protocol)
        response = web.Response(status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type})
        if not request.content.at_eof():  # what is left of the body is not read
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> Answer:
        if request.method == "GET" and (asked := _CHECKPOINT.fullmatch(request.path)):
            return self._witness.checkpoint(asked[1])
        if request.path != "/add-checkpoint":
            return _NOT_FOUND
        if request.method != "POST":
            return _NO_POST
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_S):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        return _TOO_LARGE
        except TimeoutError:
            return _TOO_SLOW
        if self._at_work >= _MAX_AT_WORK:
            return _BUSY
        self._at_work += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._witness.add_checkpoint, bytes(body))
        except OSError:
            _log.exception("a checkpoint could not be stored, and was not cosigned")
            return _NOT_REMEMBERED
        finally:
            self._at_work -= 1


class _Refusing(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def serve(witness: Witness, host: str, port: int, announce: Callable[[str, int], None], stopping: asyncio.Event) -> None:
    """Serve until `stopping`; `announce` is told where. Raises OSError where it cannot listen."""
    server = WitnessServer(witness)
    announce(*await server.start(host, port))
    await stopping.wait()
    await server.stop()
