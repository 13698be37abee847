"""Who may ask: nobody to whom it was not given, and nobody to whom a guardrail denies it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cloudtrail.operations import OPERATIONS
from proxy.cloudtrail.permission import Permission
from proxy.domain import KmsCall, Origin, Principal, RawRequest
from proxy.errors import KmsError
from proxy.permissions import Permissions
from proxy.policy import lint
from proxy.policy.access import AuthorizationRequest
from proxy.policy.evaluate import load
from proxy.sealed_store import SealedStore
from tests.proxy.local.policies import document, statement
from tests.proxy.local.world import ACCOUNT, INSTANCE, MASTER_KEY, REGION

USER, ROLE = f"arn:aws:iam::{ACCOUNT}:user/auditor", f"arn:aws:iam::{ACCOUNT}:role/auditors"
AUDITOR = Principal("IAMUser", USER, ACCOUNT, "AKIA1", "AIDA1", "auditor")
SESSION = Principal("AssumedRole", f"arn:aws:sts::{ACCOUNT}:assumed-role/auditors/run", ACCOUNT, "ASIA1", "AROA1:run")
ROOT = Principal("Root", f"arn:aws:iam::{ACCOUNT}:root", ACCOUNT, "AKIA2", ACCOUNT)
TRAIL = f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/keytrail"


@pytest.fixture
def permissions(tmp_path: Path) -> Iterator[Permissions]:
    store = SealedStore.create(tmp_path / "keystore.db", MASTER_KEY, INSTANCE)
    yield Permissions(store)
    store.close()


def call(operation: str, principal: Principal = AUDITOR, **parameters: object) -> KmsCall:
    raw = RawRequest(b"POST", b"/", (), b"", Origin("192.0.2.7"), 0)
    return KmsCall(OPERATIONS[operation], REGION, principal, parameters, 0, raw)


def refusal(permissions: Permissions, asked: KmsCall, source_ip: str = "192.0.2.7") -> str | None:
    """The message of the refusal; None where it is allowed, and noted by what."""
    try:
        Permission(permissions).check(asked, source_ip)
    except KmsError as error:
        assert error.code == "AccessDeniedException" and not asked.allowed_by
        return error.message
    assert asked.allowed_by
    return None


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("principal", [AUDITOR, SESSION, ROOT], ids=lambda one: str(one.type))
def test_the_built_in_policy_allows_none_of_it(permissions: Permissions, operation: str, principal: Principal) -> None:
    told = refusal(permissions, call(operation, principal, Name="keytrail"))
    resource = TRAIL if operation in ("GetTrail", "GetTrailStatus") else "*"
    assert told == (
        f"User: {principal.arn} is not authorized to perform: cloudtrail:{operation} on resource: {resource}"
        f" because no identity-based policy allows the cloudtrail:{operation} action"
    )


def test_what_is_given_is_allowed_and_told_by_which_statement(permissions: Permissions) -> None:
    permissions.put(USER, "reader", document(statement(action="cloudtrail:Lookup*", Sid="Look")))
    asked = call("LookupEvents")
    assert refusal(permissions, asked) is None
    assert [(one.policy, one.statement) for one in asked.allowed_by] == [("reader", "Look")]
    assert refusal(permissions, call("ListTrails")) is not None
    permissions.remove(USER, "reader")
    assert refusal(permissions, call("LookupEvents")) is not None


def test_a_roles_policy_is_its_sessions(permissions: Permissions) -> None:
    permissions.put(ROLE, "reader", document(statement(action="cloudtrail:LookupEvents")))
    assert refusal(permissions, call("LookupEvents", SESSION)) is None
    assert refusal(permissions, call("LookupEvents")) is not None


def test_a_denial_wins_and_a_condition_counts(permissions: Permissions) -> None:
    at_home = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    permissions.put(USER, "reader", document(statement(action="cloudtrail:*", Condition=at_home)))
    assert refusal(permissions, call("LookupEvents"), "10.1.2.3") is None
    assert refusal(permissions, call("LookupEvents"), "192.0.2.7") is not None
    permissions.put(USER, "not", document(statement("Deny", action="cloudtrail:LookupEvents")))
    told = refusal(permissions, call("LookupEvents"), "10.1.2.3")
    assert told is not None and told.endswith("with an explicit deny in an identity-based policy")


@pytest.mark.parametrize(("name", "is_allowed"), [("keytrail", True), (TRAIL, True), ("other", False), (TRAIL + "2", False)])
def test_a_trail_is_the_resource_by_its_name_and_by_its_arn(permissions: Permissions, name: str, is_allowed: bool) -> None:
    permissions.put(USER, "one", document(statement(action="cloudtrail:GetTrail*", Resource=TRAIL)))
    for operation in ("GetTrail", "GetTrailStatus"):
        assert (refusal(permissions, call(operation, Name=name)) is None) is is_allowed


def test_guardrails_decide_on_it_too() -> None:
    deny = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "cloudtrail:LookupEvents", "Resource": "*"}]}
    only_kms = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
    request = AuthorizationRequest.of(call("LookupEvents"), ACCOUNT, "192.0.2.7")
    decided = load([("deny.json", json.dumps(deny).encode())]).decide(request)
    assert not decided.allowed and decided.denied_by is not None and decided.denied_by.policy == "deny.json"
    assert not load([("only.json", json.dumps(only_kms).encode())]).decide(request).allowed
    assert load([]).decide(request).allowed


def test_a_policy_about_a_trail_is_not_doubted() -> None:
    told = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "cloudtrail:GetTrail", "Resource": TRAIL}]}
    assert lint.check("trail.json", json.dumps(told).encode()) == []
    told["Statement"][0]["Action"] = "kms:Decrypt"  # type: ignore[index]  # a list of statements
    assert "no trail" in str(lint.check("trail.json", json.dumps(told).encode())[0])
