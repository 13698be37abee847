"""Guardrails before they are in force: the commands, and records turned back into what was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit import canonical
from proxy.domain import Answer, KmsCall, Origin, Principal, RawRequest, TlsDetails
from proxy.errors import SetupError
from proxy.kms.model import ServiceModel
from proxy.kms.operations import OPERATIONS
from proxy.policy import keys
from proxy.policy.access import AuthorizationRequest, accesses
from proxy.policy.evaluate import load
from proxy.recording import Exchange, Recorder
from proxy.simulation import app, check, replay, request_of, simulate
from tests.audit.query.builder import LogBuilder, at, placed
from tests.audit.query.builder import record as _record

CONTEXT = {"tenant": "acme"}
DENY_ALICE = {
    "Sid": "NoAlice",
    "Effect": "Deny",
    "Action": "kms:Decrypt",
    "Resource": "*",
    "Condition": {"StringEquals": {"aws:username": "alice"}},
}
NAME_THE_TENANT = {
    "Effect": "Deny",
    "Action": ["kms:Decrypt", "kms:Encrypt"],
    "Resource": "*",
    "Condition": {"StringNotLike": {"kms:EncryptionContext:tenant": "?*"}},
}
MODEL = ServiceModel.load()


def policy(folder: Path, *statements: Mapping[str, Any], name: str = "new.json") -> Path:
    path = folder / name
    path.write_text(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two logs with calls that went through, calls that did not, and what is no call."""
    folder = tmp_path / "data"
    one, two = LogBuilder(folder), LogBuilder(folder, "w1")
    one.add(0, user="alice", context=CONTEXT)
    one.add(60, user="alice")
    two.add(120, user="alice", context=CONTEXT)
    two.add(130, user="bob")
    two.add(140, "Encrypt", user="bob", requestParameters={"encryptionContext": {}, "keyId": "alias/x"}, key=None)
    one.add(150, user="alice", error="AccessDenied")
    one.add(160, "CreateKey", user="alice", phase="intent")
    one.add(170, user="alice", eventSource="keytrail")
    one.add(180, user="alice", requestParameters={"omitted": True, "originalSize": 200_000, "reason": "larger than 102400 bytes"})
    return folder


def test_who_would_have_been_denied(data: Path, tmp_path: Path) -> None:
    found = simulate(data, [policy(tmp_path, DENY_ALICE)])
    assert found.calls == 6
    [row] = found.rows
    assert (row.caller, row.operation, row.times) == ("arn:aws:iam::111122223333:user/alice", "Decrypt", 4)
    assert (row.policy, row.statement, row.undecided) == ("new.json", "NoAlice", False)
    assert (row.first[:19], row.last[:19]) == ("2026-01-02T00:00:00", "2026-01-02T00:03:00")
    assert (found.denied, found.undecided, found.damaged) == (4, 0, [])


def test_what_is_private_in_a_record_is_not_guessed(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path / "data")
    log.add(0, user="alice", context={"tenant": "hmac-sha256:00"}, private={"tenant": "hmac"})
    [row] = simulate(log.data, [policy(tmp_path, NAME_THE_TENANT)]).rows
    assert row.undecided
    assert "kms:EncryptionContext:tenant" in row.in_doubt


def test_what_a_record_has_left_out_is_not_guessed(data: Path, tmp_path: Path) -> None:
    found = simulate(data, [policy(tmp_path, NAME_THE_TENANT)])
    told = [(row.caller[-5:], row.operation, row.times, row.undecided, row.in_doubt) for row in found.rows]
    assert told == [
        ("alice", "Decrypt", 1, False, ()),
        ("r/bob", "Decrypt", 1, False, ()),
        ("r/bob", "Encrypt", 1, False, ()),
        ("alice", "Decrypt", 1, True, ("kms:EncryptionContext:tenant", "resource")),
    ]
    assert (found.denied, found.undecided) == (3, 1)


def test_a_time_range_and_a_folder(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    policy(folder, DENY_ALICE, name="a.json")
    policy(folder, NAME_THE_TENANT, name="b.json")
    found = simulate(data, [folder], since=at(50), until=at(131))
    assert found.calls == 3
    assert {(row.policy, row.times) for row in found.rows} == {("a.json", 2), ("b.json", 1)}


def test_documents_with_errors_are_not_simulated(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="UNSUPPORTED"):
        simulate(data, [policy(tmp_path, {**DENY_ALICE, "Condition": {"Null": {"aws:SourceVpc": "true"}}})])


# --- Commands -----------------------------------------------------------------------------------------------------------


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    path = policy(tmp_path, DENY_ALICE, {**DENY_ALICE, "Sid": "Odd", "Action": "kms:Decrpt", "Effect": "Maybe"})
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 1
    assert 'new.json, statement Odd: error: Effect is "Maybe"' in result.stdout
    told = json.loads(CliRunner().invoke(app, ["check", "--json", str(path)]).stdout)
    assert [(one["severity"], one["file"], one["statement"]) for one in told] == [("error", "new.json", "Odd")]
    warned = policy(tmp_path, {**DENY_ALICE, "Action": "kms:Decrpt"})
    result = CliRunner().invoke(app, ["check", str(warned)])
    assert result.exit_code == 0 and "warning: 'kms:Decrpt' is no action of KMS" in result.stdout
    assert [finding.severity.value for finding in check([warned])] == ["warning"]


def test_check_says_what_it_cannot_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(tmp_path / "gone.json")])
    assert result.exit_code == 3 and "gone.json cannot be read: No such file" in result.stderr


def test_simulate_shows_a_table(data: Path, tmp_path: Path) -> None:
    path = policy(tmp_path, DENY_ALICE)
    result = CliRunner().invoke(app, ["simulate", str(path), "--since", "2026-01-01", "--data", str(data)])
    assert result.exit_code == 0, result.output
    assert "user/alice" in result.stdout and "NoAlice" in result.stdout
    assert "6 calls; 4 would have been denied, 0 cannot be decided" in result.stderr
    result = CliRunner().invoke(app, ["simulate", str(path), "--since", "2026-01-01", "--json", "--data", str(data)])
    told = json.loads(result.stdout)
    assert (told["calls"], told["denied"], told["undecided"]) == (6, 4, 0)
    assert [(row["statement"], row["times"]) for row in told["rows"]] == [("NoAlice", 4)]


def test_what_is_damaged_is_told(data: Path, tmp_path: Path) -> None:
    LogBuilder(data, "w2").raw(b"no record\n")
    arguments = ["simulate", str(policy(tmp_path, DENY_ALICE)), "--since", "2026-01-01", "--data", str(data)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "w2" in result.stderr
    assert CliRunner().invoke(app, [*arguments[:2], "--since", "soon", "--data", str(data)]).exit_code == 2


# --- A record says what the proxy knew ----------------------------------------------------------------------------------

PRINCIPALS = [
    Principal("IAMUser", "arn:aws:iam::111122223333:user/alice", "111122223333", "AKIAALICE", "AIDAALICE", "alice"),
    Principal("AssumedRole", "arn:aws:sts::111122223333:assumed-role/R/s", "111122223333", "ASIA", "AROA:s"),
    Principal("Unknown", "", "", "AKIASTRANGER", "AKIASTRANGER"),
]
ID = "aaaaaaaa-1111-2222-3333-444455556666"
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("Decrypt", {"CiphertextBlob": "eA==", "EncryptionContext": {"tenant": "acme", "Tenant": "x"}}),
    ("Encrypt", {"KeyId": "alias/x", "Plaintext": "eA==", "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}),
    ("ReEncrypt", {"CiphertextBlob": "eA==", "DestinationKeyId": ID, "SourceEncryptionContext": {"a": "b"}}),
    ("CreateKey", {"Tags": [{"TagKey": "team", "TagValue": "red"}], "KeySpec": "RSA_2048", "Policy": '{"a": 1}'}),
    ("CreateGrant", {
        "KeyId": ID, "GranteePrincipal": "arn:aws:iam::1:role/x", "Operations": ["Decrypt"],
        "Constraints": {"EncryptionContextSubset": {"tenant": "acme"}},
    }),
    ("ImportKeyMaterial", {"KeyId": ID, "ImportToken": "eA==", "EncryptedKeyMaterial": "eA==", "ValidTo": 1767225600}),
    ("UntagResource", {"KeyId": ID, "TagKeys": ["team"]}),
    ("ScheduleKeyDeletion", {"KeyId": ID, "PendingWindowInDays": 7}),
    ("UpdateAlias", {"AliasName": "alias/x", "TargetKeyId": ID}),
    ("ReplicateKey", {"KeyId": ID, "ReplicaRegion": "us-east-1"}),
    ("GenerateDataKey", {"KeyId": ID, "KeySpec": "AES_256"}),
    ("ListKeys", {}),
]  # fmt: skip
KEYS = (
    *(
        "aws:username",
        "aws:PrincipalArn",
        "aws:PrincipalType",
        "aws:userid",
        "aws:SourceIp",
        "aws:SecureTransport",
        "aws:UserAgent",
    ),
    *("aws:CurrentTime", "aws:RequestedRegion", "kms:EncryptionContext:tenant", "kms:EncryptionContextKeys", "kms:RequestAlias"),
    *("kms:KeySpec", "kms:EncryptionAlgorithm", "aws:RequestTag/team", "aws:TagKeys", "kms:GrantOperations", "kms:ValidTo"),
    *("kms:GranteePrincipal", "kms:GrantConstraintType", "kms:ScheduleKeyDeletionPendingWindowInDays", "kms:ReEncryptOnSameKey"),
)


@pytest.mark.parametrize("principal", PRINCIPALS, ids=lambda principal: principal.type)
@pytest.mark.parametrize(("operation", "sent"), CALLS, ids=[name for name, _ in CALLS])
@pytest.mark.parametrize("tls", [None, TlsDetails("TLSv1.3", "TLS_AES_128_GCM_SHA256")])
def test_a_record_gives_back_what_was_asked(
    operation: str, sent: dict[str, Any], principal: Principal, tls: TlsDetails | None
) -> None:
    """For every condition key the record has the values that the call had, and the same resources."""
    members = MODEL.validate(operation, sent)
    raw = RawRequest(b"POST", b"/", ((b"user-agent", b"Boto3/1"),), b"", Origin("10.0.0.1", tls=tls), 1_767_225_600_123_456)
    exchange = Exchange(raw, "r", operation=OPERATIONS[operation], parameters=members, principal=principal, region="eu-central-1")
    then = AuthorizationRequest.of(
        KmsCall(OPERATIONS[operation], "eu-central-1", principal, members, raw.received_us, raw), "111122223333", "10.0.0.1"
    )
    recorder = Recorder("111122223333", "eu-central-1", "local", "clear", lambda: "id")
    line = canonical.encode(recorder.outcome(exchange, Answer({}), raw.received_us), "w0", 0)
    now = request_of(json.loads(line))
    assert accesses(now) == accesses(then)
    for access in accesses(then):
        for name in KEYS:
            found = keys.find(name)
            assert found is not None
            assert found[0].read(now, access, found[1]) == found[0].read(then, access, found[1]), name


def test_calls_to_sts_are_replayed_too() -> None:
    role = "arn:aws:iam::111122223333:role/ci/builder"
    sent = {"roleArn": role, "roleSessionName": "run-1", "tags": [{"key": "team", "value": "red"}]}
    of_sts = {"key": None, "eventSource": "sts.amazonaws.com"}
    records = [
        placed(_record("AssumeRole", requestParameters=sent, **of_sts), "w0", 0, at(0)),
        placed(_record("GetCallerIdentity", requestParameters=None, **of_sts), "w0", 1, at(1)),
    ]
    denies = {
        "Effect": "Deny",
        "Action": "*",
        "Resource": "arn:aws:iam::*:role/ci/*",
        "Condition": {"StringEquals": {"aws:RequestTag/team": "red", "sts:RoleSessionName": "run-1"}},
    }
    found = replay(load([("p.json", json.dumps({"Version": "2012-10-17", "Statement": denies}).encode())]), records)
    [row] = found.rows
    assert (found.calls, row.operation, row.action, row.undecided) == (2, "AssumeRole", "sts:AssumeRole", False)


@pytest.mark.parametrize(
    ("proof", "account"),
    [("claimed", "111122223333"), ("accepted-by-upstream", "111122223333"), ("signature-verified", "999988887777")],
)
def test_a_key_id_without_an_account_is_of_the_account_that_guardrails_take_it_for(proof: str, account: str) -> None:
    record = placed(_record("Decrypt", recipientAccountId="999988887777"), "w0", 0, at(0))
    record["additionalEventData"]["keytrail"]["identityProof"] = proof
    assert request_of(record).account_id == account


def test_calls_that_only_aws_knows_are_not_decided_by_what_is_not_recorded() -> None:
    rails = load([("p.json", json.dumps({"Version": "2012-10-17", "Statement": {**NAME_THE_TENANT, "Action": "*"}}).encode())])
    extension = {"keytrail": {"time": "2026-01-01T00:00:00.000000Z", "log": "w0", "sequence": 0}}
    record = {"eventSource": "kms.amazonaws.com", "eventName": "FrobnicateKey", "additionalEventData": extension}
    [row] = replay(rails, [{**record, "requestParameters": {"keyId": ID}}]).rows
    assert row.undecided and row.operation == "FrobnicateKey"
