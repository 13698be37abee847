"""Grants: the value, its row, and the decision whether one lets a call do a thing. Pure.

**A grant's row.** Its id is the grant's; its parent is ``KEY GRANTEE NAME`` (the name may be empty), so that the grants of a key,
of a key to one grantee, and of one name are each a range of an index. Its secret is the key with which its tokens are made.

**What a grant lets its grantee do.** The operations that it lists, with its key. Its constraints on the encryption context hold
for the operations that have one, and compare the pairs' keys without regard to case, the values with it. A constraint on the
source holds for all operations but RetireGrant: it is met by calls of AWS services on behalf of a resource; there are none here.
CreateGrant is for grants that are not wider than this one. RetireGrant is for this grant itself.

Source: AWS KMS developer guide, "Grants in AWS KMS"; API reference, CreateGrant and GrantConstraints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from proxy.backends.local.grant_tokens import is_token_of, read_grant_id
from proxy.backends.local.keys import Key
from proxy.domain import KmsCall
from proxy.kms.arn import partition_of
from proxy.kms.principals import known_as, names_of, root_arn, root_of
from proxy.sealed_store import Body, Entry

if TYPE_CHECKING:
    from proxy.backends.local.tables import View

GRANT = "grant"

#: Pairs of an encryption context as constraints compare them: keys in small letters, in order.
Context = tuple[tuple[str, str], ...]

CREATE_GRANT, RETIRE_GRANT = "CreateGrant", "RetireGrant"
#: The operations with an encryption context, and the member of the request that holds it.
CONTEXT_MEMBERS = {
    "Encrypt": "EncryptionContext",
    "Decrypt": "EncryptionContext",
    "ReEncryptFrom": "SourceEncryptionContext",
    "ReEncryptTo": "DestinationEncryptionContext",
    "GenerateDataKey": "EncryptionContext",
    "GenerateDataKeyWithoutPlaintext": "EncryptionContext",
    "GenerateDataKeyPair": "EncryptionContext",
    "GenerateDataKeyPairWithoutPlaintext": "EncryptionContext",
}


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a call must be like; None asks for nothing."""

    equals: Context | None = None
    subset: Context | None = None
    source_arn: str | None = None

    def are_met_by(self, context: Context) -> bool:
        """Whether a call with this encryption context meets those on it."""
        if self.equals is not None and self.equals != context:
            return False
        return self.subset is None or set(self.subset) <= set(context)

    def are_as_strict_as(self, other: Constraints) -> bool:
        """Whether every call that meets these meets the other ones."""
        if other.source_arn is not None and self.source_arn != other.source_arn:
            return False
        if other.equals is not None and self.equals != other.equals:
            return False
        if other.subset is None:
            return True
        return set(other.subset) <= {*(self.equals or ()), *(self.subset or ())}


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant. Principals are ARNs, or names of AWS services; `constraints` is the request's member, `limits` what it means."""

    id: str
    region: str
    key_id: str
    account_id: str  # of the key
    issuer: str  # the account that made the grant
    grantee: str
    operations: tuple[str, ...]
    created_s: float
    retiring: str | None = None
    name: str = ""
    constraints: Mapping[str, Any] = field(default_factory=dict)
    limits: Constraints = Constraints()
    grantee_is_service: bool = False
    retiring_is_service: bool = False
    token_key: bytes = field(default=b"", repr=False)

    def allows(self, operation: str, context: Context | None) -> bool:
        """Whether a call for `operation` with `context` (None: it has none) is one that this grant is for."""
        if operation not in self.operations or self.limits.source_arn is not None:
            return False
        return context is None or self.limits.are_met_by(context)

    def covers(self, operations: Sequence[str], limits: Constraints) -> bool:
        """Whether a grant of these operations within these limits is not wider than this one."""
        return set(operations) <= set(self.operations) and limits.are_as_strict_as(self.limits)


def context_of(sent: Mapping[str, str] | None) -> Context:
    return tuple(sorted((name.lower(), value) for name, value in sent.items())) if sent else ()


def limits_of(constraints: Mapping[str, Any] | None) -> Constraints:
    """The meaning of a request's Constraints."""
    if not constraints:
        return _UNLIMITED
    equals, subset = (constraints.get(f"EncryptionContext{kind}") for kind in ("Equals", "Subset"))
    return Constraints(
        None if equals is None else context_of(equals),
        None if subset is None else context_of(subset),
        constraints.get("SourceArn"),
    )


_UNLIMITED = Constraints()


# --- the decision


def allowing(view: View, call: KmsCall, action: str, key: Key, now_s: float, delay_s: float) -> Grant | None:
    """The first grant of `key` that lets the caller do `action` (``kms:Decrypt``); None where there is none.

    Until `delay_s` after it was made, a grant is one only for calls that send a token of it.
    """
    return _first(view, call, action, key, now_s, delay_s, names_of(call.principal.arn))


def delegating(view: View, call: KmsCall, action: str, key: Key, now_s: float, delay_s: float) -> Grant | None:
    """As `allowing`, of the grants to the caller's *account*: they let a caller do what policies of the account allow it too."""
    root = root_of(call.principal.arn)
    return None if root is None else _first(view, call, action, key, now_s, delay_s, (root,))


def _first(
    view: View, call: KmsCall, action: str, key: Key, now_s: float, delay_s: float, names: tuple[str, ...]
) -> Grant | None:
    operation = action.removeprefix("kms:")
    if operation == RETIRE_GRANT:
        grant = meant_grant(view, call, key)
        may = grant is not None and _may_retire(grant, names) and is_in_effect(grant, call, now_s, delay_s)
        return grant if may else None
    member = CONTEXT_MEMBERS.get(operation)
    context = None if member is None else context_of(call.parameters.get(member))
    for name in names:
        for grant in view.grants_to(key, name, context):
            if (
                grant.allows(operation, context)
                and (operation != CREATE_GRANT or covers_child(grant, call))
                and is_in_effect(grant, call, now_s, delay_s)
            ):
                return grant
    return None


def meant_grant(view: View, call: KmsCall, key: Key) -> Grant | None:
    """The grant of `key` that a RetireGrant or RevokeGrant is about, by its token or its id."""
    if (token := call.parameters.get("GrantToken")) is not None:
        grant = grant_by_token(view, key.region, token)
    else:
        grant = view.find_grant(key.region, call.parameters.get("GrantId") or "")
    is_its = grant is not None and (grant.key_id, grant.account_id) == (key.id, key.account_id)
    return grant if is_its else None


def grant_by_token(view: View, region: str, token: str) -> Grant | None:
    """The grant that a genuine token is of."""
    grant_id = read_grant_id(token)
    grant = None if grant_id is None else view.find_grant(region, grant_id)
    return grant if grant is not None and is_token_of(token, grant.id, grant.token_key) else None


def _may_retire(grant: Grant, names: tuple[str, ...]) -> bool:
    """The retiring principal may; the grantee where the grant says so; and the account in which it was made."""
    if grant.retiring is not None and known_as(grant.retiring) in names:
        return True
    if RETIRE_GRANT in grant.operations and known_as(grant.grantee) in names:
        return True
    return root_arn(partition_of(grant.region), grant.issuer) in names


def covers_child(grant: Grant, call: KmsCall) -> bool:
    """Whether the grant that a CreateGrant asks for is not wider than `grant`."""
    return grant.covers(call.parameters.get("Operations") or (), limits_of(call.parameters.get("Constraints")))


def is_in_effect(grant: Grant, call: KmsCall, now_s: float, delay_s: float) -> bool:
    """Whether the grant is old enough to be found, or the call sends a token of it."""
    if delay_s <= 0 or now_s - grant.created_s >= delay_s:
        return True
    return any(is_token_of(token, grant.id, grant.token_key) for token in sent_tokens(call))


def sent_tokens(call: KmsCall) -> Iterator[str]:
    """The grant tokens of a call's request, be they genuine or not."""
    yield from call.parameters.get("GrantTokens") or ()
    if (token := call.parameters.get("GrantToken")) is not None:
        yield token


# --- rows


def grant_parent(key_id: str, *more: str) -> str:
    """The parent of the rows of grants of a key, with a grantee and a name; with fewer of them, what their parents begin with."""
    grantee_and_name = (known_as(more[0]), *more[1:]) if more else ()
    parent = " ".join((key_id, *grantee_and_name))  # no blank is in any of them
    return parent if len(more) == 2 else parent + " "


def grant_body(grant: Grant) -> Body:
    return {
        "key": grant.key_id,
        "account": grant.account_id,
        "issuer": grant.issuer,
        "grantee": grant.grantee,
        "grantee_is_service": grant.grantee_is_service,
        "retiring": grant.retiring,
        "retiring_is_service": grant.retiring_is_service,
        "operations": grant.operations,
        "constraints": grant.constraints,
        "name": grant.name,
        "created_s": grant.created_s,
    }


def grant_of(entry: Entry) -> Grant:
    """Read a row."""
    body = entry.body
    return Grant(
        id=entry.id,
        region=entry.region,
        key_id=body["key"],
        account_id=body["account"],
        issuer=body["issuer"],
        grantee=body["grantee"],
        operations=_operations(tuple(body["operations"])),
        created_s=body["created_s"],
        retiring=body["retiring"],
        name=body["name"],
        constraints=body["constraints"],
        limits=limits_of(body["constraints"]),
        grantee_is_service=body["grantee_is_service"],
        retiring_is_service=body["retiring_is_service"],
        token_key=entry.secret.reveal(),
    )


@lru_cache(maxsize=1024)
def _operations(operations: tuple[str, ...]) -> tuple[str, ...]:
    """The same tuple for the same operations: there are few lists of them, and many grants."""
    return operations
