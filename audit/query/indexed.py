"""The part of an answer that the index leads to: its places are read in the log, and the lines there are judged.

Nothing is believed of the index but where to look. A segment that is not as it was when it was indexed is read whole instead; a
line that is not what the index says is named as damage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from audit.errors import DamagedLog
from audit.query.filters import Filter
from audit.query.index.lookup import Index
from audit.query.index.lookup import Place as Posting
from audit.query.index.pieces import Covered
from audit.query.index.terms import conditions, terms
from audit.query.lines import Damage, Place, parse
from audit.query.scan import MAX_LINE_BYTES, Part

_LINE_BYTES = 4_096
_NOT_INDEXED_SO = "not the line that was indexed"


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that answers: its time, its segment, its line there from 1, and the line's bytes, without the newline."""

    time: str
    part: Part
    line: int
    start: int
    size: int


@dataclass(slots=True)
class Indexed:
    """What the index led to in one log; `rest` is what it does not have, to be read whole."""

    hits: list[Hit] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    rest: list[Part] = field(default_factory=list)


def look_up(index: Index, log: str, parts: Sequence[Part], filters: Sequence[Filter]) -> Indexed | None:
    """The records among `parts`, all segments of `log`, that match any of `filters`; None where the index is of no use for that.

    Raises OSError; duckdb.Error for an index that cannot be read.
    """
    covered = index.covered(log, parts)
    if not covered.pieces:
        return None
    found: dict[int, Posting] = {}
    for one in filters:
        places = index.places(log, one, covered)
        if places is None:
            return None
        found |= {place.record: place for place in places}
    answer = Indexed(damaged=list(_known_damage(covered, filters)))
    answer.rest = covered.rest
    _judge(covered, [found[record] for record in sorted(found)], filters, answer)
    return answer


def _judge(covered: Covered, places: Sequence[Posting], filters: Sequence[Filter], answer: Indexed) -> None:
    """Read the lines at `places`, which are in order, and keep those that match."""
    wanted = [condition.terms for one in filters for condition in conditions(one)]
    file, opened, read_up_to = -1, None, 0
    try:
        for posting in places:
            part = covered.part_of(posting.record)
            if part is None:
                continue
            if part is not opened:
                if opened is not None:
                    os.close(file)
                file, opened, read_up_to = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC), part, 0
            place = Place(part.log, part.path.name, posting.record - part.first_index + 1)
            if posting.start < read_up_to:  # another record's line: it would be told twice
                answer.damaged.append(Damage(place.log, place.segment, place.line, _NOT_INDEXED_SO))
                continue
            line = _read_line(file, posting.start)
            read_up_to = posting.start + len(line) + 1
            try:
                record = parse(line, place)
            except DamagedLog as error:
                answer.damaged.append(Damage(place.log, place.segment, place.line, error.reason))
                continue
            if any(one.matches(record) for one in filters):
                time = record["additionalEventData"]["keytrail"]["time"]
                answer.hits.append(Hit(time, part, place.line, posting.start, len(line)))
            elif all(found.isdisjoint(terms(record)) for found in wanted):
                answer.damaged.append(Damage(place.log, place.segment, place.line, _NOT_INDEXED_SO))
    finally:
        if opened is not None:
            os.close(file)


def _read_line(file: int, start: int) -> bytes:
    """The line at `start`, without its newline."""
    size = _LINE_BYTES
    while True:
        piece = os.pread(file, size, start)
        end = piece.find(b"\n")
        if end >= 0 or len(piece) < size or size > MAX_LINE_BYTES:
            return piece[:end] if end >= 0 else piece
        size *= 4


def _known_damage(covered: Covered, filters: Sequence[Filter]) -> Iterator[Damage]:
    """What could not be read when it was indexed, in the pieces that any of `filters` is about."""
    asked = {first for one in filters for first, _ in covered.spans(one)}
    for part, piece in covered.pieces:
        if piece.first in asked or piece.since is None:
            for line, reason in piece.damaged:
                yield Damage(part.log, part.path.name, line, reason)
