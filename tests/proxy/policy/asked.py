"""Requests to decide on, who makes them, and guardrails from a few statements."""

from __future__ import annotations

import json
from typing import Any

from proxy.domain import DeniedBy, Principal
from proxy.policy.access import AuthorizationRequest
from proxy.policy.evaluate import Decision, Guardrails, load

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
