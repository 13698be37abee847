"""Step 8: every call that changes state has its outcome. Memory is bounded by the calls that are under way at once."""

from __future__ import annotations

from audit.verifying.faults import Faults
from audit.verifying.records import Line
from audit.verifying.titles import OUTCOMES

_MAX_OPEN = 100_000


class Calls:
    """The intents of a log that have no outcome yet, while its records go by."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._open: dict[str, tuple[str, int]] = {}
        self._intents = 0

    def take(self, line: Line) -> None:
        """The record that the reading is at."""
        if line.extension.get("phase") == "intent":
            self._intents += 1
            if len(self._open) < _MAX_OPEN:
                self._open[str(line.record.get("eventID"))] = (self._faults.segment, self._faults.line)
        elif "intent" in line.extension:
            self._open.pop(str(line.extension["intent"]), None)

    def finish(self, is_being_written: bool) -> None:
        """Where the log is being written, what has no outcome may be under way."""
        if len(self._open) >= _MAX_OPEN:
            self._faults.add(OUTCOMES, f"{_MAX_OPEN} calls at once have no outcome; no more were followed")
        elif not is_being_written:
            for event, (segment, line) in self._open.items():
                self._faults.add(
                    OUTCOMES, f"the call that this record announces (event {event:.40}) has no outcome", segment, line
                )

    def checked(self) -> tuple[bool, str]:
        under_way = f"; {len(self._open)} of them under way" if self._open else ""
        return self._intents > 0, f"{self._intents} calls{under_way}" if self._intents else "there is no such call"
