"""Decisions: Deny and Allow, the resources and condition keys of each operation, and what is not known before a call."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import DeniedBy, KmsCall, Origin, Principal, RawRequest, TlsDetails
from proxy.kms.operations import OPERATIONS
from proxy.policy.access import ACTIONS, STS_ACTIONS, STS_OPERATIONS, AuthorizationRequest, accesses, actions_of
from proxy.policy.evaluate import ALLOWED, Decision, Guardrails, load, refusal
from proxy.policy.folder import read_folder

ALICE = Principal("IAMUser", "arn:aws:iam::111122223333:user/alice", "111122223333", "AKIAALICE", "AIDAALICE", "alice")
ADMIN = Principal(
    "AssumedRole", "arn:aws:sts::111122223333:assumed-role/KeyAdministrator/eve", "111122223333", "ASIAEVE", "AROAADMIN:eve"
)
STRANGER = Principal("Unknown", "", "", "AKIASTRANGER", "AKIASTRANGER")
ID = "aaaaaaaa-1111-2222-3333-444455556666"
OTHER = "bbbbbbbb-1111-2222-3333-444455556666"
HEAD = "arn:aws:kms:eu-central-1:111122223333:"
KEY = f"{HEAD}key/{ID}"
NOON_US = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z


def request(operation: str, principal: Principal = ALICE, /, **parameters: Any) -> AuthorizationRequest:
    return AuthorizationRequest(
        operation,
        "eu-central-1",
        "111122223333",
        parameters,
        principal,
        "10.1.2.3",
        True,
        NOON_US,
        ((b"user-agent", b"Boto3/1.44"),),
    )


def statement(effect: str = "Deny", action: Any = "kms:*", resource: Any = "*", **others: Any) -> dict[str, Any]:
    return {"Effect": effect, "Action": action, "Resource": resource, **others}


def guardrails(*statements: dict[str, Any]) -> Guardrails:
    return load([("p.json", json.dumps({"Version": "2012-10-17", "Statement": list(statements)}).encode())])


def denied(decision: Decision) -> DeniedBy | None:
    assert decision.allowed == (decision.denied_by is None)
    return decision.denied_by


# --- Deny and Allow -----------------------------------------------------------------------------------------------------


def test_without_statements_everything_is_allowed() -> None:
    assert Guardrails([]).decide(request("Decrypt")) is ALLOWED
    assert not any(Guardrails([]).concerns(name) for name in OPERATIONS)


def test_what_only_denies_allows_the_rest() -> None:
    rails = guardrails(statement(action="kms:Decrypt"))
    assert denied(rails.decide(request("Decrypt", KeyId=ID))) == DeniedBy("p.json", "1")
    assert rails.decide(request("Encrypt", KeyId=ID)) is ALLOWED
    assert rails.concerns("Decrypt") and not rails.concerns("Encrypt")


def test_where_something_is_allowed_the_rest_is_not() -> None:
    rails = guardrails(statement("Allow", "kms:Decrypt"))
    assert rails.decide(request("Decrypt", KeyId=ID)).allowed
    decision = rails.decide(request("Encrypt", KeyId=ID))
    assert denied(decision) == DeniedBy("", "") and not decision.is_explicit
    assert all(rails.concerns(name) for name in OPERATIONS)


def test_a_denial_wins_over_what_allows() -> None:
    for order in (1, -1):
        statements = [statement("Allow"), statement(Sid="No", action="kms:Decrypt")][::order]
        decision = guardrails(*statements).decide(request("Decrypt", KeyId=ID))
        assert denied(decision) == DeniedBy("p.json", "No") and decision.is_explicit


def test_operations_that_nobody_knew_are_decided_too() -> None:
    rails = guardrails(statement(action="kms:Frob*"))
    assert not rails.decide(request("FrobnicateKey", KeyId=ID)).allowed
    assert rails.decide(request("Other", KeyId=ID)).allowed and rails.concerns("Other")
    assert not guardrails({"Effect": "Deny", "NotAction": "kms:Encrypt", "Resource": "*"}).decide(request("Other")).allowed


def test_actions_are_not_case_sensitive_and_may_be_what_it_is_not() -> None:
    assert not guardrails(statement(action="KMS:dec????")).decide(request("Decrypt", KeyId=ID)).allowed
    rails = guardrails({"Effect": "Deny", "NotAction": ["kms:Encrypt", "kms:List*"], "Resource": "*"})
    assert rails.decide(request("ListKeys")).allowed and rails.decide(request("Encrypt", KeyId=ID)).allowed
    assert not rails.decide(request("Decrypt", KeyId=ID)).allowed


CONDITIONS = st.sampled_from(
    [
        {},
        {"StringEquals": {"kms:EncryptionContext:tenant": "acme"}},
        {"StringNotEquals": {"aws:username": "alice"}},
        {"Null": {"kms:EncryptionContextKeys": "true"}},
        {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}},
        {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/KeyAdministrator"}},
    ]
)
ACTION = st.sampled_from(["*", "kms:*", "kms:Decrypt", "kms:ReEncrypt*", "kms:CreateKey", "kms:TagResource", "kms:*Alias"])
RESOURCE = st.sampled_from(["*", f"{HEAD}key/*", KEY, f"{HEAD}alias/*", "arn:aws:kms:us-east-1:*:key/*"])
STATEMENTS = st.lists(
    st.builds(
        lambda effect, action, resource, condition: statement(effect, action, resource, Condition=condition),
        st.sampled_from(["Allow", "Deny"]),
        ACTION,
        RESOURCE,
        CONDITIONS,
    ),
    min_size=1,
    max_size=5,
)
NAMES = st.sampled_from([ID, OTHER, KEY, "alias/x", f"{HEAD}alias/x", f"arn:aws:kms:us-east-1:444455556666:key/{ID}", "rubbish"])
REQUESTS = st.builds(
    request,
    st.sampled_from(["Decrypt", "Encrypt", "ReEncrypt", "CreateKey", "DeleteAlias", "UpdateAlias", "ListKeys"]),
    st.sampled_from([ALICE, ADMIN, STRANGER]),
).flatmap(
    lambda one: st.fixed_dictionaries(
        {},
        optional={
            "KeyId": NAMES,
            "SourceKeyId": NAMES,
            "DestinationKeyId": NAMES,
            "TargetKeyId": NAMES,
            "AliasName": st.just("alias/x"),
            "EncryptionContext": st.dictionaries(st.sampled_from(["tenant", "Tenant", "x"]), st.sampled_from(["acme", "y"])),
            "Tags": st.just([{"TagKey": "a", "TagValue": "b"}]),
        },
    ).map(lambda parameters: request(one.operation, one.principal, **parameters))
)


@given(STATEMENTS, REQUESTS, st.randoms())
def test_the_order_of_statements_does_not_matter(
    statements: list[dict[str, Any]], asked: AuthorizationRequest, random: Any
) -> None:
    shuffled = list(statements)
    random.shuffle(shuffled)
    one, other = guardrails(*statements).decide(asked), guardrails(*shuffled).decide(asked)
    assert (one.allowed, one.is_explicit) == (other.allowed, other.is_explicit)


@given(STATEMENTS, STATEMENTS, REQUESTS)
def test_a_denial_more_never_allows_more(
    statements: list[dict[str, Any]], more: list[dict[str, Any]], asked: AuthorizationRequest
) -> None:
    with_more = [*statements, *({**one, "Effect": "Deny"} for one in more)]
    if guardrails(*with_more).decide(asked).allowed:
        assert guardrails(*statements).decide(asked).allowed


@given(STATEMENTS, STATEMENTS, REQUESTS)
def test_what_is_denied_explicitly_no_allowing_brings_back(
    statements: list[dict[str, Any]], more: list[dict[str, Any]], asked: AuthorizationRequest
) -> None:
    before = guardrails(*statements).decide(asked)
    after = guardrails(*statements, *({**one, "Effect": "Allow"} for one in more)).decide(asked)
    if before.is_explicit:
        assert not after.allowed


@given(STATEMENTS, REQUESTS)
def test_what_the_index_leaves_out_nobody_denies(statements: list[dict[str, Any]], asked: AuthorizationRequest) -> None:
    rails = guardrails(*statements)
    if not rails.concerns(asked.operation):
        assert rails.decide(asked).allowed
        assert all(one["Effect"] == "Deny" for one in statements)


@given(STATEMENTS, REQUESTS, st.sampled_from([ID, OTHER]))
def test_to_tell_the_key_never_makes_a_call_worse(
    statements: list[dict[str, Any]], asked: AuthorizationRequest, really: str
) -> None:
    """What is allowed without the key being known is allowed on whichever key of the account it is."""
    hidden = request(asked.operation, asked.principal, **{**(asked.parameters or {}), "KeyId": "alias/x"})
    shown = request(asked.operation, asked.principal, **{**(asked.parameters or {}), "KeyId": really})
    rails = guardrails(*statements)
    if rails.decide(hidden).allowed:
        assert rails.decide(shown).allowed


# --- Resources ----------------------------------------------------------------------------------------------------------

ANY_KEY = "arn:aws:kms:eu-central-1:\0:key/\0"


@pytest.mark.parametrize(
    ("operation", "parameters", "expected"),
    [
        ("Decrypt", {"KeyId": ID}, [("kms:Decrypt", KEY)]),
        ("Decrypt", {"KeyId": ID.upper()}, [("kms:Decrypt", KEY)]),
        ("Decrypt", {"KeyId": KEY}, [("kms:Decrypt", KEY)]),
        ("Decrypt", {"KeyId": "mrk-" + "a" * 32}, [("kms:Decrypt", f"{HEAD}key/mrk-{'a' * 32}")]),
        ("Decrypt", {"KeyId": "alias/x"}, [("kms:Decrypt", f"{HEAD}key/\0")]),
        (
            "Decrypt",
            {"KeyId": "arn:aws:kms:eu-central-1:444455556666:alias/x"},
            [("kms:Decrypt", "arn:aws:kms:eu-central-1:444455556666:key/\0")],
        ),
        ("Decrypt", {}, [("kms:Decrypt", ANY_KEY)]),
        ("Decrypt", {"KeyId": f"{ID} "}, [("kms:Decrypt", ANY_KEY)]),
        ("Decrypt", {"KeyId": ["x"]}, [("kms:Decrypt", ANY_KEY)]),
        ("Decrypt", {"KeyId": f"{HEAD}key/\0"}, [("kms:Decrypt", ANY_KEY)]),
        ("ReEncrypt", {"DestinationKeyId": ID}, [("kms:ReEncryptFrom", ANY_KEY), ("kms:ReEncryptTo", KEY)]),
        ("ListKeys", {}, [("kms:ListKeys", "*")]),
        ("ListAliases", {"KeyId": ID}, [("kms:ListAliases", "*")]),
        ("ConnectCustomKeyStore", {}, [("kms:ConnectCustomKeyStore", "*")]),
        ("DescribeCustomKeyStores", {}, [("kms:DescribeCustomKeyStores", "*")]),
        ("CreateKey", {}, [("kms:CreateKey", "*")]),
        (
            "CreateKey",
            {"Tags": [{"TagKey": "a", "TagValue": "b"}], "Policy": "{}"},
            [("kms:CreateKey", "*"), ("kms:TagResource", f"{HEAD}key/*"), ("kms:PutKeyPolicy", f"{HEAD}key/*")],
        ),
        (
            "CreateAlias",
            {"AliasName": "alias/x", "TargetKeyId": ID},
            [("kms:CreateAlias", f"{HEAD}alias/x"), ("kms:CreateAlias", KEY)],
        ),
        (
            "UpdateAlias",
            {"AliasName": "alias/x", "TargetKeyId": ID},
            [("kms:UpdateAlias", f"{HEAD}alias/x"), ("kms:UpdateAlias", KEY), ("kms:UpdateAlias", f"{HEAD}key/\0")],
        ),
        ("DeleteAlias", {"AliasName": "alias/x"}, [("kms:DeleteAlias", f"{HEAD}alias/x"), ("kms:DeleteAlias", f"{HEAD}key/\0")]),
        ("RetireGrant", {"GrantToken": "x"}, [("kms:RetireGrant", ANY_KEY)]),
        (
            "ReplicateKey",
            {"KeyId": ID, "ReplicaRegion": "us-east-1"},
            [("kms:ReplicateKey", KEY), ("kms:CreateKey", "*")],
        ),
        (
            "UpdatePrimaryRegion",
            {"KeyId": ID, "PrimaryRegion": "us-east-1"},
            [("kms:UpdatePrimaryRegion", KEY), ("kms:UpdatePrimaryRegion", f"arn:aws:kms:us-east-1:111122223333:key/{ID}")],
        ),
    ],
)
def test_what_a_call_has_to_be_allowed_for(operation: str, parameters: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = accesses(request(operation, **parameters))
    assert [(access.action, access.resource) for access in found] == expected
    assert {access.action for access in found} <= set(actions_of(operation)) <= ACTIONS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_can_be_asked_for_without_its_members(operation: str) -> None:
    rails = guardrails(statement(Condition={"StringEquals": {"aws:username": "bob"}}))
    assert rails.decide(request(operation)).allowed
    bare = AuthorizationRequest(operation, "eu-central-1", "111122223333", None, STRANGER, "", False, 0)
    assert not rails.decide(bare).allowed  # nobody knows that it is not bob


def test_a_key_that_is_not_told_may_be_the_one() -> None:
    rails = guardrails(statement(resource=KEY))
    assert denied(rails.decide(request("Decrypt", KeyId=ID))) == DeniedBy("p.json", "1")
    assert rails.decide(request("Decrypt", KeyId=OTHER)).allowed
    unsaid: list[dict[str, Any]] = [{"KeyId": "alias/x"}, {}, {"KeyId": f"{HEAD}alias/x"}]
    for parameters in unsaid:
        decision = rails.decide(request("Decrypt", **parameters))
        assert not decision.allowed and decision.in_doubt == ("resource",)
    elsewhere = "arn:aws:kms:eu-central-1:444455556666:alias/x"
    assert rails.decide(request("Decrypt", KeyId=elsewhere)).allowed  # an alias is of a key of its own account


def test_a_key_that_is_not_told_may_not_be_the_one() -> None:
    rails = guardrails(statement("Allow", resource=KEY))
    assert rails.decide(request("Decrypt", KeyId=ID)).allowed
    decision = rails.decide(request("Decrypt", KeyId="alias/x"))
    assert denied(decision) == DeniedBy("", "") and decision.in_doubt == ("resource",)
    all_keys = guardrails(statement("Allow", resource=f"{HEAD}key/*"))
    assert all_keys.decide(request("Decrypt", KeyId="alias/x")).allowed
    assert not all_keys.decide(request("Decrypt")).allowed  # a ciphertext may be of another account's key
    assert (
        guardrails({"Effect": "Deny", "Action": "*", "NotResource": f"{HEAD}key/*"})
        .decide(request("Sign", KeyId="alias/x"))
        .allowed
    )


def test_an_alias_in_a_policy_is_the_alias_itself() -> None:
    rails = guardrails(statement(resource=f"{HEAD}alias/prod*"))
    assert rails.decide(request("Decrypt", KeyId="alias/prod")).allowed
    assert not rails.decide(request("DeleteAlias", AliasName="alias/prod-1")).allowed
    assert rails.decide(request("DeleteAlias", AliasName="alias/test")).allowed
    by_alias = guardrails(statement(Condition={"StringLike": {"kms:RequestAlias": "alias/prod*"}}))
    assert not by_alias.decide(request("Decrypt", KeyId=f"{HEAD}alias/prod")).allowed
    assert by_alias.decide(request("Decrypt", KeyId="alias/test")).allowed
    assert by_alias.decide(request("DeleteAlias", AliasName="alias/prod")).allowed


def test_re_encrypt_is_two_actions() -> None:
    rails = guardrails(statement(action="kms:ReEncryptTo", resource=KEY))
    assert rails.decide(request("ReEncrypt", SourceKeyId=ID, DestinationKeyId=OTHER)).allowed
    decision = rails.decide(request("ReEncrypt", SourceKeyId=OTHER, DestinationKeyId=ID))
    assert decision.access is not None and decision.access.action == "kms:ReEncryptTo"
    contexts = guardrails(
        statement(action="kms:ReEncrypt*", Condition={"StringNotEquals": {"kms:EncryptionContext:tenant": "acme"}})
    )
    acme = {"tenant": "acme"}
    assert contexts.decide(request("ReEncrypt", SourceEncryptionContext=acme, DestinationEncryptionContext=acme)).allowed
    assert not contexts.decide(request("ReEncrypt", SourceEncryptionContext=acme, DestinationEncryptionContext={})).allowed


def test_a_replica_is_made_in_its_own_region() -> None:
    rails = guardrails(statement(Condition={"StringNotLike": {"aws:RequestedRegion": "eu-*"}}))
    assert rails.decide(request("ReplicateKey", KeyId=ID, ReplicaRegion="eu-west-1")).allowed
    assert not rails.decide(request("ReplicateKey", KeyId=ID, ReplicaRegion="us-east-1")).allowed
    assert not rails.decide(request("UpdatePrimaryRegion", KeyId=ID, PrimaryRegion="us-east-1")).allowed


# --- Condition keys -----------------------------------------------------------------------------------------------------

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


# --- STS ----------------------------------------------------------------------------------------------------------------

ROLE = "arn:aws:iam::111122223333:role/ci/builder"


def test_the_operations_of_sts_have_names_of_their_own() -> None:
    assert not set(STS_OPERATIONS) & set(OPERATIONS)


@pytest.mark.parametrize(
    ("operation", "parameters", "needed"),
    [
        ("GetCallerIdentity", {}, []),
        ("GetSessionToken", {}, [("sts:GetSessionToken", "*")]),
        ("AssumeRole", {"RoleArn": ROLE}, [("sts:AssumeRole", ROLE)]),
        (
            "AssumeRole",
            {"RoleArn": ROLE, "Tags": [{"Key": "a", "Value": "b"}], "SourceIdentity": "alice"},
            [("sts:AssumeRole", ROLE), ("sts:TagSession", ROLE), ("sts:SetSourceIdentity", ROLE)],
        ),
    ],
)
def test_what_calls_to_sts_need(operation: str, parameters: dict[str, Any], needed: list[tuple[str, str]]) -> None:
    found = accesses(request(operation, **parameters))
    assert [(access.action, access.resource) for access in found] == needed
    assert {access.action for access in found} <= set(actions_of(operation)) <= STS_ACTIONS


def test_guardrails_decide_on_calls_to_sts() -> None:
    rails = guardrails(statement(action="sts:*", resource="arn:aws:iam::*:role/ci/*", Sid="NoBuilders"))
    decision = rails.decide(request("AssumeRole", RoleArn=ROLE, RoleSessionName="x"))
    assert denied(decision) == DeniedBy("p.json", "NoBuilders")
    assert rails.decide(request("AssumeRole", RoleArn="arn:aws:iam::111122223333:role/reader")).allowed
    assert rails.concerns("AssumeRole") and not rails.concerns("Decrypt")
    told = refusal(request("AssumeRole", RoleArn=ROLE), decision).message
    assert told == (
        f"User: {ALICE.arn} is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
        " with an explicit deny in the guardrail p.json, statement NoBuilders"
    )


def test_who_one_is_one_may_always_ask() -> None:
    for rails in (guardrails(statement(action="*")), guardrails(statement("Allow", "kms:Decrypt"))):
        assert rails.decide(request("GetCallerIdentity")) is ALLOWED and not rails.concerns("GetCallerIdentity")
        assert not rails.decide(request("GetSessionToken")).allowed
        assert not rails.decide(request("AssumeRole", RoleArn=ROLE)).allowed


def test_tags_and_a_source_identity_are_decided_on_too() -> None:
    rails = guardrails(statement(action=["sts:TagSession", "sts:SetSourceIdentity"]))
    assert rails.decide(request("AssumeRole", RoleArn=ROLE)).allowed
    for parameters in ({"Tags": [{"Key": "a", "Value": "b"}]}, {"SourceIdentity": "alice"}):
        assert not rails.decide(request("AssumeRole", RoleArn=ROLE, **parameters)).allowed


def test_of_a_record_without_its_parameters_the_role_is_not_known() -> None:
    asked = request("AssumeRole")
    asked.parameters = None
    decision = guardrails(statement(action="sts:AssumeRole", resource="arn:aws:iam::*:role/builder")).decide(asked)
    assert not decision.allowed and decision.in_doubt == ("resource",)


# --- What goes in, and what goes out ------------------------------------------------------------------------------------


def test_a_request_is_made_of_a_call() -> None:
    origin = Origin("192.0.2.1", tls=TlsDetails("TLSv1.3", "x"))
    raw = RawRequest(b"POST", b"/", ((b"host", b"x"), (b"user-agent", b"aws-cli/2")), b"{}", origin, NOON_US)
    call = KmsCall(OPERATIONS["Decrypt"], "eu-central-1", ALICE, {"KeyId": ID}, NOON_US, raw)
    made = AuthorizationRequest.of(call, "111122223333", "10.1.2.3")
    assert (made.operation, made.secure, made.headers, made.source_ip) == ("Decrypt", True, raw.headers, "10.1.2.3")
    assert "aaaa" not in repr(made)  # parameters may hold plaintext
    bare = AuthorizationRequest.of(KmsCall(OPERATIONS["ListKeys"], "x", ALICE, {}, 0), "111122223333", "10.1.2.3")
    assert (bare.secure, bare.headers) == (None, ())


@pytest.mark.parametrize(
    ("one", "parameters", "words"),
    [
        (
            statement(Sid="No"),
            {"KeyId": ID},
            f"kms:Decrypt on resource: {KEY} with an explicit deny in the guardrail p.json, statement No",
        ),
        (statement("Allow", "kms:Sign"), {"KeyId": ID}, "because no guardrail allows the kms:Decrypt action"),
        (statement(resource=KEY), {}, "key/[*] with an explicit deny .*, statement 1 .the request does not tell which key"),
    ],
)
def test_a_refusal_is_in_aws_words(one: dict[str, Any], parameters: dict[str, Any], words: str) -> None:
    asked = request("Decrypt", **parameters)
    decision = guardrails(one).decide(asked)
    error = refusal(asked, decision)
    assert error.code == "AccessDeniedException" and error.denied_by == decision.denied_by
    assert error.message is not None and error.message.startswith(f"User: {ALICE.arn} is not authorized to perform: ")
    assert re.search(words, error.message)
    assert "\0" not in error.message


# --- The examples do what they say --------------------------------------------------------------------------------------

EXAMPLES = load(read_folder(Path(__file__).parents[2] / "config" / "policies"))
ACME = {"tenant": "acme"}


@pytest.mark.parametrize(
    ("asked", "by"),
    [
        (request("Decrypt", EncryptionContext=ACME), None),
        (request("GenerateDataKey", KeyId="alias/x", EncryptionContext=ACME), None),
        (request("Decrypt"), "TenantInEncryptionContext"),
        (request("Decrypt", EncryptionContext={"tenant": ""}), "TenantInEncryptionContext"),
        (request("Decrypt", EncryptionContext={"TENANT": "acme"}), "ExactlyThisSpelling"),
        (request("ReEncrypt", SourceEncryptionContext=ACME, DestinationKeyId=ID), "TenantInEncryptionContext"),
        (request("Sign", KeyId=ID), None),
        (request("ScheduleKeyDeletion", KeyId=ID), "KeyAdministratorsOnly"),
        (request("ScheduleKeyDeletion", ADMIN, KeyId=ID), None),
        (request("ScheduleKeyDeletion", ADMIN, KeyId=ID, PendingWindowInDays=7), "TwoWeeksToChangeYourMind"),
        (request("ScheduleKeyDeletion", STRANGER, KeyId=ID), "KeyAdministratorsOnly"),
        (request("DeleteAlias", AliasName="alias/x"), "KeyAdministratorsOnly"),
        (request("DeleteCustomKeyStore"), "KeyAdministratorsOnly"),
        (request("CreateKey"), None),
        (request("CreateKey", ADMIN, Policy="{}", BypassPolicyLockoutSafetyCheck=True), "KeyPoliciesThatCanBeChangedAgain"),
        (request("ReplicateKey", ADMIN, KeyId=ID, ReplicaRegion="ap-south-1"), "OurRegions"),
    ],
)
def test_the_examples(asked: AuthorizationRequest, by: str | None) -> None:
    decision = EXAMPLES.decide(asked)
    assert (None if decision.denied_by is None else decision.denied_by.statement) == by


@pytest.mark.parametrize(("address", "allowed"), [("10.9.9.9", True), ("::1", True), ("203.0.113.9", False), ("", False)])
def test_the_example_for_networks(address: str, allowed: bool) -> None:
    asked = request("ListKeys")
    asked.source_ip = address
    assert EXAMPLES.decide(asked).allowed == allowed
