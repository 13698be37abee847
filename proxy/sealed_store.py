"""One SQLite file for everything that must outlive the process: keys, aliases, callers. Secrets in it are sealed.

Rules kept here:

- A secret is sealed with AES-256-GCM under a key that HKDF derives from the master key for its kind, with everything
  else of its row as associated data (also of rows without a secret): a row that was edited, or swapped with another,
  does not open. Limit: a whole row that was removed, or put back as it once was, is not detected here; the audit log
  is for that.
- Every change runs in one transaction, bumps the store-wide generation and stamps the rows it writes with it. So
  "what has changed since" is one indexed query, for this process and for others alike.
- After COMMIT the generation is published in an 8-byte shared mapping beside the database. Readers compare it with
  what they last saw by `!=`: publishers may overtake one another, but each generation is published once, so a value
  that was seen before never comes back. What a process committed and could not publish any more is seen at the next
  publication; `announce` makes one.

Threads: `change` may be called from any thread, one at a time (it waits); `changes_since` too, on a connection of its
own. A store must not be carried over a fork: open it in the process that uses it. The mapped file must stay while any
process runs; between runs it may be deleted.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.errors import ProxyError, SealBroken, SetupError

#: A row's document. Any, because each kind has its own members; the modules that own a kind give them types.
Body = Mapping[str, Any]

MASTER_KEY_BYTES = 32
BUSY_TIMEOUT_S = 10.0
#: Above this many tombstones the older half is forgotten; a reader that is further behind is given everything anew.
MOST_TOMBSTONES = 4096

_IV_BYTES = 12
_SELECT = "SELECT kind, region, id, parent, generation, deleted, body, sealed FROM entries "
_BELOW = "WHERE kind = ? AND region = ? AND parent >= ? AND parent < ? AND parent != '' AND deleted = 0"
_COUNT_BELOW = "SELECT count(*) FROM entries " + _BELOW  # noqa: S608 - both parts stand here
_LAST = "\U0010ffff"  # sorts behind every character of a name
_INSERT = (
    "INSERT OR REPLACE INTO entries (kind, region, id, parent, generation, deleted, body, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)

#: Script i brings schema version i to i + 1; making a store is running them all.
_MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE entries (
        kind TEXT NOT NULL, region TEXT NOT NULL, id TEXT NOT NULL, parent TEXT NOT NULL,
        generation INTEGER NOT NULL, deleted INTEGER NOT NULL, body BLOB NOT NULL, sealed BLOB NOT NULL,
        PRIMARY KEY (kind, region, id)
    ) STRICT;
    CREATE INDEX entries_generation ON entries (generation);
    CREATE INDEX entries_parent ON entries (kind, region, parent) WHERE parent != '';
    CREATE INDEX entries_deleted ON entries (generation) WHERE deleted = 1;
    """,
)
SCHEMA_VERSION = len(_MIGRATIONS)


class StoreFailed(ProxyError):
    """The database could not be read or written (disk full, locked, damaged); a change was rolled back."""


class Secret:
    """Bytes that show themselves to `reveal` only: not in repr, not in messages, not to pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row. `parent` names what this one belongs to (an alias its key), or is empty."""

    kind: str
    region: str
    id: str
    parent: str
    generation: int
    deleted: bool
    body: Body
    secret: Secret


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows changed up to `generation`; where `complete`, these are all there are, and any other is gone."""

    generation: int
    entries: tuple[Entry, ...]
    complete: bool


class _Seal:
    """Seals and opens rows under keys derived from the master key, one for each kind; the instance is the salt."""

    def __init__(self, master_key: bytes, instance: str) -> None:
        if len(master_key) != MASTER_KEY_BYTES:
            raise SetupError(f"the master key must be {MASTER_KEY_BYTES} bytes long, not {len(master_key)}")
        self._master_key = master_key
        self._salt = instance.encode()
        self._ciphers: dict[str, AESGCM] = {}

    def _cipher(self, kind: str) -> AESGCM:
        cipher = self._ciphers.get(kind)
        if cipher is None:
            info = b"keytrail/sealed-store/1/" + kind.encode()
            cipher = AESGCM(HKDF(SHA256(), 32, self._salt, info).derive(self._master_key))
            self._ciphers[kind] = cipher
        return cipher

    def close(self, kind: str, secret: bytes, bound: bytes) -> bytes:
        iv = os.urandom(_IV_BYTES)
        return iv + self._cipher(kind).encrypt(iv, secret, bound)

    def open(self, kind: str, sealed: bytes, bound: bytes) -> bytes:
        """Raises InvalidTag or ValueError where it does not open."""
        return self._cipher(kind).decrypt(sealed[:_IV_BYTES], sealed[_IV_BYTES:], bound)


def _bound(region: str, name: str, parent: str, generation: int, deleted: int, body: bytes) -> bytes:
    """A row's associated data. No NUL gets into the names (checked on writing); the kind is in the sealing key."""
    return b"\0".join((region.encode(), name.encode(), parent.encode(), b"%d.%d" % (generation, deleted), body))


class SealedStore:
    """The open store. Raises SetupError (no store, newer schema, another instance), SealBroken (wrong master key)."""

    def __init__(self, path: Path, master_key: bytes, instance: str | None = None) -> None:
        if not path.is_file():
            raise SetupError(f"there is no key store at {path}; `keytrail init` makes one")
        self.path = path
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._reader = _connect(path)
        self._writer: sqlite3.Connection | None = None
        try:
            self.instance = self._check(master_key, instance)
            self._publication = _Publication(path.with_suffix(".generation"))
        except BaseException:
            self._reader.close()
            raise

    @classmethod
    def create(cls, path: Path, master_key: bytes, instance: str) -> SealedStore:
        """Make a new store (mode 0600, durable when this returns) and open it. Raises SetupError where one is."""
        seal = _Seal(master_key, instance)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError as fault:
            raise SetupError(f"{path} is there already; a key store is never overwritten") from fault
        connection = _connect(path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for script in _MIGRATIONS:
                _run_script(connection, script)
            meta = {
                "schema": b"%d" % SCHEMA_VERSION,
                "instance": instance.encode(),
                "generation": 0,
                "pruned": 0,
                "check": seal.close("check", b"", b""),
            }
            connection.executemany("INSERT INTO meta VALUES (?, CAST(? AS BLOB))", meta.items())
            connection.execute("COMMIT")
        except BaseException:
            path.unlink()
            raise
        finally:
            connection.close()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return cls(path, master_key, instance)

    def _check(self, master_key: bytes, instance: str | None) -> str:
        try:
            meta = dict(self._reader.execute("SELECT name, value FROM meta"))
            version, found, check = (int(meta["schema"]), bytes(meta["instance"]).decode(), bytes(meta["check"]))
        except (sqlite3.DatabaseError, KeyError, ValueError) as fault:
            raise SetupError(f"{self.path} is not a key store of keytrail, or its making was interrupted") from fault
        if version > SCHEMA_VERSION:
            raise SetupError(
                f"{self.path} has schema version {version}; this keytrail knows versions up to {SCHEMA_VERSION}:"
                " use a newer keytrail"
            )
        if instance is not None and found != instance:
            raise SetupError(f"{self.path} belongs to instance {found}, not to {instance}")
        self._seal = _Seal(master_key, found)
        try:
            self._seal.open("check", check, b"")
        except (InvalidTag, ValueError) as fault:
            raise SealBroken(
                f"the master key does not open {self.path}: it is the key of another store, or the file was changed;"
                " nothing was overwritten"
            ) from fault
        if version < SCHEMA_VERSION:
            self._migrate(version)
        return found

    def _migrate(self, version: int) -> None:
        with _translated():
            self._reader.execute("BEGIN IMMEDIATE")
            try:
                for script in _MIGRATIONS[version:]:
                    _run_script(self._reader, script)
                self._reader.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (b"%d" % SCHEMA_VERSION,))
                self._reader.execute("COMMIT")
            except BaseException:
                self._reader.execute("ROLLBACK")
                raise

    # --- reading

    @property
    def published(self) -> int:
        """The generation published last by any process: a read of shared memory, no system call."""
        return self._publication.view[0]

    def changes_since(self, generation: int, kinds: tuple[str, ...]) -> Changes:
        """The rows of `kinds` changed after `generation` (0: all), read in one transaction with what they are up to.

        Raises SealBroken where a row does not open, StoreFailed.
        """
        marks = ",".join("?" * len(kinds))
        with self._read_lock, _translated():
            self._reader.execute("BEGIN")
            try:
                upto, pruned = _generations(self._reader)
                complete = generation < pruned or generation == 0
                arguments: tuple[object, ...]
                if complete:
                    where, arguments = f"WHERE kind IN ({marks}) AND deleted = 0", kinds
                else:  # left to itself, SQLite may choose the index of the primary key, and read every key
                    where = f"INDEXED BY entries_generation WHERE generation > ? AND kind IN ({marks})"
                    arguments = (generation, *kinds)
                rows = self._reader.execute(_SELECT + where, arguments)
                entries = tuple(map(self._entry, rows))
            finally:
                self._reader.execute("ROLLBACK")
        return Changes(upto, entries, complete)

    def _entry(self, row: tuple[str, str, str, str, int, int, bytes, bytes]) -> Entry:
        kind, region, name, parent, generation, deleted, body, sealed = row
        try:
            secret = self._seal.open(kind, sealed, _bound(region, name, parent, generation, deleted, body))
        except (InvalidTag, ValueError) as fault:
            raise SealBroken(f"{self.path}: the {kind} {name} was changed by another hand") from fault
        return Entry(kind, region, name, parent, generation, bool(deleted), orjson.loads(body), Secret(secret))

    # --- changing

    @contextmanager
    def change(self) -> Iterator[Transaction]:
        """One transaction: durable and published when this returns; undone if the block raises or writes nothing."""
        with self._write_lock:
            with _translated():
                if self._writer is None:
                    self._writer = _connect(self.path)
                writer = self._writer
                writer.execute("BEGIN IMMEDIATE")
            try:
                with _translated():
                    tx = Transaction(writer, self._seal, self._entry, _generations(writer)[0] + 1)
                yield tx
                with _translated():
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
        seal: _Seal,
        entry: Callable[[tuple[str, str, str, str, int, int, bytes, bytes]], Entry],
        generation: int,
    ) -> None:
        self._connection = connection
        self._seal = seal
        self._entry = entry
        self.generation = generation
        self.wrote = False

    def get(self, kind: str, region: str, name: str) -> Entry | None:
        """The row, or None where there is none or only a tombstone."""
        sql = _SELECT + "WHERE kind = ? AND region = ? AND id = ? AND deleted = 0"
        with _translated():
            row = self._connection.execute(sql, (kind, region, name)).fetchone()
        return None if row is None else self._entry(row)

    def all(self, kind: str, region: str) -> tuple[Entry, ...]:
        """Every row of a kind in a region."""
        sql = _SELECT + "WHERE kind = ? AND region = ? AND deleted = 0"
        with _translated():
            return tuple(map(self._entry, self._connection.execute(sql, (kind, region))))

    def children(self, kind: str, region: str, parent: str) -> tuple[Entry, ...]:
        """The rows of `kind` that belong to `parent`."""
        sql = _SELECT + "WHERE kind = ? AND region = ? AND parent = ? AND parent != '' AND deleted = 0"
        with _translated():
            return tuple(map(self._entry, self._connection.execute(sql, (kind, region, parent))))

    def count_children(self, kind: str, region: str, parent: str) -> int:
        """How many rows of `kind` belong to `parent`."""
        sql = "SELECT count(*) FROM entries WHERE kind = ? AND region = ? AND parent = ? AND parent != '' AND deleted = 0"
        with _translated():
            return int(self._connection.execute(sql, (kind, region, parent)).fetchone()[0])

    def children_below(self, kind: str, region: str, prefix: str) -> tuple[Entry, ...]:
        """The rows of `kind` whose parents begin with `prefix`, in the order of the rows' ids."""
        with _translated():
            rows = self._connection.execute(_SELECT + _BELOW + " ORDER BY id", (kind, region, prefix, prefix + _LAST))
            return tuple(map(self._entry, rows))

    def count_children_below(self, kind: str, region: str, prefix: str) -> int:
        """How many rows of `kind` have parents that begin with `prefix`."""
        with _translated():
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
        sealed = self._seal.close(kind, secret, _bound(region, name, parent, self.generation, deleted, body))
        row = (kind, region, name, parent, self.generation, deleted, body, sealed)
        with _translated():
            self._connection.execute(_INSERT, row)
        self.wrote = True

    def finish(self) -> None:
        """Stamp the store with this generation, and forget the older half of the tombstones when there are too many."""
        self._connection.execute("UPDATE meta SET value = CAST(? AS BLOB) WHERE name = 'generation'", (self.generation,))
        tombstones = self._connection.execute("SELECT count(*) FROM entries WHERE deleted = 1").fetchone()[0]
        if tombstones > MOST_TOMBSTONES:
            oldest = "SELECT generation FROM entries WHERE deleted = 1 ORDER BY generation LIMIT 1 OFFSET ?"
            limit = self._connection.execute(oldest, (tombstones // 2,)).fetchone()[0]
            self._connection.execute("DELETE FROM entries WHERE deleted = 1 AND generation <= ?", (limit,))
            self._connection.execute("UPDATE meta SET value = CAST(? AS BLOB) WHERE name = 'pruned'", (limit,))


class _Publication:
    """The shared mapping: one native 64-bit integer, written in one store."""

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            if os.fstat(file).st_size < 8:
                os.ftruncate(file, 8)
            self._map = mmap.mmap(file, 8)
        finally:
            os.close(file)
        self.view = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self.view.release()
        self._map.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Raises SetupError where the file is no database."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as fault:
        connection.close()
        raise SetupError(f"{path} cannot be opened as a key store: {fault}") from fault
    return connection


def _run_script(connection: sqlite3.Connection, script: str) -> None:
    """Statement by statement: `executescript` would commit the transaction that is open."""
    for statement in filter(str.strip, script.split(";")):
        connection.execute(statement)


def _generations(connection: sqlite3.Connection) -> tuple[int, int]:
    meta = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('generation', 'pruned')"))
    return int(meta["generation"]), int(meta["pruned"])


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as fault:
        raise StoreFailed(f"the key store failed: {fault}") from fault
