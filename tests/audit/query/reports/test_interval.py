from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import QueryError
from audit.query.reports.interval import Interval, between, last_quarter, quarter

NOW = datetime(2026, 5, 17, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026Q1", (2026, 1, 1), (2026, 4, 1)),
        ("2026q2", (2026, 4, 1), (2026, 7, 1)),
        ("2026-Q3", (2026, 7, 1), (2026, 10, 1)),
        (" 2025Q4 ", (2025, 10, 1), (2026, 1, 1)),
        ("0001Q1", (1, 1, 1), (1, 4, 1)),
    ],
)
def test_quarters(text: str, since: tuple[int, int, int], until: tuple[int, int, int]) -> None:
    assert quarter(text) == Interval(datetime(*since, tzinfo=UTC), datetime(*until, tzinfo=UTC))


@pytest.mark.parametrize("text", ["2026Q5", "2026Q0", "2026", "Q1", "26Q1", "2026Q1Q2", "9999Q4", "0000Q1", "", "２０２６Q1"])
def test_what_is_no_quarter(text: str) -> None:
    with pytest.raises(QueryError, match="accepted: 2026Q1"):
        quarter(text)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), "2025Q4"),
        (datetime(2026, 3, 31, 23, 59, 59, 999_999, tzinfo=UTC), "2025Q4"),
        (datetime(2026, 4, 1, tzinfo=UTC), "2026Q1"),
        (datetime(2026, 12, 31, 23, tzinfo=UTC), "2026Q3"),
    ],
)
def test_the_last_quarter_is_over(now: datetime, expected: str) -> None:
    assert last_quarter(now) == quarter(expected)


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC)))
def test_quarters_follow_each_other_without_a_gap(now: datetime) -> None:
    last = last_quarter(now)
    assert last.until <= now < last_quarter(last.until + timedelta(days=100)).until
    assert last_quarter(last.until).until == last.until
    assert last_quarter(last.until - timedelta(microseconds=1)).until == last.since


def test_between() -> None:
    assert between("2026-01-01", "2026-02-01", NOW).until == datetime(2026, 2, 1, tzinfo=UTC)
    assert between("1d", None, NOW) == Interval(NOW - timedelta(days=1), NOW)


@pytest.mark.parametrize(("since", "until"), [("2026-02-01", "2026-01-01"), ("2026-01-01", "2026-01-01"), ("now", None)])
def test_an_empty_interval_is_refused(since: str, until: str | None) -> None:
    with pytest.raises(QueryError, match="the interval is empty"):
        between(since, until, NOW)
