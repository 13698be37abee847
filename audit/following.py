"""Reading a log while it is written: its durable lines, in order, from any record on.

What the log's mark says is durable is read, and nothing behind it, so that nobody acts on a record that a power cut could take
back. The mark itself may be older than the truth after a power cut: then a record is read later, and none is read twice.
"""

from __future__ import annotations

from pathlib import Path

from audit.errors import LogIncident
from audit.segments import list_segments, read_mark, segment_name

_CHUNK_BYTES = 1 << 18


class LogFollower:
    """The durable lines of the log in `folder`, from record `start` on. For one thread at a time."""

    def __init__(self, folder: Path, start: int = 0) -> None:
        self._folder = folder
        self.record = start  # the number of the next line
        self._segment: int | None = None
        self._offset = 0

    def durable(self) -> int:
        """How many records are known to be durable. Raises OSError."""
        mark = read_mark(self._folder)
        return mark.records if mark is not None else 0

    def read(self, at_most: int = 10_000) -> list[bytes]:
        """The lines that come next, without their newlines, not more than `at_most`; none where there is nothing new.

        Raises `LogIncident` where one that should be there is not, OSError.
        """
        wanted = min(self.durable() - self.record, at_most)
        lines: list[bytes] = []
        while len(lines) < wanted:
            if self._segment is None:
                self._find(self.record)
            found, self._offset = self._read_from(self._offset, wanted - len(lines))
            if not found:
                self._open_next()
                continue
            lines += found
            self.record += len(found)
        return lines

    def _read_from(self, offset: int, at_most: int) -> tuple[list[bytes], int]:
        """Some of the whole lines at `offset` of the segment, and where they end."""
        with (self._folder / segment_name(self._segment or 0)).open("rb") as file:
            file.seek(offset)
            data = b""
            while b"\n" not in data and (chunk := file.read(_CHUNK_BYTES)):
                data += chunk
        lines = data.split(b"\n")[:-1][:at_most]
        return lines, offset + sum(map(len, lines)) + len(lines)

    def _find(self, record: int) -> None:
        """Go to the segment that `record` is in, and to its line."""
        before = [segment.first_index for segment in list_segments(self._folder) if segment.first_index <= record]
        if not before:
            raise LogIncident(self._folder.name, f"the segment with record {record} is gone")
        self._segment, self._offset = before[-1], 0
        skipped = before[-1]
        while skipped < record:
            lines, self._offset = self._read_from(self._offset, record - skipped)
            if not lines:
                raise LogIncident(self._folder.name, f"record {record} is not in {segment_name(before[-1])}, where it should be")
            skipped += len(lines)

    def _open_next(self) -> None:
        """Go to the segment that begins with the next record."""
        if self.record not in [segment.first_index for segment in list_segments(self._folder)] or self.record == self._segment:
            raise LogIncident(self._folder.name, f"record {self.record} is missing, though it is said to be durable")
        self._segment, self._offset = self.record, 0
