"""A question → the places of the records that may answer it, from the index.

A condition of the question that few records meet is looked up; whoever asks reads those lines and judges them. Where none is
that rare, the conditions are intersected; and where that leaves too much, there is no answer but to read the log (`places` gives
None).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from audit.query.filters import Filter
from audit.query.index.layout import IndexFault, LogIndex, Manifest, Run, index_folder
from audit.query.index.pieces import Covered
from audit.query.index.postings import PostingsFile, Rows, open_postings
from audit.query.index.rows import PROBE
from audit.query.index.terms import Condition, Term, conditions
from audit.query.scan import Part

#: What is read without asking whether other conditions leave less; and the most places that are read one by one.
FEW, MANY = 500, 400_000
#: Of so many records at a time conditions are intersected, to take no more memory than that.
_WINDOW = 1 << 20
_NO_ROWS = pa.table({"record": pa.array([], pa.int64()), "start": pa.array([], pa.int64())})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record may be that answers: its index in the log, and where its line begins in its segment."""

    record: int
    start: int


class Index:
    """The index of a data folder, for look-ups. A context manager. `load` gives one without segments where there is none."""

    def __init__(self, data: Path, database: duckdb.DuckDBPyConnection, manifest: Manifest) -> None:
        self._folder = index_folder(data)
        self._database = database
        self.manifest = manifest
        self._hashes: dict[Term, int] = {}

    def covered(self, log: str, parts: Sequence[Part]) -> Covered:
        """What of `log`, whose segments are `parts`, the index has."""
        return Covered.of(self.manifest.logs.get(log, LogIndex()), parts)

    def places(self, log: str, question: Filter, covered: Covered) -> list[Place] | None:
        """Where in `covered` the records may be that answer `question`; None where they are too many, or no term is of use.

        Raises OSError; `IndexFault` for an index that cannot be read.
        """
        wanted = conditions(question)
        spans = covered.spans(question)
        if not wanted:
            return None
        if not spans:
            return []
        runs, first, next = self.manifest.logs[log].runs, spans[0][0], spans[-1][1]
        usable = []
        for condition in wanted:
            found = self._find(runs, condition, first, next, MANY)
            if found is not None and found.count <= FEW:
                return _within(found.places(), spans)
            if found is not None:
                usable.append(condition)
        return self._intersect(runs, usable or wanted, spans)

    def _intersect(
        self, runs: Sequence[Run], wanted: Sequence[Condition], spans: Sequence[tuple[int, int]]
    ) -> list[Place] | None:
        """The places that have a term of each condition; None where they are more than `MANY`."""
        places: list[Place] = []
        for first in range(spans[0][0], spans[-1][1], _WINDOW):
            next = min(first + _WINDOW, spans[-1][1])
            tables = [found.table() for one in wanted if (found := self._find(runs, one, first, next)) is not None]
            left = tables[0]
            for other in tables[1:]:
                left = left.filter(pc.is_in(left["record"], other["record"]))
            places += _within(_places(left), spans)
            if len(places) > MANY:
                return None
        return places

    def _find(self, runs: Sequence[Run], condition: Condition, first: int, next: int, most: int | None = None) -> _Found | None:
        """The postings of a condition's terms, of the records from `first` up to `next`; None where they are more than `most`."""
        hashed = sorted(self._hashed(condition.terms))
        found = _Found()
        for run in runs:
            if run.next <= first or run.first >= next:
                continue
            for term in hashed:
                file = open_postings(run.path_of(self._folder, term))
                for rows in file.find(term, first, next):
                    found.add(file, rows)
                    if most is not None and found.count > most:
                        return None
        return found

    def _hashed(self, terms: Iterable[Term]) -> list[int]:
        asked = list(terms)
        new = [term for term in asked if term not in self._hashes]
        if new:
            hashes = ", ".join(f"hash({', '.join('?' * len(term))})" for term in new)
            [found] = self._database.execute(f"SELECT {hashes}", [text for term in new for text in term]).fetchall()
            self._hashes.update(zip(new, found, strict=True))
        return [self._hashes[term] for term in asked]


@dataclass(slots=True)
class _Found:
    """Where postings are; `count` of them."""

    count: int = 0
    rows: list[tuple[PostingsFile, Rows]] = field(default_factory=list)

    def add(self, file: PostingsFile, rows: Rows) -> None:
        self.rows.append((file, rows))
        self.count += rows.count

    def table(self) -> pa.Table:
        """The columns `record` and `start` of all of them; a record may stand there for each of its terms."""
        return pa.concat_tables([file.read(rows) for file, rows in self.rows]) if self.rows else _NO_ROWS

    def places(self) -> list[Place]:
        return _places(self.table())


def _places(table: pa.Table) -> list[Place]:
    """Each record once, in order."""
    starts = dict(zip(table["record"].to_pylist(), table["start"].to_pylist(), strict=True))
    return [Place(record, starts[record]) for record in sorted(starts)]


def open_index(data: Path, database: duckdb.DuckDBPyConnection) -> Index:
    """The index of `data` as it is now; `database` may read its folder.

    Raises `IndexFault`, also where another DuckDB made it, which hashes terms in another way: nothing would be found.
    """
    index = index_folder(data)
    try:
        status = (index / "manifest.json").stat()
        manifest = _loaded(index, (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))
    except FileNotFoundError:
        return Index(data, database, Manifest())
    except OSError as error:  # the log can be read all the same
        raise IndexFault(f"{index / 'manifest.json'}: {error.strerror}") from error
    if manifest.logs and manifest.probe != _probe():
        raise IndexFault("the index was made by another version of DuckDB")
    return Index(data, database, manifest)


@lru_cache(maxsize=8)  # it is replaced by another file, and never changed; a story asks it several times
def _loaded(index: Path, _identity: tuple[int, ...]) -> Manifest:
    return Manifest.load(index)


@lru_cache(maxsize=1)
def _probe() -> int:
    with duckdb.connect() as database:
        [(probe,)] = database.execute(PROBE).fetchall()
    return int(probe)


def _within(places: Iterable[Place], spans: Sequence[tuple[int, int]]) -> list[Place]:
    """Those of `places` that are in `spans`."""
    return [place for place in places if _is_within(place.record, spans)]


def _is_within(record: int, spans: Sequence[tuple[int, int]]) -> bool:
    number = bisect_right(spans, record, key=lambda span: span[0]) - 1
    return number >= 0 and record < spans[number][1]
