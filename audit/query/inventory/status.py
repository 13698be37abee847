"""What the log and the fates of KMS keys mean for an object: were its data keys unwrapped, and can it still be opened. No I/O.

An object has locks. One lock opens by any key of any `needed` of its groups:

    AWS Encryption SDK   one lock: each EDK wraps the same data key
    SOPS                 one lock: each recipient of a key group wraps the same; of several groups (Shamir) a threshold is needed
    all others           one lock for each data key: columns of a Parquet file, items of an export, blobs of a state file

The reader does not tell SOPS's recipients that are no KMS keys (age, PGP), but for groups that have no others: a file may be
called lost that such a recipient opens, and is shown with a note of that. Nothing is called safe that is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from audit.errors import QueryError
from audit.query.artifacts import encryption_sdk, sops
from audit.query.artifacts.artifact import WrappedKey
from audit.query.inventory.keys import KeyLife, KeyState
from audit.query.inventory.uses import Use, Wrapping


class Opened(Enum):
    """What the log says of a data key's unwrapping."""

    UNWRAPPED = "unwrapped"
    NEVER = "never unwrapped"  # the log knows the blob
    UNKNOWN = "not in the log"  # not minted, not unwrapped, not refused there
    NO_BLOB = "no KMS blob"  # wrapped by other means, or kept elsewhere


class Material(Enum):
    """Which of its key's material a data key is under, against the newest that the log has seen wrap something."""

    NEWEST = "newest"
    OLD = "old"
    UNKNOWN = "unknown"


class Loss(Enum):
    """What is left of an object when some KMS keys are gone, from best to worst."""

    NONE = "none"
    UNTOLD = "unknown"  # a key of it, or another way to open it, is not known
    PART = "in part"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key of an object, with what the log says of it. `use` is None where the log does not know the blob."""

    wrapped: WrappedKey
    use: Use | None = None
    life: KeyLife = field(default_factory=KeyLife)
    material: Material = Material.UNKNOWN

    @property
    def key(self) -> str | None:
        """The KMS key: as the log has it, else as the object names it."""
        return key_of(self.wrapped, self.use)

    @property
    def opened(self) -> Opened:
        if not self.wrapped.fingerprint:
            return Opened.NO_BLOB
        if self.use is None:
            return Opened.UNKNOWN
        return Opened.UNWRAPPED if self.use.unwrapped.times else Opened.NEVER


def key_of(wrapped: WrappedKey, use: Use | None) -> str | None:
    return (use.key if use is not None else None) or wrapped.key


def material_of(use: Use | None, newest: Wrapping | None, rotated: str | None) -> Material:
    """Which material a blob is under. `newest` is the last call that wrapped under its key, `rotated` when that was rotated."""
    if use is None:
        return Material.UNKNOWN
    if use.material is not None and newest is not None and newest.material is not None:
        is_old = use.material != newest.material or (rotated is not None and newest.time < rotated)
        return Material.OLD if is_old else Material.NEWEST
    is_old = use.made is not None and rotated is not None and use.made.time < rotated
    return Material.OLD if is_old else Material.UNKNOWN


# --- Losing keys

Gone = Callable[[DataKey], bool]


def is_deleted(key: DataKey) -> bool:
    """As far as the log is sure of it; where it is not, `loss` does not know."""
    return key.life.state is KeyState.DELETED and key.life.doubt is None


def is_going(key: DataKey) -> bool:
    """Deleted, or scheduled for it."""
    return key.life.state in (KeyState.DELETED, KeyState.SCHEDULED) and key.life.doubt is None


@dataclass(frozen=True, slots=True)
class KmsKey:
    """A KMS key that somebody asks about: by its ARN, or by its id, in any Region and account."""

    name: str

    @classmethod
    def parse(cls, text: str) -> KmsKey:
        """From a key ARN or a key id. Raises `QueryError` for an alias, which may have named other keys before."""
        if not names_a_key(text):
            raise QueryError(f"not a key: {text!r}; accepted: key ARN, key id (an alias may have named other keys before)")
        return cls(text)

    def is_named_by(self, name: str) -> bool:
        """Whether `name` names it. An id alone may be of another Region or account, and is taken for it."""
        if name.startswith("arn:") and self.name.startswith("arn:"):
            return name == self.name
        return _id(name) == _id(self.name)


_KEY_ID = re.compile(r"(?:arn:[^:]+:kms:[^:]*:[^:]*:key/)?(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def names_a_key(name: str | None) -> bool:
    """Whether `name` is a key ARN or a key id: an alias, or a name of the application's own, is no sure sign of a key."""
    return name is not None and _KEY_ID.fullmatch(name) is not None


def _id(name: str) -> str:
    return name.rpartition("/")[2]


def is_under(key: DataKey, wanted: KmsKey) -> bool | None:
    """Whether the data key is wrapped under the key `wanted`; None where nobody knows which key it is under."""
    if not key.wrapped.fingerprint or key.key is None or not names_a_key(key.key):
        return None
    return wanted.is_named_by(key.key)


def loss(keys: Sequence[DataKey], gone: Gone) -> Loss:
    """What is left of an object with `keys` where the KMS keys of those that are `gone` are deleted."""
    locks = [_lock_loss(lock, gone) for lock in locks_of(keys)]
    if locks and all(one is Loss.WHOLE for one in locks):
        return Loss.WHOLE
    return Loss.PART if Loss.WHOLE in locks else Loss.UNTOLD if Loss.UNTOLD in locks else Loss.NONE


@dataclass(frozen=True, slots=True)
class Lock:
    """Opens where at least `needed` of `groups` do; a group opens by any of its keys. `unseen` groups have keys of other means
    than KMS."""

    groups: tuple[tuple[DataKey, ...], ...]
    needed: int = 1
    unseen: int = 0


def _lock_loss(lock: Lock, gone: Gone) -> Loss:
    states = [min((_key_loss(key, gone) for key in group), key=_LOSSES.index) for group in lock.groups]
    sure = states.count(Loss.NONE)
    if sure >= lock.needed:
        return Loss.NONE
    return Loss.UNTOLD if sure + states.count(Loss.UNTOLD) + lock.unseen >= lock.needed else Loss.WHOLE


_LOSSES = list(Loss)


def _key_loss(key: DataKey, gone: Gone) -> Loss:
    if gone(key):
        # A multi-Region key: its related keys in other Regions open the blob too, as long as one is left.
        is_related = key.key is not None and _id(key.key).startswith("mrk-")
        return Loss.UNTOLD if is_related or key.wrapped.is_not_alone else Loss.WHOLE
    is_known = bool(key.wrapped.fingerprint) and names_a_key(key.key) and key.life.doubt is None
    return Loss.NONE if is_known else Loss.UNTOLD


_ALTERNATIVES = (encryption_sdk.FORMAT_V1, encryption_sdk.FORMAT_V2)
_GROUP = re.compile(r"sops\.key_groups\[(\d+)\]")
_THRESHOLD = re.compile(r"a share of the data key: (\w+) of (\d+) groups")


def locks_of(keys: Sequence[DataKey]) -> list[Lock]:
    """The locks of an object with `keys`, all of one format."""
    if not keys:
        return []
    match keys[0].wrapped.format:
        case format if format in _ALTERNATIVES:
            return [Lock((tuple(keys),))]
        case sops.FORMAT:
            return [_sops_lock(keys)]
        case _:
            return [Lock(((key,),)) for key in keys]


def _sops_lock(keys: Sequence[DataKey]) -> Lock:
    groups: dict[str, list[DataKey]] = {}
    threshold: int | None = None
    count = 0
    for key in keys:
        group = _GROUP.match(key.wrapped.where)
        groups.setdefault(group[1] if group else "", []).append(key)
        told = _THRESHOLD.match(key.wrapped.note or "")
        if told is not None:
            threshold, count = int(told[1]) if told[1].isdigit() else None, int(told[2])
    count = max(count, len(groups))
    needed = threshold or (count if count > 1 else 1)  # without a threshold SOPS needs all groups
    return Lock(tuple(map(tuple, groups.values())), needed, count - len(groups))
