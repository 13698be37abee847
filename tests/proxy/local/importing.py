"""What a client does to import key material: it wraps it under the key that it was given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any  # members of requests and answers, as in `proxy.domain.Members`

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.proxy.local.world import REGION, World

OAEP, WITH_AES = "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_256"


def new_external_key(world: World, region: str = REGION, **parameters: Any) -> str:
    return world.new_key(region, Origin="EXTERNAL", **parameters)


def parameters_for_import(
    world: World, key: str, algorithm: str = OAEP, spec: str = "RSA_2048", region: str = REGION
) -> Mapping[str, Any]:
    return world("GetParametersForImport", region, KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec=spec)


def wrap(public_key: bytes, algorithm: str, material: bytes) -> bytes:
    """`material` as ImportKeyMaterial takes it."""
    public = load_der_public_key(public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    chosen = SHA1 if algorithm.endswith("SHA_1") else SHA256
    oaep = padding.OAEP(padding.MGF1(chosen()), chosen(), None)
    if not algorithm.startswith("RSA_AES"):
        return public.encrypt(material, oaep)
    aes_key = os.urandom(32)
    return public.encrypt(aes_key, oaep) + aes_key_wrap_with_padding(aes_key, material)


def sent(
    world: World, key: str, material: bytes, algorithm: str = OAEP, spec: str = "RSA_2048", region: str = REGION, **more: Any
) -> dict[str, Any]:
    """The members of an ImportKeyMaterial request; material that does not expire, unless `more` says so."""
    given = parameters_for_import(world, key, algorithm, spec, region)
    if "ValidTo" not in more:
        more.setdefault("ExpirationModel", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    encrypted = wrap(given["PublicKey"], algorithm, material)
    return {"KeyId": key, "ImportToken": given["ImportToken"], "EncryptedKeyMaterial": encrypted, **more}


def import_material(world: World, key: str, material: bytes, region: str = REGION, **more: Any) -> Mapping[str, Any]:
    return world("ImportKeyMaterial", region, **sent(world, key, material, region=region, **more))
