"""The process that ships, beside a running keytrail: `python -m audit.shipping DATA`. Its plan: `plan.Shipping`.

It takes only the processor's time that nobody else wants. Each sink has a task of its own: none waits for another. What goes
wrong is reported, and tried again, later each time, with jitter; nothing of it ends this process. When it is told to end, what is
durable by then goes out to the sinks that are well, within seconds; the rest is in the log, for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import platform
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import SystemRandom

from audit import durable
from audit.canonical import timestamp
from audit.companion import Counts, CountsReporter, Plan, Report, ReportCounts, Reporter, Status, end_of_input, read_plan
from audit.errors import AuditError
from audit.instance import Instance
from audit.query.modesty import be_modest
from audit.shipping.cursor import CursorFile
from audit.shipping.plan import Shipping, Target, open_sink
from audit.shipping.shipper import Logs, Shipper
from audit.shipping.sink import SinkFault

_LOOK_S = 0.5
_REPORT_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LAST_S = 3.0

#: Waits so many seconds, or until it is time to end; whether it is.
Wait = Callable[[float], Awaitable[bool]]


class Route:
    """A sink with its shipper, and how it goes. `jitter` gives a factor for each pause."""

    def __init__(self, target: Target, shipper: Shipper, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self.target = target
        self.shipper = shipper
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self.fault: str | None = None

    async def run(self, wait: Wait) -> None:
        """Ship until `wait` says that it is time to end; then once more, where the sink is well."""
        pause_s = 0.0
        while not await wait(pause_s):
            pause_s = await self.step()
        while self.fault is None and not await self.step():
            pass

    async def step(self) -> float:
        """Ship a batch of each log, and say how long to wait: not at all, for news, or for the sink to be well again."""
        try:
            has_more = await self.shipper.step()
        except (AuditError, OSError) as error:
            self.fault = str(error)
            pause_s = min(_FIRST_PAUSE_S * 2.0**self._failures, _LONGEST_PAUSE_S) * self._jitter()
            self._failures = min(self._failures + 1, 20)
            wanted_s = error.pause_s if isinstance(error, SinkFault) and error.pause_s is not None else 0.0
            return max(pause_s, min(wanted_s, _LONGEST_PAUSE_S))
        self.fault, self._failures = None, 0
        return 0.0 if has_more else _LOOK_S

    def faults(self) -> list[str]:
        """What keeps records from this sink."""
        waiting, since_us = self.shipper.lag()
        found = list(self.shipper.incidents.values())
        if self.fault is not None:
            since = f", since {timestamp(since_us)[:19]}Z" if since_us is not None else ""
            found.append(f"{self.fault}; {waiting} records wait{since}")
        return [f"{self.target.kind} {self.target.address}: {fault}" for fault in found]

    def notes(self) -> list[str]:
        """What is worth a look."""
        found = []
        if count := self.shipper.refused:
            found.append(f"{count} records were refused: shipping/{self.target.name}/refused")
        if count := self.shipper.suspected:
            found.append(f"{count} records were refused, and are set aside when the next one is taken")
        return [f"{self.target.kind} {self.target.address}: {note}" for note in found]

    def counts(self) -> Counts:
        waiting, since_us = self.shipper.lag()
        behind_s = 0 if since_us is None else max(0, int(self._clock() - since_us / 1_000_000))
        name = self.target.name
        return [
            ["shipping_lag_records", name, waiting],
            ["shipping_lag_seconds", name, behind_s],
            ["shipping_refused", name, self.shipper.refused],
        ]


def routes_of(data: Path, shipping: Shipping, clock: Callable[[], float] = time.time) -> list[Route]:
    """A route for each sink. Raises `NoInstance`."""
    instance, host = Instance.load(data), platform.node()
    uniform = SystemRandom().uniform

    def route(target: Target) -> Route:
        cursor = CursorFile(data / "shipping", target.name, target.address)
        shipper = Shipper(cursor, lambda: open_sink(target, instance.id, host), logs_of(data), shipping.form, clock)
        return Route(target, shipper, clock, lambda: uniform(0.5, 1.5))

    return [route(target) for target in shipping.targets]


def logs_of(data: Path) -> Logs:
    """Looks which logs there are. Raises `NoInstance`."""

    def logs() -> dict[str, Path]:
        instance = Instance.load(data)
        return {name: instance.log_folder(name) for name in instance.logs}

    return logs


async def ship(routes: list[Route], stopped: asyncio.Event, report: Report, report_counts: ReportCounts) -> None:
    """Ship until `stopped`."""

    async def wait(within_s: float) -> bool:
        if within_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), within_s)
        return stopped.is_set()

    async def tell() -> None:
        while True:
            try:
                report(status_of(routes))
                report_counts([count for route in routes for count in route.counts()])
            except OSError as error:  # a log's mark cannot be read
                report(Status(ready=False, reason=str(error)))
            if await wait(_REPORT_S):
                return

    tasks = [asyncio.create_task(tell()), *(asyncio.create_task(route.run(wait)) for route in routes)]
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if stopped.is_set():
        await asyncio.wait(tasks, timeout=_LAST_S)
    for task in (stopping, *tasks):
        task.cancel()  # what was under way is shipped again, by the next start
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    for route in routes:
        with contextlib.suppress(OSError):
            await route.shipper.close()
    for end in ends:
        if isinstance(end, Exception):  # nobody foresaw it: this process ends, and is started anew
            raise end


def status_of(routes: list[Route]) -> Status:
    """Ready: every sink gets what there is."""
    faults = [fault for route in routes for fault in route.faults()]
    notes = [note for route in routes for note in route.notes()]
    return Status(not faults, "; ".join([*faults, *notes]) or None)


@contextlib.contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Wait until no other process ships for the instance in `data`: that of a killed supervisor may be at its last.

    Raises OSError.
    """
    folder = data / "shipping"
    if not folder.exists():
        durable.create_folder(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def _run(data: Path, shipping: Shipping) -> None:
    await ship(routes_of(data, shipping), end_of_input(), Reporter(), CountsReporter())


def main(data: str, plan: Plan | None = None) -> int:
    """The companion: standard input ends when it should."""
    be_modest()
    folder = Path(data)
    try:
        shipping = Shipping.of(read_plan() if plan is None else plan)
        Instance.load(folder)
        with only_one(folder):
            asyncio.run(_run(folder, shipping))
    except (AuditError, OSError) as error:
        Reporter()(Status(ready=False, reason=str(error)))
        return 3
    return 0
