"""The commands of the evidence side: asking the logs, and proving them. They only read the data folder, but for the index and
what is imported; where `serve` runs, asking is itself on record.

`add_to` gives them to the top-level `keytrail` app. Exits: 0 ok (a query that finds nothing is ok), 1 verification
failed or findings (trace: not found; any: damage was met), 2 usage, 3 I/O. Errors are one line on standard error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from audit.attest import command as attest_command
from audit.checkpoint import VerifierKey
from audit.errors import CheckpointInvalid, QueryError
from audit.imports import command as import_command
from audit.instance import Instance
from audit.proofs import command as proof_command
from audit.query import commands, sql_command
from audit.query.commands import DEFAULT_DATA, Data
from audit.query.detections import command as detect_command
from audit.query.index import commands as index_commands
from audit.query.inventory import command as inventory_command
from audit.query.render import clean
from audit.query.reports.command import make_app as make_report_app
from audit.query.searches import on_record
from audit.query.terminal import FINDINGS, OK, errors, exit_with, progress_bar, standard_streams
from audit.receipts import read_receipts
from audit.reconcile import command as reconcile_command
from audit.report import Report, Verdict
from audit.sealing.keys import verifier_keys
from audit.verify import verify as verify_logs

#: Commands that tell what is in the log, and leave a record of being asked.
SEARCHES = {
    *("query", "trace", "tail", "inventory", "sql", "detect", "reconcile", "attest-absence", "prove"),
    *("key-usage", "access-review", "quarterly", "incident", "show", "bypasses", "publish"),
}

app = typer.Typer(name="audit", no_args_is_help=True, help="Ask the audit log, and verify it.")
for part in (commands, inventory_command, sql_command, detect_command, reconcile_command, attest_command, proof_command):
    app.registered_commands += part.app.registered_commands
report_app = make_report_app(lambda data, progress: verify_logs(data, progress=progress))
for group in (report_app, index_commands.app, import_command.app):
    app.add_typer(group)
for asking in [app, report_app, index_commands.app, import_command.app]:
    for command in asking.registered_commands:
        if command.callback is not None and (name := command.name or command.callback.__name__.replace("_", "-")) in SEARCHES:
            command.callback = on_record(name, command.callback)


def add_to(top: typer.Typer) -> None:
    """Register these commands at the top level of `top`."""
    top.registered_commands += app.registered_commands
    top.registered_groups += app.registered_groups


def run(top: typer.Typer, obj: object) -> None:
    """The console script of `top`, whose commands get `obj`. What was printed is out when it ends, or its exit code says no."""
    with standard_streams():
        top(obj=obj)


@app.command()
def checkpoint(
    key: Annotated[bool, typer.Option("--key", help="The verifier keys instead, one a line.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Print the newest signed checkpoint of every log, to be kept where nobody who can change this host can change it.

    Hand it to `verify --checkpoint` later. Notes are divided by an empty line.
    """
    with errors():
        instance = Instance.load(data)
        sys.stdout.write(_verifier_keys(instance) if key else _latest_checkpoints(instance))


@app.command()
def verify(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint", help="A saved checkpoint, which the log must still agree with; - is standard input. Repeatable."
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="A verifier key to trust instead of the one in the data folder. Repeatable."),
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option(help="A file of receipts that a client collected, one a line; - is standard input. Repeatable."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Verify every log against its checkpoints, in numbered steps (docs/verify.md), also while the proxy serves."""
    with errors():
        keys = [_verifier_key(text) for text in key or []]
        with progress_bar("Verifying") as bar:
            saved = [_saved(path) for path in checkpoint or []]
            collected = [receipt for path in receipts or [] for receipt in read_receipts(_saved(path), str(path))]
            report = verify_logs(data, keys, saved, bar, receipts=collected)
        if json:
            sys.stdout.buffer.write(report.to_json())
        else:
            _write_report(report)
    exit_with(OK if report.passed else FINDINGS)


_SIGNS = {Verdict.PASSED: "\u2713", Verdict.FAILED: "\u2717", Verdict.NOT_CHECKED: "\u2013"}


def _write_report(report: Report) -> None:
    for log in report.logs:
        typer.echo(clean(f"Log {log.log}: {log.records} records, {log.sealed} of them under a signed checkpoint"))
        for step in log.steps:
            typer.echo(clean(f"  {_SIGNS[step.verdict]} {step.number}. {step.title}: {step.detail}"))
    for fault in report.faults:
        typer.echo(clean(f"{fault} (step {fault.step})"))
    typer.echo("Verified." if report.passed else "VERIFICATION FAILED.")


def _verifier_key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except CheckpointInvalid as error:
        raise QueryError(f"--key: {error}") from error  # mistyped: nothing was verified yet


def _saved(path: Path) -> str:
    """What is not UTF-8 in it is no checkpoint and no receipt either: `verify` says so."""
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def _latest_checkpoints(instance: Instance) -> str:
    notes = []
    for log in instance.logs:
        latest = instance.checkpoint_folder(log) / "latest"
        if latest.exists():
            notes.append(latest.read_text("utf-8").strip("\n") + "\n")
    if not notes:
        raise QueryError(f"no checkpoint was signed yet in {instance.data}")
    return "\n".join(notes)


def _verifier_keys(instance: Instance) -> str:
    return "".join(f"{key}\n" for key in verifier_keys(instance).values())
