"""Trees by their definitions in RFC 6962 and C2SP tlog-tiles, word by word: what the tests hold the real code against."""

from __future__ import annotations

from functools import lru_cache

from audit.merkle import HASH_BYTES, leaf_hash, root_of
from audit.tiles import TILE_BYTES, Levels


@lru_cache
def leaves_of(count: int) -> list[bytes]:
    """The leaf hashes of the records 0, 1, …, as text."""
    return [leaf_hash(b"%d" % number) for number in range(count)]


@lru_cache
def levels_of(count: int) -> Levels:
    """The levels of the tree over `leaves_of(count)`; whoever reads beyond them is told."""
    levels = [b"".join(leaves_of(count))]
    while len(levels[-1]) >= TILE_BYTES:
        whole = len(levels[-1]) // TILE_BYTES * TILE_BYTES
        tiles = [levels[-1][start : start + TILE_BYTES] for start in range(0, whole, TILE_BYTES)]
        split = [[tile[at : at + HASH_BYTES] for at in range(0, TILE_BYTES, HASH_BYTES)] for tile in tiles]
        levels.append(b"".join(root_of(hashes) for hashes in split))

    def read(level: int, first: int, count: int) -> bytes:
        found = levels[level][first * HASH_BYTES : (first + count) * HASH_BYTES]
        assert len(found) == count * HASH_BYTES, f"there are no {count} hashes of level {level} from {first} on"
        return found

    return read


def inclusion_by_definition(leaves: list[bytes], index: int) -> list[bytes]:
    """RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion_by_definition(leaves[:split], index), root_of(leaves[split:])]
    return [*inclusion_by_definition(leaves[split:], index - split), root_of(leaves[:split])]


def consistency_by_definition(leaves: list[bytes], old_size: int, *, complete: bool = True) -> list[bytes]:
    """RFC 6962, section 2.1.2."""
    if old_size == len(leaves):
        return [] if complete else [root_of(leaves)]
    split = _split(len(leaves))
    if old_size <= split:
        return [*consistency_by_definition(leaves[:split], old_size, complete=complete), root_of(leaves[split:])]
    return [*consistency_by_definition(leaves[split:], old_size - split, complete=False), root_of(leaves[:split])]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return max(1 << power for power in range(20) if 1 << power < size)
