"""What the supervisor and a worker tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from proxy.settings import Settings

#: The settings that say where to listen.
LISTENERS = ("listen", "tls_listen", "forward_listen")


@dataclass(frozen=True, slots=True)
class Status:
    """What a worker tells the supervisor: whether it is ready, and if not, why; `failed` means that a person has to look."""

    ready: bool
    reason: str | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What a worker needs to know. `ports` are the real ones, also where a setting says 0; by the names of `LISTENERS`."""

    settings: Settings
    log: str
    ports: Mapping[str, int]
    syncing: bool = True

    def encode(self) -> bytes:
        """As a line, for the worker's pipe: it may hold a secret."""
        document = {
            "settings": self.settings.model_dump(mode="json"),
            "log": self.log,
            "ports": dict(self.ports),
            "syncing": self.syncing,
        }
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def decode(cls, line: bytes) -> WorkerPlan:
        document = orjson.loads(line)
        return cls(Settings(**document["settings"]), document["log"], document["ports"], document["syncing"])
