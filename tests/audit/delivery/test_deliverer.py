"""Delivery: each record once, in the log's own bytes; a chain of digests; whatever breaks off, wherever."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.delivery import deliverer
from audit.delivery.check import check
from audit.delivery.deliverer import Conflict, Deliverer, Terms
from audit.delivery.destination import DestinationFault, Stored
from audit.delivery.digest import ALGORITHM, SHA256_WITH_RSA, SIGNATURE
from audit.delivery.keys import DigestKey
from audit.delivery.layout import DigestKey as DigestName
from audit.delivery.layout import LogKey, Place, timestamp
from audit.delivery.records import delivered
from audit.delivery.state import BegunDigest, BegunFiles, StateInvalid
from audit.errors import LogIncident
from tests.audit.delivery.fakes import HOME, TRAIL, Crash, FakeDestination, FakeJournal, FakeLog, Fuse, keys_of
from tests.audit.query.builder import START

KEY = DigestKey(generate_private_key(public_exponent=65_537, key_size=2_048), 0)
MIDNIGHT = int(START.timestamp())
NOON = MIDNIGHT + 12 * 3_600
OTHER = Place("444455556666", "us-east-1")


@dataclass
class World:
    """An instance of two logs, a destination, and a clock."""

    terms: Terms = field(default_factory=Terms)
    fuse: Fuse = field(default_factory=Fuse)
    now: float = NOON
    key: DigestKey = KEY
    logs: dict[str, FakeLog] = field(default_factory=lambda: {"w0": FakeLog("w0"), "w1": FakeLog("w1")})
    destination: FakeDestination = field(init=False)
    journal: FakeJournal = field(init=False)

    def __post_init__(self) -> None:
        self.destination, self.journal = FakeDestination(self.fuse), FakeJournal(self.fuse)

    def open(self) -> Deliverer:
        """A process that starts."""
        return Deliverer(TRAIL, self.destination, self.journal, lambda: self.key, lambda: self.logs, lambda: self.now, self.terms)

    def deliver(self) -> Deliverer:
        """A process that starts, and delivers all that is sealed."""
        one = self.open()
        while one.step():
            pass
        return one

    def add(self, log: str = "w0", **changes: Any) -> bytes:
        return self.logs[log].add(self.now - START.timestamp(), **changes)

    # --- what came of it

    def records(self) -> list[tuple[Place, bytes]]:
        """Every record that was delivered, by where; each in the bytes that it has in its file."""
        return [(name.place, line) for name, _, lines in self.files() for line in lines]

    def files(self) -> Iterator[tuple[LogKey, bytes, list[bytes]]]:
        for key, stored in sorted(self.destination.objects.items()):
            name = TRAIL.parse(key)
            assert name is not None, key
            if isinstance(name, LogKey):
                body = gzip.decompress(stored.data)
                lines = [orjson.dumps(one) for one in orjson.loads(body)["Records"]]
                assert body == b'{"Records":[' + b",".join(lines) + b"]}"
                yield name, body, lines

    def digests(self, place: Place = HOME) -> list[dict[str, Any]]:
        names = {key: TRAIL.parse(key) for key in self.destination.objects}
        found = [(name.end, key) for key, name in names.items() if isinstance(name, DigestName) and name.place == place]
        return [orjson.loads(gzip.decompress(self.destination.objects[key].data)) for _, key in sorted(found)]

    def expected(self) -> list[tuple[Place, bytes]]:
        """By definition, from the logs."""
        lines = [line for log in self.logs.values() for line in log.lines[: log.signed]]
        return [(where.place, line) for line in lines if (where := delivered(line, HOME)) is not None]

    def require_sound(self) -> None:
        """Nothing twice, nothing that is not in the log, and nothing under a name but one body, however often it was tried."""
        found = sorted(self.records())
        assert len(found) == len(set(found))
        assert set(found) <= set(self.expected())
        bodies: dict[str, set[tuple[bytes, str]]] = {}
        for key, data, metadata in self.destination.attempts:
            bodies.setdefault(key, set()).add((gzip.decompress(data), repr(sorted(metadata.items()))))
        assert all(len(tried) == 1 for tried in bodies.values()), "one name, two bodies or signatures"

    def require_whole(self) -> None:
        """All that is sealed is there, and the digests say so."""
        self.require_sound()
        assert sorted(self.records()) == sorted(self.expected())
        state = self.journal.load()
        report = check(TRAIL, self.destination, self.logs, keys_of(KEY), state)
        assert not report.faults, report.faults


def test_a_log_that_was_put_back_is_an_incident_and_the_others_are_delivered() -> None:
    world = World()
    for _ in range(6):
        world.add()
    world.deliver()
    world.logs["w0"] = FakeLog("w0")
    world.add()
    world.add("w1")
    one = world.open()
    while one.step():
        pass
    assert one.incidents == {"w0": "INCIDENT: log w0: 6 records of it were delivered, and 1 are sealed: it was put back"}
    assert [line for _, line in world.records()][-1:] == world.logs["w1"].lines


def test_records_go_to_their_account_and_region_in_the_logs_own_bytes() -> None:
    world = World()
    first = world.add(user="zoë", context={"größe": "1"})
    second = world.add(recipientAccountId=OTHER.account_id, awsRegion=OTHER.region)
    third = world.add("w1")
    world.deliver()
    assert sorted(world.records()) == sorted([(HOME, first), (OTHER, second), (HOME, third)])
    assert [key for key in world.destination.objects if OTHER.region in key] == [
        f"host-1/AWSLogs/444455556666/CloudTrail/us-east-1/2026/01/02/444455556666_CloudTrail_us-east-1_20260102T1200Z_{unique}.json.gz"
        for unique in [next(name.unique for name, _, _ in world.files() if name.place == OTHER)]
    ]
    world.require_whole()


def test_no_call_is_delivered_twice_as_intent_and_outcome_and_nothing_of_keytrails_own() -> None:
    world = World()
    world.add(event="CreateKey", phase="intent", readOnly=False)
    outcome = world.add(event="CreateKey", readOnly=False)
    world.add(event="RecoverLog", eventSource="keytrail", eventType="AwsServiceEvent")
    lost = world.add(event="DisableKey", phase="unknown", readOnly=False)
    refused = world.add(error="AccessDenied")
    sts = world.add(event="AssumeRole", eventSource="sts.amazonaws.com")
    world.deliver()
    assert [line for _, line in world.records()] == [outcome, lost, refused, sts]


def test_a_key_that_is_rotated_signs_the_next_digest_and_the_chain_goes_on() -> None:
    world = World()
    one = world.open()
    for world.key in (KEY, DigestKey(generate_private_key(public_exponent=65_537, key_size=2_048), NOON)):
        world.add()
        world.now += 3_600
        while one.step():
            pass
    first, second = (digest["digestPublicKeyFingerprint"] for digest in world.digests())
    assert (first, second) == (KEY.public.fingerprint, world.key.public.fingerprint) and first != second
    state = world.journal.load()
    report = check(TRAIL, world.destination, world.logs, keys_of(KEY) | keys_of(world.key), state)
    assert report.digests == 2 and not report.faults
    told = [str(fault) for fault in check(TRAIL, world.destination, world.logs, keys_of(KEY), state).faults]
    assert any("signed with a key that is not this trail's" in text for text in told)


def test_who_was_not_authenticated_makes_no_folder() -> None:
    log = FakeLog()
    stranger = orjson.loads(log.add(0, awsRegion="xx-made-up-1"))
    stranger["additionalEventData"]["keytrail"]["identityProof"] = "claimed"
    assert delivered(orjson.dumps(stranger), HOME) == (HOME, MIDNIGHT)
    stranger["additionalEventData"]["keytrail"]["identityProof"] = "accepted-by-upstream"
    assert delivered(orjson.dumps(stranger), HOME) == (Place(HOME.account_id, "xx-made-up-1"), MIDNIGHT)
    stranger["eventType"], stranger["additionalEventData"]["keytrail"]["identityProof"] = "AwsServiceEvent", "none"
    assert delivered(orjson.dumps(stranger), HOME) == (Place(HOME.account_id, "xx-made-up-1"), MIDNIGHT)
    for name, value in [("awsRegion", "../../etc"), ("recipientAccountId", "12"), ("recipientAccountId", "1/2")]:
        assert delivered(orjson.dumps({**stranger, name: value}), HOME) == (HOME, MIDNIGHT)


def test_an_open_segment_is_delivered_at_the_interval_and_a_closed_one_at_once() -> None:
    world = World()
    one = world.open()
    world.add()
    assert one.step() and not one.step()
    world.add()
    world.now += 299
    assert not one.step()
    world.logs["w0"].open_from = 2
    assert one.step() and not one.step(), "closed"
    world.add()
    world.now += 1
    assert one.step() and not one.step(), "the interval is over"
    world.add()
    one.hurry()
    assert one.step() and not one.step()
    assert [len(lines) for _, _, lines in world.files()] == [1, 1, 1, 1]
    world.now -= 10_000
    world.add()
    assert one.step(), "a clock that was set back is not waited for"
    world.require_sound()


def test_what_is_sealed_while_an_interval_is_delivered_waits_for_the_next() -> None:
    world = World()
    world.add()
    one = world.open()
    assert one.step()
    world.add()
    assert not one.step()


def test_what_is_not_sealed_waits() -> None:
    world = World()
    world.add()
    world.add()
    world.logs["w0"].signed = 1
    world.logs["w0"].open_from = 2
    world.deliver()
    assert len(world.records()) == 1


def test_a_long_log_is_delivered_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliverer, "_STEP_BYTES", 4_000)
    monkeypatch.setattr(deliverer, "_LINES_AT_ONCE", 2)
    world = World()
    for number in range(25):
        world.add(awsRegion=("eu-central-1", "us-east-1")[number % 2])
    world.deliver()
    assert len(list(world.files())) > 6
    assert max(len(body) for _, body, _ in world.files()) < 8_000
    world.require_whole()


def test_digests_are_a_chain_over_empty_hours_too_and_over_a_stop() -> None:
    world = World()
    world.add()
    world.deliver()
    world.now += 3_600
    world.deliver()
    world.now += 5 * 3_600  # nobody ran
    world.add(awsRegion="us-east-1")
    world.deliver()
    world.now += 3_600
    world.deliver()
    digests = world.digests()
    assert [one["digestEndTime"] for one in digests] == [timestamp(NOON + hour * 3_600) for hour in range(1, 8)]
    assert [one["digestStartTime"] for one in digests] == [timestamp(NOON + hour * 3_600) for hour in range(7)]
    assert [len(one["logFiles"]) for one in digests] == [1, 0, 0, 0, 0, 0, 0]
    assert (digests[1]["newestEventTime"], digests[1]["oldestEventTime"]) == (None, None)
    assert digests[0]["newestEventTime"] == digests[0]["logFiles"][0]["oldestEventTime"] == timestamp(NOON)
    previous = [one for name, one in digests[0].items() if name.startswith("previousDigest")]
    assert previous == [None] * 5
    for before, after in pairwise(digests):
        assert after["previousDigestS3Object"] == before["digestS3Object"]
        stored = world.destination.objects[before["digestS3Object"]]
        assert after["previousDigestSignature"] == stored.metadata["signature"]
        assert after["previousDigestHashValue"] == sha256(gzip.decompress(stored.data)).hexdigest()
    (later,) = world.digests(Place(HOME.account_id, "us-east-1"))
    assert later["digestStartTime"] == timestamp(NOON + 6 * 3_600)
    assert len(later["logFiles"]) == 1
    world.require_whole()


def test_a_destination_that_is_down_for_an_hour_makes_digests_late_and_loses_nothing() -> None:
    world = World()
    world.add()
    one = world.deliver()
    world.destination.fault = "down"
    for _ in range(14):
        world.now += 300
        world.add()
        with pytest.raises(DestinationFault, match="down"):
            one.step()
    assert len(world.records()) == 1
    world.destination.fault = None
    world.deliver()
    assert [len(digest["logFiles"]) for digest in world.digests()] == [2]
    world.require_whole()
    assert len(world.records()) == 15


def test_a_clock_that_was_set_back_breaks_no_chain() -> None:
    world = World()
    world.add()
    world.deliver()
    world.now += 3_600
    world.deliver()
    world.now -= 5 * 3_600
    world.add()
    world.deliver()
    world.require_whole()
    world.now += 7 * 3_600
    world.deliver()
    assert [len(digest["logFiles"]) for digest in world.digests()] == [1, 1, 0]
    world.require_whole()


def test_another_length_of_digests_takes_over_where_the_last_one_ended() -> None:
    world = World()
    world.deliver()
    world.now += 3_600 * 2
    world.deliver()
    world.terms = Terms(digest_s=60)
    world.now += 100
    world.deliver()
    world.terms = Terms(digest_s=3_600)
    world.now += 3_600
    world.deliver()
    assert [one["digestEndTime"][11:] for one in world.digests()] == ["13:00:00Z", "14:00:00Z", "14:01:00Z", "15:00:00Z"]
    world.require_whole()


# --- what goes wrong


def test_a_digest_with_another_signature_under_its_name_is_left_and_told() -> None:
    """Its text is what it should be: tools go by the signature, and by it the next one is chained."""
    world = World()
    world.add()
    world.deliver()
    world.now += 3_600
    world.fuse.at = world.fuse.points + 2  # when it is written down, and not there yet
    with pytest.raises(Crash):
        world.deliver()
    begun = world.open().state.begun
    assert isinstance(begun, BegunDigest) and begun.key not in world.destination.objects
    forged = Stored(gzip.compress(begun.document.encode()), {SIGNATURE: "00" * 256, ALGORITHM: SHA256_WITH_RSA})
    world.destination.objects[begun.key] = forged
    with pytest.raises(Conflict, match=r"another object is there"):
        world.open().step()
    assert world.destination.objects[begun.key] == forged
    world.destination.objects[begun.key] = replace(forged, metadata={SIGNATURE: begun.signature, ALGORITHM: SHA256_WITH_RSA})
    world.deliver()
    world.require_whole()


def test_another_object_under_our_name_is_left_and_told() -> None:
    world = World(fuse=Fuse(at=4))
    world.add()
    with pytest.raises(Crash):
        world.deliver()
    begun = world.open().state.begun
    assert isinstance(begun, BegunFiles) and not world.destination.objects
    key = begun.files[0][1].key
    world.destination.objects[key] = Stored(gzip.compress(b"forged"))
    for _ in range(2):
        with pytest.raises(Conflict, match=r"another object is there"):
            world.deliver()
    assert gzip.decompress(world.destination.objects[key].data) == b"forged"
    del world.destination.objects[key]
    world.deliver()
    world.require_whole()


def test_a_log_that_changed_under_a_delivery_is_an_incident() -> None:
    world = World(fuse=Fuse(at=4))
    world.add()
    with pytest.raises(Crash):
        world.deliver()
    log = world.logs["w0"]
    log.lines[0] = log.lines[0].replace(b"alice", b"mallo")
    with pytest.raises(LogIncident, match="records 0 to 0 are not those whose delivery was begun"):
        world.deliver()
    del world.logs["w0"]
    with pytest.raises(LogIncident, match="not there any more"):
        world.deliver()


def test_a_line_that_is_no_record_keeps_its_log_and_no_other() -> None:
    world = World()
    world.add()
    world.logs["w0"].lines.append(b'{"eventName": "forged"}')
    world.logs["w0"].signed = 2
    line = world.add("w1")
    one = world.deliver()
    assert "INCIDENT: log w0: record 1" in one.incidents["w0"]
    assert [found for _, found in world.records()] == [line]


def test_a_destination_keeps_the_name_of_its_trail() -> None:
    world = World()
    world.deliver()
    assert world.journal.saved is not None
    world.journal.saved = world.journal.saved.replace(b'"trail": "keytrail"', b'"trail": "another"')
    with pytest.raises(StateInvalid, match="needs a destination of its own"):
        world.open()


# --- crashes

#: What happens, in turn: records that are added (to log, region), and how far the clock goes then.
Traffic = list[tuple[list[tuple[int, int]], int]]
TRAFFIC: st.SearchStrategy[Traffic] = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), max_size=4),
        st.sampled_from([0, 7, 299, 300, 1_801, 3_600, 9_000]),
    ),
    min_size=1,
    max_size=5,
)


def play(world: World, traffic: Traffic, crashes: list[int]) -> int:
    """Deliver `traffic`; the n-th process crashes at the n-th of `crashes`, counted from its start. Gives the
    points passed.
    """
    left = list(crashes)
    passed = 0
    for records, wait in traffic:
        for log, region in records:
            world.add(f"w{log}", awsRegion=("eu-central-1", "us-east-1", "sa-east-1")[region])
        while True:
            world.fuse.points, world.fuse.at = 0, left[0] if left else -1
            try:
                world.deliver()
            except Crash:
                left.pop(0)
                world.require_sound()
                world.now += 61  # the next start is later, and there is more to deliver
                world.add()
                continue
            finally:
                passed += world.fuse.points
            break
        if left:
            left[0] -= world.fuse.points  # the same process goes on
            if left[0] < 0:
                left.pop(0)
        world.now += wait
    return passed


@settings(deadline=None, max_examples=60)
@given(TRAFFIC, st.lists(st.integers(0, 60), max_size=6))
def test_crashes_anywhere_lose_nothing_and_deliver_and_sign_nothing_twice(traffic: Traffic, crashes: list[int]) -> None:
    world = World()
    play(world, traffic, crashes)
    world.fuse.at = -1
    world.deliver()
    world.now += 7_200
    world.deliver()
    world.require_whole()


def test_a_digest_that_was_begun_is_finished_as_it_was_begun_whatever_is_set_by_then() -> None:
    calm = World()
    calm.add()
    calm.deliver()
    calm.fuse.points, calm.now = 0, calm.now + 3_600
    calm.deliver()
    for number in range(calm.fuse.points):
        world = World()
        world.add()
        world.deliver()
        world.fuse.points, world.fuse.at, world.now = 0, number, world.now + 3_600
        with pytest.raises(Crash):
            world.deliver()
        put = [orjson.loads(gzip.decompress(data)) for key, data, _ in world.destination.attempts if "CloudTrail-Digest" in key]
        world.fuse.at = -1
        world.terms, world.now = Terms(digest_s=7_200), world.now + 7_200
        world.deliver()
        assert world.digests()[: len(put)] == put
        world.require_whole()


def test_a_crash_at_each_single_point_of_a_day() -> None:
    traffic: Traffic = [([(0, 0), (1, 1)], 300), ([(0, 0)], 3_600), ([(1, 2)], 7_200), ([], 0)]
    calm = World()
    points = play(calm, traffic, [])
    calm.require_whole()
    assert points > 40
    for number in range(points):
        world = World()
        play(world, traffic, [number])
        world.fuse.at = -1
        world.deliver()
        world.require_whole()
