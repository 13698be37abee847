"""The databases that a sealed store may lie in, for the tests that hold for both."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from proxy.sealed_store import SealedStore
from proxy.sealing import MasterKey
from proxy.store_server import StorePlace
from tests.integration.components.postgresql import PostgreSQL
from tests.integration.conftest import wait_until

KEY = bytes(range(32))
INSTANCE = "0123456789abcdef"


class Engine(Protocol):
    """A place for one store."""

    def make(self, key: bytes = KEY, instance: str = INSTANCE) -> None: ...

    def open(self, key: bytes = KEY, instance: str | None = None) -> SealedStore:
        """A handle as of another process."""
        ...

    def execute(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:  # Any: columns
        """Another hand on the database; `?` for arguments."""
        ...


class FileEngine:
    """A SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, key: bytes = KEY, instance: str = INSTANCE) -> None:
        SealedStore.create(self.path, key, instance).close()

    def open(self, key: bytes = KEY, instance: str | None = None) -> SealedStore:
        return SealedStore.at(self.path, key, instance)

    def execute(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:  # Any: columns
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(sql, arguments).fetchall()


class ServerEngine:
    """A database of a PostgreSQL server. `port`: of something that stands between."""

    def __init__(self, server: PostgreSQL, stale_after_s: float = 10.0, port: int | None = None) -> None:
        self.server = server
        self.database = server.new_database()
        self.place = StorePlace(server.url(self.database, port=port), stale_after_s, unread=("effect",))

    def make(self, key: bytes = KEY, instance: str = INSTANCE) -> None:
        self.place.make(MasterKey(key), instance)

    def open(self, key: bytes = KEY, instance: str | None = None) -> SealedStore:
        return SealedStore(self.place.open(), key, instance)

    def execute(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:  # Any: columns
        return self.server.execute(self.database, sql.replace("?", "%s"), *arguments)


def meet(reader: SealedStore, writer: SealedStore) -> None:
    """Wait until `reader` has what `writer` published: at once by a file, in a moment by a server."""
    wait_until(lambda: reader.published == writer.published, "the change has come")
