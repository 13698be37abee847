"""A key store that several hosts share: who makes it, who joins it, how it moves from file to server and back."""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from audit.instance import Instance
from proxy import keystore, restoring, rewrapping, settings
from proxy.backends.local.keys import KEY
from proxy.cli import app
from proxy.errors import ProxyError, SealBroken, SetupError
from proxy.host import DEMO_ALIAS, Host, initialise
from proxy.opening import open_store
from proxy.settings import Settings
from proxy.store_database import StoreUnreachable
from tests.integration.components.postgresql import PostgreSQL
from tests.integration.conftest import wait_until

SettingsOf = Callable[..., Settings]


@pytest.fixture
def master_key(tmp_path: Path) -> Path:
    path = tmp_path / "master.key"
    path.write_bytes(base64.b64encode(bytes(range(32))))
    return path


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.url(postgresql.new_database())


@pytest.fixture
def settings_of(tmp_path: Path, master_key: Path, url: str) -> SettingsOf:
    """The settings of a host."""

    def made(host: str, **more: Any) -> Settings:  # Any: settings
        return Settings(**{"data": tmp_path / host, "master_key": master_key, "keystore_url": SecretStr(url), **more})

    return made


def keys_of(instance: Instance, chosen: Settings) -> set[str]:
    with closing(open_store(instance, chosen)) as store:
        return {entry.id for entry in store.changes_since(0, (KEY,)).entries if entry.body}


def described(instance: Instance, chosen: Settings) -> str:
    """The key that alias/demo names, by a call on that host."""
    with Host(instance, chosen) as host:
        key_id: str = host.call("DescribeKey", {"KeyId": DEMO_ALIAS}).members["KeyMetadata"]["KeyId"]
        return key_id


def test_the_first_host_makes_the_store_and_the_second_joins_it(settings_of: SettingsOf) -> None:
    one, two = settings_of("one"), settings_of("two")
    first = initialise(one)
    made = keys_of(first, one)
    assert len(made) == 1
    second = initialise(two)
    assert keys_of(second, two) == made == {described(first, one)} == {described(second, two)}
    assert first.id != second.id
    assert not first.keystore.exists() and not second.keystore.exists()
    assert first.credentials.exists() and not second.credentials.exists()
    with Host(second, two) as host:
        (caller,) = host.callers.list()
        assert caller.principal.user_name == "demo"


def test_init_makes_nothing_where_the_store_cannot_be_joined(
    settings_of: SettingsOf, tmp_path: Path, postgresql: PostgreSQL
) -> None:
    initialise(settings_of("one"))
    other_key = tmp_path / "other.key"
    other_key.write_bytes(base64.b64encode(b"\1" * 32))
    unreachable = f"postgresql://keytrail:{postgresql.password}@127.0.0.1:1/x"
    refusals: tuple[tuple[dict[str, Any], type[ProxyError], str], ...] = (
        ({"master_key": None}, SetupError, "name the file with its master key"),
        ({"master_key": other_key}, SealBroken, "the master key does not open postgresql://127.0.0.1"),
        ({"keystore_url": SecretStr(unreachable)}, StoreUnreachable, "cannot be reached"),
    )
    for more, kind, words in refusals:
        with pytest.raises(kind) as caught:
            initialise(settings_of("two", **more))
        assert words in str(caught.value) and postgresql.password not in str(caught.value)
        assert not (tmp_path / "two").exists()


def test_a_store_moves_from_the_file_to_the_server_and_back(settings_of: SettingsOf, tmp_path: Path) -> None:
    in_file, on_server = settings_of("one", keystore_url=SecretStr("")), settings_of("one")
    instance = initialise(in_file)
    made = keys_of(instance, in_file)
    keystore.backup(instance, in_file, tmp_path / "copy")
    with pytest.raises(SetupError, match="there is no key store in postgresql"):
        open_store(instance, on_server)
    restoring.restore(instance, on_server, tmp_path / "copy", replace=False, even_newer=False)
    assert keys_of(instance, on_server) == made
    with Host(instance, on_server) as host:
        host.call("CreateKey", {})
    more = keys_of(instance, on_server)
    assert len(more) == 2 and keys_of(instance, in_file) == made
    keystore.backup(instance, on_server, tmp_path / "back")
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o600
    elsewhere = settings_of("elsewhere", keystore_url=SecretStr(""))
    for there, chosen in ((instance, in_file), (initialise(elsewhere), elsewhere)):
        restoring.restore(there, chosen, tmp_path / "back", replace=True, even_newer=True)
        assert keys_of(there, chosen) == more
        with closing(open_store(there, chosen)) as store:
            assert store.instance == there.id
        assert keystore.check(there, chosen)[1] == []
    assert not [*instance.data.glob("restoring*")]


def test_a_copy_put_back_on_the_server_is_seen_by_who_has_it_open(settings_of: SettingsOf, tmp_path: Path) -> None:
    chosen = settings_of("one")
    instance = initialise(chosen)
    before = keys_of(instance, chosen)
    keystore.backup(instance, chosen, tmp_path / "copy")
    with Host(instance, chosen) as host:
        host.call("CreateKey", {})
    newer = keys_of(instance, chosen)
    with pytest.raises(SetupError, match="--replace"):
        restoring.restore(instance, chosen, tmp_path / "copy", replace=False, even_newer=True)
    with pytest.raises(SetupError, match="is newer, by"):
        restoring.restore(instance, chosen, tmp_path / "copy", replace=True, even_newer=False)
    assert keys_of(instance, chosen) == newer
    with closing(open_store(instance, chosen)) as other:
        seen = other.changes_since(0, (KEY,)).generation
        made = restoring.restore(instance, chosen, tmp_path / "copy", replace=True, even_newer=True)
        wait_until(lambda: other.published == made.generation, "it has come")
        anew = other.changes_since(seen, (KEY,))
        assert anew.complete and {entry.id for entry in anew.entries} == before
    (aside,) = instance.data.glob("keystore.replaced-*.db")
    restoring.restore(instance, chosen, aside, replace=True, even_newer=True)  # nothing is lost
    assert keys_of(instance, chosen) == newer


def test_a_damaged_copy_changes_nothing(settings_of: SettingsOf, tmp_path: Path) -> None:
    chosen = settings_of("one")
    instance = initialise(chosen)
    before = keys_of(instance, chosen)
    keystore.backup(instance, chosen, tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy")) as connection, connection:
        connection.execute("UPDATE entries SET parent = 'x' WHERE kind = 'key'")
    with pytest.raises(SetupError, match="the copy is damaged"):
        restoring.restore(instance, chosen, tmp_path / "copy", replace=True, even_newer=True)
    assert keys_of(instance, chosen) == before


def test_the_master_key_is_changed_on_all_hosts_in_two_steps(settings_of: SettingsOf, tmp_path: Path) -> None:
    chosen = settings_of("one")
    instance = initialise(chosen)
    with pytest.raises(SetupError, match="several hosts have the master key"):
        rewrapping.rewrap(instance, chosen, None, finish=False)
    new = tmp_path / "new.key"
    new.write_bytes(base64.b64encode(b"\7" * 32))
    assert len(rewrapping.rewrap(instance, chosen, new, finish=False).also) == 1
    later = settings_of("one", master_key=new)
    assert keys_of(instance, chosen) == keys_of(instance, later)
    assert rewrapping.rewrap(instance, later, None, finish=True).also == ()
    with pytest.raises(SealBroken, match="master key does not open"):
        open_store(instance, chosen)


def test_psycopg_is_loaded_where_the_setting_is_used_only(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys, proxy.cli, proxy.worker, proxy.host, proxy.restoring; print('psycopg' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": "."}, capture_output=True, check=True)
    assert told.stdout == b"False\n"
    monkeypatch.setitem(sys.modules, "proxy.store_server", None)  # as where psycopg is not installed
    with pytest.raises(SetupError, match=r"keytrail\[postgresql\]"):
        initialise(settings_of("one"))


def test_check_finds_what_another_hand_changed(settings_of: SettingsOf, postgresql: PostgreSQL, url: str) -> None:
    chosen = settings_of("one")
    instance = initialise(chosen)
    standing, found = keystore.check(instance, chosen)
    assert (found, standing.rows["key"], standing.rows["alias"]) == ([], 1, 1)
    postgresql.execute(url.rpartition("/")[2], "UPDATE entries SET parent = 'x' WHERE kind = 'effect' AND id = 'since'")
    (told,) = keystore.check(instance, chosen)[1]
    assert "was changed by another hand" in told


def test_the_commands_and_settings_keep_the_password(
    settings_of: SettingsOf, url: str, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, master_key: Path, tmp_path: Path
) -> None:
    initialise(settings_of("one"))
    monkeypatch.setenv("KEYTRAIL_KEYSTORE_URL", url)
    monkeypatch.setenv("KEYTRAIL_MASTER_KEY", str(master_key))
    data = ("--data", str(tmp_path / "one"))
    outputs = [CliRunner().invoke(app, [*command, *data]) for command in (["keystore", "check"], ["caller", "list"], ["doctor"])]
    assert [result.exit_code for result in outputs[:2]] == [0, 0]
    told = "".join(result.output for result in outputs) + repr(settings_of("one")) + str(settings_of("one").model_dump())
    assert "key store" in outputs[2].output and postgresql.password not in told
    with pytest.raises(SetupError, match="begins with postgresql://") as caught:
        settings.load(None, {}, keystore_url=url.replace("postgresql", "mysql"))
    assert postgresql.password not in str(caught.value)
