"""Items of DynamoDB with a wrapped key, in DynamoDB's JSON: as its API, the AWS CLI and its exports to S3 give them. Pure.

    one item, {"Item": …}, {"Items": […]}, a list of items, or JSON lines of any of these; each attribute is {type: value}

    DynamoDB Encryption Client   "*amzn-ddb-map-desc*" {"B"}: u32 version 0 ‖ (u32 length ‖ name ‖ u32 length ‖ value)…, of which
                                 amzn-ddb-env-key is the blob in base64, amzn-ddb-wrap-alg ``kms`` where KMS wrapped it
    hierarchical keyring         "enc" {"B"} is the blob; "type" {"S"} branch:ACTIVE, branch:version:…, beacon:ACTIVE; "kms-arn";
                                 the context is all other attributes, and tablename
    credstash                    "key" {"S"} is the blob in base64, beside "contents" and "hmac"; the context is not stored

Source: dynamodb-encryption-sdk 3.3, internal/formatting/material_description.py, material_providers/aws_kms.py;
aws-cryptographic-material-providers 1.11, Structure.py (ToBranchKeyContext); credstash 1.17.

Limit: in a file of more than `MAX_PIECE_BYTES` only JSON lines are read, so many as give `MAX_KEYS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import orjson

from audit.query.artifacts.artifact import MAX_KEYS, MAX_PIECE_BYTES, Artifact, DamagedArtifact, WrappedKey
from audit.query.artifacts.bare import from_base64

ENCRYPTION_CLIENT = "DynamoDB Encryption Client"
BRANCH_KEY = "branch key of a hierarchical keyring"
CREDSTASH = "credstash"

_DESCRIPTION = "*amzn-ddb-map-desc*"
_ENCRYPTION_CONTEXT = {"amzn-ddb-env-alg": "*amzn-ddb-env-alg*", "amzn-ddb-sig-alg": "*amzn-ddb-sig-alg*"}
_BRANCH_ATTRIBUTES = ("branch-key-id", "type", "enc", "kms-arn")
_BRANCH_TYPES = ("branch:", "beacon:")
_CREDSTASH_ATTRIBUTES = ("key", "contents", "hmac")
#: One of these stands in each item that has a wrapped key.
_MARKS = {
    b'"*amzn-ddb-map-desc*"': ENCRYPTION_CLIENT,
    b'"branch-key-id"': BRANCH_KEY,
    b'"hmac"': CREDSTASH,
}

_MORE_CONTEXT = "the context has the item's primary key and its table's name as well"
_MORE_BRANCH_CONTEXT = "the context has tablename, the logical name of the key store, as well: it is not stored"
_NEWER_BRANCH = "of a version of the hierarchy whose context is not known here"
_MANY = "one branch key wraps the data keys of many messages; it is unwrapped once and kept"

_PIECE_BYTES = 1 << 20

Item: TypeAlias = "Mapping[str, object]"


class BrokenJson(Exception):
    """It begins as JSON, or as JSON lines, and goes on as something else. `text` is what is broken."""

    def __init__(self, text: bytes) -> None:
        super().__init__("broken JSON")
        self.text = text


def json_documents(artifact: Artifact) -> Iterator[object]:
    """The document that `artifact` is, or one for each line; nothing where it does not begin as JSON. Raises BrokenJson."""
    head = artifact.read(0, min(artifact.size_bytes, _PIECE_BYTES)).lstrip()
    if not head.startswith((b"{", b"[")):
        return
    if artifact.size_bytes <= MAX_PIECE_BYTES:
        content = artifact.read(0, artifact.size_bytes)
        try:
            whole = orjson.loads(content)
        except orjson.JSONDecodeError:
            pass
        else:
            yield whole
            return
    for number, line in enumerate(_lines(artifact)):
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            # A first line that is no document: then it is no JSON lines, but one document that is broken.
            broken = content if number == 0 and artifact.size_bytes <= MAX_PIECE_BYTES else line
            raise BrokenJson(broken) from None
        yield document


def _lines(artifact: Artifact) -> Iterator[bytes]:
    """Those that are not empty. One of more than `MAX_PIECE_BYTES` is broken."""
    parts: list[bytes] = []
    held_bytes = 0
    for offset in range(0, artifact.size_bytes, _PIECE_BYTES):
        piece = artifact.read(offset, min(_PIECE_BYTES, artifact.size_bytes - offset))
        *ended, rest = piece.split(b"\n")
        for end in ended:
            parts.append(end)
            if line := b"".join(parts).strip():
                yield line
            parts, held_bytes = [], 0
        parts.append(rest)
        held_bytes += len(rest)
        if held_bytes > MAX_PIECE_BYTES:
            raise BrokenJson(b"".join(parts))
    if line := b"".join(parts).strip():
        yield line


def read_dynamodb(artifact: Artifact) -> list[WrappedKey] | None:
    """The keys of the items; none for one of the DynamoDB Encryption Client whose key another than KMS wrapped.

    A key without fingerprint and blob tells that there are more than `MAX_KEYS`.
    """
    keys: list[WrappedKey] = []
    seen = False
    try:
        for number, item in enumerate(_items(artifact), 1):
            found = _keys_of(item, number)
            if found is None:
                continue
            seen = True
            keys += found
            if len(keys) >= MAX_KEYS:
                note = f"not read: {len(keys)} keys were found before it, enough for one artefact"
                return [*keys, WrappedKey("", keys[-1].format, f"after item {number}", note=note)]
    except BrokenJson as broken:
        format = next((name for mark, name in _MARKS.items() if mark in broken.text and (seen or name != CREDSTASH)), None)
        if format is None and not seen:
            return None
        raise DamagedArtifact(format or (keys[0].format if keys else ENCRYPTION_CLIENT), "it is JSON that is broken") from broken
    return keys if seen else None


def _items(artifact: Artifact) -> Iterator[Item]:
    for document in json_documents(artifact):
        if isinstance(document, dict):
            item, items = document.get("Item"), document.get("Items")
            several = items if isinstance(items, list) else [item if isinstance(item, dict) else document]
        else:
            several = document if isinstance(document, list) else []
        for one in several:
            if isinstance(one, dict):
                inner = one.get("Item")
                yield inner if isinstance(inner, dict) else one


def _keys_of(item: Item, number: int) -> list[WrappedKey] | None:
    """None where the item is of no format that is known."""
    if _typed(item, _DESCRIPTION, "B") is not None:
        return _encryption_client(item, f"item {number}")
    kind = _typed(item, "type", "S")
    if kind is not None and kind.startswith(_BRANCH_TYPES) and all(name in item for name in _BRANCH_ATTRIBUTES):
        return [_branch_key(item, kind)]
    if all(name in item for name in _CREDSTASH_ATTRIBUTES) and _typed(item, "key", "S") is not None:
        return [_credstash(item, number)]
    return None


def _typed(item: Item, name: str, kind: str) -> str | None:
    """The value of an attribute of the type `kind`; None where it is of another, or not there."""
    attribute = item.get(name)
    value = attribute.get(kind) if isinstance(attribute, dict) and len(attribute) == 1 else None
    return value if isinstance(value, str) else None


def _encryption_client(item: Item, where: str) -> list[WrappedKey]:
    description = _description(_blob(_typed(item, _DESCRIPTION, "B"), ENCRYPTION_CLIENT, where), where)
    wrapped = description.get("amzn-ddb-env-key")
    if wrapped is None or description.get("amzn-ddb-wrap-alg", "kms") != "kms":
        return []
    blob = _blob(wrapped, ENCRYPTION_CLIENT, where)
    context = {sent: description[name] for name, sent in _ENCRYPTION_CONTEXT.items() if name in description}
    return [WrappedKey.of(blob, ENCRYPTION_CLIENT, f"{where}, amzn-ddb-env-key", context=context or None, note=_MORE_CONTEXT)]


def _description(content: bytes, where: str) -> dict[str, str]:
    if content[:4] != bytes(4):
        raise DamagedArtifact(ENCRYPTION_CLIENT, f"the material description of {where} is of another version")
    parts: list[str] = []
    at = 4
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        part = content[at + 4 : at + 4 + length]
        if len(content) - at < 4 or len(part) < length:
            raise DamagedArtifact(ENCRYPTION_CLIENT, f"the material description of {where} ends within a field")
        parts.append(part.decode(errors="replace"))
        at += 4 + length
    if len(parts) % 2:
        raise DamagedArtifact(ENCRYPTION_CLIENT, f"the material description of {where} has a name without a value")
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _branch_key(item: Item, kind: str) -> WrappedKey:
    where = f"branch-key-id {_typed(item, 'branch-key-id', 'S')}, {kind}"
    blob = _blob(_typed(item, "enc", "B"), BRANCH_KEY, where)
    key = _typed(item, "kms-arn", "S")
    version = _typed(item, "hierarchy-version", "N")
    if key is None or version is None:
        raise DamagedArtifact(BRANCH_KEY, f"{where}: it has no kms-arn, or no hierarchy-version")
    if version != "1":
        return WrappedKey.of(blob, BRANCH_KEY, where, key=key, note=f"{_NEWER_BRANCH}; {_MANY}")
    context = {"hierarchy-version": version}
    for name in item.keys() - {"enc", "hierarchy-version"}:
        value = _typed(item, name, "S")
        if value is None:
            raise DamagedArtifact(BRANCH_KEY, f"{where}: {name} is no string")
        context[name] = value
    return WrappedKey.of(
        blob, BRANCH_KEY, where, key=key, context=dict(sorted(context.items())), note=f"{_MORE_BRANCH_CONTEXT}; {_MANY}"
    )


def _credstash(item: Item, number: int) -> WrappedKey:
    name, version = _typed(item, "name", "S"), _typed(item, "version", "S")
    where = f"item {number}" if name is None else f"credential {name} version {version}"
    return WrappedKey.of(_blob(_typed(item, "key", "S"), CREDSTASH, where), CREDSTASH, where)


def _blob(text: str | None, format: str, where: str) -> bytes:
    blob = from_base64(text.encode(errors="replace")) if text is not None and len(text) % 4 == 0 else None
    if blob is None:
        raise DamagedArtifact(format, f"{where} has a binary value that is not base64")
    return blob
