"""The documents in an artefact: of JSON one, or one on each line; of BSON one behind the other; under gzip or not. Pure.

One document is in memory at a time, and only those are given in which the reader's marks stand. Rules kept:

- What is taken apart is counted before: JSON of more than `MAX_STRUCTURE` brackets, commas and colons is refused. An honest
  document of 16 MiB has fewer, and so many cost some hundred MiB as Python's objects.
- What is broken is told as `Broken`, with its place, and what lies behind it is read.
- Where no mark is within the first `MAX_SEARCHED_BYTES`, or `MAX_UNMARKED` documents of BSON, the rest is not searched; nor is it
  behind `MAX_MARKED` documents with a mark.

Limits: names are sought as they are usually written, without escapes; JSON of more than `MAX_PIECE_BYTES` is read in lines alone.

Source: RFC 8259; jsonlines.org; bsonspec.org 1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import orjson

from audit.query.artifacts.artifact import MAX_KEYS, MAX_PIECE_BYTES, Artifact
from audit.query.artifacts.packed import BrokenPacking, is_packed, pieces, unpack

MAX_STRUCTURE = 3_000_000
MAX_SEARCHED_BYTES = 1 << 30
MAX_UNMARKED = 10_000
MAX_MARKED = 10 * MAX_KEYS
#: MongoDB's own limit for what it stores.
MAX_BSON_BYTES = 16 << 20
LEAST_BSON_BYTES = 5

_ENOUGH = f"it and all behind it are not read: {MAX_MARKED} before it were"

_BOM = b"\xef\xbb\xbf"
#: What stands behind the length of a document of BSON: its end, or the type of its first value.
_BSON_TYPES = frozenset((*range(0x00, 0x14), 0x7F, 0xFF))

#: Whether the reader's marks stand in what is written there.
Marked: TypeAlias = Callable[[bytes], bool]


class BrokenJson(ValueError):
    """It is no JSON, or more of it than is taken apart; the text says which."""


@dataclass(frozen=True, slots=True)
class Document:
    """One of JSON. `where` is its place; empty where it is all that there is."""

    where: str
    value: object


@dataclass(frozen=True, slots=True)
class Encoded:
    """One of BSON, not taken apart. `where` is its place."""

    where: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Broken:
    """What cannot be read. `text` is as much of it as was held; `is_marked` whether the reader's marks stand in that."""

    where: str
    reason: str
    text: bytes = field(repr=False, default=b"")
    is_marked: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


def parse_json(content: bytes) -> object:
    """Raises `BrokenJson`."""
    if sum(map(content.count, (b"{", b"[", b",", b":"))) > MAX_STRUCTURE:
        raise BrokenJson(f"it has more than {MAX_STRUCTURE} brackets, commas and colons, as no honest one has: it is not read")
    try:
        value: object = orjson.loads(without_bom(content))
    except orjson.JSONDecodeError as error:
        raise BrokenJson(f"it is JSON that is broken at byte {error.pos}") from error
    return value


def without_bom(content: bytes) -> bytes:
    return content.removeprefix(_BOM)


# --- JSON


def json_documents(artifact: Artifact, is_marked: Marked) -> Iterator[Document | Broken]:
    """Nothing where it does not begin as JSON; what is not JSON as a whole, and whose first line is, is taken for lines."""
    try:
        if not without_bom(next(pieces(artifact), b"")).lstrip().startswith((b"{", b"[")):
            return
        whole = _whole(artifact)
        if whole is None:
            yield from _in_lines(artifact, is_marked)
        elif is_marked(whole):
            first, newline, _ = whole.strip().partition(b"\n")
            if newline and _is_json(first):
                yield from _in_lines(artifact, is_marked)
            else:
                yield _document("", whole, is_marked)
    except BrokenPacking as error:
        yield Broken("", str(error))


def _whole(artifact: Artifact) -> bytes | None:
    """All of it; None where that is more than `MAX_PIECE_BYTES`, or cannot be unpacked."""
    if is_packed(artifact):
        unpacked = unpack(artifact)
        return None if unpacked is None else unpacked.content
    return artifact.read(0, artifact.size_bytes) if artifact.size_bytes <= MAX_PIECE_BYTES else None


def _is_json(content: bytes) -> bool:
    try:
        parse_json(content)
    except BrokenJson:
        return False
    return True


def _document(where: str, content: bytes, is_marked: Marked) -> Document | Broken:
    try:
        return Document(where, parse_json(content))
    except BrokenJson as error:
        return Broken(where, str(error), content, is_marked(content))


def _in_lines(artifact: Artifact, is_marked: Marked) -> Iterator[Document | Broken]:
    is_first = True
    for count, (number, line) in enumerate(_lines(artifact, is_marked)):
        if count == MAX_MARKED:
            yield Broken(f"line {number}", _ENOUGH)
            return
        if line is None:
            found: Document | Broken = Broken(f"line {number}", f"it is longer than {MAX_PIECE_BYTES} bytes")
        else:
            found = _document(f"line {number}", line, is_marked)
        if not is_first or isinstance(found, Document) or found.is_marked:
            yield found
        if is_first and isinstance(found, Broken):
            return
        is_first = False


def _lines(artifact: Artifact, is_marked: Marked) -> Iterator[tuple[int, bytes | None]]:
    """By their numbers the first that is not empty, and those with a mark; None for one of more than `MAX_PIECE_BYTES`."""
    held = b""
    number = 1
    is_first, has_marks, is_passing = True, False, False
    searched_bytes = 0
    for piece in pieces(artifact):
        searched_bytes += len(piece)
        if not has_marks and searched_bytes > MAX_SEARCHED_BYTES:
            return
        if is_passing:
            _, newline, piece = piece.partition(b"\n")
            if not newline:
                continue
            is_passing, number = False, number + 1
        ended, newline, held = (held + piece).rpartition(b"\n")
        if newline:
            if is_first or is_marked(ended):
                for at, line in enumerate(ended.split(b"\n"), number):
                    if line.strip() and ((marked := is_marked(line)) or is_first):
                        is_first, has_marks = False, has_marks or marked
                        yield at, line
            number += ended.count(b"\n") + 1
        if len(held) > MAX_PIECE_BYTES:
            yield number, None
            held = b""
            is_first, is_passing = False, True
    if held.strip() and (is_first or is_marked(held)):
        yield number, held


# --- BSON


def bson_documents(artifact: Artifact, is_marked: Marked) -> Iterator[Encoded | Broken]:
    """Nothing where it does not begin as BSON. Behind a length that cannot be nothing is found any more."""
    held = bytearray()
    number, marked = 1, 0
    try:
        for piece in pieces(artifact):
            held += piece
            if number == 1 and not _begins_as_bson(held):
                return
            at = 0
            while len(held) - at >= 4:
                length = int.from_bytes(held[at : at + 4], "little")
                if not LEAST_BSON_BYTES <= length <= MAX_BSON_BYTES:
                    rest = bytes(held[at:])
                    reason = f"its length would be {length} bytes: it is not read, and nothing behind it is"
                    yield Broken(f"document {number}", reason, rest, is_marked(rest))
                    return
                if len(held) - at < length:
                    break
                content = bytes(held[at : at + length])
                if is_marked(content):
                    marked += 1
                    if marked > MAX_MARKED:
                        yield Broken(f"document {number}", _ENOUGH)
                        return
                    yield Encoded(f"document {number}", content)
                at += length
                number += 1
                if number > MAX_UNMARKED and not marked:
                    return
            del held[:at]
    except BrokenPacking as error:
        yield Broken(f"document {number}", str(error), bytes(held), is_marked(bytes(held)))
        return
    if held:
        yield Broken(f"document {number}", f"it is cut off: {len(held)} bytes are there", bytes(held), is_marked(bytes(held)))


def _begins_as_bson(content: bytearray) -> bool:
    length = int.from_bytes(content[:4], "little")
    return len(content) >= LEAST_BSON_BYTES and LEAST_BSON_BYTES <= length <= MAX_BSON_BYTES and content[4] in _BSON_TYPES
