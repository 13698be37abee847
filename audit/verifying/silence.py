"""Step 13: silence, and a clock that was set back, by a log's heartbeats (docs/log-format.md, "Heartbeats").

A worker begins with StartServing, and from then on its log is never silent for longer than the interval that its newest heartbeat
tells, until StopServing. A longer silence inside its life is a fault: records were taken out, or the process stood still. One
that ends with a start, though nothing had stopped, is an outage: a crash, or a kill. It is told with its length, and no fault.
A record's moment is the end of its call; where that is minutes before the moment of an earlier record, the clock was set back.

Of most lines is asked whether the call was short, and its time lies in a window: nothing more. Pure.
"""

from __future__ import annotations

from enum import Enum, auto

from audit.canonical import time_us, timestamp
from audit.verifying.ordinary import SLOW_US
from audit.verifying.records import Line
from audit.verifying.subject import SKEW_US

_START, _BEAT, _STOP, _RECOVERED = "StartServing", "Heartbeat", "StopServing", "RecoverLog"
_LATE_US = 10_000_000  # how much longer than the interval a silence may be: a look a second, and a busy host
_NEVER = "\x7f"  # later than the text of any time


class _Life(Enum):
    UNKNOWN = auto()  # no heartbeats: nothing is known of silence
    SERVING = auto()
    STOPPED = auto()


class Silence:
    """What the times of a log say, while its records go by. `newest` is the latest of them, as text."""

    def __init__(self) -> None:
        self.newest = ""
        self.earliest, self.latest = "", _NEVER  # times between these need no look
        self._life = _Life.UNKNOWN
        self._interval_us = self._reached_us = 0  # how far the log's moments have come, as far as was looked
        self._told = 0  # records that tell of a worker's life
        self._quiet_from: int | None = None  # from this record on there are no heartbeats any more
        self._outages_us: list[int] = []

    @property
    def has_stopped(self) -> bool:
        """Whether serving has ended as it should, as the newest record says."""
        return self._life is _Life.STOPPED

    def take(self, line: Line) -> str:
        """The record that the reading is at. Gives what is wrong with its time; "" where nothing is."""
        time = line.time
        is_own = line.record.get("eventSource") == "keytrail"
        wrong = ""
        if is_own or not self.earliest <= time <= self.latest or _latency_us(line) >= SLOW_US:
            wrong = self._look(line)
        self.newest = max(self.newest, time)
        return wrong

    def _look(self, line: Line) -> str:
        moment_us = _moment_us(line)
        if moment_us is None:
            return ""  # it does not say when it was: nothing is known of it
        event = line.record.get("eventName") if line.record.get("eventSource") == "keytrail" else None
        reached_us = max(self._reached_us, _time_us(self.newest) or 0)
        is_start = event in (_START, _RECOVERED) or line.extension.get("phase") == "unknown"
        wrong = ""
        if self._told and moment_us < reached_us - SKEW_US:
            wrong = f"its time is {_length(reached_us - moment_us)} before that of an earlier record: the clock was set back"
            reached_us, self.newest = moment_us, ""
        elif self._life is _Life.SERVING and moment_us - reached_us > self._interval_us + _LATE_US:
            wrong = self._judged(moment_us - reached_us, is_start=is_start)
        self._reached_us = max(reached_us, moment_us)
        self._follow(event, line, is_start=is_start)
        return wrong

    def _judged(self, silence_us: int, *, is_start: bool) -> str:
        """What is wrong with a silence; one that ends with a start is an outage, and no fault."""
        if is_start:
            self._outages_us.append(silence_us)
            return ""
        due = f"though a heartbeat is due every {_length(self._interval_us)}, and nothing was stopped"
        return f"before this record the log is silent for {_length(silence_us)}, {due}"

    def _follow(self, event: object, line: Line, *, is_start: bool) -> None:
        """What is known of the worker's life from `line` on."""
        if event in (_START, _BEAT, _STOP):
            self._told += 1
            self._interval_us = _interval_us(line)
            is_last = event == _BEAT and not self._interval_us  # heartbeats were turned off while it was served
            self._life = _Life.STOPPED if event == _STOP else _Life.UNKNOWN if is_last else _Life.SERVING
            self._quiet_from = line.sequence + 1 if is_last else None
        elif self._life is _Life.STOPPED and not is_start:
            self._life, self._quiet_from = _Life.UNKNOWN, line.sequence
        if self._life is _Life.SERVING:
            self.earliest, self.latest = timestamp(self._reached_us - SKEW_US), timestamp(self._reached_us + self._interval_us)
        elif self._life is _Life.STOPPED:
            self.earliest = self.latest = _NEVER  # whatever comes is looked at
        else:
            self.earliest, self.latest = (timestamp(self._reached_us - SKEW_US) if self._told else ""), _NEVER

    def checked(self) -> tuple[bool, str]:
        if not self._told:
            return False, "it has no heartbeats"
        quiet = "" if self._quiet_from is None else f"; from record {self._quiet_from} on it has none"
        outages = ""
        if self._outages_us:
            longest = _length(max(self._outages_us))
            outages = f"; {len(self._outages_us)} outages that nothing announced, the longest of {longest}"
        return True, f"{self._told} heartbeats, starts and stops{outages}{quiet}"


def _moment_us(line: Line) -> int | None:
    """When the record was made: the end of its call."""
    arrival_us = _time_us(line.time)
    return None if arrival_us is None else arrival_us + _latency_us(line)


def _latency_us(line: Line) -> int:
    latency_us = line.extension.get("latencyMicros")
    return latency_us if type(latency_us) is int and latency_us > 0 else 0


def _time_us(text: str) -> int | None:
    try:
        return time_us(text)
    except (ValueError, TypeError):
        return None


def _interval_us(line: Line) -> int:
    details = line.record.get("serviceEventDetails")
    seconds = details.get("intervalSeconds") if isinstance(details, dict) else None
    return int(seconds * 1_000_000) if isinstance(seconds, int | float) and 0 <= seconds < 1e9 else 0


def _length(us: int) -> str:
    """A length of time for people: ``45 s``, ``2 h 5 min``."""
    seconds = us // 1_000_000
    if seconds < 120:
        return f"{seconds} s"
    days, rest = divmod(seconds, 86_400)
    hours, minutes = rest // 3_600, rest % 3_600 // 60
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
