"""Which bytes of a log the index has, and which come next.

The index takes a log in pieces, in order: closed segments whole, and of the open one what is known to be durable, once there is
enough of it. The pieces of a segment follow one another without a gap.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path

from audit.log import Mark
from audit.query.filters import Filter
from audit.query.index.layout import LogIndex, Piece
from audit.query.lines import Damage
from audit.query.scan import Part
from audit.query.times import time_text

#: What is new in the open segment is indexed once it is so much; until then each question reads it.
OPEN_BYTES = 4 << 20
_TAIL_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Covered:
    """What of a log the index has: pieces, each with its segment as it is in the folder now. `rest` is what it does not have, to
    be read whole."""

    pieces: list[tuple[Part, Piece]]
    rest: list[Part]

    @classmethod
    def of(cls, index: LogIndex, parts: Sequence[Part]) -> Covered:
        """Of `parts`, all segments of the log."""
        by_segment = {segment: list(pieces) for segment, pieces in groupby(index.pieces, lambda piece: piece.segment)}
        pieces, rest = [], []
        for part in parts:
            found = [] if (known := by_segment.get(part.first_index)) is None else _usable(part, known)
            pieces += [(part, piece) for piece in found]
            if not found:
                rest.append(part)
            elif found[-1].stop < part.size_bytes or part.next_index not in (None, found[-1].next):
                rest.append(after(part, found[-1]))
        return cls(pieces, rest)

    def part_of(self, record: int) -> Part | None:
        """The segment of `record`; None where it is in none of these."""
        number = bisect_right(self.pieces, record, key=lambda pair: pair[1].first) - 1
        part, piece = self.pieces[number] if number >= 0 else (None, None)
        return part if piece is not None and record < piece.next else None

    def spans(self, question: Filter) -> list[tuple[int, int]]:
        """The records, as (first, next), of the pieces that may have one in the question's interval."""
        since = time_text(question.since) if question.since is not None else None
        until = time_text(question.until) if question.until is not None else None
        return [
            (one.first, one.next)
            for _, one in self.pieces
            if one.since is not None
            and one.until is not None
            and (since is None or one.until >= since)
            and (until is None or one.since < until)
        ]

    @property
    def damaged(self) -> list[Damage]:
        """What could not be read when it was indexed."""
        return [Damage(part.log, part.path.name, line, reason) for part, piece in self.pieces for line, reason in piece.damaged]


def pending(index: LogIndex, parts: Sequence[Part], mark: Mark | None, open_bytes: int = OPEN_BYTES) -> list[Part]:
    """What of the log with the segments `parts` is to be indexed next, in order; each has its `next_index`.

    `mark` says what of the open segment is durable: lines beyond it may be others after a crash.
    """
    last = index.pieces[-1] if index.pieces else None
    found = []
    for part in parts:
        if last is not None and part.first_index < last.segment:
            continue
        left = part if last is None or part.first_index != last.segment else after(part, last)
        if not part.is_last:
            if last is None or left is part or last.next < (part.next_index or 0):
                found.append(left)
        elif mark is not None and mark.segment == part.first_index and left.skipped_bytes + max(open_bytes, 1) <= mark.offset:
            found.append(replace(left, size_bytes=mark.offset, next_index=mark.records))
    return found


def tail_of(path: Path, stop: int) -> str:
    """A hash of the last bytes before `stop` in the segment at `path`. Raises OSError."""
    with path.open("rb") as file:
        return sha256(os.pread(file.fileno(), min(_TAIL_BYTES, stop), stop - min(_TAIL_BYTES, stop))).hexdigest()[:32]


def still_ends_with(path: Path, piece: Piece) -> bool:
    """Whether the segment at `path` has the end of `piece` where it was: a log that was put back from a copy, and grew
    otherwise, has other lines there. Raises OSError, but where there is no such file."""
    try:
        return tail_of(path, piece.stop) == piece.tail
    except FileNotFoundError:
        return False


def after(part: Part, piece: Piece) -> Part:
    """What of the segment comes after `piece`."""
    return replace(part, skipped_bytes=piece.stop, skipped_lines=piece.next - piece.segment)


def _usable(part: Part, pieces: Sequence[Piece]) -> list[Piece]:
    """Those of a segment's `pieces` from its beginning on that can be believed: it has their bytes still, as far as their end
    tells, and where they are all of it, no others. After one that is left out, none is."""
    known = list(pieces[: next((number for number, piece in enumerate(pieces) if piece.is_left_out), len(pieces))])
    if not known or known[-1].stop > part.size_bytes:
        return []
    reached = known[-1].next
    is_whole = (part.next_index, part.size_bytes) == (reached, known[-1].stop)
    if not is_whole and not still_ends_with(part.path, known[-1]):
        return []
    if part.next_index is not None and (
        reached > part.next_index or (reached == part.next_index and known[-1].stop != part.size_bytes)
    ):
        return []
    return known
