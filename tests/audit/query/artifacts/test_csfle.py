from __future__ import annotations

import base64
import functools
import gzip
import json
from typing import Any
from uuid import UUID

import bson
import pytest
from bson import json_util
from hypothesis import given
from hypothesis import strategies as st
from pymongocrypt.mongocrypt import MongoCryptOptions  # type: ignore[import-untyped] # It has none.
from pymongocrypt.synchronous.explicit_encrypter import ExplicitEncrypter  # type: ignore[import-untyped] # It has none.
from pymongocrypt.synchronous.state_machine import MongoCryptCallback  # type: ignore[import-untyped] # It has none.

from audit.query.artifacts import artifact
from audit.query.artifacts.artifact import MAX_PIECE_BYTES, DamagedArtifact, WrappedKey
from audit.query.artifacts.csfle import FORMAT, read_csfle
from tests.audit.query.artifacts.blobs import KEY_ARN, local_blob
from tests.audit.query.artifacts.memory import MemoryArtifact

BLOB = local_blob(1, plaintext=bytes(96))


class Callback(MongoCryptCallback):  # type: ignore[misc] # It has no types.
    """Answers for KMS, and keeps the document."""

    document = b""

    def kms_request(self, kms_context: Any) -> None:  # Its type is not exported.
        body = json.dumps({"CiphertextBlob": base64.b64encode(BLOB).decode(), "KeyId": KEY_ARN}).encode()
        kms_context.feed(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def insert_data_key(self, data_key: bytes) -> None:
        self.document = bytes(data_key)

    def bson_encode(self, doc: dict[str, object]) -> bytes:
        return bson.encode(doc)

    def collection_info(self, database: object, filter: object) -> None:
        raise NotImplementedError

    def mark_command(self, database: object, cmd: object) -> None:
        raise NotImplementedError

    def fetch_keys(self, filter: object) -> None:
        raise NotImplementedError

    def close(self) -> None: ...


@functools.cache
def vaulted() -> bytes:
    """A document of the real libmongocrypt, in BSON."""
    callback = Callback()
    encrypter = ExplicitEncrypter(
        callback, MongoCryptOptions({"aws": {"accessKeyId": "a", "secretAccessKey": "s"}}, bypass_encryption=True)
    )
    encrypter.create_data_key("aws", {"region": "eu-central-1", "key": KEY_ARN}, key_alt_names=["name"])
    encrypter.close()
    return callback.document


def written(options: json_util.JSONOptions, document: dict[str, Any] | None = None) -> bytes:  # A document's values are any.
    return json_util.dumps(document or bson.decode(vaulted()), json_options=options).encode()


WAYS = [json_util.CANONICAL_JSON_OPTIONS, json_util.RELAXED_JSON_OPTIONS, json_util.LEGACY_JSON_OPTIONS]


def read(content: bytes) -> list[WrappedKey] | None:
    return read_csfle(MemoryArtifact(content))


def test_a_document_of_libmongocrypt_gives_its_blob_and_its_key() -> None:
    [key] = read(vaulted()) or []
    name = UUID(bytes=bytes(bson.decode(vaulted())["_id"]))
    assert (key.blob, key.format, key.where) == (BLOB, FORMAT, f"keyMaterial of {name}")
    assert (key.key, key.context) == (KEY_ARN, None)


@pytest.mark.parametrize("options", WAYS)
def test_extended_json_gives_what_bson_does(options: json_util.JSONOptions) -> None:
    content = written(options)
    assert read(content) == read(vaulted())
    for several in (b"[" + content + b"," + content + b"]", content + b"\n" + content + b"\n"):
        assert read(several) == [*(read(vaulted()) or []), *(read(vaulted()) or [])]


def test_a_uuid_of_mongosh_is_a_name() -> None:
    document = json.loads(written(json_util.RELAXED_JSON_OPTIONS)) | {"_id": {"$uuid": "00112233-4455-6677-8899-aabbccddeeff"}}
    [key] = read(json.dumps(document).encode()) or []
    assert key.where == "keyMaterial of 00112233-4455-6677-8899-aabbccddeeff"


def test_a_dump_of_several_documents_gives_the_keys_of_aws_alone() -> None:
    other = bson.decode(vaulted()) | {"masterKey": {"provider": "local"}}
    named = bson.decode(vaulted()) | {"masterKey": {"provider": "aws:name", "key": KEY_ARN}}
    assert len(read(vaulted() + bson.encode(other) + bson.encode(named)) or []) == 2
    assert read(bson.encode(other)) == []
    assert read(written(json_util.RELAXED_JSON_OPTIONS, other)) == []


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"[1]", b"{", b"\5\0\0\0\0", bson.encode({"a": 1}), b'{"masterKey": 1, "keyMaterial": 2}']
)
def test_what_is_no_key_vault_is_not_read_as_one(content: bytes) -> None:
    assert read(content) is None


def test_bson_that_is_cut_off_is_damaged_once_it_names_the_key_material() -> None:
    whole = vaulted()
    named = max(whole.index(b"\x03masterKey\0") + 11, whole.index(b"\x05keyMaterial\0") + 13)
    for size_bytes in range(len(whole)):
        if size_bytes < named:
            assert read(whole[:size_bytes]) is None
        else:
            with pytest.raises(DamagedArtifact):
                read(whole[:size_bytes])


def test_json_that_is_cut_off_gives_no_wrong_blob() -> None:
    content = written(json_util.RELAXED_JSON_OPTIONS)
    for size_bytes in range(0, len(content), 5):
        try:
            assert read(content[:size_bytes]) is None
        except DamagedArtifact as damaged:
            assert damaged.format == FORMAT
    with pytest.raises(DamagedArtifact):
        read(content + b"\n" + content[:-1])
    with pytest.raises(DamagedArtifact):
        read(content[:-1])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bson.encode(dict.fromkeys(map(str, range(1_000))) | {"masterKey": {}, "keyMaterial": b""}), "more than 1000 elements"),
        (bson.encode({"masterKey": {"provider": "aws"}, "keyMaterial": b""}), "wrapped key of 0 bytes"),
        (b'{"masterKey": {"provider": "aws"}, "keyMaterial": "text"}', "no binary"),
        (b'{"masterKey": {"provider": "aws"}, "keyMaterial": {"$binary": {"base64": "abc"}}}', "no binary"),
        (b'{"masterKey": {"provider": "aws"}, "keyMaterial": ' + b"[" * 100_000, "broken"),
    ],
)
def test_a_key_vault_that_is_broken_is_damaged(content: bytes, reason: str) -> None:
    with pytest.raises(DamagedArtifact, match=reason):
        read(content)


def test_a_dump_of_any_size_is_read_document_by_document() -> None:
    other = bson.encode({"masterKey": {"provider": "aws"}, "keyMaterial": BLOB, "filler": bytes(5 << 20)})
    assert len(other) * 4 > MAX_PIECE_BYTES
    keys = read(vaulted() + other * 4 + vaulted()) or []
    assert [key.blob for key in keys] == [BLOB] * 6
    assert [key.where for key in keys[1:5]] == [f"keyMaterial of document {number}" for number in range(2, 6)]


def test_a_dump_of_another_collection_is_not_read_to_its_end() -> None:
    dump = MemoryArtifact(bson.encode({"a": 1, "b": "x"}) * 500_000, claimed_bytes=10**12)
    assert read_csfle(dump) is None
    assert dump.read_bytes < 4 << 20


def test_one_document_that_is_damaged_does_not_hide_the_others() -> None:
    damaged = bson.encode(bson.decode(vaulted()) | {"keyMaterial": b""})
    lying = vaulted().replace(b"\x05keyMaterial\0", b"\x05keyMaterial\0\xff", 1)
    lying = len(lying).to_bytes(4, "little") + lying[4:]
    for content in (vaulted() + damaged + lying + vaulted() * 2, gzip.compress(vaulted() + damaged + lying + vaulted() * 2)):
        with pytest.raises(DamagedArtifact, match=r"document 2: .*of 0 bytes; document 3: .*a length of") as raised:
            read(content)
        assert [key.blob for key in raised.value.keys] == [BLOB] * 3
    content = written(json_util.RELAXED_JSON_OPTIONS)
    broken = written(json_util.RELAXED_JSON_OPTIONS, bson.decode(damaged))
    for several in (b"[" + b",".join([content, broken, content]) + b"]", b"\n".join([content, broken, content])):
        with pytest.raises(DamagedArtifact, match=r"(document|line) 2(, document 1)?: .*of 0 bytes") as raised:
            read(several)
        assert [key.blob for key in raised.value.keys] == [BLOB] * 2
    with pytest.raises(DamagedArtifact, match=r"line 2: it is JSON that is broken") as raised:
        read(content + b"\n" + content[:-1] + b"\n" + content)
    assert len(raised.value.keys) == 2


def test_behind_a_length_that_cannot_be_nothing_is_read_and_that_is_said() -> None:
    with pytest.raises(DamagedArtifact, match=r"document 2: its length would be 0 bytes: .*nothing behind it") as raised:
        read(vaulted() + bytes(9) + vaulted())
    assert len(raised.value.keys) == 1


def test_of_too_many_keys_the_rest_is_told_as_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "MAX_KEYS", 2)
    assert [bool(key.fingerprint) for key in read(vaulted() * 5) or []] == [True, True, False]


@given(st.booleans(), st.integers(0, 500), st.binary(max_size=9))
def test_whatever_the_bytes_are_the_reader_answers(in_json: bool, at: int, junk: bytes) -> None:
    content = written(json_util.RELAXED_JSON_OPTIONS) if in_json else vaulted()
    for damaged in (junk, content[:at] + junk + content[at + len(junk) :], content[:at] + junk + content[at:]):
        try:
            keys = read(damaged)
        except DamagedArtifact:
            continue
        assert keys is None or len(keys) <= 1
