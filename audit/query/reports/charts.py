"""The geometry of charts: rows of a table become rectangles and labels; the page draws them as SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from audit.query.render import short_caller, short_key
from audit.query.reports.questions import Chart, Kind, Question, Shape

WIDTH = 720
_BARS = 12
_BAR_HEIGHT, _BAR_GAP, _LABEL_WIDTH, _NUMBER_WIDTH, _LABEL_CHARACTERS = 16, 6, 260, 80, 40
_COLUMNS_HEIGHT, _MARGIN = 110, 18


@dataclass(frozen=True, slots=True)
class Mark:
    """A rectangle that stands for `value` at `label`; lengths in pixels."""

    x: float
    y: float
    width: float
    height: float
    label: str
    value: int


@dataclass(frozen=True, slots=True)
class Label:
    x: float
    y: float
    text: str
    anchor: str  # SVG's text-anchor


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. `description` is for those who do not see it."""

    title: str
    description: str
    width: int
    height: int
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]


def draw(question: Question, rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """A panel for each measure of the question's chart; none where there is nothing to draw."""
    if question.chart is None or not rows:
        return []
    panel = _bars if question.chart.shape is Shape.BARS else _columns
    return [panel(question, question.chart, measure, rows) for measure in question.chart.measures]


def _bars(question: Question, chart: Chart, measure: str, rows: Sequence[dict[str, Any]]) -> Panel:
    drawn = sorted(rows, key=lambda row: -row[measure])[:_BARS]
    most = max(max(row[measure] for row in drawn), 1)
    room = WIDTH - _LABEL_WIDTH - _NUMBER_WIDTH
    marks, labels = [], []
    for number, row in enumerate(drawn):
        y = number * (_BAR_HEIGHT + _BAR_GAP)
        length = room * row[measure] / most
        name, base = label_text(row[chart.label]), y + _BAR_HEIGHT - 4
        marks.append(Mark(_LABEL_WIDTH, y, round(length, 2), _BAR_HEIGHT, name, row[measure]))
        labels.append(Label(_LABEL_WIDTH - 8, base, _shortened(name), "end"))
        labels.append(Label(round(_LABEL_WIDTH + length + 6, 2), base, f"{row[measure]:,}", "start"))
    heading = _heading(question, measure)
    which = f"the {len(drawn)} that have most, of {len(rows)}" if len(rows) > len(drawn) else f"all {len(drawn)}"
    description = f"Bars of {heading.lower()} for each {_heading(question, chart.label).lower()}: {which}."
    height = len(drawn) * (_BAR_HEIGHT + _BAR_GAP)
    return Panel(heading, description, WIDTH, height, tuple(marks), tuple(labels))


def _columns(question: Question, chart: Chart, measure: str, rows: Sequence[dict[str, Any]]) -> Panel:
    most, total = max(row[measure] for row in rows), sum(row[measure] for row in rows)
    step = WIDTH / len(rows)
    gap = min(step * 0.2, 2)
    marks = [
        Mark(
            round(number * step, 2),
            round(_MARGIN + _COLUMNS_HEIGHT * (1 - row[measure] / max(most, 1)), 2),
            round(step - gap, 2),
            round(_COLUMNS_HEIGHT * row[measure] / max(most, 1), 2),
            label_text(row[chart.label]),
            row[measure],
        )
        for number, row in enumerate(rows)
    ]
    base = _MARGIN + _COLUMNS_HEIGHT + 14
    labels = [Label(0, 12, f"at most {most:,}", "start"), Label(0, base, marks[0].label, "start")]
    if len(marks) > 1:
        labels.append(Label(WIDTH, base, marks[-1].label, "end"))
    heading = _heading(question, measure)
    highest = next(mark for mark in marks if mark.value == most)
    description = f"Columns of {heading.lower()} from {marks[0].label} to {marks[-1].label}: {total:,} in all, " + (
        f"most at {highest.label}, with {most:,}." if most else "none at any time."
    )
    return Panel(heading, description, WIDTH, base + 6, tuple(marks), tuple(labels))


def label_text(value: object) -> str:
    match value:
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M")
        case date():
            return value.isoformat()
        case None:
            return "(none)"
        case _:
            text = str(value)
            return short_key(text) if ":key/" in text else short_caller(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1] + "…"


def _heading(question: Question, name: str) -> str:
    return next(column.heading for column in question.columns if column.name == name and column.kind is not Kind.POLICY)
