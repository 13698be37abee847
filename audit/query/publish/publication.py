"""From the index to the table: what the index has is uploaded, then the table is made to hold exactly that.

The order, and what a run that ends between two steps leaves:

    claim (keytrail.json)  → upload what is not there → one commit → objects that nothing names are deleted
                           objects that nothing names     the new table

Objects are never written over: their names carry a fingerprint of what is in them. They are deleted when no snapshot that the
table remembers names them, and they are older than a replaced snapshot is kept; so readers of that one are not cut off, nor is a
run that has uploaded and not yet committed. Every run begins with what is there, so that the next one completes the last.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from audit.instance import Instance
from audit.query.index.layout import DayFile, Manifest, index_folder
from audit.query.publish.place import Place
from audit.query.publish.storage import NoObject, PublishFault, Store
from audit.query.publish.table import (
    PublishedLog,
    exchange,
    expired_snapshots,
    file_name,
    held_files,
    named_objects,
    open_table,
    published_logs,
)

_TRIES = 5
_FORMAT = 1
#: What may be deleted below the table's folder: what keytrail and Iceberg write there.
_OURS = (".parquet", ".avro", ".metadata.json")


@dataclass(frozen=True, slots=True)
class Published:
    """What the table holds now, and what this run did for it. `left` tells why objects that nothing names are still there."""

    location: str
    snapshot: int | None
    logs: tuple[PublishedLog, ...]
    unread_lines: int
    uploaded_files: int
    uploaded_bytes: int
    added_files: int
    removed_files: int
    deleted_objects: int
    left: str | None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Publication:
    """Publishes the index of `instance` to `place`, in `store`, as the table `identifier` of the catalogue that `open_catalogue`
    opens. `progress` is told the bytes uploaded and those to upload. One process at a time does so for a data folder."""

    def __init__(
        self,
        instance: Instance,
        place: Place,
        store: Store,
        open_catalogue: Callable[[], Catalog],
        identifier: tuple[str, ...],
        *,
        keep: timedelta,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._instance = instance
        self._index = index_folder(instance.data)
        self._place = place
        self._store = store
        self._open_catalogue = open_catalogue
        self._identifier = identifier
        self._keep = keep
        self._progress = progress
        self._uploaded_files = self._uploaded_bytes = 0

    def run(self, now: datetime) -> Published:
        """Publish what the index has now. `now` says how old an object is.

        Raises `PublishFault`, `IndexFault`, OSError, pyiceberg's exceptions.
        """
        with _turn(self._index):
            if not any(log.days for log in Manifest.load(self._index).logs.values()):
                raise PublishFault("the index has no events yet; `keytrail index update` makes it")
            self._claim()
            catalogue = self._open_catalogue()
            for _ in range(_TRIES):
                try:
                    return self._try(catalogue, now)
                except FileNotFoundError as error:
                    reason: Exception = error  # it was merged into another meanwhile
                except CommitFailedException as error:
                    reason = error  # another changed the table meanwhile
            raise PublishFault(f"given up after {_TRIES} tries: {reason}") from reason

    def _claim(self) -> None:
        """Have the prefix for this instance, or raise `PublishFault`."""
        key, ours = self._place.key("keytrail.json"), orjson.dumps(_marker(self._instance.id), option=orjson.OPT_INDENT_2)
        try:
            document = orjson.loads(self._store.read(key))
            owner = document["instance"] if isinstance(document, dict) and document.get("format") == _FORMAT else None
        except NoObject:
            if any(True for _ in self._store.objects(self._place.key("events/"))):
                raise PublishFault(
                    f"{self._place.location}/ has objects already, and none of keytrail's: choose another"
                ) from None
            if self._store.put_new(key, ours):
                return
            owner = None
        except (ValueError, KeyError):
            owner = None
        if owner != self._instance.id:
            whose = f"of the keytrail instance {owner}" if owner else "not known to be of this keytrail instance"
            raise PublishFault(f"{self._place.url(key)} is {whose}; this is {self._instance.id}: each has a prefix of its own")

    def _try(self, catalogue: Catalog, now: datetime) -> Published:
        manifest = Manifest.load(self._index)
        days = [day for log in manifest.logs.values() for day in log.days]
        paths = {day: day.path(self._index) for day in days}
        files = {self._place.key(f"events/data/{file_name(day, _fingerprint(path))}"): path for day, path in paths.items()}
        self._upload(files)
        table = open_table(catalogue, self._identifier, self._place.location, self._instance.id, next(iter(paths.values())))
        held = held_files(table)
        _refuse_loss(published_logs(table, held.values()), days)
        locations = {self._place.url(key): path for key, path in files.items()}
        summary = {"keytrail.records": str(sum(day.records for day in days))}
        added, removed = exchange(table, held, locations, expired_snapshots(table, now, self._keep), summary)
        deleted, left = self._clean(table, now)
        current = table.current_snapshot()
        return Published(
            self._place.location,
            current.snapshot_id if current is not None else None,
            tuple(published_logs(table, held_files(table).values())),
            sum(len(piece.damaged) for log in manifest.logs.values() for piece in log.pieces),
            self._uploaded_files,
            self._uploaded_bytes,
            added,
            removed,
            deleted,
            left,
        )

    def _upload(self, files: dict[str, Path]) -> None:
        """Upload those of `files` (key → file) that are not there with their size. Raises FileNotFoundError for one gone here."""
        there = {stored.key: stored.size_bytes for stored in self._store.objects(self._place.key("events/data/"))}
        missing = {key: path for key, path in files.items() if there.get(key) != path.stat().st_size}
        done, total = 0, sum(path.stat().st_size for path in missing.values())
        for key, path in missing.items():
            self._store.upload(key, path)
            size_bytes = path.stat().st_size
            done += size_bytes
            self._uploaded_files += 1
            self._uploaded_bytes += size_bytes
            if self._progress is not None:
                self._progress(done, total)

    def _clean(self, table: Table, now: datetime) -> tuple[int, str | None]:
        """Delete what nothing names any more; how many objects, and why others could not be deleted."""
        named = named_objects(table)
        keys = [
            stored.key
            for stored in self._store.objects(self._place.key("events/"))
            if stored.key.endswith(_OURS) and self._place.url(stored.key) not in named and stored.modified <= now - self._keep
        ]
        try:
            self._store.delete(keys)
        except PublishFault as error:
            return 0, str(error)
        return len(keys), None


def _marker(instance: str) -> dict[str, object]:
    return {
        "format": _FORMAT,
        "instance": instance,
        "what": "events/ is an Iceberg table, made from the index of this keytrail instance. It is no evidence: the log is.",
    }


def _fingerprint(path: Path) -> str:
    """16 hex digits that another file of the same name has not: of its footer, which has the places, sizes and statistics of all
    that is in the file. Raises `PublishFault`, OSError."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        file.seek(max(0, size_bytes - 8))
        tail = file.read(8)
        footer_bytes = int.from_bytes(tail[:4], "little") + 8
        if tail[4:] != b"PAR1" or footer_bytes > size_bytes:
            raise PublishFault(f"{path} is no Parquet file; `keytrail index rebuild` makes the index anew")
        file.seek(size_bytes - footer_bytes)
        return hashlib.sha256(file.read(footer_bytes)).hexdigest()[:16]


def _refuse_loss(published: Sequence[PublishedLog], days: Sequence[DayFile]) -> None:
    """Raise `PublishFault` where the table would have fewer records of a log than it has: then something is amiss here."""
    for log in published:
        ours = [day for day in days if day.log == log.log]
        records = sum(day.records for day in ours)
        if records < log.records or max((day.next for day in ours), default=0) < log.next:
            raise PublishFault(
                f"the table has {log.records} records of the log {log.log}, up to {log.next}, and the index {records}: "
                "nothing was changed. `keytrail index update` completes it, `keytrail verify` tells whether the log is whole"
            )


@contextmanager
def _turn(index: Path) -> Iterator[None]:
    """Raises `PublishFault` where another process publishes this index, OSError."""
    index.mkdir(mode=0o700, exist_ok=True)
    with (index / "publish.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PublishFault("another process publishes this index") from error
        yield
