"""Keys whose material a test chooses: those of published vectors, and those that are dear to make."""

from __future__ import annotations

from functools import cache
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.keys import KeyState, new_key_body
from proxy.backends.local.material import _GENERATE, PrivateKey
from proxy.sealed_store import Secret
from tests.proxy.local.world import ACCOUNT, REGION, World


@cache
def made(spec: str) -> PrivateKeyTypes:
    """A pair of the spec, the same for every test: RSA pairs take long to make."""
    return _GENERATE[spec]()


def pkcs8(private: PrivateKeyTypes) -> bytes:
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def spki(private: PrivateKeyTypes) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def given_key(
    world: World,
    spec: str,
    usage: str,
    material: PrivateKeyTypes | PublicKeyTypes | bytes,
    *,
    state: KeyState = KeyState.ENABLED,
    **members: object,
) -> str:
    """The id of a new key that has this material: a key pair, or the bytes of a secret; a public half alone gives a key that only
    verifies, with rubbish for a private half. `members` are of its row."""
    secret, public = b"rubbish", None
    if isinstance(material, bytes):
        secret = material
    elif isinstance(material, PrivateKey):
        secret, public = pkcs8(material), spki(material).hex()
    else:
        public = material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()  # type: ignore[union-attr] # no DH
    facts = {"id": uuid4().hex * 2, "created_s": world.clock.now_s, "size": len(secret)}
    key_id = str(uuid4())
    body = new_key_body(
        account_id=ACCOUNT,
        created_s=world.clock.now_s,
        spec=spec,
        usage=usage,
        origin="AWS_KMS",
        description="",
        tags={},
        materials=[facts],
        state=state,
        public=public,
        **members,
    )
    with world.store.change() as tx:
        KeysInChange(tx).add_key(REGION, key_id, body, Secret(secret))
    return key_id
