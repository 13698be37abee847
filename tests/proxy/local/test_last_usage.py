"""GetKeyLastUsage tells what the records of the log tell, also after a crash, and says since when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any  # members of answers: JSON values, as in `proxy.domain.Members`

import pytest
from botocore.session import get_session

from audit.commit import BlockingLog, LogPlace, Receipt, records_from
from audit.record import AuditRecord, Phase, Resource, UserIdentity
from audit.segments import create_log
from proxy.backends.local.last_uses import TRACKED
from proxy.sealed_store import StoreFailed
from proxy.uses import UseKeeper
from tests.proxy.local.world import ACCOUNT, REGION, START_S, World, arn_of, call

START_US = int(START_S * 1_000_000)


def record(operation: str, *arns: str, at_s: float = 0, error: str | None = None) -> AuditRecord:
    return AuditRecord(
        time_us=START_US + int(at_s * 1_000_000),
        event_id=f"event-{operation}-{at_s}",
        request_id=f"request-{operation}-{at_s}",
        event_name=operation,
        identity=UserIdentity("IAMUser"),
        aws_region=REGION,
        source_ip="192.0.2.1",
        error_code=error,
        resources=tuple(Resource(arn, ACCOUNT) for arn in arns),
    )


class Worker:
    """A worker's uses, and the log that they are in."""

    def __init__(self, world: World, log: list[AuditRecord] | None = None, name: str = "w0") -> None:
        self.world = world
        self.log = [] if log is None else log
        self.uses = world.backend._around.uses
        self.read: list[int] = []
        self.keeper = UseKeeper(self.uses, world.store, name, len(self.log), self._read_from)

    def _read_from(self, first: int) -> Iterable[AuditRecord]:
        self.read.append(first)
        return self.log[first:]

    def use(self, *records: AuditRecord) -> None:
        for one in records:
            self.log.append(one)
            self.uses.note(one, Receipt("w0", len(self.log) - 1, bytes(32)))

    def start(self, now_s: float = START_S) -> None:
        asyncio.run(self.keeper.catch_up(now_s))

    def save(self) -> None:
        asyncio.run(self.keeper.save())


def last(world: World, key: str, region: str = REGION) -> dict[str, Any]:
    found: dict[str, Any] = world("GetKeyLastUsage", region, KeyId=key)["KeyLastUsage"]
    return found


@pytest.fixture
def workers(pair: tuple[World, World]) -> Iterator[tuple[Worker, Worker]]:
    one, other = Worker(pair[0]), Worker(pair[1], name="w1")
    one.start()
    other.start()
    yield one, other


def test_what_is_tracked_is_what_the_service_model_says() -> None:
    shape = get_session().get_service_model("kms").shape_for("KeyLastUsageTrackingOperation")
    assert set(getattr(shape, "enum")) == TRACKED  # noqa: B009 - botocore has no types for the kinds of shapes


def test_a_key_that_was_never_used(world: World) -> None:
    Worker(world).start(START_S - 100)
    key = world.new_key()
    assert world("GetKeyLastUsage", KeyId=arn_of(key)) == {
        "KeyId": key,
        "KeyLastUsage": {},
        "KeyCreationDate": START_S,
        "TrackingStartDate": START_S,
    }


def test_a_key_that_is_older_than_the_tracking(world: World) -> None:
    key = world.new_key()
    Worker(world).start(START_S + 100)
    Worker(world).start(START_S + 200)
    answer = world("GetKeyLastUsage", KeyId=key)
    assert (answer["KeyCreationDate"], answer["TrackingStartDate"]) == (START_S, START_S + 100)


def test_the_last_successful_use_is_told(world: World) -> None:
    worker, key, other = Worker(world), world.new_key(), world.new_key()
    worker.start()
    worker.use(
        record("Encrypt", arn_of(key), at_s=1),
        record("Decrypt", arn_of(key), at_s=2),
        record("Decrypt", arn_of(key), at_s=3, error="DisabledException"),
        record("DescribeKey", arn_of(key), at_s=4),
        record("ReEncrypt", arn_of(other), arn_of(key), at_s=2.5),
    )
    told = {
        "Operation": "ReEncrypt",
        "Timestamp": START_S + 2.5,
        "CloudTrailEventId": "event-ReEncrypt-2.5",
        "KmsRequestId": "request-ReEncrypt-2.5",
    }
    assert last(world, key) == last(world, other) == told
    worker.save()
    assert last(world, key) == last(world, other) == told


def test_workers_tell_each_other_and_the_later_use_stays(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    key = one.world.new_key()
    one.use(record("Encrypt", arn_of(key), at_s=2))
    other.use(record("Decrypt", arn_of(key), at_s=1))
    assert (last(one.world, key)["Operation"], last(other.world, key)["Operation"]) == ("Encrypt", "Decrypt")
    one.save()
    other.save()
    assert last(one.world, key)["Operation"] == last(other.world, key)["Operation"] == "Encrypt"


def test_after_a_crash_what_was_not_saved_is_read_from_the_log(world: World) -> None:
    key, log = world.new_key(), [record("Encrypt", arn_of(world.new_key()))] * 5
    before = Worker(world, log)
    before.start()
    assert before.read == []  # what is older than the tracking is not read
    before.use(record("Sign", arn_of(key), at_s=1))
    before.save()
    before.save()
    before.use(record("Decrypt", arn_of(key), at_s=2))
    again = World(world.path, world.clock)
    after = Worker(again, log)
    after.start()
    assert len(after.read) == 1 and 5 <= after.read[0] <= 7
    assert last(again, key)["Operation"] == "Decrypt"
    again.close()
    assert last(world, key)["Operation"] == "Decrypt"


def test_after_a_clean_stop_nothing_is_read_again(world: World) -> None:
    key, log = world.new_key(), [record("DescribeKey")]
    before = Worker(world, log)
    before.start()
    before.use(record("Encrypt", arn_of(key)), record("DescribeKey", arn_of(key)))
    asyncio.run(before.keeper.finish())
    after = Worker(world, log)
    after.start()
    assert after.read == [] and last(world, key)["Operation"] == "Encrypt"


def test_what_could_not_be_saved_is_saved_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, key = Worker(world), world.new_key()
    worker.start()
    worker.use(record("Encrypt", arn_of(key)))
    with monkeypatch.context() as patched:
        patched.setattr(world.store, "change", lambda: (_ for _ in ()).throw(StoreFailed("disk full")))
        with pytest.raises(StoreFailed):
            worker.save()
    worker.use(record("Decrypt", arn_of(key), at_s=1))
    worker.save()
    assert last(world, key)["Operation"] == "Decrypt"


def test_a_question_waits_for_what_a_crash_left(world: World) -> None:
    key, log = world.new_key(), [record("DescribeKey")]
    Worker(world, log).start()
    log.append(record("Encrypt", arn_of(key)))
    worker = Worker(world, log)

    async def main() -> dict[str, Any]:
        stop = asyncio.Event()
        keeping = asyncio.create_task(worker.keeper.keep(stop, START_S))
        await asyncio.sleep(0)
        assert worker.uses.catching_up is not None
        found: dict[str, Any] = (await world.backend.call(call("GetKeyLastUsage", KeyId=key))).members["KeyLastUsage"]
        stop.set()
        await keeping
        return found

    assert asyncio.run(main())["Operation"] == "Encrypt"
    assert worker.uses.catching_up is None


def test_a_deleted_keys_use_goes_with_it(world: World) -> None:
    worker, key = Worker(world), world.new_key()
    worker.start()
    worker.use(record("Encrypt", arn_of(key)))
    worker.save()
    worker.use(record("Decrypt", arn_of(key), at_s=1))
    world("ScheduleKeyDeletion", KeyId=key)
    assert last(world, key)["Operation"] == "Decrypt"  # in every state
    world.clock.now_s += 30 * 86_400
    world.carry_out(world.due()[0])
    worker.save()
    assert world.store.changes_since(0, ("last-use",)).entries == ()
    assert world.refused("GetKeyLastUsage", KeyId=key).code == "NotFoundException"


def test_primary_and_replica_are_told_apart(world: World) -> None:
    worker, key = Worker(world), world.new_key(MultiRegion=True)
    worker.start()
    world("ReplicateKey", KeyId=key, ReplicaRegion="eu-west-1")
    worker.use(record("Encrypt", arn_of(key, "eu-west-1")))
    worker.save()
    assert last(world, key) == {} and last(world, key, "eu-west-1")["Operation"] == "Encrypt"


def test_no_aliases(world: World) -> None:
    assert world.refused("GetKeyLastUsage", KeyId="alias/a").code == "InvalidArnException"


@pytest.mark.parametrize("first", [0, 1, 4, 5, 9, 10, 11])
def test_records_are_read_back_from_any_of_them(tmp_path: Path, first: int) -> None:
    create_log(tmp_path / "w0")
    written = [record("Encrypt", arn_of("k"), at_s=number) for number in range(10)]
    with BlockingLog(LogPlace(tmp_path / "w0", tmp_path, REGION, ACCOUNT, max_segment_bytes=2_000)) as log:
        for one in written:
            log.commit(one)
    segments = sorted((tmp_path / "w0").glob("*.jsonl"))
    assert len(segments) > 2
    assert list(records_from(tmp_path / "w0", first)) == written[first:]
    with segments[-1].open("ab") as file:
        file.write(b'{"torn": ')
    assert list(records_from(tmp_path / "w0", first)) == written[first:]


def test_a_line_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    create_log(tmp_path / "w0")
    with BlockingLog(LogPlace(tmp_path / "w0", tmp_path, REGION, ACCOUNT)) as log:
        for number in range(3):
            log.commit(replace(record("Encrypt", at_s=number), phase=Phase.OUTCOME))
    [segment] = (tmp_path / "w0").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(lines[0] + b"not json\n" + lines[2])
    assert [one.time_us for one in records_from(tmp_path / "w0", 0)] == [START_US, START_US + 2_000_000]
