"""A SQLite file under the sealed store: how it is opened, what is in it; and the mapping beside it in which generations are
published: eight bytes, compared by every reader with what it last saw.

Threads: a change may be made on any thread, one at a time (it waits); so may reading, on a connection of its own. The mapped file
must stay while any process runs; between runs it may be deleted.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proxy.errors import SetupError
from proxy.sealing import MasterKey
from proxy.store_database import Session, StoreFailed, Values, make

BUSY_TIMEOUT_S = 10.0

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
    # The store key, sealed under each master key that opens it; making a store or bringing it up to date makes the first.
    "CREATE TABLE store_keys (master TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT",
)


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
def transaction(connection: sqlite3.Connection) -> Iterator[Session]:
    """What is written in it is written whole, and durable behind it, or not at all. Raises StoreFailed."""
    with translated():
        connection.execute("BEGIN IMMEDIATE")
    try:
        yield FileSession(connection)
        with translated():
            connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is read in it is of one moment. Raises StoreFailed."""
    with translated():
        connection.execute("BEGIN")
        try:
            yield
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


class FileSession:
    """A `Session` on a connection's open transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, arguments: Values = ()) -> list[tuple[Any, ...]]:
        with translated():
            return self._connection.execute(sql, arguments).fetchall()

    def write(self, sql: str, arguments: Values = ()) -> None:
        with translated():
            self._connection.execute(sql, arguments)

    def write_all(self, sql: str, rows: Iterable[Values]) -> None:
        with translated():
            self._connection.executemany(sql, rows)

    def run(self, script: str) -> None:
        """Statement by statement: `executescript` would commit the transaction that is open."""
        for statement in filter(str.strip, script.split(";")):
            self.write(statement)


def make_file(path: Path, master_key: MasterKey, instance: str) -> None:
    """Make a new store in a new file (mode 0600), durable when this returns. Raises SetupError where there is a file."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError as fault:
        raise SetupError(f"{path} is there already; a key store is never overwritten") from fault
    connection = connect(path)
    try:
        with transaction(connection) as session:
            make(session, MIGRATIONS, master_key, instance)
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


class FileDatabase:
    """The file at `path`, open. A `Database`. Must not be carried over a fork: open it in the process that uses it."""

    migrations = MIGRATIONS
    fault: str | None = None

    def __init__(self, path: Path) -> None:
        """Raises SetupError where there is none."""
        if not path.is_file():
            raise SetupError(
                f"there is no key store at {path}: `keytrail init` makes a data folder with one, and"
                " `keytrail keystore restore` puts a copy of one there"
            )
        self.name = str(path)
        self._path = path
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._reader = connect(path)
        self._writer: sqlite3.Connection | None = None
        self._publication: Publication | None = None

    def follow(self) -> None:
        self._publication = Publication(self._path.with_suffix(".generation"))
        self._published = self._publication.view

    @property
    def published(self) -> int:
        return self._published[0]

    def publish(self, generation: int) -> None:
        self._published[0] = generation

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock, one_moment(self._reader):
            yield self._reader

    @contextmanager
    def settled(self) -> Iterator[Session]:
        with self.reading() as connection:
            yield FileSession(connection)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with self._write_lock:
            if self._writer is None:
                self._writer = connect(self._path)
            with transaction(self._writer) as session:
                yield session

    def forget_what_was(self) -> None:
        with self._own_connection() as connection, translated():
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def damage(self) -> list[str]:
        with self._own_connection() as connection:
            try:
                return [found for (found,) in connection.execute("PRAGMA integrity_check") if found != "ok"]
            except sqlite3.Error as fault:
                return [str(fault)]

    def write_copy(self, path: Path) -> None:
        with self._own_connection() as connection, translated():
            connection.execute("VACUUM INTO ?", (str(path),))

    @contextmanager
    def _own_connection(self) -> Iterator[sqlite3.Connection]:
        """For what is seldom."""
        connection = connect(self._path)
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._reader.close()
            if self._writer is not None:
                self._writer.close()
            if self._publication is not None:
                self._publication.close()


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
