"""The tree as tiles: 256 hashes wide, eight levels of nodes high; and proofs from a few of them. Pure.

Level 0 is the leaf hashes, one after another; level L has the root of each full tile of level L-1. Every other node is some
hashings above hashes that stand in a level. So a proof in a tree of n leaves takes O(log n) looks into the levels.

Source: C2SP tlog-tiles; RFC 6962, sections 2.1.1 and 2.1.2. What checks the proofs is in `audit.merkle`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from audit.merkle import EMPTY_ROOT, HASH_BYTES, node_hash

WIDTH = 256  # hashes in a full tile
HEIGHT = 8  # levels of nodes that it spans
TILE_BYTES = WIDTH * HASH_BYTES

#: Reads `count` hashes of `level` from number `first` on, one after another. Raises what reading raises.
Levels: TypeAlias = Callable[[int, int, int], bytes]

_PATH = re.compile(
    r"(?P<level>0|[1-9][0-9]?|entries)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?", re.ASCII
)
_MAX_LEVEL = 63
_MAX_INDEX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class TileName:
    """A tile, or with `level` None a bundle of entries, as it is asked for; `width` is 256 for a full one."""

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """As in a URL, below ``tile/``: ``0/x001/x234/067.p/8``."""
        digits = f"{self.index:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        level = "entries" if self.level is None else self.level
        return "/".join([str(level), *(f"x{group}" for group in groups[:-1]), groups[-1]]) + partial

    @classmethod
    def parse(cls, path: str) -> TileName | None:
        """The inverse of `path`; None where it is no such path, or not as it is to be written."""
        found = _PATH.fullmatch(path)
        if found is None:
            return None
        level = None if found["level"] == "entries" else int(found["level"])
        digits = found["index"].replace("x", "").replace("/", "")
        if len(digits) > _MAX_INDEX_DIGITS or (level is not None and level > _MAX_LEVEL):
            return None
        name = cls(level, int(digits), int(found["width"] or WIDTH))
        return name if name.path == path else None

    def is_in(self, size: int) -> bool:
        """Whether a tree of `size` leaves has as many hashes there."""
        return self.index * WIDTH + self.width <= hashes_in(self.level or 0, size)


def hashes_in(level: int, size: int) -> int:
    """How many hashes `level` has in a tree of `size` leaves."""
    return size >> HEIGHT * level


def tile_roots(hashes: bytes) -> bytes:
    """The roots of full tiles: `hashes` are theirs, one tile after another. This is what the level above has for them."""
    return b"".join(_fold(hashes[start : start + TILE_BYTES]) for start in range(0, len(hashes), TILE_BYTES))


def root(levels: Levels, size: int) -> bytes:
    """The root hash of the tree of the first `size` leaves."""
    return _root(levels, 0, size) if size else EMPTY_ROOT


def inclusion_proof(levels: Levels, index: int, size: int) -> list[bytes]:
    """The audit path of the leaf `index` in the tree of `size` leaves, lowest first. Raises IndexError."""
    if not 0 <= index < size:
        raise IndexError(f"no leaf {index} in a tree of {size}")
    first, end = 0, size
    path = []
    while end - first > 1:
        split = first + _split(end - first)
        if index < split:
            path.append(_root(levels, split, end))
            end = split
        else:
            path.append(_root(levels, first, split))
            first = split
    return path[::-1]


def consistency_proof(levels: Levels, old_size: int, size: int) -> list[bytes]:
    """The proof that the tree of the first `old_size` leaves begins that of `size`. Raises ValueError where it has none."""
    if not 0 < old_size <= size:
        raise ValueError(f"no tree of {old_size} leaves in one of {size}")
    first, end = 0, size
    path = []
    while old_size < end:
        split = first + _split(end - first)
        if old_size <= split:
            path.append(_root(levels, split, end))
            end = split
        else:
            path.append(_root(levels, first, split))
            first = split
    if first:  # else it is the old root, which whoever checks has
        path.append(_root(levels, first, end))
    return path[::-1]


def _root(levels: Levels, first: int, end: int) -> bytes:
    """The root over the leaves from `first` up to `end`, of which one is the left or right part of a node."""
    subtrees = []
    while first < end:
        height = (end - first).bit_length() - 1
        subtrees.append(_subtree(levels, height, first >> height))
        first += 1 << height
    result = subtrees.pop()
    while subtrees:
        result = node_hash(subtrees.pop(), result)
    return result


def _subtree(levels: Levels, height: int, index: int) -> bytes:
    """The root of complete subtree `index` of those with ``2**height`` leaves."""
    level, above = divmod(height, HEIGHT)
    return _fold(levels(level, index << above, 1 << above))


def _fold(hashes: bytes) -> bytes:
    """The root over a power of two of hashes."""
    nodes: Sequence[bytes] = [hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]
    while len(nodes) > 1:
        nodes = [node_hash(left, right) for left, right in zip(nodes[::2], nodes[1::2], strict=True)]
    return nodes[0]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
