"""Calls that AWS logged and keytrail did not: events that were imported whose request id no record has.

AWS gives each call a request id; keytrail hands it to the client and records it. Judged is the time that both cover: from our
first record, or `since`, to our last, or `until`; what is imported from before or after is counted apart. What AWS's services did
themselves did not have to pass keytrail.

This is by request ids alone. `keytrail reconcile` on the raw folder of an import also compares what both say, and accounts for
events whose answer was lost on its way to keytrail, and for the second half of ReplicateKey.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from audit.errors import QueryError
from audit.query.engine import Progress
from audit.query.events import open_events
from audit.query.imported import readable_files
from audit.query.index.layout import quoted
from audit.query.lines import Damage
from audit.query.scan import Coverage
from audit.query.statement import limited
from audit.reconcile.reading import KMS

#: Our records are looked at so much beyond `since` and `until`, so that no pair is torn at the edge.
_AROUND = timedelta(days=1)

#: Events of KMS that were imported and that no record of ours has the request id of.
_ALONE = """
    SELECT theirs.*, coalesce(request_id, identity) AS call
    FROM read_parquet([{paths}], hive_partitioning = false, union_by_name = true) AS theirs
    WHERE event_source = $kms
      AND (len($accounts) = 0 OR list_contains($accounts, coalesce(recipient_account_id, account_id)))
      AND (len($regions) = 0 OR list_contains($regions, region))
      AND NOT EXISTS (SELECT 1 FROM calls WHERE origin = 'keytrail' AND calls.request_id = theirs.request_id)"""
_COUNTS = """
    SELECT count(DISTINCT call) FILTER (service IS NULL AND time < $first),
           count(DISTINCT call) FILTER (service IS NULL AND time > $last),
           count(DISTINCT call) FILTER (service IS NOT NULL AND time BETWEEN $first AND $last)
    FROM ({alone})"""
#: Of the copies that a call across accounts has, the caller's is taken, and the owner's names no caller.
_GROUPS = """
    SELECT caller, access_key_id, event_name, keys[1] AS key, count(*) AS calls, min(time), max(time), min(call)
    FROM (SELECT * FROM ({alone})
          WHERE service IS NULL AND time BETWEEN $first AND $last
          QUALIFY row_number() OVER (PARTITION BY call ORDER BY identity_type IS NOT DISTINCT FROM 'AWSAccount', identity) = 1)
    GROUP BY ALL ORDER BY calls DESC, caller, access_key_id, event_name, key"""


@dataclass(frozen=True, slots=True)
class Bypass:
    """Calls of one caller with one key that keytrail has no record of. Times are UTC; `request_id` is of one of them."""

    caller: str | None
    access_key_id: str | None
    event_name: str
    key: str | None
    calls: int
    first: datetime
    last: datetime
    request_id: str


@dataclass(frozen=True, slots=True)
class Bypasses:
    """What was found from `first` to `last`; and how many calls without a record are from before and from after, and by AWS's own
    services. `damaged` is what of both sides could not be read: a call whose record it held is among the bypasses."""

    first: datetime
    last: datetime
    found: tuple[Bypass, ...]
    before: int
    after: int
    by_services: int
    damaged: tuple[Damage, ...]

    @property
    def calls(self) -> int:
        return sum(one.calls for one in self.found)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for; nothing stands for everything. `since` and `until` (exclusive) are aware."""

    since: datetime | None = None
    until: datetime | None = None
    accounts: Collection[str] = ()
    regions: Collection[str] = ()


def find_bypasses(data: Path, asked: Asked = Asked(), *, progress: Progress | None = None) -> Bypasses:
    """Safe while the logs are written.

    Raises `QueryError` where there is no log, no import, or no record to tell from when on calls had to pass; OSError.
    """
    around = (asked.since and asked.since - _AROUND, asked.until and asked.until + _AROUND)
    with open_events(data, since=around[0], until=around[1], progress=progress) as events:
        files, _ = readable_files(data, events.database)
        if not files:
            raise QueryError(f"nothing was imported in {data}; `keytrail import cloudtrail` does so")
        first, last = _interval(events.coverage, asked)
        alone = _ALONE.format(paths=", ".join(quoted(path) for path, _ in files))
        bound = {
            "kms": KMS,
            "accounts": list(asked.accounts),
            "regions": list(asked.regions),
            "first": first.replace(tzinfo=None),
            "last": last.replace(tzinfo=None),
        }
        with limited(events.database, None):
            [counts] = events.database.execute(_COUNTS.format(alone=alone), bound).fetchall()
            rows = events.database.execute(_GROUPS.format(alone=alone), bound).fetchall()
        found = tuple(
            Bypass(caller, access_key_id, event_name, key, calls, _utc(begin), _utc(end), call)
            for caller, access_key_id, event_name, key, calls, begin, end, call in rows
        )
        before, after, by_services = counts
        return Bypasses(first, last, found, before, after, by_services, events.damaged)


def _interval(logs: Sequence[Coverage], asked: Asked) -> tuple[datetime, datetime]:
    """From when to when calls had to pass keytrail, both in it."""
    firsts = [datetime.fromisoformat(log.first) for log in logs if log.first]
    lasts = [datetime.fromisoformat(log.last) for log in logs if log.last]
    first = asked.since or min(firsts, default=None)
    last = asked.until - timedelta(microseconds=1) if asked.until else max(lasts, default=None)
    if first is None or last is None:
        raise QueryError("the log is empty: name the time by --since and --until in which calls had to pass keytrail")
    first = first.astimezone(UTC)
    return (first if asked.since else first.replace(microsecond=0)), last.astimezone(UTC)


def _utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC)
