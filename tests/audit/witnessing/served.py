"""A witness that is really served, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from audit.checkpoint import VerifierKey
from audit.witnessing.memory import Memory
from audit.witnessing.server import WitnessServer
from audit.witnessing.witness import Witness

NOW_S = 1_800_000_000.0


class Served:
    """A witness that is served at `url`, from `start` to `stop`; again at the same port after that."""

    def __init__(
        self,
        folder: Path,
        logs: Sequence[VerifierKey],
        name: str = "witness.example/1",
        now_s: Callable[[], float] = lambda: NOW_S,
    ) -> None:
        if not folder.exists():
            Memory.create(folder, name, "2026-01-02T03:04:05Z")
        self.memory = Memory(folder)
        self.witness = Witness(self.memory, {log.name: [key for key in logs if key.name == log.name] for log in logs}, now_s)
        self.server = WitnessServer(self.witness)
        self.host, self.port = "127.0.0.1", 0

    async def start(self) -> None:
        self.host, self.port = await self.server.start(self.host, self.port)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def stop(self) -> None:
        await self.server.stop()
        self.memory.close()
