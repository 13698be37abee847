"""Requests to an external key store proxy, and what its answers say. Pure, with the time as an argument.

Answers are read strictly: every member that is needed, in its kind and length. The integrity value of a ciphertext
(specification, appendix C) is always asked for and compared.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import orjson

from proxy.backends.aws.transport import UpstreamRequest, UpstreamResponse
from proxy.backends.local.xks.blob import IV_BYTES, MAX_METADATA_BYTES, TAG_BYTES, Outer
from proxy.backends.local.xks.faults import ERROR_NAMES, Fault, XksFailed
from proxy.sigv4 import sign

SERVICE = "kms-xks-proxy"
MAX_ANSWER_BYTES = 64 << 10
MAX_MANAGERS, MAX_USAGES = 10, 10
_CONTENT_TYPE = b"application/json"
_HEALTHS = frozenset({"ACTIVE", "DEGRADED", "UNAVAILABLE"})

#: JSON as it was read or is to be written. Any, because it is JSON.
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """Where a proxy is, and what its requests are signed with: host, path (``/prefix/kms/xks/v1``), credential."""

    host: str
    path: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reason:
    """The KMS call that a request is made for; what of it the proxy is told (specification, appendix B)."""

    operation: str
    request_id: str
    principal_arn: str = ""
    key_arn: str | None = None

    @property
    def metadata(self) -> Json:
        told = {"kmsRequestId": self.request_id, "kmsOperation": self.operation}
        if self.principal_arn:
            told["awsPrincipalArn"] = self.principal_arn
        return told if self.key_arn is None else {**told, "kmsKeyArn": self.key_arn}


def request(address: ProxyAddress, place: str, body: bytes, region: str, now_s: float) -> UpstreamRequest:
    """The signed request; `place` stands behind the path: ``/health``, ``/keys/ID/encrypt``."""
    target = f"{address.path}{place}".encode()
    timestamp = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ").encode()
    headers = ((b"host", address.host.encode()), (b"x-amz-date", timestamp))
    authorization = sign(
        b"POST",
        target,
        headers,
        body,
        access_key_id=address.access_key_id,
        secret_access_key=address.secret_access_key,
        region=region,
        service=SERVICE,
    )
    more = ((b"content-type", _CONTENT_TYPE), (b"authorization", authorization))
    return UpstreamRequest(b"POST", target, headers + more, body)


def about(reason: Reason) -> bytes:
    """The body of GetHealthStatus, and of GetKeyMetadata."""
    return orjson.dumps({"requestMetadata": reason.metadata})


def encryption(reason: Reason, plaintext: bytes, associated: bytes) -> bytes:
    return orjson.dumps(
        {
            "requestMetadata": reason.metadata,
            "additionalAuthenticatedData": _base64(associated),
            "plaintext": _base64(plaintext),
            "encryptionAlgorithm": "AES_GCM",
            "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
        }
    )


def decryption(reason: Reason, outer: Outer, associated: bytes) -> bytes:
    body = {
        "requestMetadata": reason.metadata,
        "additionalAuthenticatedData": _base64(associated),
        "ciphertext": _base64(outer.ciphertext),
        "encryptionAlgorithm": "AES_GCM",
        "initializationVector": _base64(outer.iv),
        "authenticationTag": _base64(outer.tag),
    }
    if outer.metadata:
        body["ciphertextMetadata"] = _base64(outer.metadata)
    return orjson.dumps(body)


def check_health(answer: UpstreamResponse) -> None:
    """Raises XksFailed unless the proxy is there for us, and at least one key manager is behind it."""
    members = _read(answer)
    size, managers = members.get("xksProxyFleetSize"), members.get("ekmFleetDetails")
    if type(size) is not int or size < 1 or not isinstance(managers, list) or not 1 <= len(managers) <= MAX_MANAGERS:
        raise XksFailed(Fault.UNREADABLE)
    for name in ("xksProxyVendor", "xksProxyModel", "ekmVendor"):
        _text(members, name)
    healths = set()
    for manager in managers:
        if not isinstance(manager, dict):
            raise XksFailed(Fault.UNREADABLE)
        for name in ("id", "model"):
            _text(manager, name)
        healths.add(_text(manager, "healthStatus"))
    if healths - _HEALTHS:
        raise XksFailed(Fault.UNREADABLE)
    if healths == {"UNAVAILABLE"}:
        raise XksFailed(Fault.UNAVAILABLE)


def check_key(answer: UpstreamResponse) -> None:
    """Raises XksFailed unless the external key can be a KMS key's."""
    members = _read(answer)
    spec, status, usages = _text(members, "keySpec"), _text(members, "keyStatus"), members.get("keyUsage")
    if not isinstance(usages, list) or len(usages) > MAX_USAGES or not all(isinstance(usage, str) for usage in usages):
        raise XksFailed(Fault.UNREADABLE)
    if status not in ("ENABLED", "DISABLED"):
        raise XksFailed(Fault.UNREADABLE)
    if spec != "AES_256" or not {"ENCRYPT", "DECRYPT"}.issubset(usages):
        raise XksFailed(Fault.KEY_USAGE)
    if status != "ENABLED":
        raise XksFailed(Fault.KEY_NOT_ENABLED)


def encrypted(answer: UpstreamResponse, plaintext_bytes: int, associated: bytes) -> Outer:
    """What came of `encryption`. Raises XksFailed."""
    members = _read(answer)
    metadata = _bytes(members, "ciphertextMetadata") if members.get("ciphertextMetadata") is not None else b""
    outer = Outer(
        _bytes(members, "initializationVector"), metadata, _bytes(members, "authenticationTag"), _bytes(members, "ciphertext")
    )
    if len(outer.iv) not in IV_BYTES or len(metadata) > MAX_METADATA_BYTES or len(outer.tag) != TAG_BYTES:
        raise XksFailed(Fault.UNREADABLE)
    integrity = sha256(b"".join((associated, metadata, outer.iv, outer.ciphertext, outer.tag))).digest()
    if len(outer.ciphertext) != plaintext_bytes or _bytes(members, "ciphertextDataIntegrityValue") != integrity:
        raise XksFailed(Fault.UNREADABLE)
    return outer


def decrypted(answer: UpstreamResponse, outer: Outer) -> bytes:
    """What came of `decryption`. Raises XksFailed."""
    plaintext = _bytes(_read(answer), "plaintext")
    if len(plaintext) != len(outer.ciphertext):
        raise XksFailed(Fault.UNREADABLE)
    return plaintext


def _read(answer: UpstreamResponse) -> Json:
    """The members of a successful answer. An error is known by its errorName, whatever the status."""
    if len(answer.body) > MAX_ANSWER_BYTES:
        raise XksFailed(Fault.UNREADABLE)
    try:
        members = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        raise XksFailed(Fault.UNREADABLE) from None
    if not isinstance(members, dict):
        raise XksFailed(Fault.UNREADABLE)
    if answer.status != 200:
        name = members.get("errorName")
        raise XksFailed(ERROR_NAMES.get(name, Fault.UNREADABLE) if isinstance(name, str) else Fault.UNREADABLE)
    return members


def _text(members: Json, name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise XksFailed(Fault.UNREADABLE)
    return value


def _bytes(members: Json, name: str) -> bytes:
    try:
        return base64.b64decode(_text(members, name), validate=True)
    except (binascii.Error, ValueError):
        raise XksFailed(Fault.UNREADABLE) from None


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
