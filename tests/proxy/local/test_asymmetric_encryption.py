"""Encrypt, Decrypt and ReEncrypt with RSA keys: the raw ciphertext, limits, refusals, and from one kind of key to the other."""

from __future__ import annotations

from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from proxy.backends.local.keys import KeyState
from proxy.backends.local.specs import ENCRYPT_DECRYPT
from proxy.domain import KeyUse
from tests.proxy.local.given import given_key, made
from tests.proxy.local.world import ACCOUNT, World, arn_of

SHA_1, SHA_256 = "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"
RSA = ["RSA_2048", "RSA_3072", "RSA_4096"]
CONTEXT_REFUSED = "EncryptionContext is not supported when encrypting/decrypting with asymmetric CMKs."
INCORRECT_KEY = "The key ID in the request does not identify a CMK that can perform this operation."


def rsa_key(world: World, spec: str = "RSA_2048", state: KeyState = KeyState.ENABLED) -> str:
    return given_key(world, spec, ENCRYPT_DECRYPT, made(spec), state=state)


def meant(*keys: str) -> tuple[KeyUse, ...]:
    return tuple(KeyUse(arn_of(key), ACCOUNT) for key in keys)


@pytest.mark.parametrize("spec", RSA)
@pytest.mark.parametrize("algorithm", [SHA_1, SHA_256])
def test_what_was_encrypted_comes_back(world: World, spec: str, algorithm: str) -> None:
    key = rsa_key(world, spec)
    sent = world.ask("Encrypt", KeyId=key, Plaintext=b"secret", EncryptionAlgorithm=algorithm)
    blob = sent.members["CiphertextBlob"]
    assert sent.members == {"CiphertextBlob": blob, "KeyId": arn_of(key), "EncryptionAlgorithm": algorithm}
    assert len(blob) == int(spec[4:]) // 8
    opened = world.ask("Decrypt", KeyId=key, CiphertextBlob=blob, EncryptionAlgorithm=algorithm)
    assert opened.members == {"KeyId": arn_of(key), "Plaintext": b"secret", "EncryptionAlgorithm": algorithm}
    assert sent.keys == opened.keys == meant(key)
    assert world("Encrypt", KeyId=key, Plaintext=b"secret", EncryptionAlgorithm=algorithm)["CiphertextBlob"] != blob


@pytest.mark.parametrize(("algorithm", "hashed"), [(SHA_1, SHA1()), (SHA_256, SHA256())])  # noqa: S303 - the API has it
def test_a_ciphertext_that_was_made_with_the_public_key_alone(world: World, algorithm: str, hashed: SHA1 | SHA256) -> None:
    key = rsa_key(world)
    public = load_der_public_key(world("GetPublicKey", KeyId=key)["PublicKey"])
    assert isinstance(public, RSAPublicKey)
    blob = public.encrypt(b"secret", OAEP(MGF1(hashed), hashed, None))
    assert world("Decrypt", KeyId=key, CiphertextBlob=blob, EncryptionAlgorithm=algorithm)["Plaintext"] == b"secret"
    labelled = public.encrypt(b"secret", OAEP(MGF1(hashed), hashed, b"label"))
    refusal = world.refused("Decrypt", KeyId=key, CiphertextBlob=labelled, EncryptionAlgorithm=algorithm)
    assert refusal.code == "InvalidCiphertextException"


@pytest.mark.parametrize(
    ("spec", "algorithm", "most"),
    [
        ("RSA_2048", SHA_1, 214),
        ("RSA_2048", SHA_256, 190),
        ("RSA_3072", SHA_1, 342),
        ("RSA_3072", SHA_256, 318),
        ("RSA_4096", SHA_1, 470),
        ("RSA_4096", SHA_256, 446),
    ],
)
def test_how_long_a_plaintext_can_be(world: World, spec: str, algorithm: str, most: int) -> None:
    key = rsa_key(world, spec)
    sent: dict[str, Any] = {"KeyId": key, "EncryptionAlgorithm": algorithm}
    blob = world("Encrypt", **sent, Plaintext=bytes(most))["CiphertextBlob"]
    assert world("Decrypt", **sent, CiphertextBlob=blob)["Plaintext"] == bytes(most)
    refusal = world.refused("Encrypt", **sent, Plaintext=bytes(most + 1))
    message = f"Algorithm {algorithm} and key spec {spec} cannot encrypt data larger than {most} bytes."
    assert (refusal.code, refusal.message, refusal.keys) == ("ValidationException", message, meant(key))


@pytest.mark.parametrize("blob", [b"x", b"\1" * 256, b"\xff" * 256, b"\1" * 255, b"\0" + b"\1" * 256, b"\1" * 6144])
def test_what_is_no_ciphertext_is_refused_without_a_word(world: World, blob: bytes) -> None:
    key = rsa_key(world)
    refusal = world.refused("Decrypt", KeyId=key, CiphertextBlob=blob, EncryptionAlgorithm=SHA_256)
    assert (refusal.code, refusal.message, refusal.keys) == ("InvalidCiphertextException", None, meant(key))


def test_another_algorithm_key_or_bit_gives_no_plaintext(world: World) -> None:
    key, other = rsa_key(world), world.new_key(KeySpec="RSA_2048", KeyUsage=ENCRYPT_DECRYPT)
    blob = world("Encrypt", KeyId=key, Plaintext=b"secret", EncryptionAlgorithm=SHA_256)["CiphertextBlob"]
    flipped = blob[:-1] + bytes((blob[-1] ^ 1,))
    for named, algorithm, tried in ((key, SHA_1, blob), (other, SHA_256, blob), (key, SHA_256, flipped)):
        refusal = world.refused("Decrypt", KeyId=named, CiphertextBlob=tried, EncryptionAlgorithm=algorithm)
        assert (refusal.code, refusal.message) == ("InvalidCiphertextException", None)


def test_the_algorithm_must_be_said_and_be_the_key_specs(world: World) -> None:
    key, symmetric = rsa_key(world), world.new_key()
    for named, spec, algorithm in (
        (key, "RSA_2048", None),
        (key, "RSA_2048", "SYMMETRIC_DEFAULT"),
        (key, "RSA_2048", "SM2PKE"),
        (symmetric, "SYMMETRIC_DEFAULT", SHA_256),
    ):
        chosen = {} if algorithm is None else {"EncryptionAlgorithm": algorithm}
        refusal = world.refused("Encrypt", KeyId=named, Plaintext=b"x", **chosen)
        message = f"Algorithm {algorithm or 'SYMMETRIC_DEFAULT'} is incompatible with key spec {spec}."
        assert (refusal.code, refusal.message, refusal.keys) == ("InvalidKeyUsageException", message, meant(named))
    blob = world("Encrypt", KeyId=symmetric, Plaintext=b"x")["CiphertextBlob"]
    for named, spec, algorithm in ((key, "RSA_2048", "SM2PKE"), (symmetric, "SYMMETRIC_DEFAULT", SHA_256)):
        refusal = world.refused("Decrypt", KeyId=named, CiphertextBlob=blob, EncryptionAlgorithm=algorithm)
        assert refusal.message == f"Algorithm {algorithm} is incompatible with key spec {spec}."


def test_without_the_algorithm_a_ciphertext_is_read_as_a_symmetric_keys(world: World) -> None:
    """As AWS does: the form of a ciphertext comes before the spec of the key that is named."""
    key, symmetric = rsa_key(world), world.new_key()
    raw = world("Encrypt", KeyId=key, Plaintext=b"x", EncryptionAlgorithm=SHA_256)["CiphertextBlob"]
    refusal = world.refused("Decrypt", KeyId=key, CiphertextBlob=raw)
    assert (refusal.code, refusal.message, refusal.keys) == ("InvalidCiphertextException", None, meant(key))
    blob = world("Encrypt", KeyId=symmetric, Plaintext=b"x")["CiphertextBlob"]
    refusal = world.refused("Decrypt", KeyId=key, CiphertextBlob=blob)
    assert (refusal.code, refusal.message) == ("IncorrectKeyException", INCORRECT_KEY)


def test_the_key_of_an_asymmetric_ciphertext_must_be_named(world: World) -> None:
    key, symmetric = rsa_key(world), world.new_key()
    blob = world("Encrypt", KeyId=key, Plaintext=b"x", EncryptionAlgorithm=SHA_256)["CiphertextBlob"]
    refusal = world.refused("Decrypt", CiphertextBlob=blob, EncryptionAlgorithm=SHA_256)
    assert (refusal.code, refusal.keys) == ("ValidationException", ())
    assert refusal.message == (
        "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null"
    )
    sent: dict[str, Any] = {"CiphertextBlob": blob, "SourceEncryptionAlgorithm": SHA_256, "DestinationKeyId": symmetric}
    refusal = world.refused("ReEncrypt", **sent)
    assert refusal.code == "ValidationException" and "'sourceKeyId'" in (refusal.message or "")


def test_an_encryption_context_is_refused_but_for_an_empty_one(world: World) -> None:
    key = rsa_key(world)
    sent: dict[str, Any] = {"KeyId": key, "EncryptionAlgorithm": SHA_256}
    blob = world("Encrypt", **sent, Plaintext=b"x", EncryptionContext={})["CiphertextBlob"]
    assert world("Decrypt", **sent, CiphertextBlob=blob, EncryptionContext={})["Plaintext"] == b"x"
    for operation in ("Encrypt", "Decrypt"):
        refusal = world.refused(operation, **sent, Plaintext=b"x", CiphertextBlob=blob, EncryptionContext={"a": "b"})
        assert (refusal.code, refusal.message, refusal.keys) == ("ValidationException", CONTEXT_REFUSED, meant(key))


@pytest.mark.parametrize("operation", ["GenerateDataKey", "GenerateDataKeyWithoutPlaintext"])
def test_data_keys_are_made_under_symmetric_keys_only(world: World, operation: str) -> None:
    key = rsa_key(world)
    refusal = world.refused(operation, KeyId=key, KeySpec="AES_256")
    assert (refusal.code, refusal.keys) == ("InvalidKeyUsageException", meant(key))
    assert refusal.message == "You cannot generate a data key with an asymmetric CMK"
    disabled = rsa_key(world, state=KeyState.DISABLED)
    assert world.refused(operation, KeyId=disabled, KeySpec="AES_256").code == "DisabledException"  # the state comes first


def test_re_encrypt_from_each_kind_of_key_to_each(world: World) -> None:
    symmetric, rsa, other = world.new_key(), rsa_key(world), rsa_key(world, "RSA_4096")
    own = {symmetric: "SYMMETRIC_DEFAULT", rsa: SHA_256, other: SHA_1}
    for source, from_algorithm in own.items():
        blob = world("Encrypt", KeyId=source, Plaintext=b"secret", EncryptionAlgorithm=from_algorithm)["CiphertextBlob"]
        for destination, to_algorithm in own.items():
            answer = world.ask(
                "ReEncrypt",
                CiphertextBlob=blob,
                SourceKeyId=source,
                SourceEncryptionAlgorithm=from_algorithm,
                DestinationKeyId=destination,
                DestinationEncryptionAlgorithm=to_algorithm,
            )
            members = dict(answer.members)
            moved = members.pop("CiphertextBlob")
            assert ("SourceKeyMaterialId" in members) == (source == symmetric)
            assert ("DestinationKeyMaterialId" in members) == (destination == symmetric)
            assert {name: value for name, value in members.items() if not name.endswith("MaterialId")} == {
                "SourceKeyId": arn_of(source),
                "KeyId": arn_of(destination),
                "SourceEncryptionAlgorithm": from_algorithm,
                "DestinationEncryptionAlgorithm": to_algorithm,
            }
            assert [use.arn for use in answer.keys] == [arn_of(source), arn_of(destination)]
            assert [use.material_id is not None for use in answer.keys] == [source == symmetric, destination == symmetric]
            opened = world("Decrypt", CiphertextBlob=moved, KeyId=destination, EncryptionAlgorithm=to_algorithm)
            assert opened["Plaintext"] == b"secret"


def test_re_encrypt_names_both_keys_in_what_it_refuses(world: World) -> None:
    symmetric, rsa = world.new_key(), rsa_key(world)
    both = {"DestinationKeyId": rsa, "SourceKeyId": symmetric}
    blob = world("Encrypt", KeyId=symmetric, Plaintext=bytes(191))["CiphertextBlob"]
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({}, "InvalidKeyUsageException", "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048."),
        ({"DestinationEncryptionAlgorithm": SHA_256, "DestinationEncryptionContext": {"a": "b"}}, "", CONTEXT_REFUSED),
        (
            {"DestinationEncryptionAlgorithm": SHA_256},
            "ValidationException",
            f"Algorithm {SHA_256} and key spec RSA_2048 cannot encrypt data larger than 190 bytes.",
        ),
    ]
    for sent, code, message in cases:
        refusal = world.refused("ReEncrypt", CiphertextBlob=blob, **both, **sent)
        assert (refusal.code, refusal.message) == (code or "ValidationException", message)
        assert refusal.keys == meant(symmetric, rsa)
    back: dict[str, Any] = {"SourceKeyId": rsa, "SourceEncryptionAlgorithm": SHA_256, "DestinationKeyId": symmetric}
    refusal = world.refused("ReEncrypt", CiphertextBlob=b"x", **back)
    assert (refusal.code, refusal.message, refusal.keys) == ("InvalidCiphertextException", None, meant(rsa, symmetric))
    refusal = world.refused("ReEncrypt", CiphertextBlob=b"x", **back, SourceEncryptionContext={"a": "b"})
    assert (refusal.code, refusal.message) == ("ValidationException", CONTEXT_REFUSED)


def test_a_dry_run_is_refused_last(world: World) -> None:
    key, symmetric = rsa_key(world), world.new_key()
    blob = world("Encrypt", KeyId=key, Plaintext=b"x", EncryptionAlgorithm=SHA_256)["CiphertextBlob"]
    dry: dict[str, Any] = {"DryRun": True, "EncryptionAlgorithm": SHA_256, "KeyId": key}
    assert world.refused("Encrypt", Plaintext=b"x", **dry).code == "DryRunOperationException"
    assert world.refused("Encrypt", Plaintext=bytes(191), **dry).code == "ValidationException"
    assert world.refused("Decrypt", CiphertextBlob=blob, **dry).code == "DryRunOperationException"
    assert world.refused("Decrypt", CiphertextBlob=b"x", **dry).code == "InvalidCiphertextException"
    without: dict[str, Any] = {"DryRun": True, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}
    assert world.refused("Decrypt", KeyId=key, EncryptionAlgorithm=SHA_256, **without).code == "DryRunOperationException"
    assert world.refused("Decrypt", KeyId=key, **without).code == "InvalidKeyUsageException"
    refusal = world.refused(
        "ReEncrypt", SourceKeyId=symmetric, DestinationKeyId=key, DestinationEncryptionAlgorithm=SHA_256, **without
    )
    assert (refusal.code, refusal.keys) == ("DryRunOperationException", meant(symmetric, key))


def test_a_key_without_material_says_what_it_waits_for(world: World) -> None:
    for spec, algorithm in (("RSA_2048", SHA_256), ("SYMMETRIC_DEFAULT", SHA_256), ("RSA_2048", "SM2PKE")):
        key = world.new_key(KeySpec=spec, KeyUsage=ENCRYPT_DECRYPT, Origin="EXTERNAL")
        for operation in ("Encrypt", "Decrypt"):
            refusal = world.refused(operation, KeyId=key, Plaintext=b"x", CiphertextBlob=b"x", EncryptionAlgorithm=algorithm)
            assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending import.")
