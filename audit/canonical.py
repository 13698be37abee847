"""A record as the bytes of its line, and back.

The line is what is hashed, so it is written once and never again: readers keep the bytes and parse a copy. Keys stand in
CloudTrail's order; what has nothing to say is left out, except where CloudTrail writes `null`. A line fits an entry bundle of
C2SP tlog-tiles, whose lengths have 16 bits (CloudTrail's limits are larger): what is too large is replaced by CloudTrail's note
that says so, the largest part first, never by cutting JSON.

Source: CloudTrail record contents (maxima, omitted parameters), docs/log-format.md (the extension).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

import orjson

from audit.errors import RecordRejected
from audit.record import (
    AllowedBy,
    AuditRecord,
    ClientCertificate,
    DeniedBy,
    Effect,
    IdentityProof,
    Phase,
    Resource,
    SessionContext,
    SessionIssuer,
    TlsDetails,
    Upstream,
    UserIdentity,
)

T = TypeVar("T")
EVENT_VERSION = "1.11"
MAX_USER_AGENT = 1_024
MAX_ERROR_MESSAGE = 1_024
MAX_LINE_BYTES = (1 << 16) - 1  # without the newline
#: What gives way where a line would be longer. All else has bounds of its own that leave room.
_OMITTABLE = ("requestParameters", "responseElements", "serviceEventDetails")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_IDENTITY_KEYS = (
    ("principalId", "principal_id"),
    ("arn", "arn"),
    ("accountId", "account_id"),
    ("accessKeyId", "access_key_id"),
    ("userName", "user_name"),
    ("invokedBy", "invoked_by"),
)
_ISSUER_KEYS = (("principalId", "principal_id"), ("arn", "arn"), ("accountId", "account_id"), ("userName", "user_name"))
#: Keys in the line, and the fields that they are of: of parts that are left out whole, or key by key, where there is nothing.
_TLS_KEYS = (("tlsVersion", "version"), ("cipherSuite", "cipher_suite"), ("clientProvidedHostHeader", "server_name"))
_CERTIFICATE_KEYS = (
    ("subject", "subject"),
    ("issuer", "issuer"),
    ("sha256", "sha256"),
    ("alternativeNames", "alternative_names"),
)
_UPSTREAM_KEYS = (
    ("host", "host"),
    ("attempts", "attempts"),
    ("status", "status"),
    ("requestId", "request_id"),
    ("failures", "failures"),
)
_ALLOWED_KEYS = (("grant", "grant"), ("policy", "policy"), ("statement", "statement"))
_DENIED_KEYS = (("policy", "policy"), ("statement", "statement"))


def timestamp(time_us: int) -> str:
    """`time_us` as ISO 8601 in UTC with microseconds: ``2026-01-02T03:04:05.000006Z``."""
    return f"{_to_the_second(time_us // 1_000_000)}.{time_us % 1_000_000:06d}Z"


def time_us(timestamp: str) -> int:
    """The time of which `timestamp` gives the text. Raises ValueError or TypeError where it is no such text."""
    return (datetime.fromisoformat(timestamp) - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=16)
def _to_the_second(time_s: int) -> str:
    return (_EPOCH + timedelta(seconds=time_s)).strftime("%Y-%m-%dT%H:%M:%S")


def encode(record: AuditRecord, log: str, sequence: int) -> bytes:
    """The line of `record` at place `sequence` of `log`, with its newline.

    Raises `RecordRejected` where something in it is no JSON: bytes, above all; and where it is too long without its parameters.
    """
    time = timestamp(record.time_us)
    document: dict[str, Any] = {
        "eventVersion": EVENT_VERSION,
        "userIdentity": _encode_identity(record.identity),
        "eventTime": time[:19] + "Z",
        "eventSource": record.event_source,
        "eventName": record.event_name,
        "awsRegion": record.aws_region,
        "sourceIPAddress": record.source_ip,
    }
    if record.user_agent is not None:
        document["userAgent"] = record.user_agent[:MAX_USER_AGENT]
    if record.error_code is not None:
        document["errorCode"] = record.error_code
        if record.error_message is not None:
            document["errorMessage"] = record.error_message[:MAX_ERROR_MESSAGE]
    document["requestParameters"] = record.request_parameters
    document["responseElements"] = record.response_elements
    document["additionalEventData"] = {**(record.key_material_ids or {}), "keytrail": _extension(record, log, sequence, time)}
    if record.recipient is not None:
        document["additionalEventData"]["recipient"] = record.recipient
    if record.request_id is not None:
        document["requestID"] = record.request_id
    document["eventID"] = record.event_id
    document["readOnly"] = record.read_only
    document["resources"] = [{"accountId": r.account_id, "type": r.type, "ARN": r.arn} for r in record.resources]
    document["eventType"] = record.event_type
    document["managementEvent"] = True
    if record.recipient_account_id is not None:
        document["recipientAccountId"] = record.recipient_account_id
    document["eventCategory"] = "Management"
    if record.service_event_details is not None:
        document["serviceEventDetails"] = record.service_event_details
    if record.tls is not None:
        document["tlsDetails"] = _encode_tls(record.tls)
    try:
        line = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        if len(line) > MAX_LINE_BYTES + 1:
            line = _shortened(document)
    except orjson.JSONEncodeError as error:
        raise RecordRejected(f"{record.event_name}: {error}") from error  # orjson tells the type, and never the value
    return line


def decode(line: bytes) -> AuditRecord:
    """The record that `line` was made from. Raises KeyError, ValueError or TypeError where it is not such a line."""
    document = orjson.loads(line)
    identity = document["userIdentity"]
    additional = document["additionalEventData"]
    extension = additional["keytrail"]
    materials = {key: value for key, value in additional.items() if key not in ("keytrail", "recipient")}
    return AuditRecord(
        time_us=time_us(extension["time"]),
        event_id=document["eventID"],
        event_name=document["eventName"],
        event_source=document["eventSource"],
        event_type=document["eventType"],
        identity=_decode_identity(identity),
        aws_region=document["awsRegion"],
        source_ip=document["sourceIPAddress"],
        request_id=document.get("requestID"),
        user_agent=document.get("userAgent"),
        request_parameters=document["requestParameters"],
        response_elements=document["responseElements"],
        service_event_details=document.get("serviceEventDetails"),
        error_code=document.get("errorCode"),
        error_message=document.get("errorMessage"),
        read_only=document["readOnly"],
        resources=tuple(Resource(r["ARN"], r["accountId"], r["type"]) for r in document["resources"]),
        recipient_account_id=document.get("recipientAccountId"),
        key_material_ids=materials or None,
        recipient=additional.get("recipient"),
        phase=Phase(extension["phase"]),
        intent_id=extension.get("intent"),
        fingerprints_in=tuple(extension.get("fingerprintsIn", ())),
        fingerprints_out=tuple(extension.get("fingerprintsOut", ())),
        identity_proof=IdentityProof(extension["identityProof"]),
        backend=extension["backend"],
        topology=extension["topology"],
        wire_error=extension.get("wireError"),
        latency_us=extension.get("latencyMicros"),
        repeated_signature=extension.get("repeatedSignature", False),
        tls=_decode_part(TlsDetails, _TLS_KEYS, document.get("tlsDetails")),
        peer=extension.get("peer"),
        client_certificate=_decode_part(ClientCertificate, _CERTIFICATE_KEYS, extension.get("clientCertificate")),
        upstream=_decode_part(Upstream, _UPSTREAM_KEYS, extension.get("upstream")),
        effect=Effect(extension["effect"]) if "effect" in extension else None,
        denied_by=_decode_part(DeniedBy, _DENIED_KEYS, extension.get("deniedBy")),
        allowed_by=tuple(AllowedBy(**one) for one in extension.get("allowedBy", ())),
        private_context=extension.get("privateContext"),
    )


@lru_cache(maxsize=1_024)
def _encode_identity(identity: UserIdentity) -> orjson.Fragment:
    document = {"type": identity.type} | _encode_part(identity, _IDENTITY_KEYS)
    if identity.session is not None:
        document["sessionContext"] = _encode_session(identity.session)
    return orjson.Fragment(orjson.dumps(document))


def _encode_session(session: SessionContext) -> dict[str, Any]:
    """In CloudTrail's form, in which mfaAuthenticated is a text."""
    attributes = {
        "creationDate": timestamp(session.created_us)[:19] + "Z",
        "mfaAuthenticated": "true" if session.mfa_authenticated else "false",
    }
    found: dict[str, Any] = {"attributes": attributes}
    if session.issuer is not None:
        found = {"sessionIssuer": {"type": "Role"} | _encode_part(session.issuer, _ISSUER_KEYS), **found}
    if session.source_identity is not None:
        found["sourceIdentity"] = session.source_identity
    return found


def _decode_identity(identity: dict[str, Any]) -> UserIdentity:
    found = {name: identity.get(key) for key, name in _IDENTITY_KEYS}
    session = identity.get("sessionContext")
    if session is None:
        return UserIdentity(identity["type"], **found)
    issuer, attributes = session.get("sessionIssuer"), session["attributes"]
    context = SessionContext(
        time_us(attributes["creationDate"]),
        None if issuer is None else SessionIssuer(**{name: issuer[key] for key, name in _ISSUER_KEYS}),
        session.get("sourceIdentity"),
        attributes["mfaAuthenticated"] == "true",
    )
    return UserIdentity(identity["type"], **found, session=context)


@lru_cache(maxsize=1_024)
def _encode_tls(tls: TlsDetails) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(_encode_part(tls, _TLS_KEYS)))


@lru_cache(maxsize=1_024)
def _encode_certificate(certificate: ClientCertificate) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(_encode_part(certificate, _CERTIFICATE_KEYS)))


@lru_cache(maxsize=1_024)
def _encode_allowed(allowed: AllowedBy) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(_encode_part(allowed, _ALLOWED_KEYS)))


def _encode_part(part: object, keys: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    found = {key: getattr(part, name) for key, name in keys}
    return {key: value for key, value in found.items() if value is not None and value != ()}


def _decode_part(kind: Callable[..., T], keys: tuple[tuple[str, str], ...], part: dict[str, Any] | None) -> T | None:
    if part is None:
        return None
    found = {name: part[key] for key, name in keys if key in part}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


def _extension(record: AuditRecord, log: str, sequence: int, time: str) -> dict[str, Any]:
    extension: dict[str, Any] = {"log": log, "sequence": sequence, "time": time, "phase": record.phase._value_}
    if record.intent_id is not None:
        extension["intent"] = record.intent_id
    if record.fingerprints_in:
        extension["fingerprintsIn"] = record.fingerprints_in
    if record.fingerprints_out:
        extension["fingerprintsOut"] = record.fingerprints_out
    extension["identityProof"] = record.identity_proof._value_
    extension["backend"] = record.backend
    extension["topology"] = record.topology
    if record.wire_error is not None:
        extension["wireError"] = record.wire_error
    if record.latency_us is not None:
        extension["latencyMicros"] = record.latency_us
    if record.repeated_signature:
        extension["repeatedSignature"] = True
    if record.peer is not None:
        extension["peer"] = record.peer
    if record.client_certificate is not None:
        extension["clientCertificate"] = _encode_certificate(record.client_certificate)
    if record.upstream is not None:
        extension["upstream"] = _encode_part(record.upstream, _UPSTREAM_KEYS)
    if record.effect is not None:
        extension["effect"] = record.effect._value_
    if record.denied_by is not None:
        extension["deniedBy"] = _encode_part(record.denied_by, _DENIED_KEYS)
    if record.allowed_by:
        extension["allowedBy"] = [_encode_allowed(one) for one in record.allowed_by]
    if record.private_context is not None:
        extension["privateContext"] = record.private_context
    return extension


def _shortened(document: dict[str, Any]) -> bytes:
    """The line of `document`, with notes in place of as many of its parts as have to give way."""
    sizes = sorted(((len(orjson.dumps(document[key])), key) for key in _OMITTABLE if document.get(key)), reverse=True)
    for size, key in sizes:
        document[key] = {"omitted": True, "originalSize": size, "reason": f"the record is larger than {MAX_LINE_BYTES} bytes"}
        line = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        if len(line) <= MAX_LINE_BYTES + 1:
            return line
    raise RecordRejected(f"{document['eventName']:.128}: its record is larger than {MAX_LINE_BYTES} bytes without its parameters")
