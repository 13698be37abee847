"""The key store as a file: copies, copies put back, another master key at any moment of its change, and what damage is told."""

from __future__ import annotations

import base64
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from audit import durable
from audit.instance import ADMIN_LOG, Instance
from proxy import keystore, restoring, rewrapping
from proxy.cli import app
from proxy.errors import ProxyError, SealBroken, SetupError
from proxy.host import Host, initialise
from proxy.opening import open_store, read_master_key
from proxy.sealed_store import SealedStore
from proxy.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data")


@pytest.fixture
def instance(settings: Settings) -> Instance:
    return initialise(settings)


def make_key(instance: Instance, settings: Settings) -> str:
    with Host(instance, settings) as host:
        key_id: str = host.call("CreateKey", {}).members["KeyMetadata"]["KeyId"]
        return key_id


def ids_in(store: SealedStore) -> set[str]:
    return {entry.id for entry in store.changes_since(0, ("key",)).entries if entry.body}


def key_ids(instance: Instance, settings: Settings) -> set[str]:
    store = open_store(instance, settings)
    try:
        return ids_in(store)
    finally:
        store.close()


def last_record(instance: Instance) -> dict[str, Any]:  # Any: JSON
    segment = sorted(instance.log_folder(ADMIN_LOG).glob("*.jsonl"))[-1]
    record: dict[str, Any] = orjson.loads(segment.read_bytes().splitlines()[-1])
    return record


# --- copies


def test_a_copy_made_while_another_has_the_store_open_is_whole_and_sealed(
    instance: Instance, settings: Settings, tmp_path: Path
) -> None:
    worker, before = open_store(instance, settings), key_ids(instance, settings)
    made = keystore.backup(instance, settings, tmp_path / "copy")
    assert (made.master_key_id, made.generation) == (worker.master_key_id, worker.generation)
    record = last_record(instance)
    assert (record["eventName"], record["requestParameters"]) == ("BackUpKeyStore", {"file": str(tmp_path / "copy")})
    assert record["responseElements"] == {"masterKeyId": made.master_key_id, "generation": made.generation}
    make_key(instance, settings)
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    assert list(tmp_path.glob("copy*")) == [tmp_path / "copy"]
    key, content = read_master_key(instance.master_key), (tmp_path / "copy").read_bytes()
    assert key not in content and base64.b64encode(key) not in content
    copy = SealedStore.at(tmp_path / "copy", key, instance.id)
    assert ids_in(copy) == before
    copy.close()
    worker.close()


def test_a_copy_is_never_made_over_a_file(instance: Instance, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(SetupError, match="is there already; nothing was changed"):
        keystore.backup(instance, settings, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "mine"
    assert last_record(instance)["errorCode"] == "InvalidRequest"


def test_a_copy_is_put_back_where_the_store_is_lost_and_its_generation_goes_on(
    instance: Instance, settings: Settings, tmp_path: Path
) -> None:
    keys = key_ids(instance, settings)
    keystore.backup(instance, settings, tmp_path / "copy")
    for _ in range(3):
        make_key(instance, settings)
    store = open_store(instance, settings)
    lost, published = store.generation, store.published
    store.close()
    for path in instance.data.glob("keystore.db*"):
        path.unlink()
    made = restoring.restore(instance, settings, tmp_path / "copy", replace=False, even_newer=False)
    assert made.generation > max(lost, published)
    store = open_store(instance, settings)
    anew = store.changes_since(lost, ("key",))  # who knew the lost store is given everything
    assert (anew.complete, {entry.id for entry in anew.entries}) == (True, keys)
    store.close()
    assert last_record(instance)["eventName"] == "RestoreKeyStore"
    assert not list(instance.data.glob("restoring*"))


def test_a_copy_replaces_a_store_only_when_told_to_and_a_newer_one_only_when_told_that(
    instance: Instance, settings: Settings, tmp_path: Path
) -> None:
    keystore.backup(instance, settings, tmp_path / "copy")
    old = key_ids(instance, settings)
    with pytest.raises(SetupError, match="--replace"):
        restoring.restore(instance, settings, tmp_path / "copy", replace=False, even_newer=False)
    make_key(instance, settings)
    newer = key_ids(instance, settings)
    with pytest.raises(SetupError, match=r"is newer, by 1 changes.*--even-newer"):
        restoring.restore(instance, settings, tmp_path / "copy", replace=True, even_newer=False)
    assert key_ids(instance, settings) == newer
    made = restoring.restore(instance, settings, tmp_path / "copy", replace=True, even_newer=True)
    assert key_ids(instance, settings) == old
    aside = instance.data / f"keystore.replaced-{made.generation}.db"
    kept = SealedStore.at(aside, read_master_key(instance.master_key), instance.id)
    assert ids_in(kept) == newer
    kept.close()


def test_a_copy_is_not_put_back_while_the_folder_is_served(instance: Instance, settings: Settings, tmp_path: Path) -> None:
    keystore.backup(instance, settings, tmp_path / "copy")
    lock = instance.hold()
    with pytest.raises(SetupError, match="being served"):
        restoring.restore(instance, settings, tmp_path / "copy", replace=True, even_newer=True)
    os.close(lock)


def cut(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:5_000])


def edit(path: Path, _: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE entries SET parent = 'x' WHERE kind = 'key'")
    connection.commit()
    connection.close()


def foreign(path: Path, elsewhere: Path) -> None:
    other = Settings(data=elsewhere)
    keystore.backup(initialise(other), other, elsewhere / "copy")
    shutil.copy(elsewhere / "copy", path)


def no_store(path: Path, _: Path) -> None:
    path.write_bytes(b"something else")


@pytest.mark.parametrize("spoil", [cut, edit, foreign, no_store])
def test_a_copy_that_is_damaged_or_anothers_changes_nothing(
    instance: Instance, settings: Settings, tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    keystore.backup(instance, settings, tmp_path / "copy")
    spoil(tmp_path / "copy", tmp_path / "other")
    before = key_ids(instance, settings)
    with pytest.raises(ProxyError):
        restoring.restore(instance, settings, tmp_path / "copy", replace=True, even_newer=True)
    assert key_ids(instance, settings) == before
    assert not [*instance.data.glob("restoring*"), *instance.data.glob("keystore.replaced*")]


def test_a_damaged_store_is_replaced_only_where_that_is_said(instance: Instance, settings: Settings, tmp_path: Path) -> None:
    keystore.backup(instance, settings, tmp_path / "copy")
    before = key_ids(instance, settings)
    instance.keystore.write_bytes(b"a disk that forgot")
    with pytest.raises(SetupError, match="does not tell how new it is"):
        restoring.restore(instance, settings, tmp_path / "copy", replace=True, even_newer=False)
    restoring.restore(instance, settings, tmp_path / "copy", replace=True, even_newer=True)
    assert key_ids(instance, settings) == before


# --- another master key


class Crash(BaseException):
    """The end of the process, as far as the steps are concerned."""


def crash(*_: object, **__: object) -> None:
    raise Crash


def then_crash(function: Callable[..., object]) -> Callable[..., None]:
    def done(*arguments: object, **more: object) -> None:
        function(*arguments, **more)
        raise Crash

    return done


STEPS = [(durable, "replace"), (SealedStore, "add_master_key"), (Path, "rename"), (SealedStore, "keep_master_key")]


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_change_of_the_master_key_that_stops_anywhere_leaves_a_store_that_opens_and_goes_on(
    instance: Instance, settings: Settings, monkeypatch: pytest.MonkeyPatch, step: int, is_done: bool
) -> None:
    old_key = read_master_key(instance.master_key)
    worker = open_store(instance, settings)
    where, name = STEPS[step]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, then_crash(getattr(where, name)) if is_done else crash)
        with pytest.raises(Crash):
            rewrapping.rewrap(instance, settings, None, finish=False)
    key_id = make_key(instance, settings)  # with the key that is in `master.key`
    assert key_id in ids_in(worker)
    made = rewrapping.rewrap(instance, settings, None, finish=False)
    store = open_store(instance, settings)
    assert store.master_keys() == (store.master_key_id,) == (made.key_id,)
    store.close()
    assert not (instance.data / "master.key.next").exists()
    with worker.change() as tx:  # a worker that was there before sees and changes everything
        assert tx.get("key", instance.region, key_id) is not None
        tx.put("key", instance.region, "by the worker", {"account": "1"})
    assert {key_id, "by the worker"} <= key_ids(instance, settings)
    worker.close()
    with pytest.raises(SealBroken, match="master key does not open"):
        SealedStore.at(instance.keystore, old_key, instance.id)


def test_the_master_key_may_be_a_file_elsewhere_and_is_changed_in_two_steps(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for number, path in enumerate((first, second)):
        path.write_bytes(base64.b64encode(bytes([number]) * 32))
    settings, later = (Settings(data=tmp_path / "data", master_key=path) for path in (first, second))
    instance = initialise(settings)
    assert not instance.master_key.exists()
    with pytest.raises(SealBroken, match="master key does not open"):
        open_store(instance, later)
    with pytest.raises(SetupError, match="--new FILE"):
        rewrapping.rewrap(instance, settings, None, finish=False)
    assert len(rewrapping.rewrap(instance, settings, second, finish=False).also) == 1
    assert key_ids(instance, settings) == key_ids(instance, later)  # both open it
    assert len(keystore.check(instance, settings)[1]) == 1  # and that is told
    assert rewrapping.rewrap(instance, later, None, finish=True).also == ()
    assert key_ids(instance, later)
    with pytest.raises(SealBroken, match="master key does not open"):
        open_store(instance, settings)


def test_options_for_a_key_elsewhere_are_refused_where_it_is_in_the_data_folder(instance: Instance, settings: Settings) -> None:
    for new, finish in ((instance.master_key, False), (None, True)):
        with pytest.raises(SetupError, match="outside the data folder"):
            rewrapping.rewrap(instance, settings, new, finish=finish)


def test_initialising_with_a_master_key_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        initialise(Settings(data=tmp_path / "data", master_key=tmp_path / "none"))
    assert not (tmp_path / "data").exists()


def test_a_key_that_is_changed_between_reading_it_and_opening_the_store_is_read_again(
    instance: Instance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = read_master_key(instance.master_key)
    rewrapping.rewrap(instance, settings, None, finish=False)
    answers = [old, read_master_key(instance.master_key)]
    monkeypatch.setattr("proxy.opening.read_master_key", lambda path: answers.pop(0))
    open_store(instance, settings).close()


# --- check, and the commands


def test_check_tells_each_row_that_does_not_open_and_what_rows_contradict(instance: Instance, settings: Settings) -> None:
    standing, found = keystore.check(instance, settings)
    assert (found, standing.rows["key"], standing.rows["alias"]) == ([], 1, 1)
    (key_id,) = key_ids(instance, settings)
    store = open_store(instance, settings)
    with store.change() as tx:
        tx.delete("key", instance.region, key_id)
    store.close()
    alias = f"alias/demo@{instance.account_id}"
    assert keystore.check(instance, settings)[1] == [f"the alias {alias} is of the key {key_id}, which is not there"]
    connection = sqlite3.connect(instance.keystore)
    connection.execute("UPDATE entries SET parent = 'x' WHERE kind = 'alias'")
    connection.commit()
    connection.close()
    (told,) = keystore.check(instance, settings)[1]
    assert told.endswith(f"the alias {alias} was changed by another hand")
    assert last_record(instance)["responseElements"]["findings"] == 1


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_the_commands_tell_what_they_did_and_their_exit_codes(instance: Instance, tmp_path: Path) -> None:
    data, copy = ("--data", str(instance.data)), str(tmp_path / "copy")
    assert run("keystore", "check", *data)[0] == 0
    code, told = run("keystore", "backup", copy, *data)
    assert (code, "opens it: keep that apart from it" in told) == (0, True)
    assert run("keystore", "backup", copy, *data)[0] == 3
    code, told = run("keystore", "rewrap", *data)
    assert (code, "and no other does" in told) == (0, True)
    code, told = run("keystore", "restore", copy, "--replace", "--even-newer", *data)  # sealed under the key of before
    assert (code, "master key does not open" in told) == (3, True)
    edit(instance.keystore, tmp_path)
    code, told = run("keystore", "check", *data)
    assert (code, "was changed by another hand" in told) == (1, True)
