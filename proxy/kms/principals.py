"""The principals of IAM and STS by their ARNs, and the names by which a caller is one of them. Pure.

There are five forms: the root of an account, a user, a role, a session of a role, a federated user. **A caller's names** are its
own ARN, and of a session of a role the role's too. A session's ARN does not tell its role's path (``role/PATH/NAME``), so a role
is known by its name, which is unique in its account whatever its path.

Source: IAM user guide, "IAM identifiers" and "IAM and AWS STS quotas"; AWS STS API reference, AssumeRole (RoleSessionName).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

_PATH = r"(?:[!-.0-~]+/)*"
_NAME = r"[\w+=,.@-]{1,64}"
_SESSION_NAME = r"[\w+=,.@-]{2,64}"
_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):"
    rf"(?:iam::(?P<account>[0-9]{{12}}):(?:(?P<root>root)|user/{_PATH}(?P<user>{_NAME})|role/{_PATH}(?P<role>{_NAME}))"
    rf"|sts::(?P<sts_account>[0-9]{{12}}):"
    rf"(?:assumed-role/(?P<assumed>{_NAME})/{_SESSION_NAME}|federated-user/(?P<federated>{_SESSION_NAME})))",
    re.ASCII,
)
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)


class Kind(Enum):
    """What an ARN is of."""

    ROOT = "root"
    USER = "user"
    ROLE = "role"
    SESSION = "assumed"
    FEDERATED_USER = "federated"


@dataclass(frozen=True, slots=True)
class PrincipalArn:
    """A principal. `name` is the user's, or the role's, be it of a session; of an account's root "root"."""

    text: str
    kind: Kind
    partition: str
    account_id: str
    name: str

    @property
    def role(self) -> str | None:
        """Of a role, and of a session of one, the role's ARN without its path; None of others."""
        is_one = self.kind in (Kind.ROLE, Kind.SESSION)
        return f"arn:{self.partition}:iam::{self.account_id}:role/{self.name}" if is_one else None


@lru_cache(maxsize=4_096)  # the same few callers, over and over
def parse_principal(arn: str) -> PrincipalArn | None:
    """The principal that `arn` names; None where it is of no form."""
    found = _ARN.fullmatch(arn)
    if found is None:
        return None
    kind = next(kind for kind in Kind if found[kind.value] is not None)
    return PrincipalArn(arn, kind, found["partition"], found["account"] or found["sts_account"], found[kind.value])


def is_account_id(text: str) -> bool:
    return _ACCOUNT.fullmatch(text) is not None


def root_arn(partition: str, account_id: str) -> str:
    return f"arn:{partition}:iam::{account_id}:root"


def root_of(arn: str) -> str | None:
    """The root ARN of the account of the caller with this ARN; None where that is none of a principal."""
    found = parse_principal(arn)
    return None if found is None else root_arn(found.partition, found.account_id)


def known_as(arn: str) -> str:
    """The one name under which a principal is looked for: its ARN, of a role without the path."""
    found = parse_principal(arn)
    return found.role or arn if found is not None and found.kind is Kind.ROLE else arn


def owner_of(arn: str) -> str:
    """Whose identity policies are those of the caller `arn`: its own, or its role's (without a path); of a role, it without its
    path."""
    found = parse_principal(arn)
    return arn if found is None else found.role or arn


@lru_cache(maxsize=4_096)
def names_of(arn: str) -> tuple[str, ...]:
    """The names of the caller with this ARN, as `known_as` gives them."""
    return tuple(dict.fromkeys(name for name in (known_as(arn), owner_of(arn)) if name))
