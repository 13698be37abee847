"""GenerateDataKeyPair and GenerateDataKeyPairWithoutPlaintext."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from botocore.session import get_session
from cryptography.hazmat.primitives.serialization import load_der_private_key

from proxy.backends.local.keys import KeyState
from proxy.backends.local.specs import ENCRYPT_DECRYPT
from proxy.domain import KeyUse
from tests.proxy.local.given import given_key, made, spki
from tests.proxy.local.world import ACCOUNT, World, arn_of, call

BOTH = ["GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"]
PAIR_SPECS: list[str] = getattr(get_session().get_service_model("kms").shape_for("DataKeyPairSpec"), "enum")  # noqa: B009 - as in test_management
LACKING = {"SM2", "ML_KEM_512"}
CONTEXT = {"tenant": "acme"}
KINDS = {"ECC": "ECPrivateKey", "RSA": "RSAPrivateKey"}


def use(world: World, key: str) -> KeyUse:
    return KeyUse(arn_of(key), ACCOUNT, world("DescribeKey", KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"])


@pytest.mark.parametrize("spec", sorted(set(PAIR_SPECS) - LACKING))
def test_a_pair_whose_private_half_decrypts_to_itself(world: World, spec: str) -> None:
    key = world.new_key()
    answer = world.ask("GenerateDataKeyPair", KeyId=key, KeyPairSpec=spec, EncryptionContext=CONTEXT)
    pair = answer.members
    assert set(pair) == {
        "KeyId", "KeyPairSpec", "KeyMaterialId", "PublicKey", "PrivateKeyPlaintext", "PrivateKeyCiphertextBlob"
    }  # fmt: skip
    assert (pair["KeyId"], pair["KeyPairSpec"]) == (arn_of(key), spec)
    assert answer.keys == (use(world, key),) and pair["KeyMaterialId"] == answer.keys[0].material_id
    private = load_der_private_key(pair["PrivateKeyPlaintext"], None)
    assert spki(private) == pair["PublicKey"]
    assert type(private).__name__.startswith(type(made(spec)).__name__) and len(spki(made(spec))) == len(pair["PublicKey"])
    blob = pair["PrivateKeyCiphertextBlob"]
    opened = world("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == pair["PrivateKeyPlaintext"]
    refusal = world.refused("Decrypt", CiphertextBlob=blob)
    assert (refusal.code, refusal.message) == ("InvalidCiphertextException", None)


def test_without_plaintext_there_is_none(world: World) -> None:
    key = world.new_key()
    answer = world.ask("GenerateDataKeyPairWithoutPlaintext", KeyId=key, KeyPairSpec="ECC_NIST_P256")
    pair = answer.members
    assert set(pair) == {"KeyId", "KeyPairSpec", "KeyMaterialId", "PublicKey", "PrivateKeyCiphertextBlob"}
    assert answer.keys == (use(world, key),)
    private = load_der_private_key(world("Decrypt", CiphertextBlob=pair["PrivateKeyCiphertextBlob"])["Plaintext"], None)
    assert spki(private) == pair["PublicKey"]
    again = world("GenerateDataKeyPairWithoutPlaintext", KeyId=key, KeyPairSpec="ECC_NIST_P256")
    assert again["PublicKey"] != pair["PublicKey"]


def test_ml_kem_private_keys_are_seeds_of_one_length(world: World) -> None:
    key = world.new_key()
    pairs = [world("GenerateDataKeyPair", KeyId=key, KeyPairSpec=spec) for spec in ("ML_KEM_768", "ML_KEM_1024")]
    assert {len(pair["PrivateKeyPlaintext"]) for pair in pairs} == {86}


@pytest.mark.parametrize("operation", BOTH)
@pytest.mark.parametrize("spec", sorted(LACKING))
def test_what_cannot_be_made_is_unsupported(world: World, operation: str, spec: str) -> None:
    key = world.new_key()
    refusal = world.refused(operation, KeyId=key, KeyPairSpec=spec, DryRun=True)
    assert (refusal.code, refusal.keys) == ("UnsupportedOperationException", (KeyUse(arn_of(key), ACCOUNT),))
    assert refusal.message == f"KeyPairSpec {spec} is not supported."


@pytest.mark.parametrize("operation", BOTH)
def test_the_key_must_be_a_symmetric_one_of_this_kms(world: World, operation: str) -> None:
    rsa = given_key(world, "RSA_2048", ENCRYPT_DECRYPT, made("RSA_2048"))
    refusal = world.refused(operation, KeyId=rsa, KeyPairSpec="ECC_NIST_P256")
    assert (refusal.code, refusal.message) == (
        "InvalidKeyUsageException",
        "You cannot generate a data key with an asymmetric CMK",
    )
    disabled = given_key(world, "RSA_2048", ENCRYPT_DECRYPT, made("RSA_2048"), state=KeyState.DISABLED)
    assert world.refused(operation, KeyId=disabled, KeyPairSpec="ECC_NIST_P256").code == "DisabledException"
    external = given_key(world, "SYMMETRIC_DEFAULT", ENCRYPT_DECRYPT, bytes(32), custom_key_store="cks-1")
    refusal = world.refused(operation, KeyId=external, KeyPairSpec="ECC_NIST_P256")
    assert refusal.code == "UnsupportedOperationException"


@pytest.mark.parametrize("operation", BOTH)
def test_a_dry_run_makes_nothing(world: World, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = world.new_key()
    monkeypatch.setattr("proxy.backends.local.pairs.new_secret", None)
    refusal = world.refused(operation, KeyId=key, KeyPairSpec="RSA_4096", DryRun=True)
    assert (refusal.code, refusal.keys) == ("DryRunOperationException", (KeyUse(arn_of(key), ACCOUNT),))


def test_other_calls_are_answered_while_an_rsa_pair_is_made(world: World) -> None:
    key = world.new_key()
    order: list[str] = []

    async def one(name: str, **members: Any) -> None:  # Any: JSON values, as in `proxy.domain.Members`
        await world.backend.call(call(name, **members))
        order.append(name)

    async def main() -> None:
        pair = asyncio.create_task(one("GenerateDataKeyPair", KeyId=key, KeyPairSpec="RSA_4096"))
        await asyncio.sleep(0)  # it has begun
        await one("Encrypt", KeyId=key, Plaintext=b"x")
        await one("GenerateDataKeyPairWithoutPlaintext", KeyId=key, KeyPairSpec="ECC_NIST_P256")
        await pair

    asyncio.run(main())
    assert order == ["Encrypt", "GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyPair"]
