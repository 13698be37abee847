"""A key's state: EnableKey, DisableKey, ScheduleKeyDeletion, CancelKeyDeletion."""

from __future__ import annotations

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.keys import Key, KeyState
from proxy.backends.local.lookup import PENDING_DELETIONS, check_not_pending_deletion, check_state, managed_key
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.versions import Versions
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError

LEAST_WINDOW_DAYS, MOST_WINDOW_DAYS, DEFAULT_WINDOW_DAYS = 7, 30, 30
DAY_S = 86400


def enable_key(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    return _turn(around, keys, call, KeyState.ENABLED)


def disable_key(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    return _turn(around, keys, call, KeyState.DISABLED)


def _turn(around: Surroundings, keys: KeysInChange, call: KmsCall, state: KeyState) -> Answer:
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    check_not_pending_deletion(key)
    check_state(key, KeyState.PENDING_IMPORT, KeyState.CREATING, KeyState.UPDATING)
    if key.state is not state:
        keys.alter_key(key, state=state.value)
    return Answer({}, (key.meant,))


def schedule_key_deletion(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """The bounds are those of the documentation; the service model's are wider. The waiting period of a primary begins when its
    last replica is deleted."""
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
    if key.multi_region is not None and not key.is_replica and key.multi_region.replicas:
        waits = KeyState.PENDING_REPLICA_DELETION
        keys.alter_key(key, state=waits.value, deletion_window_days=days)
        return Answer({"KeyId": key.arn, "KeyState": waits.value, "PendingWindowInDays": days}, (key.meant,))
    deletion_s = schedule(keys, key, days, around.clock())
    members = {
        "KeyId": key.arn,
        "DeletionDate": deletion_s,
        "KeyState": KeyState.PENDING_DELETION.value,
        "PendingWindowInDays": days,
    }
    return Answer(members, (key.meant,))


def schedule(keys: KeysInChange, key: Key, days: int, now_s: float) -> float:
    """Have the key deleted so many days from now. Returns the date."""
    deletion_s = round(now_s + days * DAY_S, 3)
    keys.alter_key(key, state=KeyState.PENDING_DELETION.value, deletion_s=deletion_s, deletion_window_days=None)
    return deletion_s


def cancel_key_deletion(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """The key is then Disabled, as with AWS; one that lacks material waits for it again."""
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    if key.state not in PENDING_DELETIONS:
        raise KmsError("KMSInvalidStateException", f"{key.arn} is not pending deletion.", keys=(key.meant,))
    has_material = key.custom_key_store_id is not None or not Versions(key).lacks_material
    state = KeyState.DISABLED if has_material else KeyState.PENDING_IMPORT
    keys.alter_key(key, state=state.value, deletion_s=None, deletion_window_days=None)
    return Answer({"KeyId": key.arn}, (key.meant,))


CHANGES = {
    "EnableKey": enable_key,
    "DisableKey": disable_key,
    "ScheduleKeyDeletion": schedule_key_deletion,
    "CancelKeyDeletion": cancel_key_deletion,
}
