"""Who may do what: key policies, identity policies, grants and accounts, and what the refused are told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.authorization import PolicyAuthoriser, operator
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.grants import Grant
from proxy.domain import AllowedBy, Principal, SessionContext
from proxy.errors import KmsError
from tests.proxy.local.policies import (
    BOBS_ROOT,
    CAROL,
    ROLE,
    ROOT,
    SESSION,
    document,
    give,
    give_nothing,
    of_account,
    statement,
)
from tests.proxy.local.world import ACCOUNT, ALICE, BOB, REGION, World, arn_of, call

BY_OWN = AllowedBy(policy="own", statement="1")
UNKNOWN_KEY = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region,"
    " or you are not allowed to access."
)


def key_with(world: World, *statements: dict[str, Any]) -> str:
    """A key with these statements in its policy, made by the host, which no policy locks out."""
    policy = document(*statements)
    with as_caller(world, operator(ACCOUNT, 0, "root")):
        return world.new_key(Policy=policy)


class as_caller:
    def __init__(self, world: World, principal: Principal) -> None:
        self.world, self.principal, self.before = world, principal, world.caller

    def __enter__(self) -> None:
        self.world.caller = self.principal

    def __exit__(self, *_: object) -> None:
        self.world.caller = self.before


def authoriser_of(world: World) -> PolicyAuthoriser:
    assert isinstance(world.authoriser, PolicyAuthoriser)
    return world.authoriser


def allowed_by(world: World, principal: Principal, action: str, key: str, **parameters: Any) -> AllowedBy | str:
    """What allows it, or the refusal's message."""
    tables = world.backend._tables
    tables.refresh()
    found = tables.find_key(ACCOUNT, REGION, key)
    assert found is not None
    asked = call("Encrypt", REGION, principal, KeyId=key, **parameters)
    verdict = authoriser_of(world).decide(tables, asked, action, found)
    return verdict.allowed_by or str(verdict.refused and verdict.refused.value)


# --- One account --------------------------------------------------------------------------------------------------------


def test_a_caller_without_policies_of_its_own_may_do_everything_in_its_account(world: World) -> None:
    key = world.new_key()
    by = AllowedBy(policy="KMSFullAccess", statement="KMSFullAccess")
    for principal in (ALICE, CAROL, SESSION):
        assert allowed_by(world, principal, "kms:Decrypt", key) == by
        with as_caller(world, principal):
            assert world("Encrypt", KeyId=key, Plaintext=b"x")["KeyId"] == arn_of(key)
            world.new_key()


def test_what_no_identity_policy_allows_is_refused_in_aws_words(world: World) -> None:
    key = world.new_key()
    give(world, ALICE, statement(action=["kms:Encrypt", "kms:ListKeys"]))
    assert world("Encrypt", KeyId=key, Plaintext=b"x") and world("ListKeys")
    refusal = world.refused("DescribeKey", KeyId=key)
    assert (refusal.code, refusal.message) == (
        "AccessDeniedException",
        f"User: {ALICE.arn} is not authorized to perform: kms:DescribeKey on resource: {arn_of(key)}"
        " because no identity-based policy allows the kms:DescribeKey action",
    )
    assert [one.arn for one in refusal.keys] == [arn_of(key)]
    for operation, resource in (("CreateKey", "*"), ("GenerateRandom", "*"), ("ListAliases", "*")):
        assert world.refused(operation, NumberOfBytes=1).message == (
            f"User: {ALICE.arn} is not authorized to perform: kms:{operation} on resource: {resource}"
            f" because no identity-based policy allows the kms:{operation} action"
        )


def test_a_denial_of_either_side_wins_over_everything(world: World) -> None:
    key = key_with(world, of_account(), statement(principal={"AWS": ALICE.arn}), statement("Deny", "kms:Enc*", "*", Sid="no way"))
    give(world, CAROL, statement(), statement("Deny", "kms:DescribeKey", Sid="Never"))
    assert world.refused("Encrypt", KeyId=key, Plaintext=b"x").message == (
        f"User: {ALICE.arn} is not authorized to perform: kms:Encrypt on resource: {arn_of(key)}"
        " with an explicit deny in a resource-based policy"
    )
    world.caller = CAROL
    assert world.refused("DescribeKey", KeyId=key).message == (
        f"User: {CAROL.arn} is not authorized to perform: kms:DescribeKey on resource: {arn_of(key)}"
        " with an explicit deny in an identity-based policy"
    )


@pytest.mark.parametrize(
    ("principal", "allowed"),
    [
        ({"AWS": ALICE.arn}, [ALICE]),
        ({"AWS": [ALICE.arn, CAROL.arn]}, [ALICE, CAROL]),
        ({"AWS": CAROL.arn.replace("/ops", "")}, []),
        ({"AWS": ROLE}, [SESSION]),
        ({"AWS": ROLE.replace("role/", "role/teams/a/")}, [SESSION]),
        ({"AWS": SESSION.arn}, [SESSION]),
        ({"AWS": SESSION.arn.replace("s1", "s2")}, []),
        ("*", [ALICE, CAROL, SESSION]),
        ({"AWS": "*"}, [ALICE, CAROL, SESSION]),
        ({"AWS": ROOT}, []),
        ({"AWS": ACCOUNT}, []),
        ({"AWS": BOBS_ROOT}, []),
        ({"Service": "s3.amazonaws.com"}, []),
        ({"Service": "s3.amazonaws.com", "AWS": CAROL.arn}, [CAROL]),
        ({"Federated": "accounts.google.com"}, []),
    ],
)
def test_a_key_policy_allows_those_that_it_names_by_itself(world: World, principal: Any, allowed: list[Principal]) -> None:
    key = key_with(world, statement(action="kms:Encrypt", principal=principal))
    for caller in (ALICE, CAROL, SESSION):
        give_nothing(world, caller)
        by = AllowedBy(policy="key policy", statement="1") if caller in allowed else None
        refused = (
            "no identity-based policy allows"
            if principal in ({"AWS": ROOT}, {"AWS": ACCOUNT})
            else "no resource-based policy allows"
        )
        assert allowed_by(world, caller, "kms:Encrypt", key) == (by or refused)


def test_without_the_account_in_its_policy_a_key_is_closed_to_identity_policies(world: World) -> None:
    key = key_with(world, of_account("kms:DescribeKey"), statement(action="kms:*", principal={"AWS": CAROL.arn}))
    assert world("DescribeKey", KeyId=key)
    assert world.refused("Encrypt", KeyId=key, Plaintext=b"x").message == (
        f"User: {ALICE.arn} is not authorized to perform: kms:Encrypt on resource: {arn_of(key)}"
        " because no resource-based policy allows the kms:Encrypt action"
    )
    world.caller = CAROL
    assert world("Encrypt", KeyId=key, Plaintext=b"x")


@pytest.mark.parametrize(
    ("spared", "denied"),
    [
        ([ROOT, ALICE.arn], [CAROL, SESSION]),
        ([ROOT], [ALICE, CAROL, SESSION]),
        ([ALICE.arn], [ALICE, CAROL, SESSION]),
        ([ROOT, ROLE], [ALICE, CAROL, SESSION]),
        ([ROOT, ROLE, SESSION.arn], [ALICE, CAROL]),
    ],
)
def test_a_denial_to_all_but_some_spares_who_is_listed_by_every_name(
    world: World, spared: list[str], denied: list[Principal]
) -> None:
    key = key_with(
        world, of_account(), {"Effect": "Deny", "NotPrincipal": {"AWS": spared}, "Action": "kms:Encrypt", "Resource": "*"}
    )
    for caller in (ALICE, CAROL, SESSION):
        found = allowed_by(world, caller, "kms:Encrypt", key)
        assert (found == "explicit deny in a resource-based policy") == (caller in denied)


def test_a_denial_to_an_account_is_about_everybody_in_it(world: World) -> None:
    key = key_with(world, of_account(), statement("Deny", "kms:Encrypt", {"AWS": ACCOUNT}))
    assert allowed_by(world, ALICE, "kms:Encrypt", key) == "explicit deny in a resource-based policy"


def test_the_root_user_is_its_account(world: World) -> None:
    root = Principal("Root", ROOT, ACCOUNT, "AKIAROOT", ACCOUNT)
    assert allowed_by(world, root, "kms:Encrypt", world.new_key()) == AllowedBy(
        policy="key policy", statement="Enable IAM User Permissions"
    )
    closed = key_with(world, statement(principal={"AWS": ALICE.arn}))
    assert allowed_by(world, root, "kms:Encrypt", closed) == "no resource-based policy allows"


def test_a_role_has_its_policies_in_every_session(world: World) -> None:
    key = world.new_key()
    give(world, SESSION, statement(action="kms:Encrypt"))
    other = Principal("AssumedRole", SESSION.arn.replace("s1", "s2"), ACCOUNT, "ASIAOTHER", "AROAREADER:s2")
    for principal in (SESSION, other):
        assert allowed_by(world, principal, "kms:Encrypt", key) == BY_OWN
        assert allowed_by(world, principal, "kms:Decrypt", key) == "no identity-based policy allows"


def test_resources_of_identity_policies_are_keys_and_aliases(world: World) -> None:
    key, other = world.new_key(), world.new_key()
    world("CreateAlias", AliasName="alias/b", TargetKeyId=other)
    give(
        world,
        ALICE,
        statement(action=["kms:Encrypt", "kms:*Alias"], Resource=arn_of(key)),
        statement(action="kms:*Alias", Resource=f"arn:aws:kms:*:{ACCOUNT}:alias/a*"),
    )
    assert world("Encrypt", KeyId=key, Plaintext=b"x")
    assert world.refused("Encrypt", KeyId=other, Plaintext=b"x").code == "AccessDeniedException"
    world("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    assert world.refused("CreateAlias", AliasName="alias/b2", TargetKeyId=key).message == (
        f"User: {ALICE.arn} is not authorized to perform: kms:CreateAlias on resource: arn:aws:kms:{REGION}:{ACCOUNT}:alias/b2"
        " because no identity-based policy allows the kms:CreateAlias action"
    )
    for operation, parameters in (
        ("CreateAlias", {"AliasName": "alias/a2", "TargetKeyId": other}),  # the key
        ("UpdateAlias", {"AliasName": "alias/a", "TargetKeyId": other}),  # the next key
        ("DeleteAlias", {"AliasName": "alias/b"}),  # the alias
    ):
        assert world.refused(operation, **parameters).code == "AccessDeniedException"
    world("DeleteAlias", AliasName="alias/a")


def test_an_alias_is_taken_from_a_key_by_who_may_with_that_key(world: World) -> None:
    left, following = world.new_key(), world.new_key()
    world("CreateAlias", AliasName="alias/a", TargetKeyId=left)
    aliases = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/*"
    give(world, ALICE, statement(action="kms:*Alias", Resource=[aliases, arn_of(following)]))
    for operation, parameters in (("UpdateAlias", {"TargetKeyId": following}), ("DeleteAlias", {})):
        refusal = world.refused(operation, AliasName="alias/a", **parameters)
        assert refusal.code == "AccessDeniedException"
        assert f"kms:{operation} on resource: {arn_of(left)} " in str(refusal.message)
    give(world, ALICE, statement(action="kms:*Alias", Resource=[aliases, arn_of(left), arn_of(following)]))
    world("UpdateAlias", AliasName="alias/a", TargetKeyId=following)
    world("DeleteAlias", AliasName="alias/a")


def test_a_new_key_is_tagged_and_given_a_policy_by_who_may(world: World) -> None:
    asked: dict[str, Any] = {"Tags": [{"TagKey": "a", "TagValue": "1"}], "Policy": document(of_account())}
    for member, action in (("Tags", "kms:TagResource"), ("Policy", "kms:PutKeyPolicy")):
        give(world, ALICE, statement(), statement("Deny", action))
        refusal = world.refused("CreateKey", **{member: asked[member]})
        assert refusal.code == "AccessDeniedException" and f"to perform: {action} on" in str(refusal.message)
        assert world("CreateKey", Description="neither")
    assert len(world("ListKeys")["Keys"]) == 2


def test_a_change_of_policies_counts_from_the_next_call_of_every_worker(pair: tuple[World, World]) -> None:
    one, other = pair
    key = one.new_key()
    assert other("Encrypt", KeyId=key, Plaintext=b"x")
    give_nothing(one, ALICE)
    assert other.refused("Encrypt", KeyId=key, Plaintext=b"x").code == "AccessDeniedException"
    one.permissions.reset(ALICE.arn)
    assert other("Encrypt", KeyId=key, Plaintext=b"x")
    one("PutKeyPolicy", KeyId=key, Policy=document(of_account(["kms:Put*", "kms:Get*"])))
    assert other.refused("Encrypt", KeyId=key, Plaintext=b"x").code == "AccessDeniedException"


# --- Conditions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator_", "name", "value", "holds"),
    [
        ("StringEquals", "kms:KeySpec", "SYMMETRIC_DEFAULT", True),
        ("StringEquals", "kms:KeySpec", "RSA_2048", False),
        ("StringEquals", "kms:CustomerMasterKeySpec", "SYMMETRIC_DEFAULT", True),
        ("StringEquals", "kms:KeyUsage", "ENCRYPT_DECRYPT", True),
        ("StringEquals", "kms:KeyOrigin", "AWS_KMS", True),
        ("StringEquals", "kms:KeyOrigin", "EXTERNAL", False),
        ("Bool", "kms:MultiRegion", "false", True),
        ("Null", "kms:MultiRegionKeyType", "true", True),
        ("StringEquals", "aws:ResourceTag/team", "blue", True),
        ("StringEquals", "aws:ResourceTag/TEAM", "blue", True),
        ("StringEquals", "aws:ResourceTag/team", "red", False),
        ("StringEquals", "aws:ResourceTag/other", "blue", False),
        ("ForAnyValue:StringEquals", "kms:ResourceAliases", "alias/x", True),
        ("ForAnyValue:StringLike", "kms:ResourceAliases", "alias/y*", False),
        ("StringEquals", "aws:ResourceAccount", ACCOUNT, True),
        ("StringEquals", "kms:EncryptionContext:tenant", "acme", True),
        ("StringEquals", "kms:EncryptionContext:tenant", "other", False),
        ("StringEquals", "kms:RequestAlias", "alias/x", False),
        ("StringEquals", "kms:CallerAccount", ACCOUNT, True),
        ("StringEquals", "kms:ViaService", "s3.us-east-1.amazonaws.com", False),
        ("StringEquals", "aws:username", "alice", True),
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:user/al*", True),
        ("StringEquals", "aws:PrincipalOrgID", "o-1", False),
        ("StringNotEquals", "aws:PrincipalOrgID", "o-1", True),
        ("Bool", "aws:MultiFactorAuthPresent", "true", False),
        ("IpAddress", "aws:SourceIp", "10.0.0.0/8", False),
        ("NotIpAddress", "aws:SourceIp", "10.0.0.0/8", False),  # nobody knows where this call is from
    ],
)
def test_conditions_are_asked_of_the_call_and_of_the_key(
    world: World, operator_: str, name: str, value: str, holds: bool
) -> None:
    allow = statement(principal={"AWS": ALICE.arn}, Condition={operator_: {name: value}})
    key = key_with(world, allow)
    with as_caller(world, operator(ACCOUNT, 0, "root")):
        world("TagResource", KeyId=key, Tags=[{"TagKey": "team", "TagValue": "blue"}])
        world("CreateAlias", AliasName="alias/x", TargetKeyId=key)
    found = allowed_by(world, ALICE, "kms:Encrypt", key, EncryptionContext={"tenant": "acme"})
    assert found == (AllowedBy(policy="key policy", statement="1") if holds else "no resource-based policy allows")


def test_a_sessions_tags_and_source_identity_can_be_asked_for(world: World) -> None:
    condition = {"StringEquals": {"aws:PrincipalTag/Team": "${aws:ResourceTag/team}", "aws:SourceIdentity": "alice"}}
    key = key_with(world, statement(principal={"AWS": ROLE}, Condition=condition))
    with as_caller(world, operator(ACCOUNT, 0, "root")):
        world("TagResource", KeyId=key, Tags=[{"TagKey": "team", "TagValue": "blue"}])
    by = AllowedBy(policy="key policy", statement="1")
    for tags, identity, found in (
        ((("team", "blue"),), "alice", by),
        ((("team", "red"),), "alice", None),
        ((), "alice", None),
        ((("team", "blue"),), "bob", None),
        ((("team", "blue"),), None, None),
    ):
        session = replace(SESSION, session=SessionContext(0, source_identity=identity), tags=tags)
        assert allowed_by(world, session, "kms:Encrypt", key) == (found or "no resource-based policy allows")


# --- Grants -------------------------------------------------------------------------------------------------------------


def grant(world: World, key: str, grantee: str, *operations: str) -> AllowedBy:
    """A grant of the key, put into the store; as what it allows will be told."""
    number = str(len(world.store.changes_since(0, ("grant",)).entries)) * 64
    found = Grant(number, REGION, key, ACCOUNT, ACCOUNT, grantee, operations, 1.0, token_key=bytes(32))
    with world.store.change() as tx:
        KeysInChange(tx).put_grant(found)
    return AllowedBy(grant=found.id)


def test_a_grant_allows_what_no_policy_does(world: World) -> None:
    key = key_with(world, statement(principal={"AWS": CAROL.arn}))
    assert allowed_by(world, ALICE, "kms:Encrypt", key) == "no resource-based policy allows"
    by = grant(world, key, ALICE.arn, "Encrypt")
    assert allowed_by(world, ALICE, "kms:Encrypt", key) == by
    assert allowed_by(world, ALICE, "kms:Decrypt", key) == "no resource-based policy allows"
    assert allowed_by(world, CAROL, "kms:Encrypt", key) == AllowedBy(policy="key policy", statement="1")
    give_nothing(world, ALICE)
    assert world("Encrypt", KeyId=key, Plaintext=b"x")


def test_a_denial_wins_over_a_grant(world: World) -> None:
    key = key_with(world, of_account(), statement("Deny", "kms:Encrypt", {"AWS": ALICE.arn}))
    grant(world, key, ALICE.arn, "Encrypt", "Decrypt")
    assert allowed_by(world, ALICE, "kms:Encrypt", key) == "explicit deny in a resource-based policy"
    give(world, ALICE, statement("Deny", "kms:Decrypt"))
    assert allowed_by(world, ALICE, "kms:Decrypt", key) == "explicit deny in an identity-based policy"


def test_a_grant_reaches_into_another_account_by_itself(world: World) -> None:
    key = world.new_key()
    by = grant(world, key, BOB.arn, "Encrypt", "DescribeKey")
    give_nothing(world, BOB)
    assert allowed_by(world, BOB, "kms:Encrypt", key) == by
    world.caller = BOB
    assert world("DescribeKey", KeyId=arn_of(key)) and world("Encrypt", KeyId=arn_of(key), Plaintext=b"x")


def test_a_grant_to_an_account_leaves_it_to_its_policies(world: World) -> None:
    key = world.new_key()
    by = grant(world, key, BOBS_ROOT, "Encrypt")
    assert allowed_by(world, BOB, "kms:Encrypt", key) == by
    give(world, BOB, statement(action="kms:Decrypt"))
    assert allowed_by(world, BOB, "kms:Encrypt", key) == "no resource-based policy allows"


# --- Certainty ----------------------------------------------------------------------------------------------------------

ACTIONS = ("kms:Encrypt", "kms:Decrypt")
CONDITIONS: list[dict[str, Any]] = [
    {},
    {"StringEquals": {"kms:EncryptionContext:tenant": "acme"}},
    {"StringNotEquals": {"aws:username": "alice"}},
]
KEY_STATEMENTS = st.lists(
    st.builds(
        lambda effect, action, principal, condition: statement(effect, action, principal, Condition=condition),
        st.sampled_from(["Allow", "Allow", "Deny"]),
        st.sampled_from(["kms:*", *ACTIONS]),
        st.sampled_from(["*", {"AWS": ROOT}, {"AWS": ALICE.arn}, {"AWS": ROLE}, {"AWS": BOBS_ROOT}]),
        st.sampled_from(CONDITIONS),
    ),
    min_size=1,
    max_size=4,
)
OWN_STATEMENTS = st.lists(
    st.builds(
        lambda effect, action, condition: statement(effect, action, Condition=condition),
        st.sampled_from(["Allow", "Allow", "Deny"]),
        st.sampled_from(["kms:*", *ACTIONS]),
        st.sampled_from(CONDITIONS),
    ),
    min_size=1,
    max_size=3,
)


def by_the_book(caller: Principal, tenant: str, key: list[dict[str, Any]], own: list[dict[str, Any]]) -> bool:
    """Whether `caller` may Encrypt: the rules as IAM's guide has them, without a thought of cost."""

    def applies(one: dict[str, Any]) -> bool:
        is_about = one["Action"] in ("kms:*", "kms:Encrypt")
        is_met = {
            0: True,
            1: tenant == "acme",
            2: caller.user_name != "alice",
        }[CONDITIONS.index(one["Condition"])]
        return is_about and is_met

    names = {caller.arn, ROLE} if caller is SESSION else {caller.arn}
    account = {ROOT, BOBS_ROOT} & {f"arn:aws:iam::{caller.account_id}:root"}
    found = [(one["Effect"], one["Principal"]) for one in key if applies(one)]
    direct = {effect for effect, who in found if who == "*" or who["AWS"] in names}
    through = {effect for effect, who in found if who != "*" and who["AWS"] in account}
    mine = {one["Effect"] for one in own if applies(one)}
    if "Deny" in direct | through | mine:
        return False
    if caller.account_id != ACCOUNT:
        return "Allow" in direct | through and "Allow" in mine
    return "Allow" in direct or ("Allow" in through and "Allow" in mine)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(KEY_STATEMENTS, OWN_STATEMENTS, st.sampled_from([ALICE, SESSION, BOB]), st.sampled_from(["acme", "other"]))
def test_decisions_are_those_of_the_book(
    world: World, key: list[dict[str, Any]], own: list[dict[str, Any]], caller: Principal, tenant: str
) -> None:
    tables = world.backend._tables
    made = next(iter(tables.of(ACCOUNT, REGION).keys), None) or world.new_key()  # one for all examples
    found = tables.find_key(ACCOUNT, REGION, made)
    assert found is not None
    found = replace(found, policy=document(*key))
    give(world, caller, *own)
    asked = call("Encrypt", REGION, caller, KeyId=made, EncryptionContext={"tenant": tenant})
    authoriser, expected = authoriser_of(world), by_the_book(caller, tenant, key, own)
    assert (authoriser.decide(tables, asked, "kms:Encrypt", found).allowed_by is not None) is expected
    for _ in range(2):  # the second finds the first one's work
        try:
            authoriser.check(tables, asked, "kms:Encrypt", found)
            assert expected
        except KmsError as refusal:
            assert refusal.code == "AccessDeniedException" and not expected


def test_what_is_not_known_counts_against_the_caller(world: World) -> None:
    key = key_with(world, of_account(), statement("Deny", principal="*", Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}))
    assert allowed_by(world, ALICE, "kms:Encrypt", key) == "explicit deny in a resource-based policy"


def test_re_encrypting_on_one_key(world: World) -> None:
    condition = {"Bool": {"kms:ReEncryptOnSameKey": "true"}}
    key = key_with(world, of_account(["kms:Encrypt"]), statement(action="kms:ReEncrypt*", principal="*", Condition=condition))
    other = world.new_key()
    with as_caller(world, ALICE):
        blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
        world("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=key)
        world("ReEncrypt", CiphertextBlob=blob, SourceKeyId=key, DestinationKeyId=arn_of(key))
        refusal = world.refused("ReEncrypt", CiphertextBlob=blob, SourceKeyId=key, DestinationKeyId=other)
        assert "kms:ReEncryptFrom" in str(refusal.message) and "no resource-based policy" in str(refusal.message)
        foreign = world("Encrypt", KeyId=other, Plaintext=b"x")["CiphertextBlob"]
        assert "kms:ReEncryptTo" in str(world.refused("ReEncrypt", CiphertextBlob=foreign, DestinationKeyId=key).message)


# --- Accounts -----------------------------------------------------------------------------------------------------------

FOREIGN = (
    "User: {} is not authorized to perform: {} on this resource because the resource does not exist in this Region,"
    " no resource-based policies allow access, or a resource-based policy explicitly denies access"
)


@pytest.mark.parametrize("principal", ["*", {"AWS": BOBS_ROOT}, {"AWS": BOB.account_id}, {"AWS": BOB.arn}])
def test_across_accounts_both_sides_have_to_allow(world: World, principal: Any) -> None:
    closed = world.new_key()
    key = key_with(world, of_account(), statement(action=["kms:Encrypt", "kms:Decrypt"], principal=principal, Sid="Bob"))
    world.caller = BOB
    assert world("Encrypt", KeyId=arn_of(key), Plaintext=b"x")["KeyId"] == arn_of(key)
    assert allowed_by(world, BOB, "kms:Encrypt", key) == AllowedBy(policy="key policy", statement="Bob")
    assert world.refused("Encrypt", KeyId=arn_of(closed), Plaintext=b"x").message == FOREIGN.format(BOB.arn, "kms:Encrypt")
    assert world.refused("DescribeKey", KeyId=arn_of(key)).message == FOREIGN.format(BOB.arn, "kms:DescribeKey")
    give(world, BOB, statement(action="kms:DescribeKey"))
    assert world.refused("Encrypt", KeyId=arn_of(key), Plaintext=b"x").message == (
        f"User: {BOB.arn} is not authorized to perform: kms:Encrypt on resource: {arn_of(key)}"
        " because no identity-based policy allows the kms:Encrypt action"
    )
    nowhere = arn_of("00000000-0000-0000-0000-000000000000")
    told = [world.refused("Encrypt", KeyId=one, Plaintext=b"x") for one in (nowhere, arn_of(closed))]
    assert told[0].message == told[1].message == FOREIGN.format(BOB.arn, "kms:Encrypt")


def test_what_cannot_be_allowed_across_accounts_is_not(world: World) -> None:
    key = key_with(world, of_account(), statement(principal={"AWS": BOB.arn}))
    world.caller = BOB
    assert world("DescribeKey", KeyId=arn_of(key)) and world("Encrypt", KeyId=arn_of(key), Plaintext=b"x")
    for operation, parameters in (
        ("DisableKey", {}),
        ("ScheduleKeyDeletion", {}),
        ("GetKeyPolicy", {}),
        ("PutKeyPolicy", {"Policy": "{}"}),
        ("ListResourceTags", {}),
        ("ListAliases", {}),
    ):
        refusal = world.refused(operation, KeyId=arn_of(key), **parameters)
        assert refusal.message == FOREIGN.format(BOB.arn, f"kms:{operation}")


def test_a_denial_is_not_told_across_accounts(world: World) -> None:
    key = key_with(world, of_account(), statement(principal="*"), statement("Deny", principal={"AWS": BOBS_ROOT}))
    world.caller = BOB
    assert world.refused("Encrypt", KeyId=arn_of(key), Plaintext=b"x").message == FOREIGN.format(BOB.arn, "kms:Encrypt")


def test_who_may_not_use_the_key_of_a_ciphertext_is_not_told_which_it_is(world: World) -> None:
    key = key_with(world, of_account())
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    give_nothing(world, ALICE)
    for caller in (ALICE, BOB):
        world.caller = caller
        refusal = world.refused("Decrypt", CiphertextBlob=blob)
        assert (refusal.code, refusal.message) == ("AccessDeniedException", UNKNOWN_KEY)


# --- The host, and the record -------------------------------------------------------------------------------------------


def test_the_operator_on_the_host_may_do_everything_in_its_account(world: World) -> None:
    key = key_with(world, statement("Deny", principal="*"), statement(principal={"AWS": ALICE.arn}))
    asked = call("DescribeKey", REGION, host := operator(ACCOUNT, 0, "root"), KeyId=key)
    world.caller = host
    assert world("DescribeKey", KeyId=key)
    world.authoriser.check(world.backend._tables, asked, "kms:DescribeKey", world.backend._tables.find_key(ACCOUNT, REGION, key))
    assert asked.allowed_by == [AllowedBy(policy="host")]
    world.caller = operator(BOB.account_id, 0, "root")
    assert world.refused("DescribeKey", KeyId=arn_of(key)).code == "AccessDeniedException"


def test_a_caller_without_a_name_may_do_nothing(world: World) -> None:
    key = world.new_key()
    world.caller = Principal("Unknown", "", ACCOUNT, "AKIASTRANGER", "AKIASTRANGER")
    assert world.refused("DescribeKey", KeyId=key).code == "AccessDeniedException"
    assert world.refused("ListKeys").code == "AccessDeniedException"


async def test_a_call_tells_what_allowed_each_of_its_actions(world: World) -> None:
    give(world, ALICE, statement(Sid="All"))
    own = AllowedBy(policy="own", statement="All")
    created = call("CreateKey", Tags=[{"TagKey": "a", "TagValue": "b"}])
    key = (await world.backend.call(created)).members["KeyMetadata"]["KeyId"]
    assert created.allowed_by == [own, own]
    encrypted = call("Encrypt", KeyId=key, Plaintext=b"x")
    blob = (await world.backend.call(encrypted)).members["CiphertextBlob"]
    re_encrypted = call("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=key)
    await world.backend.call(re_encrypted)
    assert (encrypted.allowed_by, re_encrypted.allowed_by) == ([own], [own, own])


def test_a_policy_in_the_store_that_cannot_be_read_allows_nothing(world: World) -> None:
    key = world.new_key()
    world.permissions.put(ALICE.arn, "own", json.dumps({"Statement": []}))
    refusal = world.refused("DescribeKey", KeyId=key)
    assert refusal.code == "AccessDeniedException" and "own cannot be read" in str(refusal.message)
