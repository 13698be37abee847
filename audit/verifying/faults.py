"""The faults of one log, as they are found: a bounded list of each step's, and how many there are."""

from __future__ import annotations

from audit.report import Fault
from audit.verifying.titles import TITLES

MAX_FAULTS = 50  # of one step of one log; the rest is counted


class Faults:
    """The faults of one log by step. `segment` and `line` are where the reading is."""

    def __init__(self, log: str) -> None:
        self.segment, self.line = "", 0
        self._log = log
        self._listed: dict[int, list[Fault]] = {step: [] for step in TITLES}
        self._counts = dict.fromkeys(self._listed, 0)

    def add(self, step: int, reason: str, segment: str = "", line: int = 0) -> None:
        """A fault at a place; of the log as a whole where none is given."""
        self._add(Fault(step, self._log, segment, line, reason))

    def add_here(self, step: int, reason: str, finding: str = "") -> None:
        self._add(self.here(step, reason, finding))

    def here(self, step: int, reason: str, finding: str = "") -> Fault:
        """A fault where the reading is; it is not added."""
        return Fault(step, self._log, self.segment, self.line, reason, finding)

    def _add(self, fault: Fault) -> None:
        self._counts[fault.step] += 1
        if len(self._listed[fault.step]) < MAX_FAULTS:
            self._listed[fault.step].append(fault)

    def add_unlisted(self, step: int, count: int) -> None:
        self._counts[step] += count

    def count(self, step: int) -> int:
        return self._counts[step]

    def listed(self) -> tuple[Fault, ...]:
        """In the order of the steps."""
        return tuple(fault for faults in self._listed.values() for fault in faults)
