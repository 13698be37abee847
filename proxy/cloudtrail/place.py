"""Where the admin listener and the process that answers CloudTrail's API meet: a Unix socket, `trail/socket` in the data folder.

The path of a socket may have some hundred bytes and that of a data folder more: both go there by a descriptor of the folder.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from audit import durable

#: The log of its calls.
LOG = "trail"
#: The first header of what is handed over: the address of the client. Whatever a client itself sends under this name is dropped.
PEER = b"x-keytrail-peer"
_SOCKET = "socket"


def folder_of(data: Path) -> Path:
    """Its folder, mode 0700, made where there is none. Raises OSError."""
    folder = data / "trail"
    if not folder.exists():
        durable.create_folder(folder)
    return folder


@contextmanager
def bind(folder: Path) -> Iterator[socket.socket]:
    """The socket, mode 0600, bound; one that a dead process left is put away. Raises OSError."""
    with _at(folder) as place, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        with suppress(FileNotFoundError):
            os.unlink(place)
        before = os.umask(0o177)
        try:
            sock.bind(place)
        finally:
            os.umask(before)
        yield sock


async def connect(data: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to whoever listens there. Raises OSError where nobody does."""
    with _at(data / "trail") as place:
        return await asyncio.open_unix_connection(place)


@contextmanager
def _at(folder: Path) -> Iterator[str]:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{_SOCKET}"
    finally:
        os.close(fd)
