"""The operations that use keys: Encrypt, Decrypt, ReEncrypt, GenerateDataKey and its kin, GenerateRandom.

Order of checks, as AWS's: the key is found · what excludes one another · (ciphertext: form, then whose it is) · key
state · algorithm · cryptography · DryRun. Shapes were checked before. A Recipient (attested enclave) is refused unless
`attested` has verified it, which then takes the plaintext out of the answer: else the parent instance would have it.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.backends.local.crypto import SALT_BYTES, Ciphertext, decrypt, encode_context, encrypt, parse
from proxy.backends.local.keys import Key, KeyMaterial
from proxy.backends.local.lookup import check_use, named_key, stop_dry_run
from proxy.backends.local.specs import ENCRYPT_DECRYPT, SYMMETRIC
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KeyUse, KmsCall
from proxy.errors import KmsError

_DATA_KEY_BYTES = {"AES_128": 16, "AES_256": 32}
_RE_ENCRYPTS = ("SourceKeyId", "kms:ReEncryptFrom"), ("DestinationKeyId", "kms:ReEncryptTo")
_UNKNOWN_KEY = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region,"
    " or you are not allowed to access."
)


def generate_data_key(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key, plaintext, blob = _data_key(around, tables, call)
    material = key.current
    members = {"CiphertextBlob": blob, "Plaintext": plaintext, "KeyId": key.arn, "KeyMaterialId": material.id}
    return Answer(members, (material.use,))


def generate_data_key_without_plaintext(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key, _, blob = _data_key(around, tables, call)
    material = key.current
    return Answer({"CiphertextBlob": blob, "KeyId": key.arn, "KeyMaterialId": material.id}, (material.use,))


def _data_key(around: Surroundings, tables: Tables, call: KmsCall) -> tuple[Key, bytes, bytes]:
    parameters = call.parameters
    _refuse_recipient(call)
    key = named_key(around, tables, call, parameters["KeyId"])
    spec, size = parameters.get("KeySpec"), parameters.get("NumberOfBytes")
    if (spec is None) == (size is None):
        raise KmsError("ValidationException", "Please specify either number of bytes or key spec.", keys=(key.meant,))
    size_bytes: int = size or _DATA_KEY_BYTES[str(spec)]
    check_use(key, call, ENCRYPT_DECRYPT)
    random = around.random(size_bytes + SALT_BYTES)
    plaintext = random[SALT_BYTES:]
    blob = encrypt(key.current.material, plaintext, encode_context(parameters.get("EncryptionContext")), random[:SALT_BYTES])
    stop_dry_run(call, key.meant)
    return key, plaintext, blob


def encrypt_plaintext(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    parameters = call.parameters
    key = named_key(around, tables, call, parameters["KeyId"])
    check_use(key, call, ENCRYPT_DECRYPT)
    _check_algorithm(key, parameters.get("EncryptionAlgorithm"), (key.meant,))
    context = encode_context(parameters.get("EncryptionContext"))
    blob = encrypt(key.current.material, parameters["Plaintext"], context, around.random(SALT_BYTES))
    stop_dry_run(call, key.meant)
    return Answer({"CiphertextBlob": blob, "KeyId": key.arn, "EncryptionAlgorithm": SYMMETRIC}, (key.current.use,))


def decrypt_blob(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    parameters = call.parameters
    _refuse_recipient(call)
    if _ignores_ciphertext(call):
        _try_without_ciphertext(around, tables, call, ("KeyId", "kms:Decrypt"))
    ciphertext, key, version = _key_of_blob(around, tables, call, parameters.get("KeyId"), "kms:Decrypt")
    check_use(key, call, ENCRYPT_DECRYPT)
    _check_algorithm(key, parameters.get("EncryptionAlgorithm"), (key.meant,))
    plaintext = _open(version, ciphertext, parameters.get("EncryptionContext"))
    stop_dry_run(call, key.meant)
    members = {"KeyId": key.arn, "Plaintext": plaintext, "EncryptionAlgorithm": SYMMETRIC, "KeyMaterialId": version.id}
    return Answer(members, (version.use,))


def re_encrypt(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    """Keys in answers and refusals: the source, then the destination."""
    parameters = call.parameters
    if _ignores_ciphertext(call):
        _try_without_ciphertext(around, tables, call, *_RE_ENCRYPTS)
    ciphertext, source, version = _key_of_blob(around, tables, call, parameters.get("SourceKeyId"), "kms:ReEncryptFrom")
    try:
        destination = named_key(around, tables, call, parameters["DestinationKeyId"], "kms:ReEncryptTo")
    except KmsError as refusal:
        raise KmsError(refusal.code, refusal.message, keys=(source.meant,)) from refusal
    both = (source.meant, destination.meant)
    check_use(source, call, ENCRYPT_DECRYPT, both)
    check_use(destination, call, ENCRYPT_DECRYPT, both)
    _check_algorithm(source, parameters.get("SourceEncryptionAlgorithm"), both)
    _check_algorithm(destination, parameters.get("DestinationEncryptionAlgorithm"), both)
    plaintext = _open(version, ciphertext, parameters.get("SourceEncryptionContext"), both)
    context = encode_context(parameters.get("DestinationEncryptionContext"))
    current = destination.current
    blob = encrypt(current.material, plaintext, context, around.random(SALT_BYTES))
    stop_dry_run(call, *both)
    members = {
        "CiphertextBlob": blob,
        "SourceKeyId": source.arn,
        "KeyId": destination.arn,
        "SourceEncryptionAlgorithm": SYMMETRIC,
        "DestinationEncryptionAlgorithm": SYMMETRIC,
        "SourceKeyMaterialId": version.id,
        "DestinationKeyMaterialId": current.id,
    }
    return Answer(members, (version.use, current.use))


def generate_random(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    _refuse_recipient(call)
    around.authoriser.check(tables, call, "kms:GenerateRandom", None)
    if "CustomKeyStoreId" in call.parameters:
        raise KmsError("CustomKeyStoreNotFoundException", f"There is no key store {call.parameters['CustomKeyStoreId']}.")
    size = call.parameters.get("NumberOfBytes")
    if size is None:
        raise KmsError("ValidationException", "NumberOfBytes is required.")
    return Answer({"Plaintext": around.random(size)})


def _key_of_blob(
    around: Surroundings, tables: Tables, call: KmsCall, key_id: str | None, action: str
) -> tuple[Ciphertext, Key, KeyMaterial]:
    """The call's ciphertext, and the key and material that it names; a key that the call names must be the same."""
    named = None if key_id is None else named_key(around, tables, call, key_id, action)
    meant = () if named is None else (named.meant,)
    blob = call.parameters.get("CiphertextBlob")
    if blob is None:
        raise _missing("CiphertextBlob", meant)
    ciphertext = parse(blob)
    if ciphertext is None:
        raise KmsError("InvalidCiphertextException", keys=meant)
    found = tables.find_material(call.region, ciphertext.material_id)
    if named is not None:
        if found is None or found[0] is not named:
            raise KmsError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
                keys=meant,
            )
    elif found is None or (found[0].deletion_s is not None and found[0].is_gone(around.clock())):
        raise KmsError("AccessDeniedException", _UNKNOWN_KEY)
    else:
        _check_untold(around, tables, call, found[0], action)
    return ciphertext, *found


def _check_untold(around: Surroundings, tables: Tables, call: KmsCall, key: Key, action: str) -> None:
    """Whether the caller may use a key that it did not name; if not, it is not told that there is one."""
    try:
        around.authoriser.check(tables, call, action, key)
    except KmsError as refusal:
        raise KmsError("AccessDeniedException", _UNKNOWN_KEY, keys=(key.meant,)) from refusal


def _open(
    version: KeyMaterial,
    ciphertext: Ciphertext,
    context: Mapping[str, str] | None,
    keys: tuple[KeyUse, ...] | None = None,
) -> bytes:
    plaintext = decrypt(version.material, ciphertext, encode_context(context))
    if plaintext is None:
        raise KmsError("InvalidCiphertextException", keys=keys or (KeyUse(version.use.arn, version.use.account_id),))
    return plaintext


def _check_algorithm(key: Key, algorithm: str | None, keys: tuple[KeyUse, ...]) -> None:
    if algorithm is not None and algorithm != SYMMETRIC:
        message = f"Algorithm {algorithm} is incompatible with key spec {key.spec}."
        raise KmsError("InvalidKeyUsageException", message, keys=keys)


def _ignores_ciphertext(call: KmsCall) -> bool:
    """DryRunModifiers "only applies when DryRun is set to true" (API reference, Decrypt)."""
    modifiers = call.parameters.get("DryRunModifiers")
    return bool(modifiers and call.parameters.get("DryRun") and "IGNORE_CIPHERTEXT" in modifiers)


def _try_without_ciphertext(around: Surroundings, tables: Tables, call: KmsCall, *members: tuple[str, str]) -> None:
    """A dry run that looks at the keys alone, which the call must then name. Always raises KmsError."""
    keys: tuple[KeyUse, ...] = ()
    for member, action in members:
        if member not in call.parameters:
            raise _missing(member, keys)
        key = named_key(around, tables, call, call.parameters[member], action)
        keys += (key.meant,)
        check_use(key, call, ENCRYPT_DECRYPT, keys)
    stop_dry_run(call, *keys)


def _missing(member: str, keys: tuple[KeyUse, ...]) -> KmsError:
    name = member[0].lower() + member[1:]
    constraint = f"Value at '{name}' failed to satisfy constraint: Member must not be null"
    return KmsError("ValidationException", f"1 validation error detected: {constraint}", keys=keys)


def _refuse_recipient(call: KmsCall) -> None:
    if call.parameters.get("Recipient") is not None and call.attested is None:
        raise KmsError("UnsupportedOperationException", "Recipient (attestation documents) is not supported.")


READINGS = {
    "Encrypt": encrypt_plaintext,
    "Decrypt": decrypt_blob,
    "ReEncrypt": re_encrypt,
    "GenerateDataKey": generate_data_key,
    "GenerateDataKeyWithoutPlaintext": generate_data_key_without_plaintext,
    "GenerateRandom": generate_random,
}
