"""Parquet files with modular encryption: the wrapped keys in their key metadata. Pure.

The file ends with a footer, its length (u32, little-endian) and a magic:

    PARE    the footer is encrypted; before it stands, in the clear, FileCryptoMetaData {1 algorithm, 2 key_metadata}
    PAR1    the footer is in the clear: FileMetaData {4 row groups {1 columns {8 crypto_metadata {2 {1 path, 2 key_metadata}}}},
            9 footer_signing_key_metadata}

What a key metadata holds is the application's affair. That of Parquet's own key tools, which pyarrow, Spark and parquet-java
use, is JSON of the type PKMT1: there ``wrappedDEK`` is what the KMS client gave; or, wrapped twice, ``wrappedKEK`` is, and the
KEK wraps the DEK without KMS. What a client for AWS KMS gives is its author's choice: read here is the usual one, the
CiphertextBlob in base64.

Source: parquet-format, Encryption.md and parquet.thrift; the Thrift compact protocol; parquet-java's KeyMaterial.

Limit: a plaintext footer without PKMT1 in it is taken for one without encryption, so that a crawl need not take apart each
Parquet file's footer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from audit.query.artifacts.artifact import MAX_KEYS, MAX_PIECE_BYTES, Artifact, DamagedArtifact, WrappedKey
from audit.query.artifacts.bare import from_base64
from audit.query.artifacts.documents import BrokenJson, parse_json, without_bom

FORMAT = "Parquet modular encryption"

_PLAINTEXT_FOOTER = b"PAR1"
_ENCRYPTED_FOOTER = b"PARE"
_TAIL_BYTES = 8
_MATERIAL_TYPE = "PKMT1"
_MAX_CRYPTO_METADATA_BYTES = 1 << 20
_MAX_DEPTH = 32
_MAX_VALUES = 4_000_000
#: Of what is sought; an honest footer of `MAX_PIECE_BYTES` has fewer.
_MAX_FOUND = 500_000
_MORE_COLUMNS = "its columns may have keys of their own: these are told in the encrypted footer, which cannot be read"
_WRAPPED_TWICE = "wrapped twice: this is the KEK, which KMS wrapped; it wraps the data key, and may wrap others"
_NOT_BASE64 = "no KMS blob was found: the wrapped key is not base64, but in a form of the KMS client's own"
_ELSEWHERE = "the wrapped key is not in this file, but beside it in _KEY_MATERIAL_FOR_<its name>.json: trace that file"
_OWN_FORMAT = "no KMS blob was found: the key metadata is of the application's own format"


def read_parquet(artifact: Artifact) -> list[WrappedKey] | None:
    """The footer's key and the columns' keys. None for a Parquet file that is not encrypted.

    One whose key material is not in the file, or not of a known form, has neither fingerprint nor blob: its note tells.
    """
    if artifact.size_bytes < len(_PLAINTEXT_FOOTER) + _TAIL_BYTES:
        return None
    magic = artifact.read(0, len(_PLAINTEXT_FOOTER))
    if magic not in (_PLAINTEXT_FOOTER, _ENCRYPTED_FOOTER):
        return None
    footer = _footer(artifact, magic)
    if magic == _ENCRYPTED_FOOTER:
        return _keys(_in_encrypted_footer(footer), _MORE_COLUMNS)
    if _MATERIAL_TYPE.encode() not in footer:
        return None
    return _keys(_in_plaintext_footer(footer)) or None


def read_parquet_key_material(artifact: Artifact) -> list[WrappedKey] | None:
    """The keys of a ``_KEY_MATERIAL_FOR_….json``, in which the key tools keep them where they are not in the Parquet file."""
    begin = artifact.read(0, min(artifact.size_bytes, _TAIL_BYTES))
    if artifact.size_bytes > MAX_PIECE_BYTES or not without_bom(begin).startswith(b"{"):
        return None
    content = artifact.read(0, artifact.size_bytes)
    materials = _json_object(content) if _MATERIAL_TYPE.encode() in content else None
    if not materials or not all(isinstance(value, str) and _MATERIAL_TYPE in value for value in materials.values()):
        return None
    return _keys((f"key material {name}", str(value).encode()) for name, value in materials.items())


def _footer(artifact: Artifact, magic: bytes) -> bytes:
    tail = artifact.read(artifact.size_bytes - _TAIL_BYTES, _TAIL_BYTES)
    if tail[4:] != magic:
        raise DamagedArtifact(FORMAT, "it begins as a Parquet file, and does not end as one")
    length = int.from_bytes(tail[:4], "little")
    there = artifact.size_bytes - _TAIL_BYTES - len(magic)
    if length > there:
        raise DamagedArtifact(FORMAT, f"its footer is {length} bytes long, and {there} are there")
    if magic == _PLAINTEXT_FOOTER and length > MAX_PIECE_BYTES:
        raise DamagedArtifact(FORMAT, f"its footer is {length} bytes long: more than the {MAX_PIECE_BYTES} that are read")
    most = MAX_PIECE_BYTES if magic == _PLAINTEXT_FOOTER else _MAX_CRYPTO_METADATA_BYTES
    return artifact.read(artifact.size_bytes - _TAIL_BYTES - length, min(length, most))


_KeyMetadata: TypeAlias = tuple[str, bytes]


def _in_encrypted_footer(footer: bytes) -> Iterator[_KeyMetadata]:
    found = _Compact(footer, {_CRYPTO_KEY_METADATA}).read()
    yield "footer", next((value for _, value in found), b"")


def _in_plaintext_footer(footer: bytes) -> Iterator[_KeyMetadata]:
    column: list[str] = []
    for path, value in _Compact(footer, {_FOOTER_KEY_METADATA, _COLUMN, _COLUMN_NAME, _COLUMN_KEY_METADATA}).read():
        if path == _FOOTER_KEY_METADATA:
            yield "footer", value
        elif path == _COLUMN:
            column = []
        elif path == _COLUMN_NAME:
            column.append(value.decode(errors="replace"))
        else:
            yield f"column {'.'.join(column)}", value


def _keys(found: Iterable[_KeyMetadata], note: str | None = None) -> list[WrappedKey]:
    """Each key once: those of columns are repeated in each row group."""
    keys: dict[_KeyMetadata, WrappedKey] = {}
    for where, metadata in found:
        if (where, metadata) not in keys:
            if len(keys) == MAX_KEYS:
                raise DamagedArtifact(FORMAT, f"it has more than {MAX_KEYS} keys")
            keys[where, metadata] = _key(where, metadata, note)
    return list(keys.values())


def _key(where: str, metadata: bytes, note: str | None) -> WrappedKey:
    material = _json_object(metadata)
    if material is None or material.get("keyMaterialType") != _MATERIAL_TYPE:
        return WrappedKey("", FORMAT, where, note=_joined(_OWN_FORMAT, note))
    if material.get("internalStorage") is False and "wrappedDEK" not in material:
        return WrappedKey("", FORMAT, where, note=_joined(_ELSEWHERE, note))
    master_key = material.get("masterKeyID")
    key = master_key if isinstance(master_key, str) else None
    is_twice = material.get("doubleWrapping") is True
    wrapped = material.get("wrappedKEK" if is_twice else "wrappedDEK")
    if not isinstance(wrapped, str):
        raise DamagedArtifact(FORMAT, f"the key material of the {where} has no wrapped key")
    blob = from_base64(wrapped.encode())
    if not blob:
        return WrappedKey("", FORMAT, where, key, note=_joined(_NOT_BASE64, note))
    return WrappedKey.of(blob, FORMAT, where, key=key, note=_joined(_WRAPPED_TWICE if is_twice else None, note))


def _joined(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note) or None


def _json_object(text: bytes) -> Mapping[str, object] | None:
    try:
        value = parse_json(text)
    except BrokenJson:
        return None
    return value if isinstance(value, dict) else None


_Path: TypeAlias = tuple[int, ...]

#: Paths of field ids, from the struct on which the footer begins.
_CRYPTO_KEY_METADATA: _Path = (2,)
_FOOTER_KEY_METADATA: _Path = (9,)
_COLUMN: _Path = (4, 1, 8, 2)
_COLUMN_NAME: _Path = (*_COLUMN, 1)
_COLUMN_KEY_METADATA: _Path = (*_COLUMN, 2)

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = range(1, 14)
_SIZES = {_TRUE: 1, _FALSE: 1, _BYTE: 1, _DOUBLE: 8, _UUID: 16}


@dataclass(slots=True)
class _Compact:
    """Reads a struct of the Thrift compact protocol for what lies at the paths `wanted`, and passes over all else.

    What is found is told in the order of its places: a binary's bytes, and nothing for a struct, which is told as it begins.
    """

    content: bytes
    wanted: Set[_Path]
    found: list[tuple[_Path, bytes]] = field(default_factory=list)
    at: int = 0
    values: int = 0

    def read(self) -> list[tuple[_Path, bytes]]:
        self._struct((), 0)
        return self.found

    def _take(self, size_bytes: int) -> int:
        """Where what is taken begins."""
        at = self.at
        if size_bytes > len(self.content) - at:
            raise DamagedArtifact(FORMAT, f"its footer ends within a value of {size_bytes} bytes")
        self.at = at + size_bytes
        return at

    def _byte(self) -> int:
        return self.content[self._take(1)]

    def _varint(self) -> int:
        value = 0
        for place in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << place
            if byte < 0x80:
                return value
        raise DamagedArtifact(FORMAT, "its footer has a number of more than 64 bits")

    def _struct(self, path: _Path, depth: int) -> None:
        number = 0
        while (header := self._byte()) & 0x0F:
            if header >> 4:
                number += header >> 4
            else:
                zigzag = self._varint()
                number = (zigzag >> 1) ^ -(zigzag & 1)
            kind = header & 0x0F
            if kind in (_TRUE, _FALSE):  # In a struct the type is the value.
                self._count(depth)
            else:
                self._value(kind, (*path, number), depth + 1)

    def _count(self, depth: int) -> None:
        self.values += 1
        if depth > _MAX_DEPTH or self.values > _MAX_VALUES:
            raise DamagedArtifact(FORMAT, f"its footer is deeper than {_MAX_DEPTH} levels, or has over {_MAX_VALUES} values")

    def _value(self, kind: int, path: _Path, depth: int) -> None:
        self._count(depth)
        if kind in _SIZES:
            self._take(_SIZES[kind])
        elif kind in (_I16, _I32, _I64):
            self._varint()
        elif kind == _BINARY:
            begin = self._take(self._varint())
            self._find(path, begin)
        elif kind == _STRUCT:
            self._find(path, self.at)
            self._struct(path, depth)
        else:
            self._collection(kind, path, depth)

    def _find(self, path: _Path, begin: int) -> None:
        if path not in self.wanted:
            return
        if len(self.found) == _MAX_FOUND:
            raise DamagedArtifact(FORMAT, f"its footer tells of keys at more than {_MAX_FOUND} places")
        self.found.append((path, self.content[begin : self.at]))

    def _collection(self, kind: int, path: _Path, depth: int) -> None:
        if kind == _MAP:
            size = self._varint()
            kinds = self._byte() if size else 0
            element_kinds: tuple[int, ...] = (kinds >> 4, kinds & 0x0F)
        elif kind in (_LIST, _SET):
            header = self._byte()
            size = header >> 4 if header >> 4 < 15 else self._varint()
            element_kinds = (header & 0x0F,)
        else:
            raise DamagedArtifact(FORMAT, f"its footer has a value of the unknown type {kind}")
        if size > len(self.content) - self.at:  # No element takes less than a byte.
            raise DamagedArtifact(FORMAT, f"its footer has a list of {size} elements, and {len(self.content) - self.at} bytes")
        for _ in range(size):
            for element_kind in element_kinds:
                self._value(element_kind, path, depth + 1)
