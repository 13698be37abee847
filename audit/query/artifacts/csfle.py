"""MongoDB's client-side field level encryption: the documents of a key vault. Pure.

A document of the key vault has ``masterKey`` {provider, region, key, endpoint?} and ``keyMaterial``, a binary: of the provider
``aws`` the CiphertextBlob, for which KMS gets no context. Read are

    Extended JSON, canonical, relaxed or of the first version (as mongoexport and mongosh give it): one document, a list, lines
    BSON: documents one behind the other (as mongodump gives them)

Source: MongoDB's specification "Client Side Encryption", DataKeys; "MongoDB Extended JSON v2"; bsonspec.org 1.1.

Limit: BSON of more than `MAX_PIECE_BYTES` is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID

from audit.query.artifacts.artifact import MAX_KEYS, MAX_PIECE_BYTES, Artifact, DamagedArtifact, WrappedKey
from audit.query.artifacts.bare import from_base64
from audit.query.artifacts.dynamodb import BrokenJson, json_documents

FORMAT = "MongoDB CSFLE key vault"

_NOTE = "the client unwraps it once for many fields, and keeps it"
_AWS = "aws"
#: Both stand in each document of a key vault; so, in BSON: a document, a binary.
_NAMES = (b"masterKey", b"keyMaterial")
_BSON_NAMES = (b"\x03masterKey\0", b"\x05keyMaterial\0")
_MAX_DEPTH = 32
_MAX_DOCUMENT_BYTES = 16 << 20
_LEAST_DOCUMENT_BYTES = 5


def read_csfle(artifact: Artifact) -> list[WrappedKey] | None:
    """The keys that AWS KMS wrapped; none for a key vault whose keys others wrapped.

    A key without fingerprint and blob tells that there are more than `MAX_KEYS`.
    """
    if _begins_as_bson(artifact):
        content = artifact.read(0, artifact.size_bytes)
        if all(name in content for name in _BSON_NAMES):
            return _keys(_bson_documents(content))
        return None
    try:
        return _keys(_json_documents(artifact))
    except BrokenJson as broken:
        if all(b'"' + name + b'"' in broken.text for name in _NAMES):
            raise DamagedArtifact(FORMAT, "it is JSON that is broken") from broken
        return None


def _keys(documents: Iterator[Mapping[str, object]]) -> list[WrappedKey] | None:
    keys: list[WrappedKey] = []
    seen = False
    try:
        for number, document in enumerate(documents, 1):
            master, material = document.get("masterKey"), document.get("keyMaterial")
            if not isinstance(master, Mapping) or not isinstance(provider := master.get("provider"), str) or material is None:
                continue
            seen = True
            if provider.partition(":")[0] != _AWS:
                continue
            if len(keys) == MAX_KEYS:
                note = f"not read: {MAX_KEYS} keys were found before it, enough for one artefact"
                return [*keys, WrappedKey("", FORMAT, f"from document {number} on", note=note)]
            keys.append(_key(document.get("_id"), master, material, number))
    except BrokenJson as broken:
        if seen:
            raise DamagedArtifact(FORMAT, "a line of it is JSON that is broken") from broken
        raise
    return keys if seen else None


def _key(document_id: object, master: Mapping[object, object], material: object, number: int) -> WrappedKey:
    blob, name = _binary(material), _binary(document_id)
    where = f"keyMaterial of {UUID(bytes=name)}" if name is not None and len(name) == 16 else f"keyMaterial of document {number}"
    if blob is None:
        raise DamagedArtifact(FORMAT, f"{where}: it is no binary")
    key = master.get("key")
    return WrappedKey.of(blob, FORMAT, where, key=key if isinstance(key, str) else None, note=_NOTE)


# --- Extended JSON


def _json_documents(artifact: Artifact) -> Iterator[Mapping[str, object]]:
    for document in json_documents(artifact):
        for one in document if isinstance(document, list) else [document]:
            if isinstance(one, dict):
                yield one


def _binary(value: object) -> bytes | None:
    """The bytes of a binary, of BSON or in one of the ways that Extended JSON has; None where `value` is none."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, Mapping):
        return None
    if set(value) == {"$uuid"} and isinstance(text := value["$uuid"], str):
        try:
            return UUID(text).bytes
        except ValueError:
            return None
    inner = value.get("$binary")
    text = inner.get("base64") if isinstance(inner, Mapping) else inner
    return from_base64(text.encode(errors="replace")) if isinstance(text, str) and len(text) % 4 == 0 else None


# --- BSON

_STRING, _DOCUMENT, _ARRAY, _BINARY = 0x02, 0x03, 0x04, 0x05
_LENGTHS = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
_OLD_BINARY = 2


def _begins_as_bson(artifact: Artifact) -> bool:
    if not _LEAST_DOCUMENT_BYTES <= artifact.size_bytes <= MAX_PIECE_BYTES:
        return False
    head = artifact.read(0, _LEAST_DOCUMENT_BYTES)
    return _LEAST_DOCUMENT_BYTES <= int.from_bytes(head[:4], "little") <= _MAX_DOCUMENT_BYTES and head[4] in (
        0,
        _STRING,
        _DOCUMENT,
        _ARRAY,
        _BINARY,
        0x0D,
        *_LENGTHS,
    )


def _bson_documents(content: bytes) -> Iterator[Mapping[str, object]]:
    at = 0
    while at < len(content):
        document, at = _bson_document(content, at, 0)
        yield document


def _bson_document(content: bytes, at: int, depth: int) -> tuple[dict[str, object], int]:
    """The document that begins at `at`, and where it ends. Values that no key vault needs are None."""
    if depth == _MAX_DEPTH:
        raise DamagedArtifact(FORMAT, f"its BSON is more than {_MAX_DEPTH} deep")
    end = at + _length(content, at, _LEAST_DOCUMENT_BYTES, len(content) - at)
    if content[end - 1]:
        raise DamagedArtifact(FORMAT, "a document of its BSON does not end where it says")
    found: dict[str, object] = {}
    at += 4
    while at < end - 1:
        kind, (name, at) = content[at], _bson_name(content, at + 1, end - 1)
        if name in found:
            raise DamagedArtifact(FORMAT, "a document of its BSON has a name twice")
        found[name], at = _bson_value(content, kind, at, end - 1, depth)
    return found, end


def _bson_name(content: bytes, at: int, end: int) -> tuple[str, int]:
    stop = content.find(0, at, end)
    if stop < 0:
        raise DamagedArtifact(FORMAT, "its BSON ends within a name")
    return content[at:stop].decode(errors="replace"), stop + 1


def _bson_value(content: bytes, kind: int, at: int, end: int, depth: int) -> tuple[object, int]:
    if kind in _LENGTHS:
        if _LENGTHS[kind] > end - at:
            raise DamagedArtifact(FORMAT, "its BSON ends within a value")
        return None, at + _LENGTHS[kind]
    if kind in (_DOCUMENT, _ARRAY):
        length = _length(content, at, _LEAST_DOCUMENT_BYTES, end - at)
        document, _ = _bson_document(content, at, depth + 1)
        return document, at + length
    if kind in (_STRING, 0x0D, 0x0E):
        length = _length(content, at, 1, end - at - 4)
        if content[at + 3 + length]:
            raise DamagedArtifact(FORMAT, "a string of its BSON does not end where it says")
        return content[at + 4 : at + 3 + length].decode(errors="replace"), at + 4 + length
    if kind == _BINARY:
        length = _length(content, at, 0, end - at - 5)
        value = content[at + 5 : at + 5 + length]
        return value[4:] if content[at + 4] == _OLD_BINARY else value, at + 5 + length
    if kind == 0x0B:
        _, at = _bson_name(content, at, end)
        _, at = _bson_name(content, at, end)
        return None, at
    raise DamagedArtifact(FORMAT, f"its BSON has a value of the type {kind}, which no key vault has")


def _length(content: bytes, at: int, least: int, most: int) -> int:
    """The length that stands at `at`, which must lie from `least` to `most`."""
    length = int.from_bytes(content[at : at + 4], "little")
    if not least <= length <= most:
        raise DamagedArtifact(FORMAT, f"its BSON has a length of {length}, and {max(most, 0)} bytes are there")
    return length
