"""The commands of `keytrail import`: options to values, and answers to the terminal; no decision about events."""

from __future__ import annotations

import json as json_text
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from audit.imports.bypasses import Asked, Bypasses, find_bypasses
from audit.imports.kept import Status, raw_events, statuses
from audit.imports.reading import How, Report, import_files
from audit.imports.store import Import
from audit.imports.store import remove as remove_import
from audit.query.commands import DEFAULT_DATA, Data, interval
from audit.query.imported import require_import
from audit.query.render import clean, make_console, plain, print_table, short_caller, short_key
from audit.query.terminal import FINDINGS, OK, errors, exit_with, note, progress_bar, warn_of

_TABLE_ROWS = 1_000
_NOT_VERIFIED = "not verified by keytrail: `aws cloudtrail validate-logs` checks AWS's files against their digests"

app = typer.Typer(
    name="import",
    no_args_is_help=True,
    help="Keep what AWS's own CloudTrail logged beside the log. It is no evidence of keytrail's.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the import.")]


@app.command()
def cloudtrail(
    where: Annotated[
        str,
        typer.Argument(
            metavar="PATH|s3://BUCKET/PREFIX", help="CloudTrail's log files: a folder, one file, or a prefix of a bucket."
        ),
    ],
    name: Annotated[str, typer.Option(help="What the import is called; one that is there is added to.")],
    all_sources: Annotated[
        bool, typer.Option("--all-sources", help="The events of every service, and not of KMS alone.")
    ] = False,
    reread: Annotated[
        bool, typer.Option("--reread", help="Objects of S3 too that were read already, by their name and size.")
    ] = False,
    s3_endpoint: Annotated[str | None, typer.Option(help="URL of an S3 that is not AWS's.")] = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Import CloudTrail's log files; again, and only what is new is added.

    Exits 1 where files or events could not be read; the rest is imported.
    """
    with errors():
        with progress_bar("importing") as progress, Import(data, name) as store:
            report = import_files(store, where, How(all_sources, reread, s3_endpoint), progress)
        _write_report(name, report)
        exit_with(FINDINGS if report.faults else OK)


@app.command("list")
def list_(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Tell what was imported."""
    with errors():
        found = statuses(data)
        if json:
            document = [asdict(one) | {"verified": False} for one in found]
            _write_json(document)
            return
        for one in found:
            _write_status(one)
        note(_NOT_VERIFIED if found else f"nothing was imported in {data}")


@app.command()
def show(
    what: Annotated[
        str,
        typer.Argument(metavar="EVENT-ID|NAME/RECORD", help="An event's id; or its import and its number, as in the columns."),
    ],
    data: Data = DEFAULT_DATA,
) -> None:
    """Print an event as it stood in AWS's file, on one line; from each import that has it.

    Exits 1 where none has.
    """
    with errors():
        found = 0
        for line in raw_events(data, what):
            sys.stdout.buffer.write(line + b"\n")
            found += 1
        sys.stdout.flush()
        if not found:
            note(f"no event {what!r} was imported")
            exit_with(FINDINGS)


@app.command()
def bypasses(
    since: Annotated[
        str | None, typer.Option(help="From this time on, calls had to pass keytrail [default: our first record].")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before this time, exclusive [default: our last record].")] = None,
    account: Annotated[list[str] | None, typer.Option(help="Calls of this account only; repeatable.")] = None,
    region: Annotated[list[str] | None, typer.Option(help="Calls of this region only; repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Tell which calls AWS logged and keytrail did not, of what was imported: by caller, operation and key.

    Exits 1 where there is one, or the log is damaged.
    """
    with errors():
        first, last = interval(since, until)
        with progress_bar("reading") as progress:
            found = find_bypasses(data, Asked(first, last, tuple(account or ()), tuple(region or ())), progress=progress)
        if json:
            document = {name: value for name, value in asdict(found).items() if name != "damaged"} | {"calls": found.calls}
            document["damaged"] = [str(one) for one in found.damaged]
            _write_json(document)
        else:
            _write_bypasses(found, make_console(sys.stdout))
        sys.stdout.flush()
        exit_with(max(warn_of(found.damaged), FINDINGS if found.calls else OK))


@app.command()
def rebuild(name: Name, data: Data = DEFAULT_DATA) -> None:
    """Make the rows of an import anew, of the events that are kept as they came."""
    with errors():
        require_import(data, name)
        with Import(data, name) as store:
            store.rebuild()


@app.command()
def remove(name: Name, data: Data = DEFAULT_DATA) -> None:
    """Remove an import. The log and AWS's files are not touched."""
    with errors():
        remove_import(data, name)


def _write_json(document: object) -> None:
    """In ASCII: text from an event stays text on a terminal."""
    plain_values = orjson.loads(orjson.dumps(document, option=orjson.OPT_UTC_Z))  # moments as text
    sys.stdout.write(json_text.dumps(plain_values, indent=2) + "\n")


def _write_report(name: str, report: Report) -> None:
    parts = [
        f"{name}: {_count(report.added, 'event')} added",
        f"{report.known} were there" if report.known else "",
        f"{report.left_out} that are no calls of KMS left out" if report.left_out else "",
        f"from {_count(report.files, 'file')}" + (f", {report.known_files} of them known already" if report.known_files else ""),
    ]
    typer.echo("; ".join(filter(None, parts)))
    if report.faults:
        note(f"WARNING: {_count(report.faults, 'fault')} in AWS's files; the rest was imported:")
        for told in report.told:
            note(f"  {clean(told)}")  # also an end of line in a name
        if report.faults > len(report.told):
            note(f"  and {report.faults - len(report.told)} more")


def _write_status(one: Status) -> None:
    span = f" from {_short(one.since)} to {_short(one.until)}" if one.since and one.until else ""
    size = f"{one.size_bytes / (1 << 20):.1f} MiB"
    damaged = f"; {_count(len(one.damaged), 'file')} of AWS's could not be read wholly" if one.damaged else ""
    typer.echo(f"{one.name}: {_count(one.events, 'event')}{span}, of {_count(one.files, 'file')}, {size}; not verified{damaged}")
    for file, reason in sorted(one.damaged.items()):
        typer.echo(clean(f"  {file}: {reason}"))


def _write_bypasses(found: Bypasses, console: Console) -> None:
    for one in (
        f"judged: from {_moment(found.first)} to {_moment(found.last)} UTC",
        f"{_count(found.before, 'call')} without a record from before: history" if found.before else "",
        f"{_count(found.after, 'call')} without a record from after: has the traffic left keytrail?" if found.after else "",
        f"{_count(found.by_services, 'call')} without a record by AWS's own services" if found.by_services else "",
    ):
        if one:
            console.print(plain(one, "dim"), soft_wrap=not console.is_terminal)
    if found.found:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("calls", justify="right", no_wrap=True)
        for heading, ratio in (("caller", 4), ("access key", 3), ("event", 2), ("key", 4)):
            table.add_column(heading, overflow="fold", ratio=ratio)
        table.add_column("first (UTC)", no_wrap=True, min_width=19)
        table.add_column("last (UTC)", no_wrap=True, min_width=19)
        for group in found.found[:_TABLE_ROWS]:
            cells = (
                str(group.calls),
                short_caller(group.caller or "unknown"),
                group.access_key_id or "",
                group.event_name,
                short_key(group.key or ""),
                _moment(group.first),
                _moment(group.last),
            )
            table.add_row(*map(plain, cells))
        print_table(table, console)
    if len(found.found) > _TABLE_ROWS:
        note(f"the first {_TABLE_ROWS} of {len(found.found)} rows; --json prints all")
    verdict = f"{_count(found.calls, 'call')} did not pass keytrail." if found.calls else "Nothing found."
    console.print(plain(verdict, "bold red" if found.calls else "bold"))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _short(time: str) -> str:
    return time[:19].replace("T", " ")
