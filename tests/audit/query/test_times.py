from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import QueryError
from audit.query.times import parse_time, time_text

NOW = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", datetime(2026, 3, 3, 12, 30, tzinfo=UTC)),
        ("2h", datetime(2026, 3, 10, 10, 30, tzinfo=UTC)),
        ("30m", datetime(2026, 3, 10, 12, 0, tzinfo=UTC)),
        ("2 days ago", datetime(2026, 3, 8, 12, 30, tzinfo=UTC)),
        ("1 Week", datetime(2026, 3, 3, 12, 30, tzinfo=UTC)),
        ("now", NOW),
        ("yesterday", datetime(2026, 3, 9, tzinfo=UTC)),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026-01-02 03:04", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
        ("2026-01-02T03:04:05.25Z", datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC)),
        ("2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("2026-01-02t03:04z", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
    ],
)
def test_times_that_are_accepted(text: str, expected: datetime) -> None:
    parsed = parse_time(text, NOW)
    assert parsed == expected
    assert parsed.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text", ["", "7", "7x", "d", "-7d", "2026-13-01", "2026-02-30", "20260102", "1736", "999999999w", "٧d", "last week"]
)
def test_what_is_no_time_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(QueryError, match="accepted: 7d, 2h"):
        parse_time(text, NOW)


@given(st.lists(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)), min_size=2, max_size=2))
def test_text_sorts_as_time_does_and_is_read_back(moments: list[datetime]) -> None:
    first, second = (moment.replace(tzinfo=UTC) for moment in moments)
    assert (time_text(first) < time_text(second)) == (first < second)
    assert parse_time(time_text(first), NOW) == first
