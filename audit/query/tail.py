"""Following the logs as they are written. `Follower.poll` takes what is new; the loop around it, with its clock, is the
shell's.

A line that is not complete yet waits. A log that appears later is followed from its start, and a segment's successor is
taken up when the segment has nothing more: it is listed before its predecessor is read to the end, so nothing falls
between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from audit.errors import DamagedLog
from audit.query import scan
from audit.query.filters import Filter, extension
from audit.query.lines import Damage, Found, Place, parse
from audit.segments import Segment, list_segments

_READ_BYTES = 8 << 20

News: TypeAlias = "Found | Damage"


@dataclass(slots=True)
class _Position:
    """How far a log was read: `offset` is behind the last complete line of `segment`, `lines` are before it."""

    segment: Segment | None = None
    offset: int = 0
    lines: int = 0


class Follower:
    """Follows all logs of the data folder (or `log`) for records that match `wanted`. For one thread.

    Raises `QueryError` where there is no such log.
    """

    def __init__(self, data: Path, wanted: Filter, log: str | None = None) -> None:
        self._data = data
        self._wanted = wanted
        self._only = log
        self._positions: dict[str, _Position] = {}
        self._first_look = scan.find_logs(data, log)[0]

    def last(self, lines: int) -> list[News]:
        """Start at the end of every log; returns its last `lines` matching records, looked for in its newest segment
        only."""
        news: list[News] = []
        for name in self._first_look:
            position = self._positions[name] = _Position()
            segments = list_segments(self._data / "log" / name)
            if segments:
                position.segment = segments[-1]
                tail: deque[News] = deque(maxlen=lines)
                while found := self._read(name, position):
                    tail.extend(found[1])
                news += tail
        return _in_order(news)[-lines:] if lines else []

    def poll(self) -> list[News]:
        """What was added since the last call, in the order of time. Raises OSError."""
        news: list[News] = []
        for name in [self._only] if self._only else sorted(path.name for path in (self._data / "log").iterdir() if path.is_dir()):
            position = self._positions.setdefault(name, _Position())
            segments = list_segments(self._data / "log" / name)
            while True:
                if found := self._read(name, position):
                    news += found[1]
                    continue
                later = [s for s in segments if position.segment is None or s.first_index > position.segment.first_index]
                if not later:
                    break
                news += self._unfinished(name, position)
                position.segment, position.offset, position.lines = later[0], 0, 0
        return _in_order(news)

    def _read(self, log: str, position: _Position) -> tuple[int, list[News]] | None:
        """The next complete lines of the segment and how many they are; None where there are none yet."""
        segment = position.segment
        if segment is None:
            return None
        with segment.path.open("rb", buffering=0) as file:
            file.seek(position.offset)
            data = file.read(_READ_BYTES)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return None
        news: list[News] = []
        lines = whole.split(b"\n")[:-1]
        for line in lines:
            position.lines += 1
            news += self._judge(line, Place(log, segment.path.name, position.lines))
        position.offset += len(whole)
        return len(lines), news

    def _judge(self, line: bytes, place: Place) -> list[News]:
        try:
            record = parse(line, place)
        except DamagedLog as error:
            return [Damage(place.log, place.segment, place.line, error.reason)]
        return [Found(place, str(extension(record)["time"]), line)] if self._wanted.matches(record) else []

    def _unfinished(self, log: str, position: _Position) -> list[News]:
        if position.segment is None or position.segment.path.stat().st_size <= position.offset:
            return []
        reason = "cut off: no end of line, in a segment that is not the last"
        return [Damage(log, position.segment.path.name, position.lines + 1, reason)]


def follow(follower: Follower, lines: int, wait: Callable[[], None]) -> Iterator[News]:
    """The last `lines` records, then what is added, for ever; `wait` is called where there is nothing new. Raises
    OSError."""
    yield from follower.last(lines)
    while True:
        news = follower.poll()
        yield from news
        if not news:
            wait()


def _in_order(news: list[News]) -> list[News]:
    return sorted(
        news,
        key=lambda one: (one.time, one.place) if isinstance(one, Found) else ("", Place(one.log, one.segment, one.line)),
    )
