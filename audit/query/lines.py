"""One line of the log, as readers take it: its bytes, where it stands, and what is wrong with it, if anything."""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from audit.errors import DamagedLog
from audit.query.filters import Record, extension
from audit.query.sql import TIME_FORMAT

_TIME = re.compile(TIME_FORMAT, re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a line stands: log, file name of the segment, line number in it from 1."""

    log: str
    segment: str
    line: int

    def __str__(self) -> str:
        return f"{self.log}/{self.segment}:{self.line}"


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in the log that could not be read, so that an answer may lack it. Line 0: the segment or log as a
    whole."""

    log: str
    segment: str
    line: int
    reason: str

    def __str__(self) -> str:
        place = f"log {self.log}" + (f", {self.segment}" if self.segment else "") + (f", line {self.line}" if self.line else "")
        return f"{place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Found:
    """A record that was found: its `line` is the bytes that stand in the log, without the newline; `time` as
    recorded."""

    place: Place
    time: str
    line: bytes

    @property
    def record(self) -> Record:
        """The parsed line. Raises `DamagedLog`."""
        return parse(self.line, self.place)


def parse(line: bytes, place: Place) -> Record:
    """The record in `line`. Raises `DamagedLog` where it is none."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DamagedLog(place.segment, place.line, "not JSON" if _is_text(line) else "not UTF-8") from error
    facts = extension(record) if isinstance(record, dict) else {}
    time = facts.get("time")
    if (
        not isinstance(time, str)
        or not _TIME.fullmatch(time)
        or facts.get("log") is None
        or not isinstance(facts.get("sequence"), int)
    ):
        raise DamagedLog(place.segment, place.line, "JSON, but not a record of a keytrail log")
    record_: Record = record
    return record_


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
