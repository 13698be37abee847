"""Syslog: RFC 5424 messages, octet-counted, over TLS (RFC 5425) or plain TCP (RFC 6587, 3.4.1).

Syslog has no acknowledgement. So each batch has a connection of its own, which is closed in order, and counts when this holds:

1. This side has said that no more will come (TLS close_notify, TCP FIN), and the receiver has closed its end too.
2. What came back on the way was no TLS alert, such as one that refuses our certificate, which TLS 1.3 tells only then.
3. TCP has an acknowledgement of every byte, and no reset. A receiver that goes away with something unread resets; one that went
   away before something arrived never acknowledges it. So it was read to the end.

The message is the record's text without a byte order mark (MSG-ANY); there is no structured data, since the text has it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from audit.canonical import timestamp
from audit.ocsf import Severity
from audit.shipping.messages import Message
from audit.shipping.sink import SinkFault, Taken

T = TypeVar("T")
_CHUNK_BYTES = 1 << 16
_LOOK_S = 0.001
_FACILITY = 13  # log audit
_SEVERITIES = {Severity.INFORMATIONAL: 6, Severity.LOW: 5, Severity.MEDIUM: 4}  # informational, notice, warning
_UNPRINTABLE = re.compile(r"[^!-~]")
_LONGEST_HOST, _LONGEST_PROCESS, _LONGEST_ID = 255, 128, 32


class SyslogSink:
    """A receiver at `host` and `port`; over TLS where there is a `context`. `sender` is the HOSTNAME that messages have."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, sender: str, timeout_s: float = 10.0) -> None:
        self._address = (host, port)
        self._context = context
        self._sender = sender
        self._timeout_s = timeout_s
        self._connection: socket.socket | None = None

    async def send(self, batch: Sequence[Message]) -> Taken:
        data = b"".join(frame(message, self._sender) for message in batch)
        try:
            await asyncio.to_thread(self._deliver, data)
        except TimeoutError as error:
            raise SinkFault("the receiver does not answer, or does not close its end of the connection") from error
        except OSError as error:  # ssl.SSLError is one
            raise SinkFault(f"{type(error).__name__}: {error.strerror or error}") from error
        return Taken()

    async def close(self) -> None:
        """Break off what is under way; between batches nothing is open."""
        if (connection := self._connection) is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _deliver(self, data: bytes) -> None:
        with socket.create_connection(self._address, self._timeout_s) as connection:
            self._connection = connection
            try:
                if self._context is None:
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    deadline_s = time.monotonic() + self._timeout_s
                    while _receive(connection, deadline_s):
                        continue  # a receiver has nothing to say; what it says is not kept
                else:
                    _deliver_secured(connection, self._context, self._address[0], data, self._timeout_s)
                _require_acknowledged(connection, time.monotonic() + self._timeout_s)
            finally:
                self._connection = None


def _receive(connection: socket.socket, deadline_s: float) -> bytes:
    """What comes next, "" at the end; a receiver that has always something to say has no more time for it. Raises OSError."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connection.settimeout(left_s)
    return connection.recv(_CHUNK_BYTES)


def _deliver_secured(connection: socket.socket, context: ssl.SSLContext, host: str, data: bytes, timeout_s: float) -> None:
    """Send `data` over TLS, and close in order. Not by an SSLSocket, whose `unwrap` takes an alert for the receiver's goodbye.

    Raises OSError, which an `ssl.SSLError` is.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=host)

    def run(step: Callable[[], T], deadline_s: float) -> T:
        """What `step` gives, with as much of the receiver's words as it needs, and as come before the deadline."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    connection.sendall(outgoing.read())
                if chunk := _receive(connection, deadline_s):
                    incoming.write(chunk)
                else:
                    incoming.write_eof()

    run(tls.do_handshake, time.monotonic() + timeout_s)
    connection.settimeout(timeout_s)
    for start in range(0, len(data), _CHUNK_BYTES):
        tls.write(data[start : start + _CHUNK_BYTES])
        connection.sendall(outgoing.read())
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.unwrap()  # our close_notify; the receiver's is read below
    connection.sendall(outgoing.read())
    connection.shutdown(socket.SHUT_WR)
    deadline_s = time.monotonic() + timeout_s
    with contextlib.suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):  # its close_notify; many close without one
        while run(lambda: tls.read(_CHUNK_BYTES), deadline_s):
            if time.monotonic() > deadline_s:
                raise TimeoutError


def _require_acknowledged(connection: socket.socket, deadline_s: float) -> None:
    """Return when TCP has an acknowledgement of all that was sent. Raises OSError where it was reset, or that takes too long."""
    while True:
        unacknowledged = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]
        if (fault := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) != 0:
            raise OSError(fault, os.strerror(fault))
        if not unacknowledged:
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError
        time.sleep(_LOOK_S)


def frame(message: Message, sender: str) -> bytes:
    """`message` as RFC 5424 has it, behind its length (RFC 5425, 4.3)."""
    header = " ".join(
        [
            f"<{_FACILITY * 8 + _SEVERITIES[message.severity]}>1",
            timestamp(message.time_us),
            _name(sender, _LONGEST_HOST),
            "keytrail",
            _name(message.log, _LONGEST_PROCESS),
            _name(message.event_name, _LONGEST_ID),
            "-",
        ]
    )
    text = header.encode() + b" " + message.body
    return b"%d " % len(text) + text


def _name(text: str, longest: int) -> str:
    """As a header's field may be written."""
    return _UNPRINTABLE.sub("?", text)[:longest] or "-"
