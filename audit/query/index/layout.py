"""The folder of the index, and its manifest: which files are the index, and of which pieces of the log.

    index/manifest.json
    index/lock
    index/events/day=2026-01-31/w0-FIRST-NEXT.parquet
    index/postings/w0-FIRST-NEXT-SLICE.parquet
    and beside each its sums

FIRST and NEXT are indexes of records in the log. The manifest is replaced whole, after all files that it names are durable; a
file that it does not name is no part of the index. Its `sum` is over all else in it: a manifest that rotted would lead past
records, and nobody would notice. `probe` is what DuckDB makes of a known term: where it is another, the terms are hashed in
another way, and the index is built anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from audit import durable
from audit.errors import AuditError
from audit.query.index.sums import sums_path

VERSION = 9
#: A run of more records is kept in slices of the terms' space: a look-up opens a small file, and merging takes little memory.
SLICED_FROM, SLICES = 500_000, 16


class IndexFault(AuditError):
    """The index cannot be used, or not now; the log has all that it has."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What was compacted of the segment whose first record is `segment`: the records `first` up to `next`, the bytes `start` up
    to `stop`; the first and the last time in it (as recorded; None where no line could be read), and the lines that could not
    be read, with the reasons.

    One that has not as many lines as it should is `is_left_out`: it is read as it stands, each time.
    """

    segment: int
    first: int
    next: int
    start: int
    stop: int
    since: str | None
    until: str | None
    damaged: tuple[tuple[int, str], ...] = ()
    is_left_out: bool = False
    tail: str = ""  # hash of what stands before `stop`, by which a log that was put back and grew otherwise is known


@dataclass(frozen=True, slots=True)
class Run:
    """Postings of the records `first` up to, but without, `next`, sorted by term, in `slices` files."""

    log: str
    first: int
    next: int
    slices: int

    def paths(self, index: Path) -> list[Path]:
        return [self.path(index, number) for number in range(self.slices)]

    def files(self, index: Path) -> list[Path]:
        """All that belong to it: `paths`, and their sums."""
        return [file for path in self.paths(index) for file in (path, sums_path(path))]

    def path(self, index: Path, slice: int) -> Path:
        return index / "postings" / f"{self.log}-{self.first:020d}-{self.next:020d}-{slice:02d}.parquet"

    def path_of(self, index: Path, term: int) -> Path:
        """The file that has the postings of the hash `term`."""
        return self.path(index, term * self.slices >> 64)

    @property
    def records(self) -> int:
        return self.next - self.first


@dataclass(frozen=True, slots=True)
class DayFile:
    """Events of one day (``2026-01-31``) among the records `first` up to `next`; `records` of them."""

    log: str
    day: str
    first: int
    next: int
    records: int

    def path(self, index: Path) -> Path:
        return index / "events" / f"day={self.day}" / f"{self.log}-{self.first:020d}-{self.next:020d}.parquet"

    def files(self, index: Path) -> list[Path]:
        """It, and its sums."""
        return [self.path(index), sums_path(self.path(index))]


@dataclass(slots=True)
class LogIndex:
    """What the index has of one log: its pieces, in order and without a gap, and the files."""

    pieces: list[Piece] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    days: list[DayFile] = field(default_factory=list)


@dataclass(slots=True)
class Manifest:
    """What the index is. `load` gives an empty one where there is none."""

    logs: dict[str, LogIndex] = field(default_factory=dict)
    probe: int | None = None

    @classmethod
    def load(cls, index: Path) -> Manifest:
        """Raises `IndexFault` for one that cannot be read, OSError."""
        try:
            document = orjson.loads((index / "manifest.json").read_bytes())
            if document["version"] != VERSION:
                return cls()  # of another version: as good as none, and rebuilt by the next compaction
            if document.pop("sum") != _sum(document):
                raise ValueError("it is not as it was written")
            return cls({name: _log(name, part) for name, part in document["logs"].items()}, document["probe"])
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexFault(f"{index / 'manifest.json'} cannot be read; `keytrail index rebuild` makes it anew") from error

    def save(self, index: Path) -> None:
        """Durable when this returns. Raises OSError."""
        logs = {
            name: {
                "pieces": [
                    [p.segment, p.first, p.next, p.start, p.stop, p.since, p.until, p.damaged, p.is_left_out, p.tail]
                    for p in log.pieces
                ],
                "runs": [[run.first, run.next, run.slices] for run in log.runs],
                "days": [[day.day, day.first, day.next, day.records] for day in log.days],
            }
            for name, log in self.logs.items()
        }
        document = {"version": VERSION, "probe": self.probe, "logs": logs}
        text = orjson.dumps(document | {"sum": _sum(document)})
        durable.replace(index / "manifest.json", text + b"\n", mode=0o600)

    def paths(self, index: Path) -> Iterator[Path]:
        """Every file that belongs to the index."""
        for log in self.logs.values():
            for run in log.runs:
                yield from run.files(index)
            for day in log.days:
                yield from day.files(index)


def index_folder(data: Path) -> Path:
    """Where the index of the data folder is."""
    return data / "index"


def quoted(path: Path) -> str:
    """`path` as a text in SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def _sum(document: dict[str, Any]) -> str:
    return sha256(orjson.dumps(document)).hexdigest()


def _log(name: str, part: dict[str, Any]) -> LogIndex:
    return LogIndex(
        [_piece(*fields) for fields in part["pieces"]],
        [Run(name, *_whole(fields)) for fields in part["runs"]],
        [DayFile(name, str(day), *_whole(fields)) for day, *fields in part["days"]],
    )


def _whole(fields: list[Any]) -> list[int]:
    """The numbers, which a manifest that somebody made up may have otherwise. Raises ValueError."""
    if not all(type(one) is int and one >= 0 for one in fields):
        raise ValueError("no whole numbers")
    return fields


def _piece(
    segment: int,
    first: int,
    next: int,
    start: int,
    stop: int,
    since: str | None,
    until: str | None,
    damaged: list[list[Any]],
    is_left_out: bool,
    tail: str,
) -> Piece:
    _whole([segment, first, next, start, stop])
    lines = tuple((line, why) for line, why in damaged)
    return Piece(segment, first, next, start, stop, since, until, lines, is_left_out, tail)
