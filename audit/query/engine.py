"""Searching the logs: every line is read as text, sifted and matched by DuckDB, and the answer comes in the order of
time.

Where the index has a term of the question, only the segments that it does not have are read whole (`audit.query.indexed`).

Rules kept: no line is dropped silently (`Result.damaged`); memory is bounded, for the answer is kept as places in the
log, in a DuckDB table that may spill to a temporary folder of the system, which never holds anything of a record but
its time; DuckDB reads no file but the index, and loads no extension. A question that the sieve answers checks other lines
for being JSON with our extension, not for every field of it. Segments out of a time range go by `scan.within`.

Order: time of arrival (microseconds), then log, then place in the log.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from audit.errors import DamagedLog
from audit.query import scan
from audit.query.database import connect
from audit.query.filters import Filter
from audit.query.index.layout import IndexFault, index_folder
from audit.query.index.lookup import Index, open_index
from audit.query.indexed import Hit, look_up
from audit.query.lines import Damage, Found, Place, parse
from audit.query.scan import Chunk, Coverage, Part
from audit.query.sql import Question
from audit.query.tables import lines_table

#: Told how many of how many bytes are scanned.
Progress = Callable[[int, int], None]

_THREADS = 2
_FETCH_ROWS = 4_096
_OPEN_FILES = 64
_INDEX_TRIES = 5
_NUMBERS = itertools.count()
_UNSOUND = """SELECT n FROM lines WHERE NOT (starts_with(line, '{') AND json_valid(line) AND contains(line, '"keytrail":{'))"""
_NAMES = ["time", "part", "line", "start", "size"]
_COLUMNS = "time VARCHAR, part INTEGER, line BIGINT, start BIGINT, size BIGINT"
_NO_RECORD = "JSON, but not a record of a keytrail log"


@dataclass(frozen=True, slots=True)
class _Sifted:
    chunk: Chunk
    hits: pa.Table | None  # n, stop, size, time, whole
    damaged: list[Damage]


@dataclass(slots=True)
class Result:
    """An answer: `count` records, what was damaged, what the logs cover. A context manager; `records` is gone after it.

    `index_fault` says why the index could not be used, where it is there and could not; the answer lacks nothing for that.
    """

    count: int
    damaged: list[Damage]
    coverage: tuple[Coverage, ...]
    scanned_bytes: int
    index_fault: str | None
    _hits: _Hits = field(repr=False)
    _parts: list[Part] = field(repr=False)

    def records(self, newest: int | None = None) -> Iterator[Found]:
        """The records found in the order of time, read from the log as they stand; only the `newest` of them where
        given.

        Raises OSError.
        """
        files: dict[int, int] = {}
        try:
            for time, number, line, start, size in self._hits.in_order(newest):
                part = self._parts[number]
                if number not in files:
                    if len(files) >= _OPEN_FILES:
                        os.close(files.pop(next(iter(files))))
                    files[number] = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
                yield Found(Place(part.log, part.path.name, line), time, os.pread(files[number], size, start))
        finally:
            for file in files.values():
                os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hits.close()


def search(
    data: Path,
    filters: Sequence[Filter],
    *,
    log: str | None = None,
    progress: Progress | None = None,
    use_index: bool = True,
) -> Result:
    """The records of all logs in the data folder (or of `log`) that match any of `filters`. Safe while the logs are
    written. Without `use_index` everything is read: whoever may write the index may hide places in it.

    Raises `QueryError` where there is no such log, OSError. Can be interrupted (KeyboardInterrupt) while it scans.
    """
    logs, damaged = scan.find_logs(data, log)
    hits = _Hits(connect(index_folder(data)))
    try:
        plan, index_fault = (
            _plan(data, logs, filters, hits.database) if use_index else (_plan_by(None, data, logs, filters), None)
        )
        damaged += plan.damaged
        scanned = _scan(hits, plan.parts, Question.of(filters), damaged, progress)
        parts = hits.keep(plan)
    except BaseException:
        hits.close()
        raise
    return Result(hits.count(), damaged, tuple(plan.coverage), scanned, index_fault, hits, parts)


class _Hits:
    """The places in the log that answer one question: a list of those that the index led to, or, once any are found by
    scanning, a table of all. Closed by `close`."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self.database = database
        self._listed: list[tuple[str, int, int, int, int]] = []
        self._table: str | None = None

    def add(self, found: pa.Table, select: str, parameters: Sequence[object] = ()) -> None:
        """Add the rows of `select` over the table `found`."""
        if self._table is None:
            self._table = f"hits_{next(_NUMBERS)}"
            self.database.execute(f"CREATE TABLE {self._table} ({_COLUMNS})")
        self.database.register("found", found)
        self.database.execute(f"INSERT INTO {self._table} {select}", parameters)
        self.database.unregister("found")

    def keep(self, plan: _Plan) -> list[Part]:
        """Add the plan's hits; returns all parts that the rows speak of, by their numbers."""
        numbers: dict[Part, int] = {}
        for hit in plan.hits:
            number = numbers.setdefault(hit.part, len(plan.parts) + len(numbers))
            self._listed.append((hit.time, number, hit.line, hit.start, hit.size))
        if self._listed and self._table is not None:
            columns = zip(*self._listed, strict=True)
            self.add(pa.table([pa.array(column) for column in columns], names=_NAMES), "FROM found")
            self._listed.clear()
        return [*plan.parts, *numbers]

    def count(self) -> int:
        if self._table is None:
            return len(self._listed)
        [(count,)] = self.database.execute(f"SELECT count(*) FROM {self._table}").fetchall()  # noqa: S608 - ours
        return int(count)

    def in_order(self, newest: int | None) -> Iterator[tuple[str, int, int, int, int]]:
        """All of them in the order of time, or the `newest`: time, part, line, start, size."""
        if self._table is None:
            ordered = sorted(self._listed)
            yield from ordered if newest is None else ordered[max(0, len(ordered) - newest) :]
            return
        last = f"FROM {self._table} ORDER BY time DESC, part DESC, line DESC LIMIT ?"
        query, parameters = (f"FROM {self._table}", []) if newest is None else (f"FROM ({last})", [newest])
        cursor = self.database.cursor().execute(f"{query} ORDER BY time, part, line", parameters)
        while batch := cursor.fetchmany(_FETCH_ROWS):
            yield from batch

    def close(self) -> None:
        if self._table is not None:
            self.database.execute(f"DROP TABLE IF EXISTS {self._table}")
        self.database.close()


@dataclass(slots=True)
class _Plan:
    """How an answer is found: `parts` are read whole; `hits` are what the index led to in the others."""

    parts: list[Part] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)


def _plan(
    data: Path, logs: Sequence[str], filters: Sequence[Filter], database: duckdb.DuckDBPyConnection
) -> tuple[_Plan, str | None]:
    """By the index; where it cannot be read, without, and why. A file that was merged away meanwhile is found by its new name."""
    fault = None
    for _ in range(_INDEX_TRIES):
        try:
            return _plan_by(open_index(data, database), data, logs, filters), None
        except (duckdb.Error, IndexFault) as error:
            fault = str(error)
    return _plan_by(None, data, logs, filters), fault


def _plan_by(index: Index | None, data: Path, logs: Sequence[str], filters: Sequence[Filter]) -> _Plan:
    plan = _Plan()
    for name in logs:
        parts, missing = scan.find_parts(data, name)
        plan.damaged += missing
        plan.coverage.append(scan.coverage(name, parts))
        found = look_up(index, name, parts, filters) if index is not None else None
        if found is not None:
            plan.hits += found.hits
            plan.damaged += found.damaged
            parts = found.rest
        plan.parts += scan.within(parts, *_interval(filters))
    return plan


def _interval(filters: Sequence[Filter]) -> tuple[datetime | None, datetime | None]:
    """The shortest interval that holds those of all `filters`."""
    since = [one.since for one in filters if one.since is not None]
    until = [one.until for one in filters if one.until is not None]
    return min(since) if len(since) == len(filters) else None, max(until) if len(until) == len(filters) else None


def _scan(
    hits: _Hits,
    parts: list[Part],
    question: Question,
    damaged: list[Damage],
    progress: Progress | None,
) -> int:
    """Fill `hits` from `parts`; returns how many bytes were scanned."""
    total, done = sum(part.size_bytes - part.skipped_bytes for part in parts), 0
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="query")
    under_way: deque[tuple[int, Future[_Sifted]]] = deque()
    try:
        for number, chunk in _numbered_chunks(parts, damaged):
            under_way.append((number, pool.submit(_sift, hits.database, question, chunk)))
            if len(under_way) > _THREADS + 1:
                done += _keep(hits, *under_way.popleft(), damaged)
                if progress:
                    progress(done, total)
        while under_way:
            done += _keep(hits, *under_way.popleft(), damaged)
            if progress:
                progress(done, total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if progress:
        progress(total, total)
    return done


def _numbered_chunks(parts: list[Part], damaged: list[Damage]) -> Iterator[tuple[int, Chunk]]:
    """The chunks of all parts, each with its part's number; a part that lacks records is added to `damaged`."""
    for number, part in enumerate(parts):
        lines = part.skipped_lines
        for chunk in scan.chunks(part, damaged):
            lines = chunk.first_line + chunk.lines - 1
            yield number, chunk
        if (short := part.shortfall(lines)) is not None:
            damaged.append(short)


def _sift(database: duckdb.DuckDBPyConnection, question: Question, chunk: Chunk) -> _Sifted:
    """The matching lines of `chunk`. Runs in a thread of the pool."""
    lines = lines_table(chunk)
    with database.cursor() as cursor:
        cursor.register("lines", lines)
        unsound = [number for (number,) in cursor.execute(_UNSOUND).fetchall()]
        if unsound:
            cursor.unregister("lines")
            cursor.register("lines", lines.filter(pc.invert(pc.is_in(lines["n"], pa.array(unsound, pa.int64())))))
        if not question.may_be_in(chunk.data):
            unmatched = [_damage(chunk, number) for number in unsound]
            return _Sifted(chunk, None, unmatched)
        sources = cursor.execute(question.source_sql).fetchall() if question.source_sql else []
        found = cursor.execute(question.matching, question.bound(source for (source,) in sources)).to_arrow_table()
    whole = found["whole"]
    unsound += found.filter(pc.invert(whole))["n"].to_pylist()
    damaged = [_damage(chunk, number) for number in unsound]
    return _Sifted(chunk, found.filter(whole), damaged)


def _keep(hits: _Hits, number: int, future: Future[_Sifted], damaged: list[Damage]) -> int:
    """Wait for a chunk and note what was found in it; returns its size."""
    sifted = future.result()
    chunk = sifted.chunk
    damaged += sifted.damaged
    if sifted.hits:
        select = "SELECT time, ?, n + ?, ? + stop - size, size - 1 FROM found"
        hits.add(sifted.hits, select, [number, chunk.first_line, chunk.offset])
    return chunk.size_bytes


def _damage(chunk: Chunk, number: int) -> Damage:
    line = chunk.data[chunk.bounds[number] : chunk.bounds[number + 1]]
    place = Place(chunk.part.log, chunk.part.path.name, chunk.first_line + number)
    try:
        parse(line, place)
        reason = _NO_RECORD
    except DamagedLog as error:
        reason = error.reason
    return Damage(place.log, place.segment, place.line, reason)
