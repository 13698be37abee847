"""A record as an OCSF 1.5 event of the class API Activity (6003). Pure.

What the class has a place for stands there; all else of the record stands under `unmapped`, as it was: nothing is left out, and
nothing is made up. Profiles: `cloud`, `datetime`. Each record of the log is an event of its own, also intents and heartbeats. An
intent and its outcome have the same `metadata.correlation_uid`. Table for people: docs/shipping.md.

Source: the schema as published (version 1.5.0, class api_activity), which the tests validate against.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from ipaddress import ip_address
from typing import Any

import orjson

from audit.canonical import time_us
from audit.errors import AuditError

VERSION = "1.5.0"
_CATEGORY, _CLASS = 6, 6003
_MAX_ADDRESS = 40  # of OCSF's ip_t
_AWS_ACCOUNT = 10
_USER_TYPES = {"Unknown": (0, "Unknown"), "IAMUser": (1, "User"), "Root": (2, "Admin"), "AWSService": (3, "System")}
_OTHER = 99

#: Any: JSON.
Event = dict[str, Any]


class NoRecord(AuditError):
    """It is no record of a keytrail log."""


class Activity(IntEnum):
    """`activity_id`. `USE` is OCSF's Other: what is done with a key, and changes nothing."""

    UNKNOWN = 0
    CREATE = 1
    READ = 2
    UPDATE = 3
    DELETE = 4
    USE = 99


class Severity(IntEnum):
    """`severity_id`: answered; failed; refused, or nobody knows what became of it."""

    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3


#: Operations by how their names begin; the first that fits counts.
_ACTIVITIES: tuple[tuple[Activity, tuple[str, ...]], ...] = (
    (Activity.USE, ("Encrypt", "Decrypt", "ReEncrypt", "Generate", "Sign", "Verify", "Derive", "Encapsulate", "Decapsulate")),
    (Activity.READ, ("Get", "List", "Describe", "Search")),
    (Activity.CREATE, ("Create", "Replicate", "Assume", "Add")),
    (Activity.DELETE, ("Delete", "Retire", "Revoke", "Remove")),
    (
        Activity.UPDATE,
        (
            "Update",
            "Put",
            "Enable",
            "Disable",
            "Tag",
            "Untag",
            "Rotate",
            "Schedule",
            "Cancel",
            "Import",
            "Connect",
            "Disconnect",
            "Set",
        ),
    ),
)
#: STS gives credentials out; the name says Get.
_CREATES = frozenset({"GetSessionToken", "GetFederationToken"})
_REFUSALS = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
#: Top-level members that have a place of their own in the event.
_MAPPED = frozenset(
    [
        *("userIdentity", "eventTime", "eventSource", "eventName", "awsRegion", "sourceIPAddress", "userAgent", "errorCode"),
        *(
            "errorMessage",
            "requestParameters",
            "responseElements",
            "requestID",
            "eventID",
            "resources",
            "eventType",
            "eventVersion",
        ),
        "recipientAccountId",
    ]
)
_MAPPED_IDENTITY = frozenset({"arn", "userName", "accountId", "accessKeyId", "principalId", "invokedBy"})


def encode_event(line: bytes) -> bytes:
    """The event of the record in `line`, as JSON on one line. Raises `NoRecord`."""
    try:
        return orjson.dumps(event_of(orjson.loads(line)))
    except orjson.JSONDecodeError as error:
        raise NoRecord("a line is no JSON") from error


def event_of(record: Mapping[str, Any]) -> Event:
    """The event of `record`, a parsed line. Raises `NoRecord`."""
    try:
        return _event(record)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NoRecord(f"no record of a keytrail log: {type(error).__name__}") from error


def _event(record: Mapping[str, Any]) -> Event:
    extension = record["additionalEventData"]["keytrail"]
    activity = activity_of(record["eventName"], is_read_only=record.get("readOnly") is True)
    severity = severity_of(record, extension)
    event: Event = {
        "category_uid": _CATEGORY,
        "category_name": "Application Activity",
        "class_uid": _CLASS,
        "class_name": "API Activity",
        "activity_id": activity.value,
        "activity_name": activity.name.capitalize(),
        "type_uid": _CLASS * 100 + activity,
        "type_name": f"API Activity: {activity.name.capitalize()}",
        "severity_id": severity.value,
        "severity": severity.name.capitalize(),
        **_status(record, extension),
        "time": time_us(extension["time"]) // 1_000,
        "time_dt": extension["time"],
        "metadata": _metadata(record, extension),
        "api": _api(record),
        "actor": _actor(record.get("userIdentity") or {}),
        "src_endpoint": _endpoint(record.get("sourceIPAddress")),
        "cloud": _cloud(record),
        "resources": [_resource(one) for one in record.get("resources") or () if one.get("ARN")],
        "unmapped": _unmapped(record),
    }
    if agent := record.get("userAgent"):
        event["http_request"] = {"user_agent": agent}
    return event


def activity_of(operation: str, *, is_read_only: bool) -> Activity:
    """What kind of activity an operation is, by its name; of one with another name, what is known."""
    if operation in _CREATES:
        return Activity.CREATE
    for activity, beginnings in _ACTIVITIES:
        if operation.startswith(beginnings):
            return activity
    return Activity.READ if is_read_only else Activity.UNKNOWN


def _status(record: Mapping[str, Any], extension: Mapping[str, Any]) -> Event:
    """An intent is neither: it says what will be tried. Of a lost outcome nobody knows, whatever its error code is."""
    code = record.get("errorCode")
    match extension.get("phase"):
        case "intent":
            status: Event = {"status_id": _OTHER, "status": "Intent"}
        case "unknown":
            status = {"status_id": 0, "status": "Unknown"}
        case _:
            status = {"status_id": 2, "status": "Failure"} if code else {"status_id": 1, "status": "Success"}
    return status | _present(status_code=code, status_detail=record.get("errorMessage"))


def severity_of(record: Mapping[str, Any], extension: Mapping[str, Any]) -> Severity:
    """How much `record`, whose extension is `extension`, asks to be looked at."""
    if extension.get("phase") == "unknown" or record.get("errorCode") in _REFUSALS or "deniedBy" in extension:
        return Severity.MEDIUM
    return Severity.LOW if record.get("errorCode") else Severity.INFORMATIONAL


def _metadata(record: Mapping[str, Any], extension: Mapping[str, Any]) -> Event:
    """With the record's place in the log, by which it can be proved."""
    correlation = record["eventID"] if extension.get("phase") == "intent" else extension.get("intent")
    return {
        "version": VERSION,
        "product": {"name": "keytrail", "vendor_name": "keytrail"},
        "profiles": ["cloud", "datetime"],
        "uid": record["eventID"],
        "event_code": record.get("eventType", "AwsApiCall"),
        "log_name": extension["log"],
        "log_provider": "keytrail",
        "log_version": record.get("eventVersion", ""),
        "sequence": extension["sequence"],
        "original_time": record["eventTime"],
        **_present(correlation_uid=correlation),
    }


def _api(record: Mapping[str, Any]) -> Event:
    """A record without a request's id has its own instead: the class wants one."""
    request = {"uid": record.get("requestID") or record["eventID"], **_present(data=record.get("requestParameters"))}
    response = _present(
        error=record.get("errorCode"), error_message=record.get("errorMessage"), data=record.get("responseElements")
    )
    service = {"name": record["eventSource"]}
    return {"operation": record["eventName"], "service": service, "request": request, **_present(response=response or None)}


def _actor(identity: Mapping[str, Any]) -> Event:
    kind = identity.get("type", "Unknown")
    type_id, type_name = _USER_TYPES.get(kind, (_OTHER, kind))
    account = identity.get("accountId")
    user = {
        "type_id": type_id,
        "type": type_name,
        **_present(
            uid=identity.get("arn"),
            uid_alt=identity.get("principalId"),
            name=identity.get("userName"),
            credential_uid=identity.get("accessKeyId"),
            account=_account(account) if account else None,
        ),
    }
    if not {"uid", "name", "account"} & user.keys():
        user["name"] = identity.get("invokedBy") or type_name  # a user of the schema has a name at least
    actor: Event = {"user": user, **_present(invoked_by=identity.get("invokedBy"))}
    if (session := identity.get("sessionContext")) is not None:
        actor["session"] = _session(session)
    return actor


def _session(session: Mapping[str, Any]) -> Event:
    attributes, issuer = session.get("attributes") or {}, session.get("sessionIssuer") or {}
    created = attributes.get("creationDate")
    return _present(
        created_time=None if created is None else time_us(created) // 1_000,
        created_time_dt=created,
        is_mfa=attributes.get("mfaAuthenticated") == "true",
        issuer=issuer.get("arn"),
    )


def _endpoint(source: str | None) -> Event:
    """An address, or the word that stands in its place, such as ``AWS Internal``."""
    try:
        ip_address(source or "")
    except ValueError:
        return {"name": source or "unknown"}
    return {"ip": source} if source is not None and len(source) <= _MAX_ADDRESS else {"name": source}


def _cloud(record: Mapping[str, Any]) -> Event:
    account = record.get("recipientAccountId")
    return {"provider": "AWS", **_present(region=record.get("awsRegion"), account=_account(account) if account else None)}


def _account(account_id: str) -> Event:
    return {"uid": account_id, "type_id": _AWS_ACCOUNT, "type": "AWS Account"}


def _resource(resource: Mapping[str, Any]) -> Event:
    parts = resource["ARN"].split(":", 5)
    partition, region = (parts[1], parts[3]) if len(parts) == 6 else (None, None)
    owner = resource.get("accountId")
    return {
        "uid": resource["ARN"],
        **_present(type=resource.get("type"), cloud_partition=partition or None, region=region or None),
        **({"owner": {"account": _account(owner)}} if owner else {}),
    }


def _unmapped(record: Mapping[str, Any]) -> Event:
    """What has no place in the class, under the names that it has in the record."""
    identity = {key: value for key, value in (record.get("userIdentity") or {}).items() if key not in _MAPPED_IDENTITY}
    rest = {key: value for key, value in record.items() if key not in _MAPPED}
    return {**rest, **({"userIdentity": identity} if identity else {})}


def _present(**members: Any) -> Event:
    """Those that are there. Any: JSON."""
    return {name: value for name, value in members.items() if value is not None}
