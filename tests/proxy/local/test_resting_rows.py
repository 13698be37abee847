"""Rows that rest until a call looks into them: grants are found all the same, and those that another hand changed are none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.grant_table import MOST_RESTING, GrantTable
from proxy.backends.local.grants import GRANT, Grant
from proxy.backends.local.keys import Key
from proxy.backends.local.tables import Tables
from proxy.sealed_store import Entry
from tests.proxy.local.world import ACCOUNT, REGION, World

ROLE, ADMIN = f"arn:aws:iam::{ACCOUNT}:role/one", f"arn:aws:iam::{ACCOUNT}:role/admin"


def give(world: World, key_id: str, *ids: str) -> None:
    """Grants of Decrypt to ROLE, for a tenant each, that ADMIN may retire."""
    with world.store.change() as tx:
        for one in ids:
            grant = Grant(
                id=one,
                region=REGION,
                key_id=key_id,
                account_id=ACCOUNT,
                issuer=ACCOUNT,
                grantee=ROLE,
                operations=("Decrypt",),
                created_s=0.0,
                retiring=ADMIN,
                constraints={"EncryptionContextSubset": {"tenant": one}},
                token_key=b"t" * 32,
            )
            KeysInChange(tx).put_grant(grant)


def found(tables: Tables, key_id: str, tenant: str) -> list[str]:
    key = tables.find_key(ACCOUNT, REGION, key_id)
    assert key is not None
    return [grant.id for grant in tables.grants_to(key, ROLE, (("tenant", tenant),))]


def key_of(tables: Tables, key_id: str) -> Key:
    key = tables.find_key(ACCOUNT, REGION, key_id)
    assert key is not None
    return key


@pytest.mark.parametrize("number", [3, MOST_RESTING, MOST_RESTING + 1, 3 * MOST_RESTING])
def test_grants_are_found_whether_they_rest_or_not(world: World, number: int) -> None:
    key_id, other = world.new_key(), world.new_key()
    ids = [f"g{one:04}" for one in range(number)]
    give(world, key_id, *ids)
    give(world, other, "x")
    tables = Tables(world.store)
    assert [grant.id for grant in tables.all_grants.retirable(REGION, ADMIN)] == [*ids, "x"]
    assert found(tables, key_id, ids[-1]) == [ids[-1]]
    assert found(tables, key_id, "x") == []
    give(world, key_id, "later")
    with world.store.change() as tx:
        tx.delete(GRANT, REGION, ids[0])
    tables.refresh()
    assert found(tables, key_id, "later") == ["later"]
    assert found(tables, key_id, ids[0]) == []
    assert [grant.id for grant in tables.grants_of(key_of(tables, key_id))] == [*ids[1:], "later"]
    assert [grant.id for grant in tables.all_grants.retirable(REGION, ADMIN)] == [*ids[1:], "later", "x"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The ids of the rows that were opened."""
    ids: list[str] = []
    original = Entry._open

    def counted(entry: Entry) -> object:
        ids.append(entry.id)
        return original(entry)

    monkeypatch.setattr(Entry, "_open", counted)
    yield ids


def test_a_start_opens_no_key_and_no_grant_and_a_call_only_its_own(world: World, opened: list[str]) -> None:
    keys = [world.new_key() for _ in range(5)]
    for key_id in keys:
        world("CreateAlias", AliasName=f"alias/{key_id}", TargetKeyId=key_id)
        give(world, key_id, f"of {key_id}")
    opened.clear()
    tables = Tables(world.store)
    assert opened == []
    assert found(tables, keys[2], f"of {keys[2]}") == [f"of {keys[2]}"]
    assert set(opened) == {keys[2], f"of {keys[2]}"}


@pytest.mark.parametrize("sql", ["replace(CAST(body AS TEXT), 'Decrypt', 'Encrypt')", "'no JSON'", "'{}'"])
def test_a_grant_that_another_hand_changed_lets_nobody_do_anything(world: World, sql: str) -> None:
    key_id = world.new_key()
    give(world, key_id, "good", "worse")
    with sqlite3.connect(world.path) as connection:
        assert connection.execute(f"UPDATE entries SET body = CAST({sql} AS BLOB) WHERE id = 'worse'").rowcount == 1  # noqa: S608
    connection.close()
    tables = Tables(world.store)
    assert (found(tables, key_id, "good"), found(tables, key_id, "worse")) == (["good"], [])
    assert [grant.id for grant in tables.grants_of(key_of(tables, key_id))] == ["good"]
    assert tables.find_grant(REGION, "worse") is None
    with world.store.change() as tx:
        tx.delete(GRANT, REGION, "worse")
        tx.delete(GRANT, REGION, "good")
    tables.refresh()
    assert found(tables, key_id, "good") == []


def test_a_table_that_is_cleared_has_nothing(world: World) -> None:
    key_id = world.new_key()
    give(world, key_id, "a")
    tables = Tables(world.store)
    assert found(tables, key_id, "a") == ["a"]
    table: GrantTable = tables.all_grants
    table.clear()
    assert (found(tables, key_id, "a"), list(table.retirable(REGION, ADMIN))) == ([], [])
