"""Where each condition key is found in a request: one table. Pure.

Names are not case-sensitive, the part after ``kms:EncryptionContext:`` and ``aws:RequestTag/`` included; two encryption context
keys that differ in case only are therefore several values of one condition key. Values are texts, as IAM compares them.

Parameters that were not sent have their default where the developer guide says so ("even when the parameter doesn't appear in the
request"), but not ExpirationModel and BypassPolicyLockoutSafetyCheck, which the guide tests with Null. For PendingWindowInDays,
RotationPeriodInDays and MessageType the guide says nothing of its own: they have their defaults here.

What the proxy cannot know before a call (`proxy.policy.at_hand` is for the embedded KMS, which has the key at hand):
- `UNSUPPORTED`: keys that AWS has and a request does not tell. Documents with them are not loaded.
- ``kms:KeySpec`` and its like are known where a key is made. Of existing keys they are not.
- aws:PrincipalArn of a role session is the role's ARN without its path, which the session's ARN does not have.
- Who a caller is whose signature only AWS can verify, and who is not in the map of access keys.

``kms:CallerAccount`` is known for every operation; AWS has it for those on keys and on custom key stores.
Source: AWS KMS developer guide, "AWS KMS condition keys"; IAM user guide, "AWS global condition context keys",
"IAM and AWS STS condition context keys".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeAlias

from proxy.policy.access import (
    CRYPTOGRAPHIC,
    KEY_ACTIONS,
    ON_ROLES,
    Access,
    AuthorizationRequest,
    KeyFacts,
    alias_of,
    key_resource,
)
from proxy.policy.operators import Kind
from proxy.policy.patterns import UNKNOWN_PART

#: The values of a key: () where the request has none, None where that is not known.
Values: TypeAlias = "tuple[str, ...] | None"
#: Finds the values; the text is what follows a key's prefix.
Read: TypeAlias = Callable[[AuthorizationRequest, Access, str], Values]


@dataclass(frozen=True, slots=True)
class ConditionKey:
    """A row of the table. `multi`: whether IAM takes it for multi-valued. `actions`: those that have it; None for all.

    `unknown_for` are actions for which AWS knows it and the proxy does not.
    """

    name: str
    kind: Kind
    read: Read
    multi: bool = False
    actions: frozenset[str] | None = None
    unknown_for: frozenset[str] = frozenset()


def _texts(value: Any) -> Values:  # Any: a JSON value that the service model may not have checked
    """A parameter as the texts that conditions compare."""
    if value is None:
        return ()
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, str | int | float):
        return (str(value),)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    return None


# --- Found in parameters ------------------------------------------------------------------------------------------------


def _parameter(members: Mapping[str, tuple[str, ...]], default: str | None) -> Read:
    """A key that is one of these parameters, by action; the first that was sent counts."""

    def read(request: AuthorizationRequest, access: Access, _: str) -> Values:
        names = members.get(access.action)
        if names is None:
            return ()
        if request.parameters is None:
            return None
        sent = (request.parameters.get(name) for name in names)
        return _texts(next((value for value in sent if value is not None), default))

    return read


def _property(name: str, kind: Kind, of_key: Callable[[KeyFacts], str], default: str, *members: str) -> ConditionKey:
    """A property of keys: found in CreateKey, and not known of keys that are not at hand. A replica's are its primary's."""
    in_create_key = _parameter({"kms:CreateKey": members}, default)

    def read(request: AuthorizationRequest, access: Access, suffix: str) -> Values:
        if request.key is not None:
            return (of_key(request.key()),)
        if access.action in KEY_ACTIONS or request.operation == "ReplicateKey":
            return None
        return in_create_key(request, access, suffix)

    return ConditionKey(name, kind, read, actions=KEY_ACTIONS | {"kms:CreateKey"}, unknown_for=KEY_ACTIONS)


def _of_new_session(name: str, member: str, *, multi: bool = False) -> ConditionKey:
    found_in = dict.fromkeys(ON_ROLES, (member,))
    return ConditionKey(name, Kind.TEXT, _parameter(found_in, None), multi=multi, actions=ON_ROLES)


def _row(name: str, member: str, *actions: str, kind: Kind = Kind.TEXT, default: str | None = None) -> ConditionKey:
    found_in = {f"kms:{action}": (member,) for action in actions}
    return ConditionKey(name, kind, _parameter(found_in, default), actions=frozenset(found_in))


_ENCRYPTING = frozenset(
    f"kms:{name}"
    for name in (
        "Encrypt",
        "Decrypt",
        "ReEncryptFrom",
        "ReEncryptTo",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
    )
)
_CONTEXT_MEMBERS = {"kms:ReEncryptFrom": "SourceEncryptionContext", "kms:ReEncryptTo": "DestinationEncryptionContext"}
_CONTEXT_CONSTRAINTS = ("EncryptionContextSubset", "EncryptionContextEquals")
_ALGORITHM_MEMBERS = {"kms:ReEncryptFrom": "SourceEncryptionAlgorithm", "kms:ReEncryptTo": "DestinationEncryptionAlgorithm"}


def _contexts(request: AuthorizationRequest, access: Access) -> list[dict[str, str]] | None:
    """The encryption context; of CreateGrant those that its constraints ask for."""
    sent = request.parameters
    if sent is None:
        return None
    if access.action != "kms:CreateGrant":
        found = [sent.get(_CONTEXT_MEMBERS.get(access.action, "EncryptionContext")) or {}]
    else:
        constraints = sent.get("Constraints") or {}
        if not isinstance(constraints, Mapping):
            return None
        found = [constraints.get(name) or {} for name in _CONTEXT_CONSTRAINTS]
    for context in found:
        if not isinstance(context, dict):
            return None
        for value in context.values():
            if not isinstance(value, str):
                return None
    return found


def _context_value(request: AuthorizationRequest, access: Access, key: str) -> Values:
    contexts = _contexts(request, access)
    if contexts is None:
        return None
    wanted = key.lower()
    values: dict[str, None] = {}  # in the order in which they stand, each once
    for context in contexts:
        for name, value in context.items():
            if name.lower() == wanted:
                values[value] = None
    return tuple(values)


def _context_keys(request: AuthorizationRequest, access: Access, _: str) -> Values:
    contexts = _contexts(request, access)
    return None if contexts is None else tuple(dict.fromkeys(name for context in contexts for name in context))


def _constraint_types(request: AuthorizationRequest, access: Access, _: str) -> Values:
    if access.action != "kms:CreateGrant":
        return ()
    if request.parameters is None:
        return None
    constraints = request.parameters.get("Constraints") or {}
    return tuple(constraints) if isinstance(constraints, Mapping) else None


def _encryption_algorithm(request: AuthorizationRequest, access: Access, _: str) -> Values:
    if access.action not in _ENCRYPTING:
        return ()
    if access.action.startswith("kms:GenerateDataKey"):
        return ("SYMMETRIC_DEFAULT",)
    if request.parameters is None:
        return None
    return _texts(request.parameters.get(_ALGORITHM_MEMBERS.get(access.action, "EncryptionAlgorithm"), "SYMMETRIC_DEFAULT"))


def _tags(request: AuthorizationRequest) -> list[tuple[str, str]] | None:
    if request.parameters is None:
        return None
    name, value = ("Key", "Value") if request.operation == "AssumeRole" else ("TagKey", "TagValue")
    try:
        return [(str(tag[name]), str(tag[value])) for tag in request.parameters.get("Tags") or ()]
    except (KeyError, TypeError):
        return None


def _request_tag(request: AuthorizationRequest, access: Access, key: str) -> Values:
    tags, wanted = _tags(request), key.lower()
    return None if tags is None else tuple(dict.fromkeys(value for name, value in tags if name.lower() == wanted))


def _tag_keys(request: AuthorizationRequest, access: Access, _: str) -> Values:
    if request.operation == "UntagResource":
        return None if request.parameters is None else _texts(request.parameters.get("TagKeys"))
    tags = _tags(request)
    return None if tags is None else tuple(dict.fromkeys(name for name, _ in tags))


def _source_identity(request: AuthorizationRequest, access: Access, _: str) -> Values:
    """What a new session is to have: the calling session's, or what is asked for."""
    if access.action not in ON_ROLES:
        return ()
    session = request.principal.session
    if session is not None and session.source_identity is not None:
        return (session.source_identity,)
    return None if request.parameters is None else _texts(request.parameters.get("SourceIdentity"))


def _request_alias(request: AuthorizationRequest, access: Access, _: str) -> Values:
    if access.member is None or access.action not in _WITH_ALIAS:
        return ()
    if request.parameters is None:
        return None
    alias = alias_of(request, access.member)
    return () if alias is None else (alias,)


def _on_same_key(request: AuthorizationRequest, access: Access, _: str) -> Values:
    if request.operation != "ReEncrypt":
        return ()
    if request.key is not None:
        is_one = request.key().is_source_and_destination()
        return None if is_one is None else ("true" if is_one else "false",)
    source, destination = key_resource(request, "SourceKeyId"), key_resource(request, "DestinationKeyId")
    if UNKNOWN_PART in source or UNKNOWN_PART in destination:
        # One alias, twice, is one key.
        sent = request.parameters or {}
        named_alike = sent.get("SourceKeyId") is not None and sent.get("SourceKeyId") == sent.get("DestinationKeyId")
        return ("true",) if named_alike else None
    return ("true",) if source == destination else ("false",)


# --- Found elsewhere ----------------------------------------------------------------------------------------------------


def _principal_arn(request: AuthorizationRequest, access: Access, _: str) -> Values:
    """Of a role session the role's ARN, says IAM."""
    arn = request.principal.arn
    head, is_session, session = arn.partition(":assumed-role/")
    if is_session:
        return (f"{head.replace(':sts:', ':iam:', 1)}:role/{session.partition('/')[0]}",)
    return (arn,) if arn else None


#: Principal.type, as CloudTrail calls it, and aws:PrincipalType.
_PRINCIPAL_TYPES = {"IAMUser": "User", "Root": "Account", "AssumedRole": "AssumedRole", "FederatedUser": "FederatedUser"}


def _principal_type(request: AuthorizationRequest, access: Access, _: str) -> Values:
    found = _PRINCIPAL_TYPES.get(request.principal.type)
    return None if found is None else (found,)


def _user_id(request: AuthorizationRequest, access: Access, _: str) -> Values:
    principal = request.principal
    if principal.type == "Root":
        return (principal.account_id,)
    known = principal.principal_id not in ("", principal.access_key_id)  # of a claimed identity nothing but its key is known
    return (principal.principal_id,) if known else None


def _user_name(request: AuthorizationRequest, access: Access, _: str) -> Values:
    principal = request.principal
    if not principal.arn:
        return None
    return (principal.user_name,) if principal.type == "IAMUser" and principal.user_name else ()


def _account(request: AuthorizationRequest, access: Access, _: str) -> Values:
    return (request.principal.account_id,) if request.principal.account_id else None


def _region(request: AuthorizationRequest, access: Access, _: str) -> Values:
    return None if access.region == UNKNOWN_PART else (access.region,)


def _current_time(request: AuthorizationRequest, access: Access, _: str) -> Values:
    seconds, rest_us = divmod(request.now_us, 1_000_000)
    return (f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_us // 1_000:03d}Z",)


def _user_agent(request: AuthorizationRequest, access: Access, _: str) -> Values:
    sent = next((value for name, value in request.headers if name == b"user-agent"), b"")
    return (sent.decode("utf-8", "replace"),) if sent else ()


def _secure(request: AuthorizationRequest, access: Access, _: str) -> Values:
    return None if request.secure is None else ("true" if request.secure else "false",)


def _always(value: str, *actions: str) -> Read:
    """The same for each call by the proxy: no AWS service calls through it."""
    return lambda request, access, _: (value,) if not actions or access.action in actions else ()


_WITH_ALIAS = CRYPTOGRAPHIC | {"kms:DescribeKey", "kms:GetPublicKey"}
_CONTEXTUAL = _ENCRYPTING | {"kms:CreateGrant"}
_TAGGING = frozenset({"kms:CreateKey", "kms:ReplicateKey", "kms:TagResource"}) | ON_ROLES
_FOR_GRANTS = ("kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant")
_POLICY_SETTING = ("CreateKey", "PutKeyPolicy", "ReplicateKey")

_ROWS = (
    ConditionKey("kms:EncryptionContextKeys", Kind.TEXT, _context_keys, multi=True, actions=_CONTEXTUAL),
    ConditionKey("kms:ViaService", Kind.TEXT, lambda request, access, _: (), actions=frozenset()),
    ConditionKey("kms:CallerAccount", Kind.TEXT, _account),
    _property("kms:KeySpec", Kind.TEXT, lambda key: key.spec, "SYMMETRIC_DEFAULT", "KeySpec", "CustomerMasterKeySpec"),
    _property(
        "kms:CustomerMasterKeySpec", Kind.TEXT, lambda key: key.spec, "SYMMETRIC_DEFAULT", "KeySpec", "CustomerMasterKeySpec"
    ),
    _property("kms:KeyUsage", Kind.TEXT, lambda key: key.usage, "ENCRYPT_DECRYPT", "KeyUsage"),
    _property("kms:CustomerMasterKeyUsage", Kind.TEXT, lambda key: key.usage, "ENCRYPT_DECRYPT", "KeyUsage"),
    _property("kms:KeyOrigin", Kind.TEXT, lambda key: key.origin, "AWS_KMS", "Origin"),
    _property("kms:MultiRegion", Kind.BOOL, lambda key: "true" if key.multi_region_type else "false", "false", "MultiRegion"),
    ConditionKey("kms:EncryptionAlgorithm", Kind.TEXT, _encryption_algorithm, actions=_ENCRYPTING),
    _row("kms:SigningAlgorithm", "SigningAlgorithm", "Sign", "Verify"),
    _row("kms:MessageType", "MessageType", "Sign", "Verify", default="RAW"),
    _row("kms:MacAlgorithm", "MacAlgorithm", "GenerateMac", "VerifyMac"),
    _row("kms:KeyAgreementAlgorithm", "KeyAgreementAlgorithm", "DeriveSharedSecret"),
    _row("kms:DataKeyPairSpec", "KeyPairSpec", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"),
    ConditionKey(
        "kms:GrantOperations",
        Kind.TEXT,
        _parameter({"kms:CreateGrant": ("Operations",)}, None),
        multi=True,
        actions=frozenset({"kms:CreateGrant"}),
    ),
    _row("kms:GranteePrincipal", "GranteePrincipal", "CreateGrant", kind=Kind.ARN),
    _row("kms:RetiringPrincipal", "RetiringPrincipal", "CreateGrant", kind=Kind.ARN),
    _row("kms:GranteeServicePrincipal", "GranteeServicePrincipal", "CreateGrant"),
    _row("kms:RetiringServicePrincipal", "RetiringServicePrincipal", "CreateGrant"),
    ConditionKey("kms:GrantIsForAWSResource", Kind.BOOL, _always("false", *_FOR_GRANTS), actions=frozenset(_FOR_GRANTS)),
    ConditionKey("kms:GrantConstraintType", Kind.TEXT, _constraint_types, actions=frozenset({"kms:CreateGrant"})),
    _row("kms:BypassPolicyLockoutSafetyCheck", "BypassPolicyLockoutSafetyCheck", *_POLICY_SETTING, kind=Kind.BOOL),
    _row(
        "kms:ScheduleKeyDeletionPendingWindowInDays",
        "PendingWindowInDays",
        "ScheduleKeyDeletion",
        kind=Kind.NUMBER,
        default="30",
    ),
    _row("kms:RotationPeriodInDays", "RotationPeriodInDays", "EnableKeyRotation", kind=Kind.NUMBER, default="365"),
    ConditionKey("kms:RequestAlias", Kind.TEXT, _request_alias, actions=_WITH_ALIAS),
    ConditionKey("kms:ReEncryptOnSameKey", Kind.BOOL, _on_same_key, actions=frozenset({"kms:ReEncryptFrom", "kms:ReEncryptTo"})),
    _row("kms:PrimaryRegion", "PrimaryRegion", "UpdatePrimaryRegion"),
    _row("kms:ReplicaRegion", "ReplicaRegion", "ReplicateKey"),
    _row("kms:ExpirationModel", "ExpirationModel", "ImportKeyMaterial"),
    _row("kms:ValidTo", "ValidTo", "ImportKeyMaterial", kind=Kind.EPOCH),
    _row("kms:WrappingAlgorithm", "WrappingAlgorithm", "GetParametersForImport"),
    _row("kms:WrappingKeySpec", "WrappingKeySpec", "GetParametersForImport"),
    _of_new_session("sts:ExternalId", "ExternalId"),
    _of_new_session("sts:RoleSessionName", "RoleSessionName"),
    _of_new_session("sts:TransitiveTagKeys", "TransitiveTagKeys", multi=True),
    ConditionKey("sts:SourceIdentity", Kind.TEXT, _source_identity, actions=ON_ROLES),
    ConditionKey("aws:PrincipalArn", Kind.ARN, _principal_arn),
    ConditionKey("aws:PrincipalAccount", Kind.TEXT, _account),
    ConditionKey("aws:PrincipalType", Kind.TEXT, _principal_type),
    ConditionKey("aws:PrincipalIsAWSService", Kind.BOOL, _always("false")),
    ConditionKey("aws:userid", Kind.TEXT, _user_id),
    ConditionKey("aws:username", Kind.TEXT, _user_name),
    ConditionKey("aws:SourceIp", Kind.ADDRESS, lambda request, access, _: (request.source_ip,) if request.source_ip else None),
    ConditionKey("aws:ViaAWSService", Kind.BOOL, _always("false")),
    ConditionKey("aws:CurrentTime", Kind.DATE, _current_time),
    ConditionKey("aws:EpochTime", Kind.EPOCH, lambda request, access, _: (str(request.now_us // 1_000_000),)),
    ConditionKey("aws:SecureTransport", Kind.BOOL, _secure),
    ConditionKey("aws:RequestedRegion", Kind.TEXT, _region),
    ConditionKey("aws:UserAgent", Kind.TEXT, _user_agent),
    ConditionKey("aws:TagKeys", Kind.TEXT, _tag_keys, multi=True, actions=_TAGGING | {"kms:UntagResource"}),
)
_BY_NAME = {row.name.lower(): row for row in _ROWS}
#: Keys with a part of the author's own: each prefix ends in its divider.
_BY_PREFIX = {
    "kms:encryptioncontext:": ConditionKey("kms:EncryptionContext:", Kind.TEXT, _context_value, actions=_CONTEXTUAL),
    "aws:requesttag/": ConditionKey("aws:RequestTag/", Kind.TEXT, _request_tag, actions=_TAGGING),
}
#: Keys that AWS knows and the proxy cannot, in small letters; what ends in a divider stands for all that begin so.
UNSUPPORTED = (
    "kms:resourcealiases",
    "kms:multiregionkeytype",
    "kms:recipientattestation:",
    *(
        f"aws:{name}"
        for name in (
            *("resourcetag/", "resourceaccount", "resourceorgid", "resourceorgpaths", "principaltag/", "principalorgid"),
            *("principalorgpaths", "principalservicename", "principalservicenameslist", "federatedprovider", "tokenissuetime"),
            *("multifactorauthpresent", "multifactorauthage", "sourceidentity", "sourcevpc", "sourcevpcarn", "sourcevpce"),
            *("vpcsourceip", "vpceaccount", "vpceorgid", "vpceorgpaths", "calledvia", "calledviafirst", "calledvialast"),
            *("chatbotsourcearn", "ec2instancesourcevpc", "ec2instancesourceprivateipv4", "sourcearn", "sourceaccount"),
            *("sourceorgid", "sourceorgpaths", "sourceowner", "referer", "assumedroot", "signinsessionarn", "isloggedin"),
        )
    ),
    "ec2:",
    "lambda:",
    "saml:",
    *(
        f"sts:{name}"
        for name in (
            *("awsservicename", "durationseconds", "identitytokenaudience", "requestcontext/", "requestcontextproviders"),
            *("signingalgorithm", "taskpolicyarn"),
        )
    ),
    "identitystore:",
    "cognito-identity.amazonaws.com:",
)
KNOWN_NAMES = tuple(row.name for row in (*_ROWS, *_BY_PREFIX.values()))


@lru_cache(maxsize=1_024)  # the names are those of the documents
def find(name: str) -> tuple[ConditionKey, str] | None:
    """The row of a condition key, and what follows its prefix; None for a key that is not in the table."""
    low = name.lower()
    if (row := _BY_NAME.get(low)) is not None:
        return row, ""
    for prefix, row in _BY_PREFIX.items():
        if low.startswith(prefix) and len(name) > len(prefix):
            return row, name[len(prefix) :]
    return None


def is_unsupported(name: str) -> bool:
    """Whether AWS has a condition key `name` that a request to the proxy does not tell."""
    low = name.lower()
    return any(low == one or (one[-1] in ":/" and low.startswith(one)) for one in UNSUPPORTED)
