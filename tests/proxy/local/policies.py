"""Policy documents for tests, and callers that they are about."""

from __future__ import annotations

import json
from typing import Any

from proxy.domain import Principal
from tests.proxy.local.world import ACCOUNT, BOB, World

ROOT = f"arn:aws:iam::{ACCOUNT}:root"
CAROL = Principal("IAMUser", f"arn:aws:iam::{ACCOUNT}:user/ops/carol", ACCOUNT, "AKIACAROL", "AIDACAROL", "carol")
SESSION = Principal("AssumedRole", f"arn:aws:sts::{ACCOUNT}:assumed-role/reader/s1", ACCOUNT, "ASIAREADER", "AROAREADER:s1")
ROLE = f"arn:aws:iam::{ACCOUNT}:role/reader"
BOBS_ROOT = f"arn:aws:iam::{BOB.account_id}:root"


def statement(effect: str = "Allow", action: Any = "kms:*", principal: Any = None, **others: Any) -> dict[str, Any]:
    """Without a `principal`, one of an identity policy."""
    found = {"Effect": effect, "Action": action, "Resource": "*", **others}
    return found if principal is None else {**found, "Principal": principal}


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def of_account(action: Any = "kms:*") -> dict[str, Any]:
    """What leaves it to the account's identity policies."""
    return statement(action=action, principal={"AWS": ROOT})


def give(world: World, principal: Principal, *statements: dict[str, Any]) -> None:
    """The principal's identity policies are these statements, and nothing besides."""
    owner = principal.arn if principal is not SESSION else ROLE
    world.permissions.put(owner, "own", document(*statements))


def give_nothing(world: World, principal: Principal) -> None:
    give(world, principal, statement(action="sqs:*"))
