"""A syslog receiver over TLS or plain TCP, as RFC 5425 wants it: octet-counted frames, each read strictly as RFC 5424 has it."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.components.certificates import Certificate
from tests.integration.components.ports import free_ports

_MESSAGE = re.compile(
    rb"<(?P<priority>[0-9]{1,3})>1 (?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{6}Z) (?P<host>[!-~]{1,255}) keytrail "
    rb"(?P<process>[!-~]{1,128}) (?P<id>[!-~]{1,32}) - (?P<text>.*)",
    re.DOTALL,
)


def parse(data: bytes) -> list[re.Match[bytes]]:
    """The messages in `data`, which is whole frames. Raises ValueError where it is none."""
    found = []
    while data:
        length, blank, data = data.partition(b" ")
        if not blank or not re.fullmatch(rb"[1-9][0-9]*", length) or len(data) < int(length):
            raise ValueError("no frame")
        message, data = data[: int(length)], data[int(length) :]
        if (match := _MESSAGE.fullmatch(message)) is None:
            raise ValueError(f"no message of RFC 5424: {message[:80]!r}")
        found.append(match)
    return found


class SyslogReceiver:
    """One on a port of its own. While `reads` is not set, connections wait; `resets` of the next connections are reset
    unread, and `closes` of them closed unread."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.messages: list[re.Match[bytes]] = []
        self.faults: list[str] = []
        self.reads = threading.Event()
        self.reads.set()
        self.asked = threading.Event()
        self.resets = self.closes = 0
        self.talks = False  # says something all the time, and never closes
        self.says_goodbye = True  # by a close_notify of its own; many only close the connection
        self._context = certificate.server_context() if certificate is not None else None
        (self._port,) = free_ports(1)
        self._socket: socket.socket | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"{'tls' if self._context else 'tcp'}://127.0.0.1:{self._port}"

    @property
    def bodies(self) -> list[bytes]:
        return [match["text"] for match in self.messages]

    def start(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def stop(self) -> None:
        self.reads.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._socket.close()
            self._socket = None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        self.asked.set()
        with connection:
            if self.resets:
                self.resets -= 1
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if self.closes:
                self.closes -= 1
                return
            self.reads.wait()
            try:
                if self.talks:
                    _talk(connection if self._context is None else self._context.wrap_socket(connection, server_side=True))
                if self._context is None:
                    self.messages += parse(_all_of(connection))
                    return
                with self._context.wrap_socket(connection, server_side=True) as secured:
                    self.messages += parse(_all_of(secured))
                    if self.says_goodbye:
                        secured.unwrap().close()
            except (OSError, ValueError) as error:
                self.faults.append(f"{type(error).__name__}: {error}")


def _talk(connection: socket.socket) -> None:
    """Until the other side has had enough."""
    with connection:
        while True:
            connection.sendall(b"x")


def _all_of(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(1 << 16):
        data += chunk
    return data


@contextmanager
def syslog_receiver(certificate: Certificate | None = None) -> Iterator[SyslogReceiver]:
    """A running one, gone at the end."""
    receiver = SyslogReceiver(certificate)
    try:
        yield receiver
    finally:
        receiver.stop()
