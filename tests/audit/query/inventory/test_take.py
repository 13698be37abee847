from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.query.artifacts.recognise import UNKNOWN, Contents
from audit.query.index.compact import Compactor
from audit.query.inventory import uses
from audit.query.inventory.keys import KeyLife, KeyRing, KeyState
from audit.query.inventory.status import KmsKey, Loss, Material, Opened
from audit.query.inventory.take import StoredObject, take
from audit.query.inventory.uses import Snapshot
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at, fingerprint
from tests.audit.query.inventory.planted import add, key_event, stored

DAY_S = 86_400
M1, M2 = ({"keyMaterialId": digit * 64} for digit in "12")


def taken(log: LogBuilder, objects: Sequence[Contents], wanted: str | None = None, **how: int) -> dict[str, StoredObject]:
    snapshot = Snapshot(log.data)
    asked = KmsKey.parse(wanted) if wanted is not None else None
    found = {one.name: one for one in take(objects, snapshot, KeyRing(snapshot, at(5 * DAY_S)), asked, **how)}
    assert snapshot.index_fault is None
    assert not snapshot.damaged
    return found


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    return LogBuilder(tmp_path)


def test_who_unwrapped_last_how_often_and_what_never_was(log: LogBuilder) -> None:
    log.add(1, "GenerateDataKey", user="writer", blobs_out=["used"])
    log.add(2, "GenerateDataKeyWithoutPlaintext", user="writer", blobs_out=["idle"])
    log.add(3, "Decrypt", user="bob", blobs_in=["used"])
    log.add(4, "Decrypt", user="bob", blobs_in=["used"])
    log.add(5, "Decrypt", user="eve", blobs_in=["used"], error="AccessDenied")
    log.add(6, "Decrypt", user="carol", blobs_in=["used"])
    log.add(7, "Decrypt", user="eve", blobs_in=["tried"], error="AccessDenied", key=None)
    log.add(8, "Decrypt", user="dry", blobs_in=["idle"], error="DryRunOperationException")
    names = ("used", "idle", "tried", "elsewhere")
    found = taken(log, [stored(name, name, key=KEY_B if name == "elsewhere" else None) for name in names])
    opened = [found[name].keys[0].opened for name in names]
    assert opened == [Opened.UNWRAPPED, Opened.NEVER, Opened.NEVER, Opened.UNKNOWN]
    used, idle, tried = (found[name].keys[0].use for name in names[:3])
    assert used is not None and idle is not None and tried is not None
    assert (used.unwrapped.times, len(used.unwrapped.callers), used.refused.times) == (3, 2, 1)
    last = used.unwrapped.last
    assert last is not None and last[0].startswith("2026-01-02T00:00:06") and last[1].endswith("user/carol")
    assert idle.made is not None and idle.made.caller.endswith("user/writer")
    assert (idle.refused.times, tried.made, tried.refused.times) == (0, None, 1)
    assert [found[name].keys[0].key for name in names] == [KEY_A, KEY_A, None, KEY_B]


def test_a_blob_that_was_reencrypted_is_another_blob(log: LogBuilder) -> None:
    keys = [{"type": "AWS::KMS::Key", "ARN": arn} for arn in (KEY_A, KEY_B)]
    materials = {"sourceKeyMaterialId": "1" * 64, "destinationKeyMaterialId": "2" * 64}
    add(log, 1, "GenerateDataKey", blobs_out=["old"], materials=M1)
    add(log, 2, "ReEncrypt", blobs_in=["old"], blobs_out=["new"], resources=keys, materials=materials)
    log.add(3, "Decrypt", blobs_in=["new"], key=KEY_B)
    key_event(log, 4, "ScheduleKeyDeletion", KEY_A, {"deletionDate": "2026-01-03T00:00:00Z"})
    found = taken(log, [stored("old", "old"), stored("new", "new")])
    old, new = found["old"].keys[0], found["new"].keys[0]
    assert (old.opened, old.key, found["old"].lost) == (Opened.NEVER, KEY_A, Loss.WHOLE)
    assert (new.opened, new.key, found["new"].lost) == (Opened.UNWRAPPED, KEY_B, Loss.NONE)
    assert old.use is not None and old.use.reencrypted.times == 1
    assert new.use is not None and new.use.material == "2" * 64


@pytest.mark.parametrize(
    ("events", "now_s", "state"),
    [
        ([], 100, KeyState.UNTOLD),
        (["DisableKey"], 100, KeyState.DISABLED),
        (["DisableKey", "EnableKey"], 100, KeyState.ENABLED),
        (["ScheduleKeyDeletion"], 100, KeyState.SCHEDULED),
        (["ScheduleKeyDeletion"], 8 * DAY_S, KeyState.DELETED),
        (["ScheduleKeyDeletion", "CancelKeyDeletion"], 8 * DAY_S, KeyState.DISABLED),
        (["ScheduleKeyDeletion", "CancelKeyDeletion", "EnableKey"], 8 * DAY_S, KeyState.ENABLED),
        (["DeleteKey"], 100, KeyState.DELETED),
        (["DeleteImportedKeyMaterial"], 100, KeyState.NO_MATERIAL),
        (["DeleteImportedKeyMaterial", "ImportKeyMaterial"], 100, KeyState.ENABLED),
        (["DisableKey", "ImportKeyMaterial"], 100, KeyState.DISABLED),
    ],
)
def test_what_became_of_a_key(log: LogBuilder, events: list[str], now_s: float, state: KeyState) -> None:
    log.add(0, "Decrypt", key=KEY_A)
    for number, event in enumerate(events, 1):
        key_event(log, number, event, KEY_A, {"pendingWindowInDays": 7})
        key_event(log, number, event, KEY_B, error="AccessDenied")
    ring = KeyRing(Snapshot(log.data), at(now_s))
    assert ring.life(KEY_A).state is state
    assert ring.life(KEY_B) == KeyLife()


def test_a_deletion_that_was_cancelled_elsewhere_shows_by_later_use(log: LogBuilder) -> None:
    key_event(log, 1, "ScheduleKeyDeletion", KEY_A, {"deletionDate": "2026-01-03T00:00:00Z"})
    log.add(60, "Decrypt", key=KEY_A)  # KMS takes minutes to tell all of itself
    assert KeyRing(Snapshot(log.data), at(2 * DAY_S)).life(KEY_A).state is KeyState.DELETED
    log.add(3_600, "Decrypt", key=KEY_A, error="KMSInvalidStateException")
    assert KeyRing(Snapshot(log.data), at(2 * DAY_S)).life(KEY_A).state is KeyState.DELETED
    log.add(3_601, "Decrypt", key=KEY_A)
    assert KeyRing(Snapshot(log.data), at(2 * DAY_S)).life(KEY_A).state is KeyState.USED_SINCE


def test_a_call_whose_outcome_nobody_knows_is_a_doubt_and_no_fact(log: LogBuilder) -> None:
    log.add(1, "GenerateDataKey", blobs_out=["one"])
    key_event(log, 2, "ScheduleKeyDeletion", KEY_A, phase="unknown")
    life = KeyRing(Snapshot(log.data), at(100 * DAY_S)).life(KEY_A)
    assert life.state is KeyState.UNTOLD
    assert life.doubt is not None and life.doubt.startswith("ScheduleKeyDeletion at 2026-01-02")
    assert taken(log, [stored("one", "one")])["one"].lost is Loss.UNTOLD


def test_of_a_lost_outcome_counts_what_is_known_of_it(log: LogBuilder) -> None:
    key_event(log, 1, "DisableKey", KEY_A, phase="unknown", error="KMSInternalException", effect="made")
    key_event(log, 2, "EnableKey", KEY_A, phase="unknown", error="KMSInternalException", effect="none")
    life = KeyRing(Snapshot(log.data), at(100 * DAY_S)).life(KEY_A)
    assert (life.state, life.doubt) == (KeyState.DISABLED, None)


def test_objects_under_old_key_material(log: LogBuilder) -> None:
    add(log, 1, "GenerateDataKey", blobs_out=["old"], materials=M1)
    add(log, 2, "Encrypt", blobs_out=["new"], materials=M2)
    add(log, 40 * DAY_S, "Decrypt", blobs_in=["before"], materials=M1)  # minted before the log
    add(log, 40 * DAY_S, "Decrypt", blobs_in=["other"], materials=M1, key=KEY_B)
    found = taken(log, [stored(name, name) for name in ("old", "new", "before", "other")])
    materials = [found[name].keys[0].material for name in ("old", "new", "before", "other")]
    assert materials == [Material.OLD, Material.NEWEST, Material.OLD, Material.UNKNOWN]
    key_event(log, 41 * DAY_S, "RotateKeyOnDemand", KEY_A)
    assert taken(log, [stored("new", "new")])["new"].keys[0].material is Material.OLD


def test_before_a_keys_deletion(log: LogBuilder) -> None:
    for blob, key in (("a", KEY_A), ("b", KEY_B)):
        log.add(1, "GenerateDataKey", blobs_out=[blob], key=key)
    sdk = "AWS Encryption SDK message v2"
    objects = [
        stored("under a", "a"),
        stored("under b", "b"),
        stored("under either", "a", "b", format=sdk),
        stored("in part", "a", "b"),
        stored("nobody knows", "mystery"),
        stored("as it says", "mystery", key=KEY_A),
        stored("text", "text", format=UNKNOWN),
    ]
    found = taken(log, objects, wanted=KEY_A)
    assert [found[one.name].asked for one in objects] == [
        Loss.WHOLE,
        None,
        Loss.NONE,
        Loss.PART,
        Loss.UNTOLD,
        Loss.WHOLE,
        None,
    ]
    assert {one.lost for one in found.values()} == {Loss.NONE, Loss.UNTOLD}
    key_event(log, 2, "ScheduleKeyDeletion", KEY_B, {"deletionDate": "2026-02-02T00:00:00Z"})
    assert taken(log, objects, wanted=KEY_A)["under either"].asked is Loss.WHOLE  # the other key is going, too


def test_a_small_file_of_no_known_format_is_a_data_key_if_the_log_says_so(log: LogBuilder) -> None:
    log.add(1, "GenerateDataKey", blobs_out=["odd"])
    found = taken(log, [stored("odd", "odd", format=UNKNOWN), stored("readme", "readme", format=UNKNOWN)])
    assert [len(found[name].keys) for name in ("odd", "readme")] == [1, 0]


# --- at scale

_NAMES = [f"blob {number}" for number in range(6)]
_CALLS = st.lists(
    st.tuples(
        st.sampled_from(["GenerateDataKey", "Decrypt", "refused", "rotate"]),
        st.sampled_from(_NAMES),
        st.sampled_from(["alice", "bob"]),
        st.sampled_from([KEY_A, KEY_B]),
    ),
    max_size=20,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    calls=_CALLS,
    stored_blobs=st.lists(st.lists(st.sampled_from(_NAMES), max_size=3), max_size=8),
    first=st.integers(1, 4),
    largest=st.integers(1, 9),
    indexed=st.booleans(),
    looked_up=st.sampled_from([0, 2, 2_000]),
)
def test_batches_of_any_size_give_the_same_answer(
    monkeypatch: pytest.MonkeyPatch,
    calls: list[tuple[str, str, str, str]],
    stored_blobs: list[list[str]],
    first: int,
    largest: int,
    indexed: bool,
    looked_up: int,
) -> None:
    with TemporaryDirectory() as folder:
        log = LogBuilder(Path(folder))
        for number, (event, blob, user, key) in enumerate(calls):
            if event == "rotate":
                log.rotate()
            elif event == "GenerateDataKey":
                add(log, number, event, user=user, key=key, blobs_out=[blob], materials=M1)
            else:
                error = "AccessDenied" if event == "refused" else None
                add(log, number, "Decrypt", user=user, key=key, blobs_in=[blob], error=error)
        if indexed:
            with Compactor(log.data) as compactor:
                compactor.run()
        objects = [stored(f"object {number}", *blobs) for number, blobs in enumerate(stored_blobs)]
        whole = taken(log, objects)
        with monkeypatch.context() as patched:
            patched.setattr(uses, "MOST_LOOKED_UP", looked_up)
            patched.setattr(uses, "_LOOKED_UP_AT_ONCE", first)
            assert taken(log, objects, first_batch=first, largest_batch=largest) == whole
        for one in whole.values():
            for key_of_object in one.keys:
                (blob,) = (name for name in _NAMES if fingerprint(name) == key_of_object.wrapped.fingerprint)
                unwraps = [(n, call[2]) for n, call in enumerate(calls) if call[:2] == ("Decrypt", blob)]
                use = key_of_object.use
                assert (use.unwrapped.times if use is not None else 0) == len(unwraps)
                if use is not None and use.unwrapped.last is not None:
                    time, caller = use.unwrapped.last
                    assert (time, caller.rpartition("/")[2]) == (
                        at(unwraps[-1][0]).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                        unwraps[-1][1],
                    )
                assert (use is not None) == any(call[1] == blob and call[0] != "rotate" for call in calls)


def test_a_few_are_looked_up_and_no_closed_segment_is_read(log: LogBuilder) -> None:
    for number in range(8):
        log.add(number, "Decrypt", blobs_in=[f"b{number}"])
        log.rotate()
    with Compactor(log.data) as compactor:
        compactor.run()
    read: list[tuple[int, int]] = []
    snapshot = Snapshot(log.data, progress=lambda done, total: read.append((done, total)))
    found = snapshot.uses_of([fingerprint(f"b{number}") for number in range(4)])
    assert len(found) == 4
    assert read == []  # the open segment is empty


def test_the_log_is_asked_as_it_stood_at_the_beginning(log: LogBuilder) -> None:
    log.add(1, "GenerateDataKey", blobs_out=["one"])
    snapshot = Snapshot(log.data)
    log.add(2, "Decrypt", blobs_in=["one"])
    log.rotate()
    assert snapshot.uses_of([fingerprint("one")])[fingerprint("one")].unwrapped.times == 0


def test_damage_is_named_once_however_many_batches_meet_it(log: LogBuilder) -> None:
    log.add(1, "Decrypt", blobs_in=["one"])
    log.raw(b"{\n")
    log.add(2, "Decrypt", blobs_in=["two"])
    snapshot = Snapshot(log.data)
    for name in ("one", "two"):
        assert snapshot.uses_of([fingerprint(name)])[fingerprint(name)].unwrapped.times == 1
    assert list(map(str, snapshot.damaged)) == [f"log w0, {log.segment.name}, line 2: not JSON"]


def test_a_segment_that_lacks_records_is_damage(log: LogBuilder) -> None:
    log.add(1, "Decrypt", blobs_in=["one"])
    log.sequence += 3
    log.rotate()
    snapshot = Snapshot(log.data)
    snapshot.uses_of([fingerprint("one")])
    (damage,) = snapshot.damaged
    assert "1 lines; by the name of the next segment it had 4" in str(damage)


def test_an_index_that_cannot_be_read_costs_time_and_nothing_else(log: LogBuilder) -> None:
    log.add(1, "Decrypt", blobs_in=["one"])
    log.rotate()
    with Compactor(log.data) as compactor:
        compactor.run()
    for path in (log.data / "index").rglob("*.parquet"):
        path.write_bytes(b"PAR1")
    snapshot = Snapshot(log.data)
    assert snapshot.uses_of([fingerprint("one")])[fingerprint("one")].unwrapped.times == 1
    assert snapshot.index_fault is not None
