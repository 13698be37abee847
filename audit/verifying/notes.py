"""The signed notes in a history, one after another, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_MAX_NOTE_BYTES = 1_000_000
_SIGNATURE_PREFIX = "\u2014 ".encode()


def read_notes(path: Path, end: int) -> Iterator[tuple[int, str, bool]]:
    """The notes in the first `end` bytes of a history: where each ends, its text, whether it is whole (the last may not be)."""
    if not end:
        return
    note: list[bytes] = []
    position = start = 0
    is_signed = False
    with path.open("rb") as file:
        while position < end and (line := file.readline(min(end - position, _MAX_NOTE_BYTES))):
            if note and ((is_signed and not line.startswith(_SIGNATURE_PREFIX)) or position - start > _MAX_NOTE_BYTES):
                yield position, b"".join(note).decode("utf-8", "replace"), True
                note, start, is_signed = [], position, False
                if line == b"\n":
                    position += 1
                    continue
            note.append(line)
            position += len(line)
            is_signed = line.startswith(_SIGNATURE_PREFIX) and line.endswith(b"\n")
    if note:
        yield position, b"".join(note).decode("utf-8", "replace"), is_signed


def read_bounded(path: Path) -> bytes:
    """A file with one note, or with what somebody answered to one; of a longer one, more than any note may have."""
    with path.open("rb") as file:
        return file.read(_MAX_NOTE_BYTES + 1)


def read_if_there(path: Path) -> str | None:
    """The note in a file; None where there is none."""
    try:
        return read_bounded(path).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
