"""Committing: a receipt comes when its record is durable, and one fdatasync is for all that wait."""

from __future__ import annotations

import asyncio

import pytest

from audit.commit import AuditLog, LogPlace, Receipt
from audit.errors import CommitFailed, RecordRejected
from audit.segments import is_being_written, list_segments, read_mark
from tests.audit.commit.log_folder import Disk, leaves, lines, names, opened, record


async def test_a_receipt_tells_the_place_and_comes_when_the_record_is_durable(place: LogPlace, disk: Disk) -> None:
    async with opened(place) as log:
        disk.free.clear()
        future = log.commit(record("first"))
        await asyncio.sleep(0)
        assert not future.done()
        disk.free.set()
        receipts = [await future, await log.commit(record("second"))]
    assert receipts == [Receipt("w0", number, leaf) for number, leaf in enumerate(leaves(place))]
    assert names(place) == ["first", "second"]
    mark = read_mark(place.folder)
    assert mark is not None and mark.records == 2


async def test_many_waiters_share_one_sync(place: LogPlace, disk: Disk) -> None:
    async with opened(place) as log:
        receipts = await asyncio.gather(*[log.commit(record(f"r{number}")) for number in range(500)])
        assert disk.syncs == 1
        assert [receipt.sequence for receipt in receipts] == list(range(500))
    assert names(place) == [f"r{number}" for number in range(500)]


async def test_a_batch_forms_while_the_disk_is_busy(place: LogPlace, disk: Disk) -> None:
    async with opened(place) as log:
        disk.free.clear()
        futures = [log.commit(record("first"))]
        for number in range(100):
            await asyncio.sleep(0)
            futures.append(log.commit(record(f"r{number}")))
        disk.free.set()
        await asyncio.gather(*futures)
        assert disk.syncs == 2
    assert len(lines(place)) == 101


async def test_segments_rotate_and_numbers_go_on(place: LogPlace) -> None:
    small = LogPlace(place.folder, place.checkpoints, "us-east-1", "1", max_segment_bytes=4_096)
    async with opened(small) as log:
        for number in range(60):
            assert (await log.commit(record("r"))).sequence == number
    assert len(list_segments(place.folder)) > 3
    assert len(lines(place)) == 60


async def test_a_waiter_that_has_gone_harms_nobody(place: LogPlace, disk: Disk) -> None:
    async with opened(place) as log:
        disk.free.clear()
        futures = [log.commit(record(f"r{number}")) for number in range(10)]
        for future in futures[::2]:
            future.cancel()
        disk.free.set()
        assert [(await future).sequence for future in futures[1::2]] == [1, 3, 5, 7, 9]
        assert (await log.commit(record("after"))).sequence == 10
    assert len(lines(place)) == 11


async def test_close_makes_durable_what_waits(place: LogPlace, disk: Disk) -> None:
    log = AuditLog(place, asyncio.get_running_loop())
    disk.free.clear()
    futures = [log.commit(record("r")) for _ in range(20)]
    await asyncio.sleep(0)
    futures += [log.commit(record("r")) for _ in range(20)]
    disk.free.set()
    await log.close()
    assert len(lines(place)) == 40
    assert [receipt.sequence for receipt in await asyncio.gather(*futures)] == list(range(40))
    with pytest.raises(CommitFailed, match="closed"):
        log.commit(record("late"))
    await log.close()
    assert not is_being_written(place.folder)


async def test_a_record_that_cannot_be_encoded_leaves_no_gap(place: LogPlace) -> None:
    async with opened(place) as log:
        bad = record("bad")
        bad.user_agent = b"bytes"  # type: ignore[assignment]
        with pytest.raises(RecordRejected):
            log.commit(bad)
        assert (await log.commit(record("good"))).sequence == 0
