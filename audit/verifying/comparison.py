"""The tree over a log's lines, as they are read, held against signed checkpoints: those of the history, and saved ones.

A tree that does not come to its signed root is compared with `leaves`, the leaf hashes that the sealer kept. They are believed
only where they come to that root themselves: then the lines that differ are known one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from audit.checkpoint import Checkpoint
from audit.merkle import HASH_BYTES, Frontier
from audit.verifying.faults import MAX_FAULTS, Faults
from audit.verifying.titles import COSIGNED, HISTORY, SAVED, STAMPED

_FAR = 1 << 63


@dataclass(frozen=True, slots=True)
class Target:
    """A genuine checkpoint that the tree over the lines has to come to."""

    checkpoint: Checkpoint
    step: int  # HISTORY, SAVED, COSIGNED or STAMPED
    name: str


class Comparison:
    """Grows the tree line by line, and compares it with each of `targets`, which come in the order of their sizes.
    A context manager, which closes `leaves`.

    `records` is the number of the record that comes next; `sealed` of them are under a checkpoint of the history that agrees.
    `altered` is the first place from which on nothing can agree any more, `compared` how many targets there were of each step.
    """

    def __init__(self, targets: Iterator[Target], leaves: Path | None, faults: Faults) -> None:
        self.records = self.sealed = 0
        self.compared = dict.fromkeys((HISTORY, SAVED, COSIGNED, STAMPED), 0)
        self.altered: tuple[int, str, int] | None = None
        self.missing: list[tuple[int, int]] = []
        self._faults = faults
        self._targets = targets
        self._target = next(targets, None)
        self._tree: Frontier | None = Frontier()
        self._base = Frontier()  # the tree at the last target that agreed
        self._differing: list[tuple[int, str, int]] = []  # lines that are not as in `leaves`, since then: the first of them
        self._more_differing = 0
        self._leaves: BinaryIO | None = None if leaves is None else leaves.open("rb")
        self._leaf_count = 0 if leaves is None else leaves.stat().st_size // HASH_BYTES
        self._next_leaf = 0  # the one that reading on gives

    def __enter__(self) -> Self:
        self._compare_reached()  # those of an empty tree
        return self

    def __exit__(self, *_: object) -> None:
        if self._leaves is not None:
            self._leaves.close()

    @property
    def is_through(self) -> bool:
        """Whether there is no larger checkpoint to come."""
        return self._target is None

    def alter(self) -> None:
        """Here the sequence of lines departs from what was signed: no larger tree can be the one that was signed."""
        self.altered = self.altered or (self.records, self._faults.segment, self._faults.line)

    def skip_to(self, index: int) -> None:
        """Go on at record `index`. What is missing is in the tree by the leaves kept for it, so that the rest can be checked."""
        self.alter()
        self.missing = [*self.missing[-1_000:], (self.records, index)]
        while self.records < index:
            leaf = self.leaf_at(self.records)
            if leaf is None:
                self._tree = None
                self.records = index
                self._compare_reached()
            else:
                self.take(leaf)

    def take(self, leaf: bytes) -> None:
        """The leaf hash of the line that the reading is at, as record `records`."""
        if self._tree is not None:
            self._tree.append(leaf)
        kept = self.leaf_at(self.records)
        if kept is not None and kept != leaf:
            if len(self._differing) < MAX_FAULTS:
                self._differing.append((self.records, self._faults.segment, self._faults.line))
            else:
                self._more_differing += 1
        self.records += 1
        if self._target is not None and self._target.checkpoint.size <= self.records:
            self._compare_reached()

    def root_with(self, leaf: bytes) -> bytes | None:
        """The root that the tree has once `leaf` is in it; None where lines before it are not those that were signed for."""
        if self._tree is None or self.altered is not None:
            return None
        tree = self._tree.copy()
        tree.append(leaf)
        return tree.root()

    @property
    def room(self) -> int:
        """How many records come before the next target is reached, with the one that reaches it."""
        return _FAR if self._target is None else self._target.checkpoint.size - self.records

    def take_run(self, leaves: Sequence[bytes]) -> None:
        """The leaf hashes of lines, `room` at most, from the one behind the reading on; which is at the last of them then."""
        if not self._are_kept(leaves):
            for leaf in leaves:
                self._faults.line += 1
                self.take(leaf)
            return
        if self._tree is not None:
            self._tree.extend(leaves)
        self._faults.line += len(leaves)
        self.records += len(leaves)
        if self._target is not None and self._target.checkpoint.size <= self.records:
            self._compare_reached()

    def _are_kept(self, leaves: Sequence[bytes]) -> bool:
        """Whether `leaves` has these for the records that come next, or has nothing for any of them."""
        if self._leaves is None or self.records >= self._leaf_count:
            return True
        if self._next_leaf != self.records:
            self._leaves.seek(self.records * HASH_BYTES)
        self._next_leaf = self.records + len(leaves)
        return self._leaves.read(len(leaves) * HASH_BYTES) == b"".join(leaves)

    def leaf_at(self, index: int) -> bytes | None:
        """What `leaves` has for the record `index`; None where it has nothing."""
        if self._leaves is None or index >= self._leaf_count:  # a forged number may be beyond any file
            return None
        if self._next_leaf != index:  # not asked of the file: its `tell` is a system call
            self._leaves.seek(index * HASH_BYTES)
        leaf = self._leaves.read(HASH_BYTES)
        self._next_leaf = index + 1
        return leaf if len(leaf) == HASH_BYTES else None

    def finish(self) -> None:
        """What was signed for more records than there are lines."""
        newest: Target | None = None
        while self._target is not None:
            self.compared[self._target.step] += 1
            if self._target.step != HISTORY:
                self._cut(self._target)
            else:
                newest = self._target
            self._target = next(self._targets, None)
        if newest is not None:
            self._cut(newest)

    def _compare_reached(self) -> None:
        while self._target is not None and self._target.checkpoint.size <= self.records:
            self._compare(self._target)
            self._target = next(self._targets, None)

    def _compare(self, target: Target) -> None:
        size, root = target.checkpoint.size, target.checkpoint.root
        self.compared[target.step] += 1
        agrees = self._tree is not None and self._tree.size == size and self._tree.root() == root
        if agrees and self._tree is not None:
            self._base = self._tree.copy()
            self._forget_differing()
        elif self._differing and (kept := self._kept_tree(size)) is not None and kept.root() == root:
            for index, segment, line in self._differing:
                self._faults.add(target.step, f"record {index} is not the one that {target.name} was signed for", segment, line)
                self.altered = min(self.altered or (index, segment, line), (index, segment, line))
            self._faults.add_unlisted(target.step, self._more_differing)
            self._forget_differing()
            self._tree, self._base, agrees = kept, kept.copy(), True
        if self.altered is not None and size > self.altered[0]:
            if target.step != HISTORY or not self._faults.count(HISTORY):
                index, segment, line = self.altered
                self._faults.add(
                    target.step,
                    f"from record {index} on the lines are not those that {target.name} was signed for",
                    segment,
                    line,
                )
        elif not agrees:
            if target.step != HISTORY or not self._faults.count(HISTORY):
                place = f"between records {self._base.size} and {size - 1}"
                self._faults.add_here(
                    target.step, f"the lines do not have the root of {target.name}: they differ {place}, up to here"
                )
        elif target.step == HISTORY:
            self.sealed = size

    def _forget_differing(self) -> None:
        self._differing.clear()
        self._more_differing = 0

    def _kept_tree(self, size: int) -> Frontier | None:
        """The tree of `size` leaves by `leaves`, on top of the last that agreed."""
        tree = self._base.copy()
        while tree.size < size:
            leaf = self.leaf_at(tree.size)
            if leaf is None:
                return None
            tree.append(leaf)
        return tree if tree.size == size else None

    def _cut(self, target: Target) -> None:
        end = f"ends with record {self.records - 1}" if self.records else "is empty"
        self._faults.add_here(
            target.step, f"the log {end}, but {target.name} was signed for records up to {target.checkpoint.size - 1}"
        )
