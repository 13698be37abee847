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
        query = f"SELECT count(*) FROM ({self._select(_within(runs, spans), condition.terms)} LIMIT ?)"  # noqa: S608 - ours
        [(found,)] = self._database.execute(query, [MANY + 1]).fetchall()
        return bool(found <= MANY)

    def _look_up(
        self, runs: Sequence[Run], wanted: Sequence[Condition], spans: Sequence[tuple[int, int]], most: int
    ) -> list[Place] | None:
        """The places that have a term of each condition; None where they are more than `most`."""
        within = _within(runs, spans)
        selects = " INTERSECT ".join(f"SELECT DISTINCT * FROM ({self._select(within, one.terms)})" for one in wanted)  # noqa: S608 - ours
        query = f"SELECT record, start FROM ({selects}) WHERE record >= ? AND record < ? LIMIT ?"  # noqa: S608 - ours
        places = self._database.execute(query, [spans[0][0], spans[-1][1], most + 1]).fetchall()
        if len(places) > most:
            return None
        return [Place(record, start) for record, start in places if _is_within(record, spans)]

    def _select(self, runs: Sequence[Run], terms: Iterable[Term]) -> str:
        """Postings of any of `terms` in `runs`, of those files that can have them."""
        hashed = self._hashed(terms)
        paths = dict.fromkeys(run.path_of(self._folder, term) for run in runs for term in hashed)
        if not paths:
            return "SELECT 0::BIGINT AS record, 0::BIGINT AS start WHERE false"
        files = ", ".join(map(quoted, paths))
        numbers = ", ".join(map(str, hashed))
        return f"SELECT record, start FROM read_parquet([{files}]) WHERE term IN ({numbers})"  # noqa: S608 - paths and numbers of ours

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
