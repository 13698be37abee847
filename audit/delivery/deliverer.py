"""Delivers the logs of an instance: one small step after another, each of which can be the last before a crash.

A step is, in this order: finish what was begun; or begin a digest that is due; or begin files of what was sealed. To begin
is to write down all that decides what goes out (`state`), and to finish is to put it at the destination, and then to forget
it. So nothing is delivered under two names or signed in two ways, wherever it breaks off: what is found at the destination
on the way is compared.

A digest's interval is over before files of the next one are begun, and it is begun when all files of its own are delivered.
So a destination that was away, or a keytrail that was stopped, makes digests late, and none wrong.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from audit.delivery.destination import AlreadyThere, Destination, DestinationFault
from audit.delivery.digest import ALGORITHM, SHA256_WITH_RSA, SIGNATURE, Digest, LogFile, text_to_sign
from audit.delivery.keys import DigestKey
from audit.delivery.layout import Place, Trail, timestamp
from audit.delivery.records import NoRecord, body_of, delivered
from audit.delivery.state import BegunDigest, BegunFiles, Journal, State, StateInvalid
from audit.errors import LogIncident

#: So much of a log makes one step, and is in memory at once, compressed and not.
_STEP_BYTES = 8 << 20
_LINES_AT_ONCE = 256


class Log(Protocol):
    """A log, as far as delivery reads it."""

    def sealed(self) -> int:
        """How many records are under a signed checkpoint."""

    def closed(self) -> int:
        """How many records are in segments that are closed."""

    def read(self, start: int, at_most: int) -> list[bytes]:
        """The lines of the records from `start` on, without newlines, `at_most`; all of them durable."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How often: files of what is sealed in an open segment every `interval_s`, a digest every `digest_s`."""

    interval_s: int = 300
    digest_s: int = 3_600


class Conflict(DestinationFault):
    """Something else is at the destination under a name of ours: another instance's, or a forgery. It is left as it is."""


class Deliverer:
    """Delivers `logs`, by name, to `destination`. `clock` gives seconds since the epoch, `key` what signs the next digest. For
    one process and thread at a time.

    A step that raised may be tried again. Raises `DestinationFault`, `LogIncident`, `StateInvalid`, OSError.
    """

    def __init__(
        self,
        trail: Trail,
        destination: Destination,
        journal: Journal,
        key: Callable[[], DigestKey],
        logs: Callable[[], Mapping[str, Log]],
        clock: Callable[[], float],
        terms: Terms,
    ) -> None:
        self._trail = trail
        self._destination = destination
        self._journal = journal
        self._key = key
        self._logs = logs
        self._clock = clock
        self._terms = terms
        self._looked_at: float | None = None
        self._wanted: dict[str, int] = {}  # what was sealed then, of each log
        self._bodies: dict[str, bytes] = {}  # of the files that were begun, by this process
        self.incidents: dict[str, str] = {}  # of logs that cannot be read as they should be; the others are delivered
        self.state = self._load()

    def step(self) -> bool:
        """Do one step; whether there was one to do."""
        now = self._now()  # once: files are of the interval that is looked at for digests
        if self.state.begun is None and not self._begin_digest(now) and not self._begin_files(now):
            return False
        self._finish()
        return True

    def hurry(self) -> None:
        """What is sealed now is to be delivered by the next steps, be the interval over or not."""
        self._looked_at = None

    # --- to begin

    def _begin_digest(self, now: int) -> bool:
        """Begin the digest whose interval ended first."""
        due = [(self._end_after(chain.until), place) for place, chain in self.state.chains.items()]
        end, place = min(due)
        if end > now:
            return False
        chain, signer = self.state.chains[place], self._key()
        key = self._trail.digest_key(place, end)
        digest = Digest(place, chain.until, end, chain.files, chain.previous)
        document = digest.document(self._trail, signer.public.fingerprint)
        previous = None if chain.previous is None else chain.previous.signature
        signature = signer.sign(text_to_sign(document, timestamp(end), self._trail.bucket, key, previous))
        self._save(self.state.begin(BegunDigest(place, end, key, document.decode(), signature), now))
        return True

    def _begin_files(self, now: int) -> bool:
        """Begin the files of the next piece of a log that has one to deliver."""
        logs = self._logs()
        self._look(logs)
        self.incidents = {}
        for name, log in logs.items():
            try:
                start, stop = self.state.next.get(name, 0), max(self._wanted.get(name, 0), min(log.sealed(), log.closed()))
                if log.sealed() < start:
                    raise LogIncident(
                        name, f"{start} records of it were delivered, and {log.sealed()} are sealed: it was put back"
                    )
                if start < stop:
                    self._begin_piece(name, log, start, stop, now)
                    return True
            except LogIncident as incident:
                self.incidents[name] = str(incident)
        return False

    def _look(self, logs: Mapping[str, Log]) -> None:
        """Where the interval is over: whatever is sealed by now is to be delivered, from open segments too."""
        clock, before = self._clock(), self._looked_at
        if before is None or not before <= clock < before + self._terms.interval_s:  # a clock that was set back is not waited for
            self._looked_at, self._wanted = clock, {name: log.sealed() for name, log in logs.items()}

    def _begin_piece(self, name: str, log: Log, start: int, stop: int, now: int) -> None:
        lines = _read(name, log, start, stop, _STEP_BYTES)
        state, files = self.state, []
        self._bodies = {}
        for place, (chosen, times) in sorted(self._by_place(name, start, lines).items()):
            body = body_of(chosen)
            file = LogFile(
                self._trail.log_key(place, now, body), sha256(body).hexdigest(), timestamp(min(times)), timestamp(max(times))
            )
            files.append((place, file))
            self._bodies[file.key] = body
            state = state.with_chain(place, self._start_before(now))
        self._save(state.begin(BegunFiles(name, start, start + len(lines), now, tuple(files)), now))

    def _by_place(self, log: str, start: int, lines: list[bytes]) -> dict[Place, tuple[list[bytes], list[int]]]:
        """What is delivered of `lines`, and its times, by where."""
        found: dict[Place, tuple[list[bytes], list[int]]] = {}
        for number, line in enumerate(lines, start):
            try:
                where = delivered(line, self._trail.home)
            except NoRecord as error:
                raise LogIncident(log, f"record {number}: {error}") from error
            if where is not None:
                chosen, times = found.setdefault(where.place, ([], []))
                chosen.append(line)
                times.append(where.time)
        return found

    # --- to finish

    def _finish(self) -> None:
        match self.state.begun:
            case BegunDigest(key=key, document=document, signature=signature):
                self._put(key, document.encode(), {SIGNATURE: signature, ALGORITHM: SHA256_WITH_RSA})
            case BegunFiles(files=files) as begun:
                for place, file in files:
                    self._put(file.key, self._body(begun, place, file), {})
        self._save(self.state.finish())
        self._bodies = {}

    def _body(self, begun: BegunFiles, place: Place, file: LogFile) -> bytes:
        """What `file` holds: from memory, or from the log once more, where it was begun by a process that is no more."""
        if file.key not in self._bodies:
            log = self._logs().get(begun.log)
            if log is None:
                raise LogIncident(begun.log, "its delivery was begun, and it is not there any more")
            lines = _read(begun.log, log, begun.start, begun.end)
            chosen, _ = self._by_place(begun.log, begun.start, lines).get(place, ([], []))
            body = body_of(chosen)
            if sha256(body).hexdigest() != file.sha256:
                raise LogIncident(begun.log, f"records {begun.start} to {begun.end - 1} are not those whose delivery was begun")
            self._bodies[file.key] = body
        return self._bodies[file.key]

    def _put(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """Have `body` at the destination under `key`, compressed; by a start before this one, perhaps."""
        try:
            self._destination.put(key, gzip.compress(body, compresslevel=6, mtime=0), metadata)
        except AlreadyThere as error:
            there = self._destination.get(key)
            if there is None or uncompressed(there.data, len(body)) != body or dict(there.metadata) != dict(metadata):
                raise Conflict(f"{key}: another object is there, which is none of this trail's") from error

    # --- time, and what was written down

    def _now(self) -> int:
        """The time of a step: never before that of an earlier one, whatever was done to the clock."""
        return max(int(self._clock()), self.state.time)

    def _end_after(self, until: int) -> int:
        return self._start_before(until) + self._terms.digest_s

    def _start_before(self, time: int) -> int:
        return time - time % self._terms.digest_s

    def _load(self) -> State:
        """What was written down; at the first start, a chain that begins with this interval, for the trail's own place."""
        state = self._journal.load()
        if state is None:
            now = int(self._clock())
            state = State(self._trail.name, now).with_chain(self._trail.home, self._start_before(now))
            self._journal.save(state)
        if state.trail != self._trail.name:
            raise StateInvalid(f"the trail {state.trail} is delivered there: {self._trail.name} needs a destination of its own")
        return state

    def _save(self, state: State) -> None:
        self._journal.save(state)
        self.state = state


def _read(name: str, log: Log, start: int, stop: int, enough_bytes: int | None = None) -> list[bytes]:
    """The lines from `start` up to `stop`, or less where they have `enough_bytes` already."""
    lines: list[bytes] = []
    size = 0
    while start + len(lines) < stop and (enough_bytes is None or size < enough_bytes):
        more = log.read(start + len(lines), min(_LINES_AT_ONCE, stop - start - len(lines)))
        if not more:
            raise LogIncident(name, f"record {start + len(lines)} is sealed, and cannot be read")
        lines += more
        size += sum(map(len, more))
    return lines


def uncompressed(data: bytes, limit: int) -> bytes | None:
    """`data` out of gzip; None where it is no gzip, more than `limit` bytes, or where anything follows it, which some tools would
    read on."""
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        body = unpacking.decompress(data, limit + 1)
    except zlib.error:
        return None
    return body if unpacking.eof and not unpacking.unused_data and len(body) <= limit else None
