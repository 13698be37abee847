"""A log as a worker writes it, with its starts, heartbeats and stops, at times that are made up."""

from __future__ import annotations

import orjson

from audit.canonical import timestamp
from tests.audit.forge import Forge, line

START_S = 1_800_000_000
INTERVAL_S = 60


class Worker:
    """Writes a log as a worker does, at moments of seconds since the start."""

    def __init__(self, forge: Forge) -> None:
        self._forge = forge

    def write(
        self, at_s: float, event: str = "Encrypt", *, latency_s: float = 0, phase: str = "outcome", interval_s: int = INTERVAL_S
    ) -> None:
        record = orjson.loads(line(self._forge.records, self._forge.log, word=event, phase=phase))
        extension = record["additionalEventData"]["keytrail"]
        extension["time"] = timestamp(int((START_S + at_s) * 1_000_000))
        if latency_s:
            extension["latencyMicros"] = int(latency_s * 1_000_000)
        if event in ("StartServing", "Heartbeat", "StopServing"):
            record["serviceEventDetails"] = {"intervalSeconds": interval_s, "checkpointSize": 0}
        if event in ("StartServing", "Heartbeat", "StopServing", "RecoverLog"):
            record["eventSource"] = "keytrail"
        self._forge.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def run(self, *moments: tuple[float, str]) -> None:
        for at_s, event in moments:
            self.write(at_s, event)
