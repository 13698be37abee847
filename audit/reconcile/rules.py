"""What a record of ours and an event of AWS's must agree in, as far as both say it. Pure.

| field | ours | AWS's | compared |
|---|---|---|---|
| requestId | requestID | requestID | always |
| operation | eventName | eventName | always |
| region | awsRegion | awsRegion | always |
| key | ARNs in resources, else the key's name as the caller wrote it | the same | where both name a key in comparable form |
| context | encryptionContext, source…, destination… | the same | unless AWS or we left the parameters out; private values below |
| parameters | `PARAMETERS` | the same | each where both have it |
| keyMaterialId | additionalEventData | the same | where both have it |
| error | errorCode | errorCode | unless ours is keytrail's own word (`OWN_ERRORS`); with or without ``Exception`` |
| caller, passed through | accessKeyId, arn, accountId | the same | each where both have it; a role's ARN is its sessions' |
| caller, signed anew | the session name that keytrail makes of the caller | sourceIdentity | where AWS has one |
| | | the role's session name | only where asked for (`session_names`) |
| time | arrival | eventTime (completion) | more than `MAX_APART_US` apart |

The key owner's copy of a cross-account call names its caller by account only, and may name its own key only. Source address, user
agent and TLS are the proxy's at AWS, and are not compared. Nothing here is, or is made from, ciphertext.

Of values that are private in our record (`audit.privacy`) those in the form hmac are compared with the HMAC of AWS's, where the
privacy key is at hand. Others are taken for the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from audit.privacy import Form
from audit.private_keys import PrivacyKey
from audit.query.filters import CONTEXTS, WRITTEN_KEYS, Record, extension, private_names, resource_arns
from audit.reconcile.findings import Difference

MAX_APART_US = 5 * 60 * 1_000_000
PARAMETERS = (
    "aliasName",
    "destinationEncryptionAlgorithm",
    "encryptionAlgorithm",
    "grantId",
    "granteePrincipal",
    "keyAgreementAlgorithm",
    "keyPairSpec",
    "keySpec",
    "keyUsage",
    "macAlgorithm",
    "messageType",
    "numberOfBytes",
    "operations",
    "pendingWindowInDays",
    "policy",
    "policyName",
    "replicaRegion",
    "retiringPrincipal",
    "signingAlgorithm",
    "sourceEncryptionAlgorithm",
)
#: Codes by which keytrail says, in place of AWS's own code, that a call came to nothing.
OWN_ERRORS = frozenset(["KMSInternalException", "ServiceUnavailableException"])
_MATERIALS = ("keyMaterialId", "sourceKeyMaterialId", "destinationKeyMaterialId")
_EXTENSION = ("log", "sequence", "time", "phase", "identityProof", "backend", "upstream", "intent", "privateContext")
_KEPT_PARAMETERS = frozenset(
    [*CONTEXTS, *PARAMETERS, "omitted", *(member for whole, member in WRITTEN_KEYS if whole == "requestParameters")]
)
_TEXTS = (
    "eventName",
    "eventTime",
    "eventType",
    "awsRegion",
    "sourceIPAddress",
    "errorCode",
    "requestID",
    "eventID",
    "recipientAccountId",
)
_NAMES = ("type", "arn", "accountId", "accessKeyId", "userName", "invokedBy")
#: A key in comparable form: ``key`` and id, or ``alias`` and name; with region and account where it is an ARN.
_KEY_NAME = re.compile(
    r"(?:arn:[^:]*:kms:(?P<region>[^:]*):(?P<account>[^:]*):)?(?:(?P<kind>key|alias)/)?(?P<name>.+)", re.DOTALL
)
#: The names that keytrail gives to sessions at STS; see docs/settings.md, `aws_role`.
_NOT_IN_SESSION_NAMES = re.compile(r"[^\w+=,.@-]", re.ASCII)
_MAX_SESSION_NAME = 64
_MARK = re.compile(r"@[0-9a-f]{16}")
#: Any: JSON of somebody else's making; every access below asks for the type that it needs.
Json = Any


def reduced(record: Record) -> dict[str, Json]:
    """`record` with only what is compared or shown, each part of the type that it must have or not there."""
    identity, session = _map(record, "userIdentity"), _map(_map(record, "userIdentity"), "sessionContext")
    issuer = _texts(_map(session, "sessionIssuer"), ("arn",))
    parameters, additional = _map(record, "requestParameters"), _map(record, "additionalEventData")
    resources = record.get("resources")
    return _texts(record, _TEXTS) | {
        "readOnly": record.get("readOnly") is True or record.get("readOnly") == "true",
        "userIdentity": _texts(identity, _NAMES)
        | {"sessionContext": _texts(session, ("sourceIdentity",)) | ({"sessionIssuer": issuer} if issuer else {})},
        "requestParameters": {name: value for name, value in parameters.items() if name in _KEPT_PARAMETERS and _is_flat(value)}
        if isinstance(record.get("requestParameters"), dict)
        else None,
        "responseElements": _texts(_map(record, "responseElements"), ("keyId",)),
        "resources": [{"ARN": entry["ARN"]} for entry in resources or () if isinstance(entry, dict) and _text(entry, "ARN")]
        if isinstance(resources, list)
        else [],
        "additionalEventData": _texts(additional, _MATERIALS)
        | {"keytrail": {name: value for name, value in extension(record).items() if name in _EXTENSION}},
    }


def compare(
    ours: Record, aws: Record, *, session_names: bool = False, apart_us: int = 0, privacy: PrivacyKey | None = None
) -> tuple[Difference, ...]:
    """Where the two disagree; both are as `reduced` gives them. `apart_us` is the time between them."""
    if forms := private_names(ours):
        ours, aws = _as_private(ours, aws, forms, privacy)
    found = [Difference(name, *pair) for name, rule in _RULES for pair in rule(ours, aws)]
    found += [Difference("caller", *pair) for pair in _callers(ours, aws, session_names)]
    if abs(apart_us) > MAX_APART_US:
        found.append(Difference("time", _text(extension(ours), "time"), _text(aws, "eventTime")))
    return tuple(found)


def by_aws_service(event: Record) -> str | None:
    """Which of AWS's services caused `event` itself; None for a client's call.

    It is one where eventType is another than AwsApiCall (rotation, expiry, deletion); where the identity is an AWSService, or was
    used by one on a principal's behalf (`invokedBy`; but signin.amazonaws.com is a person at the console); and where the address
    is a service's name. A call by a VPC endpoint is a client's.
    """
    identity = _map(event, "userIdentity")
    invoked_by, address = _text(identity, "invokedBy"), _text(event, "sourceIPAddress")
    if _text(event, "eventType") not in ("", "AwsApiCall", "AwsConsoleAction"):
        return invoked_by or "kms.amazonaws.com"
    if invoked_by and invoked_by != "signin.amazonaws.com":
        return invoked_by
    is_service = address == "AWS Internal" or address.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    if is_service or _text(identity, "type") == "AWSService":
        return address or "an AWS service"
    return None


def keys_of(record: Record) -> tuple[str, ...]:
    """The keys that `record` names: ARNs, or else the caller's words."""
    return tuple(dict.fromkeys(arn for arn in resource_arns(record) if ":key/" in arn)) or tuple(dict.fromkeys(_written(record)))


def caller_name(record: Record) -> str:
    """Who called, in the words of `record`; with the source identity where there is one."""
    identity = _map(record, "userIdentity")
    source = _text(_map(identity, "sessionContext"), "sourceIdentity")
    names = (_text(identity, part) for part in ("arn", "userName", "accessKeyId", "accountId", "type"))
    name = next(filter(None, names), "")
    return f"{name} ({source})" if source else name


def time_us(text: str) -> int | None:
    """ISO 8601 as microseconds since the epoch; None where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = moment.timestamp()
    return int(seconds) * 1_000_000 + moment.microsecond if seconds >= 0 else None


# --- the rules: each yields what ours has and what AWS's has, where they disagree -------------------------------------

Pairs = Iterator[tuple[str, str]]


def _same(name: str) -> Callable[[Record, Record], Pairs]:
    def rule(ours: Record, aws: Record) -> Pairs:
        if _text(ours, name) != _text(aws, name):
            yield _text(ours, name), _text(aws, name)

    return rule


def _keys(ours: Record, aws: Record) -> Pairs:
    mine, theirs = ({arn for arn in resource_arns(one) if ":key/" in arn} for one in (ours, aws))
    if mine and theirs:
        is_owners_copy = _text(_map(aws, "userIdentity"), "type") == "AWSAccount"
        if not (theirs <= mine if is_owners_copy else theirs == mine):
            yield " ".join(sorted(mine)), " ".join(sorted(theirs))
        return
    for whole, member in WRITTEN_KEYS:
        if member == "aliasName":
            continue
        pair = _text(_map(ours, whole), member), _text(_map(aws, whole), member)
        if all(pair) and _are_different_keys(*pair):
            yield pair
    if not mine and not theirs:
        return
    arns, names = (mine, _written(aws)) if mine else (theirs, _written(ours))
    names = [name for name in names if "alias/" not in name]
    if len(names) >= len(arns):
        for arn in sorted(arns):
            if all(_are_different_keys(arn, name) for name in names):
                yield (arn, " ".join(names)) if mine else (" ".join(names), arn)


def _contexts(ours: Record, aws: Record) -> Pairs:
    parameters = _map(ours, "requestParameters"), _map(aws, "requestParameters")
    if aws.get("requestParameters") is None or any(one.get("omitted") for one in parameters):
        return
    for name in CONTEXTS:
        mine, theirs = (one.get(name) or {} for one in parameters)
        if mine != theirs:
            yield _shown(mine), _shown(theirs)


def _as_private(ours: Record, aws: Record, forms: Record, privacy: PrivacyKey | None) -> tuple[Record, Record]:
    """Both records with what of `aws` is private in `ours` in the same form, as far as that can be."""
    mine, theirs = dict(_map(ours, "requestParameters")), dict(_map(aws, "requestParameters"))

    def digested(name: str, value: Json) -> Json:
        is_digest = forms.get(name) == Form.HMAC.value and privacy is not None and isinstance(value, str)
        return privacy.digest(name, value) if is_digest and privacy is not None else None

    for place in CONTEXTS:
        recorded = _map(mine, place)
        if isinstance(theirs.get(place), dict):
            theirs[place] = {
                name: value if name not in forms else digested(name, value) or recorded.get(name)
                for name, value in theirs[place].items()
            }
    for place in CONTEXTS if "*" in forms else ():
        mine.pop(place, None)
        theirs.pop(place, None)
    mine.pop("policy", None)  # its conditions may be about what is private
    return {**ours, "requestParameters": mine}, {
        **aws,
        "requestParameters": theirs if aws.get("requestParameters") is not None else None,
    }


def _parameters(ours: Record, aws: Record) -> Pairs:
    mine, theirs = _map(ours, "requestParameters"), _map(aws, "requestParameters")
    for name in PARAMETERS:
        if name in mine and name in theirs and _plain(mine[name]) != _plain(theirs[name]):
            yield f"{name}={_shown(mine[name])}", f"{name}={_shown(theirs[name])}"


def _materials(ours: Record, aws: Record) -> Pairs:
    for name in _MATERIALS:
        pair = _text(_map(ours, "additionalEventData"), name), _text(_map(aws, "additionalEventData"), name)
        if all(pair) and pair[0] != pair[1]:
            yield pair


def _errors(ours: Record, aws: Record) -> Pairs:
    mine, theirs = _text(ours, "errorCode"), _text(aws, "errorCode")
    if mine not in OWN_ERRORS and mine.removesuffix("Exception") != theirs.removesuffix("Exception"):
        yield mine, theirs


_RULES: tuple[tuple[str, Callable[[Record, Record], Pairs]], ...] = (
    ("requestId", _same("requestID")),
    ("operation", _same("eventName")),
    ("region", _same("awsRegion")),
    ("key", _keys),
    ("context", _contexts),
    ("parameters", _parameters),
    ("keyMaterialId", _materials),
    ("error", _errors),
)


def _callers(ours: Record, aws: Record, session_names: bool) -> Pairs:
    mine, theirs = _map(ours, "userIdentity"), _map(aws, "userIdentity")
    if extension(ours).get("identityProof") == "signature-verified":
        seen = _text(_map(theirs, "sessionContext"), "sourceIdentity")
        if not seen and session_names and _text(theirs, "type") == "AssumedRole":
            seen = _text(theirs, "arn").rpartition("/")[2]
        if seen and seen != session_name(ours):
            yield _text(mine, "arn"), caller_name(aws)
        return
    for part in ("accessKeyId", "arn", "accountId"):
        pair = _text(mine, part), _text(theirs, part)
        if all(pair) and pair[0] != pair[1]:
            role = _text(_map(_map(theirs, "sessionContext"), "sessionIssuer"), "arn")
            if part != "arn" or pair[0] != role:
                yield pair


def session_name(ours: Record) -> str:
    """The RoleSessionName and SourceIdentity that keytrail gives to the caller of `ours`. A user of the account who has no path
    is called by name; every other name is marked with a hash of the caller's ARN, and so is one that looks marked."""
    identity = _map(ours, "userIdentity")
    arn = _text(identity, "arn")
    said = _text(identity, "userName") or arn.partition(":assumed-role/")[2] or arn.rpartition(":")[2]
    name = _NOT_IN_SESSION_NAMES.sub("-", said)
    is_plain = arn.partition(":iam:")[2] == f":{_text(ours, 'recipientAccountId')}:user/{name}"
    if is_plain and 2 <= len(name) <= _MAX_SESSION_NAME and not _MARK.fullmatch(name[-17:]):
        return name
    mark = "@" + hashlib.sha256(arn.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return name[: _MAX_SESSION_NAME - len(mark)] + mark


def _written(record: Record) -> list[str]:
    found = (_text(_map(record, whole), member) for whole, member in WRITTEN_KEYS if member != "aliasName")
    return [name for name in found if name]


def _are_different_keys(one: str, other: str) -> bool:
    """Whether two names of keys mean two keys for certain: an alias may stand for any key."""
    first, second = _KEY_NAME.fullmatch(one), _KEY_NAME.fullmatch(other)
    if first is None or second is None or (first["kind"] == "alias") != (second["kind"] == "alias"):
        return False
    return first["name"] != second["name"] or any(
        first[part] and second[part] and first[part] != second[part] for part in ("region", "account")
    )


def _plain(value: Json) -> Json:
    """`value` in a form in which the same thing is equal: numbers that were written as text, JSON documents in text."""
    if not isinstance(value, str):
        return sorted(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _shown(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True) if value else ""


def _is_flat(value: Json) -> bool:
    """Whether it is what compared parameters are: a scalar, or a list or map of text. Others may be too deep to be held."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(isinstance(one, str) for one in values)


def _map(record: Record, name: str) -> Record:
    part = record.get(name)
    return part if isinstance(part, dict) else {}


def _text(record: Record, name: str) -> str:
    text = record.get(name)
    return text if isinstance(text, str) else ""


def _texts(record: Record, names: tuple[str, ...]) -> dict[str, str]:
    return {name: text for name in names if isinstance(text := record.get(name), str)}
