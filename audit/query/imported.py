"""The folder of what was imported of CloudTrail, as its readers see it: which files belong to an import.

    imported/NAME/manifest.json
    imported/NAME/raw/NUMBER.json.gz                the events as they came: a CloudTrail log file, one event a line
    imported/NAME/events/FIRST-NEXT-MAKING.parquet  the same events as rows
    imported/NAME/sources/NUMBER.jsonl              the files that they came from

FIRST and NEXT are numbers of events in the import, from 0; MAKING counts how often all rows were made anew. Files never change;
a manifest is replaced whole, after all files that it names are durable, and a file that it does not name is no part of the
import. Nothing here is evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import orjson

from audit import durable
from audit.errors import AuditError, QueryError
from audit.query.index.layout import quoted
from audit.query.lines import Damage

VERSION = 1
#: Beside those of `EVENTS`: what makes two events the same one, 64 bits of SHA-256 over what it says, and which of AWS's services
#: caused it itself.
OWN_COLUMNS = ("identity", "content", "service")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class ImportFault(AuditError):
    """An import cannot be read; the files that it was made of have all that it had."""


@dataclass(frozen=True, slots=True)
class Part:
    """What was committed at once: the events `first` up to, but without, `next`, of `files` files that were read to their end."""

    first: int
    next: int
    files: int


@dataclass(frozen=True, slots=True)
class EventsFile:
    """Rows of the events `first` up to `next`, the first and the last time among them (ISO 8601, UTC)."""

    first: int
    next: int
    making: int
    since: str
    until: str

    @property
    def records(self) -> int:
        return self.next - self.first

    def path(self, folder: Path) -> Path:
        return folder / "events" / f"{self.first:012d}-{self.next:012d}-{self.making}.parquet"


@dataclass(slots=True)
class Manifest:
    """What an import is. `columns` are those of the Parquet files; `damaged` has AWS's files that could not be read wholly, and
    events that contradict each other, with the first reason."""

    columns: tuple[str, ...]
    making: int = 0
    parts: list[Part] = field(default_factory=list)
    files: list[EventsFile] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Manifest | None:
        """None where there is none, and so no import. Raises `ImportFault`, OSError."""
        try:
            document = orjson.loads((folder / "manifest.json").read_bytes())
            if document["version"] != VERSION:
                raise ImportFault(
                    f"{folder / 'manifest.json'} is of version {document['version']}, this keytrail reads {VERSION}"
                )
            parts = [Part(*map(int, part)) for part in document["parts"]]
            files = [EventsFile(int(a), int(b), int(making), *map(str, times)) for a, b, making, times in document["files"]]
            return cls(tuple(map(str, document["columns"])), int(document["making"]), parts, files, dict(document["damaged"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ImportFault(f"{folder / 'manifest.json'} cannot be read; its raw folder can be imported anew") from error

    def save(self, folder: Path) -> None:
        """Durable when this returns. Raises OSError."""
        document = {
            "version": VERSION,
            "columns": self.columns,
            "parts": [[part.first, part.next, part.files] for part in self.parts],
            "making": self.making,
            "files": [[file.first, file.next, file.making, [file.since, file.until]] for file in self.files],
            "damaged": self.damaged,
        }
        durable.replace(folder / "manifest.json", orjson.dumps(document) + b"\n")

    @property
    def next(self) -> int:
        """The number of the next event, which is how many there are."""
        return self.parts[-1].next if self.parts else 0

    def paths(self, folder: Path) -> Iterator[Path]:
        """Every file that belongs to the import, beside the manifest."""
        for number, part in enumerate(self.parts):
            if part.next > part.first:
                yield raw_path(folder, number)
            if part.files:
                yield sources_path(folder, number)
        for file in self.files:
            yield file.path(folder)


def raw_path(folder: Path, number: int) -> Path:
    """The events of part `number` as they came."""
    return folder / "raw" / f"{number:08d}.json.gz"


def sources_path(folder: Path, number: int) -> Path:
    """The files that were read to their end with part `number`."""
    return folder / "sources" / f"{number:08d}.jsonl"


def imported_folder(data: Path) -> Path:
    """Where the imports of the data folder are."""
    return data / "imported"


def import_folder(data: Path, name: str) -> Path:
    """Where the import `name` is, or would be. Raises `QueryError` where that can be no name."""
    if _NAME.fullmatch(name) is None:
        raise QueryError(f"not a name for an import: {name!r}; accepted: up to 63 of a-z, 0-9, - and _, as in prod-trail")
    return imported_folder(data) / name


def import_names(data: Path) -> list[str]:
    """The names of all imports, sorted."""
    names = (path.parent.name for path in imported_folder(data).glob("*/manifest.json"))
    return sorted(name for name in names if _NAME.fullmatch(name))


def require_import(data: Path, name: str) -> None:
    """Raises `QueryError` where there is no import `name`."""
    names = import_names(data)
    if name not in names:
        raise QueryError(f"no import {name!r} in {data}; there are: {', '.join(names) or 'none'}")


def log_name(name: str) -> str:
    """What the import `name` is called in the column `log`."""
    return f"import:{name}"


def readable_files(data: Path, database: duckdb.DuckDBPyConnection) -> tuple[list[tuple[Path, Manifest]], list[Damage]]:
    """The files of rows of all imports, each with the import that it belongs to; and those that `database` cannot read. Raises
    OSError."""
    files, damaged = [], list[Damage]()
    for name in import_names(data):
        folder = import_folder(data, name)
        try:
            manifest = Manifest.load(folder)
        except ImportFault as error:
            damaged.append(Damage(log_name(name), "manifest.json", 0, str(error)))
            continue
        if manifest is None:  # removed just now
            continue
        for path in (file.path(folder) for file in manifest.files):
            try:
                database.execute(f"FROM read_parquet({quoted(path)}, hive_partitioning = false) LIMIT 0")
            except duckdb.Error:
                why = f"it is missing or cannot be read; `keytrail import rebuild {name}` makes it anew"
                damaged.append(Damage(log_name(name), path.name, 0, why))
            else:
                files.append((path, manifest))
    return files, damaged
