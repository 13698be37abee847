"""Principals of a key policy: whom a statement is about. Pure.

A caller has several names. A user is named by its ARN and by its account; a role session by its own ARN, by its role's, and by
the account. An account (its id, or the ARN of its root user) stands for two things: a Deny of it is about everybody in it, an
Allow of it leaves it to the account's identity policies who may. An Allow of any other name is for that caller itself.

Roles are compared without their paths (`proxy.kms.principals`). Of NotPrincipal IAM says that a session must be listed by
session, role *and* account to be spared, and a user by user and account; so it is here.

Source: IAM user guide, "AWS JSON policy elements: Principal" and "NotPrincipal".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from proxy.domain import Principal
from proxy.kms import principals
from proxy.kms.principals import Kind, is_account_id, known_as, parse_principal

EVERYBODY = "*"
_SERVICE = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?", re.ASCII)
_PROVIDER = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:(?:saml-provider|oidc-provider)/[\w+=,.@/:-]+", re.ASCII)
_WEB_IDENTITY = ("accounts.google.com", "cognito-identity.amazonaws.com", "graph.facebook.com", "www.amazon.com")
#: The kinds of principals; those of S3 and of public access have no place in a key policy.
KINDS = ("AWS", "Service", "Federated")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a caller: its account, and those that mean it alone, or it as a session of its role."""

    account_id: str
    own: frozenset[str]
    is_root: bool = False


@dataclass(frozen=True, slots=True)
class Principals:
    """Those that a statement is about, or where `negated`, those that it is not about. Services and identity providers never call
    here; they are kept as they were written."""

    accounts: frozenset[str]
    names: frozenset[str]
    everybody: bool = False
    negated: bool = False
    others: tuple[str, ...] = ()

    def mean(self, caller: Names) -> bool:
        """Whether a statement is for the caller itself."""
        return self.everybody or not self.names.isdisjoint(caller.own) or (caller.is_root and self.mean_account_of(caller))

    def mean_account_of(self, caller: Names) -> bool:
        """Whether it is for the caller's account."""
        return caller.account_id in self.accounts

    def cover(self, caller: Names) -> bool:
        """Whether a Deny is about the caller."""
        if self.negated:
            return not (self.mean_account_of(caller) and self.names.issuperset(caller.own))
        return self.mean(caller) or self.mean_account_of(caller)


def read_principal(kind: str, name: str) -> Principals | None:
    """One principal of the kind AWS, Service or Federated; None where there can be none of that name."""
    if kind == "Service":
        return Principals(frozenset(), frozenset(), others=(name,)) if _SERVICE.fullmatch(name) else None
    if kind == "Federated":
        is_one = name in _WEB_IDENTITY or _PROVIDER.fullmatch(name)
        return Principals(frozenset(), frozenset(), others=(name,)) if is_one else None
    if name == EVERYBODY:
        return Principals(frozenset(), frozenset(), everybody=True)
    if is_account_id(name):
        return Principals(frozenset({name}), frozenset())
    found = parse_principal(name)
    if found is None:
        return None
    if found.kind is Kind.ROOT:
        return Principals(frozenset({found.account_id}), frozenset())
    return Principals(frozenset(), frozenset({known_as(name)}))


def joined(parts: Iterable[Principals], *, negated: bool) -> Principals:
    """All of `parts` as one."""
    found = list(parts)
    return Principals(
        frozenset[str]().union(*(one.accounts for one in found)),
        frozenset[str]().union(*(one.names for one in found)),
        any(one.everybody for one in found),
        negated,
        tuple(other for one in found for other in one.others),
    )


@lru_cache(maxsize=4_096)
def names_of(principal: Principal) -> Names:
    """The names by which policies may mean `principal`."""
    arn = principal.arn
    if principal.type == "Root" or arn.endswith(":root"):
        return Names(principal.account_id, frozenset(), is_root=True)
    return Names(principal.account_id, frozenset(principals.names_of(arn)))
