"""Guardrails in a running keytrail: refused before the call, named in the record, and read again at SIGHUP."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.docs.repository import ROOT
from tests.integration.conftest import Server, keytrail, wait_until

TENANT = {"KeyId": "alias/demo", "KeySpec": "AES_256", "EncryptionContext": {"tenant": "acme"}}
NOBODY = {"KeyId": "alias/demo", "KeySpec": "AES_256"}
BROKEN = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "kms:*", "Resource": "*", "Condition": {"X": {}}}]}


def test_a_guardrail_refuses_and_is_read_again(own_server: Server, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    shutil.copy(ROOT / "config" / "policies" / "10-name-the-tenant.json", policies)
    own_server.settings["KEYTRAIL_POLICIES"] = str(policies)
    own_server.start()
    assert own_server.post("GenerateDataKey", TENANT).status == 200
    refused = own_server.post("GenerateDataKey", NOBODY)
    assert (refused.status, refused.code) == (400, "AccessDeniedException")
    assert b"TenantInEncryptionContext" in refused.body
    record = own_server.records()[-1]
    assert (record["errorCode"], keytrail(record)["deniedBy"]) == (
        "AccessDenied",
        {"policy": "10-name-the-tenant.json", "statement": "TenantInEncryptionContext"},
    )
    assert "fingerprintsOut" not in keytrail(record)

    (policies / "20-broken.json").write_text(json.dumps(BROKEN))  # it keeps nothing from standing as it stood
    own_server.process.send_signal(signal.SIGHUP)
    log = own_server.outputs[0]
    wait_until(lambda: "nothing was changed" in log.read_text(), "the log says why")
    assert own_server.post("GenerateDataKey", NOBODY).code == "AccessDeniedException"

    (policies / "20-broken.json").unlink()
    (policies / "10-name-the-tenant.json").write_text((ROOT / "config" / "policies" / "20-keys-are-kept.json").read_text())
    own_server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: own_server.post("GenerateDataKey", NOBODY).status == 200, "the new guardrails")
    deletion = own_server.post("ScheduleKeyDeletion", {"KeyId": own_server.demo_key_id(), "PendingWindowInDays": 7})
    assert deletion.code == "AccessDeniedException"


def test_a_guardrail_refuses_calls_to_sts_before_their_intent(own_server: Server, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    statement = {"Sid": "NoSessions", "Effect": "Deny", "Action": "sts:*", "Resource": "*"}
    (policies / "sts.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": statement}))
    own_server.settings["KEYTRAIL_POLICIES"] = str(policies)
    own_server.start()
    access_key_id, secret_access_key = own_server.credentials()
    sts: Any = boto3.client(
        "sts",
        region_name="us-east-1",
        endpoint_url=own_server.url,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
    )
    assert sts.get_caller_identity()["Arn"].endswith(":user/demo")
    with pytest.raises(ClientError) as refused:
        sts.get_session_token()
    error = refused.value.response
    assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == ("AccessDenied", 403)
    assert "explicit deny in the guardrail sts.json, statement NoSessions" in error["Error"]["Message"]
    _, record = own_server.records()  # no intent: nothing was about to be done
    assert (record["eventName"], record["errorCode"]) == ("GetSessionToken", "AccessDenied")
    assert keytrail(record)["deniedBy"] == {"policy": "sts.json", "statement": "NoSessions"}


def test_a_broken_guardrail_keeps_keytrail_from_starting(own_server: Server, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "broken.json").write_text(json.dumps(BROKEN))
    own_server.settings["KEYTRAIL_POLICIES"] = str(policies)
    own_server.spawn()
    assert own_server.process.wait(20) == 3
    assert "broken.json" in own_server.outputs[0].read_text()


def test_callers_over_their_rate_are_throttled(own_server: Server) -> None:
    own_server.settings["KEYTRAIL_CALLS_PER_CALLER_S"] = "1"
    own_server.start()
    replies = [own_server.post("ListKeys", {}) for _ in range(6)]
    assert {reply.status for reply in replies[:2]} == {200}
    assert "ThrottlingException" in {reply.code for reply in replies}
    assert len(own_server.records()) == 6
