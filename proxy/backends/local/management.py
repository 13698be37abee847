"""A key's life: CreateKey, DescribeKey, ListKeys, EnableKey, DisableKey, ScheduleKeyDeletion, CancelKeyDeletion."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.crypto import MATERIAL_BYTES, MATERIAL_ID_BYTES
from proxy.backends.local.keys import ENCRYPT_DECRYPT, SYMMETRIC, Key, KeyState, KeyTables, new_key_body
from proxy.backends.local.lookup import Surroundings, check_not_pending_deletion, managed_key, named_key
from proxy.backends.local.pages import page
from proxy.backends.local.tags import read_tags
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError
from proxy.sealed_store import Secret

LEAST_WINDOW_DAYS, MOST_WINDOW_DAYS, DEFAULT_WINDOW_DAYS = 7, 30, 30
_DAY_S = 86400

#: What CreateKey can be given here; any other value is refused rather than ignored.
_ONLY = (
    ("KeyUsage", ENCRYPT_DECRYPT),
    ("KeySpec", SYMMETRIC),
    ("CustomerMasterKeySpec", SYMMETRIC),
    ("Origin", "AWS_KMS"),
)
#: Members that would be dropped without effect, were they let through.
_NOT_YET = ("Policy", "CustomKeyStoreId", "XksKeyId")


def create_key(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    parameters = call.parameters
    if "KeySpec" in parameters and "CustomerMasterKeySpec" in parameters:
        raise KmsError(
            "ValidationException",
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.",
        )
    for member, only in _ONLY:
        if parameters.get(member, only) != only:
            raise _unsupported(f"{member} {parameters[member]} is not supported yet; {only} is.")
    for member in _NOT_YET:
        if parameters.get(member) is not None:
            raise _unsupported(f"{member} is not supported yet.")
    if parameters.get("MultiRegion"):
        raise _unsupported("Multi-Region keys are not supported yet.")
    tags = read_tags(parameters.get("Tags") or ())
    key_id = str(UUID(bytes=around.random(16), version=4))
    material_id = around.random(MATERIAL_ID_BYTES).hex()
    description = parameters.get("Description", "")
    body = new_key_body(material_id, round(around.clock(), 3), around.account_id, description, tags)
    key = keys.add_key(call.region, key_id, body, Secret(around.random(MATERIAL_BYTES)))
    return Answer({"KeyMetadata": describe(key)}, (key.meant,))


def describe(key: Key) -> dict[str, Any]:
    """KeyMetadata, with the members that AWS returns for such a key."""
    metadata = {
        "AWSAccountId": key.account_id,
        "KeyId": key.id,
        "Arn": key.arn,
        "CreationDate": key.created_s,
        "Enabled": key.state is KeyState.ENABLED,
        "Description": key.description,
        "KeyUsage": key.usage,
        "KeyState": key.state.value,
        "Origin": key.origin,
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": key.spec,
        "KeySpec": key.spec,
        "EncryptionAlgorithms": [SYMMETRIC],
        "MultiRegion": False,
        "CurrentKeyMaterialId": key.current.id,
    }
    if key.deletion_s is not None:
        metadata["DeletionDate"] = key.deletion_s
    return metadata


def describe_key(around: Surroundings, tables: KeyTables, call: KmsCall) -> Answer:
    key = named_key(around, tables, call, call.parameters["KeyId"])
    return Answer({"KeyMetadata": describe(key)}, (key.meant,))


def list_keys(around: Surroundings, tables: KeyTables, call: KmsCall) -> Answer:
    table = tables.region(call.region)
    now_s = around.clock()
    owners = sorted(call.parameters.get("ResourceOwners") or ("SELF",))
    keys, more = page(
        call,
        # Nothing is shared here through AWS RAM: a list without SELF is empty.
        lambda after: (key for key in table.keys_after(after) if not key.is_gone(now_s) and "SELF" in owners),
        lambda key: key.id,
        of=",".join(owners),
        default=100,
        most=1000,
    )
    return Answer({"Keys": [{"KeyId": key.id, "KeyArn": key.arn} for key in keys], **more})


def enable_key(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    return _turn(around, keys, call, KeyState.ENABLED)


def disable_key(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    return _turn(around, keys, call, KeyState.DISABLED)


def _turn(around: Surroundings, keys: KeysInChange, call: KmsCall, state: KeyState) -> Answer:
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    check_not_pending_deletion(key)
    if key.state is not state:
        keys.alter_key(key, state=state.value)
    return Answer({}, (key.meant,))


def schedule_key_deletion(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """The bounds are those of the documentation; the service model's are wider."""
    days: int = call.parameters.get("PendingWindowInDays", DEFAULT_WINDOW_DAYS)
    if not LEAST_WINDOW_DAYS <= days <= MOST_WINDOW_DAYS:
        bound = (
            f"greater than or equal to {LEAST_WINDOW_DAYS}"
            if days < LEAST_WINDOW_DAYS
            else f"less than or equal to {MOST_WINDOW_DAYS}"
        )
        raise KmsError(
            "ValidationException",
            f"1 validation error detected: Value '{days}' at 'pendingWindowInDays' failed to satisfy constraint:"
            f" Member must have value {bound}",
        )
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    check_not_pending_deletion(key)
    deletion_s = round(around.clock() + days * _DAY_S, 3)
    keys.alter_key(key, state=KeyState.PENDING_DELETION.value, deletion_s=deletion_s)
    members = {
        "KeyId": key.arn,
        "DeletionDate": deletion_s,
        "KeyState": KeyState.PENDING_DELETION.value,
        "PendingWindowInDays": days,
    }
    return Answer(members, (key.meant,))


def cancel_key_deletion(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """The key is then Disabled, as with AWS."""
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    if key.state is not KeyState.PENDING_DELETION:
        raise KmsError("KMSInvalidStateException", f"{key.arn} is not pending deletion.", keys=(key.meant,))
    keys.alter_key(key, state=KeyState.DISABLED.value, deletion_s=None)
    return Answer({"KeyId": key.arn}, (key.meant,))


def _unsupported(message: str) -> KmsError:
    return KmsError("UnsupportedOperationException", message)
