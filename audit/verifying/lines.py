"""Steps 1, 2, 3 and 9: the folder of a log, its segments, each line in its place, and the mark.

Where lines are missing or too many, the rest is read on in its place, so that one deleted line does not make a fault of every
line behind it. What is no line of the log, behind both the mark and the last checkpoint, in the last segment, is being written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from audit.log import Mark
from audit.merkle import leaf_hash, leaf_hashes
from audit.segments import Segment, is_being_written, list_segments, read_mark, segment_name
from audit.verifying.comparison import Comparison
from audit.verifying.faults import Faults
from audit.verifying.ordinary import RUN, Window, ordinary_run
from audit.verifying.records import REQUIRED, Line, read_line, require_all
from audit.verifying.subject import Subject
from audit.verifying.titles import DENSE_LINES, DENSE_SEGMENTS, MARK, PRESENT

Meter = Callable[[int], None]  # bytes that were read

#: What is read stays in the cache until it is hashed, and is no mapping of its own for malloc: a quarter faster than a MiB.
_CHUNK_BYTES = 96 << 10
_MAX_LINE_BYTES = 16 << 20
_MAX_GAP = 1_000_000  # records that a line's number may jump where nothing signed tells


class Watcher(Protocol):
    """Whoever looks at the records as they go by."""

    def take(self, number: int, leaf: bytes, line: Line) -> None:
        """The record that the reading is at, before its leaf hash goes into the tree."""

    def window(self, number: int, count: int) -> Window | None:
        """What is ordinary among the next `count` records, from `number` on; None where each has to be seen."""

    def pass_by(self, newest: str) -> None:
        """Ordinary records, the latest of this time, went by unseen."""


class Lines:
    """The lines of one log, read once, in order. Each goes into `tree`, and past `watcher`."""

    def __init__(self, subject: Subject, tree: Comparison, watcher: Watcher, faults: Faults) -> None:
        self._subject = subject
        self._tree = tree
        self._watcher = watcher
        self._faults = faults
        self._segments: list[Segment] = []
        self._mark: Mark | None = None
        self._is_mark_met = self._is_written = False
        self._count = self._read_bytes = self._tail_bytes = 0

    def read(self, meter: Meter) -> None:
        """The whole log as it stands now. Raises OSError."""
        self._look_at_folder()
        for segment in self._segments:
            if not self._read_segment(segment, meter):
                break

    def is_being_written(self) -> bool:
        """Whether somebody writes the log, or did while it was read, and so has what belongs to its last lines."""
        if self._segments and not self._is_written and (self._subject.folder / "lock").exists():
            grew = self._segments[-1].path.stat().st_size > self._read_bytes
            grew = grew or list_segments(self._subject.folder) != self._segments
            self._is_written = grew or is_being_written(self._subject.folder)
        return self._is_written

    def finish(self) -> None:
        """Whether the mark was met."""
        if self._mark is not None and self._mark.records and not self._is_mark_met:
            mark = f"byte {self._mark.offset} of {segment_name(self._mark.segment)}"
            self._faults.add_here(MARK, f"the mark says that record {self._mark.records - 1} ends at {mark}, where no line does")

    def checked(self) -> dict[int, tuple[bool, str]]:
        some = self._tree.records > 0
        tail = f"; {self._tail_bytes} bytes behind them are torn or being written" if self._tail_bytes else ""
        mark = "it is no evidence, and agrees" if self._is_mark_met else "it is missing, damaged, or of an empty log"
        return {
            PRESENT: (True, "listed in keytrail.json, with its lock" if some else "listed in keytrail.json; it is empty"),
            DENSE_SEGMENTS: (bool(self._segments), f"{len(self._segments)} segments"),
            DENSE_LINES: (some, f"{self._count} records{tail}" if some else f"the log is empty{tail}"),
            MARK: (self._is_mark_met, mark),
        }

    # --- folder and segments

    def _look_at_folder(self) -> None:
        subject = self._subject
        if subject.is_foreign or not (subject.folder.is_dir() or subject.checkpoints.is_dir()):
            self._faults.add(PRESENT, "its folders have vanished" if subject.is_listed else "this instance has no such log")
            return
        if not subject.is_listed:
            self._faults.add(PRESENT, "keytrail.json does not list it")
        if not subject.folder.is_dir():
            self._faults.add(PRESENT, f"{subject.folder} has vanished")
            return
        if (subject.folder / "lock").exists():
            self._is_written = is_being_written(subject.folder)
        else:
            self._faults.add(PRESENT, f"{subject.folder / 'lock'} has vanished")
        self._mark = read_mark(subject.folder)
        self._segments = list_segments(subject.folder)

    def _read_segment(self, segment: Segment, meter: Meter) -> bool:
        """False where the lines end before the file does: what follows was never confirmed."""
        self._faults.segment, self._faults.line = segment.path.name, 0
        if segment.first_index > self._tree.records:
            self._faults.add_here(DENSE_SEGMENTS, f"{_missing(self._tree.records, segment.first_index)} before this segment")
            self._tree.skip_to(segment.first_index)
        elif segment.first_index < self._tree.records:
            self._faults.add_here(
                DENSE_SEGMENTS,
                f"its name says that it begins with record {segment.first_index}, but {self._tree.records} comes next",
            )
        is_last = segment == self._segments[-1]
        self._read_bytes, rest = 0, b""
        with segment.path.open("rb") as file:
            while chunk := file.read(self._next_bytes(segment)):
                meter(len(chunk))
                text = rest + chunk
                lines, end = _split(text)
                offset, rest = self._read_bytes - len(rest), end
                self._read_bytes += len(chunk)
                if (taken := self._take_all(lines, is_last, is_ascii=text.isascii())) < len(lines):
                    offset += sum(map(len, lines[:taken])) + taken
                    self._tail_bytes = segment.path.stat().st_size - offset
                    return False
                self._meet_mark(segment, rest)
                if len(rest) > _MAX_LINE_BYTES:
                    break
        if rest and is_last:
            self._tail_bytes = len(rest)
        elif rest:
            self._faults.line += 1
            self._faults.add_here(DENSE_LINES, "the line is not ended, and this is not the last segment")
            self._tree.alter()
        return True

    def _next_bytes(self, segment: Segment) -> int:
        """How much to read: not beyond the mark, so that the reading comes by it."""
        mark = self._mark
        if mark is not None and mark.segment == segment.first_index and self._read_bytes < mark.offset:
            return min(_CHUNK_BYTES, mark.offset - self._read_bytes)
        return _CHUNK_BYTES

    def _meet_mark(self, segment: Segment, rest: bytes) -> None:
        mark = self._mark
        if mark is None or (mark.segment, mark.offset) != (segment.first_index, self._read_bytes) or rest:
            return
        self._is_mark_met = True
        if self._tree.records != mark.records:
            self._faults.add_here(
                MARK, f"the mark says that record {mark.records - 1} ends here, but record {self._tree.records - 1} does"
            )

    # --- lines

    def _take_all(self, lines: list[memoryview], is_last: bool, *, is_ascii: bool) -> int:
        """How many of `lines` are the log's, before one that is none and need not be: recovery will set it aside."""
        number = 0
        while number < len(lines):
            if passed := self._pass_by(lines, number, is_ascii=is_ascii):
                number += passed
                continue
            self._faults.line += 1
            if not self._take(bytes(lines[number]), is_last):
                return number
            number += 1
        return number

    def _pass_by(self, lines: list[memoryview], start: int, *, is_ascii: bool) -> int:
        """Take the ordinary lines from place `start` on; gives how many there were."""
        window = self._watcher.window(self._tree.records, min(self._tree.room, RUN))
        if window is None or self._tree.altered:
            return 0
        count, newest = ordinary_run(lines, start, self._subject.log, self._tree.records, window, is_ascii=is_ascii)
        if count:
            self._tree.take_run(leaf_hashes(lines[start : start + count]))
            self._watcher.pass_by(newest)
            self._count += count
        return count

    def _take(self, text: bytes, is_last: bool) -> bool:
        """One line. False where it cannot be a line of this log and need not be."""
        leaf = leaf_hash(text)
        line = read_line(text)
        if line.log != self._subject.log or line.sequence != self._tree.records:
            confirmed = self._mark.records if self._mark is not None else 0
            if is_last and self._tree.is_through and self._tree.records >= confirmed and not self._tree.altered:
                return False
            if not self._place(leaf, line):
                return True
        self._count += 1
        self._watcher.take(self._tree.records, leaf, line)
        self._tree.take(leaf)
        try:
            require_all(line.record)
        except KeyError:
            if line.log is not None:
                lacking = ", ".join(name for name in REQUIRED if name not in line.record)
                self._faults.add_here(
                    DENSE_LINES, f"record {line.sequence} lacks what CloudTrail requires of every record: {lacking}"
                )
        return True

    def _place(self, leaf: bytes, line: Line) -> bool:
        """Say what is wrong with the place of a line; whether it goes into the tree where the reading is."""
        expected, number = self._tree.records, line.sequence
        if line.log != self._subject.log:
            what = "it is not a record of keytrail" if line.log is None else f"it is a record of the log {line.log!r:.60}"
            self._faults.add_here(DENSE_LINES, f"record {expected} should stand here: {what}")
        elif number < expected:
            if any(start <= number < end for start, end in self._tree.missing):
                self._faults.add_here(DENSE_LINES, f"record {number} stands behind record {expected - 1}: out of order")
            else:
                self._faults.add_here(DENSE_LINES, f"record {number} stands here a second time; record {expected} should")
            self._tree.alter()
            return False
        elif self._tree.leaf_at(number) == leaf or (self._tree.leaf_at(expected) is None and number - expected <= _MAX_GAP):
            self._faults.add_here(DENSE_LINES, f"{_missing(expected, number)}: here stands record {number}")
            self._tree.skip_to(number)
        else:
            self._faults.add_here(DENSE_LINES, f"record {expected} should stand here: the line says that it is record {number}")
        return True


def _split(text: bytes) -> tuple[list[memoryview], bytes]:
    """The lines that end in `text`, as views of it, without their newlines; and what comes behind them. No line is copied."""
    view, lines, start, find = memoryview(text), list[memoryview](), 0, text.find
    while (end := find(b"\n", start)) >= 0:
        lines.append(view[start:end])
        start = end + 1
    return lines, text[start:]


def _missing(start: int, end: int) -> str:
    return f"record {start} is missing" if end == start + 1 else f"records {start}–{end - 1} are missing"
