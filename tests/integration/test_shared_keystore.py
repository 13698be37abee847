"""Two hosts with one key store on a PostgreSQL server: two `keytrail serve` on two data folders, asked by boto3."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from tests.integration.components.postgresql import PostgreSQL
from tests.integration.conftest import LIMIT_S, Server, keytrail, keytrail_command, plain_environment, wait_until
from tests.integration.test_faults import Changes, kill_worker
from tests.integration.test_readme import Reader, recipes

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

Pair = tuple[Server, Server]


@pytest.fixture
def hosts(postgresql: PostgreSQL, tmp_path: Path) -> Iterator[Pair]:
    """Both initialised and not started; the second has the first one's caller."""
    (tmp_path / "master.key").write_bytes(base64.b64encode(os.urandom(32)))
    shared = {
        "KEYTRAIL_KEYSTORE_URL": postgresql.url(postgresql.new_database()),
        "KEYTRAIL_MASTER_KEY": str(tmp_path / "master.key"),
        "KEYTRAIL_DRAIN_TIMEOUT_S": "3",
    }
    one, two = (Server(tmp_path / name, shared) for name in ("one", "two"))
    for server in (one, two):
        argv = [keytrail_command(), "init", "--data", str(server.data)]
        subprocess.run(argv, check=True, env=plain_environment() | shared, cwd=tmp_path, stdout=subprocess.DEVNULL)
    (two.data / "credentials").write_bytes((one.data / "credentials").read_bytes())
    yield one, two
    for server in (one, two):
        if server.starts:
            server.kill_all()


def code_of(client: KMSClient, blob: bytes) -> str:
    """What Decrypt is refused with; "" where it is answered."""
    try:
        client.decrypt(CiphertextBlob=blob)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""


def test_what_one_host_changes_the_other_goes_by(hosts: Pair, postgresql: PostgreSQL) -> None:
    one, two = (server.start() for server in hosts)
    a, b = one.client(), two.client()
    key_id = a.create_key()["KeyMetadata"]["KeyId"]
    a.create_alias(AliasName="alias/shared", TargetKeyId=key_id)
    blob = a.encrypt(KeyId="alias/shared", Plaintext=b"x")["CiphertextBlob"]  # what one has changed oneself, one sees at once
    wait_until(lambda: code_of(b, blob) == "", "the key is on the other host")
    assert b.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    grant = a.create_grant(KeyId=key_id, GranteePrincipal="arn:aws:iam::111122223333:user/demo", Operations=["Decrypt"])
    wait_until(lambda: bool(b.list_grants(KeyId=key_id)["Grants"]), "the grant is on the other host")
    assert b.list_grants(KeyId=key_id)["Grants"][0]["GrantId"] == grant["GrantId"]
    b.revoke_grant(KeyId=key_id, GrantId=grant["GrantId"])
    a.disable_key(KeyId=key_id)
    wait_until(lambda: code_of(b, blob) == "DisabledException", "it is disabled on the other host")
    b.enable_key(KeyId=key_id)
    assert code_of(b, blob) == ""
    wait_until(lambda: code_of(a, blob) == "", "it is enabled on the first")
    assert a.list_grants(KeyId=key_id)["Grants"] == []
    for server in (one, two):
        assert server.stop() == 0
    made = [record["eventName"] for record in one.records() if keytrail(record)["phase"] == "outcome" and not record["readOnly"]]
    assert made == ["CreateKey", "CreateAlias", "CreateGrant", "DisableKey"]  # each host's log has its own calls
    for server in (one, two):
        written = b"".join(path.read_bytes() for path in (*server.outputs, *server.segments(), *server.segments("admin")))
        assert postgresql.password.encode() not in written


def test_a_host_that_does_not_hear_of_the_store_refuses_and_says_so(hosts: Pair, postgresql: PostgreSQL) -> None:
    hosts[0].settings = hosts[0].settings | {
        "KEYTRAIL_KEYSTORE_STALE_AFTER_S": "5"
    }  # of which a slow host may take a part itself
    one = hosts[0].start()
    blob = one.client().encrypt(KeyId="alias/demo", Plaintext=b"x")["CiphertextBlob"]
    postgresql.freeze()
    try:
        wait_until(lambda: not one.is_ready(), "it is not ready")
        status, body = one.health()
        assert status == 503 and "has not been heard of" in body["processes"]["w0"]["reason"]
        with pytest.raises(ClientError) as refused:
            one.client().decrypt(CiphertextBlob=blob)
        metadata = refused.value.response["ResponseMetadata"]
        assert (refused.value.response["Error"]["Code"], metadata["HTTPStatusCode"]) == ("KMSInternalException", 500)
    finally:
        postgresql.thaw()
    wait_until(one.is_ready, "it is ready again")
    assert code_of(one.client(), blob) == ""
    assert one.stop() == 0
    (recorded,) = [one_ for one_ in one.records() if one_["requestID"] == metadata["RequestId"]]
    assert recorded["errorCode"] == "KMSInternalException"
    assert recorded["userIdentity"]["accessKeyId"] == one.credentials()[0]


def test_a_host_waits_for_a_server_that_is_down(hosts: Pair, postgresql: PostgreSQL) -> None:
    one = hosts[0]
    postgresql.kill()
    one.spawn()
    wait_until(lambda: "cannot be reached" in one.outputs[0].read_text(), "it says why it does not start")
    assert postgresql.password not in one.outputs[0].read_text()
    postgresql.start()
    wait_until(lambda: "health at" in one.outputs[1].read_text(), "it serves", 3 * LIMIT_S)
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(LIMIT_S) == 0


def test_whenever_a_worker_or_the_server_is_killed_the_store_and_the_logs_agree(hosts: Pair, postgresql: PostgreSQL) -> None:
    one, two = (server.start() for server in hosts)
    with Changes(one).running() as ones, Changes(two).running() as others:
        kills = (partial(kill_worker, one), partial(restart, postgresql), partial(kill_worker, two), partial(restart, postgresql))
        for kill in kills:
            ones.wait_for(15)
            others.wait_for(15)
            kill()
    for server in (one, two):
        wait_until(server.is_ready, "it is ready", 3 * LIMIT_S)
        assert server.stop() == 0
    database = one.settings["KEYTRAIL_KEYSTORE_URL"].rpartition("/")[2]
    found = postgresql.execute(database, "SELECT id FROM entries WHERE kind = 'key' AND deleted = 0")
    there = {f"arn:aws:kms:us-east-1:111122223333:key/{key_id}" for (key_id,) in found}
    outcomes = [
        record
        for server in (one, two)
        for record in (*server.records("admin"), *server.records())
        if record["eventName"] == "CreateKey" and keytrail(record)["phase"] != "intent"
    ]
    effects = [keytrail(record).get("effect") or ("none" if "errorCode" in record else "made") for record in outcomes]
    said = {
        resource["ARN"]
        for effect, record in zip(effects, outcomes, strict=True)
        if effect == "made"
        for resource in record["resources"]
    }
    assert said <= there  # whatever a record says was made, is there
    assert len(there - said) <= effects.count("unknown")  # and whatever is there, a record says, or says that it does not know
    assert len(said) > 20


def restart(postgresql: PostgreSQL) -> None:
    postgresql.kill()
    postgresql.start()


def test_the_readmes_recipe_works_on_each_host(postgresql: PostgreSQL, tmp_path: Path) -> None:
    (recipe,) = recipes(elsewhere="postgresql")
    (tmp_path / "master.key").write_bytes(base64.b64encode(os.urandom(32)))
    database = postgresql.new_database()
    (tmp_path / "pgpass").write_text(f"*:*:*:*:{postgresql.password}\n")
    (tmp_path / "pgpass").chmod(0o600)
    places = {
        "postgresql://keytrail@db.example/keytrail?sslmode=verify-full": postgresql.url(database, password=False),
        "/etc/keytrail": str(tmp_path),
    }
    told, path = [], f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for host in ("one", "two"):
        (tmp_path / host).mkdir()
        ran = Reader(tmp_path / host, places, {"PATH": path}).run(recipe)
        assert ran is not None and ran.exit_code == 0, ran
        told.append(ran.out)
    assert "The first caller's credentials are in" in told[0] and "The key store was there" in told[1]
    assert all("1 alias" in out and "1 key" in out for out in told)
