"""Sessions with a PostgreSQL server, by libpq. The password is in no message: libpq's own name host, port and user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from proxy.errors import SetupError
from proxy.store_database import StoreFailed, StoreUnreachable, Values

_OLDEST_SERVER = 130_000
_CONNECT_S = 5

#: Of every session. A host that is gone is noticed within seconds, and its lock with it; a commit is on the server's disk.
_SESSION = """
SET search_path = keytrail, pg_temp; SET client_min_messages = warning;
SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '30s';
SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET tcp_user_timeout = '10s';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""

Connection = psycopg.Connection[tuple[Any, ...]]


class Server:
    """Where the database is, and how one connects to it. `name` is without the password."""

    def __init__(self, url: str) -> None:
        """Raises SetupError where `url` is none of libpq's."""
        try:
            facts = conninfo_to_dict(url)
        except psycopg.Error:
            raise SetupError("keystore_url is not a URL that PostgreSQL's clients read") from None  # their words may tell it
        self._url = url
        self._password = str(facts.get("password") or "")
        self._options: dict[str, Any] = {} if facts.get("connect_timeout") else {"connect_timeout": _CONNECT_S}  # Any: libpq's
        host, port, dbname = (str(facts.get(name) or "") for name in ("host", "port", "dbname"))
        self.name = f"postgresql://{host}{port and ':' + port}/{dbname}"

    def connect(self) -> Connection:
        """A session, in autocommit. Raises StoreUnreachable, SetupError."""
        try:
            connection = psycopg.connect(
                self._url,
                autocommit=True,
                application_name="keytrail",
                client_encoding="UTF8",
                target_session_attrs="read-write",  # a standby lags behind, and does not tell
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=10_000,
                **self._options,
            )
        except psycopg.Error as fault:
            raise StoreUnreachable(f"{self.name} cannot be reached: {self._told(fault)}") from None
        try:
            if connection.info.server_version < _OLDEST_SERVER:
                raise SetupError(f"{self.name}: PostgreSQL 13 or later is needed")
            connection.execute(_SESSION.encode())
        except psycopg.Error as fault:
            connection.close()
            raise StoreUnreachable(f"{self.name} does not answer: {self._told(fault)}") from None
        except SetupError:
            connection.close()
            raise
        return connection

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """One for the block, closed behind it; its errors are translated. Raises as `connect`, and StoreFailed."""
        connection = self.connect()
        try:
            with self.translated(connection):
                yield connection
        finally:
            connection.close()

    @contextmanager
    def translated(self, connection: Connection) -> Iterator[None]:
        """psycopg's errors as StoreFailed, or StoreUnreachable where the connection is gone."""
        try:
            yield
        except psycopg.Error as fault:
            kind = StoreUnreachable if connection.closed else StoreFailed
            raise kind(f"the key store failed: {self.name}: {self._told(fault)}") from None

    def _told(self, fault: psycopg.Error) -> str:
        """What went wrong, in a line."""
        text = " ".join(str(fault).split()) or type(fault).__name__
        return text.replace(self._password, "…") if self._password else text


class ServerSession:
    """A `Session` on a connection's open transaction."""

    def __init__(self, server: Server, connection: Connection) -> None:
        self._server = server
        self._connection = connection

    def rows(self, sql: str, arguments: Values = ()) -> list[tuple[Any, ...]]:
        with self._server.translated(self._connection):
            return self._connection.execute(_query(sql), arguments or None).fetchall()

    def write(self, sql: str, arguments: Values = ()) -> None:
        with self._server.translated(self._connection):
            self._connection.execute(_query(sql), arguments or None)

    def write_all(self, sql: str, rows: Iterable[Values]) -> None:
        with self._server.translated(self._connection), self._connection.cursor() as cursor:
            cursor.executemany(_query(sql), rows)

    def run(self, script: str) -> None:
        with self._server.translated(self._connection):
            self._connection.execute(script.encode())


def _query(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()
