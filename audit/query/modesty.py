"""Asking and indexing must not slow the calls that are being recorded: they take the processor's time that nobody else wants, and
write to the disk a little at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from audit import durable

#: What is written to the disk at once: a record that is synced meanwhile waits for that much.
PIECE_BYTES = 64 << 10
#: How long the disk is left to others after a piece, for the time that the piece took.
_PAUSES = 4
_LOOK_S = 0.05


def be_modest() -> None:
    """Run only while no other process wants to, from now on.

    Linux's autogroups set that aside between sessions: processes of two terminals share a processor that both want by halves.
    So `serve` starts its processes in its own session, and a command from another terminal can be held off no further.
    """
    os.nice(19)
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:  # a container may forbid it; nice it is then
        return


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
