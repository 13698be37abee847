"""MongoDB's client-side field level encryption: the documents of a key vault. Pure.

A document of the key vault has ``masterKey`` {provider, region, key, endpoint?} and ``keyMaterial``, a binary: of the provider
``aws`` the CiphertextBlob, for which KMS gets no context. Read are

    Extended JSON, canonical, relaxed or of the first version (as mongoexport and mongosh give it): one document, a list, lines
    BSON: documents one behind the other (as mongodump gives them)

each under gzip or not. A document that is damaged is told with its place, and the others are read.

Source: MongoDB's specification "Client Side Encryption", DataKeys; "MongoDB Extended JSON v2"; bsonspec.org 1.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID

from audit.query.artifacts.artifact import Artifact, DamagedArtifact, Gathered, WrappedKey
from audit.query.artifacts.bare import from_base64
from audit.query.artifacts.documents import LEAST_BSON_BYTES, Broken, Encoded, bson_documents, json_documents

FORMAT = "MongoDB CSFLE key vault"

_NOTE = "the client unwraps it once for many fields, and keeps it"
_AWS = "aws"
#: Both stand in each document of a key vault; in BSON so: a document, a binary.
_JSON_NAMES = (b'"masterKey"', b'"keyMaterial"')
_BSON_NAMES = (b"\x03masterKey\0", b"\x05keyMaterial\0")
#: Of a document; a key vault's has about ten.
_MAX_ELEMENTS = 1_000


def read_csfle(artifact: Artifact) -> list[WrappedKey] | None:
    """The keys that AWS KMS wrapped; none for a key vault whose keys others wrapped.

    A key without fingerprint and blob tells that there are more than `MAX_KEYS`.
    """
    found = Gathered()
    for place, document in _documents(artifact):
        if isinstance(document, Broken):
            if found.is_known or document.is_marked:
                found.add_fault(FORMAT, str(document))
            continue
        try:
            keys = _keys_of(_bson_document(document) if isinstance(document, bytes) else document, place)
        except DamagedArtifact as damaged:
            found.add_fault(FORMAT, f"{place}: {damaged.reason}")
            continue
        if keys is not None:
            found.add(keys)
        if found.is_full:
            found.end(FORMAT, f"behind {place}")
            break
    return found.told()


def _documents(artifact: Artifact) -> Iterator[tuple[str, Mapping[object, object] | bytes | Broken]]:
    """By their places, each of BSON as it is."""
    for encoded in bson_documents(artifact, lambda content: all(name in content for name in _BSON_NAMES)):
        yield encoded.where, encoded.content if isinstance(encoded, Encoded) else encoded
    for found in json_documents(artifact, lambda content: all(name in content for name in _JSON_NAMES)):
        if isinstance(found, Broken):
            yield found.where, found
            continue
        for number, one in enumerate(found.value if isinstance(found.value, list) else [found.value], 1):
            if isinstance(one, dict):
                yield f"{found.where}, document {number}" if found.where else f"document {number}", one


def _keys_of(document: Mapping[object, object], place: str) -> list[WrappedKey] | None:
    """None where it is no document of a key vault."""
    master, material = document.get("masterKey"), document.get("keyMaterial")
    if not isinstance(master, Mapping) or not isinstance(provider := master.get("provider"), str) or material is None:
        return None
    if provider.partition(":")[0] != _AWS:
        return []
    return [_key(document.get("_id"), master, material, place)]


def _key(document_id: object, master: Mapping[object, object], material: object, place: str) -> WrappedKey:
    blob, name = _binary(material), _binary(document_id)
    where = f"keyMaterial of {UUID(bytes=name)}" if name is not None and len(name) == 16 else f"keyMaterial of {place}"
    if blob is None:
        raise DamagedArtifact(FORMAT, f"{where}: it is no binary")
    key = master.get("key")
    return WrappedKey.of(blob, FORMAT, where, key=key if isinstance(key, str) else None, note=_NOTE)


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

_STRING, _DOCUMENT, _ARRAY, _BINARY, _NULL, _REGEX, _CODE, _SYMBOL = 0x02, 0x03, 0x04, 0x05, 0x0A, 0x0B, 0x0D, 0x0E
_LENGTHS = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
_OLD_BINARY = 2
_WANTED = ("_id", "masterKey", "keyMaterial")
_WANTED_OF_MASTER = ("provider", "key")


def _bson_document(content: bytes) -> dict[object, object]:
    """What is wanted of a document; of all else only the lengths are looked at."""
    found: dict[object, object] = {}
    for name, kind, at, end in _elements(content, 0, len(content)):
        if name in found:
            raise DamagedArtifact(FORMAT, f"its BSON has {name} twice")
        if name == "masterKey" and kind == _DOCUMENT:
            found[name] = {
                inner: _value(content, inner_kind, begin, stop)
                for inner, inner_kind, begin, stop in _elements(content, at, end)
                if inner in _WANTED_OF_MASTER
            }
        elif name in _WANTED:
            found[name] = _value(content, kind, at, end)
    return found


def _elements(content: bytes, at: int, end: int) -> Iterator[tuple[str, int, int, int]]:
    """The elements of the document that lies from `at` to `end`: name, type, and from where to where the value lies."""
    if _length(content, at, LEAST_BSON_BYTES, end - at) != end - at or content[end - 1]:
        raise DamagedArtifact(FORMAT, "a document of its BSON does not end where it says")
    at += 4
    for _ in range(_MAX_ELEMENTS):
        if at >= end - 1:
            return
        kind, stop = content[at], content.find(0, at + 1, end - 1)
        if stop < 0:
            raise DamagedArtifact(FORMAT, "its BSON ends within a name")
        value_end = stop + 1 + _size(content, kind, stop + 1, end - 1)
        yield content[at + 1 : stop].decode(errors="replace"), kind, stop + 1, value_end
        at = value_end
    raise DamagedArtifact(FORMAT, f"a document of its BSON has more than {_MAX_ELEMENTS} elements, as no key vault's has")


def _size(content: bytes, kind: int, at: int, end: int) -> int:
    """How many bytes the value at `at` takes."""
    if kind in _LENGTHS:
        if _LENGTHS[kind] > end - at:
            raise DamagedArtifact(FORMAT, "its BSON ends within a value")
        return _LENGTHS[kind]
    if kind in (_DOCUMENT, _ARRAY):
        return _length(content, at, LEAST_BSON_BYTES, end - at)
    if kind in (_STRING, _CODE, _SYMBOL):
        return 4 + _length(content, at, 1, end - at - 4)
    if kind == _BINARY:
        return 5 + _length(content, at, 0, end - at - 5)
    if kind == _REGEX:
        pattern_end = content.find(0, at, end)
        options_end = content.find(0, pattern_end + 1, end) if pattern_end >= 0 else -1
        if options_end < 0:
            raise DamagedArtifact(FORMAT, "its BSON ends within a value")
        return options_end + 1 - at
    raise DamagedArtifact(FORMAT, f"its BSON has a value of the type {kind}, which no key vault has")


def _value(content: bytes, kind: int, at: int, end: int) -> object:
    """A string or a binary; None for null, and something that is neither for all other types: nothing wanted is of them."""
    if kind == _STRING:
        if content[end - 1]:
            raise DamagedArtifact(FORMAT, "a string of its BSON does not end where it says")
        return content[at + 4 : end - 1].decode(errors="replace")
    if kind == _BINARY:
        return content[at + 9 : end] if content[at + 4] == _OLD_BINARY else content[at + 5 : end]
    return None if kind == _NULL else ()


def _length(content: bytes, at: int, least: int, most: int) -> int:
    """The length that stands at `at`, which must lie from `least` to `most`."""
    length = int.from_bytes(content[at : at + 4], "little")
    if not least <= length <= most:
        raise DamagedArtifact(FORMAT, f"its BSON has a length of {length}, and {max(most, 0)} bytes are there")
    return length
