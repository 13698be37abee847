"""A copy in memory of the rows of a store that is elsewhere: what calls look up in, so that none of them waits for a network.

Rules kept here:

- A generation is published when its rows are in the copy, and never before.
- The copy knows its age: when the question was asked whose answer it last was. It is too old to go by when that is longer ago
  than `stale_after_s`, and when a change of this very process is not in it yet.
- A store that went back to an earlier generation was put back by another hand. What was looked up here may not be true any more,
  and what is written there may have been overtaken: the copy is refused until the process is started anew.

Rows are sealed in it as they are in the store. Threads: everything may be called on any.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from proxy.sealing import RowValues
from proxy.store_database import INSERT, Session, StoreFailed, set_number
from proxy.store_file import MIGRATIONS, one_moment, transaction


@dataclass(frozen=True, slots=True)
class Fetched:
    """What changed up to `generation`; where `complete`, these are all rows. Tombstones up to `pruned` are forgotten."""

    generation: int
    pruned: int
    rows: list[RowValues]
    complete: bool


#: Seconds; it goes on while the machine sleeps, as the store does.
_clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class Copy:
    """The copy, empty at first and too old to go by. `name` is the store's in messages; `clock` gives seconds."""

    def __init__(self, name: str, stale_after_s: float, clock: Callable[[], float] = _clock) -> None:
        self._name = name
        self._stale_after_s = stale_after_s
        self.clock = clock
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        with transaction(self._connection) as session:
            session.run(MIGRATIONS[0])
            session.write("INSERT INTO meta VALUES ('generation', ?), ('pruned', ?)", (b"0", b"0"))
        self.generation = 0
        self._owed = 0
        self._asked_s = self._good_until_s = -stale_after_s
        self._went_back: str | None = None
        self.lost: str | None = None

    @property
    def published(self) -> int:
        """The generation that it has. Raises StoreFailed where it is not to be gone by."""
        generation = self.generation
        if self.clock() > self._good_until_s or generation < self._owed:
            raise StoreFailed(self.fault or f"{self._name}: what was changed here has not come back yet")
        return generation

    @property
    def fault(self) -> str | None:
        """Why it is not to be gone by, but for a moment."""
        if self._went_back is not None:
            return self._went_back
        silent_s = self.clock() - self._asked_s
        if silent_s <= self._stale_after_s:
            return None
        return f"{self._name} has not been heard of for {silent_s:.0f} s{f': {self.lost}' if self.lost else ''}"

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The rows, as of one moment."""
        with self._lock, one_moment(self._connection):
            yield self._connection

    def heard(self, asked_s: float) -> None:
        """Nothing had changed when the store was asked at `asked_s`, by the copy's clock."""
        if self._went_back is None and asked_s > self._asked_s:
            self._asked_s, self._good_until_s, self.lost = asked_s, asked_s + self._stale_after_s, None

    def take(self, fetched: Fetched, asked_s: float) -> None:
        """Take in what changed, which was asked for at `asked_s`, and publish it."""
        if fetched.generation < self.generation:
            self._good_until_s = -self._stale_after_s
            self._went_back = (
                f"{self._name} went back from generation {self.generation} to {fetched.generation}: an earlier state was put in"
                " its place. Look into that, and start keytrail anew to go on with what is there"
            )
            return
        with self._lock, transaction(self._connection) as session:
            _put(session, fetched)
        self.generation = fetched.generation
        self.heard(asked_s)

    def owe(self, generation: int) -> None:
        """This process committed `generation`: it goes by no copy without it."""
        self._owed = max(self._owed, generation)

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _put(session: Session, fetched: Fetched) -> None:
    if fetched.complete:
        session.write("DELETE FROM entries")
    session.write_all(INSERT, fetched.rows)
    session.write("DELETE FROM entries WHERE deleted = 1 AND generation <= ?", (fetched.pruned,))
    set_number(session, "generation", fetched.generation)
    set_number(session, "pruned", fetched.pruned)
