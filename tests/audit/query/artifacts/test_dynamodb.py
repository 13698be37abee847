from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping

import pytest
from dynamodb_encryption_sdk.internal.formatting.material_description import (  # type: ignore[import-untyped] # It has none.
    serialize,
)
from hypothesis import given
from hypothesis import strategies as st

from audit.query.artifacts import artifact
from audit.query.artifacts.artifact import MAX_PIECE_BYTES, DamagedArtifact, WrappedKey
from audit.query.artifacts.dynamodb import BRANCH_KEY, CREDSTASH, ENCRYPTION_CLIENT, read_dynamodb
from tests.audit.query.artifacts.blobs import KEY_ARN, local_blob
from tests.audit.query.artifacts.memory import MemoryArtifact

BLOB = local_blob(1)
WRAPPED = base64.b64encode(BLOB).decode()
# As dynamodb-encryption-sdk 3.3 describes its material, with another blob.
MATERIAL = {
    "amzn-ddb-env-alg": "AES/256",
    "amzn-ddb-env-key": WRAPPED,
    "amzn-ddb-map-signingAlg": "HmacSHA256",
    "amzn-ddb-map-sym-mode": "/CBC/PKCS5Padding",
    "amzn-ddb-sig-alg": "HmacSHA256/256",
    "amzn-ddb-wrap-alg": "kms",
    "aws-kms-ec-attr": "*keys*",
}


def described(description: bytes) -> dict[str, object]:
    return {
        "id": {"S": "1"},
        "*amzn-ddb-map-sig*": {"B": "c2ln"},
        "*amzn-ddb-map-desc*": {"B": base64.b64encode(description).decode()},
    }


def material(changed: Mapping[str, str] | None = None) -> bytes:
    """Written by the real SDK."""
    description = serialize({**MATERIAL, **(changed or {})})["B"]
    assert isinstance(description, bytes)
    return description


CLIENT_ITEM = described(material())
BRANCH_ITEM: dict[str, object] = {
    "branch-key-id": {"S": "tenant-1"},
    "type": {"S": "branch:ACTIVE"},
    "version": {"S": "branch:version:6f8b"},
    "create-time": {"S": "2026-01-01T00:00:00.000000Z"},
    "hierarchy-version": {"N": "1"},
    "kms-arn": {"S": KEY_ARN},
    "aws-crypto-ec:team": {"S": "t"},
    "enc": {"B": WRAPPED},
}
CREDENTIAL: dict[str, object] = {
    "name": {"S": "db"},
    "version": {"S": "0000000000000000001"},
    "key": {"S": WRAPPED},
    "contents": {"S": "k71el23N"},
    "hmac": {"B": "ODZhYQ=="},
    "digest": {"S": "SHA256"},
}
ITEMS = [CLIENT_ITEM, BRANCH_ITEM, CREDENTIAL]


def read(content: object) -> list[WrappedKey] | None:
    return read_dynamodb(MemoryArtifact(content if isinstance(content, bytes) else json.dumps(content).encode()))


def test_an_item_of_the_encryption_client_gives_its_blob_and_what_it_keeps_of_the_context() -> None:
    [key] = read(CLIENT_ITEM) or []
    assert (key.blob, key.format, key.where) == (BLOB, ENCRYPTION_CLIENT, "item 1, amzn-ddb-env-key")
    assert key.context == {"*amzn-ddb-env-alg*": "AES/256", "*amzn-ddb-sig-alg*": "HmacSHA256/256"}
    assert "primary key" in (key.note or "")


def test_a_branch_key_gives_its_blob_its_key_and_all_of_the_context_but_the_tables_name() -> None:
    [key] = read(BRANCH_ITEM) or []
    assert (key.blob, key.format, key.key) == (BLOB, BRANCH_KEY, KEY_ARN)
    assert key.where == "branch-key-id tenant-1, branch:ACTIVE"
    assert key.context == {
        name: next(iter(value.values())) for name, value in BRANCH_ITEM.items() if isinstance(value, dict) and name != "enc"
    }
    assert "tablename" in (key.note or "")


def test_a_branch_key_of_a_newer_hierarchy_has_no_context_that_is_known() -> None:
    [key] = read(BRANCH_ITEM | {"hierarchy-version": {"N": "2"}}) or []
    assert (key.blob, key.context) == (BLOB, None)


def test_a_credential_of_credstash_gives_its_blob() -> None:
    assert read(CREDENTIAL) == [WrappedKey.of(BLOB, CREDSTASH, "credential db version 0000000000000000001")]


@pytest.mark.parametrize(
    "content",
    [
        {"Items": ITEMS, "Count": 3},
        ITEMS,
        [{"Item": item} for item in ITEMS],
        b"\n".join(json.dumps(item).encode() for item in ITEMS),
        b"".join(json.dumps({"Item": item}).encode() + b"\r\n" for item in ITEMS),
    ],
)
def test_several_items_are_read_in_each_of_the_ways_to_write_them(content: object) -> None:
    assert [(key.format, key.blob) for key in read(content) or []] == [
        (format, BLOB) for format in (ENCRYPTION_CLIENT, BRANCH_KEY, CREDSTASH)
    ]
    assert read({"Item": CREDENTIAL}) == read(CREDENTIAL)


EXPORT = b"".join(json.dumps({"Item": item}).encode() + b"\n" for item in ITEMS)


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda content: gzip.compress(content[:300]) + gzip.compress(content[300:])]
)
def test_an_export_to_s3_is_read_under_gzip_and_with_a_byte_order_mark(pack: Callable[[bytes], bytes]) -> None:
    assert [(key.format, key.blob) for key in read(pack(EXPORT)) or []] == [
        (format, BLOB) for format in (ENCRYPTION_CLIENT, BRANCH_KEY, CREDSTASH)
    ]
    assert read(pack(b"\xef\xbb\xbf" + EXPORT)) == read(EXPORT)
    assert read(b"\xef\xbb\xbf" + json.dumps(CREDENTIAL).encode()) == read(CREDENTIAL)
    assert next(key.where for key in read(EXPORT) or []) == "line 1, item 1, amzn-ddb-env-key"


OLD, NEW = CREDENTIAL | {"key": {"S": base64.b64encode(local_blob(2)).decode()}}, CREDENTIAL
CHANGE = {"Keys": {"name": {"S": "db"}}, "NewImage": NEW, "OldImage": OLD}


@pytest.mark.parametrize(
    "content",
    [
        {"Records": [{"eventID": "1", "eventName": "MODIFY", "dynamodb": CHANGE | {"SequenceNumber": "1"}}]},
        {"eventName": "MODIFY", "dynamodb": CHANGE},
        {"Metadata": {"WriteTimestampMicros": {"N": "1"}}, **CHANGE},
        [{"Records": [{"dynamodb": CHANGE}]}],
    ],
)
def test_both_images_of_a_streams_record_are_read(content: object) -> None:
    assert [(key.blob, key.where) for key in read(content) or []] == [
        (BLOB, "credential db version 0000000000000000001, NewImage"),
        (local_blob(2), "credential db version 0000000000000000001, OldImage"),
    ]


def test_an_attribute_may_be_named_as_a_wrapper_is() -> None:
    for name in ("Item", "dynamodb", "NewImage"):
        assert [key.blob for key in read(CREDENTIAL | {name: {"S": "x"}}) or []] == [BLOB]


@pytest.mark.parametrize(
    ("item", "place"),
    [
        (described(material()[:-1]), "item 2"),
        (BRANCH_ITEM | {"kms-arn": {"N": "1"}}, "item 2: branch-key-id tenant-1"),
        (CREDENTIAL | {"key": {"S": "*"}}, "item 2: credential db"),
    ],
)
def test_one_item_that_is_damaged_does_not_hide_the_others(item: object, place: str) -> None:
    with pytest.raises(DamagedArtifact, match=place) as raised:
        read({"Items": [CREDENTIAL, item, BRANCH_ITEM, CLIENT_ITEM]})
    assert [key.format for key in raised.value.keys] == [CREDSTASH, BRANCH_KEY, ENCRYPTION_CLIENT]


def test_of_many_that_are_damaged_some_are_named_and_the_others_counted() -> None:
    with pytest.raises(DamagedArtifact, match=r"item 5: [^;]*; and 95 more$") as raised:
        read([CREDENTIAL | {"key": {"S": "*"}}] * 100 + [CREDENTIAL])
    assert len(raised.value.keys) == 1


def test_one_line_that_is_broken_does_not_hide_the_others() -> None:
    lines = [json.dumps(CREDENTIAL).encode(), b'{"hmac": ', b"", b'{"other": ', json.dumps(BRANCH_ITEM).encode()]
    with pytest.raises(DamagedArtifact, match="line 2: it is JSON that is broken at byte 9") as raised:
        read(b"\n".join(lines))
    assert [key.format for key in raised.value.keys] == [CREDSTASH, BRANCH_KEY]


def test_what_an_export_holds_that_is_cut_off_is_told_with_that_fault() -> None:
    packed = gzip.compress(EXPORT)
    for size_bytes in (len(packed) - 8, len(packed) - 1):
        with pytest.raises(DamagedArtifact, match="gzip is cut off") as raised:
            read(packed[:size_bytes])
        assert raised.value.keys


@pytest.mark.parametrize("changed", [{"amzn-ddb-wrap-alg": "AESWrap"}])
def test_what_another_than_kms_wrapped_gives_no_key(changed: Mapping[str, str]) -> None:
    assert read(described(material(changed))) == []
    assert read(described(bytes(4))) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[", b"{}", b"[]", b'{"Items": []}', b'{"id": {"S": "1"}}', b"{}\n{}", b'{"hmac": "']
)
def test_what_has_no_such_item_is_not_read(content: bytes) -> None:
    assert read(content) is None


def test_lines_of_any_length_together_are_read_and_a_large_file_that_has_none_is_not() -> None:
    line = json.dumps(CREDENTIAL).encode() + b"\n"
    padding = (b'{"other": "' + b"x" * (1 << 20) + b'"}\n') * (MAX_PIECE_BYTES >> 20)
    assert len(padding) > MAX_PIECE_BYTES
    assert len(read(line + padding + line) or []) == 2
    huge = MemoryArtifact(b"{", claimed_bytes=10**12)
    assert read_dynamodb(huge) is None
    assert huge.read_bytes < 2 * MAX_PIECE_BYTES


def test_of_too_many_keys_the_rest_is_told_as_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "MAX_KEYS", 2)
    keys = read([CREDENTIAL] * 5) or []
    assert [bool(key.fingerprint) for key in keys] == [True, True, False]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (described(b"\0\0\0\1"), "another version"),
        (described(material()[:-1]), "ends within a field"),
        (described(bytes(4) + b"\xff\xff\xff\xff"), "ends within a field"),
        (described(bytes(4) + b"\0\0\0\1a"), "a name without a value"),
        (described(material({"amzn-ddb-env-key": "*"})), "not base64"),
        (BRANCH_ITEM | {"enc": {"S": WRAPPED}, "other": {"S": ""}}, "not base64"),
        (BRANCH_ITEM | {"other": {"N": "1"}}, "other is no string"),
        (BRANCH_ITEM | {"kms-arn": {"N": "1"}}, "no kms-arn"),
        (CREDENTIAL | {"key": {"S": WRAPPED[:-1]}}, "not base64"),
        (CREDENTIAL | {"key": {"S": ""}}, "wrapped key of 0 bytes"),
    ],
)
def test_an_item_that_is_broken_is_damaged(item: object, reason: str) -> None:
    with pytest.raises(DamagedArtifact, match=reason):
        read(item)


def test_a_file_that_is_cut_off_gives_no_wrong_blob() -> None:
    content = json.dumps(BRANCH_ITEM).encode() + b"\n" + json.dumps(CREDENTIAL).encode()
    for size_bytes in range(0, len(content), 7):
        try:
            keys = read(content[:size_bytes])
        except DamagedArtifact:
            continue
        assert all(key.blob == BLOB for key in keys or [])
    with pytest.raises(DamagedArtifact):
        read(content[:-1])


def test_json_that_is_too_deep_is_damaged() -> None:
    with pytest.raises(DamagedArtifact):
        read(b'{"branch-key-id":' + b"[" * 1_000_000)


@given(
    st.sampled_from([json.dumps(ITEMS).encode(), json.dumps(BRANCH_ITEM).encode(), b"{", b""]),
    st.integers(0, 900),
    st.binary(max_size=9),
)
def test_whatever_the_bytes_are_the_reader_answers(content: bytes, at: int, junk: bytes) -> None:
    try:
        keys = read(content[:at] + junk + content[at + len(junk) :])
    except DamagedArtifact:
        return
    assert keys is None or len(keys) <= 3


@given(st.binary(max_size=60))
def test_whatever_the_material_description_is_the_reader_answers(description: bytes) -> None:
    try:
        assert read(described(bytes(4) + description)) == []
    except DamagedArtifact as damaged:
        assert damaged.format == ENCRYPTION_CLIENT
