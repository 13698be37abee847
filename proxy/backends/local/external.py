"""Encrypting and decrypting under a key in an external key store: first here, then by the external key manager, and back.

Neither can decrypt without the other. The key's store must be connected; whatever its proxy does not do as it should is a
KMSInvalidStateException of the key.
"""

from __future__ import annotations

from proxy.backends.local.crypto import SALT_BYTES, decrypt, encrypt, parse
from proxy.backends.local.custom_stores import client_of
from proxy.backends.local.desk import Desk
from proxy.backends.local.keys import Key, KeyMaterial
from proxy.backends.local.stores import CustomStore
from proxy.backends.local.tables import Tables
from proxy.backends.local.xks.blob import ExternalCiphertext, associated_data, join
from proxy.backends.local.xks.faults import Fault, XksFailed
from proxy.backends.local.xks.messages import Reason
from proxy.domain import KeyUse, KmsCall
from proxy.errors import KmsError

_NOT_CONNECTED = "The custom key store of this KMS key is not connected to its external key store proxy."


def is_external(key: Key) -> bool:
    return key.custom_key_store_id is not None


def check_store(tables: Tables, key: Key, keys: tuple[KeyUse, ...]) -> None:
    """Raises KmsError where the key is in a key store that is not connected."""
    if is_external(key):
        _connected_store(tables, key, keys)


async def seal(desk: Desk, call: KmsCall, key: Key, plaintext: bytes, context: bytes, keys: tuple[KeyUse, ...]) -> bytes:
    """The ciphertext, under the current material; `context` is from `crypto.encode_context`. Raises KmsError with `keys`."""
    store, client = _connected_store(desk.tables, key, keys), client_of(desk.around)
    material = key.current.material
    inner = encrypt(material, plaintext, context, desk.around.random(SALT_BYTES))
    associated = associated_data(material.id, context)
    try:
        outer = await client.encrypt(store.address, str(key.xks_key_id), key.region, _reason(call, key), inner, associated)
    except XksFailed as failure:
        raise failure.for_use(keys) from failure
    return join(material.id, outer)


async def open_sealed(
    desk: Desk,
    call: KmsCall,
    key: Key,
    version: KeyMaterial,
    sealed: ExternalCiphertext,
    context: bytes,
    keys: tuple[KeyUse, ...],
) -> bytes:
    """The plaintext. Raises KmsError with `keys`, also where ciphertext and context do not belong together."""
    store, client = _connected_store(desk.tables, key, keys), client_of(desk.around)
    associated = associated_data(sealed.material_id, context)
    try:
        inner = await client.decrypt(store.address, str(key.xks_key_id), key.region, _reason(call, key), sealed.outer, associated)
        ciphertext = parse(inner)
        if ciphertext is None or ciphertext.material_id != sealed.material_id:
            raise XksFailed(Fault.CIPHERTEXT)
        plaintext = decrypt(version.material, ciphertext, context)
        if plaintext is None:
            raise XksFailed(Fault.CIPHERTEXT)
    except XksFailed as failure:
        raise failure.for_use(keys) from failure
    return plaintext


def _connected_store(tables: Tables, key: Key, keys: tuple[KeyUse, ...]) -> CustomStore:
    store = tables.all_stores.find(key.region, key.custom_key_store_id)
    if store is None or not store.is_connected:
        raise KmsError("KMSInvalidStateException", _NOT_CONNECTED, keys=keys)
    return store


def _reason(call: KmsCall, key: Key) -> Reason:
    return Reason(call.operation.name, call.request_id, call.principal.arn, key.arn)
