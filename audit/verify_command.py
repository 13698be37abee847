"""The commands `checkpoint` and `verify`: the signed state of the logs, and whether they are what was signed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.checkpoint import VerifierKey
from audit.errors import CheckpointInvalid, QueryError
from audit.instance import Instance
from audit.kept_files import kept_receipts, kept_text
from audit.policy_file import Policy, PolicyInvalid
from audit.query.commands import DEFAULT_DATA, Data
from audit.query.render import clean
from audit.query.terminal import FINDINGS, OK, errors, exit_with, progress_bar
from audit.query.times import parse_span_s
from audit.report import Report, Step, Verdict
from audit.sealing.keys import verifier_keys
from audit.verify import verify as verify_logs
from audit.witnessed import Demand

if TYPE_CHECKING:
    from audit.timestamp_token import Authorities

app = typer.Typer()


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
    acknowledged: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file of receipts that `keytrail acknowledge` printed: those findings are told, and are no faults. Repeatable."
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A policy file: the newest cosigned checkpoint of every log has to have its quorum.")
    ] = None,
    max_age: Annotated[
        str | None,
        typer.Option(help="10m, 2h: each log's newest record and checkpoint must not be older; with --policy, its cosignatures."),
    ] = None,
    delivery: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|s3://BUCKET/PREFIX", help="Compare what was delivered there with the logs, record for record, too."
        ),
    ] = None,
    delivery_key: Annotated[
        Path | None, typer.Option(help="A copy of delivery/digest.pub, to trust instead of the one in the data folder.")
    ] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(help="With --delivery: URL of an S3 that is not AWS's.", show_default=False)
    ] = None,
    timestamp_ca: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) that every time stamp of a checkpoint has to lead to.")
    ] = None,
    index: Annotated[bool, typer.Option("--index", help="Compare the query index with the logs, row for row, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Verify every log against its checkpoints, in numbered steps (docs/verify.md), also while the proxy serves."""
    with errors():
        keys = [_verifier_key(text) for text in key or []]
        max_age_s = None if max_age is None else parse_span_s(max_age)
        demand, authorities = None if policy is None else _demand(policy, max_age_s), _authorities(timestamp_ca)
        with progress_bar("Verifying") as bar:
            saved = [kept_text(path) for path in checkpoint or []]
            report = verify_logs(
                data,
                keys,
                saved,
                bar,
                receipts=kept_receipts(receipts or []),
                acknowledged=kept_receipts(acknowledged or []),
                demand=demand,
                authorities=authorities,
                max_age_s=max_age_s,
            )
        if delivery is not None:
            from audit.delivery.comparing import compare_delivery  # here: verifying logs needs nothing of it

            report = replace(report, delivery=compare_delivery(data, delivery, delivery_key, endpoint_url or ""))
        if index:
            from audit.query.index.against_log import check_index  # here: verifying logs needs no DuckDB

            report = replace(report, index=check_index(data))
        if json:
            sys.stdout.buffer.write(report.to_json())
        else:
            _write_report(report)
    exit_with(OK if report.passed else FINDINGS)


_SIGNS = {Verdict.PASSED: "\u2713", Verdict.FAILED: "\u2717", Verdict.NOT_CHECKED: "\u2013"}


def _write_report(report: Report) -> None:
    for log in report.logs:
        typer.echo(clean(f"Log {log.log}: {log.records} records, {log.sealed} of them under a signed checkpoint"))
        _write_steps(log.steps)
    if (delivery := report.delivery) is not None:
        typer.echo(f"Delivered: {delivery.records} records in {delivery.files} log files, {delivery.digests} digests")
        _write_steps(delivery.steps)
    if report.index is not None:
        typer.echo(f"The index: {report.index.records} records")
        _write_steps(report.index.steps)
    for fault in report.faults:
        named = f"; finding {fault.finding}" if fault.finding else ""
        typer.echo(clean(f"{fault} (step {fault.step}{named})"))
    for one in report.acknowledged:
        typer.echo(clean(str(one)))
    typer.echo("Verified." if report.passed else "VERIFICATION FAILED.")


def _write_steps(steps: Iterable[Step]) -> None:
    for step in steps:
        typer.echo(clean(f"  {_SIGNS[step.verdict]} {step.number}. {step.title}: {step.detail}"))


def _verifier_key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except CheckpointInvalid as error:
        raise QueryError(f"--key: {error}") from error  # mistyped: nothing was verified yet


def _demand(policy: Path, max_age_s: float | None) -> Demand:
    try:
        return Demand(Policy.parse(policy.read_bytes()), max_age_s)
    except PolicyInvalid as error:
        raise QueryError(f"{policy}: {error}") from error


def _authorities(path: Path | None) -> Authorities | None:
    if path is None:
        return None
    from audit.timestamp_token import Authorities, TimestampInvalid  # here: only they need the library that it brings

    try:
        return Authorities.parse(path.read_bytes())
    except TimestampInvalid as error:
        raise QueryError(f"{path}: {error}") from error


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
