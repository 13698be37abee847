"""One writer after the other: two at once are refused, and the next goes on in the segment of the one before."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from audit import durable
from audit.commit import AuditLog, BlockingLog, LogPlace, Receipt
from audit.errors import CommitFailed, LogIncident, LogInUse
from audit.segments import is_being_written, list_segments
from tests.audit.commit.log_folder import failures, leaves, lines, names, opened, record
from tests.audit.commit.tampering import cut_a_line, cut_segment, remove_segment, replace_segment


async def test_two_writers_are_one_too_many(place: LogPlace) -> None:
    async with opened(place) as log:
        with pytest.raises(LogInUse):
            AuditLog(place, asyncio.get_running_loop())
        with pytest.raises(LogInUse):
            BlockingLog(place)
        assert is_being_written(place.folder)
        await log.commit(record("r"))
    with BlockingLog(place) as blocking:
        receipt = blocking.commit(record("r"))
    assert receipt == Receipt("w0", 1, leaves(place)[1])


def test_the_lock_is_the_kernels(place: LogPlace) -> None:
    """It goes with the process that held it, however that ended."""
    with (place.folder / "lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LogInUse):
            BlockingLog(place)
    BlockingLog(place).close()


# --- the segment of the writer before


@pytest.fixture
def now_us(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The clock: one number, to be changed."""
    clock = [1_800_000_000 * 1_000_000]
    monkeypatch.setattr("audit.commit._now_us", lambda: clock[0])
    yield clock


def segments(place: LogPlace) -> list[int]:
    return [segment.first_index for segment in list_segments(place.folder)]


def command(place: LogPlace, now_us: list[int]) -> None:
    with BlockingLog(place) as log:
        log.commit(record("r", time_us=now_us[0]))


def test_a_command_goes_on_in_the_segment_of_the_one_before_up_to_its_age(place: LogPlace, now_us: list[int]) -> None:
    for _ in range(121):
        command(place, now_us)
        now_us[0] += 60 * 1_000_000
    assert segments(place) == [0, 60, 120]
    assert len(lines(place)) == 121


def test_a_command_goes_on_in_the_segment_of_the_one_before_up_to_its_size(place: LogPlace, now_us: list[int]) -> None:
    small = replace(place, max_segment_bytes=4_096)
    for _ in range(60):
        command(small, now_us)
    sizes = [segment.path.stat().st_size for segment in list_segments(place.folder)]
    assert len(sizes) > 3
    assert all(4_096 <= size < 4_096 + 1_024 for size in sizes[:-1])
    assert len(lines(place)) == 60


async def test_a_worker_goes_on_in_the_segment_of_the_one_before(place: LogPlace, now_us: list[int]) -> None:
    for _ in range(3):
        async with opened(place) as log:
            await log.commit(record("r", time_us=now_us[0]))
            await log.commit(record("r", time_us=now_us[0]))
    assert segments(place) == [0]
    assert names(place) == ["r"] * 6


async def test_a_worker_whose_disk_failed_goes_on_in_a_new_segment_though_nothing_was_written(
    place: LogPlace, now_us: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with opened(place) as log:
        await log.commit(record("r", time_us=now_us[0]))
        with monkeypatch.context() as patched:
            patched.setattr(durable, "write_all", full)
            await failures([log.commit(record("lost", time_us=now_us[0]))])
        await log.recover()
        await log.commit(record("after", time_us=now_us[0]))
    assert segments(place) == [0, 1]
    assert names(place) == ["r", "after"], "there was nothing to recover"


@pytest.mark.parametrize("tamper", [remove_segment, replace_segment, cut_segment, cut_a_line])
def test_tampering_between_opening_and_going_on_is_noticed(
    place: LogPlace, now_us: list[int], tamper: Callable[[LogPlace], None]
) -> None:
    command(place, now_us)
    command(place, now_us)
    with BlockingLog(place) as log:
        tamper(place)
        before = [segment.path.read_bytes() for segment in list_segments(place.folder)]
        with pytest.raises(CommitFailed, match=r"vanished|bytes"):
            log.commit(record("r", time_us=now_us[0]))
        assert [segment.path.read_bytes() for segment in list_segments(place.folder)] == before
    with pytest.raises(LogIncident):
        BlockingLog(place)


def test_a_copy_in_the_place_of_a_segment_that_is_gone_on_in_is_noticed(place: LogPlace, now_us: list[int]) -> None:
    command(place, now_us)
    with BlockingLog(place) as log:
        log.commit(record("r", time_us=now_us[0]))
        (segment,) = list_segments(place.folder)
        copy = segment.path.with_name("copy")
        shutil.copy(segment.path, copy)
        copy.rename(segment.path)
        with pytest.raises(CommitFailed, match="replaced by another file"):
            log.commit(record("r", time_us=now_us[0]))


def test_space_that_was_reserved_is_given_back_by_whoever_goes_on(place: LogPlace, now_us: list[int]) -> None:
    log = BlockingLog(place)
    log.commit(record("r", time_us=now_us[0]))
    os.close(log._disk._open.fd)  # type: ignore[union-attr]  # killed: nothing is given back
    log._disk._open = None
    log.close()
    (segment,) = list_segments(place.folder)
    size = segment.path.stat().st_size
    if segment.path.stat().st_blocks * 512 < 8 << 20:
        pytest.skip("this file system does not reserve")
    command(place, now_us)
    assert segments(place) == [0]
    assert segment.path.stat().st_size == 2 * size
    assert segment.path.stat().st_blocks * 512 < 1 << 20
