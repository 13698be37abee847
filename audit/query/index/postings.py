"""A file of postings, read where a term must be: it is sorted by term and record, and tells the bounds of its row groups.

So a look-up reads a row group of each file, however many it has. DuckDB, which writes these files, would look at the bounds of
all of them; and it would not look at the sums of what it reads.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from audit.query.index.layout import IndexFault
from audit.query.index.sums import SoundFile

_SCHEMA = pa.schema({"term": pa.uint64(), "record": pa.int64(), "start": pa.int64()})
_TERM, _RECORD = 0, 1
#: Files that a process keeps open.
_OPEN_FILES = 128


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the row group `group`, from `low` up to, but without, `high`: postings of one term, in the order of records."""

    group: int
    low: int
    high: int

    @property
    def count(self) -> int:
        return self.high - self.low


class PostingsFile:
    """The file at `path`. For one thread. All methods raise `IndexFault` where it cannot be read, or is no file of postings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(SoundFile(path))
        except (OSError, pa.ArrowException) as error:
            raise self._fault() from error
        if not self._file.schema_arrow.equals(_SCHEMA):
            raise self._fault()
        self._bounds: dict[tuple[int, int], tuple[int, int]] = {}
        self._last: tuple[int, str, memoryview] | None = None

    def find(self, term: int, first: int, next: int) -> Iterator[Rows]:
        """Where the postings of the hash `term` are, of the records from `first` up to, but without, `next`."""
        groups = range(self._file.num_row_groups if self._file.metadata.num_rows else 0)
        for group in groups[bisect_left(groups, term, key=lambda group: self._range_of(group, _TERM)[1]) :]:
            lowest, highest = self._range_of(group, _TERM)
            if lowest > term:
                return
            low, high = 0, self._file.metadata.row_group(group).num_rows
            if lowest == highest:  # nothing else is in it
                since, until = self._range_of(group, _RECORD)
                if since >= next or until < first:
                    continue
                is_within = first <= since and until < next
            else:
                terms = self._column(group, "term")
                low, high = bisect_left(terms, term), bisect_right(terms, term)
                is_within = low == high
            if not is_within:
                records = self._column(group, "record")
                low, high = bisect_left(records, first, low, high), bisect_left(records, next, low, high)
            if low < high:
                yield Rows(group, low, high)

    def read(self, rows: Rows) -> pa.Table:
        """The columns `record` and `start` of `rows`."""
        return self._read(rows.group, ["record", "start"]).slice(rows.low, rows.count)

    def _range_of(self, group: int, column: int) -> tuple[int, int]:
        """The least and the greatest value in a column of a row group."""
        found = self._bounds.get((group, column))
        if found is None:
            statistics = self._file.metadata.row_group(group).column(column).statistics
            if statistics is None or not statistics.has_min_max:
                raise self._fault()
            found = self._bounds[(group, column)] = statistics.min, statistics.max
        return found

    def _column(self, group: int, name: str) -> memoryview:
        """A column of a row group, as whole numbers of 64 bits."""
        if self._last is None or self._last[:2] != (group, name):
            column = self._read(group, [name])[name].combine_chunks()
            view = memoryview(column.buffers()[1]).cast("B").cast("Q" if name == "term" else "q")
            self._last = group, name, view[column.offset : column.offset + len(column)]
        return self._last[2]

    def _read(self, group: int, columns: list[str]) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._fault() from error

    def _fault(self) -> IndexFault:
        return IndexFault(f"{self._path} cannot be read; `keytrail index rebuild` makes the index anew")


def open_postings(path: Path) -> PostingsFile:
    """The file at `path`, as it is now; one that was read before is still open. Raises `IndexFault`."""
    try:
        status = path.stat()
    except OSError as error:
        raise IndexFault(f"{path}: {error.strerror}") from error
    return _opened(path, (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=_OPEN_FILES)
def _opened(path: Path, _identity: tuple[int, ...]) -> PostingsFile:
    return PostingsFile(path)
