"""An import on disk (its files: `audit.query.imported`), and how it grows so that nothing is ever half there, or twice.

A part is committed in this order: raw events, rows and sources written and synced → manifest replaced. A crash between any two of
these leaves files that no manifest names, and the next run reads again the files of AWS's that no part has. Row files of a size
become one as those of the index do: the new one written and synced → manifest replaced. What no manifest names is removed by a
later run, when readers that knew it are done.

An event has the identity that AWS gave it (eventID), and is kept the first time that it comes. One process at a time imports or
removes (`imported/.lock`).
"""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
import pyarrow as pa

from audit import durable
from audit.errors import AuditError
from audit.imports.rows import Event, Unusable, event_of
from audit.query import scan
from audit.query.database import lock_settings, open_database
from audit.query.imported import (
    OWN_COLUMNS,
    EventsFile,
    ImportFault,
    Manifest,
    Part,
    import_folder,
    imported_folder,
    log_name,
    raw_path,
    require_import,
    sources_path,
)
from audit.query.index.compact import due
from audit.query.index.layout import quoted
from audit.query.index.rows import EVENT_COLUMNS, EVENTS, LOAD
from audit.reconcile.cloudtrail import DamagedFile, read_written

#: A part is committed when it has so many events, or bytes of them.
BATCH_EVENTS, BATCH_BYTES = 20_000, 32 << 20
FANOUT = 8
#: Files that were replaced are kept so long for whoever may still read them.
KEPT_S = 15 * 60
#: Two events with one eventID are told so, at most so many times a run.
MAX_CONFLICTS = 1_000
CONFLICT = "one with its eventID came before, and says something else; that one stays"
COLUMNS = (*EVENTS, *OWN_COLUMNS)
_HEAD, _TAIL = b'{"Records":[\n', b"]}\n"
_WRITE = "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARQUET_VERSION v2, ROW_GROUP_SIZE 61440)"


class ImportInUse(AuditError):
    """Another process imports, or removes an import."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of AWS's that was read to its end, and had nothing that could not be read; `all_sources`: with the events of every
    service."""

    sha256: str
    size_bytes: int
    name: str
    all_sources: bool


@dataclass(slots=True)
class _Batch:
    """What is committed next."""

    events: list[Event] = field(default_factory=list)
    size_bytes: int = 0
    sources: list[Source] = field(default_factory=list)


class Import:
    """The import `name` in the data folder, to be added to. A context manager; holds the lock.

    What was added is durable after `commit`. Raises `ImportInUse`, `ImportFault`, OSError, `QueryError` where no log is.
    """

    def __init__(
        self, data: Path, name: str, *, batch_events: int = BATCH_EVENTS, batch_bytes: int = BATCH_BYTES, fanout: int = FANOUT
    ) -> None:
        scan.find_logs(data)  # no import where there is no log
        self.folder = import_folder(data, name)
        self.log = log_name(name)
        self.added = 0
        self.known = 0
        self.conflicts: list[str] = []
        self._limits = (batch_events, batch_bytes)
        self._fanout = fanout
        self._batch = _Batch()
        self._lock = _take_lock(data)
        try:
            for folder in (self.folder, *(self.folder / part for part in ("raw", "events", "sources"))):
                if not folder.exists():
                    durable.create_folder(folder)
            spill = self.folder / "spill"
            shutil.rmtree(spill, ignore_errors=True)
            self._database = open_database([self.folder], spill=spill)
            lock_settings(self._database)
            self._manifest = Manifest.load(self.folder) or Manifest(COLUMNS)
            self._changed = False
            self._sources = set(self._read_sources())
            _remove_strangers(self.folder, self._manifest)
            if self._manifest.columns != COLUMNS:
                self.rebuild()
        except BaseException:
            os.close(self._lock)
            raise

    def has(self, source: Source) -> bool:
        """Whether a file with these bytes, or with this name and size if `source` has no SHA-256, was read already."""
        wider = (True,) if source.all_sources else (True, False)
        key = (source.sha256,) if source.sha256 else (source.name, source.size_bytes)
        return any((*key, all_sources) in self._sources for all_sources in wider)

    def add(self, event: Event) -> None:
        """Add an event; it may be committed at once."""
        self._batch.events.append(event)
        self._batch.size_bytes += len(event.text)
        if len(self._batch.events) >= self._limits[0] or self._batch.size_bytes >= self._limits[1]:
            self.commit()

    def finish(self, source: Source) -> None:
        """All events of `source` were added."""
        self._batch.sources.append(source)
        self._sources |= _keys(source)
        self._changed |= self._manifest.damaged.pop(source.name, None) is not None

    def mark_damaged(self, name: str, reason: str) -> None:
        """The file or event `name` could not be taken. A file is read again the next time."""
        if self._manifest.damaged.get(name) != reason:
            self._manifest.damaged[name] = reason
            self._changed = True

    def commit(self) -> None:
        """Make durable what was added. Raises OSError."""
        batch, self._batch = self._batch, _Batch()
        events = self._new(batch.events)
        if not events and not batch.sources and not self._changed:
            return
        number, first = len(self._manifest.parts), self._manifest.next
        part = Part(first, first + len(events), len(batch.sources))
        paths = []
        if events:
            _write(raw_path(self.folder, number), gzip.compress(_raw(events), 4, mtime=0))
            file = self._write_rows(first, events, self._manifest.making)
            self._manifest.files.append(file)
            paths += [raw_path(self.folder, number), file.path(self.folder)]
        if batch.sources:
            lines = (orjson.dumps([one.sha256, one.size_bytes, one.name, one.all_sources]) for one in batch.sources)
            _write(sources_path(self.folder, number), b"".join(line + b"\n" for line in lines))
            paths.append(sources_path(self.folder, number))
        if paths:
            self._manifest.parts.append(part)
        _sync(paths)
        self._manifest.save(self.folder)
        self._changed = False
        self.added += len(events)
        while self._merge():
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()
        os.close(self._lock)

    # --- rows

    def _new(self, events: Sequence[Event]) -> list[Event]:
        """Those of `events` that the import does not have, each once."""
        if not events:
            return []
        there: dict[str, int] = {}
        if files := self._manifest.files:
            asked = pa.table({"identity": pa.array([event.identity for event in events], pa.string())})
            self._database.register("asked", asked)
            select = f"SELECT identity, content FROM {_rows_of(self.folder, files)} SEMI JOIN asked USING (identity)"  # noqa: S608 - ours
            there = dict(self._database.execute(select).fetchall())
            self._database.unregister("asked")
        new = []
        for event in events:
            if event.identity not in there:
                there[event.identity] = event.content
                new.append(event)
                continue
            self.known += 1
            if there[event.identity] != event.content and len(self.conflicts) < MAX_CONFLICTS:
                self.conflicts.append(f"event {event.identity}")
                self.mark_damaged(self.conflicts[-1], CONFLICT)
        return new

    def _write_rows(self, first: int, events: Sequence[Event], making: int) -> EventsFile:
        stops, stop = [], len(_HEAD)
        for number, event in enumerate(events):
            stop += (number > 0) + len(event.text) + 1
            stops.append(stop)
        numbers = range(len(events))
        lines = {
            "n": pa.array(numbers, pa.int64()),
            "stop": pa.array(stops, pa.int32()),
            "size": pa.array([len(event.text) + 1 for event in events], pa.int32()),
            "line": pa.array([event.row for event in events], pa.binary()).cast(pa.string()),
        }
        own = {
            "record": pa.array([first + number for number in numbers], pa.int64()),
            "identity": pa.array([event.identity for event in events], pa.string()),
            "content": pa.array([event.content for event in events], pa.uint64()),
            "service": pa.array([event.service for event in events], pa.string()),
        }
        self._database.register("lines", pa.table(lines))
        self._database.register("own", pa.table(own))
        self._database.execute(f"CREATE OR REPLACE TABLE rows AS {LOAD}", {"first": first, "offset": 0})
        self._database.unregister("lines")
        select = f"SELECT {EVENT_COLUMNS}, {', '.join(OWN_COLUMNS)} FROM rows JOIN own USING (record)"  # noqa: S608 - constants
        self._database.execute(f"CREATE OR REPLACE TABLE rows AS {select}")
        self._database.unregister("own")
        [(since, until)] = self._database.execute("SELECT min(time), max(time) FROM rows").fetchall()
        file = EventsFile(first, first + len(events), making, _moment(since), _moment(until))
        self._copy("FROM rows", file)
        self._database.execute("DROP TABLE rows")
        return file

    def _copy(self, select: str, file: EventsFile) -> None:
        path = file.path(self.folder)
        self._database.execute(f"COPY ({select} ORDER BY record) TO {quoted(path)} {_WRITE}")
        path.chmod(0o600)

    def _merge(self) -> bool:
        """Make one file of several, where there are enough of a size; whether there were."""
        files = self._manifest.files
        if (window := due([file.records for file in files], self._fanout)) is None:
            return False
        old = files[window]
        file = EventsFile(
            old[0].first, old[-1].next, self._manifest.making, min(one.since for one in old), max(one.until for one in old)
        )
        self._copy(f"FROM {_rows_of(self.folder, old)}", file)
        _sync([file.path(self.folder)])
        files[window] = [file]
        self._manifest.save(self.folder)
        return True

    def rebuild(self) -> None:
        """Make all rows anew, of the raw events. Raises `ImportFault` where these were changed, OSError."""
        making, files = self._manifest.making + 1, list[EventsFile]()
        for number, part in enumerate(self._manifest.parts):
            if part.next > part.first:
                events = self._read_raw(number)
                if len(events) != part.next - part.first:
                    raise ImportFault(f"{raw_path(self.folder, number)} is not as it was written: {len(events)} events")
                files.append(self._write_rows(part.first, events, making))
        _sync([file.path(self.folder) for file in files])
        self._manifest.columns, self._manifest.making, self._manifest.files = COLUMNS, making, files
        self._manifest.save(self.folder)
        while self._merge():
            pass

    def _read_raw(self, number: int) -> list[Event]:
        path = raw_path(self.folder, number)
        try:
            with path.open("rb") as file:
                return [event_of(event, written, self.log) for event, written in read_written(file)]
        except (FileNotFoundError, DamagedFile, Unusable) as error:
            raise ImportFault(f"{path} is not as it was written: {error}") from error

    def _read_sources(self) -> Iterator[tuple[object, ...]]:
        for number, part in enumerate(self._manifest.parts):
            path = sources_path(self.folder, number)
            try:
                for line in path.read_bytes().splitlines() if part.files else ():
                    yield from _keys(Source(*orjson.loads(line)))
            except (FileNotFoundError, ValueError, TypeError):  # its files are read again, and have nothing new
                continue


def remove(data: Path, name: str) -> None:
    """Remove the import `name`, also what a crash left of one.

    Raises `QueryError` where there is none, `ImportInUse`, OSError.
    """
    folder = import_folder(data, name)
    if not folder.is_dir():
        require_import(data, name)
    lock = _take_lock(data)
    try:
        (folder / "manifest.json").unlink(missing_ok=True)  # first: what it does not name is no import
        durable.sync_folder(folder)
        shutil.rmtree(folder)
        durable.sync_folder(folder.parent)
    finally:
        os.close(lock)


def _take_lock(data: Path) -> int:
    """Have the imports for this process alone, until the file descriptor is closed. Raises `ImportInUse`, OSError."""
    folder = imported_folder(data)
    if not folder.exists():
        durable.create_folder(folder)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ImportInUse(f"{folder}: another process imports now, or removes an import") from error
    return lock


def _remove_strangers(folder: Path, manifest: Manifest) -> None:
    """Remove what a crash left, and what was replaced, if nobody can be reading it any more."""
    ours, now = set(manifest.paths(folder)), time.time()
    for part in ("raw", "events", "sources"):
        for path in (folder / part).iterdir():
            if path not in ours and path.stat().st_mtime <= now - KEPT_S:
                path.unlink()


def _keys(source: Source) -> set[tuple[object, ...]]:
    return {(source.sha256, source.all_sources), (source.name, source.size_bytes, source.all_sources)}


def _raw(events: Sequence[Event]) -> bytes:
    return _HEAD + b",".join(event.text + b"\n" for event in events) + _TAIL


def _rows_of(folder: Path, files: Sequence[EventsFile]) -> str:
    paths = ", ".join(quoted(file.path(folder)) for file in files)
    return f"read_parquet([{paths}], hive_partitioning = false)"


def _moment(at: datetime) -> str:
    return f"{at.isoformat()}Z"


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        durable.write_all(fd, data)
    finally:
        os.close(fd)


def _sync(paths: Sequence[Path]) -> None:
    """Make the files durable, and their names."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    for folder in {path.parent for path in paths}:
        durable.sync_folder(folder)
