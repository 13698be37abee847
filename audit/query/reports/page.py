"""A report as one HTML page: no script, nothing loaded from anywhere, fit to be printed and signed.

Whatever a record holds was written by whoever called. The template escapes every value, the page's policy forbids scripts and
every load, and characters that could mislead a reader (controls, directions) are shown as escapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import jinja2

from audit.query.render import clean
from audit.query.reports.build import Document, Row, State, Table, coverage_remark
from audit.query.reports.charts import Panel, draw
from audit.query.reports.questions import Column, Kind
from audit.report import Verdict

_TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True, slots=True)
class Cell:
    """`style` is a class of the page's style sheet; `lead` is the part of an ARN that its neighbours share; `lines` are those of
    a list or of a change, each with its class."""

    style: str
    text: str = ""
    lead: str = ""
    lines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A table as it is shown; `parameters` are those of its statement, as JSON."""

    table: Table
    number: int
    parameters: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    panels: tuple[Panel, ...]


def html_page(document: Document) -> bytes:
    """The page, UTF-8."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"clean": clean, "day_time": day_time}
    text = environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        document=document,
        verification=document.verification.to_json(),
        is_sound=document.verification.state is State.PASSED,
        verdicts=list(Verdict),
        coverage=[(one, coverage_remark(one, document.interval)) for one in document.coverage],
        since=moment_text(document.interval.since),
        until=moment_text(document.interval.until),
        made_at=moment_text(document.made_at),
        sections=list(_sections(document)),
    )
    return text.encode()


def _sections(document: Document) -> Iterator[Section]:
    for number, table in enumerate(document.tables, 1):
        columns = tuple(column for column in table.question.columns if column.kind is not Kind.POLICY)
        rows = tuple(tuple(_cell(column, row) for column in columns) for row in table.rows)
        parameters = tuple((name, json.dumps(value)) for name, value in table.parameters.items())
        yield Section(table, number, parameters, columns, rows, tuple(draw(table.question, table.rows)))


def _cell(column: Column, row: Row) -> Cell:
    value = row[column.name]
    if value is None:
        return Cell("none", "–")
    match column.kind:
        case Kind.ARN:
            lead, text = _split_arn(clean(str(value)))
            return Cell("arn", text, lead)
        case Kind.NUMBER:
            return Cell("number", f"{value:,}")
        case Kind.MOMENT:
            return Cell("moment", moment_text(value))
        case Kind.DAY:
            return Cell("moment", value.isoformat() if isinstance(value, date) else clean(str(value)))
        case Kind.FLAG:
            return Cell("flag", "yes" if value else "no")
        case Kind.LIST:
            return Cell("list", lines=tuple(("", clean(str(one))) for one in value))
        case Kind.DIFF:
            return Cell("diff", lines=tuple((_LINES.get(line[:1], ""), clean(line)) for line in str(value).split("\n")))
        case Kind.TEXT | Kind.POLICY:
            return Cell("text", clean(str(value)))


_LINES = {"+": "added", "-": "removed", "@": "at"}


def moment_text(moment: datetime) -> str:
    """To the second, UTC."""
    return moment.isoformat(sep=" ", timespec="seconds")[:19] + "Z"


def day_time(text: str | None) -> str:
    """A time of the log as `moment_text` writes it."""
    return "–" if text is None else clean(text[:19].replace("T", " ")) + "Z"


def _split_arn(text: str) -> tuple[str, str]:
    """An ARN in two: what names the account and the kind, and the rest."""
    if not text.startswith("arn:") or text.count(":") < 5:
        return "", text
    end = len(text) - len(text.split(":", 5)[5])
    if text.startswith("key/", end):
        end += len("key/")
    return text[:end], text[end:]
