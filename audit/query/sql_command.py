"""The command `sql`."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
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
from audit.query.statement import admit, confined, explain, limited
from audit.query.terminal import USAGE, errors, exit_with, note, progress_bar, warn_of

_FETCH_ROWS = 2_048
#: A table on a terminal needs all its rows before it can be drawn.
_TABLE_ROWS = 1_000

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

            def give_up() -> None:
                note(f"error: it could not be interrupted at its time limit, {time_limit:g} s, and was ended")
                events.remove_spill()
                os._exit(USAGE)

            with confined(time_limit, give_up), limited(events.database, time_limit, events.require_sound):
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
    if format is Format.JSON and len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise QueryError(f"columns of one name cannot be told apart in JSON: {', '.join(twice)}; give them names by AS")
    match format:
        case Format.TABLE:
            _write_table(names, rows)
        case Format.JSON:
            for row in rows:
                sys.stdout.write(_json(dict(zip(names, row, strict=True))) + "\n")
        case Format.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(map(render.cell, names))
            for row in rows:
                writer.writerow([_cell(value) for value in row])
    sys.stdout.flush()


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
    render.print_table(table, render.make_console(sys.stdout))
    if more:
        note(f"the first {_TABLE_ROWS} rows; --format json or csv prints all")
    else:
        note(f"{table.row_count} {'row' if table.row_count == 1 else 'rows'}")


def _cell(value: object) -> str:
    """A value in a CSV: numbers as they are, and no text that a spreadsheet or a terminal obeys."""
    return _text(value) if isinstance(value, int | float | Decimal) else render.cell(_text(value))


def _text(value: object) -> str:
    """A value of DuckDB's as text: lists and maps as JSON, moments as in the log."""
    match value:
        case None:
            return ""
        case datetime():
            return value.isoformat(sep=" ")
        case list() | dict() | tuple():
            return _json(value)
        case _:
            return str(value)


def _json(value: object) -> str:
    """Of one line, in ASCII; numbers of any size."""
    return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)


def _plain(value: object) -> object:
    """A value of DuckDB's in JSON's types: moments as the log writes them, what JSON has no type for as text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime():
            return f"{value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value:%Y-%m-%dT%H:%M:%S.%f}Z"
        case list() | tuple():
            return [_plain(one) for one in value]
        case dict():
            return {one if isinstance(one, str) else _text(one): _plain(other) for one, other in value.items()}
        case bytes():
            return value.hex()
        case _:
            return str(value)
