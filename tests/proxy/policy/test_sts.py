"""Guardrails on calls to STS."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.domain import DeniedBy
from proxy.kms.operations import OPERATIONS
from proxy.policy.access import STS_ACTIONS, STS_OPERATIONS, accesses, actions_of
from proxy.policy.evaluate import ALLOWED, refusal
from tests.proxy.policy.asked import ALICE, denied, guardrails, request, statement

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
