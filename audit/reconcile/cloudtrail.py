"""The events in a CloudTrail log file, one after another: JSON ``{"Records": [ … ]}``, plain or gzip, of any size.

A file is held in memory a piece at a time, and no event may be longer than `MAX_EVENT_CHARS`. Where a file is damaged, the events
before the damage are given, and then `DamagedFile` says what is wrong; there is no guessing where the next event begins.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

_BLOCK_BYTES = 1 << 20
#: CloudTrail's own limit is 256 KB, 1 MB for events that were enriched.
MAX_EVENT_CHARS = 8 << 20
#: Unpacked. What is larger was not made by CloudTrail.
MAX_FILE_BYTES = 4 << 30
_GZIP = b"\x1f\x8b"
_HEAD = re.compile(r'\s*\{\s*"Records"\s*:\s*\[')
_MAX_HEAD_CHARS = 4_096
_SPACE = re.compile(r"\s*")


class DamagedFile(Exception):
    """The file cannot be read from here on; the text says why."""


class Readable(Protocol):
    """A file, or the body of an object in S3."""

    def read(self, size: int, /) -> bytes: ...


def read_events(file: Readable) -> Iterator[dict[str, Any]]:
    """The events in `file`. Any: JSON. Raises `DamagedFile`, OSError."""
    return (event for event, _ in read_written(file))


def read_written(file: Readable) -> Iterator[tuple[dict[str, Any], str]]:
    """The events in `file`, each with the text that it was read from. Raises as `read_events`."""
    text = _Text(_blocks(file))
    while not (head := _HEAD.match(text.rest)):
        if len(text.rest) > _MAX_HEAD_CHARS or not text.read_on():
            raise DamagedFile('no CloudTrail log file: it does not begin with {"Records": [')
    text.at = head.end()
    number = 0
    while (sign := text.sign()) != "]":
        if number:
            if sign != ",":
                raise DamagedFile(f"cut off behind event {number}" if not sign else f"no JSON behind event {number}")
            text.at += 1
        number += 1
        yield text.event(number)
    text.at += 1
    if text.sign() != "}":
        raise DamagedFile("the events are followed by something else")
    text.at += 1
    if text.sign():
        raise DamagedFile("the end is followed by something else")


class _Text:
    """The text of a file from `at` on, as far as it was read; what lies before is let go."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self._blocks = blocks
        self.rest = ""
        self.at = 0
        self._decoder = json.JSONDecoder()

    def read_on(self) -> bool:
        block = next(self._blocks, None)
        if block is None:
            return False
        self.rest = self.rest[self.at :] + block
        self.at = 0
        return True

    def sign(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            found = _SPACE.match(self.rest, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.rest):
                return self.rest[self.at]
            if not self.read_on():
                return ""

    def event(self, number: int) -> tuple[dict[str, Any], str]:
        if self.sign() != "{":
            raise DamagedFile(f"cut off behind event {number - 1}" if not self.sign() else f"event {number} is no object")
        while True:
            try:
                event, end = self._decoder.raw_decode(self.rest, self.at)
            except RecursionError as error:
                raise DamagedFile(f"event {number} is nested too deeply") from error
            except ValueError as error:
                if len(self.rest) - self.at > MAX_EVENT_CHARS:
                    raise DamagedFile(f"event {number} is no JSON, or too long") from error
                if not self.read_on():
                    raise DamagedFile(f"event {number} is no JSON, or is cut off") from error
            else:
                written = self.rest[self.at : end]
                self.at = end
                return event, written


def _blocks(file: Readable) -> Iterator[str]:
    """The file's text, unpacked."""
    try:
        whole = _Behind(file.read(len(_GZIP)), file)
        packed: Readable = whole if whole.head != _GZIP else gzip.GzipFile(fileobj=whole)  # type: ignore[call-overload]  # it only reads
        decode, size_bytes = codecs.getincrementaldecoder("utf-8-sig")().decode, 0
        while block := packed.read(_BLOCK_BYTES):
            size_bytes += len(block)
            if size_bytes > MAX_FILE_BYTES:
                raise DamagedFile(f"larger than {MAX_FILE_BYTES >> 30} GiB unpacked")
            yield decode(block)
        yield decode(b"", True)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFile(f"broken gzip: {error}") from error
    except EOFError as error:
        raise DamagedFile("broken gzip: it is cut off") from error
    except UnicodeDecodeError as error:
        raise DamagedFile("not UTF-8") from error


class _Behind:
    """A file whose first bytes, `head`, were read already, as GzipFile takes it."""

    def __init__(self, head: bytes, file: Readable) -> None:
        self.head = head
        self._left = head
        self._file = file

    def read(self, size: int, /) -> bytes:
        left, self._left = self._left, b""
        return left or self._file.read(size)
