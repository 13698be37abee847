"""The command `sql`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import duckdb
import orjson
import typer
from rich.table import Table

from audit.errors import QueryError
from audit.query import render
from audit.query.commands import DEFAULT_DATA, Data, NoIndex, Since, Until, interval, note_index_fault
from audit.query.events import COLUMNS, open_events
from audit.query.statement import admit, explain, limited
from audit.query.terminal import errors, exit_with, note, progress_bar, warn_of

_FETCH_ROWS = 2_048
#: A table on a terminal needs all its rows before it can be drawn.
_TABLE_ROWS = 1_000
_WIDEST = 1 << 20

app = typer.Typer()


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@app.command()
def sql(
    statement: Annotated[
        str | None, typer.Argument(metavar="SELECT", help="One SELECT over `events` or `calls`; - is standard input.")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for $NAME in the statement; the value as JSON, else as text. Repeatable.")
    ] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Print the columns instead, and what each is.")] = False,
    explain_: Annotated[bool, typer.Option("--explain", help="Print how DuckDB would answer it instead.")] = False,
    since: Since = None,
    until: Until = None,
    format: Annotated[Format, typer.Option("--format", help="table; json: a line a row; csv.")] = Format.TABLE,
    time_limit: Annotated[float, typer.Option(min=0.001, help="Interrupt it after so many seconds.")] = 300.0,
    no_index: NoIndex = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Ask in SQL (DuckDB's): `events` has each record, `calls` leaves out the intents of changes. Reads, and nothing else.

    Exits 1 where lines of the log were damaged, so that the answer may lack some. Ctrl-C interrupts.
    """
    with errors():
        if columns:
            for name, meaning in COLUMNS.items():
                typer.echo(f"{name:22}{meaning}")
            return
        if statement is None:
            raise QueryError("a SELECT is missing; `keytrail sql --columns` tells what there is")
        text = sys.stdin.read() if statement == "-" else statement
        values = dict(map(_parameter, parameter or ()))
        first, last = interval(since, until)
        with (
            progress_bar("reading") as progress,
            open_events(data, since=first, until=last, use_index=not no_index, progress=progress) as events,
        ):
            progress.stop()
            admit(events.database, text)
            with limited(events.database, time_limit):
                if explain_:
                    typer.echo(explain(events.database, text, values))
                else:
                    _write(events.database.execute(text, values or None), format)
            note_index_fault(events.index_fault)
            exit_with(warn_of(events.damaged))


def _parameter(text: str) -> tuple[str, object]:
    """``NAME=VALUE``. Raises `QueryError`."""
    name, divider, value = text.partition("=")
    if not divider or not name.isidentifier():
        raise QueryError(f"not a parameter: {text!r}; accepted: NAME=VALUE")
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value


def _write(answer: duckdb.DuckDBPyConnection, format: Format) -> None:
    names = [column[0] for column in answer.description or ()]
    rows = _rows(answer)
    match format:
        case Format.TABLE:
            _write_table(names, rows)
        case Format.JSON:
            for row in rows:
                sys.stdout.buffer.write(orjson.dumps(dict(zip(names, row, strict=True)), default=str, option=_JSON) + b"\n")
        case Format.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(names)
            for row in rows:
                writer.writerow([_text(value) for value in row])
    sys.stdout.flush()


_JSON = orjson.OPT_NON_STR_KEYS | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


def _rows(answer: duckdb.DuckDBPyConnection) -> Iterator[Sequence[Any]]:
    while batch := answer.fetchmany(_FETCH_ROWS):
        yield from batch


def _write_table(names: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    table = Table(*map(render.clean, names), box=None, pad_edge=False, header_style="bold")
    more = False
    for number, row in enumerate(rows):
        if more := number == _TABLE_ROWS:
            break
        table.add_row(*(render.plain(_text(value)) for value in row))
    width = None if sys.stdout.isatty() else _WIDEST  # nothing is cut off for a program that reads it
    render.make_console(sys.stdout, width).print(table)
    if more:
        note(f"the first {_TABLE_ROWS} rows; --format json or csv prints all")
    else:
        note(f"{table.row_count} {'row' if table.row_count == 1 else 'rows'}")


def _text(value: object) -> str:
    """A value of DuckDB's as a cell: lists and maps as JSON, moments as the log writes them."""
    match value:
        case None:
            return ""
        case datetime():
            return value.isoformat(sep=" ")
        case list() | dict() | tuple():
            return orjson.dumps(value, default=str, option=_JSON).decode()
        case _:
            return str(value)
