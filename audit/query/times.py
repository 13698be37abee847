"""Times as people write them: ``7d``, ``2 days ago``, ``2026-01-02``, ``2026-01-02T03:04:05+02:00``. Pure: `now` is an
argument."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from audit.errors import QueryError

ACCEPTED = (
    "7d, 2h, 30m, 45s, 1w, '2 days ago', now, today, yesterday, "
    "2026-01-31, 2026-01-31T08:30, 2026-01-31T08:30:00Z, 2026-01-31T08:30:00+02:00"
)

_RELATIVE = re.compile(r"(\d{1,9})\s*([a-z]+?)(?:\s+ago)?", re.ASCII)
_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3_600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "week", "weeks"), 604_800),
}
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?\s?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)


def parse_time(text: str, now: datetime) -> datetime:
    """The moment that `text` names, in UTC; a time without a zone is UTC, a date is its first moment.

    Raises `QueryError` that names what is accepted.
    """
    wanted = text.strip()
    try:
        return _relative(wanted.lower(), now.astimezone(UTC)) or _iso(wanted.upper())
    except (ValueError, OverflowError) as error:
        raise QueryError(f"not a time: {text!r}; accepted: {ACCEPTED}") from error


def parse_span_s(text: str) -> float:
    """The seconds of a span such as ``10m`` or ``2 hours``. Raises `QueryError` that names what is accepted."""
    found = _RELATIVE.fullmatch(text.strip().lower())
    if found is None or found[2] not in _SECONDS or "ago" in text:
        raise QueryError(f"not a span of time: {text!r}; accepted: 45s, 10m, 2h, 7d, 1w")
    return float(int(found[1]) * _SECONDS[found[2]])


def time_text(moment: datetime) -> str:
    """`moment` as the log writes times: UTC, microseconds, 27 characters, so that text sorts as time does."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds").rjust(26, "0") + "Z"


def _relative(text: str, now: datetime) -> datetime | None:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if text in named:
        return named[text]
    found = _RELATIVE.fullmatch(text)
    if found is None or found[2] not in _SECONDS:
        return None
    return now - timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def _iso(text: str) -> datetime:
    if not _ISO.fullmatch(text):
        raise ValueError(text)
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
