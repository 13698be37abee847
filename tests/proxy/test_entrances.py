"""The listeners as one: what new settings change for the connections to come."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proxy.domain import RawRequest, RawResponse
from proxy.entrances import Entrances
from proxy.listeners.reverse import Limits, Listener
from proxy.settings import Settings
from tests.integration.components.ports import free_ports

HEADER = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n"
CALL = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def test_networks_that_are_not_trusted_any_more_are_not_believed_after_a_reload(tmp_path: Path) -> None:
    seen: list[RawRequest] = []

    async def walk(raw: RawRequest) -> RawResponse:
        seen.append(raw)
        return RawResponse(200 if raw.fault is None else 400, b"{}", "id-1")

    (port,) = free_ports(1)
    settings = Settings(data=tmp_path, listen=f"127.0.0.1:{port}", proxy_protocol=True, trusted_networks=("127.0.0.0/8",))
    entrances = Entrances(settings, {"listen": port}, Listener(walk, Limits(4_096, 5.0, 5.0)))
    await entrances.open()

    async def ask(sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    try:
        assert b" 200 " in await ask(HEADER + CALL)
        assert [raw.origin.claimed_peer for raw in seen] == ["198.51.100.7"]
        entrances.reload(settings.model_copy(update={"trusted_networks": ("192.0.2.0/24",)}))
        assert b" 200 " in await ask(CALL)
        assert [raw.origin.claimed_peer for raw in seen] == ["198.51.100.7", None]
        assert b" 200 " not in await ask(HEADER + CALL)
        assert all(raw.fault is not None for raw in seen[2:])
    finally:
        await entrances.close(1.0)
