from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.query.detections.findings import Severity
from audit.query.detections.lookups import family_of, network_of
from audit.query.detections.policies import opened_to
from audit.query.detections.settings import Canary, Settings
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at, fingerprint
from tests.audit.query.detections.events import (
    DAY,
    FOREIGN_KEY,
    OTHER_ACCOUNT,
    SINCE_S,
    findings,
    identity,
    outcome,
    past,
)

ALICE, BOB, EVE = (f"arn:aws:iam::111122223333:user/{name}" for name in ("alice", "bob", "eve"))
TRUSTING = Settings(trusted_accounts=(OTHER_ACCOUNT,))


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    return LogBuilder(tmp_path)


def test_refused_for_what_others_open(log: LogBuilder) -> None:
    past(log, blobs_in=["one"], user="alice")
    past(log, blobs_in=["own"], user="eve")
    past(log, blobs_in=["own"], user="alice")
    log.add(SINCE_S, user="eve", blobs_in=["own"], error="AccessDenied")  # opened it before: its permission ended
    log.add(SINCE_S, user="eve", blobs_in=["nobody's"], error="AccessDenied")
    log.add(SINCE_S, user="eve", blobs_in=["one"], error="NotFoundException")
    log.add(SINCE_S, user="bob", blobs_in=["one"])
    assert findings(log, "KT011") == []
    log.add(SINCE_S + 1, user="eve", blobs_in=["one"], error="AccessDenied")
    log.add(SINCE_S + 2, user="eve", blobs_in=["one"], error="InvalidCiphertextException")
    [found] = findings(log, "KT011")
    assert found.subject == {"principal": EVE, "key": KEY_A}
    assert found.why == f"{EVE} was refused 2 times for what other principals opened (ciphertexts: 1)"
    assert findings(log, "KT011", count=2) == []


def test_first_use_by_a_principal(log: LogBuilder) -> None:
    past(log, user="alice")
    past(log, user="bob", key=KEY_B)
    past(log, user="eve", error="AccessDenied")  # that was no use
    log.add(SINCE_S - 1, user="carol")
    for user in ("alice", "bob", "carol", "eve"):
        log.add(SINCE_S + 1, user=user)
    log.add(SINCE_S + 2, user="eve", error="AccessDenied")
    log.add(SINCE_S + 3, "DescribeKey", user="dave")  # uses nothing
    log.add(SINCE_S + 4, "Sign", user="eve")
    found = findings(log, "KT020")
    assert [(one.subject["principal"], one.count) for one in found] == [(BOB, 1), (EVE, 2)]
    assert found[1].why == f"{EVE} used this key 2 times, and never in the time before"


def test_first_use_is_of_each_key_of_a_call_and_not_of_keys_that_are_new(log: LogBuilder) -> None:
    past(log)
    log.add(SINCE_S, "CreateKey", key=KEY_B, readOnly=False)
    log.add(SINCE_S + 1, "ReEncrypt", resources=[{"ARN": KEY_A}, {"ARN": FOREIGN_KEY}])
    log.add(SINCE_S + 2, "Encrypt", key=KEY_B)
    assert [one.subject["key"] for one in findings(log, "KT020")] == [FOREIGN_KEY]


def test_first_use_from_a_network(log: LogBuilder) -> None:
    past(log, sourceIPAddress="10.0.0.7")
    past(log, sourceIPAddress="2001:db8::1")
    for address in ("10.0.0.200", "10.0.1.7", "10.0.1.8", "2001:db8::ffff:2", "2001:db8:0:1::1", "s3.amazonaws.com"):
        log.add(SINCE_S, sourceIPAddress=address)
    found = {one.subject["network"]: one.count for one in findings(log, "KT021")}
    assert found == {"10.0.1.0/24": 2, "2001:db8:0:1::/64": 1, "s3.amazonaws.com": 1}


def test_first_use_by_a_kind_of_client(log: LogBuilder) -> None:
    past(log, userAgent="Boto3/1.44.5 md/Botocore#1.44.5 os/linux#6.1 lang/python#3.11.7 m/a,b")
    log.add(SINCE_S, userAgent="Boto3/1.45.0 md/Botocore#1.45.0 os/linux#6.8 lang/python#3.12.1 m/c")
    log.add(SINCE_S, userAgent="aws-cli/2.15.0 Python/3.11.6")
    [found] = findings(log, "KT022")
    assert found.subject == {"key": KEY_A, "agent": "aws-cli Python"}
    assert found.severity is Severity.INFORMATIONAL


def test_first_uses_without_a_baseline_are_not_told_and_that_is_said_once(log: LogBuilder) -> None:
    log.add(SINCE_S, user="eve")
    answer = outcome(log)
    assert answer.findings == ()
    assert answer.notes == (
        "there is no event before --since that could tell what is usual",
        "not asked, for want of a baseline: KT012, KT014, KT020, KT021, KT022",
    )


def test_a_short_baseline_is_said(log: LogBuilder) -> None:
    past(log)
    [note] = outcome(log).notes
    assert note.startswith("the first event of the baseline is of 2026-01-07")
    log.add(60, "Decrypt")
    assert outcome(log).notes == ()


def test_use_after_disable_and_after_scheduled_deletion(log: LogBuilder) -> None:
    log.add(SINCE_S, user="eve", error="DisabledException")
    log.add(SINCE_S + 1, user="eve", error="DisabledException")
    log.add(SINCE_S + 2, user="bob", error="KMSInvalidStateException")
    log.add(SINCE_S + 3, user="bob")
    past(log, error="DisabledException")
    [disabled] = findings(log, "KT030")
    assert (disabled.subject, disabled.count) == ({"principal": EVE, "key": KEY_A}, 2)
    assert findings(log, "KT030", count=3) == []
    [deleted] = findings(log, "KT031")
    assert (deleted.subject["principal"], deleted.severity) == (BOB, Severity.HIGH)
    assert deleted.why == f"{BOB} tried once to use a key whose state forbids it"


def test_changes_of_keys(log: LogBuilder) -> None:
    for event in ("ScheduleKeyDeletion", "DisableKey", "PutKeyPolicy", "UpdateAlias", "EnableKey", "TagResource"):
        log.add(SINCE_S, event, phase="intent")
        log.add(SINCE_S + 1, event)
    log.add(SINCE_S + 2, "DisableKey", error="AccessDenied")
    log.add(SINCE_S + 2, "DisableKeyRotation", phase="unknown")
    past(log, "DisableKey")
    assert [(one.subject["change"], one.count) for one in findings(log, "KT032")] == [
        ("DisableKey", 1),
        ("ScheduleKeyDeletion", 1),
    ]
    changed = [one.subject["change"] for one in findings(log, "KT033")]
    assert changed == ["PutKeyPolicy", "UpdateAlias", "DisableKeyRotation"]  # one by one in time


def test_a_change_that_was_made_on_the_host_is_its_users(log: LogBuilder) -> None:
    facts = {"phase": "outcome", "identityProof": "host-operator"}
    who = {"type": "Unknown", "principalId": "host:0", "userName": "root"}
    log.add(SINCE_S, "DisableKey", userIdentity=who, additionalEventData={"keytrail": facts})
    [found] = findings(log, "KT032")
    assert found.subject["principal"] == "host user root"


def grant(grantee: str) -> dict[str, Any]:
    return {"requestParameters": {"keyId": KEY_A, "granteePrincipal": grantee}, "readOnly": False}


def test_grants_to_another_account(log: LogBuilder) -> None:
    stranger = f"arn:aws:iam::{OTHER_ACCOUNT}:role/reader"
    log.add(SINCE_S, "CreateGrant", **grant(ALICE))
    log.add(SINCE_S, "CreateGrant", **grant("ec2.amazonaws.com"))
    log.add(SINCE_S, "CreateGrant", **grant(stranger), error="AccessDenied")
    assert findings(log, "KT034") == []
    log.add(SINCE_S + 1, "CreateGrant", **grant(stranger))
    [found] = findings(log, "KT034")
    assert found.subject == {"principal": ALICE, "key": KEY_A, "grantee": stranger}
    assert findings(log, "KT034", TRUSTING) == []


def policy(principal: object, **changes: object) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Principal": principal, **changes}
    return {"requestParameters": {"keyId": KEY_A, "policy": json.dumps({"Version": "2012-10-17", "Statement": [statement]})}}


def test_policies_that_open_a_key(log: LogBuilder) -> None:
    log.add(SINCE_S, "PutKeyPolicy", **policy({"AWS": "arn:aws:iam::111122223333:root"}))
    log.add(SINCE_S, "PutKeyPolicy", **policy("*"), error="AccessDenied")
    log.add(SINCE_S, "PutKeyPolicy", requestParameters={"policy": "no JSON"})
    past(log, "PutKeyPolicy", **policy("*"))
    assert findings(log, "KT035") == findings(log, "KT036") == []
    log.add(SINCE_S + 1, "PutKeyPolicy", **policy({"AWS": ["*", f"arn:aws:iam::{OTHER_ACCOUNT}:root"]}))
    log.add(SINCE_S + 2, "CreateKey", key=KEY_B, **policy({"AWS": OTHER_ACCOUNT}), user="bob")
    [everybody] = findings(log, "KT035")
    assert (everybody.subject, everybody.severity) == ({"principal": ALICE, "key": KEY_A}, Severity.CRITICAL)
    others = findings(log, "KT036")
    assert [(one.subject["principal"], one.subject["key"], one.subject["account"]) for one in others] == [
        (ALICE, KEY_A, OTHER_ACCOUNT),
        (BOB, KEY_B, OTHER_ACCOUNT),
    ]
    assert findings(log, "KT036", TRUSTING) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Principal": "*"}, ["*"]),
        ({"Principal": {"AWS": "*"}, "Effect": "Deny"}, []),
        ({"Principal": {"Service": "s3.amazonaws.com"}}, []),
        (
            {"Principal": {"AWS": ["444455556666", "arn:aws:sts::777788889999:assumed-role/r/s"]}},
            ["444455556666", "777788889999"],
        ),
        ({"NotPrincipal": {"AWS": "444455556666"}}, ["*"]),
        ({"Principal": "*", "Condition": {"StringEquals": {"kms:CallerAccount": "111122223333"}}}, []),
        ({"Principal": "*", "Condition": {"StringEquals": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}}}, ["*"]),
        ({"Principal": "*", "Condition": {"StringNotEquals": {"aws:PrincipalOrgID": "o-a1b2"}}}, ["*"]),
        ({"Principal": "*", "Condition": {"StringEqualsIfExists": {"aws:PrincipalOrgID": "o-a1b2"}}}, ["*"]),
        ({"Principal": "*", "Condition": {"ForAllValues:StringLike": {"aws:PrincipalOrgPaths": ["o-a1b2/*"]}}}, ["*"]),
        ({"Principal": "*", "Condition": {"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": ["o-a1b2/*"]}}}, []),
        ({"Principal": "*", "Condition": {"StringLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/admin"}}}, ["*"]),
        ({"Principal": "*", "Condition": {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::111122223333:role/*"}}}, []),
        ({"Principal": "*", "Condition": {"StringLike": {"aws:PrincipalAccount": ["111122223333", "*"]}}}, ["*"]),
        ({"Principal": "*", "Condition": "odd"}, ["*"]),
        ({"Principal": 7}, []),
    ],
)
def test_whom_a_policy_opens_a_key_to(changes: dict[str, object], expected: list[str]) -> None:
    statement = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*", **changes}
    assert opened_to(json.dumps({"Statement": [statement]})) == expected
    assert opened_to(json.dumps({"Statement": statement})) == expected


@pytest.mark.parametrize("text", ["", "[]", "7", "{", '{"Statement": null}', '{"Statement": ["x"]}'])
def test_what_is_no_policy_opens_nothing(text: str) -> None:
    assert opened_to(text) == []


def test_use_across_accounts(log: LogBuilder) -> None:
    log.add(SINCE_S, userIdentity=identity("x", OTHER_ACCOUNT))
    log.add(SINCE_S, userIdentity={"type": "AWSAccount", "accountId": OTHER_ACCOUNT})
    log.add(SINCE_S, userIdentity=identity("y", OTHER_ACCOUNT), error="AccessDenied")
    log.add(SINCE_S)
    [found] = findings(log, "KT037")
    assert (found.subject, found.count) == ({"key": KEY_A, "account": OTHER_ACCOUNT}, 2)
    assert findings(log, "KT037", TRUSTING) == []


@pytest.mark.parametrize(
    "canary",
    [
        fingerprint("canary"),
        fingerprint("made"),
        KEY_B,
        KEY_B.rpartition("/")[2],
        "alias/canary",
        "arn:aws:kms:eu-central-1:111122223333:alias/canary",
    ],
)
def test_canaries(log: LogBuilder, canary: str) -> None:
    settings = Settings(canaries=(Canary(canary, "of the payroll"),))
    log.add(SINCE_S, blobs_in=["other"])
    past(log, user="past", blobs_in=["canary"], blobs_out=["made"], key=KEY_B, requestParameters={"keyId": "alias/canary"})
    assert findings(log, "KT050", settings) == []
    log.add(
        SINCE_S + 1, user="eve", blobs_in=["canary"], error="AccessDenied", key=KEY_B, requestParameters={"keyId": "alias/canary"}
    )
    log.add(SINCE_S + 2, user="eve", blobs_out=["made", "made"], key=KEY_B, requestParameters={"aliasName": "alias/canary"})
    [found, *more] = findings(log, "KT050", settings)
    assert (found.subject, found.severity) == ({"canary": canary, "principal": EVE}, Severity.CRITICAL)
    assert more == []
    once = {fingerprint("canary"): ("once", 1), fingerprint("made"): ("once", 0)}.get(canary, ("2 times", 1))
    assert found.why == f"{EVE} touched it {once[0]} (refused: {once[1]}): of the payroll"


@pytest.mark.parametrize(
    ("source", "network"),
    [
        ("10.1.2.3", "10.1.2.0/24"),
        ("::ffff:10.1.2.3", "10.1.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("kms.amazonaws.com", "kms.amazonaws.com"),
        ("", ""),
    ],
)
def test_networks(source: str, network: str) -> None:
    assert network_of(source) == network


@pytest.mark.parametrize(
    ("agent", "family"),
    [
        (
            "Boto3/1.44 md/Botocore#1.44 ua/2.1 os/linux#6.1 md/arch#x86 lang/python#3.11 cfg/retry-mode#legacy",
            "Boto3 os/linux lang/python",
        ),
        (
            "aws-cli/2.15.0 Python/3.11.6 Linux/5.10 exe/x86_64.amzn.2 prompt/off command/kms.decrypt",
            "aws-cli Python Linux exe prompt command",
        ),
        (
            "APN/1.0 HashiCorp/1.0 Terraform/1.5.0 (+https://www.terraform.io) aws-sdk-go-v2/1.2",
            "APN HashiCorp Terraform aws-sdk-go-v2",
        ),
        ("app/payroll exec-env/AWS_Lambda_python3.12", "app/payroll exec-env/AWS_Lambda_python3.12"),
        ("AWS Internal", "AWS Internal"),
        ("", ""),
    ],
)
def test_kinds_of_clients(agent: str, family: str) -> None:
    assert family_of(agent) == family


def test_answers_come_in_the_same_order_the_gravest_first(log: LogBuilder) -> None:
    past(log)
    for user in ("zoe", "bob"):
        log.add(SINCE_S, user=user)
    log.add(SINCE_S + 1, "ScheduleKeyDeletion")
    answer = outcome(log)
    assert [(one.rule, one.subject["principal"]) for one in answer.findings] == [
        ("KT032", ALICE),
        ("KT020", BOB),
        ("KT020", "arn:aws:iam::111122223333:user/zoe"),
    ]
    assert outcome(log) == answer
    assert answer.findings[0].to_json()["first"] == "2026-01-12T00:00:01.000000Z"
    assert answer.findings[0].first == at(SINCE_S + 1)
    assert outcome(log, since=at(SINCE_S + DAY)).findings == ()
