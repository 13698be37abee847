"""What the imports of a data folder have: how much, from when to when, and the raw event that a row was made of."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from audit.query.database import open_database
from audit.query.imported import ImportFault, Manifest, import_folder, import_names, imported_folder, raw_path
from audit.query.index.layout import quoted

_PLACE = re.compile(r"(?:import:)?([a-z0-9][a-z0-9_-]*)/(\d{1,12})")
_AT = "SELECT record, start, size FROM read_parquet({path}, hive_partitioning = false) WHERE {condition} ORDER BY record"


@dataclass(frozen=True, slots=True)
class Status:
    """An import: events, the times of the first and the last (ISO 8601; None where there is none), the files of AWS's that were
    read, those that could not be read wholly with the first reason, and the bytes that all of it takes."""

    name: str
    events: int
    since: str | None
    until: str | None
    files: int
    damaged: dict[str, str]
    size_bytes: int


def statuses(data: Path) -> list[Status]:
    """Of every import. Raises `ImportFault`, OSError."""
    found = []
    for name in import_names(data):
        folder = import_folder(data, name)
        if (manifest := Manifest.load(folder)) is not None:
            found.append(
                Status(
                    name,
                    manifest.next,
                    min((file.since for file in manifest.files), default=None),
                    max((file.until for file in manifest.files), default=None),
                    sum(part.files for part in manifest.parts),
                    manifest.damaged,
                    sum(path.stat().st_size for path in manifest.paths(folder) if path.exists()),
                )
            )
    return found


def raw_events(data: Path, what: str) -> Iterator[bytes]:
    """The events with the eventID `what`, or the one at ``NAME/RECORD``, as they stood in AWS's file, each from one import.

    Raises `ImportFault`, OSError.
    """
    place = _PLACE.fullmatch(what)
    names = import_names(data)
    condition, bound = "identity = ?", what
    if place is not None and place[1] in names:
        names, condition, bound = [place[1]], "record = CAST(? AS BIGINT)", place[2]
    with open_database([imported_folder(data)]) as database:
        for name in names:
            folder = import_folder(data, name)
            if (manifest := Manifest.load(folder)) is None:
                continue
            for file in manifest.files:
                ask = _AT.format(path=quoted(file.path(folder)), condition=condition)
                try:
                    rows = database.execute(ask, [bound]).fetchall()
                except duckdb.Error as error:
                    raise ImportFault(f"{file.path(folder)} cannot be read: `keytrail import rebuild {name}`") from error
                for record, start, size in rows:
                    yield _raw(folder, manifest, record, start, size)


def _raw(folder: Path, manifest: Manifest, record: int, start: int, size: int) -> bytes:
    """The event `record`, whose line begins at `start` of its part, unpacked, and has `size` bytes with its end."""
    number = next(number for number, part in enumerate(manifest.parts) if part.first <= record < part.next)
    path = raw_path(folder, number)
    try:
        with gzip.open(path) as file:
            file.seek(start)
            line = file.read(size)
    except (gzip.BadGzipFile, EOFError, zlib.error, FileNotFoundError) as error:
        raise ImportFault(f"{path} is not as it was written: {error}") from error
    if len(line) != size or not line.endswith(b"\n"):
        raise ImportFault(f"{path} is not as it was written: it is too short")
    return line[:-1]
