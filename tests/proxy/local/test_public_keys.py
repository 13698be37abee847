"""GetPublicKey."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from proxy.backends.local.keys import KeyState
from proxy.backends.local.specs import ALGORITHMS_MEMBER, SPECS
from proxy.domain import KeyUse
from tests.proxy.local.given import given_key, made, spki
from tests.proxy.local.world import ACCOUNT, World, arn_of

PAIRS = [(spec.name, usage) for spec in SPECS.values() if spec.is_pair and spec.name != "ML_KEM_512" for usage in spec.algorithms]


@pytest.mark.parametrize(("spec", "usage"), PAIRS)
def test_the_public_half_and_what_it_is_for(world: World, spec: str, usage: str) -> None:
    key = given_key(world, spec, usage, made(spec))
    answer = world.ask("GetPublicKey", KeyId=key)
    assert answer.members == {
        "KeyId": arn_of(key),
        "PublicKey": spki(made(spec)),
        "CustomerMasterKeySpec": spec,
        "KeySpec": spec,
        "KeyUsage": usage,
        ALGORITHMS_MEMBER[usage]: list(SPECS[spec].algorithms[usage]),
    }
    assert answer.keys == (KeyUse(arn_of(key), ACCOUNT),)


def test_a_key_that_was_made_here_has_the_public_half_that_it_gives(world: World) -> None:
    key = world.new_key(KeySpec="ECC_NIST_P384", KeyUsage="SIGN_VERIFY")
    world("CreateAlias", AliasName="alias/signer", TargetKeyId=key)
    public = world("GetPublicKey", KeyId="alias/signer")["PublicKey"]
    assert type(load_der_public_key(public)).__name__ == "ECPublicKey"
    assert public == world("GetPublicKey", KeyId=arn_of(key))["PublicKey"]


@pytest.mark.parametrize(("spec", "usage"), [("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"), ("HMAC_256", "GENERATE_VERIFY_MAC")])
def test_a_key_that_is_no_pair_is_refused_without_a_word(world: World, spec: str, usage: str) -> None:
    key = world.new_key(KeySpec=spec, KeyUsage=usage)
    refusal = world.refused("GetPublicKey", KeyId=key)
    assert (refusal.code, refusal.message) == ("UnsupportedOperationException", None)
    assert refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (KeyState.ENABLED, None),
        (KeyState.DISABLED, None),
        (KeyState.UPDATING, None),
        (KeyState.PENDING_DELETION, "is pending deletion."),
        (KeyState.PENDING_REPLICA_DELETION, "is pending replica deletion."),
        (KeyState.PENDING_IMPORT, "is pending import."),
        (KeyState.UNAVAILABLE, "is unavailable."),
        (KeyState.CREATING, "is creating."),
    ],
)
def test_the_state_matters_but_for_disabled_keys_and_comes_before_the_key_spec(
    world: World, state: KeyState, says: str | None
) -> None:
    pair = given_key(world, "ECC_NIST_P256", "SIGN_VERIFY", made("ECC_NIST_P256"), state=state)
    secret = given_key(world, "HMAC_256", "GENERATE_VERIFY_MAC", bytes(32), state=state)
    if says is None:
        assert world("GetPublicKey", KeyId=pair)["PublicKey"] == spki(made("ECC_NIST_P256"))
        assert world.refused("GetPublicKey", KeyId=secret).code == "UnsupportedOperationException"
        return
    for key in (pair, secret):
        refusal = world.refused("GetPublicKey", KeyId=key)
        assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} {says}")
