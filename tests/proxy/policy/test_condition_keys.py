"""The condition keys of each operation, and what is not known before a call."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.policy.access import actions_of
from tests.proxy.policy.asked import ADMIN, ALICE, HEAD, ID, KEY, OTHER, STRANGER, guardrails, request, statement

GRANT = {
    "Constraints": {"EncryptionContextSubset": {"tenant": "acme"}},
    "Operations": ["Decrypt", "Encrypt"],
    "GranteePrincipal": "x",
}
TAGS = {"Tags": [{"TagKey": "Team", "TagValue": "red"}]}


#: operation, parameters, operator, key, a value that it has, and one that it has not
VALUES: list[tuple[str, dict[str, Any], str, str, str, str]] = [
    ("Decrypt", {"EncryptionContext": {"Tenant": "acme"}}, "StringEquals", "KMS:encryptioncontext:tenant", "acme", "Acme"),
    (
        "Decrypt",
        {"EncryptionContext": {"Tenant": "acme"}},
        "ForAnyValue:StringEquals",
        "kms:EncryptionContextKeys",
        "Tenant",
        "tenant",
    ),
    ("CreateGrant", GRANT, "StringEquals", "kms:EncryptionContext:tenant", "acme", "x"),
    ("CreateGrant", GRANT, "StringEquals", "kms:GrantConstraintType", "EncryptionContextSubset", "EncryptionContextEquals"),
    ("CreateGrant", GRANT, "ForAnyValue:StringEquals", "kms:GrantOperations", "Decrypt", "Sign"),
    ("CreateGrant", GRANT, "StringEquals", "kms:GranteePrincipal", "x", "y"),
    ("CreateGrant", {"RetiringPrincipal": "x"}, "StringEquals", "kms:RetiringPrincipal", "x", "y"),
    ("CreateGrant", GRANT, "Bool", "kms:GrantIsForAWSResource", "false", "true"),
    ("CreateKey", {}, "StringEquals", "kms:KeySpec", "SYMMETRIC_DEFAULT", "RSA_2048"),
    ("CreateKey", {"KeySpec": "RSA_2048"}, "StringEquals", "kms:KeySpec", "RSA_2048", "SYMMETRIC_DEFAULT"),
    ("CreateKey", {"CustomerMasterKeySpec": "RSA_2048"}, "StringEquals", "kms:KeySpec", "RSA_2048", "SYMMETRIC_DEFAULT"),
    ("CreateKey", {"KeySpec": "RSA_2048"}, "StringEquals", "kms:CustomerMasterKeySpec", "RSA_2048", "SYMMETRIC_DEFAULT"),
    ("CreateKey", {}, "StringEquals", "kms:KeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY"),
    ("CreateKey", {"Origin": "EXTERNAL"}, "StringEquals", "kms:KeyOrigin", "EXTERNAL", "AWS_KMS"),
    ("CreateKey", {}, "Bool", "kms:MultiRegion", "false", "true"),
    ("CreateKey", {"MultiRegion": True}, "Bool", "kms:MultiRegion", "true", "false"),
    ("CreateKey", {"BypassPolicyLockoutSafetyCheck": True}, "Bool", "kms:BypassPolicyLockoutSafetyCheck", "true", "false"),
    ("PutKeyPolicy", {}, "Null", "kms:BypassPolicyLockoutSafetyCheck", "true", "false"),
    ("CreateKey", TAGS, "StringEquals", "aws:RequestTag/team", "red", "Red"),
    ("CreateKey", TAGS, "ForAnyValue:StringEquals", "aws:TagKeys", "Team", "team"),
    ("UntagResource", {"TagKeys": ["Team"]}, "ForAnyValue:StringEquals", "aws:TagKeys", "Team", "team"),
    ("Encrypt", {}, "StringEquals", "kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_256"),
    ("GenerateDataKeyPair", {"KeyPairSpec": "RSA_2048"}, "StringEquals", "kms:DataKeyPairSpec", "RSA_2048", "RSA_4096"),
    ("GenerateDataKey", {"KeySpec": "AES_256"}, "StringEquals", "kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT", "AES_256"),
    ("Sign", {"SigningAlgorithm": "x"}, "StringEquals", "kms:SigningAlgorithm", "x", "y"),
    ("Sign", {}, "StringEquals", "kms:MessageType", "RAW", "DIGEST"),
    ("GenerateMac", {"MacAlgorithm": "HMAC_SHA_256"}, "StringEquals", "kms:MacAlgorithm", "HMAC_SHA_256", "HMAC_SHA_512"),
    ("DeriveSharedSecret", {"KeyAgreementAlgorithm": "ECDH"}, "StringEquals", "kms:KeyAgreementAlgorithm", "ECDH", "x"),
    (
        "ScheduleKeyDeletion",
        {"PendingWindowInDays": 7},
        "NumericLessThan",
        "kms:ScheduleKeyDeletionPendingWindowInDays",
        "8",
        "7",
    ),
    ("ScheduleKeyDeletion", {}, "NumericEquals", "kms:ScheduleKeyDeletionPendingWindowInDays", "30", "7"),
    ("EnableKeyRotation", {"RotationPeriodInDays": 90}, "NumericEquals", "kms:RotationPeriodInDays", "90", "365"),
    ("Decrypt", {"KeyId": "alias/x"}, "StringEquals", "kms:RequestAlias", "alias/x", f"{HEAD}alias/x"),
    ("ReEncrypt", {"SourceKeyId": ID, "DestinationKeyId": KEY}, "Bool", "kms:ReEncryptOnSameKey", "true", "false"),
    ("ReEncrypt", {"SourceKeyId": ID, "DestinationKeyId": OTHER}, "Bool", "kms:ReEncryptOnSameKey", "false", "true"),
    ("UpdatePrimaryRegion", {"PrimaryRegion": "us-east-1"}, "StringEquals", "kms:PrimaryRegion", "us-east-1", "eu-west-1"),
    ("ReplicateKey", {"ReplicaRegion": "us-east-1"}, "StringEquals", "kms:ReplicaRegion", "us-east-1", "eu-west-1"),
    ("ImportKeyMaterial", {"ExpirationModel": "x"}, "StringEquals", "kms:ExpirationModel", "x", "y"),
    ("ImportKeyMaterial", {"ValidTo": 1_767_225_600.0}, "NumericLessThanEquals", "kms:ValidTo", "1767225600", "1767225599"),
    ("ImportKeyMaterial", {"ValidTo": 1_767_225_600.0}, "DateLessThan", "kms:ValidTo", "2026-01-02", "2026-01-01"),
    ("GetParametersForImport", {"WrappingAlgorithm": "x"}, "StringEquals", "kms:WrappingAlgorithm", "x", "y"),
    ("GetParametersForImport", {"WrappingKeySpec": "x"}, "StringEquals", "kms:WrappingKeySpec", "x", "y"),
    ("AssumeRole", {"ExternalId": "x"}, "StringEquals", "sts:ExternalId", "x", "y"),
    ("AssumeRole", {}, "Null", "sts:ExternalId", "true", "false"),
    ("AssumeRole", {"RoleSessionName": "x"}, "StringEquals", "sts:RoleSessionName", "x", "y"),
    ("AssumeRole", {"SourceIdentity": "x"}, "StringEquals", "sts:SourceIdentity", "x", "y"),
    ("AssumeRole", {"TransitiveTagKeys": ["a", "b"]}, "ForAnyValue:StringEquals", "sts:TransitiveTagKeys", "b", "c"),
    ("AssumeRole", {"Tags": [{"Key": "a", "Value": "b"}]}, "StringEquals", "aws:RequestTag/A", "b", "a"),
    ("AssumeRole", {"Tags": [{"Key": "a", "Value": "b"}]}, "ForAnyValue:StringEquals", "aws:TagKeys", "a", "b"),
    ("GetSessionToken", {}, "StringEquals", "aws:username", "alice", "bob"),
    ("Decrypt", {}, "Null", "kms:ViaService", "true", "false"),
    ("Decrypt", {}, "StringEquals", "kms:CallerAccount", "111122223333", "444455556666"),
    ("Decrypt", {}, "StringEquals", "aws:PrincipalAccount", "111122223333", "444455556666"),
    ("Decrypt", {}, "ArnEquals", "aws:PrincipalArn", "arn:aws:iam::111122223333:user/alice", "arn:aws:iam::*:user/bob"),
    ("Decrypt", {}, "StringEquals", "aws:PrincipalType", "User", "AssumedRole"),
    ("Decrypt", {}, "StringEquals", "aws:userid", "AIDAALICE", "alice"),
    ("Decrypt", {}, "StringEquals", "aws:username", "alice", "bob"),
    ("Decrypt", {}, "IpAddress", "aws:SourceIp", "10.0.0.0/8", "192.168.0.0/16"),
    ("Decrypt", {}, "Bool", "aws:SecureTransport", "true", "false"),
    ("Decrypt", {}, "Bool", "aws:ViaAWSService", "false", "true"),
    ("Decrypt", {}, "Bool", "aws:PrincipalIsAWSService", "false", "true"),
    ("Decrypt", {}, "StringEquals", "aws:RequestedRegion", "eu-central-1", "us-east-1"),
    ("Decrypt", {}, "StringLike", "aws:UserAgent", "Boto3/*", "aws-cli/*"),
    ("Decrypt", {}, "DateGreaterThan", "aws:CurrentTime", "2026-01-01T11:59:59Z", "2026-01-01T12:00:00Z"),
    ("Decrypt", {}, "NumericEquals", "aws:EpochTime", "1767268800", "0"),
    ("Decrypt", {}, "DateLessThan", "aws:EpochTime", "2026-01-01T12:00:01Z", "2026-01-01"),
]


@pytest.mark.parametrize(("operation", "parameters", "operator", "key", "has", "has_not"), VALUES)
def test_where_a_condition_key_is_found(
    operation: str, parameters: dict[str, Any], operator: str, key: str, has: str, has_not: str
) -> None:
    for value, is_denied in ((has, True), (has_not, False)):
        for action in actions_of(operation)[:1]:
            rails = guardrails(statement(action=action, Condition={operator: {key: value}}))
            decision = rails.decide(request(operation, **parameters))
            assert (decision.allowed, decision.in_doubt) == (not is_denied, ())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("aws:PrincipalArn", "arn:aws:iam::111122223333:role/KeyAdministrator"),
        ("aws:PrincipalType", "AssumedRole"),
        ("aws:userid", "AROAADMIN:eve"),
    ],
)
def test_a_role_session_is_its_role(key: str, value: str) -> None:
    rails = guardrails(statement("Allow", Condition={"StringEquals": {key: value}}))
    assert rails.decide(request("Decrypt", ADMIN, KeyId=ID)).allowed
    assert not rails.decide(request("Decrypt", ALICE, KeyId=ID)).allowed
    assert guardrails(statement(Condition={"Null": {"aws:username": "false"}})).decide(request("Decrypt", ADMIN)).allowed


@pytest.mark.parametrize("key", ["aws:PrincipalArn", "aws:PrincipalType", "aws:userid", "aws:username", "aws:PrincipalAccount"])
def test_who_is_not_known_may_be_anybody(key: str) -> None:
    for operator in ("StringEquals", "StringNotEquals", "StringEqualsIfExists"):
        condition = {operator: {key: "x"}}
        decision = guardrails(statement(Condition=condition)).decide(request("Decrypt", STRANGER, KeyId=ID))
        assert not decision.allowed and decision.in_doubt == (key,)
        assert not guardrails(statement("Allow", Condition=condition)).decide(request("Decrypt", STRANGER, KeyId=ID)).allowed


def test_two_spellings_of_a_context_key_are_no_way_around() -> None:
    asked = request("Decrypt", KeyId=ID, EncryptionContext={"tenant": "acme", "Tenant": "evil"})
    for operator in ("StringEquals", "StringNotEquals"):
        condition = {operator: {"kms:EncryptionContext:tenant": "acme"}}
        decision = guardrails(statement(Condition=condition)).decide(asked)
        assert not decision.allowed and decision.in_doubt == ("kms:EncryptionContext:tenant",)
        assert not guardrails(statement("Allow", Condition=condition)).decide(asked).allowed


def test_whether_two_unknown_keys_are_the_same() -> None:
    rails = guardrails(statement(action="kms:ReEncrypt*", Condition={"Bool": {"kms:ReEncryptOnSameKey": "true"}}))
    assert not rails.decide(request("ReEncrypt", DestinationKeyId=ID)).allowed
    only_same = guardrails(statement(action="kms:ReEncrypt*", Condition={"Bool": {"kms:ReEncryptOnSameKey": "false"}}))
    assert only_same.decide(request("ReEncrypt", SourceKeyId="alias/x", DestinationKeyId="alias/x")).allowed
    assert not only_same.decide(request("ReEncrypt", SourceKeyId="alias/x", DestinationKeyId="alias/y")).allowed


def test_one_context_for_each_user() -> None:
    rails = guardrails(statement(Condition={"StringNotEquals": {"kms:EncryptionContext:user": "${aws:username}"}}))
    assert rails.decide(request("Decrypt", KeyId=ID, EncryptionContext={"user": "alice"})).allowed
    assert not rails.decide(request("Decrypt", KeyId=ID, EncryptionContext={"user": "bob"})).allowed
    # A role session has no user name: the variable has no value, and nobody gets past a guardrail for lack of one.
    assert not rails.decide(request("Decrypt", ADMIN, KeyId=ID, EncryptionContext={"user": "eve"})).allowed


def test_conditions_must_all_hold() -> None:
    both = {"StringEquals": {"aws:username": "alice"}, "IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}
    assert guardrails(statement(Condition=both)).decide(request("Decrypt", KeyId=ID)).allowed
    both["IpAddress"]["aws:SourceIp"] = "10.0.0.0/8"
    assert not guardrails(statement(Condition=both)).decide(request("Decrypt", KeyId=ID)).allowed
