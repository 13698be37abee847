"""Pieces of the log become files of the index, and several files of a kind one.

A batch is committed in this order: events and postings written and synced → manifest replaced. Merging: the new file written and
synced → manifest replaced → the old ones removed, after a while. A crash between any two of these leaves files that no manifest
names, which a `Compactor` removes; and nothing twice, since the manifest says which records are in which file. What fails without
a crash takes its files away at once, and nothing is begun that would leave the log little of its disk.

One process at a time compacts (`index/lock`). Readers need no lock: one that finds a file gone reads the manifest again.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from audit import durable
from audit.query import scan
from audit.query.database import lock_settings, open_database
from audit.query.index import rows
from audit.query.index.layout import (
    SLICED_FROM,
    SLICES,
    DayFile,
    IndexFault,
    LogIndex,
    Manifest,
    Piece,
    Run,
    index_folder,
    quoted,
)
from audit.query.index.load import Rows
from audit.query.index.pieces import OPEN_BYTES, pending, still_ends_with, tail_of
from audit.query.index.sums import require_sound, sums_path, write_sums
from audit.query.lines import Damage
from audit.query.modesty import read_through, trickling
from audit.query.scan import Part
from audit.segments import read_mark, segment_name

BATCH_BYTES = 512 << 20
FANOUT = 16
#: How long a file that was merged into another is kept, for those who still read it.
GRACE_S = 600.0
#: What is left free of the disk: where the log can write nothing more, no call is answered, and there is no haste to index.
LEFT_FREE_BYTES = 256 << 20
#: An index has less than this part of the log's size.
_SHARE = 4
_SMALL_RECORDS = 1 << 15
#: DuckDB keeps the memory of its tables for those of the next batch: having it anew of the system costs time.
_KEPT_MEMORY = "SET block_allocator_memory = '1GB'"
_WRITE = "(FORMAT parquet, COMPRESSION snappy, PARQUET_VERSION v2, ROW_GROUP_SIZE 10240)"
_WRITE_EVENTS = "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARQUET_VERSION v2, ROW_GROUP_SIZE 61440)"


class IndexInUse(IndexFault):
    """Another process compacts this index."""


@dataclass(slots=True)
class _Batch:
    """Pieces of one log that become part of the index together."""

    log: str
    parts: list[Part] = field(default_factory=list)

    @property
    def first(self) -> int:
        return self.parts[0].first_index + self.parts[0].skipped_lines

    @property
    def next(self) -> int:
        return self.parts[-1].next_index or 0

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes - part.skipped_bytes for part in self.parts)


class Compactor:
    """Compacts all logs in the data folder `data`, step by step. A context manager; holds the lock.

    `told` is called with the records of each batch. Raises `IndexInUse`, `IndexFault`, OSError, `QueryError` where no log is.
    """

    def __init__(
        self,
        data: Path,
        *,
        batch_bytes: int = BATCH_BYTES,
        open_bytes: int = OPEN_BYTES,
        fanout: int = FANOUT,
        grace_s: float = GRACE_S,
        told: Callable[[int], None] | None = None,
    ) -> None:
        self._data = data
        self._index = index_folder(data)
        self._batch_bytes = batch_bytes
        self._open_bytes = open_bytes
        self._grace_s = grace_s
        self._fanout = fanout
        self._told = told
        scan.find_logs(data)  # no index where there is no log
        self._index.mkdir(mode=0o700, exist_ok=True)
        self._lock = take_lock(self._index)
        try:
            for folder in ("events", "postings"):
                (self._index / folder).mkdir(mode=0o700, exist_ok=True)
            spill = self._index / "spill"
            shutil.rmtree(spill, ignore_errors=True)
            self._database = open_database([self._index], spill=spill)
            self._database.execute(_KEPT_MEMORY)
            lock_settings(self._database)
            self._rows = Rows(self._database)
            [(probe,)] = self._database.execute(rows.PROBE).fetchall()
            self._manifest = Manifest.load(self._index)
            if self._manifest.probe != probe:
                self._manifest = Manifest(probe=probe)
                self._manifest.save(self._index)
            self._remove_strangers()
        except BaseException:
            self._lock.close()
            raise

    def step(self) -> bool:
        """One batch, or one merging; whether there was one to do. Durable when this returns."""
        batch = self._next_batch()
        if batch is not None:
            self._compact(batch)
            return True
        return self._merge()

    def run(self) -> None:
        """All that there is to do."""
        while (batch := self._next_batch()) is not None:
            self._compact(batch)
            while self._merge():
                pass
        while self._merge():
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()
        self._lock.close()

    # --- a batch

    def _next_batch(self) -> _Batch | None:
        """What comes after the pieces of the index, of the first log that has any, up to the size of a batch."""
        for log in scan.find_logs(self._data)[0]:
            index = self._index_of(log)
            batch, size_bytes = _Batch(log), 0
            mark = read_mark(
                self._data / "log" / log
            )  # before the segments are listed: they may have more by then, and never less
            for part in pending(index, scan.find_parts(self._data, log)[0], mark, self._open_bytes):
                part_bytes = part.size_bytes - part.skipped_bytes
                if batch.parts and size_bytes + part_bytes > self._batch_bytes:
                    break
                batch.parts.append(part)
                size_bytes += part_bytes
            if batch.parts:
                return batch
        return None

    def _index_of(self, log: str) -> LogIndex:
        """What there is of `log`; nothing, where the log is not the one any more that was indexed."""
        index = self._manifest.logs.get(log, LogIndex())
        if index.pieces and not still_ends_with(
            self._data / "log" / log / segment_name(index.pieces[-1].segment), index.pieces[-1]
        ):
            self._manifest.logs[log] = index = LogIndex()
            self._manifest.save(self._index)
        return index

    def _compact(self, batch: _Batch) -> None:
        self._rows.clear()
        with self._new_files(batch.size_bytes // _SHARE) as files:
            pieces = [self._load(part) for part in batch.parts]
            run = Run(batch.log, batch.first, batch.next, 1)
            self._write(files, run.path(self._index, 0), f"{rows.POSTINGS} ORDER BY term, record", _WRITE)
            days = []
            for day, records, first, last in self._database.execute(rows.DAYS).fetchall():
                file = DayFile(batch.log, day, batch.first, batch.next, records)
                self._write(files, file.path(self._index), rows.OF_DAY, _WRITE_EVENTS, [first, last, day])
                days.append(file)
        log = self._manifest.logs.setdefault(batch.log, LogIndex())
        log.pieces += pieces
        log.runs.append(run)
        log.days += days
        self._manifest.save(self._index)
        self._rows.clear()
        if self._told is not None:
            self._told(batch.next - batch.first)

    def _load(self, part: Part) -> Piece:
        """The rows of a piece into the table `rows`; of one that lacks lines, none."""
        found: list[Damage] = []
        lines = part.skipped_lines
        first = part.first_index + lines
        for chunk in scan.chunks(part, found, scan.MAX_LINE_BYTES, read=read_through):
            self._rows.add(chunk, found)
            lines = chunk.first_line + chunk.lines - 1
        is_left_out = part.shortfall(lines) is not None
        if is_left_out:
            self._database.execute("DELETE FROM rows WHERE record >= ?", [first])
        [(since, until)] = self._database.execute(rows.TIMES, [first]).fetchall()
        damaged = tuple((damage.line, damage.reason) for damage in found)
        return Piece(
            part.first_index,
            first,
            part.next_index or 0,
            part.skipped_bytes,
            part.size_bytes,
            since,
            until,
            damaged,
            is_left_out,
            tail_of(part.path, part.size_bytes),
        )

    @contextmanager
    def _new_files(self, size_bytes: int) -> Iterator[list[Path]]:
        """A list for files of about `size_bytes` in all: durable behind it, or away. Raises `IndexFault` where there is little
        room for them."""
        free_bytes = shutil.disk_usage(self._index).free
        if free_bytes < size_bytes + LEFT_FREE_BYTES:
            raise IndexFault(
                f"{self._index}: {free_bytes >> 20} MiB of the disk are free, and the log needs them: nothing more is indexed"
            )
        files: list[Path] = []
        try:
            yield files
            _sync(files)
        except Exception:
            for path in files:
                path.unlink(missing_ok=True)
            raise

    def _write(self, files: list[Path], path: Path, select: str, how: str, parameters: Sequence[object] = ()) -> None:
        """Write what `select` gives to the new file `path`, and its sums; both are added to `files`."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        files += [path, sums_path(path)]
        with trickling(path):
            self._database.execute(f"COPY ({select}) TO {quoted(path)} {how}", parameters)
        path.chmod(0o600)
        write_sums(path)

    # --- merging

    def _merge(self) -> bool:
        """Make one file of several, where there are enough of a size; whether there were."""
        for log in self._manifest.logs.values():
            if (window := due([run.records for run in log.runs], self._fanout)) is not None:
                self._merge_runs(log, window)
                return True
            for day in dict.fromkeys(file.day for file in log.days):
                files = [file for file in log.days if file.day == day]
                if (window := due([file.records for file in files], self._fanout)) is not None:
                    self._merge_days(log, files[window])
                    return True
        return False

    def _merge_runs(self, log: LogIndex, window: slice) -> None:
        old = log.runs[window]
        records = old[-1].next - old[0].first
        run = Run(old[0].log, old[0].first, old[-1].next, SLICES if records > SLICED_FROM else 1)
        replaced = [path for one in old for path in one.files(self._index)]
        with self._new_files(_size_of(replaced)) as files:
            for path in (path for one in old for path in one.paths(self._index)):
                require_sound(path)
            for number in range(run.slices):
                low, high = (number << 64) // run.slices, ((number + 1 << 64) // run.slices) - 1
                sources = dict.fromkeys(one.path_of(self._index, low) for one in old)
                paths = ", ".join(map(quoted, sources))
                select = f"SELECT * FROM read_parquet([{paths}]) WHERE term BETWEEN ? AND ? ORDER BY term, record"  # noqa: S608 - ours
                self._write(files, run.path(self._index, number), select, _WRITE, [low, high])
        log.runs[window] = [run]
        self._replace(replaced)

    def _merge_days(self, log: LogIndex, old: list[DayFile]) -> None:
        file = DayFile(old[0].log, old[0].day, old[0].first, old[-1].next, sum(one.records for one in old))
        replaced = [path for one in old for path in one.files(self._index)]
        sources = [one.path(self._index) for one in old]
        select = f"SELECT * FROM read_parquet([{', '.join(map(quoted, sources))}], hive_partitioning = false)"  # noqa: S608 - ours, in order
        with self._new_files(_size_of(replaced)) as files:
            for path in sources:
                require_sound(path)
            self._write(files, file.path(self._index), select, _WRITE_EVENTS)
        log.days = [file if one == old[0] else one for one in log.days if one not in old[1:]]
        self._replace(replaced)

    def _replace(self, old: list[Path]) -> None:
        self._manifest.save(self._index)
        for path in old:
            os.utime(path)  # as of now it is a stranger
        self._remove_strangers()

    def _remove_strangers(self) -> None:
        """Remove what a crash left, and what was merged into other files a while ago."""
        ours = set(self._manifest.paths(self._index))
        for path in [*(self._index / "postings").iterdir(), *(self._index / "events").glob("*/*")]:
            if path not in ours and time.time() - path.stat().st_mtime >= self._grace_s:
                path.unlink()


def due(records: Sequence[int], fanout: int) -> slice | None:
    """Which of the files with so many records each, neighbours all, should become one: those among which `fanout` are of one
    size, and none is of a larger.

    So their number grows with the logarithm of the records, and each record is written once for each size. Pure.
    """
    tiers = [int(math.log(max(count, _SMALL_RECORDS) / _SMALL_RECORDS, fanout)) for count in records]
    for tier in sorted(set(tiers)):
        start = of_size = 0
        for place in range(len(tiers) + 1):
            if place == len(tiers) or tiers[place] > tier:
                if of_size >= fanout:
                    return slice(start, place)
                start, of_size = place + 1, 0
            else:
                of_size += tiers[place] == tier
    return None


def take_lock(index: Path) -> IO[bytes]:
    """Have the index for this process alone, until the file is closed. Raises `IndexInUse`, OSError."""
    lock = (index / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise IndexInUse(f"{index}: another process compacts this index; `keytrail serve` keeps it up to date") from error
    return lock


def _size_of(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _sync(files: Sequence[Path]) -> None:
    """Make the files durable, and their names."""
    for path in files:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    for folder in {path.parent for path in files}:
        durable.sync_folder(folder)
        durable.sync_folder(folder.parent)
