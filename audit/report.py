"""What a verification found: steps, faults, and how far each log is under a signed checkpoint. Values only.

`audit.verify` makes them, `audit.cli` shows them. The numbers and titles of the steps are those of docs/verify.md.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum

import orjson


class Verdict(Enum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not-checked"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and where: file name of the segment and line in it from 1; "" and 0 where it is the log as a whole.

    `finding` names it to `keytrail acknowledge`; "" where nobody can acknowledge it.
    """

    step: int
    log: str
    segment: str
    line: int
    reason: str
    finding: str = ""

    def __str__(self) -> str:
        place = (f"/{self.segment}" if self.segment else "") + (f" line {self.line}" if self.line else "")
        return f"{self.log}{place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A fault that counts no more: somebody said on record at `at` what it was, and whoever verifies goes by that."""

    fault: Fault
    by: str
    at: str
    reason: str

    def __str__(self) -> str:
        return f"{self.fault} (step {self.fault.step}), acknowledged by {self.by} at {self.at}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step, for one log. `passed` is never true of what was not checked."""

    number: int
    title: str
    verdict: Verdict
    detail: str

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.PASSED


@dataclass(frozen=True, slots=True)
class LogReport:
    """The steps of one log. Of its `records`, the first `sealed` are under a checkpoint of the history that agrees with them."""

    log: str
    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]
    records: int
    sealed: int
    acknowledged: tuple[Acknowledged, ...] = ()

    @property
    def unsealed(self) -> int:
        return self.records - self.sealed


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """The steps of a comparison of delivered files with the logs: `records` in `files`, and `digests`."""

    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]
    files: int
    records: int
    digests: int


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The steps of a comparison of the index with the logs: it covers `records` of them."""

    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]
    records: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was found of the logs, and, where that was asked for, of their files at a destination, and of the index."""

    logs: tuple[LogReport, ...]
    delivery: DeliveryReport | None = None
    index: IndexReport | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing failed. What was not checked is in the steps."""
        return all(step.verdict is not Verdict.FAILED for part in self._parts for step in part.steps)

    @property
    def faults(self) -> tuple[Fault, ...]:
        return tuple(fault for part in self._parts for fault in part.faults)

    @property
    def acknowledged(self) -> tuple[Acknowledged, ...]:
        return tuple(one for log in self.logs for one in log.acknowledged)

    @property
    def _parts(self) -> tuple[LogReport | DeliveryReport | IndexReport, ...]:
        return (*self.logs, *(part for part in (self.delivery, self.index) if part is not None))

    def to_json(self) -> bytes:
        logs = [
            {**asdict(log), "unsealed": log.unsealed, "steps": [{**asdict(step), "passed": step.passed} for step in log.steps]}
            for log in self.logs
        ]
        derived = {name: asdict(part) for name, part in (("delivery", self.delivery), ("index", self.index)) if part is not None}
        document = orjson.loads(orjson.dumps({"passed": self.passed, "logs": logs, **derived}))
        return json.dumps(document, indent=2).encode() + b"\n"  # in ASCII: nothing that was read can command a terminal
