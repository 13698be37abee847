"""All steps of one log, in one pass over its lines."""

from __future__ import annotations

from audit.canonical import timestamp
from audit.instance import Instance
from audit.report import LogReport, Step, Verdict
from audit.verifying.acknowledged import Findings
from audit.verifying.calls import Calls
from audit.verifying.collected import Collected
from audit.verifying.comparison import Comparison
from audit.verifying.faults import Faults
from audit.verifying.freshness import Freshness
from audit.verifying.lines import Lines, Meter
from audit.verifying.ordinary import Window
from audit.verifying.records import Line
from audit.verifying.signed import SignedNotes
from audit.verifying.silence import Silence
from audit.verifying.subject import YOUNG_US, Asked, Subject
from audit.verifying.titles import FRESH, OUTCOMES, RECEIPTS, SILENCE, TITLES


class LogCheck:
    """`run` reads; `report` then gives the verdicts."""

    def __init__(self, instance: Instance, origin: str, asked: Asked, now_us: int) -> None:
        self._subject = Subject.of(instance, origin)
        self._faults = Faults(self._subject.log)
        self._signed = SignedNotes(self._subject, asked, self._faults, now_us)
        self._tree = Comparison(iter(()), None, self._faults)  # nothing to compare with, until `run` has read the notes
        self._lines = Lines(self._subject, self._tree, self, self._faults)
        self._calls = Calls(self._faults)
        self._collected = Collected(asked.receipts, self._faults)
        self._silence = Silence()
        self._findings = Findings(self._subject.log, asked.acknowledged, self._faults)
        self._freshness = Freshness(self._subject.log, asked.max_age_s, self._faults)
        self._oldest: str | None = None  # the earliest time of a record, as long as there is no checkpoint

    def run(self, meter: Meter) -> None:
        """The notes first, then the lines. Raises OSError."""
        targets = self._signed.targets()
        with Comparison(targets, self._signed.leaves(), self._faults) as self._tree:
            self._lines = Lines(self._subject, self._tree, self, self._faults)
            self._lines.read(meter)
            self._tree.finish()
        self._signed.look_at_latest()
        self._calls.finish(self._lines.is_being_written())

    def take(self, number: int, leaf: bytes, line: Line) -> None:
        """The record that the reading is at: `audit.verifying.lines.Watcher`."""
        self._collected.take(number, leaf, line)
        self._calls.take(line)
        if wrong := self._silence.take(line):
            self._findings.add_here(SILENCE, wrong, number, self._tree.root_with(leaf))
        self._freshness.take(number, line.time, self._tree.sealed)
        if not self._signed.count:
            self._oldest = line.time if self._oldest is None else min(self._oldest, line.time)

    def window(self, number: int, count: int) -> Window | None:
        """What of the next `count` records, from `number` on, need not be looked at one by one: `Watcher`."""
        wanted = number == self._tree.sealed or not self._signed.count or self._collected.wants(number, count)
        return None if wanted else Window(self._silence.earliest, self._silence.latest, count)

    def pass_by(self, newest: str) -> None:
        """Ordinary records went by, the latest of this time: `Watcher`."""
        self._silence.newest = max(self._silence.newest, newest)

    def was_sealed_meanwhile(self) -> bool:
        """Whether the first checkpoint came while the lines were read."""
        return self._tree.records > 0 and not self._signed.count and self._subject.history_bytes() > 0

    def is_fresh(self, now_us: int) -> bool:
        """Whether this log shows that the instance goes on."""
        return self._freshness.is_fresh(self._silence.newest, now_us)

    def report(self, now_us: int, *, goes_on: bool) -> LogReport:
        """The verdicts, once `run` is through. `goes_on`: some log of the instance is fresh."""
        records, sealed = self._tree.records, self._tree.sealed
        self._signed.finish(self._tree, is_young=self._is_young(now_us))
        self._lines.finish()
        self._collected.finish(records, sealed, now_us)
        is_excused = self._silence.has_stopped and goes_on
        self._freshness.finish(records, sealed, self._silence.newest, now_us, is_excused=is_excused)
        checked = {
            **self._lines.checked(),
            **self._signed.checked(self._tree),
            OUTCOMES: self._calls.checked(),
            RECEIPTS: self._collected.checked(sealed),
            SILENCE: self._silence.checked(),
            FRESH: self._freshness.checked(),
        }
        steps = tuple(self._step(number, *checked[number]) for number in TITLES)
        return LogReport(self._subject.log, steps, self._faults.listed(), records, sealed, self._findings.acknowledged)

    def _step(self, number: int, is_checked: bool, detail: str) -> Step:
        if count := self._faults.count(number):
            return Step(number, TITLES[number], Verdict.FAILED, f"{count} fault{'s' if count > 1 else ''}")
        verdict = Verdict.PASSED if is_checked else Verdict.NOT_CHECKED
        return Step(number, TITLES[number], verdict, detail + self._findings.told(number))

    def _is_young(self, now_us: int) -> bool:
        """Whether the sealer had no time yet: no record is old, and it left no trace."""
        if self._oldest is None or self._signed.left_a_trace():
            return False
        return timestamp(now_us - YOUNG_US) < self._oldest < timestamp(now_us + YOUNG_US)
