"""A destination, a journal and logs in memory, which implement the real Protocols and break off where they are told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from audit.delivery.destination import AlreadyThere, DestinationFault, Stored
from audit.delivery.digest import PublicKey
from audit.delivery.keys import DigestKey
from audit.delivery.layout import Place, Trail
from audit.delivery.state import State, decode, encode
from tests.audit.query.builder import at, placed, record

HOME = Place("111122223333", "eu-central-1")
TRAIL = Trail("keytrail", HOME, "evidence", "host-1")


class Crash(BaseException):
    """The process is gone: nobody catches it."""


@dataclass
class Fuse:
    """Counts what a crash can come before or after, over everything that is durable or seen by others, and blows at `at`."""

    at: int = -1
    points: int = 0

    def point(self) -> None:
        number, self.points = self.points, self.points + 1
        if number == self.at:
            raise Crash


@dataclass
class FakeDestination:
    """A `Destination` in memory. `attempts` are all bodies ever put under a key; while `fault` is set, nothing works."""

    fuse: Fuse = field(default_factory=Fuse)
    objects: dict[str, Stored] = field(default_factory=dict)
    attempts: list[tuple[str, bytes, Mapping[str, str]]] = field(default_factory=list)
    fault: str | None = None

    def put(self, key: str, data: bytes, metadata: Mapping[str, str]) -> None:
        self._work()
        self.fuse.point()
        self.attempts.append((key, data, dict(metadata)))
        if key in self.objects:
            raise AlreadyThere(f"{key} is there already")
        self.objects[key] = Stored(data, dict(metadata))
        self.fuse.point()

    def get(self, key: str) -> Stored | None:
        self._work()
        return self.objects.get(key)

    def keys(self, prefix: str) -> Iterator[str]:
        self._work()
        yield from sorted(key for key in self.objects if key.startswith(prefix))

    def _work(self) -> None:
        if self.fault is not None:
            raise DestinationFault(self.fault)


@dataclass
class FakeJournal:
    """A `Journal` in memory, in the real form."""

    fuse: Fuse = field(default_factory=Fuse)
    saved: bytes | None = None

    def load(self) -> State | None:
        return None if self.saved is None else decode(self.saved)

    def save(self, state: State) -> None:
        self.fuse.point()
        self.saved = encode(state, "memory")
        self.fuse.point()


@dataclass
class FakeLog:
    """A log in memory, all of it durable; lines before `signed` are sealed, those before `open_from` in closed segments."""

    name: str = "w0"
    lines: list[bytes] = field(default_factory=list)
    signed: int = 0
    open_from: int = 0

    def sealed(self) -> int:
        return self.signed

    def closed(self) -> int:
        return self.open_from

    def read(self, start: int, at_most: int) -> list[bytes]:
        return self.lines[start : start + at_most]

    def add(self, seconds: float, **changes: Any) -> bytes:  # Any: changes of a record
        """A sealed record of the account and region of `HOME`, or as `changes` say."""
        content = record(**{"recipientAccountId": HOME.account_id, "awsRegion": HOME.region, **changes})
        line = orjson.dumps(placed(content, self.name, len(self.lines), at(seconds)))
        self.lines.append(line)
        self.signed = len(self.lines)
        return line


def keys_of(key: DigestKey) -> dict[str, PublicKey]:
    return {key.public.fingerprint: key.public}
