from __future__ import annotations

import base64
import functools
from collections.abc import Iterable, Mapping
from hashlib import sha256
from uuid import UUID

import aws_encryption_sdk
import pytest
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy, EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.base import MasterKey, MasterKeyProvider, MasterKeyProviderConfig
from aws_encryption_sdk.key_providers.kms import KMSMasterKey
from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider
from botocore.client import BaseClient
from hypothesis import given
from hypothesis import strategies as st

from audit.query.artifacts.artifact import MAX_PIECE_BYTES, DamagedArtifact, WrappedKey
from audit.query.artifacts.encryption_sdk import FORMAT_V1, FORMAT_V2, read_encryption_sdk
from tests.audit.query.artifacts.blobs import KEY_ARN, local_blob
from tests.audit.query.artifacts.memory import MemoryArtifact

OTHER_ARN = KEY_ARN.replace("eu-central-1", "us-west-2")
CONTEXT = {"tenant": "acme", "purpose": "tëst"}
BLOB = local_blob(1)
OTHER = local_blob(2)


class FakeKms(BaseClient):  # The SDK takes nothing else.
    """Answers as KMS does, in so far as the SDK asks: its blobs are of the local backend."""

    def __init__(self, number: int, arn: str) -> None:
        self.blob = local_blob(number)
        self.arn = arn
        self.contexts: list[Mapping[str, str]] = []

    def generate_data_key(self, *, NumberOfBytes: int, **request: object) -> dict[str, object]:
        self._note(request)
        return {"CiphertextBlob": self.blob, "Plaintext": bytes(NumberOfBytes), "KeyId": self.arn}

    def encrypt(self, **request: object) -> dict[str, object]:
        self._note(request)
        return {"CiphertextBlob": self.blob, "KeyId": self.arn}

    def _note(self, request: Mapping[str, object]) -> None:
        context = request["EncryptionContext"]
        assert isinstance(context, dict)
        self.contexts.append(context)


class RawKeys(RawMasterKeyProvider):  # type: ignore[misc] # The SDK has no types.
    provider_id = "vault"

    def _get_raw_key(self, key_id: bytes) -> WrappingKey:
        return WrappingKey(WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING, bytes(32), EncryptionKeyType.SYMMETRIC)


class KeyRing(MasterKeyProvider):  # type: ignore[misc] # The SDK has no types.
    """Wraps under each of the keys that it was given."""

    provider_id = "ring"
    _config_class = MasterKeyProviderConfig
    keys: tuple[MasterKey, ...] = ()

    def _new_master_key(self, key_id: bytes) -> MasterKey:
        raise NotImplementedError

    def master_keys_for_encryption(self, *_: object, **__: object) -> tuple[MasterKey, tuple[MasterKey, ...]]:
        return self.keys[0], self.keys


def encrypted(algorithm: Algorithm, *, raw: bool = False) -> tuple[bytes, Mapping[str, str]]:
    """A message of the real SDK under two KMS keys, and the context that KMS was given."""
    first, second = FakeKms(1, KEY_ARN), FakeKms(2, OTHER_ARN)
    ring = KeyRing()
    ring.keys = (KMSMasterKey(key_id=KEY_ARN, client=first), KMSMasterKey(key_id=OTHER_ARN, client=second))
    if raw:
        ring.keys += (RawKeys().master_key("raw key"),)
    is_committing = algorithm.is_committing()
    policy = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT if is_committing else CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
    client = aws_encryption_sdk.EncryptionSDKClient(commitment_policy=policy)
    message, _ = client.encrypt(source=b"text", key_provider=ring, algorithm=algorithm, encryption_context=CONTEXT)
    assert first.contexts == second.contexts
    return message, first.contexts[0]


@functools.cache
def small_message(algorithm: Algorithm = Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY) -> bytes:
    return encrypted(algorithm)[0]


def read(content: bytes) -> list[WrappedKey] | None:
    return read_encryption_sdk(MemoryArtifact(content))


def by_key(keys: Iterable[WrappedKey]) -> dict[str | None, bytes]:
    return {key.key: key.blob for key in keys}


@pytest.mark.parametrize("algorithm", list(Algorithm), ids=lambda algorithm: algorithm.name)
def test_the_sdks_messages_give_their_keys_and_the_context_that_kms_was_given(algorithm: Algorithm) -> None:
    message, context = encrypted(algorithm)
    format = FORMAT_V2 if algorithm.is_committing() else FORMAT_V1
    assert ("aws-crypto-public-key" in context) == ("ECDSA" in algorithm.name)
    keys = read(message) or []
    assert {key.where for key in keys} == {"EDK 1 of 2", "EDK 2 of 2"}  # The SDK keeps them in no order.
    assert by_key(keys) == {KEY_ARN: BLOB, OTHER_ARN: OTHER}
    for key in keys:
        assert (key.fingerprint, key.format) == (sha256(key.blob).hexdigest(), format)
        assert key.context == context


def test_a_key_that_another_provider_wrapped_is_told_without_a_fingerprint() -> None:
    message, _ = encrypted(Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY, raw=True)
    keys = read(message) or []
    assert by_key(keys) == {KEY_ARN: BLOB, OTHER_ARN: OTHER, None: b""}
    [raw] = [key for key in keys if not key.fingerprint]
    assert "the provider 'vault'" in (raw.note or "")


@pytest.mark.parametrize("algorithm", [Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY, Algorithm.AES_128_GCM_IV12_TAG16])
def test_messages_in_base64_are_read_too(algorithm: Algorithm) -> None:
    message = small_message(algorithm)
    for text in (
        base64.b64encode(message),
        base64.urlsafe_b64encode(message).rstrip(b"="),
        base64.encodebytes(message),
        b'  "' + base64.b64encode(message) + b'"\n',
        b"\xef\xbb\xbf" + base64.encodebytes(message).replace(b"\n", b"\r\n"),
    ):
        assert read(text) == read(message)


def field(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def made(edks: Iterable[tuple[bytes, bytes, bytes]], *, count: int | None = None, aad: bytes = b"") -> bytes:
    parts = [b"".join(field(part) for part in edk) for edk in edks]
    edk_count = len(parts) if count is None else count
    return b"\x02\x05\x78" + bytes(32) + field(aad) + edk_count.to_bytes(2, "big") + b"".join(parts) + b"\x02" + bytes(100)


def test_a_key_of_the_hierarchical_keyring_tells_where_the_kms_blob_is() -> None:
    version = UUID("0d990263-6132-4d6b-a3b2-0123456789ab")
    wrapped = bytes(16) + bytes(12) + version.bytes + bytes(48)
    [key] = read(made([(b"aws-kms-hierarchy", b"branch-1", wrapped)])) or []
    assert (key.fingerprint, key.blob, key.context) == ("", b"", {})
    for told in ("no KMS blob", "branch-key-id 'branch-1'", f"branch:version:{version}", "attribute enc"):
        assert told in (key.note or "")
    [short] = read(made([(b"aws-kms-hierarchy", b"branch-1", b"short")])) or []
    assert "too short to tell" in (short.note or "")


def test_keys_of_asymmetric_kms_keys_say_which_calls_they_make() -> None:
    [rsa, ecdh] = read(made([(b"aws-kms-rsa", KEY_ARN.encode(), BLOB), (b"aws-kms-ecdh", b"point", b"wrapped")])) or []
    assert (rsa.blob, rsa.key, rsa.context) == (BLOB, KEY_ARN, None)
    assert (ecdh.fingerprint, "DeriveSharedSecret" in (ecdh.note or "")) == ("", True)


@pytest.mark.parametrize(
    "content", [b"", b"\x02", b"\x01\x80\x00", b"\x02\x04\x79" + bytes(99), b"AgR5", b"{}", b"AgR", bytes(300)]
)
def test_what_is_no_message_is_not_read_as_one(content: bytes) -> None:
    assert read(content) is None


@pytest.mark.parametrize("algorithm", [Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY, Algorithm.AES_128_GCM_IV12_TAG16])
@pytest.mark.parametrize("is_base64", [False, True])
def test_a_message_that_ends_within_its_header_is_damaged_wherever(algorithm: Algorithm, is_base64: bool) -> None:
    message = small_message(algorithm)
    content = base64.b64encode(message) if is_base64 else message
    header_bytes = len(content) - (120 if is_base64 else 90)
    outcomes = []
    for size_bytes in range(header_bytes):
        try:
            outcomes.append(read(content[:size_bytes]))
        except DamagedArtifact as damaged:
            assert "ends within its header" in damaged.reason
            outcomes.append([])
    first_whole = next((at for at, outcome in enumerate(outcomes) if outcome), len(outcomes))
    assert outcomes[:3] == [None, None, None]
    assert outcomes[6:first_whole] == [[]] * (first_whole - 6)
    assert all(outcome == read(message) for outcome in outcomes[first_whole:])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (made([]), "it says that it has 0 encrypted"),
        (made([], count=65_535), "it says that it has 65535 encrypted"),
        (made([(b"aws-kms", b"arn", BLOB)], count=2), "it ends within its header"),
        (made([(b"aws-kms", b"arn", b"")]), "wrapped key of 0 bytes"),
        (made([(b"\xff", b"arn", BLOB)]), "not UTF-8"),
        (made([(b"aws-kms", b"\xff", BLOB)]), "not UTF-8"),
        (made([(b"aws-kms", b"arn", BLOB)], aad=b"\0"), "its AAD ends within a pair"),
        (made([(b"aws-kms", b"arn", BLOB)], aad=b"\0\2" + field(b"k") + field(b"v")), "its AAD ends within a pair"),
        (made([(b"aws-kms", b"arn", BLOB)], aad=b"\0\1" + field(b"k") + field(b"v") + b"x"), "1 bytes behind the last pair"),
        (made([(b"aws-kms", b"arn", BLOB)], aad=b"\0\2" + 2 * (field(b"k") + field(b"v"))), "has a key twice"),
        (made([(b"aws-kms", b"arn", BLOB)])[:-101] + b"\x07" * 101, "no content type"),
        (
            b"\x01\x80\x03\x78" + made([(b"aws-kms", b"arn", BLOB)])[3:19] + made([(b"aws-kms", b"arn", BLOB)])[35:],
            "no IV length",
        ),
    ],
)
def test_a_header_whose_fields_lie_is_damaged(content: bytes, reason: str) -> None:
    with pytest.raises(DamagedArtifact, match=reason):
        read(content)


def test_of_a_message_of_many_gigabytes_only_the_header_is_read() -> None:
    artifact = MemoryArtifact(small_message(), claimed_bytes=10**13)
    assert len(read_encryption_sdk(artifact) or []) == 2
    assert artifact.read_bytes < 100_000


def test_a_long_header_is_read_and_an_endless_one_refused() -> None:
    long = made([(b"aws-kms", b"arn", BLOB), *[(b"other", b"", bytes(60_000))] * 20, (b"aws-kms", b"arn", OTHER)])
    assert [key.blob for key in read(long) or [] if key.blob] == [BLOB, OTHER]
    assert read(base64.encodebytes(long)) == read(long)
    endless = MemoryArtifact(made([(b"other", b"", bytes(65_535))] * 300)[:-101], claimed_bytes=10**13)
    with pytest.raises(DamagedArtifact, match=f"longer than {MAX_PIECE_BYTES}"):
        read_encryption_sdk(endless)


@given(st.data())
def test_a_message_with_any_bytes_changed_is_read_or_damaged(data: st.DataObject) -> None:
    content = bytearray(small_message())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        keys = read(bytes(content))
    except DamagedArtifact:
        return
    assert keys is None or 0 < len(keys) <= 10_000


@given(st.sampled_from([b"", b"\x02\x04\x78", b"\x01\x80\x00\x14", b"AgV4", b"AYAA"]), st.binary(max_size=300))
def test_whatever_the_bytes_are_the_reader_answers(begin: bytes, rest: bytes) -> None:
    try:
        read(begin + rest)
    except DamagedArtifact as damaged:
        assert damaged.format in (FORMAT_V1, FORMAT_V2)
