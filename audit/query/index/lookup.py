"""A question → the places of the records that may answer it, from the index.

A condition of the question that few records meet is looked up; whoever asks reads those lines and judges them. Where none is
that rare, the conditions are intersected; and where that leaves too much, there is no answer but to read the log (`places` gives
None).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from audit.query.filters import Filter
from audit.query.index import rows
from audit.query.index.layout import IndexFault, LogIndex, Manifest, Run, index_folder, quoted
from audit.query.index.pieces import Covered
from audit.query.index.terms import Condition, Term, conditions
from audit.query.scan import Part

#: What is read without asking whether other conditions leave less; and the most places that are read one by one.
FEW, MANY = 500, 400_000


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

        Raises OSError; duckdb.Error for an index that cannot be read.
        """
        wanted = conditions(question)
        spans = covered.spans(question)
        if not wanted:
            return None
        if not spans:
            return []
        runs = self.manifest.logs[log].runs
        for condition in wanted:
            found = self._look_up(runs, [condition], spans, FEW)
            if found is not None:
                return found
        usable = [condition for condition in wanted if self._is_usable(runs, condition, spans)]
        return self._look_up(runs, usable or wanted, spans, MANY)

    def _is_usable(self, runs: Sequence[Run], condition: Condition, spans: Sequence[tuple[int, int]]) -> bool:
        """Whether it is rare enough to be worth reading its postings."""
        count = 0
        for run in _within(runs, spans):
            query = f"SELECT count(*) FROM ({self._select(run, condition.terms)} LIMIT ?)"  # noqa: S608 - ours
            [(found,)] = self._database.execute(query, [MANY + 1 - count]).fetchall()
            count += found
            if count > MANY:
                return False
        return True

    def _look_up(
        self, runs: Sequence[Run], wanted: Sequence[Condition], spans: Sequence[tuple[int, int]], most: int
    ) -> list[Place] | None:
        """The places that have a term of each condition; None where they are more than `most`."""
        found: list[Place] = []
        first, last = spans[0][0], spans[-1][1]
        for run in _within(runs, spans):
            selects = [self._select(run, condition.terms) for condition in wanted]
            select = " INTERSECT ".join(selects)
            query = f"SELECT DISTINCT record, start FROM ({select}) WHERE record >= ? AND record < ? LIMIT ?"  # noqa: S608 - ours
            places = self._database.execute(query, [first, last, most + 1 - len(found)]).fetchall()
            found += [Place(record, start) for record, start in places]
            if len(found) > most:
                return None
        return [place for place in found if _is_within(place.record, spans)]

    def _select(self, run: Run, terms: Iterable[Term]) -> str:
        """Postings of any of `terms` in `run`: each file is asked for those that it can have."""
        by_file: dict[Path, list[int]] = {}
        for term in self._hashed(terms):
            by_file.setdefault(run.path_of(self._folder, term), []).append(term)
        parts = [
            f"SELECT record, start FROM read_parquet({quoted(path)}) WHERE term IN ({', '.join(map(str, numbers))})"  # noqa: S608 - numbers
            for path, numbers in by_file.items()
        ]
        return "(" + " UNION ALL ".join(parts) + ")"

    def _hashed(self, terms: Iterable[Term]) -> list[int]:
        hashed = []
        for term in terms:
            if term not in self._hashes:
                [(self._hashes[term],)] = self._database.execute(
                    f"SELECT hash({', '.join('?' * len(term))})", list(term)
                ).fetchall()
            hashed.append(self._hashes[term])
        return hashed


def open_index(data: Path, database: duckdb.DuckDBPyConnection) -> Index:
    """The index of `data` as it is now; `database` may read its folder.

    Raises OSError, and `IndexFault` also where another DuckDB made it, which hashes terms in another way: nothing would be found.
    """
    manifest = Manifest.load(index_folder(data))
    [(probe,)] = database.execute(rows.PROBE).fetchall()
    if manifest.logs and manifest.probe != probe:
        raise IndexFault("the index was made by another version of DuckDB")
    return Index(data, database, manifest)


def _within(runs: Sequence[Run], spans: Sequence[tuple[int, int]]) -> list[Run]:
    """Those of `runs` that may have records of `spans`."""
    return [run for run in runs if run.next > spans[0][0] and run.first < spans[-1][1]]


def _is_within(record: int, spans: Sequence[tuple[int, int]]) -> bool:
    number = bisect_right(spans, record, key=lambda span: span[0]) - 1
    return number >= 0 and record < spans[number][1]
