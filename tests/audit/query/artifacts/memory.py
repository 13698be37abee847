"""An `Artifact` that lies in memory, holds readers to their bounds, and records what they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from audit.query.artifacts.artifact import MAX_PIECE_BYTES


@dataclass(slots=True)
class MemoryArtifact:
    """`content` under a name. `reads` tells each (offset, length) that was asked for, in order.

    `claimed_bytes` makes it look longer than its content is: everything beyond is zero bytes, and takes no memory until it is
    read.
    """

    content: bytes
    name: str = "memory"
    metadata: Mapping[str, str] = field(default_factory=dict)
    claimed_bytes: int | None = None
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return len(self.content) if self.claimed_bytes is None else self.claimed_bytes

    @property
    def read_bytes(self) -> int:
        """How much was asked for in all."""
        return sum(length for _, length in self.reads)

    def read(self, offset: int, length: int) -> bytes:
        if not 0 <= length <= MAX_PIECE_BYTES:
            raise ValueError(f"a read of {length} bytes")
        if offset < 0:
            raise ValueError(f"a read at {offset}")
        self.reads.append((offset, length))
        end = min(offset + length, self.size_bytes)
        piece = self.content[offset:end]
        return piece + bytes(max(0, end - max(offset, len(self.content))))
