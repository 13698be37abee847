"""Items of DynamoDB with a wrapped key, in DynamoDB's JSON: as its API, the AWS CLI, exports to S3 and streams give them. Pure.

    one item, {"Item": …}, {"Items": […]}, a list of items, records of a stream ({"Records": [{"dynamodb": {"NewImage": …,
    "OldImage": …}}]}), or JSON lines of any of these, under gzip or not; each attribute is {type: value}

    DynamoDB Encryption Client   "*amzn-ddb-map-desc*" {"B"}: u32 version 0 ‖ (u32 length ‖ name ‖ u32 length ‖ value)…, of which
                                 amzn-ddb-env-key is the blob in base64, amzn-ddb-wrap-alg ``kms`` where KMS wrapped it
    hierarchical keyring         "enc" {"B"} is the blob; "type" {"S"} branch:ACTIVE, branch:version:…, beacon:ACTIVE; "kms-arn";
                                 the context is all other attributes, and tablename
    credstash                    "key" {"S"} is the blob in base64, beside "contents" and "hmac"; the context is not stored

Source: dynamodb-encryption-sdk 3.3, internal/formatting/material_description.py, material_providers/aws_kms.py;
aws-cryptographic-material-providers 1.11, Structure.py (ToBranchKeyContext); credstash 1.17.

An item that is damaged is told with its place, and the others are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from audit.query.artifacts.artifact import Artifact, DamagedArtifact, Gathered, WrappedKey
from audit.query.artifacts.bare import from_base64
from audit.query.artifacts.documents import Broken, Document, json_documents

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

#: What stands around items, with the type of what is in it. A stream's record has up to two images of its item.
_IMAGES = ("NewImage", "OldImage")
_WRAPPERS: Mapping[str, type] = {"Items": list, "Item": dict, "Records": list, "dynamodb": dict} | dict.fromkeys(_IMAGES, dict)
_MAX_WRAPPERS = 4
_TYPES = frozenset(("S", "N", "B", "SS", "NS", "BS", "M", "L", "NULL", "BOOL"))

Item: TypeAlias = "Mapping[str, object]"


def read_dynamodb(artifact: Artifact) -> list[WrappedKey] | None:
    """The keys of the items; none for one of the DynamoDB Encryption Client whose key another than KMS wrapped.

    A key without fingerprint and blob tells that there are more than `MAX_KEYS`.
    """
    found = Gathered()
    for document in json_documents(artifact, _is_marked):
        if isinstance(document, Broken):
            _add_broken(found, document)
            continue
        for place, image, item in _items(document):
            try:
                keys = _keys_of(item, place, image)
            except DamagedArtifact as damaged:
                found.add_fault(damaged.format, f"{place}: {damaged.reason}")
                continue
            if keys is not None:
                found.add(keys)
            if found.is_full:
                found.end(found.keys[-1].format, f"after {place}")
                return found.told()
    return found.told()


def _is_marked(content: bytes) -> bool:
    return any(mark in content for mark in _MARKS)


def _add_broken(found: Gathered, broken: Broken) -> None:
    formats = [format for mark, format in _MARKS.items() if mark in broken.text and (found.is_known or format != CREDSTASH)]
    if formats or found.is_known:
        format = formats[0] if formats else found.keys[0].format if found.keys else ENCRYPTION_CLIENT
        found.add_fault(format, str(broken))


def _items(document: Document) -> Iterator[tuple[str, str, Item]]:
    """The items in a document: where each is, which image it is of, and it."""
    for number, (image, item) in enumerate(_unwrapped(document.value, "", 0), 1):
        yield f"{document.where}, item {number}" if document.where else f"item {number}", image, item


def _unwrapped(value: object, image: str, depth: int) -> Iterator[tuple[str, Item]]:
    """The items in `value`, each with the image that it is of."""
    if isinstance(value, list):
        for one in value:
            if isinstance(one, dict):
                yield from _unwrapped(one, image, depth)
        return
    if not isinstance(value, dict):
        return
    wrapped = [(name, value[name]) for name, kind in _WRAPPERS.items() if isinstance(value.get(name), kind)]
    if not wrapped or depth == _MAX_WRAPPERS or _is_item(value):
        yield image, value
        return
    for name, inner in wrapped:
        yield from _unwrapped(inner, f", {name}" if name in _IMAGES else image, depth + 1)


def _is_item(value: Item) -> bool:
    """Whether each of its attributes is {type: value}: then a name is an attribute's, also where it is that of a wrapper."""
    return all(isinstance(one, dict) and len(one) == 1 and not _TYPES.isdisjoint(one) for one in value.values())


def _keys_of(item: Item, place: str, image: str) -> list[WrappedKey] | None:
    """None where the item is of no format that is known."""
    if _typed(item, _DESCRIPTION, "B") is not None:
        return _encryption_client(item, place + image)
    kind = _typed(item, "type", "S")
    if kind is not None and kind.startswith(_BRANCH_TYPES) and all(name in item for name in _BRANCH_ATTRIBUTES):
        return [_branch_key(item, kind, image)]
    if all(name in item for name in _CREDSTASH_ATTRIBUTES) and _typed(item, "key", "S") is not None:
        return [_credstash(item, place, image)]
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


def _branch_key(item: Item, kind: str, image: str) -> WrappedKey:
    where = f"branch-key-id {_typed(item, 'branch-key-id', 'S')}, {kind}{image}"
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


def _credstash(item: Item, place: str, image: str) -> WrappedKey:
    name, version = _typed(item, "name", "S"), _typed(item, "version", "S")
    where = (place if name is None else f"credential {name} version {version}") + image
    return WrappedKey.of(_blob(_typed(item, "key", "S"), CREDSTASH, where), CREDSTASH, where)


def _blob(text: str | None, format: str, where: str) -> bytes:
    blob = from_base64(text.encode(errors="replace")) if text is not None and len(text) % 4 == 0 else None
    if blob is None:
        raise DamagedArtifact(format, f"{where} has a binary value that is not base64")
    return blob
