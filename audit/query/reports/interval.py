"""The interval of a report: from options to two moments. Pure: `now` is an argument."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from audit.errors import QueryError
from audit.query.times import parse_time, time_text

_QUARTER = re.compile(r"(\d{4})-?Q([1-4])", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Interval:
    """From `since` on, before `until`; both aware, UTC. Raises `QueryError` where nothing lies between them."""

    since: datetime
    until: datetime

    def __post_init__(self) -> None:
        if self.since >= self.until:
            raise QueryError(f"the interval is empty: it begins at {time_text(self.since)} and ends at {time_text(self.until)}")


def quarter(text: str) -> Interval:
    """The quarter that ``2026Q1`` names, in UTC. Raises `QueryError`."""
    found = _QUARTER.fullmatch(text.strip())
    if found is None or not 1 <= int(found[1]) < 9999:
        raise QueryError(f"not a quarter: {text!r}; accepted: 2026Q1")
    return _quarter(int(found[1]), int(found[2]) - 1)


def last_quarter(now: datetime) -> Interval:
    """The last quarter that is over."""
    today = now.astimezone(UTC)
    return _quarter(today.year, (today.month - 1) // 3 - 1)


def between(since: str, until: str | None, now: datetime) -> Interval:
    """What `--since` and `--until` name, the latter by default `now`. Raises `QueryError`."""
    return Interval(parse_time(since, now), parse_time(until, now) if until is not None else now)


def _quarter(year: int, index: int) -> Interval:
    """`index` counts from 0 at the year's first; it may lie in the years around."""
    return Interval(_first_day(year, index), _first_day(year, index + 1))


def _first_day(year: int, quarter_index: int) -> datetime:
    years, index = divmod(quarter_index, 4)
    return datetime(year + years, 3 * index + 1, 1, tzinfo=UTC)
