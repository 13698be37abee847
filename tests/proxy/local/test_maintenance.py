"""Maintenance: what is due is recorded before and after it is done, by one of the workers; a crash between leaves no doubt."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit import canonical
from audit.commit import Known, Receipt
from audit.errors import CommitFailed
from audit.record import AuditRecord, Effect, Phase, Resource
from proxy.backends.local import backend, effects, maintenance
from proxy.backends.local.due import Due
from proxy.backends.local.grants import GRANT
from proxy.backends.local.keys import ALIAS, KEY
from proxy.backends.local.maintenance import Done, Intent
from proxy.clock import Clock, VirtualClock
from proxy.maintenance import Maintenance
from proxy.recording import Recorder
from proxy.sealed_store import StoreFailed
from tests.proxy.local.importing import import_material, new_external_key
from tests.proxy.local.policies import CAROL
from tests.proxy.local.world import ACCOUNT, REGION, START_S, World, arn_of

DAY_S = 86_400
NOW_US = 1_700_000_000_000_000


@dataclass
class Log:
    """Keeps what is committed; fails from the record on that `full_after` says. `on_commit` looks at the world meanwhile."""

    fault: str | None = None
    records: list[AuditRecord] = field(default_factory=list)
    full_after: int = 1_000
    on_commit: Callable[[AuditRecord], None] = lambda _: None

    def commit(self, record: AuditRecord) -> Awaitable[Receipt]:
        self.on_commit(record)
        future = asyncio.get_running_loop().create_future()
        if len(self.records) >= self.full_after:
            future.set_exception(CommitFailed("w0", "the disk is full"))
        else:
            self.records.append(record)
            future.set_result(Receipt("w0", len(self.records) - 1, bytes(32)))
        return future

    @property
    def told(self) -> list[tuple[str, Phase, str | None]]:
        return [(one.event_name, one.phase, one.error_code) for one in self.records]


@dataclass
class Worker:
    """The maintenance of one worker, on a world and a log."""

    world: World
    log: Log = field(default_factory=Log)
    clock: Clock | None = None
    now_us: int = NOW_US

    def __post_init__(self) -> None:
        ids = (f"event-{number}" for number in count())
        recorder = Recorder(ACCOUNT, REGION, "local", "clear", lambda: next(ids))
        turn = self.world.path.with_suffix(".turn")
        clock = self.clock or self.world.clock
        self.maintenance = Maintenance(self.world.backend, recorder, self.log, lambda: self.now_us, clock, turn)

    def run(self) -> None:
        asyncio.run(self.maintenance.run())

    def lines(self) -> list[dict[str, Any]]:  # Any: JSON
        return [orjson.loads(canonical.encode(record, "w0", place)) for place, record in enumerate(self.log.records)]


INTENT, OUTCOME = Phase.INTENT, Phase.OUTCOME


def test_nothing_is_recorded_where_nothing_is_due(world: World) -> None:
    world("ScheduleKeyDeletion", KeyId=world.new_key())
    world("EnableKeyRotation", KeyId=world.new_key())
    worker = Worker(world)
    worker.run()
    assert worker.log.records == [] and not worker.maintenance.busy


def test_a_scheduled_deletion_is_carried_out_and_recorded_as_cloudtrail_does(world: World) -> None:
    key = world.new_key()
    world("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    world("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    world.clock.now_s += 7 * DAY_S
    worker = Worker(world)
    worker.run()
    worker.run()
    intent, outcome = worker.lines()
    extension = outcome["additionalEventData"].pop("keytrail")
    assert outcome == {
        "eventVersion": "1.11",
        "userIdentity": {"type": "AWSService", "accountId": ACCOUNT, "invokedBy": "AWS Internal"},
        "eventTime": "2023-11-14T22:13:20Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": "DeleteKey",
        "awsRegion": REGION,
        "sourceIPAddress": "AWS Internal",
        "userAgent": "AWS Internal",
        "requestParameters": None,
        "responseElements": {"keyId": arn_of(key)},
        "additionalEventData": {},
        "eventID": "event-1",
        "readOnly": False,
        "resources": [{"accountId": ACCOUNT, "type": "AWS::KMS::Key", "ARN": arn_of(key)}],
        "eventType": "AwsServiceEvent",
        "managementEvent": True,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Management",
        "serviceEventDetails": {"keyId": key},
    }
    assert (extension["phase"], extension["intent"]) == ("outcome", "event-0")
    assert intent["responseElements"] is None and intent["additionalEventData"]["keytrail"]["phase"] == "intent"
    assert canonical.decode(canonical.encode(worker.log.records[1], "w0", 1)) == worker.log.records[1]


def test_a_deleted_key_leaves_no_material_alias_or_grant(world: World) -> None:
    key = world.new_key()
    world("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    world("ScheduleKeyDeletion", KeyId=key)
    world.clock.now_s += 30 * DAY_S
    Worker(world).run()
    changes = world.store.changes_since(0, (KEY, ALIAS, "grant"))
    assert changes.entries == ()
    with world.store.change() as tx:
        assert tx.get(KEY, REGION, key) is None and tx.count_children(ALIAS, REGION, key) == 0
    assert world.refused("DescribeKey", KeyId=key).message == f"Key '{arn_of(key)}' does not exist"
    stays = world.new_key()
    world("CreateAlias", AliasName="alias/a", TargetKeyId=stays)
    assert world("DescribeKey", KeyId="alias/a")["KeyMetadata"]["KeyId"] == stays


def test_the_intent_is_committed_before_anything_is_done(world: World) -> None:
    key = world.new_key()
    world("EnableKeyRotation", KeyId=key)
    world.clock.now_s += 365 * DAY_S
    seen: list[tuple[Phase, int]] = []

    def look(record: AuditRecord) -> None:
        with world.store.change() as tx:
            row = tx.get(KEY, REGION, key)
        assert row is not None
        seen.append((record.phase, len(row.body["materials"])))

    Worker(world, Log(on_commit=look)).run()
    assert seen == [(INTENT, 1), (OUTCOME, 2)]


def test_without_an_intent_nothing_is_done(world: World, caplog: pytest.LogCaptureFixture) -> None:
    key = world.new_key()
    world("ScheduleKeyDeletion", KeyId=key)
    world.clock.now_s += 30 * DAY_S
    with caplog.at_level(logging.ERROR):
        Worker(world, Log(full_after=0)).run()
    assert len(world.due()) == 1 and "the disk is full" in caplog.text
    Worker(world, Log(fault="poisoned")).run()
    assert len(world.due()) == 1
    worker = Worker(world)
    worker.run()
    assert worker.log.told == [("DeleteKey", INTENT, None), ("DeleteKey", OUTCOME, None)]


def test_after_a_crash_between_intent_and_effect_it_is_done_once(world: World) -> None:
    world("RotateKeyOnDemand", KeyId=world.new_key())
    Worker(world).run()  # since then it is known what was done
    key = world.new_key()
    world("EnableKeyRotation", KeyId=key)
    world.clock.now_s += 365 * DAY_S

    class Crash(BaseException):
        pass

    class Crashing:
        def due(self) -> Sequence[Due]:
            return world.due()

        async def carry_out(self, due: Due, intent: Intent) -> Done | None:
            raise Crash

    worker = Worker(world)
    worker.maintenance._keys = Crashing()
    with pytest.raises(Crash):
        worker.run()
    assert worker.log.told == [("RotateKey", INTENT, None)]
    lost = replace(worker.log.records[0], event_id="an id of its own")
    assert effects.known(world.store, lost) == Known(Effect.NONE)  # recovery says so
    after = Worker(world)
    after.run()
    after.run()
    assert after.log.told == [("RotateKey", INTENT, None), ("RotateKey", OUTCOME, None)]
    assert len(world("ListKeyRotations", KeyId=key)["Rotations"]) == 1


def test_after_a_crash_between_effect_and_outcome_it_is_not_done_again(world: World) -> None:
    key = world.new_key()
    world("EnableKeyRotation", KeyId=key)
    world.clock.now_s += 365 * DAY_S
    before = Worker(world, Log(full_after=1))
    before.run()
    [intent] = before.log.records
    assert effects.known(world.store, intent) == Known(Effect.MADE, (Resource(arn_of(key), ACCOUNT),))  # recovery says so
    after = Worker(world)
    after.run()
    assert after.log.records == []
    assert len(world("ListKeyRotations", KeyId=key)["Rotations"]) == 1


def test_the_worker_whose_turn_it_is_does_it(pair: tuple[World, World]) -> None:
    one, other = pair
    one("ScheduleKeyDeletion", KeyId=one.new_key())
    one.clock.now_s += 30 * DAY_S
    fd = os.open(one.path.with_suffix(".turn"), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    worker = Worker(other)
    worker.run()
    assert worker.log.records == []
    os.close(fd)
    worker.run()
    assert worker.log.told == [("DeleteKey", INTENT, None), ("DeleteKey", OUTCOME, None)]


def test_what_was_cancelled_meanwhile_is_not_done(world: World) -> None:
    key = world.new_key()
    world("ScheduleKeyDeletion", KeyId=key)
    world.clock.now_s += 30 * DAY_S

    def cancel(record: AuditRecord) -> None:
        with world.store.change() as tx:
            row = tx.get(KEY, REGION, key)
            assert row is not None
            if record.phase is INTENT:
                tx.put(KEY, REGION, key, {**row.body, "state": "Disabled", "deletion_s": None}, row.secret)

    worker = Worker(world, Log(on_commit=cancel))
    worker.run()
    assert worker.log.told == [("DeleteKey", INTENT, None), ("DeleteKey", OUTCOME, "KMSInvalidStateException")]
    assert worker.log.records[1].intent_id == worker.log.records[0].event_id
    assert world("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"


@pytest.mark.parametrize("fault", [StoreFailed("the key store failed: disk full"), ZeroDivisionError("ours")])
def test_what_fails_is_recorded_and_tried_again_after_a_minute(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    broken, whole = world.new_key(), world.new_key()
    for key in (broken, whole):
        world("ScheduleKeyDeletion", KeyId=key)
    world.clock.now_s += 30 * DAY_S
    carry_out = world.backend.carry_out

    async def failing(due: Due, intent: Intent) -> Done | None:
        if due.key_id == broken:
            raise fault
        return await carry_out(due, intent)

    worker = Worker(world)
    with monkeypatch.context() as patched:
        patched.setattr(world.backend, "carry_out", failing)
        worker.run()
        worker.run()
    assert sorted(worker.log.told, key=str) == sorted(
        [("DeleteKey", INTENT, None)] * 2 + [("DeleteKey", OUTCOME, "KMSInternalException"), ("DeleteKey", OUTCOME, None)],
        key=str,
    )
    worker.run()
    assert len(worker.log.records) == 4
    worker.now_us += 60_000_000
    worker.run()
    assert worker.log.told[4:] == [("DeleteKey", INTENT, None), ("DeleteKey", OUTCOME, None)]


def test_rotations_are_recorded(world: World) -> None:
    itself, on_demand = world.new_key(), world.new_key()
    world("EnableKeyRotation", KeyId=itself, RotationPeriodInDays=90)
    world.clock.now_s += 90 * DAY_S
    for _ in range(2):
        world("RotateKeyOnDemand", KeyId=on_demand)
    worker = Worker(world)
    worker.run()
    worker.run()
    assert {name for name, _, _ in worker.log.told} == {"RotateKey"} and len(worker.log.records) == 5
    details = [one.service_event_details for one in worker.log.records if one.phase is OUTCOME]
    kinds = {(one["keyId"], one["rotationType"], one["keyOrigin"]) for one in details if one is not None}
    assert kinds == {(itself, "AUTOMATIC", "AWS_KMS"), (on_demand, "ON_DEMAND", "AWS_KMS")}
    assert all(one is not None and one["previousKeyMaterialId"] != one["currentKeyMaterialId"] for one in details)
    closed = [one.intent_id for one in worker.log.records if one.phase is OUTCOME]
    opened = [one.event_id for one in worker.log.records if one.phase is INTENT]
    assert sorted(filter(None, closed)) == sorted(opened)


def test_an_expiry_is_recorded(world: World) -> None:
    key = new_external_key(world)
    material = import_material(world, key, bytes(32), ValidTo=START_S + 60)["KeyMaterialId"]
    world.clock.now_s += 60
    worker = Worker(world)
    worker.run()
    assert worker.log.told == [("DeleteExpiredKeyMaterial", INTENT, None), ("DeleteExpiredKeyMaterial", OUTCOME, None)]
    assert worker.log.records[1].service_event_details == {"keyId": key, "keyMaterialId": material}


def test_a_virtual_clock_is_told_at_first_and_whenever_it_was_moved(world: World, tmp_path: Path) -> None:
    file = tmp_path / "clock"
    file.write_text("100")
    worker = Worker(world, clock=VirtualClock(file))
    worker.run()
    worker.run()
    file.write_text("86500")
    worker.run()
    first, second = worker.lines()
    assert (first["eventName"], first["eventSource"], first["eventType"]) == ("SetVirtualClock", "keytrail", "AwsServiceEvent")
    assert [one["serviceEventDetails"] for one in (first, second)] == [{"offsetSeconds": 100.0}, {"offsetSeconds": 86500.0}]


def test_a_row_that_another_hand_changed_does_not_keep_the_others(world: World, caplog: pytest.LogCaptureFixture) -> None:
    broken, whole = world.new_key(), world.new_key()
    for key in (broken, whole):
        world("ScheduleKeyDeletion", KeyId=key)
    with sqlite3.connect(world.path) as other_hand:
        other_hand.execute("UPDATE entries SET sealed = zeroblob(length(sealed)) WHERE id = ?", (broken,))
    other_hand.close()
    again = World(world.path, world.clock)
    world.clock.now_s += 30 * DAY_S
    worker = Worker(again)
    with caplog.at_level(logging.ERROR):
        worker.run()
        worker.run()
    again.close()
    assert [one.resources[0].arn for one in worker.log.records] == [arn_of(whole)] * 2
    assert len([one for one in caplog.records if "nothing is done" in one.message]) == 1


def test_much_that_is_due_is_done_in_parts(world: World) -> None:
    keys = {world.new_key() for _ in range(101)}
    for key in keys:
        world("ScheduleKeyDeletion", KeyId=key)
    world.clock.now_s += 30 * DAY_S
    worker = Worker(world)
    worker.run()
    assert len(worker.log.records) == 200
    worker.run()
    told = [one.service_event_details for one in worker.log.records if one.phase is OUTCOME]
    assert {one["keyId"] for one in told if one is not None} == keys and len(told) == 101


# --- keys with many grants


def grants_at_once(world: World) -> list[int]:
    """How many grants each transaction deleted."""
    with sqlite3.connect(world.path) as connection:
        rows = connection.execute(
            "SELECT count(*) FROM entries WHERE kind = 'grant' AND deleted = 1 GROUP BY generation ORDER BY generation"
        ).fetchall()
    connection.close()
    return [number for (number,) in rows]


@pytest.fixture
def many_grants(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key with ten grants, whose waiting period has ended; three are deleted at once."""
    monkeypatch.setattr(backend, "GRANTS_AT_ONCE", 3)
    key = world.new_key()
    grant: dict[str, Any] = {
        "GranteePrincipal": CAROL.arn,
        "RetiringPrincipal": CAROL.arn,
        "Operations": ["Encrypt", "RetireGrant"],
    }
    for _ in range(10):
        world("CreateGrant", KeyId=key, **grant)
    world("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    world.clock.now_s += 7 * DAY_S
    return key


def test_the_grants_of_a_key_that_is_deleted_go_a_few_at_a_time(world: World, many_grants: str) -> None:
    worker = Worker(world)
    worker.run()
    assert worker.log.told == [("DeleteKey", INTENT, None), ("DeleteKey", OUTCOME, None)]
    assert grants_at_once(world) == [3, 3, 3, 1]
    assert world.store.count_rows().get(GRANT) is None


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_key_that_lost_some_of_its_grants_has_no_use_for_the_others(
    world: World, many_grants: str, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """The worker dies after so many transactions: the key is gone for everybody, and its deletion still due."""
    left = iter(range(parts))

    def clear(*arguments: Any) -> bool:  # Any: as the real one's
        if next(left, None) is None:
            raise StoreFailed("killed")
        return real(*arguments)

    real = maintenance.clear
    monkeypatch.setattr(backend, "clear", clear)
    grants = [entry.id for entry in world.store.changes_since(0, (GRANT,)).entries]
    dying = Worker(world)
    dying.run()
    assert grants_at_once(world) == [3] * parts
    other = World(world.path, world.clock)
    other.caller = CAROL
    refusals = [other.refused("Encrypt", KeyId=arn_of(many_grants), Plaintext=b"x")]
    refusals += [other.refused("RetireGrant", KeyId=arn_of(many_grants), GrantId=one) for one in grants]
    assert {refusal.code for refusal in refusals} == {"NotFoundException"}
    assert other("ListRetirableGrants", RetiringPrincipal=CAROL.arn)["Grants"] == []
    assert effects.known(other.store, dying.log.records[0]) != Known(Effect.MADE, (Resource(arn_of(many_grants), ACCOUNT),))
    monkeypatch.setattr(backend, "clear", real)
    worker = Worker(other)
    worker.run()
    assert worker.log.told == [("DeleteKey", INTENT, None), ("DeleteKey", OUTCOME, None)]
    assert other.store.count_rows().keys().isdisjoint({GRANT, KEY})
    other.close()
