"""The command `acknowledge`: what somebody has to say of a finding of `verify`, on record in the log `admin`.

It prints the receipt of that record. Whoever verifies goes by it (`verify --acknowledged`), or does not: a record alone excuses
nothing, since whoever can write the log can write one.
"""

from __future__ import annotations

from typing import Annotated

import typer

from audit.errors import QueryError
from audit.host_events import commit_host_event
from audit.instance import ADMIN_LOG, Instance
from audit.query.commands import DEFAULT_DATA, Data
from audit.query.terminal import errors, note, progress_bar
from audit.record import JsonValue
from audit.report import Fault, Report
from audit.verify import verify
from audit.verifying.acknowledged import EVENT, MAX_REASON, Finding

app = typer.Typer()


@app.command()
def acknowledge(
    finding: Annotated[str, typer.Argument(metavar="LOG:RECORD:ROOT", help="The finding, as `keytrail verify` prints it.")],
    reason: Annotated[str, typer.Option(help="What it was, as far as is known: a maintenance, a ticket, a person.")],
    data: Data = DEFAULT_DATA,
) -> None:
    """Put on record what a silence was, or a clock that was set back, and print the record's receipt.

    `verify --acknowledged`, with a file of such receipts that the auditor keeps, tells of these findings and does not fail for
    them. It verifies the logs first: there has to be such a finding, under a checkpoint, and nothing else wrong with its log.
    """
    with errors():
        named = Finding.parse(finding)
        if not 0 < len(reason.strip()) <= MAX_REASON:
            raise QueryError(f"--reason: from 1 to {MAX_REASON} characters")
        instance = Instance.load(data)
        with progress_bar("Verifying") as bar:
            fault = _fault(verify(data, progress=bar), named)
        told: dict[str, JsonValue] = {"finding": str(named), "fault": f"{fault} (step {fault.step})", "reason": reason.strip()}
        receipt = commit_host_event(instance, EVENT, told)
        typer.echo(receipt.text(instance.origin(ADMIN_LOG)))
        note(f"on record: {fault}")


def _fault(report: Report, named: Finding) -> Fault:
    """The fault that `named` is of. Raises `QueryError` where it is not to be acknowledged."""
    log = next((log for log in report.logs if log.log == named.log), None)
    fault = next((fault for fault in log.faults if fault.finding == str(named)), None) if log is not None else None
    if log is None or fault is None:
        raise QueryError(f"`keytrail verify` has no such finding in the log {named.log}")
    if graver := next((fault for fault in log.faults if not fault.finding), None):
        raise QueryError(f"the log {named.log} has faults that nobody can acknowledge; see to these first: {graver}")
    if log.sealed < named.size:
        raise QueryError("no checkpoint covers the finding yet: try again once the log is sealed, in seconds where it is served")
    return fault
