"""What the store knows of calls whose outcome was lost: whether the change was made, and of what."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from audit.commit import Known
from audit.instance import ADMIN_LOG, Instance
from audit.record import AuditRecord, Effect, Resource, UserIdentity
from proxy import keystore
from proxy.backends.local import effects
from proxy.domain import KeyUse
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


def test_a_grant_that_the_intent_does_not_name_is_known(world: World) -> None:
    key = world.new_key()
    ask(world, "CreateGrant", "made", KeyId=key, GranteePrincipal=world.caller.arn, Operations=["Decrypt"])
    [grant] = world("ListGrants", KeyId=key)["Grants"]
    retired = world("CreateGrant", KeyId=key, GranteePrincipal=world.caller.arn, Operations=["Decrypt"])
    ask(world, "RetireGrant", "retired", GrantToken=retired["GrantToken"])
    of_key = (Resource(arn_of(key), ACCOUNT),)
    assert effects.known(world.store, intent("made")) == Known(Effect.MADE, of_key, grant["GrantId"])
    assert effects.known(world.store, intent("retired")) == Known(Effect.MADE, of_key, retired["GrantId"])


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
    for source in ("keytrail", "cloudtrail.amazonaws.com"):
        assert effects.known(world.store, intent("two", source=source)) is None
    assert effects.known(world.store, intent("two", backend="aws")) is None
    assert effects.known(world.store, intent("two")) == Known(Effect.NONE)
    with sqlite3.connect(world.path) as connection:
        assert connection.execute("UPDATE entries SET id = 'two' WHERE kind = 'effect' AND id = 'one'").rowcount == 1
    connection.close()
    assert effects.known(world.store, intent("two")) is None


def test_of_a_command_something_is_known_since_commands_leave_rows(world: World) -> None:
    """Which they do since later than calls: of one of before nobody says that it was not done."""
    with world.store.change() as tx:  # as an older keytrail left it
        tx.put(effects.EFFECT, "", "since", {"at_us": START_US})
    added = replace(intent("lost", START_US + 1, source="keytrail"), event_name="AddCaller")
    assert effects.known(world.store, added) is None
    with world.store.change() as tx:
        effects.keep(tx, "made", START_US + 2, ())
    assert effects.known(world.store, added) is None
    later = replace(added, time_us=START_US + 3)
    assert effects.known(world.store, later) == Known(Effect.NONE)
    assert effects.known(world.store, replace(later, event_id="made")) == Known(Effect.MADE)
    assert effects.known(world.store, replace(later, event_name="CreateCertificateAuthority")) is None


def test_of_a_new_session_something_is_known_since_sessions_leave_rows(world: World) -> None:
    with world.store.change() as tx:  # as an older keytrail left it
        for since in ("since", "commands since"):
            tx.put(effects.EFFECT, "", since, {"at_us": START_US})
    lost = intent("lost", START_US + 1, source="sts.amazonaws.com")
    assert effects.known(world.store, lost) is None
    role = KeyUse(f"arn:aws:iam::{ACCOUNT}:role/r", ACCOUNT)
    with world.store.change() as tx:
        effects.keep(tx, "made", START_US + 2, (), roles=(role,))
    later = replace(lost, time_us=START_US + 3)
    assert effects.known(world.store, later) == Known(Effect.NONE)
    made = Known(Effect.MADE, (Resource(role.arn, ACCOUNT, "AWS::IAM::Role"),))
    assert effects.known(world.store, replace(later, event_id="made")) == made


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


BOB = f"arn:aws:iam::{ACCOUNT}:user/bob"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/builder"
POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}]}'
TRUST = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]}'
SEED = '{"keys": [{"id": "aaaaaaaa-1111-2222-3333-444455556666", "material": "hex:' + "ab" * 32 + '"}]}'
#: What is done on the host, as a statement; and how much of it is there afterwards.
COMMANDS: dict[str, tuple[str, Callable[[Host], int]]] = {
    "AddCaller": (
        "host.add_caller(BOB, None, 'bob')",
        lambda host: [one.principal.arn for one in host.callers.list()].count(BOB),
    ),
    "PutCallerPolicy": ("host.put_policy(BOB, 'own', POLICY)", lambda host: len(host.permissions.held().by_owner)),
    "AddRole": ("host.add_role(ROLE, TRUST, 3600, replace=False)", lambda host: len(host.roles.list())),
    "SeedKey": (
        "seed(instance, settings, settings.data.with_name('seed.json'))",
        lambda host: len(host.call("ListKeys", {}).members["Keys"]) - 1,
    ),
}
ON_THE_HOST = """
import importlib, os, signal, sys
from contextlib import nullcontext
from pathlib import Path
from audit.instance import Instance
from proxy.host import Host
from proxy.seeding import seed
from proxy.settings import Settings
from tests.proxy.local.test_effects import BOB, POLICY, ROLE, TRUST

settings = Settings(data=Path(sys.argv[1]))
instance = Instance.load(settings.data)
with nullcontext() if sys.argv[3].startswith("seed") else Host(instance, settings) as host:
    module, name, method = sys.argv[2].rsplit(".", 2)
    setattr(getattr(importlib.import_module(module), name), method, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    eval(sys.argv[3])
"""


@pytest.mark.parametrize("command", sorted(COMMANDS))
@pytest.mark.parametrize(("point", "effect"), POINTS[1:])
def test_a_command_killed_within_its_change_leaves_a_store_and_a_log_that_agree(
    tmp_path: Path, command: str, point: str, effect: str
) -> None:
    settings = Settings(data=tmp_path / "data")
    initialise(settings)
    (tmp_path / "seed.json").write_text(SEED)
    statement, count = COMMANDS[command]
    argv = [sys.executable, "-c", ON_THE_HOST, str(settings.data), point, statement]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": "."}, check=False)
    assert done.returncode == -signal.SIGKILL
    instance = Instance.load(settings.data)
    with Host(instance, settings) as host:
        assert count(host) == (1 if effect == "made" else 0)
    segments = sorted(instance.log_folder(ADMIN_LOG).glob("*.jsonl"))
    records = [orjson.loads(line) for segment in segments for line in segment.read_bytes().splitlines()]
    (unknown,) = [one for one in records if one["additionalEventData"]["keytrail"]["phase"] == "unknown"]
    assert (unknown["eventName"], unknown["additionalEventData"]["keytrail"]["effect"]) == (command, effect)
    is_key = (command, effect) == ("SeedKey", "made")
    assert [one["ARN"].rpartition("/")[2] for one in unknown["resources"]] == ["aaaaaaaa-1111-2222-3333-444455556666"] * is_key


_SEARCH = [sys.executable, "-c", "from proxy.cli import main; main()", "query", "--event", "nothing", "--data"]


@pytest.mark.parametrize("following", ["keystore", "search", "search without the settings' key"])
def test_whatever_command_comes_next_tells_of_the_effect(tmp_path: Path, following: str) -> None:
    settings = Settings(data=tmp_path / "data")
    instance = initialise(settings)
    environment = {**os.environ, "PYTHONPATH": "."}
    point = "proxy.recording.Recorder.outcome"
    done = subprocess.run([sys.executable, "-c", KILLED, str(settings.data), point], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    told = ""
    if following == "keystore":
        keystore.check(instance, settings)
    else:
        if following != "search":
            environment["KEYTRAIL_MASTER_KEY"] = str(tmp_path / "nowhere")
        served = instance.hold()
        try:
            told = subprocess.run(
                [*_SEARCH, str(settings.data)], env=environment, check=True, capture_output=True, text=True
            ).stderr
        finally:
            os.close(served)
    segments = sorted(instance.log_folder(ADMIN_LOG).glob("*.jsonl"))
    records = [orjson.loads(line) for segment in segments for line in segment.read_bytes().splitlines()]
    (unknown,) = [one for one in records if one["additionalEventData"]["keytrail"]["phase"] == "unknown"]
    if following in ("keystore", "search"):
        assert unknown["additionalEventData"]["keytrail"]["effect"] == "made" and len(unknown["resources"]) == 1
    else:
        assert "effect" not in unknown["additionalEventData"]["keytrail"] and "is not known" in told
