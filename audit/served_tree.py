"""A log's tree as the resources of C2SP tlog-tiles: its checkpoint, its tiles, and bundles of its entries.

Only what a signed checkpoint covers is given. All is read from files that are there for other reasons; nothing is kept.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from audit.checkpoint import claimed_checkpoint
from audit.errors import AuditError
from audit.finding import read_lines
from audit.instance import Instance
from audit.levels import LevelFiles
from audit.tiles import WIDTH, TileName

_LENGTH_BYTES = 2
_LONGEST_ENTRY = (1 << 8 * _LENGTH_BYTES) - 1


class EntryTooLong(AuditError):
    """A record is longer than an entry of a bundle can be, as those of earlier versions may be."""

    def __init__(self, log: str, record: int, size: int) -> None:
        super().__init__(f"record {record} of {log} has {size} bytes; an entry bundle has room for {_LONGEST_ENTRY} of each")
        self.log, self.record, self.size = log, record, size


@dataclass(frozen=True, slots=True)
class Resource:
    """What is given for a path; `is_immutable`: it is the same for good."""

    body: bytes
    is_immutable: bool


def find_resource(instance: Instance, log: str, path: str) -> Resource | None:
    """What is at `path` below the log's prefix: `checkpoint`, `tile/…`, `tile/entries/…`. None where there is nothing.

    Raises `EntryTooLong`, `TreeDamaged`, `LogIncident`, `CheckpointInvalid`, OSError.
    """
    if log not in instance.logs:
        return None
    cosigned, signed = instance.witnessed_folder(log) / "cosigned", instance.checkpoint_folder(log) / "latest"
    if path == "checkpoint":
        note = _newest_note(cosigned, signed)
        return None if note is None else Resource(note, is_immutable=False)
    name = TileName.parse(path.removeprefix("tile/")) if path.startswith("tile/") else None
    latest = _newest_note(signed)
    if name is None or latest is None or not name.is_in(claimed_checkpoint(latest.decode("utf-8", "replace")).size):
        return None
    first = name.index * WIDTH
    if name.level is not None:
        levels = LevelFiles(instance.checkpoint_folder(log))
        return Resource(levels.read(name.level, first, name.width), is_immutable=True)
    lines = read_lines(instance.log_folder(log), first, name.width)
    return Resource(b"".join(_entry(log, first + offset, line) for offset, line in enumerate(lines)), is_immutable=True)


def is_of_entries(path: str) -> bool:
    """Whether what is at `path` holds records, and not hashes alone."""
    return path.startswith("tile/entries/")


def _entry(log: str, record: int, line: bytes) -> bytes:
    if len(line) > _LONGEST_ENTRY:
        raise EntryTooLong(log, record, len(line))
    return len(line).to_bytes(_LENGTH_BYTES, "big") + line


def _newest_note(*paths: Path) -> bytes | None:
    """The first of the files that is there."""
    for path in paths:
        with suppress(FileNotFoundError):
            return path.read_bytes()
    return None
