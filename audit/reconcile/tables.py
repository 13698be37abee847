"""Both sides in tables of DuckDB, which may spill to a folder that only this user may read and that is gone afterwards; so memory
is bounded however much there is. Records and events are held as `rules.reduced` leaves them, in JSON.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import duckdb
import orjson
import pyarrow as pa

from audit.query.filters import Record

_MEMORY_LIMIT = "512MB"
_BATCH_ROWS = 5_000
_FETCH_ROWS = 1_000
#: Members of a duplicate that are told.
MAX_COPIES = 20

#: `time_us`: microseconds since the epoch. `identity`: what the copies of one event share. `rank`: 0 tells most of the caller.
_COLUMNS = {
    "ours": {"request_id": pa.string(), "time_us": pa.int64(), "place": pa.string(), "record": pa.string()},
    "aws": {
        "request_id": pa.string(),
        "time_us": pa.int64(),
        "identity": pa.string(),
        "rank": pa.int32(),
        "file": pa.string(),
        "record": pa.string(),
    },
    "further": {"time_us": pa.int64(), "room": pa.int32(), "why": pa.string(), "record": pa.string()},
    "unanswered": {"time_us": pa.int64()},
    "intents": {"event_id": pa.string(), "time_us": pa.int64()},
}
_SQL_TYPES = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.int32(): "INTEGER"}
#: What holds much at once is done in parts, of about so many rows: those whose request ids have the same remainder.
_PART_ROWS = 200_000
#: Of the copies of one event, one.
_PUT_TOGETHER = """
    INSERT INTO events
        SELECT request_id, identity, time_us, file, record FROM aws
        WHERE hash(request_id) % $parts = $part AND rowid IN (
            SELECT arg_min(rowid, rank) FROM aws WHERE hash(request_id) % $parts = $part GROUP BY request_id, identity)"""
_ALONE = """
    INSERT INTO alone
        SELECT request_id, identity, time_us, file, record FROM events
        WHERE hash(request_id) % $parts = $part
        AND request_id NOT IN (SELECT request_id FROM ours WHERE hash(request_id) % $parts = $part)"""
_SIDE_BY_SIDE = """
    WITH o AS (SELECT count(*) AS n, arg_min(rowid, time_us) AS first FROM ours
               WHERE hash(request_id) % $parts = $part GROUP BY request_id),
         e AS (SELECT count(*) AS n, arg_min(rowid, time_us) AS first FROM events
               WHERE hash(request_id) % $parts = $part GROUP BY request_id),
         mine AS (SELECT request_id, n, time_us, place, record FROM ours JOIN o ON o.first = ours.rowid),
         theirs AS (SELECT request_id, n, time_us, file, record FROM events JOIN e ON e.first = events.rowid)
    SELECT request_id, m.n, m.time_us, m.place, m.record, t.n, t.time_us, t.file, t.record
    FROM mine m LEFT JOIN theirs t USING (request_id) ORDER BY m.time_us, request_id"""
_ALONE_IN_ORDER = "SELECT request_id, 1, time_us, file, record FROM alone ORDER BY time_us, request_id, identity"
#: The call whose outcome was lost in a crash stands at the time of its intent, and not at that of the recovery.
_FURTHER = """
    SELECT coalesce(i.time_us, f.time_us) AS begun, room, why, record
    FROM further f LEFT JOIN intents i ON i.event_id = (f.record->>'$.additionalEventData.keytrail.intent')
    ORDER BY begun"""


class Row(NamedTuple):
    """One record or event of the `copies` that have its request id, the first. `source` is its place in our log, or its file;
    `text` is JSON."""

    copies: int
    at: int
    source: str
    text: str

    @property
    def record(self) -> Record:
        return _parsed(self.text)


class Tables:
    """A context manager. Fill with `add`, then `put_together`, then ask."""

    def __init__(self) -> None:
        self._spill = tempfile.TemporaryDirectory(prefix="keytrail-reconcile-")
        self._database = duckdb.connect(
            ":memory:",
            config={
                "threads": "1",
                "memory_limit": _MEMORY_LIMIT,
                "temp_directory": self._spill.name,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "preserve_insertion_order": "false",
            },
        )
        self._database.execute("SET enable_external_access = false")  # after temp_directory, which it freezes
        self._waiting: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _COLUMNS}  # Any: as the columns say
        self._rows = dict.fromkeys(_COLUMNS, 0)
        for name, columns in _COLUMNS.items():
            body = ", ".join(f"{column} {_SQL_TYPES[kind]}" for column, kind in columns.items())
            self._database.execute(f"CREATE TABLE {name} ({body})")

    def add(self, table: str, *row: str | int | Record) -> None:
        """Add a row to `table`, in the order of `_COLUMNS`; a record becomes JSON."""
        waiting = self._waiting[table]
        waiting.append(tuple(_sql(value) for value in row))
        if len(waiting) >= _BATCH_ROWS:
            self._insert(table)

    def put_together(self) -> None:
        """No more is added; copies of one event become one."""
        for table in self._waiting:
            self._insert(table)
        for table in ("events", "alone"):
            self._database.execute(
                f"CREATE TABLE {table} (request_id VARCHAR, identity VARCHAR, time_us BIGINT, file VARCHAR, record VARCHAR)"
            )
        for sql in (_PUT_TOGETHER, _ALONE):
            for part in self._parts():
                self._database.execute(sql, part)
        self._database.execute("DROP TABLE aws")

    def side_by_side(self) -> Iterator[tuple[str, Row, Row | None]]:
        """For each request id that we have: the id, our record, and AWS's event."""
        for part in self._parts():
            for row in self._ask(_SIDE_BY_SIDE, part):
                yield row[0], Row(*row[1:5]), None if row[5] is None else Row(*row[5:9])

    def events_alone(self) -> Iterator[tuple[str, Row]]:
        """AWS's events with a request id that we do not have, in the order of time."""
        return ((row[0], Row(*row[1:])) for row in self._ask(_ALONE_IN_ORDER))

    def copies(self, request_id: str) -> tuple[list[Row], list[Row]]:
        """Our records and AWS's events with `request_id`, the first `MAX_COPIES` of each."""
        bound = {"id": request_id, "most": MAX_COPIES}
        ours = self._ask(
            "SELECT 1, time_us, place, record FROM ours WHERE request_id = $id ORDER BY time_us, place LIMIT $most", bound
        )
        aws = self._ask(
            "SELECT 1, time_us, file, record FROM events WHERE request_id = $id ORDER BY time_us, file LIMIT $most", bound
        )
        return [Row(*row) for row in ours], [Row(*row) for row in aws]

    def unanswered(self) -> Iterator[int]:
        """When calls were made that AWS gave no request id for."""
        return (at for (at,) in self._ask("SELECT time_us FROM unanswered"))

    def further(self) -> Iterator[tuple[int, int, str, Record]]:
        """Events that AWS may have besides: from when on, how many, why, and as what; in the order of time."""
        return ((at, room, why, _parsed(record)) for at, room, why, record in self._ask(_FURTHER))

    def _parts(self) -> list[dict[str, object]]:
        parts = 1 + max(self._rows["ours"], self._rows["aws"]) // _PART_ROWS
        return [{"parts": parts, "part": part} for part in range(parts)]

    def _ask(self, sql: str, parameters: Mapping[str, object] | None = None) -> Iterator[tuple[Any, ...]]:  # Any: the columns'
        with self._database.cursor() as cursor:
            cursor.execute(sql, parameters)
            while rows := cursor.fetchmany(_FETCH_ROWS):
                yield from rows

    def _insert(self, table: str) -> None:
        if not (rows := self._waiting[table]):
            return
        columns = _COLUMNS[table]
        arrays = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), columns.values(), strict=True)]
        self._database.register("batch", pa.table(dict(zip(columns, arrays, strict=True))))
        self._database.execute(f"INSERT INTO {table} SELECT * FROM batch")  # noqa: S608  # a name of ours
        self._database.unregister("batch")
        self._rows[table] += len(rows)
        rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()
        self._spill.cleanup()


def _parsed(text: str) -> Record:
    try:
        found: Record = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = json.loads(text)
    return found


def _sql(value: str | int | Record) -> str | int:
    """`value` for a column: text that is no text (half of a surrogate pair) as escapes."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return json.dumps(value)  # ASCII: such halves, and numbers beyond 64 bits, as they are
