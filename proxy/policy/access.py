"""What a call is asked to be allowed for: IAM actions on resources, as far as the request tells. Pure.

Most operations are one action of the same name on the key that `KeyId` names. The others stand in `_SPECIAL`, those of STS among
them: no operation of KMS has the name of one of theirs.

**Which key.** IAM decides on the key's ARN. A request may not tell it: an alias stands for some key of its account, and a Decrypt
without KeyId finds its key in the ciphertext, of whatever account. Such a resource has `UNKNOWN_PART`s; a pattern that some keys
match and others do not *may* match it, which counts against the caller. An alias ARN in a policy is, as in IAM, about
the alias itself (CreateAlias and its kin), never about the key behind it; for calls by an alias there is ``kms:RequestAlias``.

The operations of CloudTrail are on the trail that they name, or on none.

Of GetCallerIdentity nobody decides: IAM lets everybody ask for it, whatever policies deny. Of GetSessionToken IAM says that
policies do not control it; guardrails, which are the proxy's own, do.

Source: AWS KMS developer guide, "AWS KMS permissions"; AWS STS API reference; IAM user guide, "Pass session tags", "Monitor and
control actions taken with assumed roles"; Service Authorization Reference (what CreateKey needs besides).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proxy.domain import Attested, Headers, KmsCall, Members, Principal
from proxy.kms.arn import alias_arn, is_alias_name, key_arn, partition_of
from proxy.kms.operations import OPERATIONS
from proxy.policy.patterns import UNKNOWN_PART

_KEY_ID = r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
_BARE_KEY_ID = re.compile(_KEY_ID, re.IGNORECASE)
_KMS_ARN = re.compile(
    rf"(?P<head>arn:[a-z0-9-]+:kms:[a-z0-9-]+:[0-9]{{12}}:)(?:key/(?P<key>{_KEY_ID})|(?P<alias>alias/[a-zA-Z0-9/_-]+))",
    re.IGNORECASE | re.ASCII,
)
_NO_RESOURCE = "*"
_SOME_ROLE = f"arn:{UNKNOWN_PART}:iam::{UNKNOWN_PART}:role/{UNKNOWN_PART}"


@dataclass(slots=True)
class KeyFacts:
    """What is known of a key that is at hand. What takes a look-up is looked up when a condition asks for it. Not frozen, for its
    price."""

    account_id: str
    spec: str
    usage: str
    origin: str
    tags: Mapping[str, str]
    multi_region_type: str | None  # PRIMARY, REPLICA; None for a key of one region
    aliases: Callable[[], tuple[str, ...]]
    is_source_and_destination: Callable[[], bool | None]  # of ReEncrypt; None where that is not known


@dataclass(slots=True)
class AuthorizationRequest:
    """What guardrails are told of a call. `account_id` is whose keys are meant where the request names no account.

    Where the embedded KMS asks, `key` tells of the key that is at hand, and `attested` who the answer is for.

    `parameters` are the API's members (None where they are not known, as in a record that has left them out); `now_us` is
    microseconds since the epoch; `source_ip` is "" where it is not known; `secure` says whether the call came by TLS, None
    where that is not known; `headers` are the HTTP request's, as far as they are known. Not frozen, for its price.
    """

    operation: str
    region: str
    account_id: str
    parameters: Members | None = field(repr=False)
    principal: Principal
    source_ip: str
    secure: bool | None
    now_us: int
    headers: Headers = ()
    key: Callable[[], KeyFacts] | None = None
    attested: Attested | None = None

    @classmethod
    def of(cls, call: KmsCall, account_id: str, source_ip: str) -> AuthorizationRequest:
        """The request of `call`, whose client has the address `source_ip`."""
        raw = call.raw
        return cls(
            call.operation.name,
            call.region,
            account_id,
            call.parameters,
            call.principal,
            source_ip,
            None if raw is None else raw.origin.tls is not None,
            call.received_us,
            () if raw is None else raw.headers,
            None,
            call.attested,
        )


@dataclass(frozen=True, slots=True)
class Access:
    """One action on one resource, in the region in which AWS decides on it. `member`: the parameter that names the key."""

    action: str
    resource: str
    region: str
    member: str | None = None


def accesses(request: AuthorizationRequest) -> tuple[Access, ...]:
    """What `request` has to be allowed for, all of it."""
    special = _SPECIAL.get(request.operation)
    if special is not None:
        return special(request)
    return (Access(f"kms:{request.operation}", key_resource(request, "KeyId"), request.region, "KeyId"),)


def alias_of(request: AuthorizationRequest, member: str) -> str | None:
    """The alias name by which the parameter `member` names a key; None where it does not."""
    value = (request.parameters or {}).get(member)
    if not isinstance(value, str):
        return None
    if is_alias_name(value):
        return value
    found = _KMS_ARN.fullmatch(value)
    return None if found is None else found["alias"]


def key_resource(request: AuthorizationRequest, member: str) -> str:
    """The ARN of the key that the parameter `member` names, with what is not known of it as `UNKNOWN_PART`.

    Key ids are written in small letters: KMS knows no others, and capitals are no way around a guardrail.
    """
    value = (request.parameters or {}).get(member)
    if isinstance(value, str):
        if _BARE_KEY_ID.fullmatch(value):
            return key_arn(request.region, request.account_id, value.lower())
        if is_alias_name(value):
            return key_arn(request.region, request.account_id or UNKNOWN_PART, UNKNOWN_PART)
        if (found := _KMS_ARN.fullmatch(value)) is not None:
            return found["head"].lower() + "key/" + (found["key"].lower() if found["key"] else UNKNOWN_PART)
    return key_arn(request.region, UNKNOWN_PART, UNKNOWN_PART)


def _no_resource(request: AuthorizationRequest) -> tuple[Access, ...]:
    return (Access(f"kms:{request.operation}", _NO_RESOURCE, request.region),)


def _create_key(request: AuthorizationRequest) -> tuple[Access, ...]:
    return (Access("kms:CreateKey", _NO_RESOURCE, request.region), *_on_the_new_key(request, request.region))


def _on_the_new_key(request: AuthorizationRequest, region: str) -> tuple[Access, ...]:
    """What making a key needs besides. Nobody knows the new key's id: patterns for all keys match it, and none for one key."""
    sent, resource = request.parameters or {}, key_arn(region, request.account_id, "*")
    needed = (("Tags", "kms:TagResource"), ("Policy", "kms:PutKeyPolicy"))
    return tuple(Access(action, resource, region) for member, action in needed if sent.get(member))


def _replicate_key(request: AuthorizationRequest) -> tuple[Access, ...]:
    """The replica is a key made in its own region, and decided on there."""
    region = _region_in(request, "ReplicaRegion")
    key = Access("kms:ReplicateKey", key_resource(request, "KeyId"), request.region, "KeyId")
    return (key, Access("kms:CreateKey", _NO_RESOURCE, region), *_on_the_new_key(request, region))


def _update_primary_region(request: AuthorizationRequest) -> tuple[Access, ...]:
    """On the primary, and on the replica, which has the same id."""
    region, here = _region_in(request, "PrimaryRegion"), key_resource(request, "KeyId")
    account_id, _, name = here.split(":", 4)[4].partition(":")
    there = key_arn(region, account_id, name.removeprefix("key/"))
    return tuple(
        Access("kms:UpdatePrimaryRegion", key, where, "KeyId") for key, where in ((here, request.region), (there, region))
    )


def _region_in(request: AuthorizationRequest, member: str) -> str:
    region = (request.parameters or {}).get(member)
    return region if isinstance(region, str) else UNKNOWN_PART


def _re_encrypt(request: AuthorizationRequest) -> tuple[Access, ...]:
    return tuple(
        Access(action, key_resource(request, member), request.region, member)
        for action, member in (("kms:ReEncryptFrom", "SourceKeyId"), ("kms:ReEncryptTo", "DestinationKeyId"))
    )


def _on_alias(request: AuthorizationRequest) -> tuple[Access, ...]:
    """On the alias, the key that it is to stand for, and the one that it stands for now, which the request does not tell."""
    name = (request.parameters or {}).get("AliasName")
    alias = alias_arn(request.region, request.account_id, name if isinstance(name, str) else f"alias/{UNKNOWN_PART}")
    keys = [key_resource(request, "TargetKeyId")] if request.operation != "DeleteAlias" else []
    if request.operation != "CreateAlias":
        keys.append(key_arn(request.region, request.account_id, UNKNOWN_PART))
    return tuple(Access(f"kms:{request.operation}", resource, request.region) for resource in (alias, *keys))


def _assume_role(request: AuthorizationRequest) -> tuple[Access, ...]:
    """On the role, by its ARN; and what tags and a source identity need besides."""
    sent = request.parameters or {}
    arn = sent.get("RoleArn")
    role = arn if isinstance(arn, str) and UNKNOWN_PART not in arn else _SOME_ROLE  # not known of a record alone
    needed = (("RoleArn", "sts:AssumeRole"), ("Tags", "sts:TagSession"), ("SourceIdentity", "sts:SetSourceIdentity"))
    return tuple(Access(action, role, request.region) for member, action in needed if member == "RoleArn" or sent.get(member))


def _get_session_token(request: AuthorizationRequest) -> tuple[Access, ...]:
    return (Access("sts:GetSessionToken", _NO_RESOURCE, request.region),)


def _on_no_trail(request: AuthorizationRequest) -> tuple[Access, ...]:
    return (Access(f"cloudtrail:{request.operation}", _NO_RESOURCE, request.region),)


def _on_trail(request: AuthorizationRequest) -> tuple[Access, ...]:
    """On the trail, which is named by its ARN, or by its name: it is then one of the account that is meant, in this region."""
    name = (request.parameters or {}).get("Name")
    trail = name if isinstance(name, str) and UNKNOWN_PART not in name else UNKNOWN_PART
    if not trail.startswith("arn:"):
        trail = f"arn:{partition_of(request.region)}:cloudtrail:{request.region}:{request.account_id}:trail/{trail}"
    return (Access(f"cloudtrail:{request.operation}", trail, request.region),)


def _nobody_decides(request: AuthorizationRequest) -> tuple[Access, ...]:
    return ()


#: Operations that IAM decides on no key of, though some name one.
WITHOUT_KEY = (
    "GenerateRandom",
    "ListKeys",
    "ListAliases",
    "ListRetirableGrants",
    *(name for name in OPERATIONS if name.endswith(("CustomKeyStore", "CustomKeyStores"))),
)
ALIAS_OPERATIONS = ("CreateAlias", "UpdateAlias", "DeleteAlias")
_SPECIAL: dict[str, Callable[[AuthorizationRequest], tuple[Access, ...]]] = {
    **dict.fromkeys(WITHOUT_KEY, _no_resource),
    **dict.fromkeys(ALIAS_OPERATIONS, _on_alias),
    "CreateKey": _create_key,
    "ReplicateKey": _replicate_key,
    "UpdatePrimaryRegion": _update_primary_region,
    "ReEncrypt": _re_encrypt,
    "AssumeRole": _assume_role,
    "GetSessionToken": _get_session_token,
    "GetCallerIdentity": _nobody_decides,
    **dict.fromkeys(("DescribeTrails", "ListTrails", "ListPublicKeys", "LookupEvents"), _on_no_trail),
    **dict.fromkeys(("GetTrail", "GetTrailStatus"), _on_trail),
}
#: Actions by operation, where they are not one of the same name.
_ACTIONS = {
    "ReEncrypt": ("kms:ReEncryptFrom", "kms:ReEncryptTo"),
    "CreateKey": ("kms:CreateKey", "kms:TagResource", "kms:PutKeyPolicy"),
    "ReplicateKey": ("kms:ReplicateKey", "kms:CreateKey", "kms:TagResource", "kms:PutKeyPolicy"),
}


#: Those of STS.
_STS_ACTIONS: Mapping[str, tuple[str, ...]] = {
    "AssumeRole": ("sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"),
    "GetSessionToken": ("sts:GetSessionToken",),
    "GetCallerIdentity": (),
}
#: Operations of CloudTrail that are answered here; each is one action of the same name.
TRAIL_OPERATIONS = ("DescribeTrails", "GetTrail", "GetTrailStatus", "ListPublicKeys", "ListTrails", "LookupEvents")


def actions_of(operation: str) -> tuple[str, ...]:
    """The actions that a call of `operation` may need."""
    if (of_sts := _STS_ACTIONS.get(operation)) is not None:
        return of_sts
    if operation in TRAIL_OPERATIONS:
        return (f"cloudtrail:{operation}",)
    return _ACTIONS.get(operation) or (f"kms:{operation}",)


STS_OPERATIONS = tuple(_STS_ACTIONS)
#: Every action that a call to STS can need.
STS_ACTIONS = frozenset(action for actions in _STS_ACTIONS.values() for action in actions)
#: Those that need a role.
ON_ROLES = frozenset(_STS_ACTIONS["AssumeRole"])
#: Every action that a call to CloudTrail can need.
TRAIL_ACTIONS = frozenset(f"cloudtrail:{name}" for name in TRAIL_OPERATIONS)
#: Those that need a trail.
ON_TRAILS = frozenset({"cloudtrail:GetTrail", "cloudtrail:GetTrailStatus"})
#: Every action that a call to KMS can need.
ACTIONS = frozenset(action for operation in OPERATIONS for action in actions_of(operation))
#: All that guardrails decide on: actions, and operations.
ALL_ACTIONS = ACTIONS | STS_ACTIONS | TRAIL_ACTIONS
ALL_OPERATIONS = (*OPERATIONS, *STS_OPERATIONS, *TRAIL_OPERATIONS)
#: Those that are decided on a key that exists.
KEY_ACTIONS = frozenset(action for name in OPERATIONS if name not in WITHOUT_KEY for action in actions_of(name)) - {
    "kms:CreateKey"
}
#: Those whose request may name the key by an alias, or not at all.
_BY_ALIAS = ("kms:DescribeKey", "kms:GetPublicKey", "kms:DeleteAlias", "kms:UpdateAlias", "kms:RetireGrant")
CRYPTOGRAPHIC = frozenset(
    action
    for name, row in OPERATIONS.items()
    if not row.mutates and not name.startswith(("List", "Get", "Describe")) and name not in WITHOUT_KEY
    for action in actions_of(name)
)
KEY_MAY_BE_UNKNOWN = CRYPTOGRAPHIC | frozenset(_BY_ALIAS)
#: Those that can be allowed to callers of other accounts than the key's (developer guide, "Allowing users in other accounts").
ACROSS_ACCOUNTS = CRYPTOGRAPHIC | frozenset(
    f"kms:{name}"
    for name in (
        *("CreateGrant", "DescribeKey", "GetKeyRotationStatus", "GetPublicKey", "ListGrants", "RetireGrant", "RevokeGrant"),
    )
)
