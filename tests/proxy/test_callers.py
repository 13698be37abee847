"""Callers: what is given out, who is found, and that no secret shows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.callers import Callers
from proxy.errors import SetupError
from proxy.sealed_store import SealedStore

KEY = bytes(range(32))
ALICE = "arn:aws:iam::111122223333:user/alice"
SESSION = "arn:aws:sts::111122223333:assumed-role/builder/run-1"


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Callers, Callers]]:
    """Two processes' views of one store."""
    path = tmp_path / "keystore.db"
    stores = (SealedStore.create(path, KEY, "i"), SealedStore.at(path, KEY))
    yield Callers(stores[0], lambda: 5.0, os.urandom), Callers(stores[1], lambda: 6.0, os.urandom)
    for store in stores:
        store.close()


def test_a_user_gets_a_key_of_the_aws_form_and_is_found_by_every_worker(workers: tuple[Callers, Callers]) -> None:
    one, other = workers
    assert other.find("AKIAAAAAAAAAAAAAAAAA") is None  # its tables are loaded, and must be brought up to date
    caller = one.add(ALICE)
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", caller.principal.access_key_id)
    assert re.fullmatch(r"[A-Za-z0-9+/]{40}", caller.secret_access_key)
    assert re.fullmatch(r"AIDA[A-Z2-7]{17}", caller.principal.principal_id)
    assert (caller.principal.type, caller.principal.user_name) == ("IAMUser", "alice")
    assert (caller.principal.arn, caller.principal.account_id) == (ALICE, "111122223333")
    assert (caller.session_token, caller.enabled) == (None, True)
    assert other.find(caller.principal.access_key_id) == caller == one.find(caller.principal.access_key_id)


def test_a_session_gets_a_token_and_shares_its_roles_id(workers: tuple[Callers, Callers]) -> None:
    one, _ = workers
    first, second = one.add(SESSION, "AssumedRole"), one.add(SESSION.replace("run-1", "run-2"))
    assert re.fullmatch(r"ASIA[A-Z2-7]{16}", first.principal.access_key_id)
    assert first.session_token is not None and len(first.session_token) >= 100
    assert re.fullmatch(r"AROA[A-Z2-7]{17}:run-1", first.principal.principal_id)
    assert second.principal.principal_id == first.principal.principal_id.replace("run-1", "run-2")
    assert first.principal.user_name is None


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "alice",
        "arn:aws:iam::1234:user/alice",
        "arn:aws:iam::111122223333:role/alice",
        "arn:aws:iam::111122223333:user/",
        "arn:aws:iam::111122223333:user/al ice",
        ALICE + "\n",
        "arn:aws:sts::111122223333:assumed-role/builder",
        "arn:aws:sts::111122223333:assumed-role/builder/a/b",
        "arn:aws:iam::111122223333:assumed-role/builder/run-1",
    ],
)
def test_arns_of_other_shapes_are_refused(workers: tuple[Callers, Callers], arn: str) -> None:
    with pytest.raises(SetupError, match="not the ARN of a caller"):
        workers[0].add(arn)
    assert workers[0].list() == ()


def test_the_type_must_be_the_arns(workers: tuple[Callers, Callers]) -> None:
    with pytest.raises(SetupError, match="ARN of an IAMUser"):
        workers[0].add(ALICE, "AssumedRole")


def test_a_principal_is_added_once(workers: tuple[Callers, Callers]) -> None:
    one, other = workers
    caller = one.add(ALICE)
    with pytest.raises(SetupError, match=caller.principal.access_key_id):
        other.add(ALICE)
    assert len(one.list()) == 1


def test_disabling_and_enabling_are_seen_by_every_worker(workers: tuple[Callers, Callers]) -> None:
    one, other = workers
    key = one.add(ALICE).principal.access_key_id
    for change, expected in ((one.disable, False), (one.disable, False), (one.enable, True)):
        assert change(key).enabled is expected
        found = other.find(key)
        assert found is not None and found.enabled is expected
        assert found.secret_access_key  # the secret outlives the change


def test_rotation_gives_a_new_key_to_the_same_principal(workers: tuple[Callers, Callers]) -> None:
    one, other = workers
    old = one.add(SESSION)
    new = one.rotate(old.principal.access_key_id)
    assert new.principal.access_key_id != old.principal.access_key_id
    assert new.secret_access_key != old.secret_access_key and new.session_token != old.session_token
    assert (new.principal.arn, new.principal.principal_id) == (old.principal.arn, old.principal.principal_id)
    found = other.find(old.principal.access_key_id)
    assert found is not None and not found.enabled
    assert other.find(new.principal.access_key_id) == new

    newest = one.rotate(new.principal.access_key_id, keep_old=True)
    kept = other.find(new.principal.access_key_id)
    assert kept is not None and kept.enabled
    enabled = {listed.principal.access_key_id for listed in other.list() if listed.enabled}
    assert enabled == {new.principal.access_key_id, newest.principal.access_key_id}


@pytest.mark.parametrize("change", [Callers.disable, Callers.enable, Callers.rotate])
def test_an_unknown_key_is_named(workers: tuple[Callers, Callers], change: Callable[[Callers, str], object]) -> None:
    with pytest.raises(SetupError, match="AKIAUNKNOWN"):
        change(workers[0], "AKIAUNKNOWN")


def test_no_secret_shows(workers: tuple[Callers, Callers], tmp_path: Path) -> None:
    one, _ = workers
    caller = one.add(SESSION)
    assert caller.session_token is not None
    with pytest.raises(SetupError) as duplicate:
        one.add(SESSION)
    shown = f"{caller!r} {caller} {one.find(caller.principal.access_key_id)!r} {one.list()!r} {duplicate.value} {one!r}"
    on_disk = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert caller.principal.access_key_id in shown and caller.principal.access_key_id.encode() in on_disk
    for secret in (caller.secret_access_key, caller.session_token):
        assert secret not in shown
        assert secret.encode() not in on_disk
