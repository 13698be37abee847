"""Step 10: the receipts that clients collected, held against the records as they go by."""

from __future__ import annotations

from collections.abc import Iterable

from audit.canonical import timestamp
from audit.receipts import Awaited, ClaimedReceipt
from audit.verifying.faults import Faults
from audit.verifying.records import Line
from audit.verifying.subject import YOUNG_US
from audit.verifying.titles import RECEIPTS


class Collected:
    """The receipts of one log."""

    def __init__(self, receipts: Iterable[ClaimedReceipt], faults: Faults) -> None:
        self._faults = faults
        self._awaited = Awaited(receipts)

    @property
    def count(self) -> int:
        return self._awaited.count

    def wants(self, first: int, count: int) -> bool:
        """Whether there is a receipt for one of so many records from `first` on."""
        return bool(self._awaited.count) and self._awaited.has_any(first, count)

    def take(self, number: int, leaf: bytes, line: Line) -> None:
        """The record that the reading is at."""
        if self._awaited.count and not self._awaited.meet(number, leaf, line.time):
            self._faults.add_here(RECEIPTS, f"record {number} is not the one that a receipt was given for")

    def finish(self, records: int, sealed: int, now_us: int) -> None:
        """The log has `records`, the first `sealed` of which are under a checkpoint that agrees."""
        end = f"ends with record {records - 1}" if records else "is empty"
        for number in self._awaited.unmet():
            missing = f"the log {end}" if number >= records else "it is missing"
            self._faults.add(RECEIPTS, f"a receipt was given for record {number}: {missing}")
        for number, time in self._awaited.met_from(sealed):
            if not timestamp(now_us - YOUNG_US) < time < timestamp(now_us + YOUNG_US):
                self._faults.add(RECEIPTS, f"record {number}, which a receipt was given for, is under no checkpoint that agrees")

    def checked(self, sealed: int) -> tuple[bool, str]:
        young = len(self._awaited.met_from(sealed))
        unsealed = f"; {young} of them seconds old, and under no checkpoint yet" if young else ""
        return self.count > 0, f"{self.count} given{unsealed}" if self.count else "none was given"
