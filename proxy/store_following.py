"""The thread that follows the key store on a PostgreSQL server: it listens for commits, asks every second in any case, and comes
back by itself when the server was away."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable

import psycopg

from proxy.errors import ProxyError
from proxy.postgresql import Connection, Server

_log = logging.getLogger(__name__)

CHANNEL = "keytrail"
_POLL_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_PATIENCE_S = 5.0


class Follower:
    """Runs until `stop`. `catch_up` takes in what changed, by a connection of this thread's own; `lost` is told why it cannot."""

    def __init__(self, server: Server, catch_up: Callable[[Connection], None], lost: Callable[[str], None]) -> None:
        self._server = server
        self._catch_up = catch_up
        self._lost = lost
        self._stopping = threading.Event()
        self._notified = False
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="keystore-follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for it to end, unless the server keeps it waiting."""
        self._stopping.set()
        os.write(self._wake, b".")
        self._thread.join(_PATIENCE_S)
        if not self._thread.is_alive():
            os.close(self._wake)
            os.close(self._woken)

    def _run(self) -> None:
        pause_s, is_lost = _FIRST_PAUSE_S, False
        while not self._stopping.is_set():
            try:
                connection = self._server.connect()
                try:
                    connection.add_notify_handler(self._on_notification)
                    connection.execute(f"LISTEN {CHANNEL}".encode())
                    self._catch_up(connection)
                    if is_lost:
                        _log.info("%s is heard of again", self._server.name)
                    pause_s, is_lost = _FIRST_PAUSE_S, False
                    while not self._stopping.is_set():
                        self._wait(connection)
                        self._catch_up(connection)
                finally:
                    connection.close()
            except (ProxyError, psycopg.Error) as fault:
                self._tell(str(fault), known=is_lost)
            except Exception as fault:
                _log.exception("following the key store: internal fault")
                self._lost(type(fault).__name__)
            is_lost = True
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _tell(self, reason: str, *, known: bool) -> None:
        if self._stopping.is_set():
            return
        self._lost(reason)
        if not known:
            _log.error("the key store is not followed: %s", reason)

    def _on_notification(self, _: psycopg.Notify) -> None:
        self._notified = True

    def _wait(self, connection: Connection) -> None:
        """Until there is news, or it is time to ask. A notification that came with an answer has been read already."""
        if not self._notified:
            waiting = select.poll()
            waiting.register(connection.fileno(), select.POLLIN)
            waiting.register(self._woken, select.POLLIN)
            waiting.poll(_POLL_S * 1_000)
        self._notified = False


def is_readable(connection: Connection) -> bool:
    """Whether something came in on it, be it the end, or it is closed."""
    if connection.closed:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))
