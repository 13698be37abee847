"""Keys whose material a test chooses: those of published vectors, and those that are dear to make."""

from __future__ import annotations

from functools import cache
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.keys import KeyState, new_key_body
from proxy.backends.local.material import _GENERATE
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
    material: PrivateKeyTypes | bytes,
    *,
    state: KeyState = KeyState.ENABLED,
    **members: object,
) -> str:
    """The id of a new key that has this material: a key pair, or the bytes of a secret. `members` are of its row."""
    secret, public = (material, None) if isinstance(material, bytes) else (pkcs8(material), spki(material).hex())
    facts = {"id": "ab" * 32, "created_s": world.clock.now_s, "size": len(secret)}
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
