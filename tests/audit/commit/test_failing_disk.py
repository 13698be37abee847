"""A disk that fails, or is full: every waiter is told, nothing is synced again, and recovery loses nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from audit.commit import AuditLog, LogPlace, Receipt
from audit.errors import CommitFailed, LogIncident
from audit.segments import create_log, list_segments
from tests.audit.commit.log_folder import Disk, failures, is_healthy, lines, names, opened, record


async def test_a_failed_sync_fails_every_waiter_and_poisons_the_log(place: LogPlace, disk: Disk) -> None:
    async with opened(place) as log:
        await log.commit(record("acknowledged"))
        disk.free.clear()
        disk.fails = True
        futures = [log.commit(record("lost")) for _ in range(5)]
        await asyncio.sleep(0)
        futures += [log.commit(record("behind")) for _ in range(5)]
        disk.free.set()
        assert all("Input/output error" in text for text in await failures(futures))
        assert log.fault is not None and "Input/output error" in log.fault
        syncs = disk.syncs
        with pytest.raises(CommitFailed, match="Input/output"):
            log.commit(record("refused"))
        assert disk.syncs == syncs == 2, "the failed segment was synced again"


async def test_recovery_goes_on_in_a_new_segment_and_loses_nothing(place: LogPlace, disk: Disk) -> None:
    async with opened(place) as log:
        await log.commit(record("acknowledged"))
        disk.fails = True
        await failures([log.commit(record("unconfirmed"))])
        with pytest.raises(CommitFailed):  # the disk still fails: recovery has something to say, and cannot
            await log.recover()
        assert not is_healthy(log)
        disk.fails = False
        await log.recover()
        assert is_healthy(log)
        receipt = await log.commit(record("after"))
    found = lines(place)
    assert names(place) == ["acknowledged", "unconfirmed", "RecoverLog", "RecoverLog", "after"][-len(found) :]
    assert found[0]["eventName"] == "acknowledged" and found[-1]["eventName"] == "after"
    assert receipt.sequence == len(found) - 1
    assert found[2]["serviceEventDetails"]["unconfirmedRecords"] == 1
    assert len(list_segments(place.folder)) >= 2


async def test_a_fault_of_ours_in_the_writer_leaves_nobody_waiting(place: LogPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(place) as log:

        def broken(*_: object) -> None:
            raise ZeroDivisionError("a bug")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", broken)
            (text,) = await failures([log.commit(record("r"))])
        assert "a bug" in text
        assert not is_healthy(log)
        await log.recover()
        await log.commit(record("after"))


async def test_calls_go_on_while_recovery_fails_again_and_again(place: LogPlace, disk: Disk) -> None:
    """Each try lets go of what it had opened."""
    async with opened(place) as log:
        disk.fails = True
        await failures([log.commit(record("r"))])
        before = len(os.listdir("/proc/self/fd"))
        shutil.move(place.folder, place.folder.with_name("away"))
        for _ in range(20):
            with pytest.raises(LogIncident):
                await log.recover()
        assert len(os.listdir("/proc/self/fd")) <= before
        shutil.move(place.folder.with_name("away"), place.folder)
        disk.fails = False
        await log.recover()
        await log.commit(record("after"))


# --- a real small disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_disk_that_fills_up_loses_nothing_and_is_recovered_when_there_is_room(small_disk: Path) -> None:
    create_log(small_disk / "w0")
    place = LogPlace(small_disk / "w0", small_disk, "us-east-1", "1", max_segment_bytes=16_384)
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * 96_000)
    acknowledged: list[int] = []

    async def fill(log: AuditLog) -> None:
        while True:
            batch = [log.commit(record("r", event_id=str(number), size=700)) for number in range(5)]
            for result in await asyncio.gather(*batch, return_exceptions=True):
                if isinstance(result, CommitFailed):
                    raise result
                assert isinstance(result, Receipt)
                acknowledged.append(result.sequence)

    async with opened(place) as log:
        with pytest.raises(CommitFailed, match="No space left"):
            await fill(log)
        assert len(acknowledged) > 50
        with pytest.raises((OSError, CommitFailed)):
            await log.recover()
        assert not is_healthy(log)
        filler.unlink()
        await log.recover()
        assert is_healthy(log)
        acknowledged.append((await log.commit(record("after"))).sequence)
    found = lines(place)
    assert all(before < after for before, after in pairwise(acknowledged))
    kept = {line["additionalEventData"]["keytrail"]["sequence"] for line in found if line["eventName"] in ("r", "after")}
    assert set(acknowledged) <= kept
    assert "RecoverLog" in names(place)
