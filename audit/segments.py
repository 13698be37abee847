"""The folder of a log: segment files, the mark, the lock, the torn tails; and reading them.

`SegmentFolder` is the `audit.log.Disk` that production uses. Format: docs/log-format.md. Every name in the folder is private to
the one process that holds the lock; readers need no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from audit import durable
from audit.errors import LogIncident, LogInUse
from audit.log import Mark

LONGEST_LINE_BYTES = 1 << 20  # CloudTrail's limits keep a line far below
_RESERVED_BYTES = 8 << 20
_LOCK_TRIES, _LOCK_PAUSE_S = 5, 0.01
_SEGMENT_NAME = re.compile(r"[0-9]{20}\.jsonl")


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file; `first_index` is the index of its first record."""

    first_index: int
    path: Path


def segment_name(first_index: int) -> str:
    return f"{first_index:020d}.jsonl"


def list_segments(folder: Path) -> list[Segment]:
    """The segments in `folder`, in the order of their records. Raises OSError."""
    names = sorted(name for name in os.listdir(folder) if _SEGMENT_NAME.fullmatch(name))
    return [_segment(str(folder), name) for name in names]


@lru_cache(maxsize=65_536)  # a question asks several times, and making paths is most of the work
def _segment(folder: str, name: str) -> Segment:
    return Segment(int(name[:20]), Path(folder, name))


def read_mark(folder: Path) -> Mark | None:
    """The mark of the log in `folder`; None where there is none or it is damaged."""
    try:
        return Mark.decode((folder / "mark").read_bytes())
    except FileNotFoundError:
        return None


def create_log(folder: Path) -> None:
    """Create the folder of a new, empty log; durable when this returns. Raises FileExistsError.

    Its group may read it, for a sealer that is another user; nobody but the owner gets through the data folder by default.
    """
    durable.create_folder(folder, 0o750)
    durable.create_folder(folder / "torn")
    durable.create(folder / "lock", b"")
    durable.create(folder / "mark", Mark(0, 0, 0, 0).encode(), mode=0o640)


def is_being_written(folder: Path) -> bool:
    """Whether a process holds the lock of the log in `folder`."""
    return is_locked(folder / "lock")


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock that the file at `path` is. Raises OSError."""
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def take_lock(fd: int) -> None:
    """Take the writer's lock. Raises BlockingIOError where another writer has it; a reader that asks has it for a moment only."""
    for _ in range(_LOCK_TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_LOCK_PAUSE_S)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


@dataclass(slots=True)
class _OpenSegment:
    """The segment that is appended to. Space for it is reserved ahead, up to `reserved` bytes, where that is possible."""

    path: Path
    fd: int
    identity: tuple[int, int]  # device and inode
    written: int
    reserved: int
    unreservable: bool = False


class SegmentFolder:
    """The `Disk` of the log in `folder`; holds its lock until `release`. For one thread at a time.

    Raises `LogIncident` where the folder is missing, `LogInUse` where another process writes it. `syncing=False` is for the
    benchmark that tells what durability costs, and for nothing else.
    """

    def __init__(self, folder: Path, *, syncing: bool = True) -> None:
        self._folder = folder
        self._open: _OpenSegment | None = None
        self._syncing = syncing
        try:
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LogIncident(folder.name, f"{error.filename} has vanished") from error
        try:
            take_lock(self._lock)
            self._mark = os.open(folder / "mark", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)  # it can be made again
        except BlockingIOError as error:
            os.close(self._lock)
            raise LogInUse(folder.name) from error
        except OSError:
            os.close(self._lock)
            raise

    def segments(self) -> list[int]:
        return [segment.first_index for segment in list_segments(self._folder)]

    def read(self, segment: int, offset: int = 0) -> bytes:
        path = self._folder / segment_name(segment)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < offset:
                raise LogIncident(self._folder.name, f"{path.name} is shorter than what is known to be in it")
            file.seek(offset)
            return file.read()

    def first_line(self, segment: int) -> bytes:
        with (self._folder / segment_name(segment)).open("rb") as file:
            return file.readline(LONGEST_LINE_BYTES)

    def create(self, segment: int) -> None:
        path = self._folder / segment_name(segment)
        self.close()
        # An empty segment of that name may be left from a crash between this and the first sync.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        status = os.fstat(fd)
        if status.st_size:
            os.close(fd)
            raise LogIncident(self._folder.name, f"{path.name} is there already, and not empty")
        self._open = _OpenSegment(path, fd, (status.st_dev, status.st_ino), written=0, reserved=0)
        durable.sync_folder(self._folder)

    def reopen(self, segment: int, size: int) -> None:
        path = self._folder / segment_name(segment)
        self.close()
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LogIncident(self._folder.name, f"{path.name} has vanished") from error
        status = os.fstat(fd)
        if status.st_size != size:
            os.close(fd)
            raise LogIncident(self._folder.name, f"{path.name} has {status.st_size} bytes, {size} were written")
        self._open = _OpenSegment(path, fd, (status.st_dev, status.st_ino), written=size, reserved=size)
        durable.sync_folder(self._folder)  # the folder may be a copy that was put here a moment ago

    def append(self, data: bytes) -> None:
        current = self._current()
        current.written += len(data)
        if current.written > current.reserved and not current.unreservable:
            current.reserved = current.written + _RESERVED_BYTES
            current.unreservable = not durable.reserve(current.fd, current.written - len(data), _RESERVED_BYTES + len(data))
        durable.write_all(current.fd, data)

    def sync(self, size: int) -> None:
        current = self._current()
        if self._syncing:
            os.fdatasync(current.fd)
        # A file that was deleted, replaced or cut still takes writes and syncs: only its name tells.
        try:
            status = os.stat(current.path)
        except FileNotFoundError as error:
            raise LogIncident(self._folder.name, f"{current.path.name} has vanished") from error
        if (status.st_dev, status.st_ino) != current.identity:
            raise LogIncident(self._folder.name, f"{current.path.name} was replaced by another file")
        if status.st_size != size:
            raise LogIncident(self._folder.name, f"{current.path.name} has {status.st_size} bytes, {size} were written")

    def rewrite(self, segment: int, offset: int, data: bytes) -> None:
        fd = os.open(self._folder / segment_name(segment), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.lseek(fd, offset, os.SEEK_SET)
            durable.write_all(fd, data)
            os.ftruncate(fd, offset + len(data))
            os.fsync(fd)
        finally:
            os.close(fd)

    def set_aside(self, segment: int, offset: int, data: bytes) -> str:
        for attempt in range(1_000):
            name = f"torn/{segment_name(segment)}-{offset}.{attempt}"
            try:
                durable.create(self._folder / name, data)
            except FileExistsError:
                if (self._folder / name).read_bytes() == data:
                    return name  # from a recovery that did not get further
                continue
            except OSError:
                with contextlib.suppress(OSError):  # a part of it, on a disk that is full: the next try would leave another
                    (self._folder / name).unlink()
                raise
            return name
        raise LogIncident(self._folder.name, f"a thousand torn tails at {segment_name(segment)}, byte {offset}")

    def read_mark(self) -> Mark | None:
        return read_mark(self._folder)

    def write_mark(self, mark: Mark) -> None:
        os.pwrite(self._mark, mark.encode(), 0)

    def close(self) -> None:
        if self._open is not None:
            with contextlib.suppress(OSError):  # give back what was reserved; if that fails, it is only space
                os.ftruncate(self._open.fd, os.fstat(self._open.fd).st_size)
            os.close(self._open.fd)
            self._open = None

    def release(self) -> None:
        """Close the segment and let go of the lock."""
        self.close()
        os.close(self._mark)
        os.close(self._lock)

    def _current(self) -> _OpenSegment:
        if self._open is None:
            raise LogIncident(self._folder.name, "no segment is open")
        return self._open
