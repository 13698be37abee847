"""Encapsulate and Decapsulate."""

from __future__ import annotations

from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem

from proxy.backends.local.specs import ENCAPSULATE_DECAPSULATE
from proxy.domain import KeyUse
from tests.proxy.local.world import ACCOUNT, World, arn_of

KEMS = [("ML_KEM_768", 1088), ("ML_KEM_1024", 1568)]


def kem(world: World, spec: str) -> dict[str, Any]:
    key = world.new_key(KeySpec=spec, KeyUsage=ENCAPSULATE_DECAPSULATE)
    return {"KeyId": key, "EncapsulationAlgorithm": "ML_KEM"}


@pytest.mark.parametrize(("spec", "blob_bytes"), KEMS)
def test_both_sides_have_the_same_secret(world: World, spec: str, blob_bytes: int) -> None:
    chosen = kem(world, spec)
    own = {"KeyId": arn_of(chosen["KeyId"]), "EncapsulationAlgorithm": "ML_KEM"}
    answer = world.ask("Encapsulate", **chosen)
    secret, blob = answer.members["SharedSecret"], answer.members["SharedSecretCiphertextBlob"]
    assert answer.members == {**own, "SharedSecret": secret, "SharedSecretCiphertextBlob": blob}
    assert (len(secret), len(blob)) == (32, blob_bytes)
    opened = world.ask("Decapsulate", **chosen, SharedSecretCiphertextBlob=blob)
    assert opened.members == {**own, "SharedSecret": secret}
    assert answer.keys == opened.keys == (KeyUse(own["KeyId"], ACCOUNT),)
    assert world("Encapsulate", **chosen)["SharedSecret"] != secret


def test_what_was_encapsulated_with_the_public_key_alone(world: World) -> None:
    chosen = kem(world, "ML_KEM_768")
    raw = world("GetPublicKey", KeyId=chosen["KeyId"])["PublicKey"][-1184:]
    secret, blob = mlkem.MLKEM768PublicKey.from_public_bytes(raw).encapsulate()
    assert world("Decapsulate", **chosen, SharedSecretCiphertextBlob=blob)["SharedSecret"] == secret


@pytest.mark.parametrize(("spec", "blob_bytes"), KEMS)
def test_a_changed_ciphertext_gives_another_secret_and_nothing_says_so(world: World, spec: str, blob_bytes: int) -> None:
    chosen, other = kem(world, spec), kem(world, spec)
    made = world("Encapsulate", **chosen)
    blob = made["SharedSecretCiphertextBlob"]
    secrets = {made["SharedSecret"]}
    for at in (0, blob_bytes // 2, blob_bytes - 1):
        flipped = blob[:at] + bytes((blob[at] ^ 1,)) + blob[at + 1 :]
        secret = world("Decapsulate", **chosen, SharedSecretCiphertextBlob=flipped)["SharedSecret"]
        assert secret == world("Decapsulate", **chosen, SharedSecretCiphertextBlob=flipped)["SharedSecret"]
        assert len(secret) == 32
        secrets.add(secret)
    secrets.add(world("Decapsulate", **other, SharedSecretCiphertextBlob=blob)["SharedSecret"])
    assert len(secrets) == 5


@pytest.mark.parametrize(("spec", "blob_bytes"), KEMS)
def test_a_ciphertext_of_another_length_is_refused_without_a_word(world: World, spec: str, blob_bytes: int) -> None:
    chosen = kem(world, spec)
    for size_bytes in (1, blob_bytes - 1, blob_bytes + 1, 768, 2656 - blob_bytes, 6144):
        refusal = world.refused("Decapsulate", **chosen, SharedSecretCiphertextBlob=bytes(size_bytes))
        assert (refusal.code, refusal.message) == ("InvalidCiphertextException", None)
        assert refusal.keys == (KeyUse(arn_of(chosen["KeyId"]), ACCOUNT),)


def test_a_dry_run_is_refused_last(world: World) -> None:
    chosen = kem(world, "ML_KEM_768")
    assert world.refused("Encapsulate", **chosen, DryRun=True).code == "DryRunOperationException"
    for blob, code in ((bytes(1088), "DryRunOperationException"), (b"x", "InvalidCiphertextException")):
        assert world.refused("Decapsulate", **chosen, SharedSecretCiphertextBlob=blob, DryRun=True).code == code
