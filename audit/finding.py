"""Finding the lines of records in a log by their numbers, in a few looks at any size of a segment.

The number in each line leads to the one that is asked for. That is no proof of anything: what is found is what a reader would
find who counts, in a log that nobody changed; whoever needs to know holds the line's hash against the tree.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import orjson

from audit.errors import LogIncident
from audit.segments import Segment, list_segments

_NEAR_BYTES = 128 << 10  # from here on lines are counted
_LONGEST_LINE_BYTES = 16 << 20


def read_lines(folder: Path, first: int, count: int) -> list[bytes]:
    """The lines of `count` records of the log in `folder` from record `first` on, without their newlines.

    Raises `LogIncident` where one is not there, OSError.
    """
    segments = list_segments(folder)
    lines: list[bytes] = []
    for place, segment in enumerate(segments):
        record = first + len(lines)
        is_in_a_later_one = place + 1 < len(segments) and segments[place + 1].first_index <= record
        if segment.first_index <= record and not is_in_a_later_one and len(lines) < count:
            lines += _read_from(segment, record, count - len(lines))
    if len(lines) < count:
        raise LogIncident(folder.name, f"record {first + len(lines)} is not there")
    return lines


def _read_from(segment: Segment, record: int, count: int) -> list[bytes]:
    """The lines of the segment from `record` on, `count` at most; what is not ended is no line."""
    number, offset = segment.first_index, 0
    with segment.path.open("rb") as file:
        near = _near(file, record)
        if near is not None:
            number, offset = near
        file.seek(offset)
        lines: list[bytes] = []
        while len(lines) < count and (line := file.readline(_LONGEST_LINE_BYTES)).endswith(b"\n"):
            if number >= record:
                lines.append(line[:-1])
            number += 1
    return lines


def _near(file: BinaryIO, record: int) -> tuple[int, int] | None:
    """The number of a record at or a little before `record`, and where its line begins; None where the beginning is near enough,
    or a line on the way has no number."""
    low: tuple[int, int] | None = None
    start, end = 0, os.fstat(file.fileno()).st_size
    while end - start > _NEAR_BYTES:
        middle = (start + end) // 2
        file.seek(middle)
        file.readline(_LONGEST_LINE_BYTES)
        begins = file.tell()
        line = file.readline(_LONGEST_LINE_BYTES)
        if begins >= end or not line.endswith(b"\n"):
            end = middle
            continue
        number = _number_of(line)
        if number is None:
            return None
        if number <= record:
            start, low = begins, (number, begins)
        else:
            end = middle
    return low


def _number_of(line: bytes) -> int | None:
    try:
        number = orjson.loads(line)["additionalEventData"]["keytrail"]["sequence"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return number if type(number) is int else None
