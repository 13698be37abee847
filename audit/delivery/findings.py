"""What a comparison of a destination with the log found, and the report of it."""

from __future__ import annotations

from enum import Enum

from audit.report import DeliveryReport, Fault, Step, Verdict

_LISTED = 50  # of each kind; all are counted


class Kind(Enum):
    """What is wrong; its value is the step of docs/verify.md that finds it."""

    MISSING = 20
    DIFFERENT = 21
    EXTRA = 22
    CHAIN = 23


TITLES = {
    Kind.MISSING: "every record that is due was delivered",
    Kind.DIFFERENT: "every file has the log's own bytes",
    Kind.EXTRA: "nothing else is there, and nothing twice",
    Kind.CHAIN: "the digests are signed chains, each from its first interval to the newest",
}


class Findings:
    """Findings, as they are made."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(Kind, 0)
        self.faults: list[Fault] = []

    def add(self, kind: Kind, where: str, reason: str) -> None:
        """`where` is a key at the destination, or an account and region."""
        self.counts[kind] += 1
        if self.counts[kind] <= _LISTED:
            self.faults.append(Fault(kind.value, where, "", 0, reason))

    def report(self, files: int, records: int, digests: int) -> DeliveryReport:
        looked_at = {Kind.CHAIN: f"{digests} digests"}
        steps = []
        for kind in Kind:
            number = self.counts[kind]
            detail = f"{number} findings" if number else looked_at.get(kind, f"{records} records in {files} files")
            is_checked = number or (digests if kind is Kind.CHAIN else files)
            verdict = Verdict.FAILED if number else Verdict.PASSED if is_checked else Verdict.NOT_CHECKED
            steps.append(Step(kind.value, TITLES[kind], verdict, detail))
        return DeliveryReport(tuple(steps), tuple(sorted(self.faults, key=lambda one: one.step)), files, records, digests)
