from __future__ import annotations

import functools
from hashlib import sha256

import pytest
import tink  # type: ignore[import-untyped] # It has none.
from hypothesis import given
from hypothesis import strategies as st
from tink import aead

from audit.query.artifacts.artifact import DamagedArtifact, WrappedKey
from audit.query.artifacts.envelopes import (
    KUBERNETES_V1,
    KUBERNETES_V2,
    TINK,
    read_kubernetes,
    read_tink,
    read_tink_as_told,
)
from tests.audit.query.artifacts.blobs import KEY_ARN, local_blob
from tests.audit.query.artifacts.memory import MemoryArtifact

BLOB = local_blob(1)


class Remote(aead.Aead):  # type: ignore[misc] # Tink has no types.
    """Stands for AWS KMS: wraps a data key of Tink as the local backend does."""

    def __init__(self, blob: bytes = BLOB) -> None:
        self.blob = blob

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        assert associated_data == b""
        return self.blob

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        raise NotImplementedError


@functools.cache
def tinks(blob: bytes = BLOB) -> bytes:
    """A ciphertext of the real Tink."""
    aead.register()
    envelope = aead.KmsEnvelopeAead(tink.aead.aead_key_templates.AES256_GCM, Remote(blob))
    ciphertext = envelope.encrypt(b"text", b"associated")
    assert isinstance(ciphertext, bytes)
    return ciphertext


def test_tinks_envelope_gives_its_blob() -> None:
    keys = read_tink(MemoryArtifact(tinks()))
    assert keys == [WrappedKey(sha256(BLOB).hexdigest(), TINK, "before the ciphertext")]
    assert keys[0].blob == BLOB


def test_an_envelope_whose_blob_has_another_shape_is_tinks_only_when_that_is_said() -> None:
    ciphertext = tinks(b"another KMS's blob")
    assert read_tink(MemoryArtifact(ciphertext)) is None
    [key] = read_tink_as_told(MemoryArtifact(ciphertext))
    assert key.blob == b"another KMS's blob"
    assert key.note is not None


def test_tinks_envelope_of_many_gigabytes_is_read_by_its_beginning_alone() -> None:
    artifact = MemoryArtifact(tinks(), claimed_bytes=10**13)
    assert [key.blob for key in read_tink(artifact) or []] == [BLOB]
    assert artifact.read_bytes < 10_000


def test_tinks_envelope_is_none_or_damaged_wherever_it_is_cut_off_within_its_blob() -> None:
    for size_bytes in range(4 + len(BLOB)):
        artifact = MemoryArtifact(tinks()[:size_bytes])
        try:
            assert read_tink(artifact) is None
        except DamagedArtifact as damaged:
            assert f"{len(BLOB)} bytes long" in damaged.reason
        with pytest.raises(DamagedArtifact):
            read_tink_as_told(artifact)


@pytest.mark.parametrize("length", [0, 4_097, len(BLOB) - 1, len(BLOB) + 1, 1 << 30, (1 << 32) - 1])
def test_tinks_length_that_lies_is_not_believed(length: int) -> None:
    content = length.to_bytes(4, "big") + BLOB
    assert read_tink(MemoryArtifact(content, claimed_bytes=10**10)) is None
    if length > 4_096 or length == 0:
        with pytest.raises(DamagedArtifact):
            read_tink_as_told(MemoryArtifact(content, claimed_bytes=10**10))


def varint(value: int) -> bytes:
    return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80,)) + varint(value >> 7)


def part(number: int, value: bytes | int) -> bytes:
    """A field of protobuf."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


DATA = bytes(range(256))
V1 = b"k8s:enc:kms:v1:aws:" + (len(BLOB) + 1).to_bytes(2, "big") + b"1" + BLOB + DATA
V2_PREFIX = b"k8s:enc:kms:v2:aws:"
ANNOTATION = part(4, part(1, b"version.encryption.example") + part(2, b"1"))
V2 = V2_PREFIX + part(1, DATA) + part(2, KEY_ARN.encode()) + part(3, b"1" + BLOB) + ANNOTATION + ANNOTATION + part(5, 1)


def read(content: bytes) -> list[WrappedKey] | None:
    return read_kubernetes(MemoryArtifact(content))


def test_a_value_of_kubernetes_kms_v2_gives_the_blob_without_the_plugins_byte() -> None:
    [key] = read(V2) or []
    assert (key.blob, key.fingerprint, key.format) == (BLOB, sha256(BLOB).hexdigest(), KUBERNETES_V2)
    assert (key.where, key.key) == ("provider aws, encryptedDEKSource", KEY_ARN)
    assert (key.note or "").startswith("a seed")


def test_a_wrapped_data_key_of_kubernetes_is_no_seed_and_fields_may_come_in_any_order() -> None:
    [key] = read(V2_PREFIX + part(3, b"1" + BLOB) + part(99, b"new") + part(98, 7) + part(1, DATA)) or []
    assert (key.blob, key.key) == (BLOB, None)
    assert "seed" not in (key.note or "")


def test_a_value_of_kubernetes_kms_v1_gives_the_blob_without_the_plugins_byte() -> None:
    [key] = read(V1) or []
    assert (key.blob, key.format, key.where, key.note) == (BLOB, KUBERNETES_V1, "provider aws", None)


@pytest.mark.parametrize("content", [V1, V2])
def test_a_value_is_read_as_etcdctl_prints_it(content: bytes) -> None:
    assert read(b"/registry/secrets/default/s\n" + content + b"\n") == read(content)


@pytest.mark.parametrize("stored", [BLOB, b"1vault:v1:abc", b"\x01\x02"])
def test_what_another_plugin_wrapped_is_taken_as_it_is_stored(stored: bytes) -> None:
    [key] = read(V2_PREFIX + part(1, DATA) + part(3, stored)) or []
    assert key.blob == stored
    assert ("not of the form" in (key.note or "")) == (stored != BLOB)


@pytest.mark.parametrize(
    "content", [b"", b"k8s:enc:", b"k8s:enc:aescbc:v1:key:", b"k8s:enc:kms:v3:aws:", b"k8s:enc:kms:v2:aws", b"k8s:enc:kms:v2::x"]
)
def test_what_is_no_value_of_kubernetes_kms_is_not_read_as_one(content: bytes) -> None:
    assert read(content) is None


def test_a_value_of_kubernetes_that_is_cut_off_is_damaged_wherever_that_takes_a_field_it_needs() -> None:
    needed = V2.index(ANNOTATION)
    boundaries = {needed, needed + len(ANNOTATION), needed + 2 * len(ANNOTATION), len(V2)}
    for size_bytes in range(len(V2_PREFIX), len(V2)):
        if size_bytes in boundaries:
            assert [key.blob for key in read(V2[:size_bytes]) or []] == [BLOB]
        else:
            with pytest.raises(DamagedArtifact):
                read(V2[:size_bytes])


def test_the_older_value_of_kubernetes_is_damaged_wherever_its_key_is_cut_off() -> None:
    for size_bytes in range(19, len(V1) - len(DATA)):
        with pytest.raises(DamagedArtifact):
            read(V1[:size_bytes])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "no wrapped key"),
        (part(1, DATA), "no wrapped key"),
        (part(3, BLOB), "or no data"),
        (part(1, DATA) + part(3, 7), "field 3 is of another type"),
        (part(1, DATA) + part(3, BLOB) + part(3, BLOB), "field 3 is there twice"),
        (part(1, DATA) + part(3, b""), "wrapped key of 0 bytes"),
        (part(1, DATA) + part(3, bytes(70_000)), "wrapped key of 70000 bytes"),
        (b"\x0a" + varint(1 << 40), "field 1 is 1099511627776 bytes long, and 0 are there"),
        (b"\x0a" + b"\xff" * 12, "ends within a number"),
        (b"\x02\x00", "a field 0"),
        (b"\x0b", "a type that protobuf does not have"),
        (b"\x09\x00", "field 1 is 8 bytes long"),
        (part(9, 1) * 2_000, "more than 1000 fields"),
    ],
)
def test_a_value_of_kubernetes_whose_fields_lie_is_damaged(message: bytes, reason: str) -> None:
    with pytest.raises(DamagedArtifact, match=reason):
        read(V2_PREFIX + message)


def test_a_value_of_kubernetes_of_gigabytes_is_refused_without_reading_it() -> None:
    artifact = MemoryArtifact(V2, claimed_bytes=10**11)
    with pytest.raises(DamagedArtifact, match="etcd holds no value of that size"):
        read_kubernetes(artifact)
    assert artifact.read_bytes < 10_000


@given(st.sampled_from([b"", V2_PREFIX, V1[:19], V2[:-60], b"\0\0\0\xa9" + BLOB[:70]]), st.binary(max_size=200))
def test_whatever_the_bytes_are_the_readers_answer(begin: bytes, rest: bytes) -> None:
    for reader in (read_kubernetes, read_tink, read_tink_as_told):
        try:
            keys = reader(MemoryArtifact(begin + rest))
        except DamagedArtifact:
            continue
        assert keys is None or len(keys) == 1
