"""A PostgreSQL database under the sealed store, so that several hosts share it. Needs psycopg, the extra `postgresql`.

Rules kept here:

- Writers of all hosts take turns by a lock on the row of the generation, held to COMMIT.
- What calls look up is a copy in memory (`proxy.store_copy`), which a thread keeps up to date: it is told of commits by NOTIFY,
  and asks every second all the same, for a notification may be lost. Rows that only `settled` and `writing` look for (`unread`)
  are not copied.
- Where the answer to a COMMIT was lost, the database is asked: each transaction leaves a token, and under the lock it is certain
  whether it is there. (A transaction id would not do: after a crash of the server it may be given to another.) Where that
  cannot be asked, the error says that the outcome is unknown.

Tables stand in the schema `keytrail`. Connections must be sessions of the server's (LISTEN): no pooling by transaction between.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from proxy.errors import SetupError
from proxy.postgresql import Connection, Server, ServerSession
from proxy.sealing import MasterKey
from proxy.store_copy import Copy, Fetched
from proxy.store_database import GENERATIONS, INSERT, SELECT, Session, StoreFailed, StoreUnreachable, generations, make
from proxy.store_file import MIGRATIONS as FILE_MIGRATIONS
from proxy.store_file import transaction
from proxy.store_following import CHANNEL, Follower, is_readable

_log = logging.getLogger(__name__)

_ADVISORY = 0x6B65797472  # the lock of those who make a store
_OUTCOME_ATTEMPTS, _OUTCOME_PAUSE_S = 8, 0.25
_COMMITS_KEPT = 1_024  # generations: how far others may go on before a lost outcome is unknown

#: As those of the file, version for version. Names compare as bytes, as in SQLite.
MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT COLLATE "C" PRIMARY KEY, value BYTEA NOT NULL);
    CREATE TABLE entries (
        kind TEXT COLLATE "C" NOT NULL, region TEXT COLLATE "C" NOT NULL, id TEXT COLLATE "C" NOT NULL,
        parent TEXT COLLATE "C" NOT NULL,
        generation BIGINT NOT NULL, deleted SMALLINT NOT NULL, body BYTEA NOT NULL, sealed BYTEA NOT NULL,
        PRIMARY KEY (kind, region, id)
    );
    CREATE INDEX entries_generation ON entries (generation);
    CREATE INDEX entries_parent ON entries (kind, region, parent) WHERE parent != '';
    CREATE INDEX entries_deleted ON entries (generation) WHERE deleted = 1;
    """,
    """
    CREATE TABLE store_keys (master TEXT COLLATE "C" PRIMARY KEY, sealed BYTEA NOT NULL);
    CREATE TABLE commits (token TEXT COLLATE "C" PRIMARY KEY, generation BIGINT NOT NULL);
    CREATE INDEX commits_generation ON commits (generation);
    """,
)


class StorePlace:
    """The database that a URL of libpq's names, with a store in it or without. `ServerDatabase` tells of the other arguments.

    Every method raises SetupError where it is not as it must be, StoreUnreachable where the server does not answer.
    """

    def __init__(self, url: str, stale_after_s: float, unread: tuple[str, ...] = ()) -> None:
        self._server = Server(url)
        self._stale_after_s = stale_after_s
        self._unread = unread

    @property
    def name(self) -> str:
        """How messages name it."""
        return self._server.name

    def is_made(self) -> bool:
        """Whether there is a store."""
        with self._server.session() as connection:
            return _has_store(connection)

    def make(self, master_key: MasterKey, instance: str) -> None:
        """Make a new store, empty, durable when this returns. Raises SetupError where there is one."""
        name = self._server.name
        with self._server.session() as connection:
            if connection.info.parameter_status("server_encoding") != "UTF8":
                raise SetupError(f"{name}: the database's encoding must be UTF8")
            connection.execute(f"BEGIN; SELECT pg_advisory_xact_lock({_ADVISORY})".encode())
            if _has_store(connection):
                raise SetupError(f"{name} has a key store already; a key store is never overwritten")
            if connection.execute("SELECT 1 WHERE to_regnamespace('keytrail') IS NULL").fetchone():
                connection.execute("CREATE SCHEMA keytrail")
            make(ServerSession(self._server, connection), MIGRATIONS, master_key, instance)
            connection.execute("COMMIT")

    def open(self) -> ServerDatabase:
        """Raises SetupError where there is no store."""
        if not self.is_made():
            raise SetupError(
                f"there is no key store in {self._server.name}: `keytrail init` makes one, and `keytrail keystore restore` puts a"
                " copy there"
            )
        return ServerDatabase(self._server, self._stale_after_s, self._unread)


def _has_store(connection: Connection) -> bool:
    return connection.execute("SELECT 1 WHERE to_regclass('keytrail.meta') IS NOT NULL").fetchone() is not None


class ServerDatabase:
    """The store on `server`, open. A `Database`. What was not heard of for `stale_after_s` is not gone by; rows of the kinds
    `unread` are not looked up by calls."""

    migrations: Sequence[str] = MIGRATIONS

    def __init__(self, server: Server, stale_after_s: float, unread: tuple[str, ...]) -> None:
        self.name = server.name
        self._server = server
        self._unread = unread
        self._turn = threading.Lock()
        self._fetching = threading.Lock()
        self._connection: Connection | None = None
        self._copy = Copy(server.name, stale_after_s)
        self._follower: Follower | None = None

    # --- looking up

    def follow(self) -> None:
        with self._turn, self._usable() as connection:
            self.catch_up(connection)
        self._follower = Follower(self._server, self.catch_up, self._lost)
        self._follower.start()

    @property
    def published(self) -> int:
        return self._copy.published

    @property
    def fault(self) -> str | None:
        return self._copy.fault

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._copy.reading() as connection:
            yield connection

    def catch_up(self, connection: Connection) -> None:
        """Bring the copy up to date by `connection`, which is in no transaction. Raises StoreFailed."""
        with self._fetching, self._server.translated(connection):
            asked_s = self._copy.clock()
            if generations(connection.execute(GENERATIONS))[0] == self._copy.generation > 0:
                self._copy.heard(asked_s)
                return
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            generation, pruned = generations(connection.execute(GENERATIONS))
            known = self._copy.generation
            complete = known < pruned or known == 0
            where = "deleted = 0" if complete else "generation > %s"
            query = f"{SELECT} WHERE {where} AND kind != ALL(%s)".encode()
            arguments = (list(self._unread),) if complete else (known, list(self._unread))
            rows: list[Any] = connection.execute(query, arguments).fetchall()
            connection.execute("COMMIT")
            self._copy.take(Fetched(generation, pruned, rows, complete), asked_s)

    def publish(self, generation: int) -> None:
        self._copy.owe(generation)
        try:
            with self._turn, self._usable() as connection:
                self.catch_up(connection)
        except StoreFailed as fault:  # it was committed all the same; until the thread has it, calls are refused here
            _log.error("generation %s is not here yet: %s", generation, fault)

    def _lost(self, reason: str) -> None:
        self._copy.lost = reason

    # --- transactions

    @contextmanager
    def settled(self) -> Iterator[Session]:
        with self._turn, self._usable() as connection:
            self._begin(connection)
            yield ServerSession(self._server, connection)
            with self._server.translated(connection):
                connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with self._turn, self._usable() as connection:
            generation = self._begin(connection)
            yield ServerSession(self._server, connection)
            self._commit(connection, generation)

    @contextmanager
    def _usable(self) -> Iterator[Connection]:
        """The connection for whoever's turn it is; what fails within undoes its transaction."""
        if self._connection is not None and is_readable(self._connection):  # most likely its end
            try:
                self._connection.execute("")
            except psycopg.Error:
                self._drop()
        if self._connection is None:
            self._connection = self._server.connect()
        try:
            yield self._connection
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is not None and connection.info.transaction_status is not TransactionStatus.IDLE:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = None

    def _begin(self, connection: Connection) -> int:
        """Wait for one's turn among all hosts; gives the generation."""
        with self._server.translated(connection):
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            row = connection.execute("SELECT value FROM meta WHERE name = 'generation' FOR UPDATE").fetchone()
        if row is None:
            raise StoreFailed(f"the key store failed: {self.name} has lost its generation")
        return int(row[0])

    def _commit(self, connection: Connection, generation: int) -> None:
        token = secrets.token_hex(16)
        script = (
            f"INSERT INTO commits VALUES ('{token}', {generation}); "  # noqa: S608 - a number, and hex digits
            f"DELETE FROM commits WHERE generation < {generation - _COMMITS_KEPT}; NOTIFY {CHANNEL}; COMMIT"
        )
        try:
            with self._server.translated(connection):
                connection.execute(script.encode())
        except StoreUnreachable as fault:
            self._drop()
            if not self._was_committed(token, generation):
                raise StoreFailed(f"{fault}; nothing was changed") from None

    def _was_committed(self, token: str, generation: int) -> bool:
        """Raises StoreFailed, its outcome unknown, where that cannot be told."""
        reason = "others went on too far"
        for attempt in range(_OUTCOME_ATTEMPTS):
            if attempt:
                threading.Event().wait(_OUTCOME_PAUSE_S)
            try:
                with self._usable() as connection:
                    now = self._begin(connection)
                    with self._server.translated(connection):
                        found = connection.execute("SELECT 1 FROM commits WHERE token = %s", (token,)).fetchone()
                        connection.execute("ROLLBACK")
                if found is not None or now <= generation + _COMMITS_KEPT:
                    return found is not None
                break
            except StoreFailed as fault:
                reason = str(fault)
        raise StoreFailed(
            f"{self.name}: the answer to a COMMIT was lost, and whether it was done cannot be told: {reason}",
            outcome_unknown=True,
        )

    # --- the whole of it

    def forget_what_was(self) -> None:
        with self._turn, self._usable() as connection, self._server.translated(connection):
            connection.execute("VACUUM store_keys")

    def damage(self) -> list[str]:
        return []  # the server's own affair

    def write_copy(self, path: Path) -> None:
        with self._turn, self._usable() as connection, self._server.translated(connection):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            meta = connection.execute("SELECT name, value FROM meta").fetchall()
            keys = connection.execute("SELECT master, sealed FROM store_keys").fetchall()
            rows = connection.execute(SELECT.encode()).fetchall()
            connection.execute("COMMIT")
        copy = sqlite3.connect(path, isolation_level=None)
        try:
            with transaction(copy) as session:
                for script in FILE_MIGRATIONS:
                    session.run(script)
                session.write_all("INSERT INTO meta VALUES (?, ?)", meta)
                session.write_all("INSERT INTO store_keys VALUES (?, ?)", keys)
                session.write_all(INSERT, rows)
        finally:
            copy.close()

    def close(self) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.stop()
        with self._turn:
            self._drop()
        self._copy.close()
