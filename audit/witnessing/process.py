"""The process that has checkpoints witnessed, beside `serve`: `python -m audit.witnessing DATA`. Its plan: `policy`, a file.

The file is read again whenever it has changed. When it is time to end, the last checkpoint is submitted once, within a few
seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from audit.companion import CountsReporter, Report, ReportCounts, Reporter, Status, read_plan
from audit.errors import AuditError
from audit.instance import Instance
from audit.policy_file import Policy
from audit.query.modesty import be_modest
from audit.witnessing.courier import Courier
from audit.witnessing.submission import open_session

_LOOK_S = 1.0
_LAST_S = 4.0


class Witnessing:
    """The couriers of all logs of the instance in `data`, by the policy in `file`. Inside an event loop."""

    def __init__(self, data: Path, file: Path, session: aiohttp.ClientSession) -> None:
        self.couriers: dict[str, Courier] = {}
        self._data = data
        self._file = file
        self._session = session
        self._text: bytes | None = None
        self._policy: Policy | None = None
        self._faults: list[str] = []

    async def step(self) -> None:
        """Read what has changed, and start what is due."""
        self._faults = []
        try:
            await self._read_policy()
        except (AuditError, OSError) as error:  # the one before stays in force
            self._faults.append(f"{self._file}: {error}")
        try:
            instance = Instance.load(self._data)
            for log in instance.logs:
                if log not in self.couriers and self._policy is not None:
                    self.couriers[log] = Courier(instance, log, self._policy, self._session)
        except (AuditError, OSError) as error:
            self._faults.append(str(error))
        for courier in self.couriers.values():
            courier.step()

    async def finish(self) -> None:
        """Wait for what runs."""
        await asyncio.gather(*(courier.finish() for courier in self.couriers.values()))

    def status(self) -> Status:
        """Ready: the newest checkpoint of every log is cosigned by the quorum. What else is wrong is told too."""
        now_s = time.time()
        grave = self._faults + [fault for courier in self.couriers.values() for fault in courier.grave_faults(now_s)]
        slight = [fault for courier in self.couriers.values() for fault in courier.slight_faults()]
        return Status(not grave, "; ".join([*grave, *slight]) or None)

    def counts(self) -> list[list[str | int]]:
        """For the metrics: since when the quorum stands by the newest cosigned checkpoint of each log."""
        return [["cosigned_timestamp_seconds", log, courier.cosigned_s] for log, courier in self.couriers.items()]

    async def _read_policy(self) -> None:
        text = await asyncio.to_thread(self._file.read_bytes)
        if text != self._text:
            self._policy = Policy.parse(text)
            self._text = text
            await self.finish()
            self.couriers.clear()


@contextlib.contextmanager
def only_one(data: Path, *, waits: bool) -> Iterator[None]:
    """For as long as it is entered, no other process keeps cosignatures of the instance in `data`.

    Raises BlockingIOError where another does, and this one does not wait; OSError.
    """
    with (data / "checkpoints" / "witnessing.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield


async def follow(data: Path, file: Path, stopped: asyncio.Event, report: Report, report_counts: ReportCounts) -> None:
    """Have every new checkpoint witnessed until `stopped`, and the last one then."""
    async with open_session() as session:
        witnessing = Witnessing(data, file, session)
        while not stopped.is_set():
            await witnessing.step()
            report(witnessing.status())
            report_counts(witnessing.counts())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _LOOK_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await witnessing.finish()
                await witnessing.step()
                await witnessing.finish()


async def _run(data: Path, file: Path) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    stream = sys.stdin.fileno()

    def wait_for_the_end() -> None:
        while os.read(stream, 4_096):
            pass
        loop.call_soon_threadsafe(stopped.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    await follow(data, file, stopped, Reporter(), CountsReporter())


def main(data: str) -> int:
    """The process: standard input ends when it should."""
    be_modest()
    plan = read_plan()
    with only_one(Path(data), waits=True):  # that of a killed supervisor may still be at its last
        asyncio.run(_run(Path(data), Path(plan["policy"])))
    return 0
