"""The command `detect`: options to values, findings as JSON lines or a table; no decision about events."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from audit.errors import QueryError
from audit.query.artifacts.recognise import read as recognise
from audit.query.artifacts.sources import find_artifacts, is_place
from audit.query.blob import fingerprint_in, fingerprint_of_text
from audit.query.commands import DEFAULT_DATA, Data, NoIndex, Until, note_index_fault
from audit.query.detections.contracts import learn, to_toml
from audit.query.detections.findings import Finding, Severity, Unevaluated
from audit.query.detections.run import Outcome, detect, prepare
from audit.query.detections.settings import Canary, Settings, load_settings, parse_duration, parse_severity
from audit.query.events import Events, open_events
from audit.query.render import make_console, plain, print_table, short_caller, short_key
from audit.query.statement import limited
from audit.query.terminal import FINDINGS, OK, errors, exit_with, note, progress_bar, warn_of
from audit.query.times import parse_time, time_text

_STYLES = {Severity.CRITICAL: "bold red", Severity.HIGH: "red", Severity.MEDIUM: "yellow"}
_FINGERPRINT_BYTES = 100  # of a file that holds the 64 digits of one, and white space

app = typer.Typer()


class Format(StrEnum):
    """How findings are printed."""

    TABLE = "table"
    JSON = "json"


@app.command(name="detect")
def command(
    since: Annotated[str, typer.Option(help="Findings from this time on: 24h, 7d, 2026-01-31.")] = "24h",
    until: Until = None,
    baseline: Annotated[str, typer.Option(help="How long before --since tells what is usual: 90d, 2w.")] = "90d",
    rules: Annotated[
        list[Path] | None,
        typer.Option("--rules", help="A TOML file of settings: thresholds, suppressions, canaries, contracts. Repeatable."),
    ] = None,
    sigma: Annotated[
        list[Path] | None, typer.Option("--sigma", help="A Sigma rule for CloudTrail, or a folder of such. Repeatable.")
    ] = None,
    canary: Annotated[
        list[str] | None,
        typer.Option(
            "--canary", help="What nobody has reason to use: a fingerprint, a CiphertextBlob, a file with data keys. Repeatable."
        ),
    ] = None,
    min_severity: Annotated[
        str, typer.Option("--min-severity", help="Tell findings from this on: informational, low, medium, high, critical.")
    ] = "low",
    evidence: Annotated[int, typer.Option(min=0, help="So many records are named for each finding.")] = 10,
    format: Annotated[
        Format | None,
        typer.Option(
            "--format", help="json: a line a finding; table. [default: table on a terminal, else json]", show_default=False
        ),
    ] = None,
    learn_contracts: Annotated[
        bool,
        typer.Option("--learn-contracts", help="Print what the encryption contexts since --since have in common, for --rules."),
    ] = False,
    min_uses: Annotated[int, typer.Option(min=1, help="Learn of keys with so many calls only.")] = 20,
    time_limit: Annotated[float, typer.Option(min=0.001, help="Interrupt it after so many seconds.")] = 600.0,
    no_index: NoIndex = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Ask rules of the log: bursts, probing, first uses, canaries, contracts, changes of keys (docs/detections.md).

    Exits 1 where something was found, a rule could not be asked, or lines of the log were damaged.
    """
    with errors():
        now = datetime.now(UTC)
        first = parse_time(since, now)
        last = parse_time(until, now) if until is not None else None
        if last is not None and last <= first:
            raise QueryError("--until is not after --since")
        before = parse_duration("--baseline", baseline)
        least = parse_severity("--min-severity", min_severity)
        settings = load_settings(rules or [])
        settings = settings.merged(Settings(canaries=tuple(one for text in canary or () for one in _canaries(text))))
        with (
            progress_bar("reading") as progress,
            open_events(
                data, since=first if learn_contracts else first - before, until=last, use_index=not no_index, progress=progress
            ) as events,
        ):
            progress.stop()
            found = False
            with limited(events.database, time_limit, events.require_sound):
                prepare(events.database)
                if learn_contracts:
                    sys.stdout.write(to_toml(list(learn(events.database, first, min_uses))))
                else:
                    outcome = _ask(events, settings, sigma or (), first, before, now, least, evidence)
                    found = bool(outcome.findings or outcome.unevaluated)
                    _write(outcome, format or (Format.TABLE if sys.stdout.isatty() else Format.JSON))
            sys.stdout.flush()
            note_index_fault(events.index_fault)
            exit_with(max(warn_of(events.damaged), FINDINGS if found else OK))


def _ask(
    events: Events,
    settings: Settings,
    sigma: Sequence[Path],
    since: datetime,
    baseline: timedelta,
    now: datetime,
    least: Severity,
    evidence: int,
) -> Outcome:
    if not sigma:
        return detect(events.database, settings, since, baseline, now=now, least=least, evidence=evidence)
    from audit.query.detections.sigma import load  # half a second, which only this needs

    ruleset = load(sigma, events.database, since)
    if ruleset.elsewhere:
        are = "rule is" if ruleset.elsewhere == 1 else "rules are"
        note(f"{ruleset.elsewhere} Sigma {are} for another log source than CloudTrail, and left out")
    return detect(
        events.database,
        settings,
        since,
        baseline,
        now=now,
        least=least,
        evidence=evidence,
        more=ruleset.questions,
        unevaluated=ruleset.unevaluated,
    )


def _canaries(text: str) -> list[Canary]:
    """The canaries that an argument names: itself, or the data keys in a file. Raises `QueryError`, OSError."""
    if not is_place(text):
        return [Canary(fingerprint_of_text(text))]
    canaries = []
    for artifact in find_artifacts(text, sys.stdin.buffer, None):
        content = artifact.read(0, min(artifact.size_bytes, _FINGERPRINT_BYTES))
        lone = fingerprint_in(content) if artifact.size_bytes <= _FINGERPRINT_BYTES else None
        listed = [lone] if lone is not None else recognise(artifact).fingerprints
        canaries += [Canary(fingerprint, f"a canary of {artifact.name}") for fingerprint in listed]
    if not canaries:
        raise QueryError(f"--canary: no data key in {text}")
    return canaries


def _write(outcome: Outcome, format: Format) -> None:
    if format is Format.JSON:  # ASCII: text from a log stays text on a terminal
        listed: list[Finding | Unevaluated] = [*outcome.findings, *outcome.unevaluated]
        for told in listed:
            sys.stdout.write(json.dumps(told.to_json()) + "\n")
    else:
        _write_table(outcome)
    for text in outcome.notes:
        note(f"note: {text}")
    for suppression, count in outcome.suppressed:
        note(f"{_many(count, 'finding')} suppressed until {time_text(suppression.until)[:10]}: {suppression.reason}")
    counts = Counter(one.severity for one in outcome.findings)
    by_severity = ", ".join(f"{counts[severity]} {severity.word}" for severity in sorted(counts, reverse=True))
    below = f"; {outcome.below} below --min-severity" if outcome.below else ""
    note(f"{_many(len(outcome.findings), 'finding')}{f' ({by_severity})' if by_severity else ''}{below}")
    if outcome.unevaluated:
        note(f"{_many(len(outcome.unevaluated), 'rule')} could not be asked")


def _write_table(outcome: Outcome) -> None:
    console = make_console(sys.stdout)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("severity", no_wrap=True)
    table.add_column("rule", no_wrap=True, max_width=12)
    table.add_column("first (UTC)", no_wrap=True, min_width=19)
    table.add_column("what", overflow="fold", ratio=1)
    for one in outcome.findings:
        style = _STYLES.get(one.severity, "")
        table.add_row(
            plain(one.severity.word, style), plain(one.rule), plain(time_text(one.first)[:19].replace("T", " ")), _what(one)
        )
    for rule in outcome.unevaluated:
        table.add_row(plain("not asked", "red"), plain(rule.rule), "", plain(f"{rule.title} {rule.where}: {rule.reason}".strip()))
    if table.row_count:
        print_table(table, console)


def _what(finding: Finding) -> Text:
    subject = "  ".join(f"{name} {_short(name, value)}" for name, value in finding.subject.items() if value is not None)
    places = ", ".join(f"{one.log} {one.record}" for one in finding.evidence if one.origin == "keytrail")
    lines = [plain(finding.title, "bold"), plain(finding.why), plain(subject, "cyan")]
    if places:
        more = f" and {finding.count - len(finding.evidence)} more" if finding.count > len(finding.evidence) else ""
        lines.append(plain(f"records {places}{more}", "dim"))
    return Text("\n").join(line for line in lines if line)


def _short(name: str, value: str) -> str:
    return short_key(value) if name == "key" else short_caller(value)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
