"""A PostgreSQL server, of Debian's package: with a password, on loopback, all its files in a folder of its own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.integration.components import missing
from tests.integration.components.ports import free_ports
from tests.integration.components.process import NotStarted, ServerProcess

_ATTEMPTS = 5
_USER = "postgres"  # of Debian's package: it refuses to work as root
_PROGRAMS = Path("/usr/lib/postgresql")
#: What is committed outlives a killed server all the same: it is in the system's hands.
_OPTIONS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=200")


class PostgreSQL:
    """One server. Its folder is below the system's temporary one: its user may not enter those of the tests."""

    user = "keytrail"

    def __init__(self) -> None:
        found = sorted(_PROGRAMS.glob("*/bin/postgres"))
        if not found:
            missing("PostgreSQL")
        self._programs = found[-1].parent
        self.password = secrets.token_hex(12)
        self._folder = Path(tempfile.mkdtemp(prefix="keytrail-postgresql-"))
        self._process: ServerProcess | None = None
        self._databases = 0
        self.port = 0

    def start(self) -> None:
        """Start it, for the first time or again on the same port. Returns when it accepts connections."""
        if not (self._folder / "data").exists():
            self._make()
        fixed = bool(self.port)
        for attempt in range(_ATTEMPTS):
            if not fixed:
                (self.port,) = free_ports(1)
            argv = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)]
            for option in _OPTIONS:
                argv += ["-c", option]
            self._process = ServerProcess(argv, self._folder, self._folder / "output", user=_USER)
            try:
                self._process.wait_for("database system is ready to accept connections")
                return
            except NotStarted:
                if attempt == _ATTEMPTS - 1:
                    raise

    def _make(self) -> None:
        password = self._folder / "password"
        password.write_text(self.password)
        is_root = os.geteuid() == 0
        if is_root:
            for path in (self._folder, password):
                shutil.chown(path, _USER, _USER)
        argv = [str(self._programs / "initdb"), "-D", str(self._folder / "data"), "-U", self.user, "--pwfile", str(password)]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        who: dict[str, Any] = {}  # Any: of Popen
        if is_root:
            who = {"user": _USER, "group": pwd.getpwnam(_USER).pw_gid, "extra_groups": []}
        subprocess.run(argv, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, **who)

    def url(self, database: str = "postgres", *, password: bool = True, port: int | None = None) -> str:
        secret = f":{self.password}" if password else ""
        return f"postgresql://{self.user}{secret}@127.0.0.1:{port or self.port}/{database}"

    def new_database(self) -> str:
        """The name of an empty one."""
        self._databases += 1
        name = f"test{self._databases}"
        self.execute("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def execute(self, database: str, sql: str, *arguments: object) -> list[tuple[Any, ...]]:  # Any: columns
        """Another hand on a database."""
        with psycopg.connect(self.url(database), autocommit=True, options="-c search_path=keytrail") as connection:
            cursor = connection.execute(sql.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def freeze(self) -> None:
        """It holds its connections, and answers nothing, until `thaw`."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all of it. Returns when it is gone."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # so that it has no more children than these
        pids = self._pids()
        self._process.kill()
        for pid in pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            while Path(f"/proc/{pid}").exists():
                threading.Event().wait(0.01)

    def _pids(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def stop(self) -> None:
        """Stop it, and remove what it wrote."""
        if self._process is not None:
            self._process.stop(signal.SIGINT)  # SIGTERM would wait for its clients
        shutil.rmtree(self._folder)


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A running server, stopped at the end."""
    server = PostgreSQL()
    try:
        server.start()
        yield server
    finally:
        server.stop()
