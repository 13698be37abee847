"""What a check of an attestation says."""

from __future__ import annotations

from audit.attest.check import AttestationReport
from audit.report import Verdict


def verdicts(report: AttestationReport) -> str:
    """A letter a step: passed, failed, not checked."""
    letters = {Verdict.PASSED: "p", Verdict.FAILED: "F", Verdict.NOT_CHECKED: "-"}
    return "".join(letters[step.verdict] for step in report.steps)


def reasons(report: AttestationReport, step: int) -> list[str]:
    return [reason for number, reason in report.faults if number == step]
