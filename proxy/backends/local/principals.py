"""The principals that grants name, and the names by which a caller is one of them. Pure.

A grant names an account's root, a user, a role, a session of a role, or a federated user, by ARN. **A caller's names**: its own
ARN; and a session of a role is also the role, whose path (``role/PATH/NAME``) a session's ARN does not tell: a role is known by
its name, which is unique in its account whatever its path.

An account's root ARN stands for the account: for its root user at once, and for others where the account's own policies let them
(see `proxy.backends.local.grants.delegating`).
"""

from __future__ import annotations

import re
from functools import lru_cache

_PATH = r"(?:[!-.0-~]+/)*"
_NAME = r"[\w+=,.@-]+"
_PRINCIPAL = re.compile(
    rf"arn:(?P<partition>[a-z-]+):(?:iam::(?P<account>[0-9]{{12}}):(?:root|user/{_PATH}{_NAME}|role/{_PATH}(?P<role>{_NAME}))"
    rf"|sts::(?P<sts_account>[0-9]{{12}}):(?:assumed-role/(?P<assumed>{_NAME})/{_NAME}|federated-user/{_NAME}))",
    re.ASCII,
)
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)


def root_arn(partition: str, account_id: str) -> str:
    return f"arn:{partition}:iam::{account_id}:root"


def read_principal(text: str, partition: str) -> str | None:
    """The ARN of the principal that `text` (an ARN, or an account id) names; None where it is of no form or another partition."""
    if _ACCOUNT.fullmatch(text):
        return root_arn(partition, text)
    found = _PRINCIPAL.fullmatch(text)
    return text if found is not None and found["partition"] == partition else None


def account_of(arn: str) -> str:
    """The account that a principal's ARN is of."""
    return arn.split(":", 5)[4]


@lru_cache(maxsize=4096)
def known_as(arn: str) -> str:
    """The one name under which a principal is looked for: its ARN, of a role without the path."""
    found = _PRINCIPAL.fullmatch(arn)
    if found is None or found["role"] is None:
        return arn
    return f"arn:{found['partition']}:iam::{found['account']}:role/{found['role']}"


@lru_cache(maxsize=4096)  # the same few callers, over and over
def names_of(arn: str) -> tuple[str, ...]:
    """The names of the caller with this ARN, as `known_as` gives them."""
    found = _PRINCIPAL.fullmatch(arn)
    if found is None:
        return (arn,) if arn else ()
    if found["assumed"] is None:
        return (known_as(arn),)
    return arn, f"arn:{found['partition']}:iam::{found['sts_account']}:role/{found['assumed']}"


def root_of(arn: str) -> str | None:
    """The root ARN of the account of the caller with this ARN; None where that is none of a principal."""
    found = _PRINCIPAL.fullmatch(arn)
    return None if found is None else root_arn(found["partition"], found["account"] or found["sts_account"])
