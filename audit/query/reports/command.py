"""The commands `report key-usage`, `access-review`, `quarterly` and `incident`: options to values, documents to files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from audit import durable
from audit.errors import QueryError
from audit.query.commands import DEFAULT_DATA, Data, NoIndex, note_index_fault
from audit.query.engine import Progress
from audit.query.render import make_console, plain, print_table
from audit.query.reports.build import (
    ACCESS_REVIEW,
    DEFAULT_ROWS,
    INCIDENT,
    KEY_USAGE,
    QUARTERLY,
    Document,
    ReportKind,
    State,
    build,
    coverage_remark,
)
from audit.query.reports.interval import Interval, between, last_quarter, quarter
from audit.query.reports.page import html_page, moment_text
from audit.query.reports.scope import Asked
from audit.query.terminal import FINDINGS, OK, check_target, errors, exit_with, note, progress_bar, warn_of
from audit.query.times import parse_time
from audit.report import Report as Verified

_STANDARD_OUTPUT = "-"

_ABOUT, _OUT = "What about", "Where to"
_SINCE = typer.Option(help="From this time on: 90d, 2026-01-01, 2026-01-31T08:30Z (UTC where no zone).", rich_help_panel=_ABOUT)
Since = Annotated[str | None, _SINCE]
SomeSince = Annotated[str, _SINCE]
Until = Annotated[str | None, typer.Option(help="Before this time, exclusive; without it, until now.", rich_help_panel=_ABOUT)]
Key = Annotated[str | None, typer.Option(help="This key: ARN, id, alias/NAME or alias ARN.", rich_help_panel=_ABOUT)]
Caller = Annotated[
    str | None,
    typer.Option(help="ARN, user name, user/alice, role/NAME; * stands for any text.", rich_help_panel=_ABOUT),
]
Html = Annotated[
    str | None,
    typer.Option("--html", metavar="FILE", help="The report as one HTML file; - is standard output.", rich_help_panel=_OUT),
]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="The report as JSON; - is standard output.", rich_help_panel=_OUT)
]
Rows = Annotated[int, typer.Option("--rows", min=1, help="Show at most so many rows of a table; it says how many there are.")]
Acknowledged = Annotated[
    list[Path] | None,
    typer.Option("--acknowledged", metavar="FILE", help="Acknowledgements to go by, as for `keytrail verify`. Repeatable."),
]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Do not verify the logs first; the report says so.")]


@dataclass(frozen=True, slots=True)
class _Out:
    """The options that all reports have."""

    html: str | None
    json: str | None
    rows: int
    acknowledged: list[Path] | None
    no_verify: bool
    no_index: bool
    data: Path


#: Verifies the logs of a data folder by the acknowledgements in these files. Raises `AuditError`, OSError.
VerifyKept: TypeAlias = Callable[[Path, Progress | None, Sequence[Path]], Verified]


def make_app(verify_logs: VerifyKept) -> typer.Typer:
    """The commands, with `verify_logs` for what lies beneath each report."""
    app = typer.Typer(
        name="report", no_args_is_help=True, help="Reports for reviewers, as HTML and JSON, each table with its query."
    )

    def write(kind: ReportKind, asked: Asked, since: datetime | None, until: datetime, now: datetime, out: _Out) -> None:
        _check_places(out)
        with progress_bar("reading") as reading, progress_bar("verifying") as verifying:

            def verify_next(done: int, total: int) -> None:
                reading.stop()
                verifying(done, total)

            def verify_all(data: Path, progress: Progress | None) -> Verified:
                return verify_logs(data, progress, out.acknowledged or [])

            document = build(
                kind,
                out.data,
                asked,
                since,
                until,
                made_at=now,
                version=metadata.version("keytrail"),
                verify_logs=None if out.no_verify else verify_all,
                max_rows=out.rows,
                use_index=not out.no_index,
                reading=reading,
                verifying=verify_next,
            )
        _write(document, out)
        exit_with(_warn(document))

    @app.command("key-usage")
    def key_usage(
        key: Key = None,
        since: Since = None,
        until: Until = None,
        html: Html = None,
        json: Json = None,
        rows: Rows = DEFAULT_ROWS,
        acknowledged: Acknowledged = None,
        no_verify: NoVerify = False,
        no_index: NoIndex = False,
        data: Data = DEFAULT_DATA,
    ) -> None:
        """Who used each key, how and from where; what was done to it; what is still under older key material.

        Of the whole log where no --since is given.
        """

        with errors():
            now = datetime.now(UTC)
            first = parse_time(since, now) if since is not None else None
            last = parse_time(until, now) if until is not None else now
            out = _Out(html, json, rows, acknowledged, no_verify, no_index, data)
            write(KEY_USAGE, Asked(key=key), first, last, now, out)

    @app.command("access-review")
    def access_review(
        caller: Caller = None,
        since: SomeSince = "90d",
        until: Until = None,
        html: Html = None,
        json: Json = None,
        rows: Rows = DEFAULT_ROWS,
        acknowledged: Acknowledged = None,
        no_verify: NoVerify = False,
        no_index: NoIndex = False,
        data: Data = DEFAULT_DATA,
    ) -> None:
        """What each principal touched, with which access keys, from where, for the first time ever; who is behind each role."""
        with errors():
            now = datetime.now(UTC)
            interval = between(since, until, now)
            out = _Out(html, json, rows, acknowledged, no_verify, no_index, data)
            write(ACCESS_REVIEW, Asked(caller=caller), interval.since, interval.until, now, out)

    @app.command("quarterly")
    def quarterly(
        quarter_: Annotated[
            str | None,
            typer.Option("--quarter", help="Such as 2026Q1; without it, the last one that is over.", rich_help_panel=_ABOUT),
        ] = None,
        since: Since = None,
        until: Until = None,
        html: Html = None,
        json: Json = None,
        rows: Rows = DEFAULT_ROWS,
        acknowledged: Acknowledged = None,
        no_verify: NoVerify = False,
        no_index: NoIndex = False,
        data: Data = DEFAULT_DATA,
    ) -> None:
        """Key users to be attested, and what PCI DSS 10 asks of the log: required fields, protection, daily review, retention."""

        with errors():
            now = datetime.now(UTC)
            interval = _quarter(quarter_, since, until, now)
            out = _Out(html, json, rows, acknowledged, no_verify, no_index, data)
            write(QUARTERLY, Asked(), interval.since, interval.until, now, out)

    @app.command("incident")
    def incident(
        since: SomeSince,
        until: Until = None,
        caller: Caller = None,
        access_key: Annotated[
            list[str] | None, typer.Option(help="Access key id; repeat for alternatives.", rich_help_panel=_ABOUT)
        ] = None,
        key: Key = None,
        source: Annotated[
            str | None, typer.Option(help="Source address, or network such as 10.0.0.0/8.", rich_help_panel=_ABOUT)
        ] = None,
        fingerprint: Annotated[
            list[str] | None,
            typer.Option(help="SHA-256 (hex) of a CiphertextBlob; repeat for alternatives.", rich_help_panel=_ABOUT),
        ] = None,
        html: Html = None,
        json: Json = None,
        rows: Rows = DEFAULT_ROWS,
        acknowledged: Acknowledged = None,
        no_verify: NoVerify = False,
        no_index: NoIndex = False,
        data: Data = DEFAULT_DATA,
    ) -> None:
        """The time line of an incident, and its blast radius: keys, contexts and data keys, and who else holds these.

        What the calls have in common is given by at least one of the options; where several are given, all must hold.
        """

        with errors():
            now = datetime.now(UTC)
            interval = between(since, until, now)
            asked = Asked(
                caller=caller,
                key=key,
                access_keys=tuple(access_key or ()),
                fingerprints=tuple(text.lower() for text in fingerprint or ()),
                source=source,
            )
            if not asked.is_anything:
                raise QueryError("name what it is about: --caller, --access-key, --key, --source or --fingerprint")
            out = _Out(html, json, rows, acknowledged, no_verify, no_index, data)
            write(INCIDENT, asked, interval.since, interval.until, now, out)

    return app


def _quarter(text: str | None, since: str | None, until: str | None, now: datetime) -> Interval:
    if text is not None and (since is not None or until is not None):
        raise QueryError("either --quarter, or --since and --until")
    if since is None and until is not None:
        raise QueryError("--until without --since")
    if since is not None:
        return between(since, until, now)
    return quarter(text) if text is not None else last_quarter(now)


def _check_places(out: _Out) -> None:
    """Raises `QueryError` where a report cannot, or must not, go there: before the work is done."""
    places = [place for place in (out.html, out.json) if place is not None]
    files = [Path(place).resolve() for place in places if place != _STANDARD_OUTPUT]
    if len(places) == 2 and (places[0] == places[1] or (len(files) == 2 and files[0] == files[1])):
        raise QueryError("--html and --json name the same place")
    for file in files:
        check_target(file, out.data)
        if not file.parent.is_dir():
            raise QueryError(f"there is no folder {file.parent}")


def _write(document: Document, out: _Out) -> None:
    for place, content in ((out.html, html_page), (out.json, Document.to_json)):
        if place == _STANDARD_OUTPUT:
            sys.stdout.buffer.write(content(document))
        elif place is not None:
            durable.replace(Path(place).resolve(), content(document))
    if out.html is None and out.json is None:
        write_summary(document, make_console(sys.stdout))
    sys.stdout.flush()


def write_summary(document: Document, console: Console) -> None:
    """What the report has, in a few lines, and how to get it."""
    interval = f"from {moment_text(document.interval.since)}, before {moment_text(document.interval.until)}"
    console.print(plain(f"{document.kind.title} {interval}", "bold"))
    for log in document.coverage:
        console.print(plain(f"log {log.log}: {coverage_remark(log, document.interval)}"), soft_wrap=True)
    console.print(plain(document.verification.text), soft_wrap=True)
    for one in document.notes:
        console.print(plain(one), soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for one_table in document.tables:
        table.add_row(plain(f"{one_table.row_count:,}"), plain(one_table.question.title))
    print_table(table, console)
    note("--html FILE writes the report, --json FILE its data; - is standard output")


def _warn(document: Document) -> int:
    """Say on standard error what the report stands on, where that is not sound; gives the exit code that it means."""
    note_index_fault(document.index_fault)
    if document.verification.state is not State.PASSED:
        note(f"WARNING: {document.verification.text}")
    unsound = document.verification.state in (State.FAILED, State.IMPOSSIBLE)
    return max(warn_of(document.damaged), FINDINGS if unsound else OK)
