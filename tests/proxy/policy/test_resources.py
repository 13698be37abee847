"""The resources of each operation, and keys that a call does not tell."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.domain import DeniedBy
from proxy.kms.operations import OPERATIONS
from proxy.policy.access import ACTIONS, AuthorizationRequest, accesses, actions_of
from tests.proxy.policy.asked import HEAD, ID, KEY, OTHER, STRANGER, denied, guardrails, request, statement

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
