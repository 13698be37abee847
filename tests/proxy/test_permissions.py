"""Identity policies in the store: whose they are, what is refused, and that less is never more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import SetupError
from proxy.permissions import BUILT_IN, MOST_CHARACTERS, MOST_POLICIES, Permissions
from proxy.sealed_store import SealedStore

ALICE, ROLE = "arn:aws:iam::111122223333:user/ops/alice", "arn:aws:iam::111122223333:role/reader"


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Permissions, Permissions]]:
    """Two processes' views of one store."""
    path = tmp_path / "keystore.db"
    stores = (SealedStore.create(path, bytes(32), "i"), SealedStore.at(path, bytes(32)))
    yield Permissions(stores[0]), Permissions(stores[1])
    for store in stores:
        store.close()


def test_who_has_none_of_its_own_has_the_built_in_one(workers: tuple[Permissions, Permissions]) -> None:
    one, other = workers
    assert one.held().of(ALICE) == BUILT_IN
    one.put(ALICE, "read", "{}")
    assert other.held().of(ALICE) == {"read": "{}"} == one.held().of(ALICE)
    assert other.held().of(ROLE) == BUILT_IN
    one.put(ALICE, "a", "[]")
    one.put(ALICE, "read", "{ }")
    assert list(other.held().of(ALICE).items()) == [("a", "[]"), ("read", "{ }")]


def test_taking_the_last_one_away_gives_nothing_back(workers: tuple[Permissions, Permissions]) -> None:
    one, other = workers
    one.put(ALICE, "read", "{}")
    one.remove(ALICE, "read")
    assert other.held().of(ALICE) == {}
    one.remove(ROLE, "KMSFullAccess")
    assert other.held().of(ROLE) == {}
    for owner in (ALICE, ROLE):
        one.reset(owner)
        one.reset(owner)
        assert other.held().of(owner) == BUILT_IN


def test_what_nothing_has_changed_is_not_read_again(workers: tuple[Permissions, Permissions]) -> None:
    one, other = workers
    held = other.held()
    assert other.held() is held
    one.put(ALICE, "read", "{}")
    changed = other.held()
    assert changed is not held and other.held() is changed
    assert held.of(ALICE) == BUILT_IN  # who began with it ends with it


@pytest.mark.parametrize(
    ("owner", "name", "document"),
    [
        (ALICE, "", "{}"),
        (ALICE, "a b", "{}"),
        (ALICE, "x" * 129, "{}"),
        (ALICE, "KMSFullAccess", "{}"),
        (ALICE, "large", "x" * (MOST_CHARACTERS + 1)),
        ("alice", "a", "{}"),
        ("arn:aws:sts::111122223333:assumed-role/reader/s1", "a", "{}"),
        ("arn:aws:iam::111122223333:root", "a", "{}"),
        ("arn:aws:iam::111122223333:role/path/reader", "a", "{}"),
        ("arn:aws:iam::1:user/alice", "a", "{}"),
    ],
)
def test_what_cannot_be_is_refused(workers: tuple[Permissions, Permissions], owner: str, name: str, document: str) -> None:
    with pytest.raises(SetupError):
        workers[0].put(owner, name, document)
    assert workers[1].held().by_owner == {}


def test_there_are_only_so_many(workers: tuple[Permissions, Permissions]) -> None:
    one, _ = workers
    one.put(ALICE, "p0", " \n" + "x" * MOST_CHARACTERS)
    for number in range(1, MOST_POLICIES):
        one.put(ALICE, f"p{number}", "{}")
    with pytest.raises(SetupError, match="the most there can be"):
        one.put(ALICE, "one-more", "{}")
    one.put(ALICE, "p3", "{ }")
    with pytest.raises(SetupError, match="has no policy one-more"):
        one.remove(ALICE, "one-more")
    with pytest.raises(SetupError, match="has no policy read"):
        one.remove(ROLE, "read")
    with pytest.raises(SetupError, match="is not the ARN"):
        one.reset("alice")
