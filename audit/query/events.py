"""The events of all logs as the tables `events` and `calls` of a database: docs/events.md tells their columns.

What the index has is read where it lies; what it does not have yet, from the log itself; and what was imported of CloudTrail
comes beside it, marked by `origin`. So nothing that was committed is missing. The rows are derived: each names the place of its
line in the log, which alone is evidence.

The database reads no other file and changes no setting any more, so that it may be asked whatever a user writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from audit.query import scan
from audit.query.database import lock_settings, open_database
from audit.query.engine import Progress
from audit.query.imported import imported_folder, readable_files
from audit.query.index.layout import IndexFault, LogIndex, Manifest, index_folder, quoted
from audit.query.index.load import Rows
from audit.query.index.lookup import open_index
from audit.query.index.pieces import Covered
from audit.query.index.rows import EVENT_COLUMNS, EVENTS
from audit.query.index.sums import require_sound
from audit.query.lines import Damage
from audit.query.scan import Coverage, Part

_THREADS = 2
_INDEX_TRIES = 5

#: Columns that are made of the others: name → SQL, and what it is.
DERIVED: dict[str, tuple[str, str]] = {
    "day": ("CAST(time AS DATE)", "the date of `time`, UTC"),
    "key": ("keys[1]", "ARN of the key, of ReEncrypt the source"),
    "role": (
        "CASE WHEN caller LIKE '%:assumed-role/%' THEN split_part(caller, '/', 2) END",
        "of a caller that assumed one, its name",
    ),
    "session_name": (
        "CASE WHEN caller LIKE '%:assumed-role/%' THEN split_part(caller, '/', 3) END",
        "of a caller that assumed a role: whom it says that it is",
    ),
    "outcome": (
        """CASE WHEN phase = 'intent' THEN 'intent'
                WHEN effect = 'made' THEN 'ok'
                WHEN effect = 'none' THEN 'failed'
                WHEN phase = 'unknown' OR effect = 'unknown' THEN 'unknown'
                WHEN error_code IS NULL THEN 'ok'
                WHEN error_code = 'DryRunOperationException' THEN 'dry run'
                ELSE 'failed' END""",
        "ok, failed, unknown, dry run, intent; of a lost outcome what `effect` knows of it",
    ),
    "origin": ("origin", "keytrail: a record of the logs here; cloudtrail: it was imported, and is no evidence"),
}
#: All columns, and what each is.
COLUMNS: Mapping[str, str] = {name: meaning for name, (_, meaning) in {**EVENTS, **DERIVED}.items()}
#: The table of calls: an intent and its outcome are two records of one call.
_CALLS = "SELECT * FROM events WHERE phase <> 'intent'"


@dataclass(slots=True)
class Events:
    """A database with the views `events` and `calls`. A context manager.

    `damaged` names what of the logs could not be read, so that answers may lack it; `index_fault` why the index was of no use.
    `indexed`: files of the index that rows come from, as they lie, which nobody verifies.
    """

    database: duckdb.DuckDBPyConnection
    damaged: tuple[Damage, ...]
    coverage: tuple[Coverage, ...]
    index_fault: str | None
    indexed: tuple[Path, ...]
    _spill: tempfile.TemporaryDirectory[str]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.database.interrupt()  # else closing waits for what an interrupted statement still does
        self.database.close()
        self.remove_spill()

    def require_sound(self) -> None:
        """Raises `IndexFault` where rows come from a file that rotted: for when an answer failed, since it reads them whole."""
        for path in self.indexed:
            try:
                require_sound(path)
            except OSError as error:
                raise IndexFault(f"{error}; --no-index reads the log, `keytrail index rebuild` makes the index anew") from error

    def remove_spill(self) -> None:
        """Remove what was spilled to the disk: alone for a process that cannot close the database any more."""
        self._spill.cleanup()


def open_events(
    data: Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    log: str | None = None,
    use_index: bool = True,
    only_sound: bool = False,
    progress: Progress | None = None,
) -> Events:
    """The events of the data folder, or those from `since` on, before `until`; of `log` alone where it is given. Safe while the
    logs are written. Where the index cannot be read, everything is read from the log; with `only_sound` also where it rotted, and
    its files are read whole to know.

    Raises `QueryError` where there is no log, OSError, duckdb.Error.
    """
    asked = _Asked(data, since, until, log, progress)
    fault = None
    for _ in range(_INDEX_TRIES if use_index else 0):
        try:
            events = _open(asked, use_index=True)
        except duckdb.InterruptException:
            raise
        except (duckdb.Error, IndexFault) as error:  # gone meanwhile, damaged, or of another shape: DuckDB says it in many ways
            fault = str(error)
            continue
        if not only_sound or (fault := _rot_of(events)) is None:
            return events
        break
    return replace(_open(asked, use_index=False), index_fault=fault)


def _rot_of(events: Events) -> str | None:
    """What of the index rotted beneath `events`, which are closed then."""
    try:
        events.require_sound()
    except IndexFault as error:
        with events:
            return str(error)
    return None


@dataclass(frozen=True, slots=True)
class _Asked:
    data: Path
    since: datetime | None
    until: datetime | None
    log: str | None
    progress: Progress | None


def _open(asked: _Asked, *, use_index: bool) -> Events:
    data, since, until = asked.data, asked.since, asked.until
    logs, damaged = scan.find_logs(data, asked.log)
    spill = tempfile.TemporaryDirectory(prefix="keytrail-events-")
    folders = [index_folder(data) / "events", imported_folder(data)]
    database = open_database(folders, spill=Path(spill.name), threads=_THREADS)
    try:
        manifest = open_index(data, database).manifest if use_index else Manifest()
        selects, used, open_parts, coverage = list[str](), list[Path](), list[Part](), list[Coverage]()
        for name in logs:
            parts, missing = scan.find_parts(data, name)
            damaged += missing
            coverage.append(scan.coverage(name, parts))
            indexed, covered = _indexed(data, manifest, name, parts, since, until)
            selects += indexed.values()
            used += indexed
            open_parts += scan.within(covered.rest, since, until)
            damaged += covered.damaged
        _load_tail(database, open_parts, damaged, asked.progress)
        selects.append("SELECT *, 'keytrail' AS origin FROM tail")
        imported, missing = _imported(data, database) if asked.log is None else ([], [])
        selects += imported
        damaged += missing
        _make_views(database, selects, since, until)
        lock_settings(database)
    except BaseException:
        database.interrupt()
        database.close()
        spill.cleanup()
        raise
    return Events(database, tuple(damaged), tuple(coverage), None, tuple(used), spill)


def _indexed(
    data: Path, manifest: Manifest, log: str, parts: Sequence[Part], since: datetime | None, until: datetime | None
) -> tuple[dict[Path, str], Covered]:
    """SELECTs of what the index has of `log`, by their files."""
    index = manifest.logs.get(log, LogIndex())
    covered = Covered.of(index, parts)
    spans = _joined((piece.first, piece.next) for _, piece in covered.pieces)
    selects = dict[Path, str]()
    for day in index.days:
        if (since is not None and day.day < since.astimezone(UTC).strftime("%Y-%m-%d")) or (
            until is not None and day.day > until.astimezone(UTC).strftime("%Y-%m-%d")
        ):
            continue
        path = day.path(index_folder(data))
        select = f"SELECT *, 'keytrail' AS origin FROM read_parquet({quoted(path)}, hive_partitioning = false)"  # noqa: S608 - a path of ours
        if not any(first <= day.first and day.next <= next for first, next in spans):
            within = [f"record BETWEEN {first} AND {next - 1}" for first, next in spans]
            select += f" WHERE {' OR '.join(within) or 'false'}"
        selects[path] = select
    return selects, covered


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours among `spans`, which are in order, as one."""
    joined: list[tuple[int, int]] = []
    for first, next in spans:
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], next)
        else:
            joined.append((first, next))
    return joined


def _load_tail(
    database: duckdb.DuckDBPyConnection, parts: Sequence[Part], damaged: list[Damage], progress: Progress | None
) -> None:
    """The table `tail`: the events of `parts`, read from the log."""
    rows = Rows(database)
    select = f"SELECT {EVENT_COLUMNS} FROM rows"  # noqa: S608 - of constants
    database.execute(f"CREATE TABLE tail AS {select}")
    total, done = sum(part.size_bytes - part.skipped_bytes for part in parts), 0
    for part in parts:
        lines = part.skipped_lines
        for chunk in scan.chunks(part, damaged):
            rows.add(chunk, damaged)
            database.execute(f"INSERT INTO tail {select}")
            rows.clear()
            lines, done = chunk.first_line + chunk.lines - 1, done + chunk.size_bytes
            if progress:
                progress(done, total)
        if (short := part.shortfall(lines)) is not None:
            damaged.append(short)
    database.execute("DROP TABLE rows")
    database.unregister("lines")


def _imported(data: Path, database: duckdb.DuckDBPyConnection) -> tuple[list[str], list[Damage]]:
    """SELECTs of what was imported; and what of it cannot be read, which takes nothing else away."""
    files, damaged = readable_files(data, database)
    selects = []
    for path, manifest in files:
        columns = ", ".join(f'"{name}"' if name in manifest.columns else f'NULL AS "{name}"' for name in EVENTS)
        selects.append(f"SELECT {columns}, 'cloudtrail' AS origin FROM read_parquet({quoted(path)}, hive_partitioning = false)")  # noqa: S608 - ours
    return selects, damaged


def _make_views(
    database: duckdb.DuckDBPyConnection, selects: Sequence[str], since: datetime | None, until: datetime | None
) -> None:
    derived = ", ".join(f'{expression} AS "{name}"' for name, (expression, _) in DERIVED.items() if name != "origin")
    bounds = [f"time {sign} {_moment(at)}" for sign, at in ((">=", since), ("<", until)) if at is not None]
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    database.execute(
        f"CREATE VIEW events AS SELECT * EXCLUDE origin, {derived}, origin FROM ({' UNION ALL '.join(selects)}){where}"  # noqa: S608 - ours
    )
    database.execute(f"CREATE VIEW calls AS {_CALLS}")


def _moment(at: datetime) -> str:
    return f"TIMESTAMP '{at.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"
