"""Envelopes that keep the CiphertextBlob before the data: Tink's KmsEnvelopeAead, and what Kubernetes writes into etcd. Pure.

    Tink:     u32 length ‖ blob ‖ AEAD's ciphertext. No magic: so the blob must have the shape of KMS's, or the user must say
              that it is Tink (`read_tink_as_told`).
    KMS v1:   "k8s:enc:kms:v1:" name ":" ‖ u16 length ‖ wrapped key ‖ data
    KMS v2:   "k8s:enc:kms:v2:" name ":" ‖ protobuf EncryptedObject: 1 encryptedData, 2 keyID, 3 encryptedDEKSource,
              4 annotations, 5 encryptedDEKSourceType

Tink takes no encryption context for the blob; Kubernetes stores none. aws-encryption-provider, the plugin of AWS for
Kubernetes, puts the byte "1" before the blob that it got from KMS.

Source: Tink's wire format; Kubernetes' k8s.io/apiserver, storage/value/encrypt/envelope (kmsv2: api.proto, v2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from audit.query.artifacts.artifact import MAX_PIECE_BYTES, Artifact, DamagedArtifact, WrappedKey
from audit.query.artifacts.bare import HEAD_BYTES, blob_bytes, is_blob

TINK = "Tink KmsEnvelopeAead"
KUBERNETES_V1 = "Kubernetes KMS v1"
KUBERNETES_V2 = "Kubernetes KMS v2"

#: Tink's own limit.
_MAX_TINK_BLOB_BYTES = 4_096

_PREFIX = re.compile(rb"(?:/[^\n]{1,1024}\n)?k8s:enc:kms:v(?P<version>[12]):(?P<name>[^:\n]{1,1024}):")
_MAX_HEAD_BYTES = 4_096
_STORAGE_VERSION = b"1"

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_ENCRYPTED_DATA, _KEY_ID, _DEK_SOURCE, _ANNOTATIONS, _DEK_SOURCE_TYPE = 1, 2, 3, 4, 5
_WIRE_TYPES = {_ENCRYPTED_DATA: _BYTES, _KEY_ID: _BYTES, _DEK_SOURCE: _BYTES, _ANNOTATIONS: _BYTES, _DEK_SOURCE_TYPE: _VARINT}
_MAX_FIELDS = 1_000
_SEED_NOTE = "a seed, from which the API server derives the keys of many objects; it unwraps it once and keeps it"
_DEK_NOTE = "the API server unwraps it once and keeps it"
_OTHER_PLUGIN_NOTE = "not of the form that aws-encryption-provider writes: taken as it is stored"


def read_tink(artifact: Artifact) -> list[WrappedKey] | None:
    """The key of a ciphertext of Tink, where its blob has the shape of KMS's."""
    head = artifact.read(0, min(artifact.size_bytes, 4 + HEAD_BYTES))
    length = int.from_bytes(head[:4], "big")
    if len(head) < 4 or length > _MAX_TINK_BLOB_BYTES or blob_bytes(head[4:]) != length:
        return None
    return [_tink_key(artifact, length, None)]


def read_tink_as_told(artifact: Artifact) -> list[WrappedKey]:
    """The key of what the user says is a ciphertext of Tink, of whatever shape its blob is."""
    head = artifact.read(0, min(artifact.size_bytes, 4))
    length = int.from_bytes(head, "big")
    if len(head) < 4 or not 0 < length <= _MAX_TINK_BLOB_BYTES:
        raise DamagedArtifact(TINK, f"its wrapped key would be {length} bytes long")
    return [_tink_key(artifact, length, "taken for Tink's because it was said to be")]


def _tink_key(artifact: Artifact, length: int, note: str | None) -> WrappedKey:
    blob = artifact.read(4, length)
    if len(blob) < length:
        raise DamagedArtifact(TINK, f"its wrapped key is {length} bytes long, and {len(blob)} are there")
    return WrappedKey.of(blob, TINK, "before the ciphertext", note=note)


def read_kubernetes(artifact: Artifact) -> list[WrappedKey] | None:
    """The key of a value of etcd that Kubernetes encrypted with a KMS plugin, v1 or v2; also as etcdctl prints it, with the
    value's key in a line before it and an end of line behind."""
    head = artifact.read(0, min(artifact.size_bytes, _MAX_HEAD_BYTES))
    prefix = _PREFIX.match(head)
    if prefix is None:
        return None
    format = KUBERNETES_V1 if prefix["version"] == b"1" else KUBERNETES_V2
    if artifact.size_bytes > MAX_PIECE_BYTES:
        raise DamagedArtifact(format, f"{artifact.size_bytes} bytes: etcd holds no value of that size")
    stored = artifact.read(0, artifact.size_bytes)[prefix.end() :]
    read = _kubernetes_v1 if format == KUBERNETES_V1 else _kubernetes_v2
    provider = prefix["name"].decode(errors="replace")
    try:
        return [read(stored, provider)]
    except DamagedArtifact:
        if not stored.endswith(b"\n"):
            raise
    return [read(stored[:-1], provider)]


def _kubernetes_v1(stored: bytes, provider: str) -> WrappedKey:
    length = int.from_bytes(stored[:2], "big")
    wrapped = stored[2 : 2 + length]
    if len(stored) < 2 or len(wrapped) < length:
        raise DamagedArtifact(KUBERNETES_V1, f"its wrapped key is {length} bytes long, and {len(wrapped)} are there")
    blob, note = _without_storage_version(wrapped)
    return WrappedKey.of(blob, KUBERNETES_V1, f"provider {provider}", note=note)


def _kubernetes_v2(stored: bytes, provider: str) -> WrappedKey:
    found: dict[int, bytes | int] = {}
    for count, field in enumerate(_fields(stored)):
        if count == _MAX_FIELDS:
            raise DamagedArtifact(KUBERNETES_V2, f"it has more than {_MAX_FIELDS} fields")
        if field.number not in _WIRE_TYPES:
            continue  # Of a newer Kubernetes.
        if field.wire_type != _WIRE_TYPES[field.number]:
            raise DamagedArtifact(KUBERNETES_V2, f"field {field.number} is of another type")
        if field.number in found and field.number != _ANNOTATIONS:
            raise DamagedArtifact(KUBERNETES_V2, f"field {field.number} is there twice")
        found[field.number] = field.value
    wrapped, key_id = found.get(_DEK_SOURCE), found.get(_KEY_ID)
    if not isinstance(wrapped, bytes) or _ENCRYPTED_DATA not in found:
        raise DamagedArtifact(KUBERNETES_V2, "it has no wrapped key, or no data")
    blob, other = _without_storage_version(wrapped)
    notes = [other] if other else []
    notes.append(_SEED_NOTE if found.get(_DEK_SOURCE_TYPE) == 1 else _DEK_NOTE)
    key = key_id.decode(errors="replace") if isinstance(key_id, bytes) else None
    return WrappedKey.of(blob, KUBERNETES_V2, f"provider {provider}, encryptedDEKSource", key=key, note="; ".join(notes))


def _without_storage_version(wrapped: bytes) -> tuple[bytes, str | None]:
    blob = wrapped.removeprefix(_STORAGE_VERSION)
    if is_blob(blob):
        return blob, None
    return wrapped, _OTHER_PLUGIN_NOTE


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    wire_type: int
    value: bytes | int


def _fields(message: bytes) -> Iterator[_Field]:
    """The fields of a protobuf message, without what is in those of messages."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise DamagedArtifact(KUBERNETES_V2, f"it has a field {number}")
        value: bytes | int
        if wire_type == _VARINT:
            value, at = _varint(message, at)
        elif wire_type in (_BYTES, _FIXED_64, _FIXED_32):
            if wire_type == _BYTES:
                length, at = _varint(message, at)
            else:
                length = 8 if wire_type == _FIXED_64 else 4
            if length > len(message) - at:
                raise DamagedArtifact(KUBERNETES_V2, f"field {number} is {length} bytes long, and {len(message) - at} are there")
            value, at = message[at : at + length], at + length
        else:
            raise DamagedArtifact(KUBERNETES_V2, f"field {number} is of a type that protobuf does not have")
        yield _Field(number, wire_type, value)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise DamagedArtifact(KUBERNETES_V2, "it ends within a number")
