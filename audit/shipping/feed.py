"""A log as a sink takes it: what comes next, in batches; what is out and refused; how far the cursor may move.

Lines that are read and not yet taken are kept, up to a number of them, so that a sink that is away costs a bounded memory: the
log is the queue. A record that was refused is a suspect first: the cursor stays before it until it is settled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from audit.errors import LogIncident
from audit.following import LogFollower
from audit.shipping.cursor import Refused

MOST_RECORDS = 512
_MOST_BYTES = 1 << 20  # of a batch with more than one record


class Feed:
    """The log in `folder`, from record `start` on. For one task at a time."""

    def __init__(self, name: str, folder: Path, start: int) -> None:
        self.name = name
        self.position = start  # of the first record that was neither taken nor refused
        self.limit = MOST_RECORDS  # of a batch: fewer, while what is refused is looked for
        self.suspects: list[Refused] = []
        self._folder = folder
        self._pending: deque[bytes] = deque()
        self._was_full = False  # the last look found as much as it asked for
        self._follower: LogFollower | None = None

    @property
    def cursor(self) -> int:
        """Every record before this one has been taken, or set aside."""
        return self.suspects[0].sequence if self.suspects else self.position

    def durable(self) -> int:
        """Raises OSError."""
        return LogFollower(self._folder).durable()

    async def batch(self) -> Sequence[bytes]:
        """The lines from `position` on that go out together; the same again, or their beginning, until `move`.

        Raises `LogIncident`, OSError.
        """
        if not self._pending:
            self._pending.extend(await asyncio.to_thread(self._read))
        lines: list[bytes] = []
        size = 0
        for line in self._pending:
            if len(lines) == self.limit or (lines and size + len(line) > _MOST_BYTES):
                break
            lines.append(line)
            size += len(line)
        return lines

    @property
    def has_more(self) -> bool:
        """Whether more is known to wait than `batch` gave."""
        return bool(self._pending) or self._was_full

    def first(self) -> bytes | None:
        """The line of `position`, as far as it was read."""
        return self._pending[0] if self._pending else None

    def move(self, count: int) -> None:
        """The next `count` records are taken, or suspects."""
        for _ in range(count):
            self._pending.popleft()
        self.position += count

    def go_back(self) -> None:
        """To the first suspect: what was sent since is sent again."""
        if self.suspects:
            self.position = self.suspects[0].sequence
            self.suspects.clear()
            self._pending.clear()
            self._follower = None

    def _read(self) -> list[bytes]:
        follower, self._follower = self._follower, None  # one that raised is no good any more
        if follower is None or follower.record != self.position:
            follower = LogFollower(self._folder, self.position)
        if (there := follower.durable()) < self.position:
            raise LogIncident(self.name, f"it has {there} records, and {self.position} of it were shipped: it was put back")
        lines = follower.read(MOST_RECORDS)
        self._follower, self._was_full = follower, len(lines) == MOST_RECORDS
        return lines
