"""What the store knows of calls whose outcome was lost: whether the change was made, and of what."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from audit.commit import Known
from audit.instance import ADMIN_LOG, Instance
from audit.record import AuditRecord, Effect, Resource, UserIdentity
from proxy.backends.local import effects
from proxy.host import Host, initialise
from proxy.settings import Settings
from tests.integration.components.postgresql import PostgreSQL
from tests.proxy.local.world import ACCOUNT, REGION, World, arn_of, call

START_US = 1_700_000_000_000_000


def ask(world: World, operation: str, intent_id: str, received_us: int = START_US, **parameters: object) -> None:
    one = call(operation, REGION, world.caller, **parameters)
    one.intent_id, one.received_us = intent_id, received_us
    asyncio.run(world.backend.call(one))


def intent(event_id: str, time_us: int = START_US, source: str = "kms.amazonaws.com", backend: str = "local") -> AuditRecord:
    return AuditRecord(
        time_us=time_us,
        event_id=event_id,
        event_name="CreateAlias",
        identity=UserIdentity("IAMUser"),
        aws_region=REGION,
        source_ip="192.0.2.1",
        event_source=source,
        backend=backend,
    )


def test_a_change_that_was_made_is_known_with_its_keys_and_aliases(world: World) -> None:
    key = world.new_key()
    ask(world, "CreateAlias", "one", AliasName="alias/a", TargetKeyId=key)
    alias = Resource(f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/a", ACCOUNT, "AWS::KMS::Alias")
    assert effects.known(world.store, intent("one")) == Known(Effect.MADE, (Resource(arn_of(key), ACCOUNT), alias))


def test_a_change_that_was_refused_or_changed_nothing_was_not_made(world: World) -> None:
    key = world.new_key()
    ask(world, "DisableKey", "first", KeyId=key)
    assert world.refused("CreateAlias", AliasName="alias/a", TargetKeyId="no-such-key").code == "NotFoundException"
    ask(world, "DisableKey", "again", received_us=START_US + 1, KeyId=key)
    for name in ("refused", "again"):
        assert effects.known(world.store, intent(name, START_US + 1)) == Known(Effect.NONE)


def test_nothing_is_known_of_what_is_older_than_the_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert effects.known(world.store, intent("early")) is None  # no row was ever written
    monkeypatch.setattr(effects, "KEPT", 8)
    monkeypatch.setattr(effects, "_PRUNED_EVERY", 4)
    key = world.new_key()
    for number in range(40):
        ask(world, "TagResource", f"i{number}", START_US + number, KeyId=key, Tags=[{"TagKey": "n", "TagValue": str(number)}])
    assert effects.known(world.store, intent("i39", START_US + 39)) == Known(Effect.MADE, (Resource(arn_of(key), ACCOUNT),))
    assert effects.known(world.store, intent("i0", START_US)) is None  # forgotten: nobody says that it was not made
    assert effects.known(world.store, intent("lost", START_US + 39)) == Known(Effect.NONE)
    with sqlite3.connect(world.path) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM entries WHERE kind = 'effect'").fetchone()
    connection.close()
    assert rows <= 8 + 4 + 1


def test_it_says_nothing_of_what_is_not_the_stores_affair_or_was_changed_by_another_hand(world: World) -> None:
    ask(world, "CreateKey", "one")
    assert effects.known(world.store, intent("two", source="keytrail")) is None
    assert effects.known(world.store, intent("two", backend="aws")) is None
    assert effects.known(world.store, intent("two")) == Known(Effect.NONE)
    with sqlite3.connect(world.path) as connection:
        assert connection.execute("UPDATE entries SET id = 'two' WHERE kind = 'effect' AND id = 'one'").rowcount == 1
    connection.close()
    assert effects.known(world.store, intent("two")) is None


#: Where a process is killed during CreateKey, and whether the key is there afterwards.
POINTS = [
    ("proxy.backends.local.backend.LocalBackend.call", "none"),
    ("proxy.transaction.Transaction.finish", "none"),
    ("proxy.sealed_store.SealedStore._publish", "made"),
    ("proxy.recording.Recorder.outcome", "made"),
]
KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from audit.instance import Instance
from proxy.host import Host
from proxy.settings import Settings

settings = Settings(data=Path(sys.argv[1]))
with Host(Instance.load(settings.data), settings) as host:
    module, name, method = sys.argv[2].rsplit(".", 2)
    setattr(getattr(importlib.import_module(module), name), method, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    host.call("CreateKey", {"Description": "of a process that is killed"})
"""


@pytest.mark.parametrize("is_shared", [False, True], ids=["sqlite", "postgresql"])
@pytest.mark.parametrize(("point", "effect"), POINTS)
def test_a_process_killed_within_a_change_leaves_a_store_and_a_log_that_agree(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, point: str, effect: str, is_shared: bool
) -> None:
    if is_shared:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        monkeypatch.setenv("KEYTRAIL_KEYSTORE_URL", server.url(server.new_database()))
    settings = Settings(data=tmp_path / "data")
    initialise(settings)
    argv = [sys.executable, "-c", KILLED, str(settings.data), point]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": "."}, check=False)
    assert done.returncode == -signal.SIGKILL
    instance = Instance.load(settings.data)
    with Host(instance, settings) as host:
        keys = {key["KeyArn"] for key in host.call("ListKeys", {}).members["Keys"]}
    segments = sorted(instance.log_folder(ADMIN_LOG).glob("*.jsonl"))
    records = [orjson.loads(line) for segment in segments for line in segment.read_bytes().splitlines()]
    (unknown,) = [one for one in records if one["additionalEventData"]["keytrail"]["phase"] == "unknown"]
    assert unknown["additionalEventData"]["keytrail"]["effect"] == effect
    assert len(keys) == (2 if effect == "made" else 1)
    recorded = {resource["ARN"] for one in records for resource in one["resources"] if resource["type"] == "AWS::KMS::Key"}
    assert recorded == keys
    assert len(unknown["resources"]) == (effect == "made")
