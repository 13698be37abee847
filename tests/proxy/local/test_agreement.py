"""DeriveSharedSecret."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.backends.local.specs import KEY_AGREEMENT
from proxy.domain import KeyUse
from tests.proxy.local.given import given_key, made, spki
from tests.proxy.local.world import ACCOUNT, World, arn_of

CURVES: list[tuple[str, ec.EllipticCurve, int]] = [
    ("ECC_NIST_P256", ec.SECP256R1(), 32),
    ("ECC_NIST_P384", ec.SECP384R1(), 48),
    ("ECC_NIST_P521", ec.SECP521R1(), 66),
]


def agreeing(world: World, spec: str = "ECC_NIST_P256") -> str:
    return given_key(world, spec, KEY_AGREEMENT, made(spec))


@pytest.mark.parametrize(("spec", "curve", "size_bytes"), CURVES)
def test_both_sides_derive_the_same_secret(world: World, spec: str, curve: ec.EllipticCurve, size_bytes: int) -> None:
    key, outside = world.new_key(KeySpec=spec, KeyUsage=KEY_AGREEMENT), ec.generate_private_key(curve)
    answer = world.ask("DeriveSharedSecret", KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=spki(outside))
    secret = answer.members["SharedSecret"]
    assert answer.members == {
        "KeyId": arn_of(key), "SharedSecret": secret, "KeyAgreementAlgorithm": "ECDH", "KeyOrigin": "AWS_KMS"
    }  # fmt: skip
    assert len(secret) == size_bytes and answer.keys == (KeyUse(arn_of(key), ACCOUNT),)
    other = given_key(world, spec, KEY_AGREEMENT, outside)
    own = world("GetPublicKey", KeyId=key)["PublicKey"]
    assert world("DeriveSharedSecret", KeyId=other, KeyAgreementAlgorithm="ECDH", PublicKey=own)["SharedSecret"] == secret


def test_what_is_no_public_key_of_the_curve(world: World) -> None:
    key, good = agreeing(world), spki(ec.generate_private_key(ec.SECP256R1()))
    on_curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    bad = {
        "rubbish": b"x",
        "as long": bytes(len(good)),
        "not on the curve": good[:-1] + bytes((good[-1] ^ 1,)),
        "at infinity": good[:-65] + bytes(65),
        "coordinates too large": good[:-64] + b"\xff" * 64,
        "a compressed point's mark": good[:-65] + b"\x02" + good[-64:],
        "cut": good[:-1],
        "with a tail": good + b"\0",
        "the bare point": on_curve.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        "the bare compressed point": on_curve.public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
        "PEM": on_curve.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "P-384": spki(made("ECC_NIST_P384")),
        "secp256k1": spki(made("ECC_SECG_P256K1")),
        "RSA": spki(made("RSA_2048")),
        "X25519": spki(x25519.X25519PrivateKey.generate()),
    }
    for name, given in bad.items():
        refusal = world.refused("DeriveSharedSecret", KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=given)
        assert refusal.code == "ValidationException", name
        assert refusal.message == "The public key is not a valid public key of key spec ECC_NIST_P256."
        assert refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)


def test_a_dry_run_is_refused_last(world: World) -> None:
    key = agreeing(world)
    sent = {"KeyId": key, "KeyAgreementAlgorithm": "ECDH"}
    peer = spki(made("ECC_NIST_P256"))
    assert world.refused("DeriveSharedSecret", **sent, PublicKey=peer, DryRun=True).code == "DryRunOperationException"
    assert world.refused("DeriveSharedSecret", **sent, PublicKey=b"x", DryRun=True).code == "ValidationException"
