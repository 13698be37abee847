"""The time by which keys live: the system's, or for tests a virtual one that a file moves.

The file of the setting `clock` holds a number of seconds to be added to the system's time (``86400``, ``-3.5``), or a time with
a zone (ISO 8601), which it was when the file was written. It is looked at again whenever the time is asked for, so that a test
moves the time of a running server by writing it. It goes for keys and callers: dates, deletion, rotation, expiry. It does not
go for records and signatures, which are evidence of the real time, and by which real clients sign.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from proxy.errors import SetupError

_log = logging.getLogger(__name__)
_MOST_BYTES = 64

Clock = Callable[[], float]


def clock_of(file: Path | None) -> Clock:
    """Seconds since the epoch, by the system's clock or the one of `file`. Raises SetupError."""
    return time.time if file is None else VirtualClock(file)


class VirtualClock:
    """The system's time and what `file` adds to it. What cannot be read any more leaves the last offset in force."""

    def __init__(self, file: Path, system: Clock = time.time) -> None:
        self._file = file
        self._system = system
        self._seen: tuple[int, int, int] | None = None
        self._offset_s = 0.0
        self._told = ""
        try:
            self._read()
        except (OSError, ValueError) as error:
            raise SetupError(f"clock: {file} cannot be read as an offset in seconds or a time with a zone: {error}") from error

    def __call__(self) -> float:
        return self._system() + self.offset_s

    @property
    def offset_s(self) -> float:
        """What is added to the system's time, as of now."""
        try:
            self._read()
        except (OSError, ValueError) as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.error("the clock stays as it was: %s: %s", self._file, error)
        return self._offset_s

    def _read(self) -> None:
        found = os.stat(self._file)
        seen = found.st_mtime_ns, found.st_size, found.st_ino
        if seen == self._seen:
            return
        self._seen = seen
        self._offset_s = _offset(self._file.read_bytes()[:_MOST_BYTES].decode().strip(), found.st_mtime)


def _offset(text: str, written_s: float) -> float:
    """Seconds to be added, by the file's text and the time at which it was written. Raises ValueError."""
    try:
        offset_s = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(f"{text!r} names no zone") from None
        offset_s = moment.timestamp() - written_s
    if not abs(offset_s) < 1e10:
        raise ValueError(f"{text!r} is too far away")
    return offset_s
