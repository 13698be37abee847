"""`keytrail verify --index`: is what the index has what the lines of the log say? Whole, not by samples.

Rows and postings of every piece are made anew from its lines, by the same SQL that compaction uses, and compared with those in
the files, both ways: one that is missing, was changed or was made up is a fault. That nothing is where no look-up goes is asked
of the files themselves: postings are sorted, in their slice, within the bounds that the file tells of its parts; the files of the
manifest are of all pieces, without a gap. The steps are 30 to 32 of docs/verify.md.

It reads files that a compaction meanwhile merges: they are kept for a while. Raises of the log OSError, `QueryError`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb
import pyarrow as pa

from audit.query import scan
from audit.query.database import lock_settings, open_database
from audit.query.index import rows
from audit.query.index.bounds import require_findable
from audit.query.index.layout import DayFile, IndexFault, LogIndex, Manifest, Piece, index_folder, quoted
from audit.query.index.load import Rows
from audit.query.index.pieces import Covered
from audit.query.lines import Damage
from audit.query.scan import Part
from audit.report import Fault, IndexReport, Step, Verdict

ROWS, POSTINGS, FINDABLE = 30, 31, 32
TITLES = {
    ROWS: "the index has the row of every line that it covers, and no other",
    POSTINGS: "the index has every posting of those lines, and no other",
    FINDABLE: "a look-up finds all of them: files, sorting and bounds are what they should be",
}
_BATCH_BYTES = 256 << 20
_LISTED = 50  # faults of a step; all are counted
_DAY = "strftime(e.time, '%Y-%m-%d')"


@dataclass(slots=True)
class _Findings:
    counts: dict[int, int] = field(default_factory=lambda: dict.fromkeys(TITLES, 0))
    faults: list[Fault] = field(default_factory=list)
    records: int = 0

    def add(self, step: int, log: str, reason: str, count: int = 1) -> None:
        self.counts[step] += count
        if sum(fault.step == step for fault in self.faults) < _LISTED:
            self.faults.append(Fault(step, log, "", 0, reason))

    def report(self) -> IndexReport:
        steps = []
        for step, title in TITLES.items():
            count = self.counts[step]
            verdict = Verdict.FAILED if count else Verdict.PASSED if self.records else Verdict.NOT_CHECKED
            detail = f"{count} fault{'s' if count > 1 else ''}" if count else f"{self.records} records"
            steps.append(Step(step, title, verdict, detail))
        return IndexReport(tuple(steps), tuple(sorted(self.faults, key=lambda one: one.step)), self.records)


def check_index(data: Path) -> IndexReport:
    """Compare the index of the data folder with its logs. An index that is not there, or cannot be read, fails."""
    findings = _Findings()
    try:
        manifest = Manifest.load(index_folder(data))
    except IndexFault as error:
        findings.add(ROWS, "index", str(error))
        return findings.report()
    if manifest.probe is None:
        findings.add(ROWS, "index", "there is no index of this version: `keytrail index update` makes one")
        return findings.report()
    logs, _ = scan.find_logs(data)
    for name in sorted(manifest.logs.keys() - set(logs)):
        findings.add(ROWS, name, "the index has rows of this log, which is not here")
    with tempfile.TemporaryDirectory(prefix="keytrail-verify-") as spill:
        database = open_database([index_folder(data)], spill=Path(spill, "spill"))
        try:
            lock_settings(database)
            [(probe,)] = database.execute(rows.PROBE).fetchall()
            if probe != manifest.probe:
                findings.add(POSTINGS, "index", "its terms are hashed in another way than here: `keytrail index rebuild`")
                return findings.report()
            for name in logs:
                if name in manifest.logs:
                    _LogIndexCheck(data, name, manifest.logs[name], database, findings).run()
        finally:
            database.close()
    return findings.report()


class _LogIndexCheck:
    """What the index has of one log."""

    def __init__(self, data: Path, log: str, index: LogIndex, database: duckdb.DuckDBPyConnection, findings: _Findings) -> None:
        self._folder = index_folder(data)
        self._parts = scan.find_parts(data, log)[0]
        self._log = log
        self._index = index
        self._database = database
        self._findings = findings
        self._rows = Rows(database)

    def run(self) -> None:
        covered = Covered.of(self._index, self._parts).pieces
        self._require_pieces([piece for _, piece in covered])
        try:
            for problem in require_findable(self._folder, self._index):
                self._findings.add(FINDABLE, self._log, problem)
            for batch in _batches(covered):
                self._load(batch)
                self._compare(ROWS, batch, self._expected_rows(), self._rows_of_files(batch))
                self._compare(POSTINGS, batch, rows.POSTINGS, self._postings_of_files(batch))
                self._findings.records += batch[-1][1].next - batch[0][1].first
        except (duckdb.Error, pa.ArrowException, OSError, IndexFault) as error:
            self._findings.add(FINDABLE, self._log, f"a file of the index cannot be read: {str(error).splitlines()[0]:.200}")

    def _require_pieces(self, covered: Sequence[Piece]) -> None:
        """The pieces are of the log as it is, but for those that say themselves that lines are lacking, and what follows."""
        left_out = {piece.segment for piece in self._index.pieces if piece.is_left_out}
        for piece in self._index.pieces:
            if piece not in covered and piece.segment not in left_out:
                self._findings.add(
                    ROWS, self._log, f"records {piece.first} to {piece.next - 1} were indexed from other bytes than are there now"
                )

    def _load(self, batch: Sequence[tuple[Part, Piece]]) -> None:
        """The lines of the pieces, as the table `rows`."""
        self._rows.clear()
        ignored: list[Damage] = []  # damage of lines is a matter of the steps of the log
        for part, piece in batch:
            within = replace(
                part,
                skipped_bytes=piece.start,
                skipped_lines=piece.first - piece.segment,
                size_bytes=piece.stop,
                next_index=piece.next,
            )
            for chunk in scan.chunks(within, ignored, scan.MAX_LINE_BYTES):
                self._rows.add(chunk, ignored)

    def _compare(self, step: int, batch: Sequence[tuple[Part, Piece]], expected: str, found: str) -> None:
        for reason, less, more in (
            ("is not in the index as its line has it", expected, found),
            ("has in the index what its line has not", found, expected),
        ):
            select = (
                f"SELECT record, count(*) FROM ((SELECT * FROM ({less})) EXCEPT ALL (SELECT * FROM ({more}))) GROUP BY record"  # noqa: S608 - of constants, and paths of ours
            )
            different = self._database.execute(f"{select} ORDER BY record LIMIT {_LISTED}").fetchall()
            for record, count in different:
                self._findings.add(step, self._log, f"record {record} {reason}", count)

    def _expected_rows(self) -> str:
        return f"SELECT record, {_DAY} AS day, to_json(e) AS row FROM (SELECT {rows.EVENT_COLUMNS} FROM rows) e"  # noqa: S608 - constants

    def _rows_of_files(self, batch: Sequence[tuple[Part, Piece]]) -> str:
        within = _within(batch)
        selects = [
            f"SELECT record, '{file.day}' AS day, to_json(e) AS row FROM "  # noqa: S608 - paths and days of ours
            f"(SELECT * FROM read_parquet({quoted(file.path(self._folder))}, hive_partitioning = false)) e WHERE {within}"
            for file in self._index.days
            if _is_day(file)
        ]
        return " UNION ALL ".join(selects) or f"SELECT * FROM ({self._expected_rows()}) LIMIT 0"  # noqa: S608 - constants

    def _postings_of_files(self, batch: Sequence[tuple[Part, Piece]]) -> str:
        paths = ", ".join(quoted(path) for run in self._index.runs for path in run.paths(self._folder))
        if not paths:
            return f"SELECT * FROM ({rows.POSTINGS}) LIMIT 0"  # noqa: S608 - constants
        return f"SELECT term, record, start FROM read_parquet([{paths}]) WHERE {_within(batch)}"  # noqa: S608 - paths of ours


def _batches(covered: Sequence[tuple[Part, Piece]]) -> Iterator[list[tuple[Part, Piece]]]:
    """Neighbouring pieces, so many at once as fit into memory."""
    batch: list[tuple[Part, Piece]] = []
    size_bytes = 0
    for part, piece in covered:
        if batch and (size_bytes + piece.stop - piece.start > _BATCH_BYTES or batch[-1][1].next != piece.first):
            yield batch
            batch, size_bytes = [], 0
        batch.append((part, piece))
        size_bytes += piece.stop - piece.start
    if batch:
        yield batch


def _within(batch: Sequence[tuple[Part, Piece]]) -> str:
    return f"record >= {batch[0][1].first} AND record < {batch[-1][1].next}"


def _is_day(file: DayFile) -> bool:
    """The manifest may be anybody's: a day goes into SQL only where it is one."""
    return len(file.day) == 10 and file.day.replace("-", "").isdigit()
