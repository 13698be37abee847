"""The operations that use keys: Encrypt, Decrypt, ReEncrypt, GenerateDataKey and its kin, GenerateRandom.

Order of checks, as AWS's: the key is found · what excludes one another · (ciphertext: form, then whose it is) · usage · key
state · algorithm · context of an asymmetric key · cryptography · DryRun. The algorithm of the request decides how a ciphertext is
read: SYMMETRIC_DEFAULT, also where it is not said, by its own form, which tells its key; any other under the key that must be
named. Shapes were checked before. A Recipient (attested enclave) is refused unless `attested` has verified it, which then takes
the plaintext out of the answer: else the parent instance would have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from proxy.backends.local import external, oaep
from proxy.backends.local.crypto import SALT_BYTES, Ciphertext, decrypt, encode_context, encrypt, parse
from proxy.backends.local.custom_stores import find_store
from proxy.backends.local.desk import Desk
from proxy.backends.local.keys import Key, KeyMaterial
from proxy.backends.local.lookup import check_algorithm, check_use, named_key, stop_dry_run
from proxy.backends.local.specs import ENCRYPT_DECRYPT, SYMMETRIC
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.backends.local.versions import as_of
from proxy.backends.local.xks.blob import ExternalCiphertext, parse_external
from proxy.domain import Answer, KeyUse, KmsCall
from proxy.errors import KmsError

_DATA_KEY_BYTES = {"AES_128": 16, "AES_256": 32}
_UNKNOWN_KEY = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region,"
    " or you are not allowed to access."
)


@dataclass(frozen=True, slots=True)
class Role:
    """What a key is to a call: the members that are about it, and what the caller must be allowed."""

    key: str
    algorithm: str
    context: str
    action: str


_ENCRYPT = Role("KeyId", "EncryptionAlgorithm", "EncryptionContext", "kms:Encrypt")
_DECRYPT = Role("KeyId", "EncryptionAlgorithm", "EncryptionContext", "kms:Decrypt")
_FROM = Role("SourceKeyId", "SourceEncryptionAlgorithm", "SourceEncryptionContext", "kms:ReEncryptFrom")
_TO = Role("DestinationKeyId", "DestinationEncryptionAlgorithm", "DestinationEncryptionContext", "kms:ReEncryptTo")


class Sealed(NamedTuple):
    """A ciphertext's key; where the ciphertext is of the form that tells it, also the version of its material."""

    key: Key
    told: tuple[Ciphertext | ExternalCiphertext, KeyMaterial] | None = None

    @property
    def version(self) -> KeyMaterial:
        """Raises IndexError where the key has no material yet."""
        return self.key.current if self.told is None else self.told[1]


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
    refuse_recipient(call)
    key = named_key(around, tables, call, parameters["KeyId"])
    size_bytes = data_key_bytes(call, key)
    check_data_key_use(key, call)
    random = around.random(size_bytes + SALT_BYTES)
    plaintext = random[SALT_BYTES:]
    blob = encrypt(key.current.material, plaintext, encode_context(parameters.get("EncryptionContext")), random[:SALT_BYTES])
    stop_dry_run(call, key.meant)
    return key, plaintext, blob


def data_key_bytes(call: KmsCall, key: Key) -> int:
    """How long the data key is to be. Raises KmsError where the call does not say it in just one way."""
    spec, size = call.parameters.get("KeySpec"), call.parameters.get("NumberOfBytes")
    if (spec is None) == (size is None):
        raise KmsError("ValidationException", "Please specify either number of bytes or key spec.", keys=(key.meant,))
    size_bytes: int = size or _DATA_KEY_BYTES[str(spec)]
    return size_bytes


def encrypt_plaintext(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    parameters = call.parameters
    key = named_key(around, tables, call, parameters["KeyId"])
    check_use(key, call, ENCRYPT_DECRYPT)
    algorithm = _checked_algorithm(call, key, _ENCRYPT, (key.meant,))
    blob = _seal(around, tables, call, key, _ENCRYPT, parameters["Plaintext"], (key.meant,))
    stop_dry_run(call, key.meant)
    return Answer({"CiphertextBlob": blob, "KeyId": key.arn, "EncryptionAlgorithm": algorithm}, (key.current.use,))


async def decrypt_blob(desk: Desk, call: KmsCall) -> Answer:
    refuse_recipient(call)
    around, tables = desk.around, desk.tables
    if _ignores_ciphertext(call):
        _try_without_ciphertext(around, tables, call, _DECRYPT)
    sealed = _find_sealed(around, tables, call, _DECRYPT)
    key = sealed.key
    check_use(key, call, ENCRYPT_DECRYPT)
    algorithm = _checked_algorithm(call, key, _DECRYPT, (key.meant,))
    plaintext = await _open(desk, tables, call, sealed, _DECRYPT, (key.meant,))
    stop_dry_run(call, key.meant)
    members = {"KeyId": key.arn, "Plaintext": plaintext, "EncryptionAlgorithm": algorithm}
    version = sealed.version
    if key.about.is_symmetric and not external.is_external(key):
        members["KeyMaterialId"] = version.id
    return Answer(members, (version.use,))


async def re_encrypt(desk: Desk, call: KmsCall) -> Answer:
    """Keys in answers and refusals: the source, then the destination."""
    around, tables = desk.around, desk.tables
    if _ignores_ciphertext(call):
        _try_without_ciphertext(around, tables, call, _FROM, _TO)
    sealed = _find_sealed(around, tables, call, _FROM)
    source = sealed.key
    try:
        destination = named_key(around, tables, call, call.parameters["DestinationKeyId"], _TO.action)
    except KmsError as refusal:
        raise KmsError(refusal.code, refusal.message, keys=(source.meant,)) from refusal
    both = (source.meant, destination.meant)
    check_use(source, call, ENCRYPT_DECRYPT, both)
    check_use(destination, call, ENCRYPT_DECRYPT, both)
    from_algorithm = _checked_algorithm(call, source, _FROM, both)
    to_algorithm = _checked_algorithm(call, destination, _TO, both)
    plaintext = await _open(desk, tables, call, sealed, _FROM, both)
    if external.is_external(destination):
        context = encode_context(call.parameters.get(_TO.context))
        blob = await external.seal(desk, call, destination, plaintext, context, both)
    else:
        blob = _seal(around, tables, call, destination, _TO, plaintext, both)
    stop_dry_run(call, *both)
    version, current = sealed.version, destination.current
    members = {
        "CiphertextBlob": blob,
        "SourceKeyId": source.arn,
        "KeyId": destination.arn,
        "SourceEncryptionAlgorithm": from_algorithm,
        "DestinationEncryptionAlgorithm": to_algorithm,
    }
    if source.about.is_symmetric and not external.is_external(source):
        members["SourceKeyMaterialId"] = version.id
    if destination.about.is_symmetric and not external.is_external(destination):
        members["DestinationKeyMaterialId"] = current.id
    return Answer(members, (version.use, current.use))


def generate_random(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    refuse_recipient(call)
    around.authoriser.check(tables, call, "kms:GenerateRandom", None)
    if "CustomKeyStoreId" in call.parameters:
        find_store(tables.all_stores.of(call.principal.account_id, call.region), call.parameters["CustomKeyStoreId"])
        raise KmsError("UnsupportedOperationException", "Random bytes are not to be had from an external key store.")
    size = call.parameters.get("NumberOfBytes")
    if size is None:
        raise KmsError("ValidationException", "NumberOfBytes is required.")
    return Answer({"Plaintext": around.random(size)})


def check_data_key_use(key: Key, call: KmsCall) -> None:
    """Raises KmsError unless data keys, or pairs, can be made under the key."""
    check_use(key, call, ENCRYPT_DECRYPT)
    if not key.about.is_symmetric:
        message = "You cannot generate a data key with an asymmetric CMK"
        raise KmsError("InvalidKeyUsageException", message, keys=(key.meant,))


def _find_sealed(around: Surroundings, tables: Tables, call: KmsCall, role: Role) -> Sealed:
    """The key of the call's ciphertext; where that tells its key, one that the call names must be the same."""
    parameters, action = call.parameters, role.action
    key_id = parameters.get(role.key)
    is_told = parameters.get(role.algorithm, SYMMETRIC) == SYMMETRIC
    if key_id is None and not is_told:
        raise _missing(role.key, ())
    named = None if key_id is None else named_key(around, tables, call, key_id, action)
    meant = () if named is None else (named.meant,)
    blob = parameters.get("CiphertextBlob")
    if blob is None:
        raise _missing("CiphertextBlob", meant)
    if named is not None and not is_told:
        return Sealed(named)
    ciphertext = parse(blob) or parse_external(blob)
    if ciphertext is None:
        raise KmsError("InvalidCiphertextException", keys=meant)
    found = tables.find_material(call.region, ciphertext.material_id)
    if found is not None and found[0].expires_s is not None:
        found = as_of(found[0], around.clock()), found[1]  # its state, not its material, stops the use of what has expired
    if named is not None:
        if found is None or found[0].arn != named.arn:
            raise KmsError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
                keys=meant,
            )
    elif found is None or (found[0].deletion_s is not None and found[0].is_gone(around.clock())):
        raise KmsError("AccessDeniedException", _UNKNOWN_KEY)
    else:
        _check_untold(around, tables, call, found[0], action)
    if isinstance(ciphertext, ExternalCiphertext) != external.is_external(found[0]):
        # The external key manager sees the inner ciphertext of its keys: alone it is none of theirs.
        raise KmsError("InvalidCiphertextException", keys=(found[0].meant,))
    return Sealed(found[0], (ciphertext, found[1]))


def _check_untold(around: Surroundings, tables: Tables, call: KmsCall, key: Key, action: str) -> None:
    """Whether the caller may use a key that it did not name; if not, it is not told that there is one."""
    try:
        around.authoriser.check(tables, call, action, key)
    except KmsError as refusal:
        raise KmsError("AccessDeniedException", _UNKNOWN_KEY, keys=(key.meant,)) from refusal


async def _open(desk: Desk, tables: Tables, call: KmsCall, sealed: Sealed, role: Role, keys: tuple[KeyUse, ...]) -> bytes:
    """The plaintext of the call's ciphertext. Raises KmsError where it is none of that key, algorithm and context."""
    key = sealed.key
    if sealed.told is not None:
        ciphertext, version = sealed.told
        if isinstance(ciphertext, ExternalCiphertext):
            context = encode_context(call.parameters.get(role.context))
            return await external.open_sealed(desk, call, key, version, ciphertext, context, keys)
        plaintext = decrypt(version.material, ciphertext, encode_context(call.parameters.get(role.context)))
    else:
        algorithm, blob = call.parameters[role.algorithm], call.parameters["CiphertextBlob"]
        plaintext = await desk.beside(key.about.is_slow, oaep.decrypt, tables.pairs.of(key).private, algorithm, blob)
    if plaintext is None:
        raise KmsError("InvalidCiphertextException", keys=keys)
    return plaintext


def _seal(
    around: Surroundings, tables: Tables, call: KmsCall, key: Key, role: Role, plaintext: bytes, keys: tuple[KeyUse, ...]
) -> bytes:
    """The ciphertext under the key. Raises KmsError where there is too much of it for an asymmetric one."""
    if key.about.is_symmetric:
        context = encode_context(call.parameters.get(role.context))
        return encrypt(key.current.material, plaintext, context, around.random(SALT_BYTES))
    algorithm, public = call.parameters[role.algorithm], tables.pairs.of(key).public
    if len(plaintext) > (most := oaep.most_bytes(public, algorithm)):
        message = f"Algorithm {algorithm} and key spec {key.spec} cannot encrypt data larger than {most} bytes."
        raise KmsError("ValidationException", message, keys=keys)
    return oaep.encrypt(public, algorithm, plaintext)


def _checked_algorithm(call: KmsCall, key: Key, role: Role, keys: tuple[KeyUse, ...]) -> str:
    """The algorithm that the call names for the key, or its default. Raises KmsError where it, or a context, does not go with
    the key."""
    algorithm: str = call.parameters.get(role.algorithm, SYMMETRIC)
    check_algorithm(key, algorithm, keys)
    if call.parameters.get(role.context) and not key.about.is_symmetric:
        message = "EncryptionContext is not supported when encrypting/decrypting with asymmetric CMKs."
        raise KmsError("ValidationException", message, keys=keys)
    return algorithm


def _ignores_ciphertext(call: KmsCall) -> bool:
    """DryRunModifiers "only applies when DryRun is set to true" (API reference, Decrypt)."""
    modifiers = call.parameters.get("DryRunModifiers")
    return bool(modifiers and call.parameters.get("DryRun") and "IGNORE_CIPHERTEXT" in modifiers)


def _try_without_ciphertext(around: Surroundings, tables: Tables, call: KmsCall, *roles: Role) -> None:
    """A dry run that looks at the keys alone, which the call must then name. Always raises KmsError."""
    keys: tuple[KeyUse, ...] = ()
    for role in roles:
        if role.key not in call.parameters:
            raise _missing(role.key, keys)
        key = named_key(around, tables, call, call.parameters[role.key], role.action)
        keys += (key.meant,)
        check_use(key, call, ENCRYPT_DECRYPT, keys)
        external.check_store(tables, key, keys)
        _checked_algorithm(call, key, role, keys)
    stop_dry_run(call, *keys)


def _missing(member: str, keys: tuple[KeyUse, ...]) -> KmsError:
    name = member[0].lower() + member[1:]
    constraint = f"Value null at '{name}' failed to satisfy constraint: Member must not be null"
    return KmsError("ValidationException", f"1 validation error detected: {constraint}", keys=keys)


def refuse_recipient(call: KmsCall) -> None:
    if call.parameters.get("Recipient") is not None and call.attested is None:
        raise KmsError("UnsupportedOperationException", "Recipient (attestation documents) is not supported.")


READINGS = {
    "Encrypt": encrypt_plaintext,
    "GenerateDataKey": generate_data_key,
    "GenerateDataKeyWithoutPlaintext": generate_data_key_without_plaintext,
    "GenerateRandom": generate_random,
}
WORKS = {"Decrypt": decrypt_blob, "ReEncrypt": re_encrypt}
