from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from audit.query.reports.charts import WIDTH, draw
from audit.query.reports.questions import Chart, Column, Kind, Question, Shape
from tests.audit.query.builder import KEY_A

COLUMNS = (Column("what", "What"), Column("calls", "Calls", Kind.NUMBER), Column("denied", "Denied", Kind.NUMBER))


def question(shape: Shape, *measures: str) -> Question:
    return Question("id", "Title", "Asks?", "", COLUMNS, chart=Chart(shape, "what", measures))


def days(values: list[int]) -> list[dict[str, Any]]:
    return [{"what": date(2026, 1, 1) + timedelta(days=day), "calls": value, "denied": day} for day, value in enumerate(values)]


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_columns_stand_for_every_row(values: list[int]) -> None:
    rows = days(values)
    calls, denied = draw(question(Shape.COLUMNS, "calls", "denied"), rows)
    assert [mark.value for mark in calls.marks] == values
    assert [mark.value for mark in denied.marks] == list(range(len(values)))
    assert [mark.label for mark in calls.marks] == [row["what"].isoformat() for row in rows]
    for mark in calls.marks:
        assert 0 <= mark.x <= mark.x + mark.width <= WIDTH + 0.02
        assert 0 <= mark.y <= mark.y + mark.height <= calls.height
        assert (mark.height > 0) or mark.value * 10_000 < max(values) or not mark.value
    assert max(calls.marks, key=lambda mark: mark.height).height == (110 if any(values) else 0)
    assert f"{sum(values):,} in all" in calls.description


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40))
def test_bars_are_the_rows_that_have_most(values: list[int]) -> None:
    rows = [{"what": f"name {number}", "calls": value, "denied": 0} for number, value in enumerate(values)]
    [panel] = draw(question(Shape.BARS, "calls"), rows)
    assert [mark.value for mark in panel.marks] == sorted(values, reverse=True)[:12]
    for mark in panel.marks:
        assert values[int(mark.label.removeprefix("name "))] == mark.value
        assert mark.x + mark.width <= WIDTH
    assert (f"the 12 that have most, of {len(values)}" in panel.description) == (len(values) > 12)


def test_labels_are_short_names() -> None:
    rows: list[dict[str, Any]] = [
        {"what": KEY_A, "calls": 3, "denied": 0},
        {"what": "arn:aws:iam::111122223333:user/alice", "calls": 2, "denied": 0},
        {"what": None, "calls": 1, "denied": 0},
        {"what": "x" * 50, "calls": 0, "denied": 0},
    ]
    [panel] = draw(question(Shape.BARS, "calls"), rows)
    assert [mark.label for mark in panel.marks] == [KEY_A.rpartition("/")[2], "user/alice", "(none)", "x" * 50]
    assert [label.text for label in panel.labels][::2][-1] == "x" * 39 + "…"


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw(question(Shape.BARS, "calls"), []) == []
    assert draw(Question("id", "Title", "Asks?", "", COLUMNS), days([1])) == []
