"""Bytes that survive a power cut: each function says what is durable when it returns.

Atomic is not durable: a rename is safe on disk only after the folder it happened in was synced too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to `fd`; durable only after a sync. Raises OSError, with a part of `data` possibly written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def reserve(fd: int, offset: int, size_bytes: int) -> bool:
    """Have the file system set blocks aside for `fd`, without changing the file's size; whether that was possible.

    Appending into blocks that are there already halves the time of a sync on ext4: its journal has less to commit.
    """
    return _fallocate is not None and _fallocate(fd, _FALLOC_FL_KEEP_SIZE, offset, size_bytes) == 0


def write_out(fd: int, offset: int, size_bytes: int) -> bool:
    """Have this part of `fd` written to the disk, as far as it is not, and wait until it was; whether that was possible.

    Durable it is only after a sync, for which little is left then: no journal was committed, and no disk's cache emptied. Raises
    OSError where the disk did not take it: a sync of the same `fd` would not say so again.
    """
    if _sync_file_range is None:
        return False
    if _sync_file_range(fd, offset, size_bytes, _WAIT_WRITE_WAIT) == 0:
        return True
    if (number := ctypes.get_errno()) in (errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number))


def _of_libc(name: str, *arguments: type) -> Callable[..., int] | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes = arguments
    return function


_FALLOC_FL_KEEP_SIZE = 1
_WAIT_WRITE_WAIT = 1 | 2 | 4  # SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE, _WAIT_AFTER
_fallocate = _of_libc("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = _of_libc("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: files created, renamed or removed there before this call."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create `path` with `data`; durable when this returns. Raises FileExistsError rather than overwrite."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(path.parent)


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`, whole or not at all; durable when this returns. One process at a time writes a given path.

    Where it fails, nothing is left beside `path`.
    """
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def create_folder(path: Path, mode: int = 0o700) -> None:
    """Create the folder `path`, its parent there already; durable when this returns. Raises FileExistsError."""
    path.mkdir(mode)
    sync_folder(path.parent)
