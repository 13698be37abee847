"""What `verify` says of a forge: the parts of its report, and what its command prints."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from audit import cli
from audit.report import Fault, LogReport, Report, Verdict
from tests.audit.forge import Forge


def only(report: Report) -> LogReport:
    (log,) = report.logs
    return log


def verdicts(report: Report) -> dict[int, Verdict]:
    return {step.number: step.verdict for step in only(report).steps}


def failed(report: Report) -> set[int]:
    return {number for number, verdict in verdicts(report).items() if verdict is Verdict.FAILED}


def faults(report: Report, step: int) -> list[Fault]:
    return [fault for fault in report.faults if fault.step == step]


def places(report: Report, step: int) -> list[tuple[str, int]]:
    return [(fault.segment, fault.line) for fault in faults(report, step)]


def run(forge: Forge, *arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(cli.app, ["verify", "--data", str(forge.instance.data), *arguments], input=given)
