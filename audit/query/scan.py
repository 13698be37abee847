"""Which segments a question has to read, and their lines in whole chunks with bounded memory.

A log's last segment may end in a line that is still being written: it is left out quietly. Anywhere else an unfinished
line is damage. Segments that are missing between others, or shorter than the name of the next one says, are damage too.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from audit.errors import DamagedLog, QueryError
from audit.instance import Instance, NoInstance
from audit.query.lines import Damage, Place, parse
from audit.segments import list_segments

#: A record is committed at most this long after its call arrived; beyond it a segment is not searched for older or
#: newer times.
IN_FLIGHT = timedelta(minutes=15)
#: A clock that is set back behind a segment's first record begins a new segment, which tells of it by its own first record. One
#: that is set back less does not: records of a segment may be followed by others that are so much older.
SET_BACK = timedelta(hours=1)
CHUNK_BYTES = 8 << 20
#: No line that this version writes comes near; what does is damage and is not held in memory.
MAX_LINE_BYTES = 16 << 20
#: How much is read to find a record at an end of a segment; more where the first was not enough.
_LOOKS_BYTES = (16 << 10, 1 << 20)


@dataclass(frozen=True, slots=True)
class Part:
    """A segment to read: its first `size_bytes` bytes, without the `skipped_bytes` before, which have `skipped_lines` lines."""

    log: str
    path: Path
    first_index: int
    size_bytes: int
    next_index: int | None  # of the segment after it; None for the log's last one
    skipped_bytes: int = 0
    skipped_lines: int = 0

    @property
    def is_last(self) -> bool:
        return self.next_index is None

    def shortfall(self, lines: int) -> Damage | None:
        """The damage that it has `lines` lines and no more, by the name of the segment after it; None where it has all."""
        if self.next_index is None or self.first_index + lines == self.next_index:
            return None
        expected = self.next_index - self.first_index
        return Damage(self.log, self.path.name, 0, f"{lines} lines; by the name of the next segment it had {expected}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of a segment, from byte `offset` and line `first_line` on; line i is ``data[bounds[i]:bounds[i +
    1]]``. What comes in `data` after the last bound is of no concern."""

    part: Part
    data: bytes
    offset: int
    first_line: int
    bounds: array[int]

    @property
    def lines(self) -> int:
        return len(self.bounds) - 1

    @property
    def size_bytes(self) -> int:
        return self.bounds[-1]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the log `log` spans: times of its first and last record; None where it holds none that can be read."""

    log: str
    first: str | None
    last: str | None


def find_logs(data: Path, only: str | None = None) -> tuple[list[str], list[Damage]]:
    """The names of the logs in the data folder, sorted, and the damage that one is missing. Raises `QueryError`,
    OSError."""
    folder = data / "log"
    there = {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set[str]()
    try:
        known = set(Instance.load(data).logs)
    except NoInstance as error:
        if not there:
            raise QueryError(f"no logs in {data}: {error}") from error
        known = there
    wanted = there | known if only is None else {only}
    if not wanted <= there | known:
        raise QueryError(f"no log {only!r} in {data}; there are: {', '.join(sorted(there | known))}")
    missing = [Damage(log, "", 0, "the log is listed in keytrail.json and is not there") for log in sorted(wanted - there)]
    return sorted(wanted & there), missing


def find_parts(data: Path, log: str) -> tuple[list[Part], list[Damage]]:
    """The segments of `log` as they stand now, in order. Raises OSError."""
    segments = list_segments(data / "log" / log)
    followers = [*(segment.first_index for segment in segments[1:]), *([None] if segments else [])]
    parts = [
        Part(log, segment.path, segment.first_index, segment.path.stat().st_size, follower)
        for segment, follower in zip(segments, followers, strict=True)
    ]
    if parts and parts[0].first_index:
        return parts, [Damage(log, "", 0, f"records 0 to {parts[0].first_index - 1} are not in this folder")]
    return parts, []


def within(parts: list[Part], since: datetime | None, until: datetime | None) -> list[Part]:
    """Those of a log's `parts` that `may_hold` a record in the interval."""
    starts = [first_time(part) if since or until else None for part in parts]
    followers = [*starts[1:], None][: len(starts)]
    return [
        part for part, start, follower in zip(parts, starts, followers, strict=True) if may_hold(start, follower, since, until)
    ]


def may_hold(start: datetime | None, follower: datetime | None, since: datetime | None, until: datetime | None) -> bool:
    """Whether a segment may hold a record in the interval: its first record is of `start`, that of the next one of `follower`.
    Damage (None) never excludes, nor does a clock that was set back."""
    if until is not None and start is not None and start - IN_FLIGHT >= until:
        return False
    if since is None or start is None or follower is None or follower < start:
        return True
    return max(follower, start + SET_BACK) + IN_FLIGHT >= since


def coverage(log: str, parts: list[Part]) -> Coverage:
    """The times of the first and the last readable record of a log. Raises OSError."""
    first = next((time for part in parts for size in _LOOKS_BYTES for time in _times(_head(part, size))), None)
    last = next((time for part in reversed(parts) for size in _LOOKS_BYTES for time in _times(reversed(_tail(part, size)))), None)
    return Coverage(log, first, last)


def chunks(
    part: Part,
    damaged: list[Damage],
    chunk_bytes: int = CHUNK_BYTES,
    *,
    read: Callable[[int, int, int], bytes] = os.pread,
) -> Iterator[Chunk]:
    """The complete lines of `part`, at most `chunk_bytes` at a time, where no single one has more; what is no line is added to
    `damaged`. `chunk_bytes` is at most `MAX_LINE_BYTES`. Raises OSError."""
    offset, line, wanted = part.skipped_bytes, part.skipped_lines + 1, chunk_bytes
    with part.path.open("rb", buffering=0) as file:
        while data := read(file.fileno(), min(wanted, part.size_bytes - offset), offset):
            cut = data.rfind(b"\n") + 1
            if cut:
                bounds = _line_bounds(data, cut)
                yield Chunk(part, data, offset, line, bounds)
                offset, line, wanted = offset + cut, line + len(bounds) - 1, chunk_bytes
            elif len(data) > MAX_LINE_BYTES:
                damaged.append(Damage(part.log, part.path.name, line, f"longer than {MAX_LINE_BYTES >> 20} MiB"))
                offset = _next_line(file.fileno(), offset + len(data), part.size_bytes)
                line, wanted = line + 1, chunk_bytes
            elif len(data) == wanted:
                wanted = MAX_LINE_BYTES + 1
            else:
                if not part.is_last:
                    reason = "cut off: no end of line, in a segment that is not the last"
                    damaged.append(Damage(part.log, part.path.name, line, reason))
                return


def _next_line(file: int, offset: int, end: int) -> int:
    """Where the line after the one at `offset` begins; `end` where there is none."""
    while data := os.pread(file, min(CHUNK_BYTES, end - offset), offset):
        if found := data.find(b"\n") + 1:
            return offset + found
        offset += len(data)
    return end


def _line_bounds(data: bytes, cut: int) -> array[int]:
    bounds, position, find = array("i", [0]), 0, data.find
    while position := find(b"\n", position, cut) + 1:
        bounds.append(position)
    return bounds


def first_time(part: Part) -> datetime | None:
    """The time of the first record of `part`; None where it cannot be read. Raises OSError."""
    with part.path.open("rb") as file:
        line = file.readline(min(MAX_LINE_BYTES, part.size_bytes))
    time = next(_times([line.removesuffix(b"\n")] if line.endswith(b"\n") else []), None)
    try:
        return None if time is None else datetime.fromisoformat(time).astimezone(UTC)
    except ValueError:
        return None


def _head(part: Part, size_bytes: int) -> list[bytes]:
    """The whole lines in the first `size_bytes` of `part`."""
    with part.path.open("rb") as file:
        return file.read(min(size_bytes, part.size_bytes)).split(b"\n")[:-1]


def _tail(part: Part, size_bytes: int) -> list[bytes]:
    """The lines that end in the last `size_bytes` of `part`; the first of them may lack its beginning."""
    with part.path.open("rb") as file:
        file.seek(max(0, part.size_bytes - size_bytes))
        return file.read(min(size_bytes, part.size_bytes)).split(b"\n")[:-1]


def _times(lines: Iterable[bytes]) -> Iterator[str]:
    """The times of those of `lines` that are records."""
    for line in lines:
        try:
            yield str(parse(line, Place("", "", 0))["additionalEventData"]["keytrail"]["time"])
        except DamagedLog:
            continue
