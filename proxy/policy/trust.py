"""Trust policies: who may assume a role. Pure.

A trust policy is IAM's: statements with Principal, Action and Condition, and no Resource, for it stands at the role. It is read
as strictly as a guardrail. Principals are ``*``, an account (its id or its root), a user, a role, or a session of a role; a
Service or Federated principal is one that never calls here. In doubt a Deny applies, and an Allow does not.

The trust policy alone decides: identity policies, which IAM asks as well where the trust policy names an account or another
account's principal, are not asked here.

Source: IAM user guide, "IAM JSON policy elements: Principal"; "IAM and AWS STS condition context keys".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.policy import keys
from proxy.policy.access import Access, AuthorizationRequest
from proxy.policy.asked import NO_VALUE
from proxy.policy.document import VERSIONS, action_glob_matches
from proxy.policy.operators import Condition, read_condition
from proxy.policy.patterns import MAYBE, NO, YES, PatternError
from proxy.policy.principals import EVERYBODY, KINDS, Names, Principals, joined, names_of, read_principal

MAX_CHARACTERS = 4_096  # IAM's largest quota for a role's trust policy is 4,096, white space apart
_WITH_VARIABLES = "2012-10-17"
_STATEMENT_ELEMENTS = ("Sid", "Effect", "Principal", "Action", "Condition")
_ACTION = re.compile(r"\*|sts:[A-Za-z*?]+", re.IGNORECASE)
_SESSION_TAG = "aws:requesttag/"
_PRINCIPAL_TAG = "aws:principaltag/"


@dataclass(frozen=True, slots=True)
class Assuming:
    """What a trust policy is told of an AssumeRole. `request` has what any call has; the rest is the call's own parameters.

    `session_name` is None where it is not known, as every call has one."""

    request: AuthorizationRequest
    role_arn: str
    session_name: str | None
    external_id: str | None = None
    source_identity: str | None = None
    tags: Mapping[str, str] | None = None
    transitive_tag_keys: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TrustStatement:
    """One statement. `label` is its Sid, or its number from 1."""

    label: str
    denies: bool
    principals: Principals
    actions: tuple[str, ...]
    conditions: tuple[Condition, ...]

    def is_about(self, action: str) -> bool:
        return any(action_glob_matches(glob, action) for glob in self.actions)

    def means(self, caller: Names) -> bool:
        return self.principals.mean(caller) or self.principals.mean_account_of(caller)


@dataclass(frozen=True, slots=True)
class Trusted:
    """Whether a role may be assumed, and the statement that says so; None where none does. `in_doubt`: the condition keys that
    were not known, where that decided."""

    allowed: bool
    by: TrustStatement | None
    in_doubt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """A trust policy that was read."""

    statements: tuple[TrustStatement, ...]

    def allows(self, action: str, assuming: Assuming) -> bool:
        """Whether `action` (sts:AssumeRole) is allowed: by one statement, and denied by none."""
        return self.decide(action, assuming).allowed

    def decide(self, action: str, assuming: Assuming) -> Trusted:
        """As `allows`, with the statement that decides."""
        allowed: TrustStatement | None = None
        doubts: list[str] = []
        caller, told = names_of(assuming.request.principal), Told(action, assuming)
        for statement in self.statements:
            if not statement.is_about(action) or not statement.means(caller):
                continue
            told.unknown.clear()
            result = min((condition.holds(told) for condition in statement.conditions), default=YES)
            if statement.denies and result != NO:
                return Trusted(False, statement, told.doubts() if result == MAYBE else ())
            if result == MAYBE:
                doubts += told.doubts()
            elif result == YES and allowed is None:
                allowed = statement
        return Trusted(allowed is not None, allowed, () if allowed is not None else tuple(dict.fromkeys(doubts)))


class Told:
    """A look-up of condition keys: those of STS and of sessions here, all others as for any call. `unknown` are those that
    could not be told."""

    def __init__(self, action: str, assuming: Assuming) -> None:
        self.unknown: list[str] = []
        self._assuming = assuming
        self._access = Access(action, assuming.role_arn, assuming.request.region)

    def __call__(self, name: str) -> tuple[str, ...] | None:
        found = self._find(name)
        if found is None:
            self.unknown.append(name)
        return found

    def doubts(self) -> tuple[str, ...]:
        """What made a statement doubtful that was just looked at."""
        return tuple(dict.fromkeys(self.unknown)) or (NO_VALUE,)

    def _find(self, name: str) -> tuple[str, ...] | None:
        low, assuming = name.lower(), self._assuming
        principal = assuming.request.principal
        if low == "sts:rolesessionname" and assuming.session_name is None:
            return None
        if low in _OWN:
            value = _OWN[low](assuming)
            return value if isinstance(value, tuple) else () if value is None else (value,)
        if low.startswith(_SESSION_TAG):
            return _tag(tuple((assuming.tags or {}).items()), low[len(_SESSION_TAG) :])
        if low.startswith(_PRINCIPAL_TAG):
            return _tag(principal.tags, low[len(_PRINCIPAL_TAG) :])
        found = keys.find(name)
        return None if found is None else found[0].read(assuming.request, self._access, found[1])


def _tag(tags: tuple[tuple[str, str], ...], wanted: str) -> tuple[str, ...]:
    return tuple(value for key, value in tags if key.lower() == wanted)


def _source_identity(assuming: Assuming) -> str | None:
    session = assuming.request.principal.session
    return None if session is None else session.source_identity


#: Condition keys of STS and of sessions, in small letters. There is no second factor here, which long-term keys do not tell.
_OWN: Mapping[str, Any] = {  # Any: functions that give a text, several, or None
    "sts:externalid": lambda assuming: assuming.external_id,
    "sts:rolesessionname": lambda assuming: assuming.session_name,
    "sts:sourceidentity": lambda assuming: assuming.source_identity,
    "sts:transitivetagkeys": lambda assuming: tuple(assuming.transitive_tag_keys),
    "aws:tagkeys": lambda assuming: tuple(assuming.tags or ()),
    "aws:sourceidentity": _source_identity,
    "aws:multifactorauthpresent": lambda assuming: None if assuming.request.principal.session is None else "false",
}


# --- Reading -------------------------------------------------------------------------------------------------------------


def read(text: str) -> TrustPolicy:
    """The policy in `text`. Raises PatternError, which says what is wrong."""
    if len("".join(text.split())) > MAX_CHARACTERS:
        raise PatternError(f"the policy is over {MAX_CHARACTERS} characters")
    try:
        document = json.loads(text, object_pairs_hook=_members)
    except ValueError as error:
        raise PatternError(f"the policy is no JSON: {error}") from None
    except RecursionError:
        raise PatternError("the policy is nested too deep") from None
    if not isinstance(document, dict):
        raise PatternError("the policy must be a JSON object")
    _check_names(document, ("Version", "Id", "Statement"))
    version = document.get("Version", VERSIONS[1])
    if version not in VERSIONS:
        raise PatternError(f"Version must be one of {', '.join(VERSIONS)}")
    found = document.get("Statement")
    statements = found if isinstance(found, list) else [found]
    if not statements:
        raise PatternError("there is no statement")
    return TrustPolicy(tuple(_statement(number, one, version == _WITH_VARIABLES) for number, one in enumerate(statements, 1)))


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PatternError("a member stands twice in one JSON object")
    return found


def _statement(number: int, found: Any, variables: bool) -> TrustStatement:  # Any: JSON
    if not isinstance(found, dict):
        raise PatternError("a statement must be a JSON object")
    _check_names(found, _STATEMENT_ELEMENTS)
    if found.get("Effect") not in ("Allow", "Deny"):
        raise PatternError("Effect must be Allow or Deny")
    actions = _texts("Action", found.get("Action"))
    for action in actions:
        if not _ACTION.fullmatch(action):
            raise PatternError(f"{action!r} is no action of STS: sts:AssumeRole, sts:TagSession, sts:*")
    conditions = found.get("Condition", {})
    if not isinstance(conditions, dict) or not all(isinstance(one, dict) and one for one in conditions.values()):
        raise PatternError("Condition must be a JSON object of operators, each with condition keys")
    sid = found.get("Sid")
    return TrustStatement(
        sid if isinstance(sid, str) and sid else str(number),
        found["Effect"] == "Deny",
        _principals(found.get("Principal")),
        actions,
        tuple(
            _condition(operator, key, value, variables) for operator, named in conditions.items() for key, value in named.items()
        ),
    )


def _principals(found: Any) -> Principals:  # Any: JSON
    if found == EVERYBODY:
        found = {"AWS": EVERYBODY}
    if not isinstance(found, dict) or not found:
        raise PatternError('Principal must be "*" or a JSON object: {"AWS": "arn:aws:iam::111122223333:user/alice"}')
    _check_names(found, KINDS)
    read_ones = []
    for kind, value in found.items():
        for name in _texts(f"Principal, {kind}", value):
            one = read_principal(kind, name)
            if one is None:
                raise PatternError(f"{name!r} is no principal: an account, or the ARN of a user, a role, or a session of a role")
            read_ones.append(one)
    return joined(read_ones, negated=False)


def _condition(operator: str, key: str, value: Any, variables: bool) -> Condition:  # Any: JSON
    known = key.lower() in _OWN or key.lower().startswith((_SESSION_TAG, _PRINCIPAL_TAG))
    if not known and (not key.lower().startswith("aws:") or keys.find(key) is None):
        raise PatternError(f"{key!r} is a condition key that no AssumeRole has here")
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str | bool | int | float) for one in values):
        raise PatternError(f"{operator}, {key}: a value must be text, a number, true or false")
    texts = tuple(one if isinstance(one, str) else json.dumps(one) for one in values)
    try:
        return read_condition(operator, key, texts, variables=variables)
    except PatternError as error:
        raise PatternError(f"{operator}, {key}: {error}") from None


def _texts(what: str, value: Any) -> tuple[str, ...]:  # Any: JSON
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and one for one in values):
        raise PatternError(f"{what} must be a text, or a list of them")
    return tuple(values)


def _check_names(found: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in found:
        if name not in known:
            raise PatternError(f"there is no element {name!r} in a trust policy; there are {', '.join(known)}")
