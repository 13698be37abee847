"""What works beside calls yields the processor to them, writes a little at a time, and says what the disk refused."""

import errno
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit import durable
from audit.query import modesty
from audit.query.modesty import PIECE_BYTES, PULSE_S, read_through, trickling
from tests.conftest import EAGER

_MODEST = """
import os, threading
from audit.query.modesty import be_modest

be_modest()
be_modest()
[pulse] = [thread for thread in threading.enumerate() if thread.name == "pulse"]
for thread in threading.main_thread(), pulse:
    print(os.sched_getscheduler(thread.native_id), os.getpriority(os.PRIO_PROCESS, thread.native_id))
"""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The parts that were written out: (offset, size) each. They really are."""
    parts: list[tuple[int, int]] = []

    def write_out(fd: int, offset: int, size_bytes: int) -> bool:
        parts.append((offset, size_bytes))
        return really(fd, offset, size_bytes)

    really = durable.write_out
    monkeypatch.setattr(durable, "write_out", write_out)
    return parts


@pytest.mark.parametrize("size", [1, PIECE_BYTES - 1, PIECE_BYTES, 5 * PIECE_BYTES + 3])
def test_all_of_a_file_goes_out_piece_by_piece(tmp_path: Path, size: int, written: list[tuple[int, int]]) -> None:
    path = tmp_path / "file"
    with trickling(path):
        path.write_bytes(bytes(size))
    assert written == [(offset, PIECE_BYTES) for offset in range(0, size, PIECE_BYTES)]


def test_what_is_there_already_goes_out_while_more_is_written(tmp_path: Path, written: list[tuple[int, int]]) -> None:
    path = tmp_path / "file"
    with path.open("wb", buffering=0) as file, trickling(path):
        file.write(bytes(2 * PIECE_BYTES + 1))
        while len(written) < 2:
            os.sched_yield()
        file.write(bytes(PIECE_BYTES))
    assert written == [(number * PIECE_BYTES, PIECE_BYTES) for number in range(4)]


def test_what_the_disk_refused_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, size_bytes: int) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "write_out", refuse)
    with pytest.raises(OSError, match="Input/output error"), trickling(tmp_path / "file"):
        (tmp_path / "file").write_bytes(b"x")


def test_a_writer_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), trickling(tmp_path / "never made"):
        raise ZeroDivisionError


def test_where_the_system_cannot_it_is_left_to_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cannot(fd: int, offset: int, size_bytes: int) -> bool:
        asked.append(offset)
        return False

    monkeypatch.setattr(durable, "write_out", cannot)
    with trickling(tmp_path / "file"):
        (tmp_path / "file").write_bytes(bytes(3 * PIECE_BYTES))
    assert asked == [0]


def test_a_stream_cannot_be_written_out_and_a_closed_file_is_an_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    assert not durable.write_out(writing, 0, 1)
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        durable.write_out(writing, 0, 1)


def test_a_modest_process_has_a_thread_that_is_not() -> None:
    steps_back = os.environ | {"PYTHONPATH": os.environ["PYTHONPATH"].replace(EAGER, "")}
    ran = subprocess.run([sys.executable, "-c", _MODEST], capture_output=True, text=True, timeout=60, check=True, env=steps_back)
    assert ran.stdout.splitlines() == [f"{os.SCHED_IDLE} 19", f"{os.SCHED_OTHER} {os.getpriority(os.PRIO_PROCESS, 0)}"]


def test_it_pulses_while_the_process_works_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """At rest, then at work for two looks, then at rest."""
    worked: Iterator[float] = iter((0.0, 0.0, 0.1, 0.2, 0.2, 0.2))
    slept: list[float] = []

    class Ended(Exception):
        pass

    def worked_s() -> float:
        try:
            return next(worked)
        except StopIteration:
            raise Ended from None

    monkeypatch.setattr(modesty, "_worked_s", worked_s)
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(Ended):
        modesty._pulse()
    pulses = [second for second in slept if second == PULSE_S]
    at_work = slept.index(PULSE_S)
    assert len(pulses) == 100 and slept[at_work : at_work + 100] == pulses
    assert len(slept) == 100 + 4  # the rests: two before, and two behind


PAGES = bytes(range(160)) * 256  # ten of 4 KiB


def is_cached(fd: int, offset: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[int]:
    """A file of ten pages, none of them in the page cache, but where the file system is in memory itself."""
    path = tmp_path / "file"
    path.write_bytes(PAGES)
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    yield fd
    os.close(fd)


def test_what_came_from_the_disk_does_not_stay_in_the_page_cache(on_disk: int) -> None:
    """What can be dropped is: all pages, or none, as the file system is."""
    before = [is_cached(on_disk, 4_096 * page) for page in range(10)]
    assert read_through(on_disk, 40_960, 0) == PAGES
    assert [is_cached(on_disk, 4_096 * page) for page in range(10)] == before
    assert read_through(on_disk, 5_000, 10_000) == PAGES[10_000:15_000]


def test_the_pages_that_were_read_are_dropped_and_no_others(on_disk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_away(*_: object) -> int:
        raise BlockingIOError

    dropped: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "preadv", is_away)
    monkeypatch.setattr(os, "posix_fadvise", lambda *advice: dropped.append(advice))
    assert read_through(on_disk, 100, mmap.PAGESIZE + 50) == PAGES[mmap.PAGESIZE + 50 :][:100]
    assert read_through(on_disk, 100, len(PAGES)) == b""
    assert dropped == [(on_disk, mmap.PAGESIZE, 150, os.POSIX_FADV_DONTNEED)]


def test_what_was_in_the_page_cache_stays(on_disk: int) -> None:
    os.pread(on_disk, 40_960, 0)
    assert read_through(on_disk, 40_960, 0) == PAGES
    assert all(is_cached(on_disk, 4_096 * page) for page in range(10))


def test_at_the_end_of_a_file_nothing_is_read_and_nothing_dropped(on_disk: int) -> None:
    os.pread(on_disk, 40_960, 0)
    assert read_through(on_disk, 0, 40_960) == read_through(on_disk, 100, 40_960) == read_through(on_disk, 0, 0) == b""
    assert is_cached(on_disk, 0) and is_cached(on_disk, 40_959)


def test_where_the_system_cannot_tell_what_is_in_the_page_cache_it_stays(on_disk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", cannot)
        assert read_through(on_disk, 40_960, 0) == PAGES
    assert all(is_cached(on_disk, 4_096 * page) for page in range(10))
