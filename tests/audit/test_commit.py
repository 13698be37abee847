"""The log of a worker on a real folder: group commit, a disk that fails, a folder that is tampered with, a disk that is full."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit import canonical, durable
from audit.commit import AuditLog, BlockingLog, Known, LogPlace, Receipt
from audit.errors import CommitFailed, LogIncident, LogInUse, RecordRejected
from audit.log import Mark
from audit.merkle import leaf_hash
from audit.record import AuditRecord, Effect, Phase, Resource, UserIdentity
from audit.segments import create_log, is_being_written, list_segments, read_mark

LIMIT_S = 20.0


def is_healthy(log: AuditLog) -> bool:
    return log.fault is None


def record(
    name: str,
    *,
    phase: Phase = Phase.OUTCOME,
    event_id: str = "e",
    intent_id: str | None = None,
    size: int = 0,
    time_us: int = 1_767_323_045_000_006,
) -> AuditRecord:
    return AuditRecord(
        time_us=time_us,
        event_id=event_id,
        event_name=name,
        identity=UserIdentity("IAMUser"),
        aws_region="us-east-1",
        source_ip="192.0.2.1",
        phase=phase,
        intent_id=intent_id,
        request_parameters={"description": "x" * size} if size else None,
    )


@pytest.fixture
def place(tmp_path: Path) -> LogPlace:
    create_log(tmp_path / "w0")
    (tmp_path / "checkpoints").mkdir()
    return LogPlace(tmp_path / "w0", tmp_path / "checkpoints", "us-east-1", "111122223333")


@asynccontextmanager
async def opened(place: LogPlace) -> AsyncIterator[AuditLog]:
    log = AuditLog(place, asyncio.get_running_loop())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield log
    finally:
        await log.close()


def lines(place: LogPlace) -> list[dict[str, Any]]:  # Any: JSON
    """Every record, parsed; fails unless they are numbered densely and segments are named by their first."""
    found: list[dict[str, Any]] = []
    for segment in list_segments(place.folder):
        assert segment.first_index == len(found)
        data = segment.path.read_bytes()
        assert not data or data.endswith(b"\n")
        found += [orjson.loads(line) for line in data.splitlines()]
    assert [line["additionalEventData"]["keytrail"]["sequence"] for line in found] == list(range(len(found)))
    return found


def leaves(place: LogPlace) -> list[bytes]:
    """The leaf hash of each line in the log, in order."""
    data = b"".join(segment.path.read_bytes() for segment in list_segments(place.folder))
    return [leaf_hash(line) for line in data.split(b"\n")[:-1]]


def names(place: LogPlace) -> list[str]:
    return [line["eventName"] for line in lines(place)]


class Disk:
    """`os` as `audit.segments` sees it: counts fdatasync, and can hold it, or make it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.fails = False
        self.free = threading.Event()
        self.free.set()
        real = os.fdatasync

        def fdatasync(fd: int) -> None:
            self.syncs += 1
            self.free.wait(LIMIT_S)
            if self.fails:
                raise OSError(5, "Input/output error")
            real(fd)

        monkeypatch.setattr(os, "fdatasync", fdatasync)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


# --- group commit


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


# --- a disk that fails


async def failures(futures: list[asyncio.Future[Receipt]]) -> list[str]:
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(result, CommitFailed) for result in results), results
    return [str(result) for result in results]


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


# --- a folder that is tampered with


def remove_folder(place: LogPlace) -> None:
    shutil.rmtree(place.folder)


def remove_segment(place: LogPlace) -> None:
    list_segments(place.folder)[-1].path.unlink()


def replace_segment(place: LogPlace) -> None:
    path = list_segments(place.folder)[-1].path
    path.unlink()
    path.touch()


def cut_segment(place: LogPlace) -> None:
    os.truncate(list_segments(place.folder)[-1].path, 0)


def cut_a_line(place: LogPlace) -> None:
    path = list_segments(place.folder)[-1].path
    os.truncate(path, path.read_bytes()[:-1].rindex(b"\n") + 1)


@pytest.mark.parametrize("tamper", [remove_folder, remove_segment, replace_segment, cut_segment, cut_a_line])
@pytest.mark.parametrize("records", [1, 2, 7])
async def test_tampering_is_noticed_at_the_next_commit_and_stays_an_incident(
    place: LogPlace, tamper: Callable[[LogPlace], None], records: int
) -> None:
    async with opened(place) as log:
        for _ in range(records):
            await log.commit(record("acknowledged"))
        if tamper is cut_a_line and records == 1:
            return
        tamper(place)
        await failures([log.commit(record("acknowledged"))])
        for _ in range(2):
            with pytest.raises(LogIncident):
                await log.recover()
            assert not is_healthy(log)
        assert place.folder.exists() is (tamper is not remove_folder), "what had vanished was made anew"
    with pytest.raises(LogIncident):
        AuditLog(place, asyncio.get_running_loop())


async def test_a_log_shorter_than_its_newest_checkpoint_is_an_incident(place: LogPlace) -> None:
    note = "keytrail/0/w0\n%d\nroot\n\n— keytrail/0/w0 signature\n"
    async with opened(place) as log:
        await log.commit(record("r"))
    (place.checkpoints / "history").write_text(note % 1)
    async with opened(place):
        pass
    (place.checkpoints / "history").write_text(note % 1 + "\n" + note % 2)
    with pytest.raises(LogIncident, match="2 were signed"):
        AuditLog(place, asyncio.get_running_loop())
    (place.checkpoints / "history").write_text(note % 1 + "\n" + (note % 2)[:-12])  # torn: never published
    async with opened(place):
        pass


async def test_what_the_sealer_derives_may_be_empty_after_a_power_cut(place: LogPlace) -> None:
    (place.checkpoints / "latest").write_bytes(b"")
    (place.checkpoints / "history").write_bytes(b"")
    async with opened(place) as log:
        await log.commit(record("r"))


@pytest.mark.parametrize("data", [None, b"", b"damaged", Mark(1, 0, 1, 0).encode()[:-5]])
async def test_a_missing_or_damaged_mark_costs_time_only(place: LogPlace, data: bytes | None) -> None:
    async with opened(place) as log:
        for _ in range(3):
            await log.commit(record("r"))
    if data is None:
        (place.folder / "mark").unlink()
    else:
        (place.folder / "mark").write_bytes(data)
    async with opened(place) as log:
        await log.commit(record("after"))
    found = names(place)
    assert found[:3] == ["r"] * 3 and found[-1] == "after"
    mark = read_mark(place.folder)
    assert mark is not None and mark.records == len(found)


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


# --- what the next start finds


async def test_an_intent_without_an_outcome_is_closed_by_the_next_start(place: LogPlace) -> None:
    async with opened(place) as log:
        await log.commit(record("CreateKey", phase=Phase.INTENT, event_id="intent-1"))
        await log.commit(record("CreateKey", phase=Phase.INTENT, event_id="intent-2"))
        await log.commit(record("CreateKey", intent_id="intent-1"))
    async with opened(place):
        pass
    async with opened(place):
        pass
    found = lines(place)
    assert names(place) == ["CreateKey"] * 3 + ["RecoverLog", "CreateKey"]
    unknown = canonical.decode(orjson.dumps(found[-1]))
    assert (unknown.phase, unknown.intent_id) == (Phase.UNKNOWN, "intent-2")
    assert "unknown" in (unknown.error_message or "")
    assert found[3]["serviceEventDetails"] == {"unconfirmedRecords": 0, "tornTails": [], "unknownOutcomes": 1}


@pytest.mark.parametrize("torn", [b"{", b'{"eventVersion":"1.11"}', b"\0" * 100, b"\xff\n"])
async def test_a_torn_tail_is_kept_aside_and_recorded_by_the_next_start(place: LogPlace, torn: bytes) -> None:
    async with opened(place) as log:
        await log.commit(record("r"))
    path = list_segments(place.folder)[-1].path
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(torn)
    async with opened(place) as log:
        await log.commit(record("after"))
    assert names(place) == ["r", "RecoverLog", "after"]
    (tail,) = lines(place)[1]["serviceEventDetails"]["tornTails"]
    assert (tail["segment"], tail["offset"], tail["sizeBytes"]) == (path.name, size, len(torn))
    assert (place.folder / tail["movedTo"]).read_bytes() == torn


async def test_a_clean_stop_leaves_nothing_to_say(place: LogPlace) -> None:
    for _ in range(3):
        async with opened(place) as log:
            await log.commit(record("r"))
    assert names(place) == ["r"] * 3


async def test_a_line_that_cannot_be_read_is_an_incident(place: LogPlace) -> None:
    async with opened(place) as log:
        await log.commit(record("CreateKey", phase=Phase.INTENT, event_id="i"))
    path = list_segments(place.folder)[-1].path
    path.write_bytes(path.read_bytes().replace(b'"eventName"', b'"eventNeme"'))
    with pytest.raises(LogIncident, match="cannot be read"):
        AuditLog(place, asyncio.get_running_loop())
    assert not is_being_written(place.folder)


async def test_a_torn_tail_that_does_not_fit_leaves_no_pieces(place: LogPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(place) as log:
        await log.commit(record("r"))
    with list_segments(place.folder)[-1].path.open("ab") as file:
        file.write(b"torn")

    def full(fd: int, data: bytes) -> None:
        os.write(fd, data[:2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write_all", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                AuditLog(place, asyncio.get_running_loop())
    assert os.listdir(place.folder / "torn") == []
    async with opened(place):
        pass
    assert len(os.listdir(place.folder / "torn")) == 1


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


def test_the_lock_is_the_kernels(place: LogPlace) -> None:
    """It goes with the process that held it, however that ended."""
    with (place.folder / "lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LogInUse):
            BlockingLog(place)
    BlockingLog(place).close()


KNOWN = {
    "made": Known(Effect.MADE, (Resource("arn:aws:kms:us-east-1:111122223333:key/k", "111122223333"),)),
    "made, with a grant": Known(Effect.MADE, grant_id="a" * 64),
    "not made": Known(Effect.NONE),
    "not known": None,
}


@pytest.mark.parametrize("what", KNOWN)
def test_recovery_tells_what_is_known_of_a_lost_outcome(place: LogPlace, what: str) -> None:
    with BlockingLog(place) as log:
        log.commit(record("CreateKey", phase=Phase.INTENT, event_id="i"))
    with BlockingLog(place, effect_of=lambda intent: KNOWN[what] if intent.event_id == "i" else None):
        pass
    told, known = lines(place)[-1], KNOWN[what]
    extension = told["additionalEventData"]["keytrail"]
    assert (extension["phase"], extension["intent"], told["errorCode"]) == ("unknown", "i", "KMSInternalException")
    assert extension.get("effect") == (None if known is None else known.effect.value)
    assert [resource["ARN"] for resource in told["resources"]] == [one.arn for one in (known.resources if known else ())]
    assert told["responseElements"] == (None if known is None or known.grant_id is None else {"grantId": known.grant_id})


@pytest.mark.parametrize("what", KNOWN)
async def test_a_log_that_its_own_process_recovers_does_not_say_that_a_change_was_not_made(place: LogPlace, what: str) -> None:
    """The call may be under way still, and make it afterwards."""
    log = AuditLog(place, asyncio.get_running_loop(), lambda intent: KNOWN[what])
    await log.commit(record("CreateKey", phase=Phase.INTENT, event_id="i"))
    await log.recover()
    await log.close()
    extension = lines(place)[-1]["additionalEventData"]["keytrail"]
    assert extension["phase"] == "unknown"
    assert extension.get("effect") == ("made" if what.startswith("made") else None)
