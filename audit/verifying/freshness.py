"""Step 14: how old the newest record and the newest checkpoint are, by the clock of whoever verifies.

A log that has nothing new to show says nothing of today: whoever put the whole folder back as it was, or stopped the sealer,
leaves such a log. A checkpoint is as old as the first record that it does not cover. The log of the commands has no heartbeats,
so that only its checkpoints are asked about; a worker that was stopped as it should be is excused where another log goes on.
"""

from __future__ import annotations

from audit.canonical import timestamp
from audit.instance import ADMIN_LOG
from audit.verifying.faults import Faults
from audit.verifying.subject import SKEW_US
from audit.verifying.titles import FRESH


class Freshness:
    """The ages that one log shows."""

    def __init__(self, log: str, max_age_s: float | None, faults: Faults) -> None:
        self._log = log
        self._max_age_s = max_age_s
        self._faults = faults
        self._detail = "not asked for: no maximum age was given"
        self._uncovered = (0, "")  # number and time of the first record behind the newest checkpoint that agrees

    def take(self, number: int, time: str, sealed: int) -> None:
        """The record that the reading is at; the first `sealed` are under a checkpoint."""
        if number == sealed:
            self._uncovered = number, time

    def is_fresh(self, newest: str, now_us: int) -> bool:
        """Whether a log whose newest record has this time shows that the instance goes on."""
        return (
            self._log != ADMIN_LOG
            and self._max_age_s is not None
            and self._oldest(now_us) <= newest <= timestamp(now_us + SKEW_US)
        )

    def finish(self, records: int, sealed: int, newest: str, now_us: int, *, is_excused: bool) -> None:
        """`newest` is the time of the newest record; `is_excused`: the log has stopped, and another goes on."""
        if self._max_age_s is None:
            return
        limit = f"the maximum age is {self._max_age_s:g} s"
        if sealed < records and self._uncovered[0] == sealed and self._uncovered[1] < self._oldest(now_us):
            self._faults.add(FRESH, f"no checkpoint that agrees covers record {sealed}, of {self._uncovered[1]}: {limit}")
        if self._log == ADMIN_LOG and not records:
            self._faults.add(FRESH, "it has no record, and `init` writes its first one")
        if self._log != ADMIN_LOG and not is_excused and not self.is_fresh(newest, now_us):
            told = f"its newest record is of {newest}" if newest else "it has no record"
            self._faults.add(FRESH, f"{told}, and it is {timestamp(now_us)[:19]}Z here: {limit}")
        self._detail = f"{f'the newest record is of {newest}' if newest else 'it is empty'}, {sealed} of {records} are covered"

    def _oldest(self, now_us: int) -> str:
        return timestamp(now_us - int((self._max_age_s or 0) * 1_000_000))

    def checked(self) -> tuple[bool, str]:
        return self._max_age_s is not None, self._detail
