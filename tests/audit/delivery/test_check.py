"""What was done to a destination, as whoever can write there (or on the host) would do it, is found and named."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest

from audit.delivery.check import check
from audit.delivery.destination import Stored
from audit.delivery.digest import ALGORITHM, SHA256_WITH_RSA, SIGNATURE, text_to_sign
from audit.delivery.layout import DigestKey, LogKey, Place
from audit.delivery.records import body_of
from audit.delivery.state import State
from audit.report import DeliveryReport, Verdict
from tests.audit.delivery.fakes import HOME, TRAIL, keys_of
from tests.audit.delivery.test_deliverer import KEY, NOON, World

SOUTH = Place(HOME.account_id, "sa-east-1")


def day() -> World:
    """Six hours of calls in two regions, delivered and digested."""
    world = World()
    for _ in range(18):
        world.add()
        world.add("w1", phase="intent")
        world.add("w1", awsRegion=SOUTH.region)
        world.deliver()
        world.now += 1_200
    world.deliver()
    return world


def look(world: World, state: State | None = None, *, without_state: bool = False) -> DeliveryReport:
    state = None if without_state else state or world.journal.load()
    return check(TRAIL, world.destination, world.logs, keys_of(KEY), state)


def logs_of(world: World, place: Place = HOME) -> list[str]:
    found = [
        (name.minute, key)
        for key in world.destination.objects
        if isinstance(name := TRAIL.parse(key), LogKey) and name.place == place
    ]
    return [key for _, key in sorted(found)]


def digests_of(world: World, place: Place = HOME) -> list[str]:
    found = [
        (name.end, key)
        for key in world.destination.objects
        if isinstance(name := TRAIL.parse(key), DigestKey) and name.place == place
    ]
    return [key for _, key in sorted(found)]


def put(world: World, key: str, body: bytes) -> None:
    """`body` under `key`, with what metadata there is."""
    there = world.destination.objects.get(key)
    world.destination.objects[key] = Stored(gzip.compress(body), {} if there is None else there.metadata)


def body(world: World, key: str) -> bytes:
    return gzip.decompress(world.destination.objects[key].data)


def test_what_was_delivered_is_what_the_log_has() -> None:
    world = day()
    report = look(world)
    assert not report.faults
    assert (report.files, report.records, report.digests) == (36, 36, 12)
    assert [step.verdict for step in report.steps] == [Verdict.PASSED] * 4
    assert not look(world, without_state=True).faults
    world.add()
    world.add()
    world.now += 5_000
    assert not look(world).faults, "younger than an hour, by the log's own time"
    world.add()
    assert [str(fault) for fault in look(world).faults] == [
        "111122223333/eu-central-1: 2 records of log w0, from 18 to 19, are in no file"
    ]


def test_nothing_is_not_passed() -> None:
    world = World()
    assert [step.verdict for step in look(world).steps] == [Verdict.NOT_CHECKED] * 4
    world.add()
    world.now += 4_000
    world.add()
    assert look(world).steps[0].verdict is Verdict.FAILED


Attack = Callable[[World], None]


def change_a_byte(world: World) -> None:
    key = logs_of(world)[3]
    put(world, key, body(world, key).replace(b"alice", b"mallo"))


def change_a_byte_and_the_name(world: World) -> None:
    key = logs_of(world)[3]
    changed = body(world, key).replace(b"alice", b"mallo")
    del world.destination.objects[key]
    put(world, TRAIL.log_key(HOME, NOON + 3_600, changed), changed)


def rub_out(world: World) -> None:
    put(world, logs_of(world)[3], b"")


def append_a_member(world: World) -> None:
    """A second gzip member, which gzip's own tools read on."""
    key = logs_of(world)[3]
    there = world.destination.objects[key]
    world.destination.objects[key] = replace(there, data=there.data + gzip.compress(b"forged"))


def delete_a_log(world: World) -> None:
    del world.destination.objects[logs_of(world)[3]]


def delete_the_newest_digests_with_their_logs(world: World) -> None:
    for key in [*digests_of(world)[-3:], *logs_of(world)[-9:]]:
        del world.destination.objects[key]


def forge_a_log(world: World) -> None:
    line = orjson.loads(body(world, logs_of(world)[0]))["Records"][0]
    line["additionalEventData"]["keytrail"]["sequence"] = 500
    forged = body_of([orjson.dumps(line)])
    put(world, TRAIL.log_key(HOME, NOON + 60, forged), forged)


def forge_a_log_of_a_log(world: World) -> None:
    line = orjson.loads(body(world, logs_of(world)[0]))["Records"][0]
    line["additionalEventData"]["keytrail"]["log"] = "w7"
    forged = body_of([orjson.dumps(line)])
    put(world, TRAIL.log_key(HOME, NOON + 60, forged), forged)


def deliver_a_log_twice(world: World) -> None:
    again = body(world, logs_of(world)[0])
    put(world, TRAIL.log_key(HOME, NOON + 7_200, again), again)


def move_a_log_to_another_region(world: World) -> None:
    key = logs_of(world)[3]
    moved = body(world, key)
    del world.destination.objects[key]
    put(world, TRAIL.log_key(SOUTH, NOON + 3_600, moved), moved)


def add_a_note(world: World) -> None:
    put(world, "host-1/AWSLogs/note.txt", b"hello")


def delete_the_oldest_digest(world: World) -> None:
    del world.destination.objects[digests_of(world)[0]]


def delete_a_digest(world: World) -> None:
    del world.destination.objects[digests_of(world)[2]]


def delete_the_newest_digest(world: World) -> None:
    del world.destination.objects[digests_of(world)[-1]]


def delete_all_digests(world: World) -> None:
    for key in digests_of(world):
        del world.destination.objects[key]


def change_a_digest(world: World) -> None:
    key = digests_of(world)[2]
    put(world, key, body(world, key).replace(b"eu-central-1", b"eu-central-2"))


def swap_signatures(world: World) -> None:
    one, two = digests_of(world)[1:3]
    objects = world.destination.objects
    objects[one], objects[two] = (
        replace(objects[one], metadata=objects[two].metadata),
        replace(objects[two], metadata=objects[one].metadata),
    )


def take_a_file_out_of_its_digest_with_the_stolen_key(world: World) -> None:
    key = digests_of(world)[2]
    digest = orjson.loads(body(world, key))
    digest["logFiles"].pop()
    text = orjson.dumps(digest)
    signature = KEY.sign(text_to_sign(text, digest["digestEndTime"], TRAIL.bucket, key, digest["previousDigestSignature"]))
    world.destination.objects[key] = Stored(gzip.compress(text), {SIGNATURE: signature, ALGORITHM: SHA256_WITH_RSA})


def name_another_hash_with_the_stolen_key(world: World) -> None:
    """The file is the log's own; AWS's tools would call it invalid."""
    key = digests_of(world)[-1]
    digest = orjson.loads(body(world, key))
    digest["logFiles"][0]["hashValue"] = "00" * 32
    text = orjson.dumps(digest)
    signature = KEY.sign(text_to_sign(text, digest["digestEndTime"], TRAIL.bucket, key, digest["previousDigestSignature"]))
    world.destination.objects[key] = Stored(gzip.compress(text), {SIGNATURE: signature, ALGORITHM: SHA256_WITH_RSA})


def end_a_digest_later_with_the_stolen_key(world: World) -> None:
    """Its name says one time, its text another: so it would seem to reach over what was delivered since."""
    key = digests_of(world)[-1]
    digest = orjson.loads(body(world, key))
    digest["digestEndTime"] = "2026-01-02T23:00:00Z"
    text = orjson.dumps(digest)
    signature = KEY.sign(text_to_sign(text, digest["digestEndTime"], TRAIL.bucket, key, digest["previousDigestSignature"]))
    world.destination.objects[key] = Stored(gzip.compress(text), {SIGNATURE: signature, ALGORITHM: SHA256_WITH_RSA})


def take_the_algorithm_away(world: World) -> None:
    key = digests_of(world)[2]
    there = world.destination.objects[key]
    world.destination.objects[key] = replace(there, metadata={SIGNATURE: there.metadata[SIGNATURE]})


def copy_a_digest_elsewhere(world: World) -> None:
    there = world.destination.objects[digests_of(world)[2]]
    world.destination.objects[TRAIL.digest_key(HOME, NOON - 3_600)] = there


def put_another_trails_digest_there(world: World) -> None:
    there = world.destination.objects[digests_of(world)[2]]
    world.destination.objects[replace(TRAIL, name="other").digest_key(HOME, NOON)] = there


ATTACKS: list[tuple[Attack, str]] = [
    (change_a_byte, r"its contents are not those that its name was made of \(step 21\)"),
    (change_a_byte_and_the_name, r"it is not what log w0 has of .*eu-central-1 from 3 to 3 \(step 21\)"),
    (rub_out, r"neither gzip nor records can be read \(step 21\)"),
    (append_a_member, r"neither gzip nor records can be read \(step 21\)"),
    (delete_a_log, r"1 records of log w0, from 3 to 3, are in no file \(step 20\)"),
    (delete_a_log, r"a digest names it, and it is not there"),
    (delete_the_newest_digests_with_their_logs, r"9 records of log w0, from 9 to 17, are in no file \(step 20\)"),
    (delete_the_newest_digests_with_their_logs, r"it was delivered, and is not there any more \(step 23\)"),
    (forge_a_log, r"beyond|its records are not in the log \(step 22\)"),
    (forge_a_log_of_a_log, r"of a log 'w7' of .*, which is not here \(step 22\)"),
    (deliver_a_log_twice, r"records 0 to 0 of log w0 are in .* too \(step 22\)"),
    (move_a_log_to_another_region, r"sa-east-1.*(log w0 has no such records|not in the log).*\(step 22\)"),
    (move_a_log_to_another_region, r"1 records of log w0, from 3 to 3, are in no file \(step 20\)"),
    (add_a_note, r"no file of a trail has such a name \(step 22\)"),
    (delete_the_oldest_digest, r"the chain is broken here: an older one is missing"),
    (delete_a_digest, r"the chain is broken here: it does not follow"),
    (delete_a_digest, r"no digest names it, though its interval is over \(step 22\)"),
    (delete_the_newest_digest, r"it was delivered, and is not there any more \(step 23\)"),
    (delete_all_digests, r"it was delivered, and is not there any more \(step 23\)"),
    (change_a_digest, r"its signature is not genuine \(step 23\)"),
    (take_the_algorithm_away, r"its signature is not genuine \(step 23\)"),
    (swap_signatures, r"its signature is not genuine \(step 23\)"),
    (take_a_file_out_of_its_digest_with_the_stolen_key, r"no digest names it, though its interval is over \(step 22\)"),
    (take_a_file_out_of_its_digest_with_the_stolen_key, r"the chain is broken here: it does not follow"),
    (name_another_hash_with_the_stolen_key, r"it has not the hash that its digest has \(step 21\)"),
    (end_a_digest_later_with_the_stolen_key, r"it was moved here from another place \(step 23\)"),
    (copy_a_digest_elsewhere, r"it was moved here from another place \(step 23\)"),
    (put_another_trails_digest_there, r"it is a digest of a trail other of eu-central-1"),
]


@pytest.mark.parametrize(("attack", "told"), ATTACKS)
def test_an_attack_is_found_and_named(attack: Attack, told: str) -> None:
    world = day()
    attack(world)
    report = look(world)
    assert Verdict.FAILED in [step.verdict for step in report.steps]
    faults = [f"{fault} (step {fault.step})" for fault in report.faults]
    assert any(re.search(told, fault) for fault in faults), faults


def test_whoever_takes_the_state_away_too_hides_nothing_that_is_older_than_an_hour() -> None:
    world = day()
    delete_the_newest_digests_with_their_logs(world)
    faults = [str(fault) for fault in look(world, without_state=True).faults]
    assert any("records of log w0, from 9 to" in fault for fault in faults), faults
    assert any("the newest digest ends at 2026-01-02T15:00:00Z; later ones are missing" in fault for fault in faults), faults
    world = day()
    delete_all_digests(world)
    faults = [str(fault) for fault in look(world, without_state=True).faults]
    assert any("eu-central-1: there is no digest" in fault for fault in faults), faults


@pytest.mark.parametrize("line", [b"no record", b'{"eventTime": 1}'])
def test_a_log_that_is_damaged_is_told_and_the_others_are_compared(line: bytes) -> None:
    world = day()
    world.logs["w1"].lines[20] = line
    del world.destination.objects[logs_of(world)[3]]
    reasons = [fault.reason for fault in look(world).faults]
    assert any(reason.startswith("from here on nothing can be compared: INCIDENT: log w1: record 20") for reason in reasons), (
        reasons
    )
    assert "1 records of log w0, from 3 to 3, are in no file" in reasons


def test_an_idle_log_is_held_to_the_time_of_the_others() -> None:
    world = World()
    world.add("w1")
    world.now += 4_000
    world.add("w0")
    assert [fault.reason for fault in look(world).faults] == ["1 records of log w1, from 0 to 0, are in no file"]


def test_a_gap_between_digests_is_found_also_where_their_key_was_stolen() -> None:
    world = day()
    key = digests_of(world)[-1]
    digest = orjson.loads(body(world, key))
    digest["digestStartTime"] = digest["digestEndTime"]
    text = orjson.dumps(digest)
    signature = KEY.sign(text_to_sign(text, digest["digestEndTime"], TRAIL.bucket, key, digest["previousDigestSignature"]))
    world.destination.objects[key] = Stored(gzip.compress(text), {SIGNATURE: signature, ALGORITHM: SHA256_WITH_RSA})
    (fault,) = look(world, without_state=True).faults
    assert fault.reason == "it begins at 2026-01-02T18:00:00Z, the one before it ends at 2026-01-02T17:00:00Z"


def test_a_digest_by_another_key_is_not_this_trails() -> None:
    world = day()
    report = check(TRAIL, world.destination, world.logs, {}, world.journal.load())
    assert any("signed with a key that is not this trail's" in fault.reason for fault in report.faults)
