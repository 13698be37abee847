"""GenerateDataKeyPair and GenerateDataKeyPairWithoutPlaintext: a new key pair, its private half encrypted under a symmetric key.

The private key is PKCS #8, DER (for ML-KEM in its seed form), the public one SubjectPublicKeyInfo.

Order of checks, as AWS's: the key is found · usage · state · it is symmetric, and not of a custom key store · the pair's spec ·
DryRun. Only then a pair is made, off the event loop where that takes long.
"""

from __future__ import annotations

from typing import Any

from proxy.backends.local.crypto import SALT_BYTES, encode_context, encrypt
from proxy.backends.local.cryptographic import check_data_key_use, refuse_recipient
from proxy.backends.local.desk import Desk
from proxy.backends.local.keys import KeyMaterial
from proxy.backends.local.lookup import named_key, stop_dry_run, wrong_origin
from proxy.backends.local.material import NewSecret, can_make, is_slow_to_make, new_secret
from proxy.backends.local.specs import SPECS
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError


async def generate_data_key_pair(desk: Desk, call: KmsCall) -> Answer:
    refuse_recipient(call)
    members, made, version = await _pair(desk, call)
    return Answer({**members, "PrivateKeyPlaintext": made.secret}, (version.use,))


async def generate_data_key_pair_without_plaintext(desk: Desk, call: KmsCall) -> Answer:
    members, _, version = await _pair(desk, call)
    return Answer(members, (version.use,))


async def _pair(desk: Desk, call: KmsCall) -> tuple[dict[str, Any], NewSecret, KeyMaterial]:
    """The members of both answers, the pair, and the material that its private key is encrypted under."""
    parameters, around = call.parameters, desk.around
    key = named_key(around, desk.tables, call, parameters["KeyId"])
    check_data_key_use(key, call)
    if key.custom_key_store_id is not None:
        raise wrong_origin(key)
    name = parameters["KeyPairSpec"]
    spec = SPECS.get(name)
    if spec is None or not can_make(spec):
        raise KmsError("UnsupportedOperationException", f"KeyPairSpec {name} is not supported.", keys=(key.meant,))
    stop_dry_run(call, key.meant)
    making = spec, around.random
    made = await desk.aside(new_secret, *making) if is_slow_to_make(spec) else new_secret(*making)
    version = key.current
    context = encode_context(parameters.get("EncryptionContext"))
    members = {
        "PrivateKeyCiphertextBlob": encrypt(version.material, made.secret, context, around.random(SALT_BYTES)),
        "PublicKey": made.public,
        "KeyId": key.arn,
        "KeyPairSpec": name,
        "KeyMaterialId": version.id,
    }
    return members, made, version


WORKS = {
    "GenerateDataKeyPair": generate_data_key_pair,
    "GenerateDataKeyPairWithoutPlaintext": generate_data_key_pair_without_plaintext,
}
