"""GetParametersForImport, ImportKeyMaterial, DeleteImportedKeyMaterial.

A key of origin EXTERNAL waits for its material, and again when any that ciphertexts were made with is deleted or expires. The
same material can come back; other material only into symmetric encryption keys, where it waits for RotateKeyOnDemand. A
material's id is derived from the key's id and the material (AWS says so too, not how), so the replicas of a multi-Region key
give the same material the same id, and what comes back is known by its id.

The key that seals import tokens is a row of its own, made when it is first needed.
"""

from __future__ import annotations

from hashlib import sha256
from hmac import digest

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.creation import EXTERNAL
from proxy.backends.local.desk import Desk
from proxy.backends.local.keys import Key, KeyState
from proxy.backends.local.lookup import check_not_pending_deletion, check_state, managed_key, wrong_origin
from proxy.backends.local.material import NewSecret
from proxy.backends.local.related import related
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import View
from proxy.backends.local.versions import DOES_NOT_EXPIRE, EXPIRES, Version, Versions, state_with
from proxy.backends.local.wrapping import (
    TOKEN_KEY_BYTES,
    WrappingKey,
    new_wrapping_key,
    open_token,
    read_material,
    seal_token,
    supports,
    unwrap,
)
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError
from proxy.sealed_store import Secret

TOKEN_VALID_S = 24 * 3_600
MOST_VALID_S = 365 * 86_400
TOKEN_KEY = "import-token-key"  # noqa: S105 - the kind of a row
NEW, EXISTING = "NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL"
_ID_LABEL = b"keytrail/material-id/1"


async def get_parameters_for_import(desk: Desk, call: KmsCall) -> Answer:
    key = _importing(desk.around, desk.tables, call)
    algorithm, wrapping_spec = call.parameters["WrappingAlgorithm"], call.parameters["WrappingKeySpec"]
    if not supports(algorithm, wrapping_spec, key.about):
        message = (
            f"Wrapping algorithm {algorithm} with wrapping key spec {wrapping_spec} is not supported for key spec {key.spec}."
        )
        raise KmsError("UnsupportedOperationException", message, keys=(key.meant,))
    token_key = await desk.write(_token_key, desk.around)
    private, public = await desk.aside(new_wrapping_key, wrapping_spec)
    valid_to_s = round(desk.around.clock() + TOKEN_VALID_S, 3)
    token = seal_token(token_key.reveal(), key.arn, WrappingKey(private, algorithm, valid_to_s), desk.around.random)
    members = {"KeyId": key.arn, "ImportToken": token, "PublicKey": public, "ParametersValidTo": valid_to_s}
    return Answer(members, (key.meant,))


async def import_key_material(desk: Desk, call: KmsCall) -> Answer:
    key = _importing(desk.around, desk.tables, call)
    _check_expiry(desk.around, key, call)
    _check_members(key, call)
    token_key = await desk.write(_token_key, desk.around)
    wrapping = open_token(token_key.reveal(), key.arn, call.parameters["ImportToken"])
    if wrapping is None:
        raise KmsError("InvalidImportTokenException", keys=(key.meant,))
    if wrapping.valid_to_s <= desk.around.clock():
        raise KmsError("ExpiredImportTokenException", keys=(key.meant,))
    material = await desk.aside(unwrap, wrapping, call.parameters["EncryptedKeyMaterial"])
    if material is None:
        raise KmsError("InvalidCiphertextException", keys=(key.meant,))
    made = await desk.aside(read_material, key.about, material)
    if made is None:
        raise _incorrect(key, f"The key material is not of key spec {key.spec}.")
    return await desk.change(lambda around, keys, call: _import(around, keys, call, made), call)


def delete_imported_key_material(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """Without KeyMaterialId, the current material goes. A key that is pending deletion stays so; any other waits for its
    material."""
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    if key.origin != EXTERNAL:
        raise wrong_origin(key)
    check_state(key, KeyState.CREATING, KeyState.UPDATING)
    material_id = call.parameters.get("KeyMaterialId")
    stored = _stored(keys, key)
    versions = Versions(stored)
    if material_id is not None:
        _check_symmetric(key, "KeyMaterialId")
        version = versions.find(material_id)
        if version is None:
            message = f"The key material {material_id} is not associated with {key.arn}."
            raise KmsError("NotFoundException", message, keys=(key.meant,))  # of the model's errors the one that fits
    elif not versions.all:
        return Answer({"KeyId": key.arn}, (key.meant,))
    else:
        version = versions.all[versions.current]
    erase(keys, stored, versions, [version])
    members = {"KeyId": key.arn} | ({"KeyMaterialId": version.id} if key.about.is_symmetric else {})
    return Answer(members, (key.meant,))


def erase(keys: KeysInChange, key: Key, versions: Versions, gone: list[Version]) -> None:
    """Erase material that was deleted, or has expired, and write the key's row; `versions` are those that the row has.

    Pending material of a primary goes from its replicas too.
    """
    for version in gone:
        if version is versions.pending and not key.is_replica:
            for replica in related(keys, key):
                _forget(keys, replica, version.id)
        versions.erase(version)
    _write(keys, key, versions)


def _forget(keys: KeysInChange, replica: Key, material_id: str) -> None:
    versions = Versions(replica)
    versions.all = [one for one in versions.all if one.id != material_id]
    _write(keys, replica, versions)


def _write(keys: KeysInChange, key: Key, versions: Versions) -> Key:
    state = state_with(versions, key.state)
    return keys.alter_key(key, versions.secret, **versions.members, state=state.value)


def _import(around: Surroundings, keys: KeysInChange, call: KmsCall, made: NewSecret) -> Answer:
    """The change, once the material is known. Everything that may have changed since is looked at again."""
    key = _importing(around, keys, call)
    stored = _stored(keys, key)
    versions = Versions(stored)
    material_id = digest(made.public or made.secret, _ID_LABEL + key.id.encode(), sha256).hex()
    version = _place(around, keys, call, key, versions, material_id)
    version.secret = made.secret
    valid_to_s = call.parameters.get("ValidTo")
    version.facts["expiration_model"] = DOES_NOT_EXPIRE if valid_to_s is None else EXPIRES
    version.facts.pop("valid_to_s", None)
    if valid_to_s is not None:
        version.facts["valid_to_s"] = valid_to_s
    if "KeyMaterialDescription" in call.parameters:
        version.facts["description"] = call.parameters["KeyMaterialDescription"]
    keys.alter_key(_write(keys, stored, versions), public=made.public.hex() if made.public else None)
    members = {"KeyId": key.arn} | ({"KeyMaterialId": material_id} if key.about.is_symmetric else {})
    return Answer(members, (key.meant,))


def _place(around: Surroundings, keys: KeysInChange, call: KmsCall, key: Key, versions: Versions, material_id: str) -> Version:
    """The version that the material is of: one that is there already, or a new one. Raises KmsError where it may be neither."""
    known = versions.find(material_id)
    kind = call.parameters.get("ImportType") or (EXISTING if versions.all else NEW)
    claimed = call.parameters.get("KeyMaterialId")
    if claimed is not None and (claimed != material_id or known is None):
        raise _incorrect(key, f"The key material is not {claimed}.")
    if kind == EXISTING:
        if known is None:
            raise _incorrect(key, "The key material is not the one that was imported before.")
        return known
    if known is not None:
        raise _incorrect(key, f"The key material {material_id} is already associated with {key.arn}.")
    if key.is_replica:
        message = f"New key material is imported into the primary key of {key.arn} first."
        raise KmsError("UnsupportedOperationException", message, keys=(key.meant,))
    if versions.pending is not None:
        raise KmsError(
            "KMSInvalidStateException",
            f"New key material (id: {material_id}) cannot be imported into KMS key {key.arn},"
            f" because another key material (id: {versions.pending.id}) is pending rotation.",
            keys=(key.meant,),
        )
    created_s = round(around.clock(), 3)
    for replica in related(keys, key):
        of_replica = Versions(replica)
        of_replica.add(material_id, b"", created_s)
        _write(keys, replica, of_replica)
    return versions.add(material_id, b"", created_s)


def _importing(around: Surroundings, view: View, call: KmsCall) -> Key:
    """The key of a call that imports, as it is now. Raises KmsError where nothing can be imported into it."""
    key = managed_key(around, view, call, call.parameters["KeyId"])
    if key.origin != EXTERNAL:
        raise wrong_origin(key)
    check_not_pending_deletion(key)
    check_state(key, KeyState.UNAVAILABLE, KeyState.CREATING, KeyState.UPDATING)
    return key


def _stored(keys: KeysInChange, key: Key) -> Key:
    """The key as its row has it: with the material that has expired and that was not erased yet, which is maintenance's to
    record."""
    stored = keys.find_key(key.account_id, key.region, key.id)
    if stored is None:
        raise LookupError(f"{key.arn} is gone within its transaction")
    return stored


def _check_expiry(around: Surroundings, key: Key, call: KmsCall) -> None:
    valid_to_s, model = call.parameters.get("ValidTo"), call.parameters.get("ExpirationModel", EXPIRES)
    now_s = around.clock()
    if model == EXPIRES and valid_to_s is None:
        message = "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"
    elif model == DOES_NOT_EXPIRE and valid_to_s is not None:
        message = "A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE"
    elif valid_to_s is not None and valid_to_s <= now_s:
        message = "The validTo date must be in the future"
    elif valid_to_s is not None and valid_to_s > now_s + MOST_VALID_S:
        message = "The validTo date must be within 365 days"
    else:
        return
    raise KmsError("ValidationException", message, keys=(key.meant,))


def _check_members(key: Key, call: KmsCall) -> None:
    for member in ("ImportType", "KeyMaterialDescription", "KeyMaterialId"):
        if member in call.parameters:
            _check_symmetric(key, member)
    if call.parameters.get("ImportType") == NEW and "KeyMaterialId" in call.parameters:
        message = "KeyMaterialId cannot be specified with the ImportType NEW_KEY_MATERIAL"
        raise KmsError("ValidationException", message, keys=(key.meant,))


def _check_symmetric(key: Key, member: str) -> None:
    if not key.about.is_symmetric:
        message = f"{member} can be specified for symmetric encryption keys only"
        raise KmsError("ValidationException", message, keys=(key.meant,))


def _incorrect(key: Key, message: str) -> KmsError:
    return KmsError("IncorrectKeyMaterialException", message, keys=(key.meant,))


def _token_key(keys: KeysInChange, around: Surroundings) -> Secret:
    """The key that seals import tokens."""
    found = keys.tx.get(TOKEN_KEY, "", TOKEN_KEY)
    if found is not None:
        return found.secret
    made = Secret(around.random(TOKEN_KEY_BYTES))
    keys.tx.put(TOKEN_KEY, "", TOKEN_KEY, {}, made)
    return made


WORKS = {"GetParametersForImport": get_parameters_for_import, "ImportKeyMaterial": import_key_material}
CHANGES = {"DeleteImportedKeyMaterial": delete_imported_key_material}
