"""Deny and Allow: which statements decide, in whatever order they stand."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import DeniedBy
from proxy.kms.operations import OPERATIONS
from proxy.policy.access import AuthorizationRequest
from proxy.policy.evaluate import ALLOWED, Guardrails
from tests.proxy.policy.asked import ADMIN, ALICE, HEAD, ID, KEY, OTHER, STRANGER, denied, guardrails, request, statement


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
