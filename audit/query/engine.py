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

import os
import tempfile
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
from audit.query.filters import Filter
from audit.query.index.layout import IndexFault, index_folder, quoted
from audit.query.index.lookup import Index, open_index
from audit.query.indexed import Hit, look_up
from audit.query.lines import Damage, Found, Place, parse
from audit.query.scan import Chunk, Coverage, Part
from audit.query.sql import Question
from audit.query.tables import lines_table

#: Told how many of how many bytes are scanned.
Progress = Callable[[int, int], None]

_THREADS = 2
_MEMORY_LIMIT = "1GB"
_FETCH_ROWS = 4_096
_OPEN_FILES = 64
_INDEX_TRIES = 5
_UNSOUND = """SELECT n FROM lines WHERE NOT (starts_with(line, '{') AND json_valid(line) AND contains(line, '"keytrail":{'))"""
_IN_ORDER = "SELECT time, part, line, start, size FROM hits ORDER BY time, part, line"
_NEWEST_IN_ORDER = "FROM (FROM hits ORDER BY time DESC, part DESC, line DESC LIMIT ?) ORDER BY time, part, line"
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
    _database: duckdb.DuckDBPyConnection
    _parts: list[Part]
    _spill: tempfile.TemporaryDirectory[str] = field(repr=False)

    def records(self, newest: int | None = None) -> Iterator[Found]:
        """The records found in the order of time, read from the log as they stand; only the `newest` of them where
        given.

        Raises OSError.
        """
        cursor = self._database.cursor()
        if newest is None:
            cursor.execute(_IN_ORDER)
        else:
            cursor.execute(_NEWEST_IN_ORDER, [newest])
        files: dict[int, int] = {}
        try:
            while batch := cursor.fetchmany(_FETCH_ROWS):
                for time, number, line, start, size in batch:
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
        self._database.close()
        self._spill.cleanup()


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
    spill = tempfile.TemporaryDirectory(prefix="keytrail-query-")
    database = _database(spill.name, index_folder(data))
    try:
        plan, index_fault = _plan(data, logs, filters, database) if use_index else (_plan_by(None, data, logs, filters), None)
        damaged += plan.damaged
        scanned = _scan(database, plan.parts, Question.of(filters), damaged, progress)
        parts = _keep_hits(database, plan)
        [(count,)] = database.execute("SELECT count(*) FROM hits").fetchall()
    except BaseException:
        database.close()
        spill.cleanup()
        raise
    return Result(count, damaged, tuple(plan.coverage), scanned, index_fault, database, parts, spill)


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


def _keep_hits(database: duckdb.DuckDBPyConnection, plan: _Plan) -> list[Part]:
    """Note the plan's hits in the table `hits`; returns all parts that its rows speak of, by their numbers."""
    numbers: dict[Part, int] = {}
    for hit in plan.hits:
        numbers.setdefault(hit.part, len(plan.parts) + len(numbers))
    if plan.hits:
        columns = {
            "time": pa.array([hit.time for hit in plan.hits], pa.string()),
            "part": pa.array([numbers[hit.part] for hit in plan.hits], pa.int32()),
            "line": pa.array([hit.line for hit in plan.hits], pa.int64()),
            "start": pa.array([hit.start for hit in plan.hits], pa.int64()),
            "size": pa.array([hit.size for hit in plan.hits], pa.int64()),
        }
        database.register("looked_up", pa.table(columns))
        database.execute("INSERT INTO hits SELECT time, part, line, start, size FROM looked_up")
        database.unregister("looked_up")
    return [*plan.parts, *numbers]


def _interval(filters: Sequence[Filter]) -> tuple[datetime | None, datetime | None]:
    """The shortest interval that holds those of all `filters`."""
    since = [one.since for one in filters if one.since is not None]
    until = [one.until for one in filters if one.until is not None]
    return min(since) if len(since) == len(filters) else None, max(until) if len(until) == len(filters) else None


def _database(spill: str, index: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory that reads no file but those of the index."""
    database = duckdb.connect(
        ":memory:",
        config={
            "threads": "1",  # of DuckDB's own for one statement; we run `_THREADS` statements at a time
            "memory_limit": _MEMORY_LIMIT,
            "temp_directory": spill,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    )
    database.execute(f"SET allowed_directories = [{quoted(index)}]")
    database.execute("SET enable_external_access = false")  # after temp_directory, which it freezes
    database.execute("SET lock_configuration = true")
    database.execute("CREATE TABLE hits (time VARCHAR, part INTEGER, line BIGINT, start BIGINT, size BIGINT)")
    return database


def _scan(
    database: duckdb.DuckDBPyConnection,
    parts: list[Part],
    question: Question,
    damaged: list[Damage],
    progress: Progress | None,
) -> int:
    """Fill the table `hits` from `parts`; returns how many bytes were scanned."""
    total, done = sum(part.size_bytes - part.skipped_bytes for part in parts), 0
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="query")
    under_way: deque[tuple[int, Future[_Sifted]]] = deque()
    try:
        for number, chunk in _numbered_chunks(parts, damaged):
            under_way.append((number, pool.submit(_sift, database, question, chunk)))
            if len(under_way) > _THREADS + 1:
                done += _keep(database, *under_way.popleft(), damaged)
                if progress:
                    progress(done, total)
        while under_way:
            done += _keep(database, *under_way.popleft(), damaged)
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


def _keep(database: duckdb.DuckDBPyConnection, number: int, future: Future[_Sifted], damaged: list[Damage]) -> int:
    """Wait for a chunk and note what was found in it; returns its size."""
    sifted = future.result()
    chunk = sifted.chunk
    damaged += sifted.damaged
    if sifted.hits:
        database.register("sifted", sifted.hits)
        database.execute(
            "INSERT INTO hits SELECT time, ?, n + ?, ? + stop - size, size - 1 FROM sifted",
            [number, chunk.first_line, chunk.offset],
        )
        database.unregister("sifted")
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
