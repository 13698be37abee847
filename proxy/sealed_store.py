"""Everything that must outlive the process, in one table: keys, aliases, grants, callers. Secrets in it are sealed.

Rules kept here:

- A secret is sealed, with everything else of its row as associated data (also of rows without a secret), as `proxy.sealing`
  says: a row that was edited, or swapped with another, does not open. A row is opened when it is first looked into; `damage`
  opens all. Limit: a whole row that was removed, or put back as it once was, is not detected here; the audit log is for that.
- Every change runs in one transaction, bumps the store-wide generation and stamps the rows it writes with it. So
  "what has changed since" is one indexed query, for this process and for others alike.
- After COMMIT the generation is published. Readers compare it with what they last saw by `!=`: publishers may overtake one
  another, but each generation is published once, so a value that was seen before never comes back. What a process committed and
  could not publish any more is seen at the next publication; `announce` makes one.
- The master key is needed to open the store, and not afterwards: who has it open does not notice when it is changed.

What is under it is a `proxy.store_database.Database`: a SQLite file, or a PostgreSQL server that several hosts share.

Threads: `change` may be called from any thread, one at a time (it waits); `changes_since` and `find` too. A store must not be
carried over a fork: open it in the process that uses it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import SealBroken
from proxy.sealing import MASTER_KEY_BYTES, Body, Entry, MasterKey, Row, Secret
from proxy.store_database import (
    GENERATIONS,
    INSERT,
    SELECT,
    Database,
    StoreFailed,
    add_master_key,
    generations,
    open_seal,
    set_number,
)
from proxy.store_file import FileDatabase, make_file
from proxy.transaction import Transaction, find

__all__ = ["MASTER_KEY_BYTES", "Body", "Changes", "Entry", "Failures", "SealedStore", "Secret", "StoreFailed", "Transaction"]


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows changed up to `generation`; where `complete`, these are all there are, and any other is gone."""

    generation: int
    entries: tuple[Entry, ...]
    complete: bool


class Failures:
    """Of a store's changes, or of its readings: how many failed, why the last one did, and whether one has succeeded since.
    Any thread may note one."""

    def __init__(self) -> None:
        self.count = 0
        self.reason = ""
        self.are_over = True
        self._lock = threading.Lock()

    def note(self, fault: StoreFailed) -> None:
        with self._lock:
            self.count += 1
            self.reason, self.are_over = str(fault), False

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except StoreFailed as fault:
            self.note(fault)
            raise
        self.are_over = True


class SealedStore:
    """The open store. Raises SetupError (no store, newer schema, another instance), SealBroken (wrong master key), StoreFailed.

    `instance` is that which it must belong to; None: to any. The database is closed with the store. What fails is counted in
    `failed_changes` and `failed_readings`, for whoever tells of it.
    """

    def __init__(self, database: Database, master_key: bytes, instance: str | None = None) -> None:
        self._database = database
        self.failed_changes, self.failed_readings = Failures(), Failures()
        try:
            key = MasterKey(master_key)
            self.master_key_id = key.id
            self.instance, self._seal = open_seal(database, key, instance)
            database.follow()
        except BaseException:
            database.close()
            raise

    @classmethod
    def at(cls, path: Path, master_key: bytes, instance: str | None = None) -> SealedStore:
        """That in the SQLite file at `path`."""
        return cls(FileDatabase(path), master_key, instance)

    @classmethod
    def create(cls, path: Path, master_key: bytes, instance: str) -> SealedStore:
        """Make a new SQLite file (mode 0600, durable when this returns) and open it. Raises SetupError where one is."""
        make_file(path, MasterKey(master_key), instance)
        return cls.at(path, master_key, instance)

    @property
    def name(self) -> str:
        """Where it is, in words."""
        return self._database.name

    # --- reading

    @property
    def published(self) -> int:
        """The generation published last by any process: a look into memory. Raises StoreFailed where that is not known."""
        return self._database.published

    @property
    def fault(self) -> str | None:
        """Why calls that need it are refused, if they are."""
        return self._database.fault

    def changes_since(self, generation: int, kinds: tuple[str, ...]) -> Changes:
        """The rows of `kinds` changed after `generation` (0: all), read in one transaction with what they are up to.

        Raises StoreFailed.
        """
        marks = ",".join("?" * len(kinds))
        with self.failed_readings.noted(), self._database.reading() as connection:
            upto, pruned = generations(connection.execute(GENERATIONS))
            complete = generation < pruned or generation == 0
            arguments: tuple[object, ...]
            if complete:
                # Several kinds are most of the store: going through it in order is twice as fast as by the index.
                order = "NOT INDEXED " if len(kinds) > 1 else ""
                where, arguments = f"{order}WHERE kind IN ({marks}) AND deleted = 0", kinds
            else:  # left to itself, SQLite may choose the index of the primary key, and read every key
                where = f"INDEXED BY entries_generation WHERE generation > ? AND kind IN ({marks})"
                arguments = (generation, *kinds)
            rows = connection.execute(SELECT + where, arguments)
            entries = tuple(Entry(Row.of(row), self._seal) for row in rows)
        return Changes(upto, entries, complete)

    def find(self, kind: str, region: str, name: str) -> Entry | None:
        """The row as it is in the database now, or None where there is none. Raises StoreFailed.

        What a process was changing when it was killed has been decided when this returns.
        """
        with self.failed_readings.noted(), self._database.settled() as session:
            return find(session, self._seal, kind, region, name)

    def count_rows(self) -> dict[str, int]:
        """How many rows there are of each kind. Raises StoreFailed."""
        with self._database.settled() as session:
            return dict(session.rows("SELECT kind, count(*) FROM entries WHERE deleted = 0 GROUP BY kind ORDER BY kind"))

    def damage(self) -> Iterator[str]:
        """What does not open, or is not whole, in words: every row is looked into, as they are at one moment."""
        for found in self._database.damage():
            yield f"the database is damaged: {found}"
        try:
            with self._database.settled() as session:
                rows = session.rows(SELECT)
        except StoreFailed as fault:
            yield f"the database is damaged: {fault}"
            return
        for row in rows:
            try:
                self._seal.open(Row.of(row))
            except SealBroken as fault:
                yield str(fault)

    # --- changing

    @contextmanager
    def change(self) -> Iterator[Transaction]:
        """One transaction: durable and published when this returns; undone if the block raises or writes nothing."""
        try:
            with self._database.writing() as session:
                tx = Transaction(session, self._seal, generations(session.rows(GENERATIONS))[0] + 1)
                yield tx
                if tx.wrote:
                    tx.finish()
            if tx.wrote:
                self._publish(tx.generation)
        except StoreFailed as fault:
            self.failed_changes.note(fault)
            raise
        if tx.wrote:
            self.failed_changes.are_over = True

    def announce(self) -> None:
        """Publish a new generation, once at the start of serving: it shows others what a dead process did not."""
        with self.change() as tx:
            tx.wrote = True

    def _publish(self, generation: int) -> None:
        self._database.publish(generation)

    # --- the whole of it

    def master_keys(self) -> tuple[str, ...]:
        """The ids of the master keys that open it: one, unless they are being changed."""
        with self._database.settled() as session:
            return tuple(sorted(name for (name,) in session.rows("SELECT master FROM store_keys")))

    def add_master_key(self, master_key: bytes) -> None:
        """Have this master key open the store, too; durable when this returns."""
        with self._database.writing() as session:
            add_master_key(session, MasterKey(master_key), self.instance, self._seal.store_key)

    def keep_master_key(self, key_id: str) -> None:
        """Have no other master key than this one open the store. Raises LookupError where this one does not."""
        with self._database.writing() as session:
            if not session.rows("SELECT 1 FROM store_keys WHERE master = ?", (key_id,)):
                raise LookupError(f"the master key {key_id} does not open the store")
            session.write("DELETE FROM store_keys WHERE master != ?", (key_id,))
        self._database.forget_what_was()  # so that the seal under the old one is in no file

    def write_copy(self, path: Path) -> None:
        """A copy of it as it is at one moment, as a new SQLite file; not yet durable when this returns. Raises StoreFailed."""
        self._database.write_copy(path)

    def go_on_at(self, generation: int) -> None:
        """Take `generation` for that of now, and for one behind which no reader knows anything: after a restoration."""
        with self._database.writing() as session:
            set_number(session, "generation", generation)
            set_number(session, "pruned", generation)

    def take_over(self, other: SealedStore, generation: int) -> None:
        """Have the rows of `other` in place of all that is here, sealed anew, at `generation`, which no reader has seen.

        Raises SealBroken where one of them does not open; nothing is changed then.
        """
        with other._database.settled() as session:
            rows = [Row.of(row) for row in session.rows(SELECT)]
        with self._database.writing() as session:
            session.write("DELETE FROM entries")
            session.write_all(INSERT, [self._seal.close(row, other._seal.open(row)) for row in rows])
            set_number(session, "generation", generation)
            set_number(session, "pruned", generation)
        self._publish(generation)

    @property
    def generation(self) -> int:
        """That of the last change."""
        with self._database.settled() as session:
            return generations(session.rows(GENERATIONS))[0]

    def close(self) -> None:
        """Close the database; waits for a change that is under way."""
        self._database.close()
