"""What an artefact holds, from its beginning on, piece by piece; unpacked where it is gzip (RFC 1952), by one level. Pure.

Bounded: a piece is at most `PIECE_BYTES` long, and unpacking ends behind `MAX_UNPACKED_BYTES`, or before where it gives more than
`MAX_RATIO` times what it took: no honest dump does.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from audit.query.artifacts.artifact import MAX_PIECE_BYTES, Artifact

PIECE_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 4 << 30
MAX_RATIO = 250
_LOOKED_AT_FROM_BYTES = MAX_PIECE_BYTES

_GZIP = b"\x1f\x8b\x08"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class _Member(Protocol):
    """zlib's decompressor, whose type has no name."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class BrokenPacking(Exception):
    """It is gzip that is broken, cut off, or a bomb; the text says which."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What was packed in an artefact, in memory."""

    name: str
    metadata: Mapping[str, str]
    content: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        if not 0 <= length <= MAX_PIECE_BYTES:
            raise ValueError(f"a read of {length} bytes")
        return self.content[offset : offset + length]


def is_packed(artifact: Artifact) -> bool:
    return artifact.read(0, min(artifact.size_bytes, len(_GZIP))) == _GZIP


def unpack(artifact: Artifact) -> Unpacked | None:
    """What is packed in the artefact; None where nothing is, where it is broken, or longer than `MAX_PIECE_BYTES`."""
    if not is_packed(artifact):
        return None
    held: list[bytes] = []
    held_bytes = 0
    try:
        for piece in pieces(artifact):
            held.append(piece)
            held_bytes += len(piece)
            if held_bytes > MAX_PIECE_BYTES:
                return None
    except BrokenPacking:
        return None
    return Unpacked(artifact.name, artifact.metadata, b"".join(held))


def pieces(artifact: Artifact) -> Iterator[bytes]:
    """None of them is empty. Raises `BrokenPacking` behind those that could be unpacked."""
    return _unpacked(artifact) if is_packed(artifact) else _stored(artifact)


def _stored(artifact: Artifact) -> Iterator[bytes]:
    for offset in range(0, artifact.size_bytes, PIECE_BYTES):
        if piece := artifact.read(offset, min(PIECE_BYTES, artifact.size_bytes - offset)):
            yield piece


def _unpacked(artifact: Artifact) -> Iterator[bytes]:
    taken = given = 0
    member = zlib.decompressobj(_GZIP_WINDOW)
    for packed in _stored(artifact):
        taken += len(packed)
        while packed:
            if member.eof:
                if not (packed := packed.lstrip(b"\0")):
                    break  # Padding between members, and behind the last.
                member = zlib.decompressobj(_GZIP_WINDOW)
            if piece := _inflate(member, packed):
                given += len(piece)
                yield piece
            if given > MAX_UNPACKED_BYTES:
                raise BrokenPacking(f"it unpacks to more than {MAX_UNPACKED_BYTES} bytes: the rest is not read")
            if given > _LOOKED_AT_FROM_BYTES and given > MAX_RATIO * taken:
                raise BrokenPacking(f"it unpacks to more than {MAX_RATIO} times its size: the rest is not read")
            packed = member.unused_data if member.eof else member.unconsumed_tail
    while not member.eof and (piece := _inflate(member, b"")):
        yield piece
    if not member.eof:
        raise BrokenPacking("its gzip is cut off")


def _inflate(member: _Member, packed: bytes) -> bytes:
    try:
        return member.decompress(packed, PIECE_BYTES)
    except zlib.error as error:
        raise BrokenPacking("its gzip is broken") from error
