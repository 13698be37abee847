"""The log as a state machine: what is written where, what is durable, and what is done after a crash. No I/O of its own.

A log is a sequence of lines, numbered densely from 0, cut into segments. All I/O goes through a `Disk`, so that the tests can
break each operation, with its effect persisted or not, and check the invariant after every step:

    a line whose `append` returned is there, in its place, after any crash and any number of recoveries.

Rules kept here:

- A line is durable when the sync after its write has returned, and not before. Then the mark says so.
- An operation of the disk that failed is never tried again on the same segment: the writer is poisoned, refuses everything,
  and only recovery, by way of `open_log`, makes a new one, with a new segment.
- A writer goes on in the last segment of the one before only where that ends exactly at the mark: all of it was synced, and
  there is nothing to recover. Where anything stands behind the mark, the next line begins a new segment.
- Recovery rewrites every line behind the mark before it syncs: after a failed sync the kernel may count lost pages as clean,
  and a second sync alone would succeed for nothing.
- Whatever cannot be a line (torn, or not of this log) is set aside before it is cut off, never dropped.

Format: docs/log-format.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import orjson

from audit import canonical
from audit.errors import CommitFailed, LogIncident

MARK_SIZE_BYTES = 96


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a log is known to be durable: `records` lines, the last of them ending at `offset` of the segment `segment`.

    `scan` is the oldest segment that may hold an intent without its outcome. A mark may be older than the truth, never newer.
    """

    records: int
    segment: int
    offset: int
    scan: int

    def encode(self) -> bytes:
        text = f"v1 {self.records} {self.segment} {self.offset} {self.scan} ".encode()
        return (text + b"%08x" % zlib.crc32(text)).ljust(MARK_SIZE_BYTES - 1) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Mark | None:
        """The mark in `data`, or None where it is damaged."""
        text, space, crc = data.rstrip().rpartition(b" ")
        fields = text.split(b" ")
        if len(data) != MARK_SIZE_BYTES or len(fields) != 5 or fields[0] != b"v1":
            return None
        if crc != b"%08x" % zlib.crc32(text + space) or not all(field.isdigit() for field in fields[1:]):
            return None
        return cls(*(int(field) for field in fields[1:]))


class Disk(Protocol):
    """The operations that a log needs of its folder. Each raises OSError when it fails; its effect is then unknown."""

    def segments(self) -> list[int]:
        """The first indices of the segments there, ascending."""

    def read(self, segment: int, offset: int = 0) -> bytes:
        """The bytes of `segment` from `offset` on."""

    def first_line(self, segment: int) -> bytes:
        """The first line of `segment`, with its newline; without one where it has none, or not for long."""

    def create(self, segment: int) -> None:
        """Create the empty segment and append to it from now on; its name is durable when this returns."""

    def reopen(self, segment: int, size: int) -> None:
        """Append to `segment`, which is there, from now on; its name is durable when this returns. Fails if it has not `size`
        bytes."""

    def append(self, data: bytes) -> None:
        """Append to the segment created or reopened last; durable only after `sync`. A failure may leave a part of `data`."""

    def sync(self, size: int) -> None:
        """Make durable what was appended. Fails too if the segment is not in its place any more, `size` bytes long."""

    def rewrite(self, segment: int, offset: int, data: bytes) -> None:
        """Make `data` the content of `segment` from `offset` to its end; durable when this returns."""

    def set_aside(self, segment: int, offset: int, data: bytes) -> str:
        """Keep `data`, cut off `segment` at `offset`, elsewhere under the name returned; durable when this returns."""

    def read_mark(self) -> Mark | None:
        """The mark, or None where there is none or it is damaged."""

    def write_mark(self, mark: Mark) -> None:
        """Overwrite the mark in place. It need not be durable."""

    def close(self) -> None:
        """Let go of the segment."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A torn tail that recovery found in `segment` at `offset` and moved, `size` bytes, to `name`."""

    segment: int
    offset: int
    size: int
    name: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery found: lines behind the mark that are kept (`unconfirmed` of them), tails set aside, intents without outcome.

    `intents` are lines, oldest first. Calls whose records are unconfirmed may have been answered with an error.
    """

    records: int
    unconfirmed: int
    set_aside: tuple[SetAside, ...]
    intents: tuple[bytes, ...]


@dataclass(slots=True)
class _Last:
    """The segment that lines are appended to, durable up to `offset`. `is_open`: the disk appends to it already."""

    segment: int
    offset: int
    begun_us: int
    is_open: bool


class LogWriter:
    """Appends lines to a log. Made by `open_log`; used by one thread at a time."""

    def __init__(
        self,
        name: str,
        disk: Disk,
        records: int,
        last: _Last | None,
        open_intents: dict[str, int],
        max_segment_bytes: int,
        max_age_us: int,
    ) -> None:
        self.name = name
        self.records = records  # durable ones
        self.poison: str | None = None
        self._disk = disk
        self._last = last  # None: the next append begins a segment
        self._max_segment_bytes = max_segment_bytes
        self._max_age_us = max_age_us
        self._open_intents = open_intents  # event id → the segment that its intent is in

    def append(self, lines: list[bytes], now_us: int, opened: Iterable[str] = (), closed: Iterable[str] = ()) -> None:
        """Append `lines` (each with its newline) and make them durable: they are when this returns.

        `opened` are the event ids of intents among the lines, `closed` those of intents whose outcome is. Raises `CommitFailed`;
        from then on the writer is poisoned, and it is unknown which of these lines are in the log.
        """
        if self.poison is not None:
            raise CommitFailed(self.name, self.poison)
        try:
            last = self._last_for(now_us)
            data = b"".join(lines)
            self._disk.append(data)
            self._disk.sync(last.offset + len(data))
            last.offset += len(data)
            self.records += len(lines)
            for intent in opened:
                self._open_intents[intent] = last.segment
            for intent in closed:
                self._open_intents.pop(intent, None)
            scan = min(self._open_intents.values(), default=last.segment)
            self._disk.write_mark(Mark(self.records, last.segment, last.offset, scan))
        except (OSError, LogIncident) as error:
            self.poison = str(error)
            raise CommitFailed(self.name, self.poison) from error

    def close(self) -> None:
        self.poison = self.poison or "the log is closed"
        self._disk.close()

    def _last_for(self, now_us: int) -> _Last:
        """The segment that the next lines go to, open: the last one while it is small and young, or a new one. One that seems to
        be begun later than now is not young."""
        last = self._last
        if last is None or last.offset >= self._max_segment_bytes or not 0 <= now_us - last.begun_us < self._max_age_us:
            self._disk.create(self.records)
            last = self._last = _Last(self.records, 0, now_us, is_open=True)
        elif not last.is_open:
            self._disk.reopen(last.segment, last.offset)
            last.is_open = True
        return last


def open_log(
    name: str,
    disk: Disk,
    *,
    at_least: int,
    max_segment_bytes: int = 64 << 20,
    max_age_us: int = 3_600_000_000,
    new_segment: bool = False,
) -> tuple[LogWriter, Recovered]:
    """Recover the log on `disk` and return a writer that goes on behind it.

    `at_least` is the size that was signed for this log last: a shorter log is an incident. `new_segment` is for a log whose
    writer was poisoned: not the last segment again, whatever it looks like. Raises `LogIncident`, OSError.
    The caller appends what recovery has to say (`Recovered`) before it appends anything else.
    """
    segments = disk.segments()
    mark = disk.read_mark()
    set_aside: list[SetAside] = []
    start, offset, records = _unconfirmed_from(name, segments, mark)
    confirmed, end = records, offset
    for segment in segments[start:]:
        if segment != records and segment != segments[start]:
            raise LogIncident(name, f"segment {segment} should begin with record {records}")
        data = disk.read(segment, offset)
        kept = _whole_lines(name, data, records)
        if kept < len(data):
            if segment != segments[-1]:
                raise LogIncident(name, f"segment {segment} is damaged behind byte {offset + kept}, and it is not the last")
            aside = disk.set_aside(segment, offset + kept, data[kept:])
            set_aside.append(SetAside(segment, offset + kept, len(data) - kept, aside))
        if data:
            disk.rewrite(segment, offset, data[:kept])
        records += data.count(b"\n", 0, kept)
        end, offset = offset + kept, 0
    if records < at_least:
        raise LogIncident(name, f"it has {records} records, but {at_least} were signed for: records are missing")
    scan_from = mark.scan if mark is not None else 0
    intents = _open_intents(disk, [segment for segment in segments if segment >= scan_from])
    recovered = Recovered(records, records - confirmed, tuple(set_aside), tuple(line for line, _ in intents.values()))
    open_in = {event_id: segment for event_id, (_, segment) in intents.items()}
    if records > confirmed:
        disk.write_mark(Mark(records, segments[-1], end, min(open_in.values(), default=segments[-1])))
    is_clean = mark is not None and segments[-1:] == [mark.segment] and end == mark.offset and not set_aside
    last = _last_segment(name, disk, segments[-1], end) if is_clean and not new_segment else None
    return LogWriter(name, disk, records, last, open_in, max_segment_bytes, max_age_us), recovered


def _last_segment(name: str, disk: Disk, segment: int, end: int) -> _Last | None:
    """The last segment, which ends at `end`, to go on in; None where its first record does not tell how old it is."""
    line = disk.first_line(segment)
    if not line.endswith(b"\n") or _place(line) != (name, segment):
        return None
    try:
        return _Last(
            segment, end, canonical.time_us(orjson.loads(line)["additionalEventData"]["keytrail"]["time"]), is_open=False
        )
    except (KeyError, TypeError, ValueError):
        return None


def _unconfirmed_from(name: str, segments: list[int], mark: Mark | None) -> tuple[int, int, int]:
    """Where the confirmed part ends: position in `segments`, offset there, records before it."""
    if not segments:
        if mark is not None and mark.records:
            raise LogIncident(name, f"its segments are gone; {mark.records} records were in them")
        return 0, 0, 0
    if mark is None or not mark.records:
        return len(segments) - 1, 0, segments[-1]
    if mark.segment not in segments:
        raise LogIncident(name, f"segment {mark.segment} is gone; it held records up to {mark.records - 1}")
    return segments.index(mark.segment), mark.offset, mark.records


def _whole_lines(name: str, data: bytes, first_index: int) -> int:
    """How many bytes of `data` are lines of this log, numbered from `first_index`."""
    kept = 0
    for index, line in enumerate(data.splitlines(keepends=True), first_index):
        if not line.endswith(b"\n") or _place(line) != (name, index):
            break
        kept += len(line)
    return kept


def _place(line: bytes) -> tuple[str, int] | None:
    """The log and sequence number that a line says it has."""
    try:
        extension = orjson.loads(line)["additionalEventData"]["keytrail"]
        return extension["log"], extension["sequence"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _open_intents(disk: Disk, segments: list[int]) -> dict[str, tuple[bytes, int]]:
    """The intents in `segments` without an outcome: event id → line, segment. Oldest first."""
    found: dict[str, tuple[bytes, int]] = {}
    for segment in segments:
        for line in _lines_with(disk.read(segment), b'"phase":"intent"', b'"intent":"'):
            record = orjson.loads(line)
            extension = record["additionalEventData"]["keytrail"]
            if extension["phase"] == "intent":
                found[record["eventID"]] = (line, segment)
            else:
                found.pop(extension.get("intent", ""), None)
    return found


def _lines_with(data: bytes, *needles: bytes) -> Iterator[bytes]:
    """The lines that contain one of `needles`: cheap to ask of many, before parsing the few."""
    for line in data.split(b"\n"):
        if any(needle in line for needle in needles):
            yield line
