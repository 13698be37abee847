"""The process that has checkpoints witnessed and time-stamped, beside `serve`: `python -m audit.witnessing DATA`.

The policy file of its plan is read again whenever it has changed. When it is time to end, the last checkpoint is submitted
once, within a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from audit.companion import CountsReporter, Plan, Report, ReportCounts, Reporter, Status, end_of_input, read_plan
from audit.errors import AuditError
from audit.instance import Instance
from audit.policy_file import Policy
from audit.query.modesty import be_modest
from audit.timestamp_token import Authorities
from audit.witnessing.courier import Courier
from audit.witnessing.notes import LogNotes
from audit.witnessing.stamping import Stamper
from audit.witnessing.submission import open_session

_LOOK_S = 1.0
_LAST_S = 4.0


@dataclass(frozen=True, slots=True)
class WitnessPlan:
    """What the process is told: a policy file, or none; and the authorities that are asked for time stamps."""

    policy: Path | None = None
    timestamp_urls: tuple[str, ...] = ()
    timestamp_ca: Path | None = None
    timestamp_every_s: float = 3_600.0

    @classmethod
    def of(cls, plan: Plan) -> WitnessPlan:
        policy, ca = (Path(plan[name]) if plan.get(name) else None for name in ("policy", "timestamp_ca"))
        return cls(policy, tuple(plan.get("timestamp_urls", ())), ca, float(plan.get("timestamp_every_s", 3_600)))


class Witnessing:
    """The couriers and stampers of all logs of the instance in `data`. For use inside an event loop."""

    def __init__(self, data: Path, plan: WitnessPlan, session: aiohttp.ClientSession) -> None:
        self.couriers: dict[str, Courier] = {}
        self.stampers: dict[tuple[str, str], Stamper] = {}
        self._data = data
        self._plan = plan
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
            self._faults.append(f"{self._plan.policy}: {error}")
        try:
            self._look_for_logs()
        except (AuditError, OSError) as error:
            self._faults.append(str(error))
        for courier in self.couriers.values():
            courier.step()
        for stamper in self.stampers.values():
            stamper.step()

    async def finish(self) -> None:
        """Wait for what runs."""
        runs = [courier.finish() for courier in self.couriers.values()] + [one.finish() for one in self.stampers.values()]
        await asyncio.gather(*runs)

    def status(self) -> Status:
        """Ready: the newest checkpoint of every log is cosigned by the quorum. What else is wrong is told too."""
        now_s = time.time()
        grave = self._faults + [fault for courier in self.couriers.values() for fault in courier.grave_faults(now_s)]
        slight = [fault for courier in self.couriers.values() for fault in courier.slight_faults()]
        slight += [stamper.fault for stamper in self.stampers.values() if stamper.fault is not None]
        return Status(not grave, "; ".join([*grave, *slight]) or None)

    def counts(self) -> list[list[str | int]]:
        """For the metrics: since when the quorum stands by the newest cosigned checkpoint of each log."""
        return [["cosigned_timestamp_seconds", log, courier.cosigned_s] for log, courier in self.couriers.items()]

    async def _read_policy(self) -> None:
        if self._plan.policy is None:
            return
        text = await asyncio.to_thread(self._plan.policy.read_bytes)
        if text != self._text:
            self._policy = Policy.parse(text)
            self._text = text
            await self.finish()
            self.couriers.clear()

    def _look_for_logs(self) -> None:
        """Raises `AuditError`, OSError."""
        plan, instance = self._plan, Instance.load(self._data)
        for log in instance.logs:
            if log not in self.couriers and self._policy is not None:
                self.couriers[log] = Courier(instance, log, self._policy, self._session)
        missing = [(log, url) for log in instance.logs for url in plan.timestamp_urls if (log, url) not in self.stampers]
        if missing and plan.timestamp_ca is not None:
            authorities = Authorities.parse(plan.timestamp_ca.read_bytes())
            for log, url in missing:
                notes = LogNotes(instance, log)
                self.stampers[log, url] = Stamper(notes, url, authorities, plan.timestamp_every_s, self._session)


@contextlib.contextmanager
def only_one(data: Path, *, waits: bool) -> Iterator[None]:
    """For as long as it is entered, no other process keeps cosignatures of the instance in `data`.

    Raises BlockingIOError where another does, and this one does not wait; `NoInstance`, OSError.
    """
    instance = Instance.load(data)
    instance.make_witnessed_folder()
    with instance.witnessing_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield


async def follow(data: Path, plan: WitnessPlan, stopped: asyncio.Event, report: Report, report_counts: ReportCounts) -> None:
    """Have every new checkpoint witnessed until `stopped`, and the last one then."""
    async with open_session() as session:
        witnessing = Witnessing(data, plan, session)
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


async def _run(data: Path, plan: WitnessPlan) -> None:
    await follow(data, plan, end_of_input(), Reporter(), CountsReporter())


def main(data: str) -> int:
    """The process: standard input ends when it should."""
    be_modest()
    plan = WitnessPlan.of(read_plan())
    with only_one(Path(data), waits=True):  # that of a killed supervisor may still be at its last
        asyncio.run(_run(Path(data), plan))
    return 0
