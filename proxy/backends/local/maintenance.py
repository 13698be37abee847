"""What is due of a key, carried out: deletion, expiry, rotation. Each is looked at again inside its transaction, so that of
several workers one does it, and none what was cancelled meanwhile.

A key may have tens of thousands of grants, which are no use to anybody from its deletion date on (`Key.is_gone`): most of them
go before it, in transactions of `GRANTS_AT_ONCE`, between which others change what they have to. A crash in between leaves a key
whose deletion is still due.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.backends.local import effects
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.due import Due, Happening, due_of
from proxy.backends.local.imports import erase
from proxy.backends.local.keys import ALIAS, Key, KeyState, alias_of
from proxy.backends.local.last_uses import LAST_USE
from proxy.backends.local.life import DEFAULT_WINDOW_DAYS, schedule
from proxy.backends.local.related import related
from proxy.backends.local.replicas import set_replicas
from proxy.backends.local.rotation import AUTOMATIC, ON_DEMAND, rotate_by_itself, tell
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.versions import Versions
from proxy.domain import KeyUse

#: So many grants take about as long as a sync of the disk.
GRANTS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Done:
    """What was done: the keys that it was done to, and what the event says of it, once for each thing of the kind."""

    keys: tuple[KeyUse, ...]
    details: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Intent:
    """The intent that was committed: the id of its event, and its time, microseconds since the epoch."""

    id: str
    at_us: int


def clear(keys: KeysInChange, around: Surroundings, due: Due, grant_ids: Sequence[str]) -> bool:
    """Delete these grants of a key, whose deletion is due. False where it is not, or not any more; nothing was done then."""
    key = keys.find_key(due.account_id, due.region, due.key_id)
    if key is None or not key.is_gone(around.clock()):
        return False
    keys.delete_grants(due.region, grant_ids)
    return True


def carry_out(keys: KeysInChange, around: Surroundings, due: Due, intent: Intent) -> Done | None:
    """Do what is due, and keep that it was done. None where it is not due, or not any more."""
    key = keys.find_key(due.account_id, due.region, due.key_id)
    still = None if key is None else due_of(key)
    if key is None or still is None or still.happening is not due.happening or still.at_s > around.clock():
        return None
    done = _DOING[due.happening](around, keys, key, still)
    effects.keep(keys.tx, intent.id, intent.at_us, done.keys)
    return done


def _delete(around: Surroundings, keys: KeysInChange, key: Key, _: Due) -> Done:
    """The key goes with its material, its aliases and its grants. The last replica's end begins its primary's waiting period."""
    for entry in keys.tx.children(ALIAS, key.region, key.id):
        keys.delete_alias(alias_of(entry))
    keys.delete_grants_of(key)
    keys.tx.delete(LAST_USE, key.region, key.id)
    others = related(keys, key)
    keys.delete_key(key)
    if others:
        left = sorted(one.region for one in others if one.is_replica)
        set_replicas(keys, others[0], left)
        primary = next((one for one in others if not one.is_replica), None)
        if primary is not None and primary.state is KeyState.PENDING_REPLICA_DELETION and not left:
            schedule(keys, primary, primary.deletion_window_days or DEFAULT_WINDOW_DAYS, around.clock())
    return Done((key.meant,), ({"keyId": key.id},))


def _expire(around: Surroundings, keys: KeysInChange, key: Key, _: Due) -> Done:
    versions = Versions(key)
    gone = versions.expired(around.clock())
    erase(keys, key, versions, gone)
    of_symmetric = key.about.is_symmetric
    return Done((key.meant,), tuple({"keyId": key.id} | ({"keyMaterialId": one.id} if of_symmetric else {}) for one in gone))


def _rotate(around: Surroundings, keys: KeysInChange, key: Key, due: Due) -> Done:
    return _rotated(keys, key, AUTOMATIC, [rotate_by_itself(around, keys, key, due)])


def _tell(_: Surroundings, keys: KeysInChange, key: Key, __: Due) -> Done:
    return _rotated(keys, key, ON_DEMAND, tell(keys, key))


def _rotated(keys: KeysInChange, key: Key, kind: str, rotations: list[tuple[str, str]]) -> Done:
    details = tuple(
        {
            "rotationType": kind,
            "keyOrigin": key.origin,
            "previousKeyMaterialId": previous,
            "currentKeyMaterialId": current,
            "keyId": key.id,
        }
        for previous, current in rotations
    )
    return Done((key.meant, *(one.meant for one in related(keys, key))), details)


_DOING: dict[Happening, Callable[[Surroundings, KeysInChange, Key, Due], Done]] = {
    Happening.DELETION: _delete,
    Happening.EXPIRY: _expire,
    Happening.ROTATION: _rotate,
    Happening.ROTATED: _tell,
}
