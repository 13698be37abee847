"""The command `reconcile`: options to values, and the report to the terminal; no decision about records."""

from __future__ import annotations

import json as json_text
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from audit.errors import QueryError
from audit.query.commands import DEFAULT_DATA, Data
from audit.query.render import make_console, plain, print_table, short_caller, short_key
from audit.query.terminal import FINDINGS, OK, errors, exit_with, progress_bar, warn_of
from audit.query.times import parse_time
from audit.reconcile.files import Wanted
from audit.reconcile.findings import Finding, Kind, Report
from audit.reconcile.judge import Terms
from audit.reconcile.judge import reconcile as compare_with

app = typer.Typer()

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_STYLES = {Kind.BYPASS: "red", Kind.UNCONFIRMED: "red", Kind.MISMATCH: "red", Kind.DUPLICATE: "yellow", Kind.UNREADABLE: "yellow"}
#: What each kind of finding says, in a reviewer's words.
_KINDS = {
    Kind.BYPASS: "calls that AWS logged and keytrail did not: they did not pass the proxy",
    Kind.UNCONFIRMED: "records that say AWS answered, without an event of AWS's: forged, or the event was lost",
    Kind.MISMATCH: "record and event of one request id that disagree",
    Kind.DUPLICATE: "request ids that several records, or several different events, have",
    Kind.UNREADABLE: "CloudTrail files, or parts of them, that could not be read",
}
_COUNTS = {
    "aws_events": "events of KMS in AWS's files",
    "records": "records of calls that AWS answered",
    "agreed": "pairs that agree",
    "by_aws_services": "events that AWS's services caused themselves",
    "explained": "events that a record accounts for without their request id (answer lost, ReplicateKey)",
    "after_log": "events after our newest record: has the traffic left the proxy?",
    "outside_interval": "events outside the time that our log covers, or that was asked for",
    "pending": "records too young for AWS to have delivered their event",
    "outside_aws_files": "records of a time, account or region that AWS's files do not cover",
    "failed": "records of refused calls without an event (AWS logs only some)",
    "unanswered": "records of calls without an answer of AWS's",
}


@app.command()
def reconcile(
    where: Annotated[
        str,
        typer.Argument(
            metavar="PATH|s3://BUCKET/PREFIX", help="CloudTrail's log files: a folder, one file, or a prefix of a bucket."
        ),
    ],
    since: Annotated[
        str | None, typer.Option(help="From this time on, calls had to pass the proxy [default: our first record].")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before this time, exclusive [default: our last record].")] = None,
    account: Annotated[list[str] | None, typer.Option(help="AWS's files of this account only; repeatable.")] = None,
    region: Annotated[list[str] | None, typer.Option(help="AWS's files of this region only; repeatable.")] = None,
    grace: Annotated[str, typer.Option(help="How late CloudTrail may deliver: 30m, 1h.")] = "30m",
    session_names: Annotated[
        bool,
        typer.Option(
            "--session-names", help="A role is assumed for each caller without a source identity: compare by its session."
        ),
    ] = False,
    endpoint_url: Annotated[
        str | None, typer.Option(help="URL of S3 [default: AWS's own, or AWS_ENDPOINT_URL_S3].", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Compare the log with AWS's own CloudTrail: calls that bypassed the proxy, records that AWS does not know, and pairs that
    disagree.

    Exits 1 where there is a finding, or the log is damaged.
    """
    with errors():
        now = datetime.now(UTC)
        wanted = Wanted(
            tuple(account or ()),
            tuple(region or ()),
            parse_time(since, now) if since is not None else None,
            parse_time(until, now) if until is not None else None,
        )
        terms = Terms(_duration(grace), session_names)
        with progress_bar("reading our log") as of_log, progress_bar("reading AWS's files") as of_files:

            def reading_files(done: int, total: int) -> None:
                of_log.stop()
                of_files(done, total)

            report, damaged = compare_with(
                data, where, wanted, terms, endpoint_url=endpoint_url, of_log=of_log, of_files=reading_files
            )
        if json:  # ASCII: text from a log stays text on a terminal
            sys.stdout.write(json_text.dumps(report.to_json(), indent=2) + "\n")
        else:
            write_report(report, make_console(sys.stdout))
        sys.stdout.flush()
        exit_with(max(warn_of(damaged), FINDINGS if report.has_findings else OK))


def write_report(report: Report, console: Console) -> None:
    """The report for people: counts, then the findings. Text of the log's and of AWS's is never a command to the terminal."""
    interval = f"from {report.interval[0]} to {report.interval[1]}" if report.interval else "(our log is empty)"
    _say(console, f"{report.files} CloudTrail files against our log {interval}", "bold")
    for account, region, oldest, newest in report.coverage:
        _say(console, f"  {account or 'no account'} {region or 'no region'}: events from {oldest} to {newest}", "dim")
    counts = Table(box=None, pad_edge=False, show_header=False)
    counts.add_column(justify="right", no_wrap=True)
    counts.add_column(overflow="fold")
    for name, words in _COUNTS.items():
        number = getattr(report.counts, name)
        if number or name in ("aws_events", "records", "agreed"):
            counts.add_row(plain(str(number)), plain(words))
    for kind, words in _KINDS.items():
        if report.totals[kind]:
            counts.add_row(plain(str(report.totals[kind]), _STYLES[kind]), plain(f"{kind.value.upper()}: {words}", _STYLES[kind]))
    print_table(counts, console)
    for service, number in sorted(report.services.items()):
        _say(console, f"  by {service}: {number}", "dim")
    for text in report.notes:
        _say(console, f"Note: {text}", "yellow")
    if report.findings:
        console.print()
        print_table(_findings(report.findings), console)
    listed, total = len(report.findings), sum(report.totals.values())
    if listed < total:
        _say(console, f"{total - listed} more findings are counted above and not listed.", "yellow")
    _say(console, "FINDINGS." if report.has_findings else "Nothing found.", "bold")


def _findings(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("finding", no_wrap=True, min_width=11)
    table.add_column("time (UTC)", no_wrap=True, min_width=19)
    table.add_column("what", overflow="fold", ratio=1)
    for one in findings:
        time = one.time[:19].replace("T", " ")
        what = Text("\n").join(plain(line) for line in _what(one))
        table.add_row(plain(one.kind.value, _STYLES[one.kind]), plain(time), what)
    return table


def _what(finding: Finding) -> Iterator[str]:
    """The lines that tell of a finding."""
    if finding.operation:
        yield f"{finding.operation} by {short_caller(finding.caller)}"
        yield f"key {' '.join(map(short_key, finding.keys))}" if finding.keys else "no key"
        yield f"request {finding.request_id}"
    for one in finding.differences:
        yield f"{one.field}: ours {one.ours or '–'} ↔ AWS's {one.aws or '–'}"
    if finding.detail:
        yield finding.detail
    yield from (f"in {place}" for place in finding.places or finding.files)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(plain(text, style), soft_wrap=not console.is_terminal)


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip(), re.ASCII)
    if found is None:
        raise QueryError(f"not a duration: {text!r}; accepted: 45s, 30m, 1h, 2d")
    return timedelta(seconds=int(found[1]) * _UNITS_S[found[2]])
