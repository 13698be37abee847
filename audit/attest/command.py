"""The commands `attest-absence` and `verify-attestation`: options to values, and answers to the terminal."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from audit import durable
from audit.attest.check import AttestationReport, check
from audit.attest.envelope import MAX_ENVELOPE_BYTES
from audit.attest.make import ALL_PHASES, Finding, attest
from audit.attest.statement import Statement
from audit.checkpoint import VerifierKey
from audit.errors import CheckpointInvalid, QueryError
from audit.instance import Instance
from audit.keychain import KeyChain
from audit.query.commands import DEFAULT_DATA, Data, whole_arn
from audit.query.filters import Filter, KeyName, parse_pair
from audit.query.private import with_digests
from audit.query.render import clean, record_line
from audit.query.terminal import FINDINGS, OK, check_target, errors, exit_with, note, progress_bar
from audit.query.times import parse_time, time_text
from audit.report import Verdict
from audit.sealing.keys import KeyPlace

app = typer.Typer()

_SIGNS = {Verdict.PASSED: "\u2713", Verdict.FAILED: "\u2717", Verdict.NOT_CHECKED: "\u2013"}
_ABSENT = "What is absent"


@app.command("attest-absence")
def attest_absence(
    fingerprint: Annotated[
        list[str] | None,
        typer.Option(help="SHA-256 (hex) of a CiphertextBlob; repeat for several.", rich_help_panel=_ABSENT),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Key ARN, key id, alias/NAME or alias ARN, as it stands in records.", rich_help_panel=_ABSENT),
    ] = None,
    caller: Annotated[
        str | None, typer.Option(help="ARN, user name, or user/alice; * stands for any text.", rich_help_panel=_ABSENT)
    ] = None,
    access_key: Annotated[str | None, typer.Option(help="Access key id.", rich_help_panel=_ABSENT)] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE of an encryption context; repeat: all of them.", rich_help_panel=_ABSENT),
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(help="Operation, such as Decrypt or 'GenerateDataKey*'; repeat for several.", rich_help_panel=_ABSENT),
    ] = None,
    error: Annotated[
        str | None,
        typer.Option(
            help="Error code, any, or none: calls that succeeded. Without it, whatever came of them.", rich_help_panel=_ABSENT
        ),
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="From this time on: 7d, 2026-01-31, …; without it, from the logs' beginning.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Before this time, exclusive; not in the future. Without it, up to now.")] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            help="A saved checkpoint; the document will prove that its logs extend it; - is standard input. Repeatable."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the document there, not to standard output.")] = None,
    sealer_key: Annotated[
        str,
        typer.Option(envvar="KEYTRAIL_SEALER_KEY", help="Where the sealer's key is, if not in the data folder: as the setting."),
    ] = "",
    sealer_kms_endpoint: Annotated[
        str, typer.Option(envvar="KEYTRAIL_SEALER_KMS_ENDPOINT", help="The KMS that has it, if not AWS's.")
    ] = "",
    data: Data = DEFAULT_DATA,
) -> None:
    """Attest that no record of such a call is in the logs, as a signed document that `verify-attestation` checks.

    All conditions have to hold of one record. Exits 1 where there is such a record, or lines that cannot be judged, and where the
    logs do not cover the whole interval.
    """
    with errors():
        now = datetime.now(UTC)
        target = None if out is None or str(out) == "-" else out.resolve()
        if target is not None:
            check_target(target, data)
            target.parent.stat()  # before the logs are read
        for name, value in (("--caller", caller), ("--access-key", access_key), ("--error", error)):
            if value == "":
                raise QueryError(f"{name} is empty: that nobody of no name called says nothing")
        question = Filter(
            since=None if from_ is None else parse_time(from_, now),
            until=None if to is None else parse_time(to, now),
            fingerprints=tuple(dict.fromkeys(text.lower() for text in fingerprint or ())),
            key=None if key is None else KeyName.parse(key),
            caller=whole_arn(caller),
            access_key=access_key,
            context=tuple(map(parse_pair, context or ())),
            events=tuple(event or ()),
            error=error,
            phases=ALL_PHASES,
        )
        place = KeyPlace(sealer_key, kms={"endpoint_url": sealer_kms_endpoint, "region": Instance.load(data).region})
        with progress_bar("reading the logs") as bar:
            asked = with_digests(question, data)
            finding, document = attest(data, asked, now, [_saved(path) for path in checkpoint or []], bar, place)
        if not finding.is_absent:
            _tell_hits(finding)
            raise typer.Exit(FINDINGS)
        if target is None:
            sys.stdout.buffer.write(document)
            sys.stdout.flush()
        else:
            durable.replace(target, document, mode=0o644)
        for line in _claim(finding.statement):
            note(line)
        for limit in finding.statement.limits():
            note(f"LIMITED: {limit}")
        for name in finding.unseen:
            note(f"HINT: {name} is in no record of these logs, of whatever time: was it mistyped?")
        exit_with(OK if finding.statement.is_complete else FINDINGS)


@app.command("verify-attestation")
def verify_attestation(
    file: Annotated[Path, typer.Argument(help="The document; - is standard input.")],
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", help="A verifier key of the instance, of any of its logs (`keytrail checkpoint --key`). Repeatable."
        ),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="A saved checkpoint, which the logs must agree with. Repeatable.")
    ] = None,
    changes: Annotated[
        Path | None,
        typer.Option(
            "--keys", help="The changes of the sealer's key (`keytrail sealer keys`), if the key given is an older one."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The report, and the statement, as JSON.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="A data folder: read its logs again, and hold the statement against them.")
    ] = None,
) -> None:
    """Check an attestation of absence, in numbered steps (docs/attestation.md); it needs no log, and no network."""
    with errors():
        keys = [_verifier_key(text) for text in key or []]
        saved = [_saved(path) for path in checkpoint or []]
        chain = _chain(changes, keys) if changes is not None else None
        with progress_bar("reading the logs") as bar:
            report = check(_read(file), keys, saved, data, bar, chain)
        if json:  # ASCII: text from a document stays text on a terminal
            sys.stdout.write(json_text.dumps(report.to_json(), indent=2) + "\n")
        else:
            _write_report(report)
        sys.stdout.flush()
    exit_with(OK if report.passed else FINDINGS)


def _write_report(report: AttestationReport) -> None:
    if report.statement is not None:
        for line in _claim(report.statement):
            typer.echo(clean(line))
    for step in report.steps:
        typer.echo(clean(f"  {_SIGNS[step.verdict]} {step.number}. {step.title}: {step.detail}"))
    for number, reason in report.faults:
        typer.echo(clean(f"{reason} (step {number})"))
    typer.echo("It holds." if report.passed else "IT DOES NOT HOLD AS IT STANDS.")


def _claim(statement: Statement) -> Iterator[str]:
    """What is claimed, in words."""
    start, end = statement.covered or ("nowhere", "nowhere")
    yield f"No record with {_question(statement.question)}, from {start} to before {end},"
    yield f"in the logs of the instance {statement.instance}, read {time_text(statement.made)}:"
    for log in statement.logs:
        newest = f", the newest of {log.newest}" if log.newest is not None else ""
        unsealed = f"; {log.unsealed} behind the checkpoint" if log.unsealed else ""
        aside = f"; {log.aside_files} torn tails set aside" if log.aside_files else ""
        yield f"  {log.log}: {log.records} records, {log.in_interval} of them in the interval{newest}{unsealed}{aside}"
    recorded = statement.recorded_until
    if recorded is not None and recorded < end:
        yield f"Behind {recorded} nothing is recorded: that the logs ended there is the signer's word."
    if statement.settled_until < end:
        yield f"Calls that arrived since {statement.settled_until} and were not answered yet may still be recorded."


def _question(asked: Filter) -> str:
    alternatives = " or ".join
    parts = [
        f"fingerprint {alternatives(asked.fingerprints)}" if asked.fingerprints else "",
        f"key {asked.key.text}" if asked.key is not None else "",
        f"caller {asked.caller}" if asked.caller is not None else "",
        f"access key {asked.access_key}" if asked.access_key is not None else "",
        *(f"context {name}={value}" for name, value in asked.context),
        f"event {alternatives(asked.events)}" if asked.events else "",
        {None: "", "any": "an error", "none": "no error"}.get(asked.error, f"error {asked.error}"),
    ]
    return " and ".join(filter(None, parts))


def _tell_hits(finding: Finding) -> None:
    found = [hits for both in finding.hits.values() for hits in both if hits.count]
    count = sum(hits.count for hits in found)
    first, last = min(hits.first for hits in found), max(hits.last for hits in found)
    note(f"NOT ABSENT: {count} {'record' if count == 1 else 'records'}, from {first} to {last}; nothing was signed")
    kept = [hit for hits in found for hit in hits.kept]
    for hit in kept:
        note(f"  {hit.place}  {record_line(hit)}")
    if len(kept) < count:
        note(f"  and {count - len(kept)} more: `keytrail query --intents` lists them")


def _verifier_key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except CheckpointInvalid as error:
        raise QueryError(f"--key: {error}") from error  # mistyped: nothing was checked yet


def _chain(path: Path, keys: list[VerifierKey]) -> KeyChain:
    """The changes of the key in a file, of the instance whose keys are given. Raises `CheckpointInvalid`."""
    instances = {key.name.split("/")[1] for key in keys if key.name.count("/") == 2}
    if len(instances) != 1:
        raise QueryError("--keys needs --key, of one instance")
    return KeyChain.read(_saved(path), instances.pop())


def _read(path: Path) -> bytes:
    """The file, but no more of it than an attestation can have."""
    if str(path) == "-":
        return sys.stdin.buffer.read(MAX_ENVELOPE_BYTES + 1)
    with path.open("rb") as file:
        return file.read(MAX_ENVELOPE_BYTES + 1)


def _saved(path: Path) -> str:
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    return data.decode("utf-8", "replace").replace("\r\n", "\n")
