"""Sign and Verify: every algorithm and message type, refusals in order, and pairs that are loaded once."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from proxy.backends.local import ed25519ph
from proxy.backends.local.keys import KEY
from proxy.backends.local.loaded import LoadedPairs
from proxy.backends.local.specs import SIGN_VERIFY, SPECS
from proxy.domain import KeyUse
from tests.proxy.local.given import given_key, made
from tests.proxy.local.world import ACCOUNT, REGION, World, arn_of, call

MESSAGE = b"what is to be signed"
SIGNERS = [(spec.name, algorithm) for spec in SPECS.values() for algorithm in spec.algorithms.get(SIGN_VERIFY, ())]
DIGESTS = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}


def signer(world: World, spec: str) -> str:
    return given_key(world, spec, SIGN_VERIFY, made(spec))


def digest_of(algorithm: str, message: bytes) -> bytes:
    return DIGESTS[algorithm[-3:]](message).digest()


def messages(spec: str, algorithm: str) -> list[dict[str, Any]]:
    """The message in each form that the algorithm takes."""
    raw: list[dict[str, Any]] = [{"Message": MESSAGE}, {"Message": MESSAGE, "MessageType": "RAW"}]
    if algorithm == "ED25519_SHA_512":
        return raw
    if algorithm == "ML_DSA_SHAKE_256":
        public = made(spec).public_key()
        assert isinstance(public, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey)
        hasher = mldsa.MLDSAMuHasher(public)
        hasher.update(MESSAGE)
        return [*raw, {"Message": hasher.finalize(), "MessageType": "EXTERNAL_MU"}]
    digest = {"Message": digest_of(algorithm, MESSAGE), "MessageType": "DIGEST"}
    return [digest] if algorithm == "ED25519_PH_SHA_512" else [*raw, digest]


@pytest.mark.parametrize(("spec", "algorithm"), SIGNERS)
def test_what_was_signed_in_one_form_verifies_in_every_form(world: World, spec: str, algorithm: str) -> None:
    key = signer(world, spec)
    chosen: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": algorithm}
    forms = messages(spec, algorithm)
    for form in forms:
        answer = world.ask("Sign", **chosen, **form)
        signature = answer.members["Signature"]
        assert answer.members == {"KeyId": arn_of(key), "Signature": signature, "SigningAlgorithm": algorithm}
        assert answer.keys == (KeyUse(arn_of(key), ACCOUNT),)
        for other in forms:
            verified = world.ask("Verify", **chosen, **other, Signature=signature)
            assert verified.members == {"KeyId": arn_of(key), "SignatureValid": True, "SigningAlgorithm": algorithm}
            assert verified.keys == answer.keys


@pytest.mark.parametrize(("spec", "algorithm"), SIGNERS)
def test_a_signature_of_something_else_is_refused_without_a_word(world: World, spec: str, algorithm: str) -> None:
    key = signer(world, spec)
    chosen: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": algorithm}
    form = messages(spec, algorithm)[-1]
    signature = world("Sign", **chosen, **form)["Signature"]
    changed = bytes((form["Message"][0] ^ 1,)) + form["Message"][1:]
    flipped = bytes((signature[0] ^ 1,)) + signature[1:]
    bad = [(changed, signature), *((form["Message"], s) for s in (flipped, signature[:-1], b"x", b"a" * 6144, bytes(64)))]
    for message, tried in bad:
        refusal = world.refused("Verify", **chosen, **{**form, "Message": message}, Signature=tried)
        assert (refusal.code, refusal.message) == ("KMSInvalidSignatureException", None)
        assert refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)


def test_a_signature_under_another_algorithm_or_key_is_not_valid(world: World) -> None:
    key, algorithm = signer(world, "RSA_2048"), "RSASSA_PSS_SHA_256"
    signature = world("Sign", KeyId=key, SigningAlgorithm=algorithm, Message=MESSAGE)["Signature"]
    for other in ("RSASSA_PSS_SHA_384", "RSASSA_PKCS1_V1_5_SHA_256"):
        refusal = world.refused("Verify", KeyId=key, SigningAlgorithm=other, Message=MESSAGE, Signature=signature)
        assert refusal.code == "KMSInvalidSignatureException"
    stranger = world.new_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")
    refusal = world.refused("Verify", KeyId=stranger, SigningAlgorithm=algorithm, Message=MESSAGE, Signature=signature)
    assert refusal.code == "KMSInvalidSignatureException"


@pytest.mark.parametrize("salt_bytes", [0, 20, 32, 64])
def test_a_pss_salt_is_as_long_as_the_digest(world: World, salt_bytes: int) -> None:
    key, algorithm = signer(world, "RSA_2048"), "RSASSA_PSS_SHA_256"
    private = made("RSA_2048")
    assert isinstance(private, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(SHA256()), salt_bytes)
    sent: dict[str, Any] = {
        "KeyId": key,
        "SigningAlgorithm": algorithm,
        "Message": MESSAGE,
        "Signature": private.sign(MESSAGE, pss, SHA256()),
    }
    if salt_bytes == 32:
        assert world("Verify", **sent)["SignatureValid"]
        own = world("Sign", KeyId=key, SigningAlgorithm=algorithm, Message=MESSAGE)["Signature"]
        private.public_key().verify(own, MESSAGE, pss, SHA256())
    else:
        assert world.refused("Verify", **sent).code == "KMSInvalidSignatureException"


def test_a_digest_of_ed25519ph_is_hashed_once_more(world: World) -> None:
    key, algorithm = signer(world, "ECC_NIST_EDWARDS25519"), "ED25519_PH_SHA_512"
    digest = hashlib.sha512(MESSAGE).digest()
    sent: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": algorithm, "Message": digest, "MessageType": "DIGEST"}
    signature = world("Sign", **sent)["Signature"]
    public = load_der_public_key(world("GetPublicKey", KeyId=key)["PublicKey"])
    assert isinstance(public, ed25519.Ed25519PublicKey)
    assert ed25519ph.is_valid(public.public_bytes_raw(), signature, digest)  # which hashes its message
    assert not ed25519ph.is_valid(public.public_bytes_raw(), signature, MESSAGE)
    with pytest.raises(InvalidSignature):
        public.verify(signature, digest)


INCOMPATIBLE = "Message type {} is incompatible with key spec {}."
TOO_SHORT = "Digest is invalid length for algorithm {}."


@pytest.mark.parametrize(
    ("spec", "algorithm", "message_type", "size_bytes", "code", "message"),
    [
        ("RSA_2048", "ECDSA_SHA_256", "RAW", 1, "InvalidKeyUsageException", None),
        ("RSA_2048", "SM2DSA", "RAW", 1, "InvalidKeyUsageException", None),
        ("ECC_NIST_P256", "ECDSA_SHA_384", "DIGEST", 20, "InvalidKeyUsageException", None),  # before the length
        ("ECC_NIST_P256", "RSASSA_PSS_SHA_256", "RAW", 1, "InvalidKeyUsageException", None),
        ("ECC_NIST_EDWARDS25519", "ECDSA_SHA_512", "RAW", 1, "InvalidKeyUsageException", None),
        ("ML_DSA_44", "ED25519_SHA_512", "RAW", 1, "InvalidKeyUsageException", None),
        ("ML_DSA_44", "ML_DSA_SHAKE_256", "DIGEST", 64, "ValidationException", INCOMPATIBLE.format("DIGEST", "ML_DSA_44")),
        (
            "RSA_2048",
            "RSASSA_PSS_SHA_512",
            "EXTERNAL_MU",
            64,
            "ValidationException",
            INCOMPATIBLE.format("EXTERNAL_MU", "RSA_2048"),
        ),
        (
            "ECC_NIST_EDWARDS25519",
            "ED25519_SHA_512",
            "EXTERNAL_MU",
            64,
            "ValidationException",
            INCOMPATIBLE.format("EXTERNAL_MU", "ECC_NIST_EDWARDS25519"),
        ),
        (
            "ECC_NIST_EDWARDS25519",
            "ED25519_SHA_512",
            "DIGEST",
            64,
            "ValidationException",
            "Message type DIGEST is incompatible with algorithm ED25519_SHA_512.",
        ),
        (
            "ECC_NIST_EDWARDS25519",
            "ED25519_PH_SHA_512",
            "RAW",
            64,
            "ValidationException",
            "Message type RAW is incompatible with algorithm ED25519_PH_SHA_512.",
        ),
        (
            "ECC_NIST_EDWARDS25519",
            "ED25519_PH_SHA_512",
            "DIGEST",
            63,
            "ValidationException",
            TOO_SHORT.format("ED25519_PH_SHA_512"),
        ),
        ("ECC_NIST_P256", "ECDSA_SHA_256", "DIGEST", 31, "ValidationException", TOO_SHORT.format("ECDSA_SHA_256")),
        ("ECC_NIST_P384", "ECDSA_SHA_384", "DIGEST", 64, "ValidationException", TOO_SHORT.format("ECDSA_SHA_384")),
        ("RSA_2048", "RSASSA_PSS_SHA_384", "DIGEST", 32, "ValidationException", TOO_SHORT.format("RSASSA_PSS_SHA_384")),
        (
            "RSA_2048",
            "RSASSA_PKCS1_V1_5_SHA_512",
            "DIGEST",
            65,
            "ValidationException",
            TOO_SHORT.format("RSASSA_PKCS1_V1_5_SHA_512"),
        ),
        (
            "ML_DSA_44",
            "ML_DSA_SHAKE_256",
            "EXTERNAL_MU",
            63,
            "ValidationException",
            "External Mu is invalid length for algorithm ML_DSA_SHAKE_256.",
        ),
    ],
)
@pytest.mark.parametrize("operation", ["Sign", "Verify"])
def test_what_does_not_go_together(
    world: World, operation: str, spec: str, algorithm: str, message_type: str, size_bytes: int, code: str, message: str | None
) -> None:
    key = signer(world, spec)
    sent: dict[str, Any] = {
        "KeyId": key,
        "SigningAlgorithm": algorithm,
        "Message": bytes(size_bytes),
        "MessageType": message_type,
    }
    if operation == "Verify":
        sent["Signature"] = b"s"
    refusal = world.refused(operation, **sent)
    assert (refusal.code, refusal.message) == (code, message or f"Algorithm {algorithm} is incompatible with key spec {spec}.")
    assert refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)
    assert world.refused(operation, **sent, DryRun=True).code == code


def test_a_dry_run_of_verify_says_whether_the_signature_is_valid(world: World) -> None:
    key = signer(world, "ECC_NIST_P256")
    sent: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": "ECDSA_SHA_256", "Message": MESSAGE}
    assert world.refused("Sign", **sent, DryRun=True).code == "DryRunOperationException"
    signature = world("Sign", **sent)["Signature"]
    assert world.refused("Verify", **sent, Signature=signature, DryRun=True).code == "DryRunOperationException"
    assert world.refused("Verify", **sent, Signature=b"x", DryRun=True).code == "KMSInvalidSignatureException"


def test_what_takes_milliseconds_is_signed_on_a_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, bool] = {}
    beside = world.backend._desk.beside

    async def noted(is_slow: bool, *arguments: Any) -> Any:  # Any: as `Desk.beside`
        asked[algorithm] = is_slow
        return await beside(is_slow, *arguments)

    monkeypatch.setattr(world.backend._desk, "beside", noted)
    for spec, algorithm in (
        ("RSA_3072", "RSASSA_PSS_SHA_256"),
        ("RSA_4096", "RSASSA_PKCS1_V1_5_SHA_256"),
        ("ECC_NIST_P521", "ECDSA_SHA_512"),
        ("ML_DSA_87", "ML_DSA_SHAKE_256"),
        ("ECC_NIST_EDWARDS25519", "ED25519_PH_SHA_512"),
    ):
        world("Sign", KeyId=signer(world, spec), SigningAlgorithm=algorithm, **messages(spec, algorithm)[-1])
    assert asked == {
        "RSASSA_PSS_SHA_256": False,
        "RSASSA_PKCS1_V1_5_SHA_256": True,
        "ECDSA_SHA_512": False,
        "ML_DSA_SHAKE_256": True,
        "ED25519_PH_SHA_512": True,
    }


def test_a_signature_does_not_wait_behind_the_making_of_keys(world: World) -> None:
    held, key = threading.Event(), signer(world, "RSA_4096")
    sent = call("Sign", KeyId=key, SigningAlgorithm="RSASSA_PSS_SHA_256", Message=MESSAGE)

    async def main() -> None:
        making = [asyncio.create_task(world.backend._desk.aside(held.wait)) for _ in range(8)]
        await asyncio.sleep(0)  # they have begun
        answer = await asyncio.wait_for(world.backend.call(sent), timeout=30)
        assert len(answer.members["Signature"]) == 512
        held.set()
        await asyncio.gather(*making)

    try:
        asyncio.run(main())
    finally:
        held.set()


def test_a_pair_is_loaded_once_and_never_outlives_its_row(world: World) -> None:
    one, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    key = given_key(world, "ECC_NIST_P256", SIGN_VERIFY, one)
    sent: dict[str, Any] = {"KeyId": key, "SigningAlgorithm": "ECDSA_SHA_256", "Message": MESSAGE}
    signature = world("Sign", **sent)["Signature"]
    tables = world.backend._desk.tables
    found = tables.find_key(ACCOUNT, REGION, key)
    assert found is not None
    loaded = tables.pairs.of(found)
    world("Verify", **sent, Signature=signature)
    assert tables.pairs.of(found) is loaded

    world("UpdateKeyDescription", KeyId=key, Description="written anew")
    assert len(tables.pairs) == 0
    secret = given_key(world, "ECC_NIST_P256", SIGN_VERIFY, other)
    with world.store.change() as tx:  # the same key, with the material of another
        row = tx.get(KEY, REGION, secret)
        assert row is not None
        tx.put(KEY, REGION, key, row.body, row.secret)
    assert world.refused("Verify", **sent, Signature=signature).code == "KMSInvalidSignatureException"
    own = world("Sign", **sent)["Signature"]
    other.public_key().verify(own, MESSAGE, ec.ECDSA(SHA256()))

    with world.store.change() as tx:
        tx.delete(KEY, REGION, key)
    assert world.refused("Sign", **sent).code == "NotFoundException"
    assert len(tables.pairs) == 0


def test_only_so_many_pairs_are_kept_those_used_last(world: World) -> None:
    keys = [given_key(world, "ECC_NIST_EDWARDS25519", SIGN_VERIFY, ed25519.Ed25519PrivateKey.generate()) for _ in range(4)]
    tables = world.backend._desk.tables
    found = [key for name in keys if (key := tables.find_key(ACCOUNT, REGION, name)) is not None]
    pairs = LoadedPairs(most=3)
    loaded = [pairs.of(key) for key in found[:3]]
    assert pairs.of(found[0]) is loaded[0]
    pairs.of(found[3])
    assert len(pairs) == 3
    assert pairs.of(found[0]) is loaded[0] and pairs.of(found[2]) is loaded[2]
    assert pairs.of(found[1]) is not loaded[1]
