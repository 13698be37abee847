"""The SQLite file under the sealed store: how it is opened, what is in it, how older ones are brought up to date; and the mapping
beside it in which generations are published."""

from __future__ import annotations

import mmap
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.errors import ProxyError, SealBroken, SetupError
from proxy.sealing import STORE_KEY_BYTES, MasterKey, Row, Seal

BUSY_TIMEOUT_S = 10.0

SELECT = "SELECT kind, region, id, parent, generation, deleted, body, sealed FROM entries "
INSERT = (
    "INSERT OR REPLACE INTO entries (kind, region, id, parent, generation, deleted, body, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)

#: Script i brings schema version i to i + 1; making a store is running them all.
MIGRATIONS = (
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
    # The store key, sealed under each master key that opens it; `_to_store_key` makes the first.
    "CREATE TABLE store_keys (master TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT",
)


class StoreFailed(ProxyError):
    """The database could not be read or written (disk full, locked, damaged); a change was rolled back."""


def connect(path: Path) -> sqlite3.Connection:
    """Raises SetupError where the file is no database."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as fault:
        connection.close()
        raise SetupError(f"{path} cannot be opened as a key store: {fault}") from fault
    return connection


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as fault:
        raise StoreFailed(f"the key store failed: {fault}") from fault


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written in it is written whole, and durable behind it, or not at all. Raises StoreFailed."""
    with translated():
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def make(path: Path, master_key: MasterKey, instance: str) -> None:
    """Make a new file (mode 0600), durable when this returns. Raises SetupError where one is."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError as fault:
        raise SetupError(f"{path} is there already; a key store is never overwritten") from fault
    connection = connect(path)
    try:
        with transaction(connection):
            for script in MIGRATIONS:
                _run_script(connection, script)
            meta = {"schema": b"%d" % len(MIGRATIONS), "instance": instance.encode(), "generation": b"0", "pruned": b"0"}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            add_master_key(connection, master_key, instance, os.urandom(STORE_KEY_BYTES))
    except BaseException:
        path.unlink()
        raise
    finally:
        connection.close()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was made, moved or removed in it durable."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read_meta(connection: sqlite3.Connection, path: Path) -> tuple[int, str]:
    """Schema version and instance. Raises SetupError where it is no key store, or one of a newer keytrail."""
    try:
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        version, instance = int(meta["schema"]), bytes(meta["instance"]).decode()
    except (sqlite3.DatabaseError, KeyError, ValueError) as fault:
        raise SetupError(f"{path} is not a key store of keytrail, or its making was interrupted") from fault
    if version > len(MIGRATIONS):
        raise SetupError(
            f"{path} has schema version {version}; this keytrail knows versions up to {len(MIGRATIONS)}: use a newer keytrail"
        )
    return version, instance


def open_seal(connection: sqlite3.Connection, path: Path, master_key: MasterKey, version: int, instance: str) -> Seal:
    """What opens the rows. Raises SealBroken where the master key does not open the store; nothing was changed then."""
    known = "is not told by it"
    if version == 1:
        seal = master_key.seal_of_version_1(instance, str(path))
        (check,) = connection.execute("SELECT value FROM meta WHERE name = 'check'").fetchone() or (b"",)
        if seal.opens("check", check):
            return seal
    else:
        sealed = dict(connection.execute("SELECT master, sealed FROM store_keys"))
        store_key = master_key.open(sealed.get(master_key.id, b""), instance)
        if store_key is not None:
            return Seal(store_key, instance, str(path))
        known = " or ".join(sorted(sealed)) or "is lost"
    raise SealBroken(
        f"the master key does not open {path}: the key given has the id {master_key.id}, the key wanted {known};"
        " nothing was overwritten"
    )


def migrate(connection: sqlite3.Connection, path: Path, master_key: MasterKey) -> Seal:
    """Bring the schema up to date, whoever else does so too. Returns what opens the rows then; raises what `open_seal` does."""
    with transaction(connection):
        version, instance = read_meta(connection, path)
        seal = open_seal(connection, path, master_key, version, instance)
        for script in MIGRATIONS[version:]:
            _run_script(connection, script)
        if version == 1:
            seal = _to_store_key(connection, seal, master_key, instance, path)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (b"%d" % len(MIGRATIONS),))
    return seal


def _to_store_key(connection: sqlite3.Connection, old: Seal, master_key: MasterKey, instance: str, path: Path) -> Seal:
    """Seal every row anew under a store key, in place of the master key. Raises SealBroken where a row does not open."""
    store_key = os.urandom(STORE_KEY_BYTES)
    new = Seal(store_key, instance, str(path))
    rows = connection.execute(SELECT).fetchall()
    connection.executemany(INSERT, (new.close(row, old.open(row)) for row in map(Row._make, rows)))
    connection.execute("DELETE FROM meta WHERE name = 'check'")
    add_master_key(connection, master_key, instance, store_key)
    return new


def add_master_key(connection: sqlite3.Connection, master_key: MasterKey, instance: str, store_key: bytes) -> None:
    """Have `master_key` open the store, too."""
    row = (master_key.id, master_key.close(store_key, instance))
    connection.execute("INSERT OR REPLACE INTO store_keys VALUES (?, ?)", row)


def generations(connection: sqlite3.Connection) -> tuple[int, int]:
    """The store's generation, and the one up to which tombstones were forgotten."""
    meta = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('generation', 'pruned')"))
    return int(meta["generation"]), int(meta["pruned"])


def set_number(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute("UPDATE meta SET value = CAST(? AS BLOB) WHERE name = ?", (value, name))


def _run_script(connection: sqlite3.Connection, script: str) -> None:
    """Statement by statement: `executescript` would commit the transaction that is open."""
    for statement in filter(str.strip, script.split(";")):
        connection.execute(statement)


class Publication:
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
