"""Checksums of a file of the index, by blocks, in a file beside it: what rotted on the disk is told, and leads past nothing.

    NAME.sums    CRC-32 of each 16 KiB of the file, little-endian, and of these sums

They are no evidence: whoever can change the file can change its sums.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from zlib import crc32

BLOCK_BYTES = 16 << 10
_PIECE_BYTES = 64 * BLOCK_BYTES


class Rotted(OSError):
    """A file is not as it was written."""


def sums_path(path: Path) -> Path:
    """Where the sums of the file at `path` are."""
    return path.with_suffix(".sums")


def write_sums(path: Path) -> Path:
    """Write the sums of the file at `path`; gives the file of these. Raises OSError."""
    sums: list[int] = []
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            sums += _sums_of(piece)
    content = _packed(sums)
    target = sums_path(path)
    target.write_bytes(content + _packed([crc32(content)]))
    target.chmod(0o600)
    return target


def require_sound(path: Path) -> None:
    """Raises `Rotted` where the file at `path` is not as its sums say, OSError."""
    with SoundFile(path) as file:
        while file.read(_PIECE_BYTES):
            pass


class SoundFile(io.RawIOBase):
    """The file at `path`, of which nothing is read that is not as its sums say. For one thread. Raises `Rotted`, OSError."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._path = path
        self._sums = _read_sums(path)
        self._sound: set[int] = set()  # blocks that were looked at
        self._at = 0
        self._size_bytes = os.fstat(self._file).st_size
        if -(-self._size_bytes // BLOCK_BYTES) != len(self._sums):
            raise self._rotted()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size_bytes}[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        start = min(self._at, self._size_bytes)
        stop = self._size_bytes if size < 0 else min(start + size, self._size_bytes)
        first, last = start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)
        if self._sound.issuperset(range(first, last)):
            content = os.pread(self._file, stop - start, start)
        else:
            blocks = os.pread(self._file, (last - first) * BLOCK_BYTES, first * BLOCK_BYTES)
            if _sums_of(blocks) != self._sums[first:last]:
                raise self._rotted()
            self._sound.update(range(first, last))
            content = blocks[start - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]
        self._at = start + len(content)
        return content

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):  # it has none where it could not be opened
            os.close(self._file)
        super().close()

    def _rotted(self) -> Rotted:
        return Rotted(f"{self._path} is not as it was written")


def _read_sums(path: Path) -> list[int]:
    content = sums_path(path).read_bytes()
    if not content or len(content) % 4 or content[-4:] != _packed([crc32(content[:-4])]):
        raise Rotted(f"{sums_path(path)} is not as it was written")
    return list(struct.unpack(f"<{len(content) // 4 - 1}I", content[:-4]))


def _packed(sums: list[int]) -> bytes:
    return struct.pack(f"<{len(sums)}I", *sums)


def _sums_of(content: bytes) -> list[int]:
    view = memoryview(content)
    return [crc32(view[at : at + BLOCK_BYTES]) for at in range(0, len(content), BLOCK_BYTES)]
