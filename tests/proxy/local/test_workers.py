"""Two workers on one store: what one changes, the next call on the other sees, without reopening anything."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from proxy.backends.local.keys import KEY
from proxy.errors import KmsError
from proxy.sealed_store import Changes, SealedStore
from proxy.store_file import FileDatabase
from tests.proxy.local.world import World, arn_of, call


def test_a_change_of_one_worker_is_seen_by_the_next_call_on_the_other(pair: tuple[World, World]) -> None:
    one, other = pair
    key = one.new_key()
    blob = other("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert one("Decrypt", CiphertextBlob=blob)["Plaintext"] == b"x"
    other("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    assert one("DescribeKey", KeyId="alias/a")["KeyMetadata"]["KeyId"] == key
    one("DisableKey", KeyId=key)
    assert other.refused("Decrypt", CiphertextBlob=blob).code == "DisabledException"
    other("EnableKey", KeyId=key)
    assert one("Decrypt", CiphertextBlob=blob)["Plaintext"] == b"x"
    one("DeleteAlias", AliasName="alias/a")
    assert other.refused("DescribeKey", KeyId="alias/a").code == "NotFoundException"
    one("ScheduleKeyDeletion", KeyId=key)
    assert other.refused("Decrypt", CiphertextBlob=blob).code == "KMSInvalidStateException"


def test_lists_follow_every_change(pair: tuple[World, World]) -> None:
    one, other = pair
    keys: list[str] = []
    names: list[str] = []
    for number in (2, 1, 3):
        keys.append(one.new_key())
        names.append(f"alias/{number}")
        one("CreateAlias", AliasName=names[-1], TargetKeyId=keys[0])
        for world in pair:
            assert [key["KeyId"] for key in world("ListKeys")["Keys"]] == sorted(keys)
            assert [alias["AliasName"] for alias in world("ListAliases")["Aliases"]] == sorted(names)
    other("DeleteAlias", AliasName=names.pop())
    for world in pair:
        assert [alias["AliasName"] for alias in world("ListAliases")["Aliases"]] == sorted(names)


def test_changes_are_checked_against_the_database_not_against_what_a_worker_last_saw(
    pair: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    key = one.new_key()
    other("DescribeKey", KeyId=key)
    monkeypatch.setattr(one.store, "_publish", lambda generation: None)  # the other is not told
    one("ScheduleKeyDeletion", KeyId=key)
    one("CreateAlias", AliasName="alias/a", TargetKeyId=(second := one.new_key()))
    assert other("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
    assert other.refused("EnableKey", KeyId=key).code == "KMSInvalidStateException"
    assert other.refused("CreateAlias", AliasName="alias/a", TargetKeyId=second).code == "AlreadyExistsException"


def test_both_change_one_key_and_nothing_is_lost(pair: tuple[World, World]) -> None:
    key = pair[0].new_key()

    async def main() -> None:
        tags = [call("TagResource", KeyId=key, Tags=[{"TagKey": str(n), "TagValue": ""}]) for n in range(40)]
        await asyncio.gather(*(pair[n % 2].backend.call(tag) for n, tag in enumerate(tags)))

    asyncio.run(main())
    for world in pair:
        assert len(world("ListResourceTags", KeyId=key)["Tags"]) == 40


def test_the_same_alias_made_on_both_is_made_once(pair: tuple[World, World]) -> None:
    keys = [pair[0].new_key(), pair[1].new_key()]

    async def main() -> list[object]:
        calls = [call("CreateAlias", AliasName="alias/a", TargetKeyId=key) for key in keys]
        both = (world.backend.call(one) for world, one in zip(pair, calls, strict=True))
        return list(await asyncio.gather(*both, return_exceptions=True))

    results = asyncio.run(main())
    (refusal,) = [result for result in results if isinstance(result, KmsError)]
    assert refusal.code == "AlreadyExistsException"
    winner = keys[results.index(next(result for result in results if not isinstance(result, KmsError)))]
    for world in pair:
        assert world("DescribeKey", KeyId="alias/a")["KeyMetadata"]["KeyId"] == winner


def test_a_change_reads_only_what_changed_and_other_calls_read_nothing(
    pair: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    keys = [one.new_key() for _ in range(20)]
    other("DescribeKey", KeyId=keys[0])
    loads: list[Changes] = []
    original = SealedStore.changes_since

    def counted(store: SealedStore, generation: int, kinds: tuple[str, ...]) -> Changes:
        found = original(store, generation, kinds)
        if KEY in kinds:  # the callers' permissions are read apart
            loads.append(found)
        return found

    monkeypatch.setattr(SealedStore, "changes_since", counted)
    for key in keys:
        other("Encrypt", KeyId=key, Plaintext=b"x")
    assert loads == []
    one("DisableKey", KeyId=keys[3])
    other("DescribeKey", KeyId=keys[0])
    other("DescribeKey", KeyId=keys[0])
    assert [(len(load.entries), load.complete) for load in loads] == [(1, False), (1, False)]  # once a worker


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    first = World(tmp_path / "keystore.db")
    key = first.new_key(Description="kept")
    first("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    blob = first("Encrypt", KeyId="alias/a", Plaintext=b"x", EncryptionContext={"a": "b"})["CiphertextBlob"]
    first.close()
    second = World(tmp_path / "keystore.db")
    assert second("Decrypt", CiphertextBlob=blob, EncryptionContext={"a": "b"}, KeyId="alias/a")["Plaintext"] == b"x"
    assert second("DescribeKey", KeyId=arn_of(key))["KeyMetadata"]["Description"] == "kept"
    second.close()


@pytest.mark.parametrize(
    ("what", "sql"),
    [
        ("its state", "replace(CAST(body AS TEXT), 'Disabled', 'Enabled')"),
        ("what it is", "'no JSON'"),
        ("its members", '\'{"account":"111122223333"}\''),
        ("its list of materials", "replace(CAST(body AS TEXT), 'materials\":[{', 'materials\":[1,{')"),
    ],
)
def test_a_key_that_another_hand_changed_does_not_work_and_the_others_do(tmp_path: Path, what: str, sql: str) -> None:
    world = World(tmp_path / "keystore.db")
    good, bad = world.new_key(), world.new_key()
    blobs = {key: world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"] for key in (good, bad)}
    world("CreateAlias", AliasName="alias/bad", TargetKeyId=bad)
    world("DisableKey", KeyId=bad)
    with sqlite3.connect(world.path) as connection:
        forged = f"UPDATE entries SET body = CAST({sql} AS BLOB) WHERE id = ?"  # noqa: S608 - ours
        assert connection.execute(forged, (bad,)).rowcount == 1
    connection.close()
    world.close()
    world = World(tmp_path / "keystore.db")
    for operation, parameters in (
        ("DescribeKey", {"KeyId": bad}),
        ("DescribeKey", {"KeyId": "alias/bad"}),
        ("Encrypt", {"KeyId": bad, "Plaintext": b"x"}),
        ("EnableKey", {"KeyId": bad}),
    ):
        refusal = world.refused(operation, **parameters)
        assert (refusal.code, refusal.status) == ("KMSInternalException", 500), (operation, what)
    assert world.refused("Decrypt", CiphertextBlob=blobs[bad]).code in ("KMSInternalException", "AccessDeniedException")
    assert world("Decrypt", CiphertextBlob=blobs[good])["Plaintext"] == b"x"
    assert len([told for told in world.store.damage() if bad in told]) == 1
    world.close()


def test_an_alias_that_another_hand_moved_is_not_followed(tmp_path: Path) -> None:
    world = World(tmp_path / "keystore.db")
    one, other = world.new_key(), world.new_key()
    world("CreateAlias", AliasName="alias/a", TargetKeyId=one)
    with sqlite3.connect(world.path) as connection:
        assert connection.execute("UPDATE entries SET parent = ? WHERE kind = 'alias'", (other,)).rowcount == 1
    connection.close()
    world.close()
    world = World(tmp_path / "keystore.db")
    assert world.refused("Encrypt", KeyId="alias/a", Plaintext=b"x").code == "KMSInternalException"
    world.close()


def test_a_store_that_fails_is_an_internal_failure_and_changes_nothing(world: World) -> None:
    key = world.new_key()
    blocker = sqlite3.connect(world.path, isolation_level=None)
    with world.store.change():
        pass  # the connection for changes exists from here on
    database = world.store._database
    assert isinstance(database, FileDatabase)
    assert database._writer is not None
    database._writer.execute("PRAGMA busy_timeout = 0")
    blocker.execute("BEGIN IMMEDIATE")
    refusal = world.refused("DisableKey", KeyId=key)
    assert (refusal.code, refusal.status) == ("KMSInternalException", 500)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert world("DescribeKey", KeyId=key)["KeyMetadata"]["Enabled"]
    world("DisableKey", KeyId=key)
    assert not world("DescribeKey", KeyId=key)["KeyMetadata"]["Enabled"]
