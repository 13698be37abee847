"""The process that delivers, beside a running keytrail: `python -m audit.delivery DATA`. Its plan: `opening.Delivery`.

It takes only the processor's time that nobody else wants. What goes wrong is reported, and tried again, later each time, up
to a minute; nothing of it ends this process. It ends between two steps, when it is told to, and delivers before what is
sealed by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from audit.companion import Plan, Report, Reporter, Status, is_over
from audit.delivery.deliverer import Deliverer
from audit.delivery.layout import timestamp
from audit.delivery.opening import Delivery, delivery_folder, held, open_deliverer
from audit.delivery.state import Fault, StateFile
from audit.errors import AuditError
from audit.instance import Instance
from audit.query.modesty import be_modest

_LOOK_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(slots=True)
class Patience:
    """How long to wait before the next try: twice as long after each that failed."""

    pause_s: float = 0.0
    since: int | None = field(default=None)  # when the first of them failed

    def failed(self, now: int) -> None:
        self.pause_s = min(max(self.pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self.since = now if self.since is None else self.since

    def worked(self) -> None:
        self.pause_s, self.since = 0.0, None


class Process:
    """Delivers by `delivery` until `stopped`, which is asked between steps, and waits as many seconds as it is given."""

    def __init__(
        self,
        open_it: Callable[[], Deliverer],
        report: Report,
        stopped: Callable[[float], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._open = open_it
        self._report = report
        self._stopped = stopped
        self._clock = clock
        self._deliverer: Deliverer | None = None
        self._patience = Patience()

    def run(self) -> None:
        while not self._stopped(self._patience.pause_s or _LOOK_S):
            self.deliver(lambda: self._stopped(0))
        if not self._patience.pause_s:  # what is sealed by now goes out before this host may; once, and not where it is down
            if self._deliverer is not None:
                self._deliverer.hurry()
            self.deliver(lambda: False)

    def deliver(self, is_enough: Callable[[], bool]) -> None:
        """Take every step that there is to take, or until `is_enough`, and report how it went."""
        try:
            if self._deliverer is None:
                self._deliverer = self._open()
            while self._deliverer.step() and not is_enough():
                self._worked()
            self._worked()
        except (AuditError, OSError) as error:
            self._patience.failed(int(self._clock()))
            self._deliverer = None  # start again from what is on disk
            since = timestamp(self._patience.since or 0)
            self._report(Status(ready=False, reason=f"{error}; what waits is in the log, since {since}"))

    def _worked(self) -> None:
        self._patience.worked()
        incidents = self._deliverer.incidents if self._deliverer is not None else {}
        self._report(Status(not incidents, "; ".join(incidents.values()) or None))


def noted(report: Report, journal: StateFile, clock: Callable[[], float]) -> Report:
    """`report`, and beside the state it is noted why the last step failed: who asks for the trail's status is another process."""

    def tell(status: Status) -> None:
        report(status)
        with suppress(OSError):
            journal.note(None if status.ready else Fault(status.reason or "", int(clock())))

    return tell


def main(data: str, plan: Plan) -> int:
    """The companion: standard input ends when it should."""
    be_modest()
    folder, reporter = Path(data), Reporter()
    try:
        delivery = Delivery.of(plan)
        Instance.load(folder)
        with held(folder, wait=True):  # that of a killed supervisor may still be in its last step
            report = noted(reporter, StateFile(delivery_folder(folder), delivery.address.text), time.time)
            Process(lambda: open_deliverer(folder, delivery, time.time), report, is_over).run()
    except (AuditError, OSError) as error:
        reporter(Status(ready=False, reason=str(error)))
        return 3
    return 0
