"""The Merkle tree over a log's lines: RFC 6962 hashing, with SHA-256. Pure.

A leaf is a line without its newline. The tree of n leaves is defined recursively: its left part has as many leaves as the largest
power of two below n. A `Frontier` keeps the roots of the complete subtrees along the right edge: all that appending needs.
Source: RFC 6962, section 2.1; RFC 9162, sections 2.1.3 and 2.1.4, for checking the proofs. What makes them is in `audit.tiles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(line: bytes) -> bytes:
    """The hash of a leaf; `line` without its newline."""
    return sha256(b"\x00" + line).digest()


def leaf_hashes(lines: Iterable[bytes | memoryview]) -> list[bytes]:
    """The hashes of many leaves. The verifier's hot loop: no call for each."""
    digest_of = sha256
    return [digest_of(b"\x00" + line).digest() for line in lines]


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that grows: the roots of its complete subtrees, the largest first. Memory and a step's work are O(log size)."""

    __slots__ = ("_subtrees", "size")

    def __init__(self, size: int = 0, subtrees: Iterable[bytes] = ()) -> None:
        """The tree of `size` leaves whose complete subtrees have these roots. Raises ValueError where their number is wrong."""
        self.size = size
        self._subtrees = list(subtrees)
        if len(self._subtrees) != size.bit_count() or any(len(root) != HASH_BYTES for root in self._subtrees):
            raise ValueError(f"a tree of size {size} has {size.bit_count()} complete subtrees, not {len(self._subtrees)}")

    @property
    def subtrees(self) -> tuple[bytes, ...]:
        return tuple(self._subtrees)

    def append(self, leaf: bytes) -> None:
        """Append a leaf hash."""
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaf hashes. The sealer's hot loop: nothing is looked up twice in it."""
        digest_of, push, pop, size = sha256, self._subtrees.append, self._subtrees.pop, self.size
        for node in leaves:
            place = size
            while place & 1:
                node = digest_of(b"\x01" + pop() + node).digest()
                place >>= 1
            push(node)
            size += 1
        self.size = size

    def root(self) -> bytes:
        """The root hash of the tree as it is."""
        if not self._subtrees:
            return EMPTY_ROOT
        root = self._subtrees[-1]
        for subtree in reversed(self._subtrees[:-1]):
            root = node_hash(subtree, root)
        return root

    def copy(self) -> Frontier:
        return Frontier(self.size, self._subtrees)


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over all of `leaves` (leaf hashes)."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows that `leaf` is the leaf `index` of the tree of `size` leaves with this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and result == root


def extends(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the new tree begins with the old one (RFC 9162, 2.1.4.2)."""
    if old_size == new_size:
        return not proof and old_root == new_root
    if not 0 < old_size < new_size or not proof:
        return False
    path = [old_root, *proof] if old_size.bit_count() == 1 else list(proof)
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_result = new_result = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old_result, new_result = node_hash(sibling, old_result), node_hash(sibling, new_result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new_result = node_hash(new_result, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old_result == old_root and new_result == new_root
