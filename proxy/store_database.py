"""What the sealed store asks of the database under it, and what lies in every such database: rows, a few numbers, the store key.

There are two: a SQLite file (`proxy.store_file`), and a PostgreSQL server (`proxy.store_server`), which several hosts share. Both
keep these rules:

- Writers take turns, over all processes that have the database: each sees everything that was committed before, and generations
  are dense and become visible in their order.
- What calls look up is read without waiting for a network: from the file, or from a copy in memory that follows the server. What
  is `published` is there to be read.

SQL here is what both understand, with `?` for arguments.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from proxy.errors import ProxyError, SealBroken, SetupError
from proxy.sealing import STORE_KEY_BYTES, MasterKey, Row, Seal

SELECT = "SELECT kind, region, id, parent, generation, deleted, body, sealed FROM entries "
INSERT = (
    "INSERT INTO entries (kind, region, id, parent, generation, deleted, body, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (kind, region, id) DO UPDATE SET parent = excluded.parent, generation = excluded.generation,"
    " deleted = excluded.deleted, body = excluded.body, sealed = excluded.sealed"
)


class StoreFailed(ProxyError):
    """The database could not be read or written (disk full, locked, damaged, not reachable); a change was rolled back.

    Where `outcome_unknown`, the change may have been made all the same: the answer to its COMMIT was lost.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class StoreUnreachable(StoreFailed):
    """The database's server does not answer; it may do so later."""


Values: TypeAlias = Sequence[object]


class Session(Protocol):
    """The inside of a transaction. Every method raises StoreFailed."""

    def rows(self, sql: str, arguments: Values = ()) -> list[tuple[Any, ...]]:  # Any: columns
        """What a query finds."""
        ...

    def write(self, sql: str, arguments: Values = ()) -> None: ...

    def write_all(self, sql: str, rows: Iterable[Values]) -> None:
        """The same statement for each row."""
        ...

    def run(self, script: str) -> None:
        """Statements with semicolons between them."""
        ...


class Database(Protocol):
    """A database with a store in it."""

    @property
    def name(self) -> str:
        """How messages name it: nothing secret is in it."""
        ...

    @property
    def migrations(self) -> Sequence[str]:
        """Script i brings schema version i to i + 1; making a store is running them all."""
        ...

    def follow(self) -> None:
        """Begin with `published` and `reading`, which need it. Raises StoreFailed."""
        ...

    @property
    def published(self) -> int:
        """The generation that `reading` finds at least. Raises StoreFailed where that is too old to go by."""
        ...

    @property
    def fault(self) -> str | None:
        """Why `published` raises."""
        ...

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """The rows as they are at one moment, not long ago, for calls to look up in; waits for no network."""
        ...

    def settled(self) -> AbstractContextManager[Session]:
        """Everything as it is now, to be read; where a process was killed within a change, that has ended."""
        ...

    def writing(self) -> AbstractContextManager[Session]:
        """A transaction, when it is one's turn: durable behind the block, undone if that raises. Raises StoreFailed."""
        ...

    def publish(self, generation: int) -> None:
        """Show everybody that this generation was committed; it is `published` here when this returns."""
        ...

    def forget_what_was(self) -> None:
        """What was overwritten or deleted shall not be left in the files of the database, as far as one can have that."""
        ...

    def damage(self) -> Sequence[str]:
        """What the database finds wrong with itself."""
        ...

    def write_copy(self, path: Path) -> None:
        """A copy of everything as it is at one moment, as a new SQLite file; not yet durable when this returns."""
        ...

    def close(self) -> None:
        """Waits for a change that is under way."""
        ...


def make(session: Session, migrations: Sequence[str], master_key: MasterKey, instance: str) -> None:
    """Make an empty store in an empty database."""
    for script in migrations:
        session.run(script)
    meta = {"schema": b"%d" % len(migrations), "instance": instance.encode(), "generation": b"0", "pruned": b"0"}
    session.write_all("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
    add_master_key(session, master_key, instance, os.urandom(STORE_KEY_BYTES))


def open_seal(database: Database, master_key: MasterKey, instance: str | None) -> tuple[str, Seal]:
    """The instance whose store it is, and what opens its rows. Brings the schema up to date, whoever else does so too.

    Raises SetupError (no store, a newer schema, another instance than the one given), SealBroken (another master key), and
    nothing was changed then.
    """
    with database.settled() as session:
        version, found, seal = _open(session, database, master_key)
    if instance is not None and found != instance:
        raise SetupError(f"{database.name} belongs to instance {found}, not to {instance}")
    if version == len(database.migrations):
        return found, seal
    with database.writing() as session:
        version, found, seal = _open(session, database, master_key)
        for script in database.migrations[version:]:
            session.run(script)
        if version == 1:
            seal = _to_store_key(session, seal, master_key, found, database.name)
        session.write("UPDATE meta SET value = ? WHERE name = 'schema'", (b"%d" % len(database.migrations),))
    return found, seal


def _open(session: Session, database: Database, master_key: MasterKey) -> tuple[int, str, Seal]:
    """Schema version, instance, seal."""
    name = database.name
    try:
        meta = dict(session.rows("SELECT name, value FROM meta"))
        version, instance = int(meta["schema"]), bytes(meta["instance"]).decode()
    except (StoreFailed, KeyError, ValueError) as fault:
        if isinstance(fault, StoreUnreachable):
            raise
        raise SetupError(f"{name} is not a key store of keytrail, or its making was interrupted") from fault
    latest = len(database.migrations)
    if version > latest:
        raise SetupError(
            f"{name} has schema version {version}; this keytrail knows versions up to {latest}: use a newer keytrail"
        )
    known = "is not told by it"
    if version == 1:  # rows were sealed under the master key itself
        seal = master_key.seal_of_version_1(instance, name)
        if seal.opens("check", meta.get("check", b"")):
            return version, instance, seal
    else:
        sealed = dict(session.rows("SELECT master, sealed FROM store_keys"))
        store_key = master_key.open(sealed.get(master_key.id, b""), instance)
        if store_key is not None:
            return version, instance, Seal(store_key, instance, name)
        known = " or ".join(sorted(sealed)) or "is lost"
    raise SealBroken(
        f"the master key does not open {name}: the key given has the id {master_key.id}, the key wanted {known};"
        " nothing was overwritten"
    )


def _to_store_key(session: Session, old: Seal, master_key: MasterKey, instance: str, name: str) -> Seal:
    """Seal every row anew under a store key, in place of the master key. Raises SealBroken where a row does not open."""
    store_key = os.urandom(STORE_KEY_BYTES)
    new = Seal(store_key, instance, name)
    session.write_all(INSERT, [new.close(row, old.open(row)) for row in map(Row._make, session.rows(SELECT))])
    session.write("DELETE FROM meta WHERE name = 'check'")
    add_master_key(session, master_key, instance, store_key)
    return new


def add_master_key(session: Session, master_key: MasterKey, instance: str, store_key: bytes) -> None:
    """Have `master_key` open the store, too."""
    sql = "INSERT INTO store_keys VALUES (?, ?) ON CONFLICT (master) DO UPDATE SET sealed = excluded.sealed"
    session.write(sql, (master_key.id, master_key.close(store_key, instance)))


def generations(meta: Iterable[tuple[Any, ...]]) -> tuple[int, int]:
    """The store's generation, and the one up to which tombstones were forgotten; `meta` are the rows that `GENERATIONS` finds."""
    numbers = dict(meta)
    return int(numbers["generation"]), int(numbers["pruned"])


GENERATIONS = "SELECT name, value FROM meta WHERE name IN ('generation', 'pruned')"


def set_number(session: Session, name: str, value: int) -> None:
    session.write("UPDATE meta SET value = ? WHERE name = ?", (b"%d" % value, name))
