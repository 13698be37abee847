"""The operations that name a key in an external key store, and that are answered at once for any other key.

Decrypt and ReEncrypt find out by the ciphertext and are works for all keys (`cryptographic`); these here are taken aside before.
"""

from __future__ import annotations

from proxy.backends.local.crypto import encode_context
from proxy.backends.local.cryptographic import data_key_bytes
from proxy.backends.local.desk import Desk
from proxy.backends.local.external import check_store, is_external, seal
from proxy.backends.local.keys import Key, KeyState
from proxy.backends.local.lookup import check_algorithm, check_use, find_key, named_key, stop_dry_run
from proxy.backends.local.metadata import describe
from proxy.backends.local.specs import ENCRYPT_DECRYPT, SYMMETRIC
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError


async def encrypt_plaintext(desk: Desk, call: KmsCall) -> Answer:
    parameters = call.parameters
    key = named_key(desk.around, desk.tables, call, parameters["KeyId"])
    check_use(key, call, ENCRYPT_DECRYPT)
    check_store(desk.tables, key, (key.meant,))
    check_algorithm(key, parameters.get("EncryptionAlgorithm", SYMMETRIC))
    blob = await _seal(desk, call, key, parameters["Plaintext"])
    stop_dry_run(call, key.meant)
    return Answer({"CiphertextBlob": blob, "KeyId": key.arn, "EncryptionAlgorithm": SYMMETRIC}, (key.current.use,))


async def generate_data_key(desk: Desk, call: KmsCall) -> Answer:
    key, plaintext, blob = await _data_key(desk, call)
    return Answer({"CiphertextBlob": blob, "Plaintext": plaintext, "KeyId": key.arn}, (key.current.use,))


async def generate_data_key_without_plaintext(desk: Desk, call: KmsCall) -> Answer:
    key, _, blob = await _data_key(desk, call)
    return Answer({"CiphertextBlob": blob, "KeyId": key.arn}, (key.current.use,))


async def describe_key(desk: Desk, call: KmsCall) -> Answer:
    """An enabled key whose store is not connected is Unavailable; its own state is there again when the store is."""
    key = named_key(desk.around, desk.tables, call, call.parameters["KeyId"])
    metadata = describe(key)
    store = desk.tables.all_stores.find(key.region, key.custom_key_store_id)
    if key.state is KeyState.ENABLED and (store is None or not store.is_connected):
        metadata |= {"KeyState": KeyState.UNAVAILABLE.value, "Enabled": False}
    return Answer({"KeyMetadata": metadata}, (key.meant,))


async def _data_key(desk: Desk, call: KmsCall) -> tuple[Key, bytes, bytes]:
    key = named_key(desk.around, desk.tables, call, call.parameters["KeyId"])
    size_bytes = data_key_bytes(call, key)
    check_use(key, call, ENCRYPT_DECRYPT)
    check_store(desk.tables, key, (key.meant,))
    plaintext = desk.around.random(size_bytes)
    blob = await _seal(desk, call, key, plaintext)
    stop_dry_run(call, key.meant)
    return key, plaintext, blob


async def _seal(desk: Desk, call: KmsCall, key: Key, plaintext: bytes) -> bytes:
    return await seal(desk, call, key, plaintext, encode_context(call.parameters.get("EncryptionContext")), (key.meant,))


#: In place of the handlers for other keys.
EXTERNAL = {
    "Encrypt": encrypt_plaintext,
    "GenerateDataKey": generate_data_key,
    "GenerateDataKeyWithoutPlaintext": generate_data_key_without_plaintext,
    "DescribeKey": describe_key,
}


def names_external_key(around: Surroundings, tables: Tables, call: KmsCall) -> bool:
    """Whether the call, of an operation in `EXTERNAL`, names a key in an external key store. Whether it may use it, that
    operation asks; and what cannot be found, the usual one refuses."""
    try:
        return is_external(find_key(around, tables, call, call.parameters["KeyId"], f"kms:{call.operation.name}"))
    except KmsError:
        return False
