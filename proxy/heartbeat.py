"""What a worker writes of its own life: StartServing, a Heartbeat whenever nothing else was recorded for a while, StopServing.

So a log tells when it was being written: a silence that is longer than the interval, and that no StopServing begins, is a fault
or an outage. Each of these records names how many records the newest checkpoint covers, so that a sealer that stands still shows
too. Nothing of this is on the way of a call: a timer looks whether the log has grown. Format: docs/log-format.md, "Heartbeats".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from audit.commit import Receipt
from audit.errors import CommitFailed
from audit.record import AuditRecord
from proxy.recording import Recorder

_LONGEST_LOOK_S = 1.0


class Log(Protocol):
    """What it needs of `audit.commit.AuditLog`."""

    @property
    def records(self) -> int: ...

    def commit(self, record: AuditRecord) -> Awaitable[Receipt]: ...


class Heartbeat:
    """The heartbeats of one worker. `interval_s` is asked each time, and 0 for none; `latest` is the log's newest checkpoint."""

    def __init__(
        self, log: Log, recorder: Recorder, latest: Path, now_us: Callable[[], int], interval_s: Callable[[], float]
    ) -> None:
        self._log = log
        self._recorder = recorder
        self._latest = latest
        self._now_us = now_us
        self._interval_s = interval_s

    async def start(self) -> None:
        """The first record of this worker; before it takes calls. Raises `CommitFailed`."""
        if self._interval_s():
            await self._tell("StartServing")

    async def stop(self) -> None:
        """The last record of this worker, when no call is under way any more. A log that takes none has nothing to say."""
        if self._interval_s():
            with suppress(CommitFailed):
                await self._tell("StopServing")

    async def beat(self) -> None:
        """Write a heartbeat when the interval has passed without a record, and when it was changed; until it is cancelled."""
        seen, since_us, told_s = self._log.records, self._now_us(), self._interval_s()
        while True:
            interval_s = self._interval_s()
            await asyncio.sleep(min(_LONGEST_LOOK_S, interval_s / 4) if interval_s else _LONGEST_LOOK_S)
            now_us = self._now_us()
            if is_new := self._log.records != seen or now_us < since_us:  # or the clock was set back
                seen, since_us = self._log.records, now_us
            is_due = interval_s and not is_new and now_us - since_us >= interval_s * 1_000_000
            if is_due or self._interval_s() != told_s:  # a reader goes by the interval that was told last
                with suppress(CommitFailed):  # a poisoned log is told of elsewhere, and recovered
                    told_s = await self._tell("Heartbeat")

    async def _tell(self, event: str) -> float:
        """Gives the interval that the record tells."""
        interval_s = self._interval_s()
        details = {"intervalSeconds": interval_s, "checkpointSize": self._signed_size()}
        await self._log.commit(self._recorder.own_event(event, self._now_us(), details))
        return interval_s

    def _signed_size(self) -> int:
        """How many records the newest checkpoint covers, as it says itself; 0 where there is none."""
        with suppress(OSError, ValueError, IndexError):
            return int(self._latest.read_bytes().split(b"\n", 2)[1])
        return 0
