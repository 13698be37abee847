"""The levels of a log's tree as files, in the folder of its checkpoints: `leaves`, `hashes-1`, `hashes-2`, …

All are derived from the log's lines. The sealer writes `leaves` and extends the others, before it signs: whoever has a checkpoint
finds every hash that a proof under it takes. None but the sealer writes; readers need no lock.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from audit import durable
from audit.errors import TreeDamaged
from audit.merkle import HASH_BYTES
from audit.tiles import WIDTH, hashes_in, root, tile_roots

_TILES = 64  # that are hashed at a time: half a mebibyte


class LevelFiles:
    """The levels in `folder`. `read` is what `audit.tiles` takes as its levels."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, level: int) -> Path:
        return self._folder / (f"hashes-{level}" if level else "leaves")

    def read(self, level: int, first: int, count: int) -> bytes:
        """`count` hashes of `level` from number `first` on. Raises `TreeDamaged` where they are not there, OSError."""
        path, wanted = self.path(level), count * HASH_BYTES
        try:
            with path.open("rb", buffering=0) as file:
                hashes = os.pread(file.fileno(), wanted, first * HASH_BYTES)
        except FileNotFoundError:
            raise TreeDamaged(path, "it is missing") from None
        if len(hashes) < wanted:
            raise TreeDamaged(path, f"hash {first + len(hashes) // HASH_BYTES} is missing")
        return hashes

    def count(self, level: int) -> int:
        """How many hashes there are of `level`."""
        with suppress(FileNotFoundError):
            return self.path(level).stat().st_size // HASH_BYTES
        return 0

    def extend(self, size: int) -> None:
        """Have what the tree of `size` leaves has in the levels above them. What is there already is believed.

        Not synced: `mend` finds what a power cut took. Raises `TreeDamaged`, OSError.
        """
        level = 1
        while wanted := hashes_in(level, size):
            fd = os.open(self.path(level), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                done = min(os.fstat(fd).st_size // HASH_BYTES, wanted)
                os.lseek(fd, done * HASH_BYTES, os.SEEK_SET)
                while done < wanted:
                    tiles = min(wanted - done, _TILES)
                    durable.write_all(fd, tile_roots(self.read(level - 1, done * WIDTH, tiles * WIDTH)))
                    done += tiles
                os.ftruncate(fd, wanted * HASH_BYTES)
            finally:
                os.close(fd)
            level += 1

    def mend(self, size: int, expected: bytes) -> bool:
        """Have the levels of the tree of `size` leaves, whose root is `expected`; those that have another are made anew.

        False where the leaves themselves have another root. Reads all levels but the leaves: some 1/256 of the tree.
        """
        self.extend(size)
        if self._agree(size) and root(self.read, size) == expected:
            return True
        self.remove()
        self.extend(size)
        return root(self.read, size) == expected

    def remove(self) -> None:
        """Take away all levels but the leaves."""
        for path in self._folder.glob("hashes-*"):
            path.unlink()

    def _agree(self, size: int) -> bool:
        """Whether each level above the first has the roots of the tiles of the one below it."""
        level = 2
        while count := hashes_in(level, size):
            for first in range(0, count, _TILES):
                tiles = min(count - first, _TILES)
                if tile_roots(self.read(level - 1, first * WIDTH, tiles * WIDTH)) != self.read(level, first, tiles):
                    return False
            level += 1
        return True
