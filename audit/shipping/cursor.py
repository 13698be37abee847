"""How far a sink has come: the two files that say so.

    shipping/SINK/state      JSON: of each log the record that is shipped next
    shipping/SINK/refused    a JSON line for each record that the sink did not take: its place, and why

`state` is behind the truth after a crash, and never before it: what was shipped since it was written is shipped again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from audit import durable
from audit.errors import AuditError

_FORMAT = 1


class CursorInvalid(AuditError):
    """The state of a sink cannot be read: a person has to look."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The record `sequence` of `log` was not taken at `time`. Where the sink did not say which ones it meant, `count` of the
    records from `sequence` up to `last` were not."""

    log: str
    sequence: int
    reason: str
    time: str
    event_id: str | None = None
    last: int | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class State:
    """Of each log the record that is shipped next."""

    next: Mapping[str, int] = field(default_factory=dict)


class CursorFile:
    """State and refusals of the sink `name` at `address`, in the folder `shipping` of the data folder."""

    def __init__(self, shipping: Path, name: str, address: str) -> None:
        self._folder = shipping / name
        self._address = address

    def load(self) -> State:
        """What was saved last. Raises `CursorInvalid`, OSError."""
        path = self._folder / "state"
        try:
            document = orjson.loads(path.read_bytes())
            if document["format"] != _FORMAT or not all(
                type(number) is int and number >= 0 for number in document["next"].values()
            ):
                raise ValueError
            return State(document["next"])
        except FileNotFoundError:
            return State()
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise CursorInvalid(f"{path} is damaged; where it is deleted, all is shipped anew") from error

    def save(self, state: State) -> None:
        """Durable when this returns, whole or not at all. Raises OSError."""
        self._make_folder()
        document = {"format": _FORMAT, "address": self._address, "next": state.next}
        durable.replace(self._folder / "state", orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    def set_aside(self, refused: list[Refused]) -> None:
        """Durable when this returns; to be done before the cursor moves past them. One that is there already stays one.

        Raises OSError.
        """
        self._make_folder()
        path = self._folder / "refused"
        known = {(one["log"], one["sequence"]) for one in self._lines()}
        lines = [_line(one) for one in refused if (one.log, one.sequence) not in known]
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            end = os.fstat(fd).st_size
            torn = b"" if end == 0 or os.pread(fd, 1, end - 1) == b"\n" else b"\n"  # a crash left a line without its end
            durable.write_all(fd, torn + b"".join(lines))
            os.fsync(fd)
        finally:
            os.close(fd)
        durable.sync_folder(self._folder)

    def refused(self) -> int:
        """How many records were set aside. Raises OSError."""
        return sum(one.get("count", 1) for one in self._lines())

    def _lines(self) -> list[dict[str, Any]]:  # Any: JSON
        """Those that can be read."""
        try:
            text = (self._folder / "refused").read_bytes()
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                found.append(orjson.loads(line))
            except orjson.JSONDecodeError:  # torn
                continue
        return found

    def _make_folder(self) -> None:
        for folder in (self._folder.parent, self._folder):
            if not folder.exists():
                durable.create_folder(folder)


def _line(refused: Refused) -> bytes:
    return orjson.dumps(
        {name: value for name, value in asdict(refused).items() if value is not None}, option=orjson.OPT_APPEND_NEWLINE
    )
