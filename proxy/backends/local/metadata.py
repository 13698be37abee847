"""What is known of keys: DescribeKey, ListKeys, UpdateKeyDescription; and KeyMetadata, which other answers have too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.desk import Desk
from proxy.backends.local.keys import Key, KeyState
from proxy.backends.local.lookup import check_not_pending_deletion, managed_key, named_key
from proxy.backends.local.pages import page_in_turns
from proxy.backends.local.specs import ALGORITHMS_MEMBER
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.kms.arn import key_arn


def describe(key: Key) -> dict[str, Any]:
    """KeyMetadata, with the members that AWS returns for such a key."""
    metadata: dict[str, Any] = {
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
        ALGORITHMS_MEMBER[key.usage]: list(key.algorithms),
        "MultiRegion": key.multi_region is not None,
    }
    if key.about.is_symmetric and key.materials and key.custom_key_store_id is None:
        metadata["CurrentKeyMaterialId"] = key.current.id
    if key.multi_region is not None:
        metadata["MultiRegionConfiguration"] = _regions(key)
    for member, value in (
        ("DeletionDate", key.deletion_s),
        ("PendingDeletionWindowInDays", key.deletion_window_days),
        ("ValidTo", key.valid_to_s),
        ("ExpirationModel", key.expiration_model),
        ("CustomKeyStoreId", key.custom_key_store_id),
    ):
        if value is not None:
            metadata[member] = value
    if key.xks_key_id is not None:
        metadata["XksKeyConfiguration"] = {"Id": key.xks_key_id}
    return metadata


def _regions(key: Key) -> dict[str, Any]:
    regions = key.multi_region
    if regions is None:
        raise ValueError(f"{key.arn} is in one region")

    def there(region: str) -> dict[str, str]:
        return {"Arn": key_arn(region, key.account_id, key.id), "Region": region}

    return {
        "MultiRegionKeyType": "PRIMARY" if regions.primary == key.region else "REPLICA",
        "PrimaryKey": there(regions.primary),
        "ReplicaKeys": [there(region) for region in regions.replicas],
    }


def describe_key(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key = named_key(around, tables, call, call.parameters["KeyId"])
    return Answer({"KeyMetadata": describe(key)}, (key.meant,))


async def list_keys(desk: Desk, call: KmsCall) -> Answer:
    """A key's row is opened when it is first looked into, and a page can have a thousand of them."""
    around = desk.around
    around.authoriser.check(desk.tables, call, "kms:ListKeys", None)
    now_s = around.clock()
    owners = sorted(call.parameters.get("ResourceOwners") or ("SELF",))

    def keys_after(name: str) -> Iterator[Key]:
        table = desk.tables.of(call.principal.account_id, call.region)
        # Nothing is shared here through AWS RAM: a list without SELF is empty.
        return (key for key in table.keys.after(name) if not key.is_gone(now_s) and "SELF" in owners)

    keys, more = await page_in_turns(
        call,
        keys_after,
        lambda key: key.id,
        of=",".join([call.principal.account_id, *owners]),
        default=100,
        most=1000,
    )
    return Answer({"Keys": [{"KeyId": key.id, "KeyArn": key.arn} for key in keys], **more})


def update_key_description(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    check_not_pending_deletion(key)
    if key.description != call.parameters["Description"]:
        keys.alter_key(key, description=call.parameters["Description"])
    return Answer({}, (key.meant,))


READINGS = {"DescribeKey": describe_key}
CHANGES = {"UpdateKeyDescription": update_key_description}
WORKS = {"ListKeys": list_keys}
