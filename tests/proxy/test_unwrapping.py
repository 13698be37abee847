"""Who can have a data key unwrapped now: by callers, key state and guardrails, and told by `trace`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit.query.standing import Standing
from proxy import settings
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.grants import Grant
from proxy.cli import app
from proxy.host import Host, initialise
from proxy.unwrapping import who_can_unwrap
from tests.audit.query.builder import LogBuilder
from tests.proxy.local.policies import document, of_account, statement

CONTEXT = {"tenant": "acme"}
DEMO, ALICE = "arn:aws:iam::111122223333:user/demo", "arn:aws:iam::111122223333:user/alice"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    for name in ("KEYTRAIL_CONFIG", "KEYTRAIL_POLICIES", "KEYTRAIL_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    chosen = settings.Settings(data=tmp_path / "data")
    with Host(initialise(chosen), chosen) as opened:
        opened.add_caller(ALICE, None, "alice")
        serving = opened.instance.hold()
        yield opened
        os.close(serving)


def key_of(host: Host) -> str:
    found: str = host.call("DescribeKey", {"KeyId": "alias/demo"}).members["KeyMetadata"]["Arn"]
    return found


def standing(host: Host, context: dict[str, str] = CONTEXT) -> Standing:
    found = who_can_unwrap(host.instance.data, key_of(host), context)
    assert found is not None
    return found


def guard(monkeypatch: pytest.MonkeyPatch, folder: Path, *statements: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "guard.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))
    monkeypatch.setenv("KEYTRAIL_POLICIES", str(folder))


def test_without_guardrails_every_caller_that_is_enabled_can(host: Host) -> None:
    assert standing(host).can == (ALICE, DEMO)
    (alice,) = (one for one in host.callers.list() if one.principal.arn == ALICE)
    host.disable_caller(alice.principal.access_key_id)
    assert standing(host) == Standing(key_of(host), can=(DEMO,))


def test_guardrails_decide_with_the_context(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    denied = {
        "Effect": "Deny",
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": {"StringEquals": {"kms:EncryptionContext:tenant": "acme", "aws:username": "alice"}},
    }
    guard(monkeypatch, tmp_path / "policies", denied)
    assert standing(host).can == (DEMO,)
    assert standing(host, {"tenant": "globex"}).can == (ALICE, DEMO)


def test_what_depends_on_the_clients_address_is_left_open(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    condition = {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    guard(monkeypatch, tmp_path / "policies", {"Effect": "Deny", "Action": "kms:*", "Resource": "*", "Condition": condition})
    policies = str(tmp_path / "policies")
    assert standing(host) == Standing(key_of(host), may=(ALICE, DEMO), depends_on=("aws:SourceIp",), guardrails=policies)


def test_policies_and_grants_decide_too(host: Host) -> None:
    key = key_of(host)
    host.put_policy(ALICE, "own", document(statement(action="kms:Encrypt")))
    assert standing(host).can == (DEMO,)
    acme = {"StringEquals": {"kms:EncryptionContext:tenant": "acme"}}
    host.put_policy(ALICE, "own", document(statement(action="kms:Decrypt", Condition=acme)))
    assert (standing(host).can, standing(host, {"tenant": "globex"}).can) == ((ALICE, DEMO), (DEMO,))
    host.call("PutKeyPolicy", {"KeyId": key, "Policy": document(of_account("kms:Put*"))})
    assert standing(host) == Standing(key, reason="nobody: no caller is enabled and allowed")
    give_grant(host, key, ALICE)
    assert standing(host).can == (ALICE,)
    near = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    allow = statement(action="kms:Decrypt", principal={"AWS": DEMO}, Condition=near)
    host.call("PutKeyPolicy", {"KeyId": key, "Policy": document(of_account("kms:Put*"), allow)})
    assert standing(host) == Standing(key, can=(ALICE,), may=(DEMO,), depends_on=("aws:SourceIp",))


def give_grant(host: Host, key: str, grantee: str) -> None:
    region, account_id, name = key.split(":")[3:]
    grant = Grant("a" * 64, region, name.removeprefix("key/"), account_id, account_id, grantee, ("Decrypt",), 1.0)
    with host.permissions._store.change() as tx:
        KeysInChange(tx).put_grant(replace(grant, token_key=bytes(32)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("DisableKey", {}), "nobody: the key is Disabled"),
        (("ScheduleKeyDeletion", {"PendingWindowInDays": 7}), "nobody: the key is PendingDeletion"),
    ],
)
def test_a_key_that_is_not_enabled_unwraps_for_nobody(host: Host, change: tuple[str, dict[str, Any]], reason: str) -> None:
    key = key_of(host)
    host.call(change[0], {"KeyId": key, **change[1]})
    assert standing(host) == Standing(key, reason=reason)


def test_of_other_keys_it_says_what_it_knows(host: Host) -> None:
    key = key_of(host)
    gone = key.rpartition("/")[0] + "/00000000-0000-0000-0000-000000000000"
    found = who_can_unwrap(host.instance.data, gone, {})
    assert found is not None and found.reason == "nobody: the key is not there, or deleted"
    assert who_can_unwrap(host.instance.data, key.replace("111122223333", "999988887777"), {}) is None


def test_without_the_master_key_it_is_not_known(host: Host) -> None:
    key = key_of(host)
    host.instance.master_key.unlink()
    found = who_can_unwrap(host.instance.data, key, {})
    assert found is not None and str(found.reason).startswith("not known: the master key cannot be read")


def test_of_a_copy_nothing_is_said_and_nothing_in_it_is_touched(host: Host, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(host.instance.data, copy)
    before = {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))}
    assert who_can_unwrap(copy, key_of(host), CONTEXT) is None
    assert {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))} == before


def test_in_front_of_aws_it_is_for_aws_to_say(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTRAIL_BACKEND", "aws")
    assert who_can_unwrap(host.instance.data, key_of(host), {}) is None


def test_trace_tells_it(host: Host) -> None:
    key = key_of(host)
    blob = hashlib.sha256(b"one").hexdigest()
    log = LogBuilder(host.instance.data, "w0")
    log.add(1, "GenerateDataKey", key=key, blobs_out=["one"], context=CONTEXT)
    told = CliRunner().invoke(app, ["trace", blob, "--data", str(host.instance.data)], obj=who_can_unwrap)
    assert told.exit_code == 0, told.output
    assert (
        "can unwrap it now: user/alice, user/demo; by callers, key and no guardrails (none are set here), with this context"
        in told.stdout
    )
    as_json = CliRunner().invoke(app, ["trace", blob, "--json", "--data", str(host.instance.data)], obj=who_can_unwrap)
    assert json.loads(as_json.stdout)["can_unwrap_now"]["can"] == [ALICE, DEMO]
    alone = CliRunner().invoke(app, ["trace", blob, "--data", str(host.instance.data)])
    assert "can unwrap" not in alone.stdout
