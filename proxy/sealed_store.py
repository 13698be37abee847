"""One SQLite file for everything that must outlive the process: keys, aliases, callers. Secrets in it are sealed.

Rules kept here:

- A secret is sealed, with everything else of its row as associated data (also of rows without a secret), as `proxy.sealing`
  says: a row that was edited, or swapped with another, does not open. A row is opened when it is first looked into; `damage`
  opens all. Limit: a whole row that was removed, or put back as it once was, is not detected here; the audit log is for that.
- Every change runs in one transaction, bumps the store-wide generation and stamps the rows it writes with it. So
  "what has changed since" is one indexed query, for this process and for others alike.
- After COMMIT the generation is published in an 8-byte shared mapping beside the database. Readers compare it with
  what they last saw by `!=`: publishers may overtake one another, but each generation is published once, so a value
  that was seen before never comes back. What a process committed and could not publish any more is seen at the next
  publication; `announce` makes one.
- The master key is needed to open the store, and not afterwards: who has it open does not notice when it is changed.

Threads: `change` may be called from any thread, one at a time (it waits); `changes_since` and `find` too, on a connection of
their own. A store must not be carried over a fork: open it in the process that uses it. The mapped file must stay while any
process runs; between runs it may be deleted.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from proxy.errors import SealBroken, SetupError
from proxy.sealing import MASTER_KEY_BYTES, Body, Entry, MasterKey, Row, RowValues, Seal, Secret
from proxy.store_file import (
    INSERT,
    MIGRATIONS,
    SELECT,
    Publication,
    StoreFailed,
    add_master_key,
    connect,
    generations,
    make,
    migrate,
    open_seal,
    read_meta,
    set_number,
    transaction,
    translated,
)

__all__ = ["MASTER_KEY_BYTES", "Body", "Changes", "Entry", "SealedStore", "Secret", "StoreFailed", "Transaction"]

_ONE = SELECT + "WHERE kind = ? AND region = ? AND id = ? AND deleted = 0"
#: Above this many tombstones the older half is forgotten; a reader that is further behind is given everything anew.
MOST_TOMBSTONES = 4096

_BELOW = "WHERE kind = ? AND region = ? AND parent >= ? AND parent < ? AND parent != '' AND deleted = 0"
_COUNT_BELOW = "SELECT count(*) FROM entries " + _BELOW  # noqa: S608 - both parts stand here
_LAST = "\U0010ffff"  # sorts behind every character of a name


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows changed up to `generation`; where `complete`, these are all there are, and any other is gone."""

    generation: int
    entries: tuple[Entry, ...]
    complete: bool


class SealedStore:
    """The open store. Raises SetupError (no store, newer schema, another instance), SealBroken (wrong master key)."""

    def __init__(self, path: Path, master_key: bytes, instance: str | None = None) -> None:
        if not path.is_file():
            raise SetupError(
                f"there is no key store at {path}: `keytrail init` makes a data folder with one, and"
                " `keytrail keystore restore` puts a copy of one there"
            )
        self.path = path
        self.master_key_id = MasterKey(master_key).id
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._reader = connect(path)
        self._writer: sqlite3.Connection | None = None
        try:
            self.instance = self._check(MasterKey(master_key), instance)
            self._publication = Publication(path.with_suffix(".generation"))
        except BaseException:
            self._reader.close()
            raise

    @classmethod
    def create(cls, path: Path, master_key: bytes, instance: str) -> SealedStore:
        """Make a new store (mode 0600, durable when this returns) and open it. Raises SetupError where one is."""
        make(path, MasterKey(master_key), instance)
        return cls(path, master_key, instance)

    def _check(self, master_key: MasterKey, instance: str | None) -> str:
        version, found = read_meta(self._reader, self.path)
        if instance is not None and found != instance:
            raise SetupError(f"{self.path} belongs to instance {found}, not to {instance}")
        with translated():
            self._seal = open_seal(self._reader, self.path, master_key, version, found)
        if version < len(MIGRATIONS):
            self._seal = migrate(self._reader, self.path, master_key)
        return found

    # --- reading

    @property
    def published(self) -> int:
        """The generation published last by any process: a read of shared memory, no system call."""
        return self._publication.view[0]

    def changes_since(self, generation: int, kinds: tuple[str, ...]) -> Changes:
        """The rows of `kinds` changed after `generation` (0: all), read in one transaction with what they are up to.

        Raises StoreFailed.
        """
        marks = ",".join("?" * len(kinds))
        with self._read_lock, translated():
            self._reader.execute("BEGIN")
            try:
                upto, pruned = generations(self._reader)
                complete = generation < pruned or generation == 0
                arguments: tuple[object, ...]
                if complete:
                    # Several kinds are most of the store: going through it in order is twice as fast as by the index.
                    order = "NOT INDEXED " if len(kinds) > 1 else ""
                    where, arguments = f"{order}WHERE kind IN ({marks}) AND deleted = 0", kinds
                else:  # left to itself, SQLite may choose the index of the primary key, and read every key
                    where = f"INDEXED BY entries_generation WHERE generation > ? AND kind IN ({marks})"
                    arguments = (generation, *kinds)
                rows = self._reader.execute(SELECT + where, arguments)
                entries = tuple(map(self._entry, rows))
            finally:
                self._reader.execute("ROLLBACK")
        return Changes(upto, entries, complete)

    def find(self, kind: str, region: str, name: str) -> Entry | None:
        """The row as it is in the database now, or None where there is none. Raises StoreFailed."""
        with self._read_lock, translated():
            row = self._reader.execute(_ONE, (kind, region, name)).fetchone()
        return None if row is None else self._entry(row)

    def count_rows(self) -> dict[str, int]:
        """How many rows there are of each kind. Raises StoreFailed."""
        with self._read_lock, translated():
            return dict(self._reader.execute("SELECT kind, count(*) FROM entries WHERE deleted = 0 GROUP BY kind ORDER BY kind"))

    def damage(self) -> Iterator[str]:
        """What does not open, or is not whole, in words: every row is looked into, as they are at one moment."""
        with self._read_lock:
            self._reader.execute("BEGIN")
            try:
                for (found,) in self._reader.execute("PRAGMA integrity_check"):
                    if found != "ok":
                        yield f"the database is damaged: {found}"
                for entry in map(self._entry, self._reader.execute(SELECT)):
                    try:
                        _ = entry.body
                    except SealBroken as fault:
                        yield str(fault)
            except sqlite3.Error as fault:
                yield f"the database is damaged: {fault}"
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("ROLLBACK")

    def _entry(self, row: RowValues) -> Entry:
        return Entry(Row.of(row), self._seal)

    # --- changing

    @contextmanager
    def change(self) -> Iterator[Transaction]:
        """One transaction: durable and published when this returns; undone if the block raises or writes nothing."""
        with self._write_lock:
            with translated():
                if self._writer is None:
                    self._writer = connect(self.path)
                writer = self._writer
                writer.execute("BEGIN IMMEDIATE")
            try:
                with translated():
                    tx = Transaction(writer, self._seal, generations(writer)[0] + 1)
                yield tx
                with translated():
                    if tx.wrote:
                        tx.finish()
                        writer.execute("COMMIT")
            finally:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
            if tx.wrote:
                self._publish(tx.generation)

    def announce(self) -> None:
        """Publish a new generation, once at the start of serving: it shows others what a dead process did not."""
        with self.change() as tx:
            tx.wrote = True

    def _publish(self, generation: int) -> None:
        self._publication.view[0] = generation

    # --- the file

    def master_keys(self) -> tuple[str, ...]:
        """The ids of the master keys that open it: one, unless they are being changed."""
        with self._read_lock, translated():
            return tuple(sorted(name for (name,) in self._reader.execute("SELECT master FROM store_keys")))

    def add_master_key(self, master_key: bytes) -> None:
        """Have this master key open the store, too; durable when this returns."""
        with self._write_lock, self._own_writer() as writer, transaction(writer):
            add_master_key(writer, MasterKey(master_key), self.instance, self._seal.store_key)

    def keep_master_key(self, key_id: str) -> None:
        """Have no other master key than this one open the store. Raises LookupError where this one does not."""
        with self._write_lock, self._own_writer() as writer:
            with transaction(writer):
                if writer.execute("SELECT 1 FROM store_keys WHERE master = ?", (key_id,)).fetchone() is None:
                    raise LookupError(f"the master key {key_id} does not open the store")
                writer.execute("DELETE FROM store_keys WHERE master != ?", (key_id,))
            with translated():
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the seal under the old one is in no file

    def write_copy(self, path: Path) -> None:
        """A copy of it as it is at one moment, as a new file; not yet durable when this returns. Raises StoreFailed."""
        with self._own_writer() as writer, translated():
            writer.execute("VACUUM INTO ?", (str(path),))

    def go_on_at(self, generation: int) -> None:
        """Take `generation` for that of now, and for one behind which no reader knows anything: after a restoration."""
        with self._write_lock, self._own_writer() as writer, transaction(writer):
            set_number(writer, "generation", generation)
            set_number(writer, "pruned", generation)

    @property
    def generation(self) -> int:
        """That of the last change."""
        with self._read_lock, translated():
            return generations(self._reader)[0]

    @contextmanager
    def _own_writer(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own, for what is seldom."""
        connection = connect(self.path)
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Close both connections and the mapping; waits for a change that is under way."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            if self._writer is not None:
                self._writer.close()
            self._publication.close()


class Transaction:
    """The inside of `SealedStore.change`: sees the database's state of now, and its own writes."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        seal: Seal,
        generation: int,
    ) -> None:
        self._connection = connection
        self._seal = seal
        self.generation = generation
        self.wrote = False

    def get(self, kind: str, region: str, name: str) -> Entry | None:
        """The row, or None where there is none or only a tombstone."""
        with translated():
            row = self._connection.execute(_ONE, (kind, region, name)).fetchone()
        return None if row is None else self._entry(row)

    def all(self, kind: str, region: str) -> tuple[Entry, ...]:
        """Every row of a kind in a region."""
        sql = SELECT + "WHERE kind = ? AND region = ? AND deleted = 0"
        with translated():
            return tuple(map(self._entry, self._connection.execute(sql, (kind, region))))

    def children(self, kind: str, region: str, parent: str) -> tuple[Entry, ...]:
        """The rows of `kind` that belong to `parent`."""
        sql = SELECT + "WHERE kind = ? AND region = ? AND parent = ? AND parent != '' AND deleted = 0"
        with translated():
            return tuple(map(self._entry, self._connection.execute(sql, (kind, region, parent))))

    def count_children(self, kind: str, region: str, parent: str) -> int:
        """How many rows of `kind` belong to `parent`."""
        sql = "SELECT count(*) FROM entries WHERE kind = ? AND region = ? AND parent = ? AND parent != '' AND deleted = 0"
        with translated():
            return int(self._connection.execute(sql, (kind, region, parent)).fetchone()[0])

    def children_below(self, kind: str, region: str, prefix: str) -> tuple[Entry, ...]:
        """The rows of `kind` whose parents begin with `prefix`, in the order of the rows' ids."""
        with translated():
            rows = self._connection.execute(SELECT + _BELOW + " ORDER BY id", (kind, region, prefix, prefix + _LAST))
            return tuple(map(self._entry, rows))

    def count_children_below(self, kind: str, region: str, prefix: str) -> int:
        """How many rows of `kind` have parents that begin with `prefix`."""
        with translated():
            return int(self._connection.execute(_COUNT_BELOW, (kind, region, prefix, prefix + _LAST)).fetchone()[0])

    def put(self, kind: str, region: str, name: str, body: Body, secret: Secret | None = None, parent: str = "") -> None:
        """Write a row whole, new or not: a secret that is to stay must be given again."""
        self._write(kind, region, name, parent, 0, orjson.dumps(body), b"" if secret is None else secret.reveal())

    def delete(self, kind: str, region: str, name: str) -> None:
        """Leave a tombstone: the row's name and generation, nothing of its content."""
        self._write(kind, region, name, "", 1, b"{}", b"")

    def _write(self, kind: str, region: str, name: str, parent: str, deleted: int, body: bytes, secret: bytes) -> None:
        if "\0" in region or "\0" in name or "\0" in parent:
            raise ValueError("a NUL in the name of a row")
        row = self._seal.close(Row(kind, region, name, parent, self.generation, deleted, body, b""), secret)
        with translated():
            self._connection.execute(INSERT, row)
        self.wrote = True

    def forget(self, kind: str, upto: int) -> tuple[Entry, ...]:
        """Remove the rows of `kind` up to a generation without tombstones, so that no reader hears of it; returns them."""
        with translated():
            rows = self._connection.execute(SELECT + "WHERE kind = ? AND generation <= ?", (kind, upto)).fetchall()
            self._connection.execute("DELETE FROM entries WHERE kind = ? AND generation <= ?", (kind, upto))
        return tuple(map(self._entry, rows))

    def _entry(self, row: RowValues) -> Entry:
        return Entry(Row.of(row), self._seal)

    def finish(self) -> None:
        """Stamp the store with this generation, and forget the older half of the tombstones when there are too many."""
        set_number(self._connection, "generation", self.generation)
        tombstones = self._connection.execute("SELECT count(*) FROM entries WHERE deleted = 1").fetchone()[0]
        if tombstones > MOST_TOMBSTONES:
            oldest = "SELECT generation FROM entries WHERE deleted = 1 ORDER BY generation LIMIT 1 OFFSET ?"
            limit = self._connection.execute(oldest, (tombstones // 2,)).fetchone()[0]
            self._connection.execute("DELETE FROM entries WHERE deleted = 1 AND generation <= ?", (limit,))
            set_number(self._connection, "pruned", limit)
