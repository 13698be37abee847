"""The versions of a key's material, taken out of its row, changed, and put back. Pure.

A version's entry in the row may have, beside what `keys` says: ``rotation`` (``date_s``, ``type``, and ``untold`` until the
event of it is recorded), and of imported material ``valid_to_s``, ``expiration_model``, ``description``. A version behind the
current one is pending: imported, and not rotated to yet. A version that was deleted or has expired stays in the list, with
nothing in the secret, so that the same material can come back; a pending one goes altogether, except from a replica, whose list
is the primary's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.backends.local.keys import KEY, Key, KeyState, key_of
from proxy.sealed_store import Entry, Secret

EXPIRES, DOES_NOT_EXPIRE = "KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE"
_EXPIRY = ("valid_to_s", "expiration_model")


@dataclass(slots=True)
class Version:
    """One version: its entry in the row, and its material, empty where it is gone."""

    facts: dict[str, Any]  # Any: JSON, as in the row
    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        found: str = self.facts["id"]
        return found


class Versions:
    """Those of one key, in the order in which they came; `current` is an index, -1 where there is none yet."""

    def __init__(self, key: Key) -> None:
        self.all = [Version(dict(one.facts), one.secret) for one in key.materials]
        self.current = range(len(self.all))[key.current_index] if self.all else -1
        self._follows = key.is_replica

    @property
    def pending(self) -> Version | None:
        """The one that the next rotation on demand makes current."""
        return self.all[self.current + 1] if self.current + 1 < len(self.all) else None

    @property
    def lacks_material(self) -> bool:
        """Whether there is none yet, or one that ciphertexts were made with is gone."""
        return not self.all or not all(one.secret for one in self.all[: self.current + 1])

    def find(self, material_id: str) -> Version | None:
        return next((one for one in self.all if one.id == material_id), None)

    def add(self, material_id: str, secret: bytes, created_s: float) -> Version:
        """A version behind all others: current where it is the first, pending otherwise."""
        new = Version({"id": material_id, "created_s": created_s}, secret)
        self.all.append(new)
        if self.current < 0:
            self.current = 0
        return new

    def turn(self, rotation: dict[str, Any]) -> tuple[str, str]:  # Any: JSON, as in the row
        """Make the pending version current. Returns the ids of the one before and of this one."""
        previous = self.all[self.current]
        self.current += 1
        self.all[self.current].facts["rotation"] = rotation
        return previous.id, self.all[self.current].id

    def erase(self, version: Version) -> None:
        if version is self.pending and not self._follows:
            self.all.remove(version)
            return
        version.secret = b""
        for name in _EXPIRY:
            version.facts.pop(name, None)

    def expired(self, now_s: float) -> list[Version]:
        return [one for one in self.all if one.secret and one.facts.get("valid_to_s", now_s + 1) <= now_s]

    @property
    def members(self) -> dict[str, Any]:
        """What `KeysInChange.alter_key` is to write, beside `secret`."""
        ends = [one.facts["valid_to_s"] for one in self.all if one.secret and "valid_to_s" in one.facts]
        current = self.all[self.current].facts if self.all else {}
        return {
            "materials": [{**one.facts, "size": len(one.secret)} for one in self.all],
            "current": None if self.pending is None else self.current,
            "expires_s": min(ends, default=None),
            **{name: current.get(name) for name in _EXPIRY},
        }

    @property
    def secret(self) -> Secret:
        return Secret(b"".join(one.secret for one in self.all))


def state_with(versions: Versions, state: KeyState) -> KeyState:
    """The state of a key that was in `state`, with the material that it has now."""
    if versions.lacks_material:
        return KeyState.PENDING_IMPORT if state in (KeyState.ENABLED, KeyState.DISABLED) else state
    return KeyState.ENABLED if state is KeyState.PENDING_IMPORT else state


def as_of(key: Key, now_s: float) -> Key:
    """The key without the material that has expired by now, whether or not it was erased already."""
    if key.expires_s is None or key.expires_s > now_s:
        return key
    versions = Versions(key)
    for version in versions.expired(now_s):
        versions.erase(version)
    body = {**key.body, **versions.members, "state": state_with(versions, key.state).value}
    body = {name: value for name, value in body.items() if value is not None or name == "deletion_s"}
    return key_of(Entry.opened(KEY, key.region, key.id, body, versions.secret))
