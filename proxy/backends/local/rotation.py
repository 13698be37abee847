"""EnableKeyRotation, DisableKeyRotation, GetKeyRotationStatus, RotateKeyOnDemand, ListKeyRotations.

Only symmetric encryption keys rotate: those with material of ours by themselves and on demand, those with imported material on
demand, to the material that was imported for it. A rotation on demand is done when the call is answered; with AWS it takes a
while longer. The primary of a multi-Region key rotates for all, its replicas follow in the same transaction.

A key's row has ``rotation`` while automatic rotation is on: ``period_days`` and ``next_s``; in replicas too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.creation import AWS_KMS, EXTERNAL
from proxy.backends.local.crypto import MATERIAL_BYTES, MATERIAL_ID_BYTES
from proxy.backends.local.due import Due, Happening, due_of
from proxy.backends.local.keys import Key, KeyState
from proxy.backends.local.lookup import PENDING_DELETIONS, check_state, check_usable, managed_key, wrong_origin
from proxy.backends.local.pages import page
from proxy.backends.local.related import related
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables, View
from proxy.backends.local.versions import DOES_NOT_EXPIRE, Version, Versions
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError

DAY_S = 86_400
DEFAULT_PERIOD_DAYS = 365
MOST_ROTATIONS_ON_DEMAND = 25
#: RotateKeyOnDemand is refused this long before an automatic rotation (ConflictException's documentation).
CONFLICT_S = 20 * 60

AUTOMATIC, ON_DEMAND = "AUTOMATIC", "ON_DEMAND"


def enable_key_rotation(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """The first rotation comes a period from now; a call that changes nothing leaves the date."""
    key = _rotating_itself(around, keys, call)
    period_days: int = call.parameters.get("RotationPeriodInDays", DEFAULT_PERIOD_DAYS)
    rotation = key.body.get("rotation")
    if rotation is None or rotation["period_days"] != period_days:
        next_s = round(around.clock() + period_days * DAY_S, 3)
        _put_rotation(keys, key, {"period_days": period_days, "next_s": next_s})
    return Answer({}, (key.meant,))


def disable_key_rotation(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    key = _rotating_itself(around, keys, call)
    if "rotation" in key.body:
        _put_rotation(keys, key, None)
    return Answer({}, (key.meant,))


def get_key_rotation_status(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    """Of keys that cannot rotate AWS says that they do not; of imported material, and of custom key stores, it refuses to
    speak."""
    key = managed_key(around, tables, call, call.parameters["KeyId"])
    if key.origin != AWS_KMS:
        raise wrong_origin(key)
    rotation = key.body.get("rotation")
    members: dict[str, Any] = {"KeyId": key.id, "KeyRotationEnabled": False}
    if rotation is not None and key.state not in PENDING_DELETIONS:
        members["KeyRotationEnabled"] = True
        members["RotationPeriodInDays"] = rotation["period_days"]
        members["NextRotationDate"] = rotation["next_s"]
    return Answer(members, (key.meant,))


def rotate_key_on_demand(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    _check_kind(key)
    if key.custom_key_store_id is not None:
        raise wrong_origin(key)
    _check_primary(key)
    check_usable(key)
    now_s = around.clock()
    if key.origin == EXTERNAL:
        _check_pending(keys, key)
    rotations = [one.facts["rotation"]["type"] for one in key.materials if "rotation" in one.facts]
    if rotations.count(ON_DEMAND) >= MOST_ROTATIONS_ON_DEMAND:
        raise KmsError(
            "LimitExceededException",
            "The on-demand rotations limit has been reached for the given keyId."
            f" No more on-demand rotations can be performed for this key: {key.arn}",
            keys=(key.meant,),
        )
    due = due_of(key)
    if due is not None and due.happening is Happening.ROTATION and due.at_s <= now_s + CONFLICT_S:
        message = f"An automatic rotation of {key.arn} is in progress, or is to begin within 20 minutes."
        raise KmsError("ConflictException", message, keys=(key.meant,))
    rotate(around, keys, key, ON_DEMAND)
    return Answer({"KeyId": key.id}, (key.meant,))


def list_key_rotations(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    """In the order in which the materials came."""
    key = managed_key(around, tables, call, call.parameters["KeyId"])
    _check_kind(key)
    if key.custom_key_store_id is not None:
        raise wrong_origin(key)
    listed = call.parameters.get("IncludeKeyMaterial", "ROTATIONS_ONLY")
    entries = {f"{number:06d}": entry for number, entry in enumerate(_entries(tables, key, listed == "ALL_KEY_MATERIAL"))}
    names, more = page(
        call,
        lambda after: (name for name in entries if name > after),
        lambda name: name,
        of=f"{key.arn} {listed}",
        default=100,
        most=1000,
    )
    return Answer({"Rotations": [entries[name] for name in names], **more}, (key.meant,))


def rotate(around: Surroundings, keys: KeysInChange, key: Key, kind: str) -> tuple[str, str]:
    """Give `key`, and its replicas, new current material. Returns the ids of the material before and of the new one."""
    now_s = round(around.clock(), 3)
    fresh = None
    if key.origin == AWS_KMS:
        fresh = around.random(MATERIAL_ID_BYTES).hex(), around.random(MATERIAL_BYTES)
    ids = ("", "")
    for one in (*related(keys, key), key):  # the key itself last: what it turned from and to is returned
        versions = Versions(one)
        if fresh is not None:
            versions.add(*fresh, now_s)
        rotation: dict[str, Any] = {"date_s": now_s, "type": kind}
        if kind == ON_DEMAND and one is key:
            rotation["untold"] = True
        ids = versions.turn(rotation)
        keys.alter_key(one, versions.secret, **versions.members)
    return ids


def rotate_by_itself(around: Surroundings, keys: KeysInChange, key: Key, due: Due) -> tuple[str, str]:
    """The automatic rotation that is due: the next comes a period later, counted from now where that is past already."""
    ids = rotate(around, keys, key, AUTOMATIC)
    rotation = key.body["rotation"]
    period_s = rotation["period_days"] * DAY_S
    now_s = around.clock()
    next_s = due.at_s + period_s if due.at_s + period_s > now_s else round(now_s + period_s, 3)
    _put_rotation(keys, key, {**rotation, "next_s": next_s})
    return ids


def tell(keys: KeysInChange, key: Key) -> list[tuple[str, str]]:
    """Mark the rotations on demand whose events were not recorded yet; the ids of the material before and of the new one of
    each."""
    versions = Versions(key)
    told = []
    for previous, one in zip(versions.all, versions.all[1:], strict=False):
        if one.facts.get("rotation", {}).get("untold"):
            one.facts["rotation"] = {name: value for name, value in one.facts["rotation"].items() if name != "untold"}
            told.append((previous.id, one.id))
    keys.alter_key(key, versions.secret, **versions.members)
    return told


def _put_rotation(keys: KeysInChange, key: Key, rotation: dict[str, Any] | None) -> None:
    for one in (key, *related(keys, key)):
        keys.alter_key(one, rotation=rotation)


def _rotating_itself(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Key:
    """The key of a call about automatic rotation. Raises KmsError where it has none to speak of."""
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    _check_kind(key)
    if key.origin != AWS_KMS:
        raise wrong_origin(key)
    _check_primary(key)
    check_state(key, KeyState.DISABLED, *PENDING_DELETIONS, KeyState.CREATING, KeyState.UPDATING)
    return key


def _check_kind(key: Key) -> None:
    """AWS says nothing beside the code."""
    if not key.about.is_symmetric:
        raise KmsError("UnsupportedOperationException", keys=(key.meant,))


def _check_primary(key: Key) -> None:
    if key.is_replica:
        raise KmsError("UnsupportedOperationException", f"{key.arn} is not a multi-Region primary key.", keys=(key.meant,))


def _check_pending(keys: KeysInChange, key: Key) -> None:
    """Whether there is imported material to rotate to, also in each replica."""
    pending = Versions(key).pending
    if pending is None or not pending.secret:
        message = f"No available key material pending rotation for the key: {key.arn}."
        raise KmsError("KMSInvalidStateException", message, keys=(key.meant,))
    if not _is_everywhere(keys, key, pending):
        message = f"The key material {pending.id} is not imported into each replica of {key.arn} yet."
        raise KmsError("KMSInvalidStateException", message, keys=(key.meant,))


def _is_everywhere(view: View, key: Key, pending: Version) -> bool:
    found = [Versions(one).find(pending.id) for one in (key, *related(view, key))]
    return all(one is not None and one.secret for one in found)


def _entries(tables: Tables, key: Key, is_all: bool) -> Iterator[dict[str, Any]]:  # Any: as `Members`
    versions = Versions(key)
    for number, one in enumerate(versions.all):
        facts, rotation = one.facts, one.facts.get("rotation")
        if rotation is None and not is_all:
            continue
        entry: dict[str, Any] = {"KeyId": key.id, "KeyMaterialId": one.id}
        if one is versions.pending:
            is_ready = _is_everywhere(tables, key, one)
            entry["KeyMaterialState"] = "PENDING_ROTATION" if is_ready else "PENDING_MULTI_REGION_IMPORT_AND_ROTATION"
        else:
            entry["KeyMaterialState"] = "CURRENT" if number == versions.current else "NON_CURRENT"
        if key.origin == EXTERNAL:
            entry["ImportState"] = "IMPORTED" if one.secret else "PENDING_IMPORT"
            for member, name in (("KeyMaterialDescription", "description"), ("ValidTo", "valid_to_s")):
                if name in facts:
                    entry[member] = facts[name]
            if one.secret:
                entry["ExpirationModel"] = facts.get("expiration_model", DOES_NOT_EXPIRE)
        if rotation is not None:
            entry["RotationDate"], entry["RotationType"] = rotation["date_s"], rotation["type"]
        yield entry


READINGS = {"GetKeyRotationStatus": get_key_rotation_status, "ListKeyRotations": list_key_rotations}
CHANGES = {
    "EnableKeyRotation": enable_key_rotation,
    "DisableKeyRotation": disable_key_rotation,
    "RotateKeyOnDemand": rotate_key_on_demand,
}
