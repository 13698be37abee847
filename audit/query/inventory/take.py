"""Takes the inventory: objects as the crawl brings them, judged in batches, which grow so that the first answers come soon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from audit.query.artifacts.recognise import UNKNOWN, Contents
from audit.query.inventory.keys import KeyRing
from audit.query.inventory.status import DataKey, KmsKey, Loss, is_deleted, is_going, is_under, key_of, loss, material_of
from audit.query.inventory.uses import Snapshot

#: Objects and data keys of the first batch, and of the largest: each is twice the one before.
FIRST_BATCH, LARGEST_BATCH = 500, 50_000


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of the store. `lost`: by keys that are deleted; `going`: once those are that are scheduled for it; `asked`: once
    the key that was asked about is, too; None where none was, or the object is not under it."""

    name: str
    keys: tuple[DataKey, ...]
    fault: str | None = None
    lost: Loss = Loss.NONE
    going: Loss = Loss.NONE
    asked: Loss | None = None


def take(
    objects: Iterable[Contents],
    snapshot: Snapshot,
    ring: KeyRing,
    wanted: KmsKey | None = None,
    first_batch: int = FIRST_BATCH,
    largest_batch: int = LARGEST_BATCH,
) -> Iterator[StoredObject]:
    """Each object with its status, in the order of `objects`. Holds one batch at a time. Raises `QueryError`, OSError."""
    batch: list[Contents] = []
    size, held = first_batch, 0
    for contents in objects:
        batch.append(contents)
        held += max(1, len(contents.keys))
        if held >= size:
            yield from _judged(batch, snapshot, ring, wanted)
            batch, held, size = [], 0, min(2 * size, largest_batch)
    yield from _judged(batch, snapshot, ring, wanted)


def _judged(batch: Sequence[Contents], snapshot: Snapshot, ring: KeyRing, wanted: KmsKey | None) -> Iterator[StoredObject]:
    uses = snapshot.uses_of([fingerprint for contents in batch for fingerprint in contents.fingerprints])
    newest = ring.newest({use.key for use in uses.values() if use.key is not None and use.material is not None})
    for contents in batch:
        keys = []
        for wrapped in contents.keys:
            use = uses.get(wrapped.fingerprint)
            if wrapped.format == UNKNOWN and use is None:
                continue  # any small file: a blob of a shape unknown here is known by the log alone
            arn = key_of(wrapped, use) or ""
            material = material_of(use, newest.get(arn), ring.rotated(arn))
            keys.append(DataKey(wrapped, use, ring.life(arn), material))
        yield StoredObject(
            contents.name, tuple(keys), contents.fault, loss(keys, is_deleted), loss(keys, is_going), _asked(keys, wanted)
        )


def _asked(keys: Sequence[DataKey], wanted: KmsKey | None) -> Loss | None:
    """What the deletion of `wanted` leaves of an object, if it is under that key, or if nobody knows."""
    if wanted is None:
        return None
    under = [is_under(key, wanted) for key in keys]
    left = loss(keys, lambda key: is_going(key) or is_under(key, wanted) is True)
    return left if True in under or (None in under and left is not Loss.NONE) else None
