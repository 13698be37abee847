from __future__ import annotations

import base64
import json

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws
from s3_encryption import (  # type: ignore[import-untyped] # It has none.
    S3EncryptionClient,
    S3EncryptionClientConfig,
)
from s3_encryption.materials.kms_keyring import KmsKeyring  # type: ignore[import-untyped] # It has none.

from audit.query.artifacts.artifact import DamagedArtifact, WrappedKey
from audit.query.artifacts.s3_encryption import FORMAT, read_s3_encryption
from tests.audit.query.artifacts.blobs import KEY_ARN, local_blob
from tests.audit.query.artifacts.memory import MemoryArtifact

BLOB = local_blob(1)
WRAPPED = base64.b64encode(BLOB).decode()
CONTEXT = {"aws:x-amz-cek-alg": "AES/GCM/NoPadding", "team": "t"}
V2 = {
    "x-amz-key-v2": WRAPPED,
    "x-amz-wrap-alg": "kms+context",
    "x-amz-matdesc": json.dumps(CONTEXT),
    "x-amz-iv": "b3RoZXIgbm9uY2U=",
    "x-amz-cek-alg": "AES/GCM/NoPadding",
    "x-amz-tag-len": "128",
}
V3_CONTENT = {"x-amz-c": "115", "x-amz-d": "Y29tbWl0", "x-amz-i": "bWVzc2FnZQ=="}
V3 = V3_CONTENT | {"x-amz-3": WRAPPED, "x-amz-w": "12", "x-amz-t": json.dumps(CONTEXT)}


def read(metadata: dict[str, str], content: bytes = b"ciphertext") -> list[WrappedKey] | None:
    return read_s3_encryption(MemoryArtifact(content, metadata=metadata))


def instructed(content: bytes, metadata: dict[str, str] | None = None) -> list[WrappedKey] | None:
    return read(metadata or {}, content)


@mock_aws
def test_what_the_real_client_wrote_is_unwrapped_by_kms_in_the_context_that_is_told() -> None:
    access = {"region_name": "us-east-1", "aws_access_key_id": "a", "aws_secret_access_key": "s"}
    kms, s3 = boto3.client("kms", **access), boto3.client("s3", **access)  # type: ignore[call-overload] # No overload takes **.
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    s3.create_bucket(Bucket="bucket")
    client = S3EncryptionClient(
        boto3.client("s3", **access),  # type: ignore[call-overload] # The same.
        S3EncryptionClientConfig(KmsKeyring(kms, key_id)),
    )
    client.put_object(Bucket="bucket", Key="key", Body=b"text", EncryptionContext={"team": "t"})
    [key] = read(s3.head_object(Bucket="bucket", Key="key")["Metadata"]) or []
    assert key.context is not None
    assert key.context["team"] == "t"
    assert len(kms.decrypt(CiphertextBlob=key.blob, EncryptionContext=key.context)["Plaintext"]) == 32


@pytest.mark.parametrize(("metadata", "field"), [(V2, "x-amz-key-v2"), (V3, "x-amz-3")])
def test_the_metadata_and_the_instruction_file_give_the_blob_and_the_context(metadata: dict[str, str], field: str) -> None:
    for place, keys in (("metadata", read(metadata)), ("instruction file", instructed(json.dumps(metadata).encode()))):
        assert keys == [WrappedKey.of(BLOB, FORMAT, f"{place}, {field}", context=CONTEXT)]
        assert keys[0].blob == BLOB


def test_the_older_way_of_kms_tells_its_key_in_the_context() -> None:
    [key] = read(V2 | {"x-amz-wrap-alg": "kms", "x-amz-matdesc": json.dumps({"kms_cmk_id": KEY_ARN})}) or []
    assert (key.key, key.context) == (KEY_ARN, {"kms_cmk_id": KEY_ARN})


@pytest.mark.parametrize(
    "metadata",
    [{"x-amz-key": "a2V5"}, V2 | {"x-amz-wrap-alg": "AESWrap"}, V2 | {"x-amz-wrap-alg": "RSA-OAEP-SHA1"}, V3 | {"x-amz-w": "22"}],
)
def test_what_another_than_kms_wrapped_gives_no_key(metadata: dict[str, str]) -> None:
    assert read(metadata) == []


def test_an_object_whose_key_is_in_an_instruction_file_tells_that() -> None:
    [key] = read(V3_CONTENT) or []
    assert (key.fingerprint, key.blob) == ("", b"")
    assert "instruction file" in (key.note or "")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[1]", b'{"x-amz-iv": "a"}', b'{"x-amz-3": "a", "other": "b"}', b'{"a": "x-amz-']
)
def test_what_is_no_object_of_the_client_is_not_read_as_one(content: bytes) -> None:
    assert instructed(content) is None


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (V2 | V3, "more than one version"),
        ({"x-amz-key-v2": WRAPPED}, "no x-amz-wrap-alg"),
        (V2 | {"x-amz-key-v2": WRAPPED[:-1]}, "not base64"),
        (V2 | {"x-amz-key-v2": ""}, "wrapped key of 0 bytes"),
        (V2 | {"x-amz-matdesc": "{"}, "not JSON"),
        (V3 | {"x-amz-t": '{"a": 1}'}, "no map of strings"),
        (V3 | {"x-amz-t": "[" * 100_000}, "not JSON"),
    ],
)
def test_metadata_that_is_broken_is_damaged(metadata: dict[str, str], reason: str) -> None:
    with pytest.raises(DamagedArtifact, match=reason):
        read(metadata)


def test_an_instruction_file_that_is_cut_off_is_damaged() -> None:
    content = json.dumps(V2).encode()
    for size_bytes in range(len('{"x-amz-key-v2"'), len(content)):
        with pytest.raises(DamagedArtifact):
            instructed(content[:size_bytes])


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"data"])
def test_an_object_that_its_metadata_calls_an_instruction_file_must_be_one(content: bytes) -> None:
    with pytest.raises(DamagedArtifact):
        instructed(content, {"x-amz-crypto-instr-file": ""})


def test_a_large_object_is_not_taken_for_an_instruction_file() -> None:
    artifact = MemoryArtifact(json.dumps(V2).encode(), claimed_bytes=10**12)
    assert read_s3_encryption(artifact) is None
    assert artifact.reads == []


@given(
    st.dictionaries(st.sampled_from(sorted(V2 | V3)), st.text(max_size=9) | st.just("kms") | st.just(WRAPPED)),
    st.binary(max_size=99),
)
def test_whatever_the_bytes_are_the_reader_answers(metadata: dict[str, str], junk: bytes) -> None:
    for artifact in (
        MemoryArtifact(junk, metadata=metadata),
        MemoryArtifact(json.dumps(metadata).encode()),
        MemoryArtifact(b'{"x-amz-3": ' + junk),
    ):
        try:
            keys = read_s3_encryption(artifact)
        except DamagedArtifact:
            continue
        assert keys is None or len(keys) <= 1
