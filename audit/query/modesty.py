"""Asking and indexing must not slow the calls that are being recorded: they take the processor's time that nobody else wants,
write to the disk a little at a time, and leave the page cache as it was."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from audit import durable

#: What is written to the disk at once: a record that is synced meanwhile waits for that much.
PIECE_BYTES = 64 << 10
#: How long the disk is left to others after a piece, for the time that the piece took.
_PAUSES = 4
_LOOK_S = 0.05

#: How long a modest process can keep a processor from a call: see `_pulse`.
PULSE_S = 0.001
_PULSES = 50  # between two looks at whether the process still works
_REST_S = 0.1
_WORK_S = 0.0005  # between two looks: little, since it gets little where others want the processor


def be_modest() -> None:
    """Run only while no other process wants to, from now on: this thread, and those that it starts.

    Linux's autogroups set that aside between sessions: processes of two terminals share a processor that both want by halves.
    So `serve` starts its processes in its own session, and a command from another terminal can be held off no further.
    """
    _begin_to_pulse()
    os.nice(19)
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:  # a container may forbid it; nice it is then
        return


@cache
def _begin_to_pulse() -> None:
    """Once a process, by a thread that is not modest yet: what it starts keeps its priority."""
    threading.Thread(target=_pulse, name="pulse", daemon=True).start()


def _pulse() -> None:
    """While the process works, wake every millisecond, and sleep again.

    Whoever is woken takes the processor from an idle thread at once. But where a thread of the proxy is woken by another one, and
    that one goes to sleep then, Linux may choose the idle thread instead, which waited longer, and looks again no sooner than at
    its next tick: up to 4 ms later, at 250 Hz. This thread wakes in between, and so has it look.
    """
    before = _worked_s()
    while True:
        time.sleep(_REST_S)
        while (worked := _worked_s()) - before > _WORK_S:
            before = worked
            for _ in range(_PULSES):
                time.sleep(PULSE_S)
        before = worked


def _worked_s() -> float:
    """Seconds of a processor that the process has had, without this thread."""
    return time.process_time() - time.thread_time()


def read_through(fd: int, size_bytes: int, offset: int) -> bytes:
    """As `os.pread`; what had to come from the disk for it does not stay in the page cache, what was there does.

    Who reads a whole log that is larger than memory has no use for it there, and others have for what it would take the place of.
    """
    is_kept = _is_cached(fd, offset + size_bytes - 1)
    data = os.pread(fd, size_bytes, offset)
    if data and not is_kept:
        start = offset - offset % mmap.PAGESIZE
        os.posix_fadvise(fd, start, offset + len(data) - start, os.POSIX_FADV_DONTNEED)
    return data


def _is_cached(fd: int, offset: int) -> bool:
    """Whether the byte there can be had without the disk; also where the file system cannot tell."""
    try:
        os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def trickling(path: Path) -> Iterator[None]:
    """What is appended to the new file `path` meanwhile goes to the disk piece by piece, and has gone there when this ends.

    Left to the kernel, it would go at once, when its writer syncs it or when enough has gathered; and whoever syncs a few bytes
    then waits for all of it. Durable it is only after a sync. Raises OSError where the disk did not take it.
    """
    ended = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="trickle") as pool:
        trickled = pool.submit(_trickle, path, ended)
        try:
            yield
        finally:
            ended.set()
        trickled.result()


def _trickle(path: Path, ended: threading.Event) -> None:
    while not path.exists() and not ended.wait(_LOOK_S):
        pass
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # its writer failed
        return
    try:
        place = 0
        while True:
            is_whole = ended.is_set()  # asked first: it is no longer written to
            size = os.fstat(fd).st_size
            while place + PIECE_BYTES <= size or (is_whole and place < size):
                began = time.monotonic()
                if not durable.write_out(fd, place, PIECE_BYTES):
                    return  # a sync it is then, of all at once
                place += PIECE_BYTES
                time.sleep(_PAUSES * (time.monotonic() - began))
            if is_whole:
                return
            ended.wait(_LOOK_S)
    finally:
        os.close(fd)
