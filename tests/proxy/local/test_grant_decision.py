"""Whether a grant lets a call do a thing: the decision itself, in the tables and within a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.grant_tokens import make_token
from proxy.backends.local.grants import CONTEXT_MEMBERS, Constraints, Grant, allowing, context_of, delegating, limits_of
from proxy.backends.local.keys import Key
from proxy.backends.local.tables import Tables, View
from proxy.domain import KmsCall, Principal
from tests.proxy.local.world import ACCOUNT, ALICE, BOB, REGION, START_S, World, call

OTHER = BOB.account_id
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service/storage"
SESSION = Principal("AssumedRole", f"arn:aws:sts::{ACCOUNT}:assumed-role/storage/i-1", ACCOUNT, "ASIA", "AROA:i-1")
ROOT = Principal("Root", f"arn:aws:iam::{OTHER}:root", OTHER, "AKIA", OTHER)
_ids = count()


def grant(key: Key, grantee: str = ALICE.arn, *operations: str, **members: Any) -> Grant:
    constraints = members.pop("constraints", {})
    return Grant(
        id=members.pop("id", f"{next(_ids):064x}"),
        region=key.region,
        key_id=key.id,
        account_id=key.account_id,
        issuer=members.pop("issuer", key.account_id),
        grantee=grantee,
        operations=operations or ("Decrypt",),
        created_s=members.pop("created_s", START_S),
        constraints=constraints,
        limits=limits_of(constraints),
        token_key=b"k" * 32,
        **members,
    )


def key_in(world: World, key_id: str | None = None) -> Key:
    key = world.backend._tables.find_key(ACCOUNT, REGION, key_id or world.new_key())
    assert key is not None
    return key


def put(world: World, *grants: Grant) -> None:
    with world.store.change() as tx:
        for one in grants:
            KeysInChange(tx).put_grant(one)


ViewOf = Callable[[World], AbstractContextManager[View]]


@contextmanager
def _tables(world: World) -> Iterator[View]:
    yield Tables(world.store)


@contextmanager
def _change(world: World) -> Iterator[View]:
    with world.store.change() as tx:
        yield KeysInChange(tx)


@pytest.fixture(params=[_tables, _change], ids=["tables", "change"])
def view_of(request: pytest.FixtureRequest) -> ViewOf:
    one: ViewOf = request.param
    return one


def decide(
    view: View, key: Key, made: KmsCall, action: str | None = None, now_s: float = START_S, delay_s: float = 0
) -> str | None:
    found = allowing(view, made, action or f"kms:{made.operation.name}", key, now_s, delay_s)
    return None if found is None else found.id


def test_a_grant_lets_its_grantee_do_its_operations_with_its_key(world: World, view_of: ViewOf) -> None:
    key, other = key_in(world), key_in(world)
    made = grant(key, ALICE.arn, "Decrypt", "ReEncryptFrom", "DescribeKey")
    put(world, made)
    with view_of(world) as view:
        assert decide(view, key, call("Decrypt")) == made.id
        assert decide(view, key, call("DescribeKey")) == made.id
        assert decide(view, key, call("ReEncrypt"), "kms:ReEncryptFrom") == made.id
        for denied in ("kms:ReEncryptTo", "kms:Encrypt", "kms:ReEncrypt", "kms:ListGrants", "Decrypt*", "kms:*"):
            assert decide(view, key, call("ReEncrypt"), denied) is None
        assert decide(view, other, call("Decrypt")) is None
        assert decide(view, key, call("Decrypt", caller=BOB)) is None
        assert list(view.grants_of(key)) == [made] and list(view.grants_of(other)) == []


@pytest.mark.parametrize(
    ("grantee", "caller", "may"),
    [
        (SESSION.arn, SESSION, True),
        (ROLE, SESSION, True),
        (f"arn:aws:iam::{ACCOUNT}:role/storage", SESSION, True),
        (f"arn:aws:iam::{ACCOUNT}:role/stor", SESSION, False),
        (f"arn:aws:iam::{OTHER}:role/storage", SESSION, False),
        (f"arn:aws:sts::{ACCOUNT}:assumed-role/storage/i-2", SESSION, False),
        (f"arn:aws:iam::{ACCOUNT}:user/storage", SESSION, False),
        (BOB.arn, BOB, True),
        (f"arn:aws:iam::{OTHER}:user/path/bob", BOB, False),
        (f"arn:aws:iam::{OTHER}:root", ROOT, True),
        (f"arn:aws:iam::{OTHER}:root", BOB, False),
        ("bob.amazonaws.com", BOB, False),
    ],
)
def test_a_session_is_a_grantee_by_its_arn_and_by_its_role(
    world: World, view_of: ViewOf, grantee: str, caller: Principal, may: bool
) -> None:
    key = key_in(world)
    put(world, grant(key, grantee))
    with view_of(world) as view:
        assert (decide(view, key, call("Decrypt", caller=caller)) is not None) is may


def test_a_grant_to_an_account_is_for_the_accounts_own_policies_to_hand_on(world: World, view_of: ViewOf) -> None:
    key = key_in(world)
    made = grant(key, f"arn:aws:iam::{OTHER}:root")
    put(world, made)
    with view_of(world) as view:
        for caller, expected in ((BOB, made), (ROOT, made), (ALICE, None), (SESSION, None)):
            assert delegating(view, call("Decrypt", caller=caller), "kms:Decrypt", key, START_S, 0) == expected
        host = Principal("Unknown", "", OTHER, "", "host:0")
        assert delegating(view, call("Decrypt", caller=host), "kms:Decrypt", key, START_S, 0) is None
        assert decide(view, key, call("Decrypt", caller=host)) is None


EQUALS, SUBSET = "EncryptionContextEquals", "EncryptionContextSubset"


@pytest.mark.parametrize(
    ("constraints", "context", "may"),
    [
        ({}, None, True),
        ({}, {"a": "1"}, True),
        ({EQUALS: {"a": "1"}}, {"a": "1"}, True),
        ({EQUALS: {"a": "1"}}, {"A": "1"}, True),
        ({EQUALS: {"A": "x"}}, {"a": "X"}, False),
        ({EQUALS: {"a": "1"}}, {"a": "1", "b": "2"}, False),
        ({EQUALS: {"a": "1"}}, {"a": "1", "A": "1"}, False),
        ({EQUALS: {"a": "1"}}, {}, False),
        ({EQUALS: {"a": "1"}}, None, False),
        ({EQUALS: {"a": "bc"}}, {"ab": "c"}, False),
        ({EQUALS: {}}, None, True),
        ({EQUALS: {}}, {"a": "1"}, False),
        ({SUBSET: {"a": "1"}}, {"a": "1"}, True),
        ({SUBSET: {"a": "1"}}, {"b": "2", "A": "1"}, True),
        ({SUBSET: {"a": "1", "b": "2"}}, {"a": "1"}, False),
        ({SUBSET: {"a": "1", "b": "2"}}, {"c": "3", "b": "2", "a": "1"}, True),
        ({SUBSET: {"a": "1"}}, {"a": "2"}, False),
        ({SUBSET: {"a": "1"}}, None, False),
        ({SUBSET: {}}, None, True),
        ({SUBSET: {}}, {"a": "1"}, True),
        ({EQUALS: {"a": "1", "b": "2"}, SUBSET: {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({EQUALS: {"a": "1"}, SUBSET: {"b": "2"}}, {"a": "1", "b": "2"}, False),
    ],
)
def test_constraints_compare_keys_without_case_and_values_with_it(
    world: World, view_of: ViewOf, constraints: Mapping[str, Any], context: Mapping[str, str] | None, may: bool
) -> None:
    key = key_in(world)
    operations = ("Decrypt", "Encrypt", "ReEncryptFrom", "ReEncryptTo", "DescribeKey", "CreateGrant")
    put(world, grant(key, ALICE.arn, *operations, constraints=constraints))

    def sent(member: str) -> dict[str, Any]:
        return {} if context is None else {member: context}

    with view_of(world) as view:
        assert (decide(view, key, call("Decrypt", **sent("EncryptionContext"))) is not None) is may
        assert (decide(view, key, call("Encrypt", **sent("EncryptionContext"))) is not None) is may
        assert (decide(view, key, call("ReEncrypt", **sent("SourceEncryptionContext")), "kms:ReEncryptFrom") is not None) is may
        assert (
            decide(view, key, call("ReEncrypt", **sent("DestinationEncryptionContext")), "kms:ReEncryptTo") is not None
        ) is may
        assert decide(view, key, call("DescribeKey")) is not None


def test_the_two_contexts_of_a_re_encryption_are_not_taken_for_each_other(world: World, view_of: ViewOf) -> None:
    key = key_in(world)
    put(world, grant(key, ALICE.arn, "ReEncryptFrom", "ReEncryptTo", constraints={EQUALS: {"a": "1"}}))
    moved = call("ReEncrypt", SourceEncryptionContext={"a": "1"}, EncryptionContext={"a": "1"})
    with view_of(world) as view:
        assert decide(view, key, moved, "kms:ReEncryptFrom") is not None
        assert decide(view, key, moved, "kms:ReEncryptTo") is None


def test_a_constraint_on_the_source_is_met_by_no_call_of_ours(world: World, view_of: ViewOf) -> None:
    key = key_in(world)
    operations = ("Decrypt", "DescribeKey", "RetireGrant")
    made = grant(key, ALICE.arn, *operations, constraints={"SourceArn": "arn:aws:s3:::bucket"})
    put(world, made)
    with view_of(world) as view:
        assert decide(view, key, call("Decrypt")) is None
        assert decide(view, key, call("DescribeKey")) is None
        assert decide(view, key, call("RetireGrant", KeyId=key.arn, GrantId=made.id)) == made.id


def test_until_the_delay_is_over_a_grant_is_one_for_calls_with_its_token(world: World, view_of: ViewOf) -> None:
    key = key_in(world)
    made, other = grant(key), grant(key, BOB.arn)
    put(world, made, other)
    token = make_token(made.id, made.token_key, b"n" * 16)
    forged = make_token(made.id, b"x" * 32, b"n" * 16)
    with view_of(world) as view:
        for tokens, may in (
            ([], False),
            ([token], True),
            ([make_token(other.id, other.token_key, b"n" * 16), token], True),
            ([make_token(other.id, other.token_key, b"n" * 16)], False),
            ([forged], False),
            (["rubbish"], False),
        ):
            sent = call("Decrypt", GrantTokens=tokens)
            assert (decide(view, key, sent, now_s=START_S + 4.9, delay_s=5) is not None) is may
            assert decide(view, key, sent, now_s=START_S + 5, delay_s=5) == made.id
            assert decide(view, key, sent, now_s=START_S - 0.001) == made.id  # without a delay, no clock matters
        assert decide(view, key, call("Decrypt", caller=BOB, GrantTokens=[token]), delay_s=5) is None


def test_a_grant_that_fails_does_not_hide_one_that_allows(world: World, view_of: ViewOf) -> None:
    key = key_in(world)
    limited = {SUBSET: {"a": "1"}}
    put(
        world,
        grant(key, SESSION.arn, "Encrypt"),
        grant(key, ROLE, constraints=limited),
        grant(key, ROLE, created_s=START_S + 1),
        last := grant(key, ROLE, constraints={EQUALS: {"b": "2"}}),
    )
    made = call("Decrypt", caller=SESSION, EncryptionContext={"B": "2"})
    with view_of(world) as view:
        assert decide(view, key, made, now_s=START_S + 10, delay_s=9.5) == last.id


def test_who_may_retire_a_grant(world: World, view_of: ViewOf) -> None:
    key, other = key_in(world), key_in(world)
    retired = grant(key, SESSION.arn, "Decrypt", retiring=BOB.arn)
    own = grant(key, ROLE, "Decrypt", "RetireGrant", issuer=OTHER)
    put(world, retired, own)
    session2 = Principal("AssumedRole", f"arn:aws:sts::{ACCOUNT}:assumed-role/storage/i-2", ACCOUNT, "ASIA", "AROA:i-2")
    own_root = Principal("Root", f"arn:aws:iam::{ACCOUNT}:root", ACCOUNT, "AKIA", ACCOUNT)
    with view_of(world) as view:
        for target, caller, may in (
            (retired, BOB, True),
            (retired, SESSION, False),
            (retired, ALICE, False),
            (retired, own_root, True),
            (retired, ROOT, False),
            (own, SESSION, True),
            (own, session2, True),
            (own, BOB, False),
            (own, ROOT, True),
            (own, own_root, False),
        ):
            by_token = make_token(target.id, target.token_key, b"n" * 16)
            for sent in ({"GrantId": target.id}, {"GrantToken": by_token}):
                assert (decide(view, key, call("RetireGrant", caller=caller, **sent)) is not None) is may
                assert decide(view, other, call("RetireGrant", caller=caller, **sent)) is None
        assert decide(view, key, call("RetireGrant", caller=BOB)) is None
        forged = make_token(retired.id, own.token_key[:-1] + b"x", b"n" * 16)
        assert decide(view, key, call("RetireGrant", caller=BOB, GrantToken=forged)) is None
        # An account's own policies may hand on what the account may.
        assert delegating(view, call("RetireGrant", GrantId=retired.id), "kms:RetireGrant", key, START_S, 0) == retired
        assert delegating(view, call("RetireGrant", caller=BOB, GrantId=own.id), "kms:RetireGrant", key, START_S, 0) == own


@pytest.mark.parametrize(
    ("asked", "may"),
    [
        ({"Operations": ["Decrypt"], "Constraints": {SUBSET: {"a": "1"}}}, True),
        ({"Operations": ["Decrypt", "CreateGrant"], "Constraints": {SUBSET: {"A": "1", "b": "2"}}}, True),
        ({"Operations": ["Decrypt"], "Constraints": {EQUALS: {"a": "1"}}}, True),
        ({"Operations": ["Decrypt"], "Constraints": {EQUALS: {"a": "1", "b": "2"}}}, True),
        ({"Operations": ["Decrypt"]}, False),
        ({"Operations": ["Decrypt"], "Constraints": {}}, False),
        ({"Operations": ["Decrypt"], "Constraints": {SUBSET: {"b": "2"}}}, False),
        ({"Operations": ["Decrypt"], "Constraints": {SUBSET: {"a": "2"}}}, False),
        ({"Operations": ["Decrypt"], "Constraints": {EQUALS: {"b": "2"}}}, False),
        ({"Operations": ["Encrypt"], "Constraints": {SUBSET: {"a": "1"}}}, False),
        ({"Operations": ["Decrypt", "RetireGrant"], "Constraints": {SUBSET: {"a": "1"}}}, False),
    ],
)
def test_create_grant_is_for_grants_that_are_not_wider(
    world: World, view_of: ViewOf, asked: Mapping[str, Any], may: bool
) -> None:
    key = key_in(world)
    put(world, grant(key, ALICE.arn, "Decrypt", "CreateGrant", constraints={SUBSET: {"a": "1"}}))
    with view_of(world) as view:
        assert (decide(view, key, call("CreateGrant", KeyId=key.id, GranteePrincipal=BOB.arn, **asked)) is not None) is may


_contexts = st.dictionaries(st.sampled_from("abABc"), st.sampled_from("12"), max_size=4)
_constraints = st.fixed_dictionaries({}, optional={EQUALS: _contexts, SUBSET: _contexts, "SourceArn": st.sampled_from("xy")})


@given(_constraints, _contexts)
def test_constraints_are_met_as_their_documentation_says(constraints: Mapping[str, Any], context: Mapping[str, str]) -> None:
    pairs = [(name.lower(), value) for name, value in context.items()]
    expected = True
    if (equals := constraints.get(EQUALS)) is not None:
        expected &= sorted(pairs) == sorted((name.lower(), value) for name, value in equals.items())
    for name, value in constraints.get(SUBSET, {}).items():
        expected &= (name.lower(), value) in pairs
    assert limits_of(constraints).are_met_by(context_of(context)) is expected


@given(_constraints, _constraints, _contexts)
def test_what_a_stricter_constraint_lets_through_the_wider_one_does(
    parent: Mapping[str, Any], child: Mapping[str, Any], context: Mapping[str, str]
) -> None:
    wide, strict = limits_of(parent), limits_of(child)
    if strict.are_as_strict_as(wide):
        assert not strict.are_met_by(context_of(context)) or wide.are_met_by(context_of(context))
        assert wide.source_arn in (None, strict.source_arn)
    assert strict.are_as_strict_as(strict) and strict.are_as_strict_as(Constraints())


_operation_lists = st.lists(st.sampled_from(["Decrypt", "ReEncryptTo", "DescribeKey", "CreateGrant"]), unique=True)


@given(_operation_lists, _constraints, _operation_lists, _constraints, _contexts)
def test_a_child_is_never_wider_than_its_parent(
    parent_operations: list[str],
    parent: Mapping[str, Any],
    child_operations: list[str],
    child: Mapping[str, Any],
    context: Mapping[str, str],
) -> None:
    def made(operations: list[str], constraints: Mapping[str, Any]) -> Grant:
        return Grant("", REGION, "", ACCOUNT, ACCOUNT, "", tuple(operations), 0, limits=limits_of(constraints))

    wide, narrow = made(parent_operations, parent), made(child_operations, child)
    if wide.covers(narrow.operations, narrow.limits):
        for operation in ("Decrypt", "ReEncryptTo", "DescribeKey", "CreateGrant"):
            sent = context_of(context) if operation in CONTEXT_MEMBERS else None
            assert not narrow.allows(operation, sent) or wide.allows(operation, sent)


def test_a_look_up_costs_the_same_among_many_grants(world: World) -> None:
    """Counted, not timed: how many grants are looked at, where one key has thousands for one grantee."""
    key = key_in(world)
    put(world, *(grant(key, ROLE, constraints={SUBSET: {"volume": str(n), "zone": "a"}}) for n in range(1500)))
    put(world, *(grant(key, ROLE, constraints={EQUALS: {"volume": str(n)}}) for n in range(1500)))
    tables = Tables(world.store)
    name = f"arn:aws:iam::{ACCOUNT}:role/storage"
    for context, most in (({"volume": "7", "zone": "a"}, 1), ({"volume": "7"}, 2), ({}, 0), ({"zone": "a"}, 0)):
        assert len(list(tables.grants_to(key, name, context_of(context)))) <= most
    assert len(list(tables.grants_to(key, name, None))) == 3000
