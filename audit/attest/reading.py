"""One pass over a log for two purposes at once: each line is hashed into the tree, and judged by the question.

So what is said of the records is said of the very bytes that the checkpoint was signed for. Memory is bounded at any size of log.
Whatever keeps the lines from being a dense sequence ends the pass (`LogIncident`); a line that is in its place, and is no record
that can be judged, is named (`Excepted`).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from audit.attest.occurring import Unseen
from audit.attest.statement import MAX_NAMED, UNDER_WAY, Excepted, SetBack
from audit.errors import LogIncident
from audit.merkle import EMPTY_ROOT, Frontier
from audit.privacy import Form
from audit.query.filters import Filter, Record, contexts, private_names
from audit.query.lines import Found, Place
from audit.query.scan import Chunk, chunks, find_parts
from audit.query.sql import TIME_FORMAT, Question
from audit.query.times import time_text
from audit.record import Phase
from audit.verifying.records import REQUIRED, require_all

Advance = Callable[[int], None]  # told of bytes read

_KEPT_HITS = 20
_TIME = re.compile(TIME_FORMAT, re.ASCII)
_PHASES = frozenset(phase.value for phase in Phase)
_ALWAYS, _NEVER = "", "~"  # before, and behind, every time


@dataclass(slots=True)
class Hits:
    """Records that match: how many, the times of the earliest and the latest, and the first few as they stand in the log."""

    count: int = 0
    first: str = _NEVER
    last: str = _ALWAYS
    kept: list[Found] = field(default_factory=list)

    def add(self, time: str, place: Place, line: bytes) -> None:
        self.count += 1
        self.first, self.last = min(self.first, time), max(self.last, time)
        if len(self.kept) < _KEPT_HITS:
            self.kept.append(Found(place, time, line))


@dataclass(slots=True)
class LogReading:
    """What one pass over the log `log` found. Of the first `sealed` lines: `roots` at the sizes asked for, the `proofs` that the
    tree extends those, `in_interval`, `first`, `newest`, `set_back`, `hits`. Of the lines behind: `unsealed`, `unsealed_oldest`,
    `later_hits`. Of both: `excepted`. `torn_bytes` stand behind the last line."""

    log: str
    question: Filter
    sealed: int
    roots: dict[int, bytes] = field(default_factory=dict)
    proofs: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    records: int = 0
    in_interval: int = 0
    first: str | None = None
    newest: str | None = None
    unsealed_oldest: str | None = None
    torn_bytes: int = 0
    excepted: list[Excepted] = field(default_factory=list)
    set_back: list[SetBack] = field(default_factory=list)
    hits: Hits = field(default_factory=Hits)
    later_hits: Hits = field(default_factory=Hits)

    @property
    def unsealed(self) -> int:
        return max(0, self.records - self.sealed)


def read_log(
    data: Path,
    log: str,
    question: Filter,
    sealed: int,
    sizes: Iterable[int],
    advance: Advance,
    unseen: Unseen | None = None,
) -> LogReading:
    """Read all lines of `log`, of which the first `sealed` are under the checkpoint in question; `sizes` are of trees to compare;
    `unseen` is shown all of them.

    Raises `LogIncident` where lines are missing, or do not follow each other; OSError.
    """
    reading = LogReading(log, question, sealed)
    tree = _Tree(sealed, sizes)
    judge = _Judge(reading)
    for chunk in _dense_chunks(data, log, reading, advance):
        lines = chunk.data.split(b"\n")[:-1]
        if tree.lacks:
            tree.extend([sha256(b"\x00" + line).digest() for line in lines[: tree.lacks]])
        judge.take(chunk, lines)
        if unseen is not None:
            unseen.look(chunk.data, lines)
    reading.roots, reading.proofs = tree.roots, tree.proofs()
    return reading


def proof_ranges(old_size: int, size: int) -> list[tuple[int, int]]:
    """The ranges of leaves whose roots are the proof that a tree of `size` leaves extends one of `old_size`, in its order.

    So that it can be worked out while the leaves go by. Source: RFC 6962, section 2.1.2.
    """
    if not 0 < old_size <= size:
        raise ValueError(f"no tree of {old_size} leaves in one of {size}")
    return _ranges(old_size, 0, size, complete=True)


def _ranges(old_size: int, start: int, end: int, *, complete: bool) -> list[tuple[int, int]]:
    size = end - start
    if old_size == size:
        return [] if complete else [(start, end)]
    split = 1 << (size - 1).bit_length() - 1
    if old_size <= split:
        return [*_ranges(old_size, start, start + split, complete=complete), (start + split, end)]
    return [*_ranges(old_size - split, start + split, end, complete=False), (start, start + split)]


class _Tree:
    """The tree over the lines: its roots at `sealed` and at `sizes`, and the proofs that it extends the latter at `sealed`."""

    def __init__(self, sealed: int, sizes: Iterable[int]) -> None:
        self._sizes = sorted({sealed, *sizes})
        self._ranges = {size: proof_ranges(size, sealed) for size in self._sizes if 0 < size <= sealed}
        self._nodes = {place: Frontier() for ranges in self._ranges.values() for place in ranges}
        self._tree = Frontier()
        self.roots = {0: EMPTY_ROOT}

    @property
    def lacks(self) -> int:
        """How many leaves it still needs."""
        return self._sizes[-1] - self._tree.size

    def extend(self, leaves: Sequence[bytes]) -> None:
        begin = self._tree.size
        end = begin + len(leaves)
        for (start, stop), node in self._nodes.items():
            if start < end and stop > begin:
                node.extend(leaves[max(start, begin) - begin : min(stop, end) - begin])
        for size in self._sizes[bisect_right(self._sizes, begin) : bisect_right(self._sizes, end)]:
            self._tree.extend(leaves[self._tree.size - begin : size - begin])
            self.roots[size] = self._tree.root()
        self._tree.extend(leaves[self._tree.size - begin :])

    def proofs(self) -> dict[int, tuple[bytes, ...]]:
        return {size: tuple(self._nodes[place].root() for place in ranges) for size, ranges in self._ranges.items()}


class _Judge:
    """Judges line after line. What it finds goes into the reading."""

    def __init__(self, reading: LogReading) -> None:
        self._reading = reading
        asked = reading.question
        self._filter = replace(asked, since=None, until=None)  # the interval is compared here, as text
        self._sieve = Question.of([self._filter])
        self._from = _ALWAYS if asked.since is None else time_text(asked.since)
        self._to = _NEVER if asked.until is None else time_text(asked.until)
        self._needs_parameters = asked.key is not None or bool(asked.context)
        self._newest: tuple[datetime, str] | None = None

    def take(self, chunk: Chunk, lines: Sequence[bytes]) -> None:
        reading = self._reading
        may_match = self._sieve.may_be_in(chunk.data)
        for number, line in enumerate(lines, chunk.first_line):
            index = reading.records
            reading.records += 1
            try:
                record, time, moment = self._record(line, index)
                is_sealed = index < reading.sealed
                if is_sealed:
                    self._follow_clock(index, time, moment)
                elif reading.unsealed_oldest is None or time < reading.unsealed_oldest:
                    reading.unsealed_oldest = time
                if not self._from <= time < self._to:
                    continue
                reading.in_interval += is_sealed
                if may_match and self._sieve.may_be_in(line) and self._filter.matches(record):
                    hits = reading.hits if is_sealed else reading.later_hits
                    hits.add(time, Place(reading.log, chunk.part.path.name, number), line)
                elif self._is_hidden(record):
                    raise _Unjudged("a value that was asked for is private in it, in a form that is not searched")
                elif self._needs_parameters and _is_without_parameters(record):
                    raise _Unjudged("its parameters were too large to be recorded: key and encryption context may be among them")
            except _Unjudged as unjudged:
                self._except(Excepted(index, chunk.part.path.name, number, str(unjudged)))
            except (AttributeError, KeyError, TypeError, ValueError):  # of another shape than a record's, where it is asked
                self._except(Excepted(index, chunk.part.path.name, number, "its fields are not those of a record"))

    def _is_hidden(self, record: Record) -> bool:
        """Whether a value of its context that was asked for may be in it, and nobody could tell: if all else is as asked."""
        asked = self._filter
        if not asked.context or not (forms := private_names(record)):
            return False
        there = {name for context in contexts(record).values() for name in context}
        hidden = {
            pair
            for pair in asked.context
            if "*" in forms
            or (pair[0] in there and pair[0] in forms and not (forms[pair[0]] == Form.HMAC.value and pair in asked.digests))
        }
        rest = tuple(pair for pair in asked.context if pair not in hidden)
        return bool(hidden) and replace(asked, context=rest).matches(record)

    def _record(self, line: bytes, index: int) -> tuple[Record, str, datetime]:
        """The record in `line`, its time as text and as a value. Raises `_Unjudged`, or what a field of another type does."""
        try:
            record: Any = orjson.loads(line)  # Any: JSON that nobody has looked at yet
        except orjson.JSONDecodeError:
            raise _Unjudged("not JSON") from None
        try:
            facts = record["additionalEventData"]["keytrail"]
            log, sequence, time = facts["log"], facts["sequence"], facts["time"]
            require_all(record)
        except (KeyError, TypeError):
            raise _Unjudged(_what_lacks(record)) from None
        if log != self._reading.log or sequence != index or type(sequence) is not int:
            raise _Unjudged(f"it says that it is record {sequence!r:.30} of the log {log!r:.60}")
        if not _TIME.fullmatch(time):
            raise _Unjudged("its time is none")
        if facts.get("phase", Phase.OUTCOME.value) not in _PHASES:
            raise _Unjudged(f"its phase, {facts['phase']!r:.30}, is not known here")
        return record, time, datetime.fromisoformat(time)

    def _follow_clock(self, index: int, time: str, moment: datetime) -> None:
        reading = self._reading
        if reading.first is None:
            reading.first = time
        if reading.newest is None or time > reading.newest:
            reading.newest = time
        if self._newest is not None and moment <= self._newest[0]:
            if self._newest[0] - moment <= UNDER_WAY:
                return
            reading.set_back.append(SetBack(index, time, self._newest[1]))
            self._require_few(reading.set_back, "times that go back")
        self._newest = moment, time  # the times behind one that was set back are compared with it

    def _except(self, one: Excepted) -> None:
        self._reading.excepted.append(one)
        self._require_few(self._reading.excepted, "lines that cannot be judged")

    def _require_few(self, named: Sequence[object], what: str) -> None:
        if len(named) > MAX_NAMED:
            raise LogIncident(self._reading.log, f"it has more than {MAX_NAMED} {what}")


class _Unjudged(Exception):
    """Why a line cannot be judged."""


def _dense_chunks(data: Path, log: str, reading: LogReading, advance: Advance) -> Iterator[Chunk]:
    """The lines of the log as they stand now, nothing missing between them. Raises `LogIncident`, OSError."""
    if not (data / "log" / log).is_dir():
        raise LogIncident(log, f"{data / 'log' / log} has vanished")
    parts, damaged = find_parts(data, log)
    records = 0
    for part in parts:
        if not damaged and part.first_index != records:
            raise LogIncident(log, f"{part.path.name} should begin with record {records}: records are missing, or there twice")
        size = 0
        for chunk in chunks(part, damaged):
            if damaged:
                break
            size += chunk.size_bytes
            records += chunk.lines
            yield chunk
            advance(chunk.size_bytes)
        if damaged:
            raise LogIncident(log, str(damaged[0]))
        reading.torn_bytes = part.size_bytes - size


def _is_without_parameters(record: Record) -> bool:
    """Whether the record has CloudTrail's note in place of parameters that were too large (`audit.canonical`)."""
    parts = (record["requestParameters"], record["responseElements"])
    return any(isinstance(part, dict) and part.get("omitted") is True for part in parts)


def _what_lacks(record: object) -> str:
    extension = record.get("additionalEventData") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(extension, dict) or not isinstance(extension.get("keytrail"), dict):
        return "JSON, but not a record of a keytrail log"
    lacking = [name for name in REQUIRED if name not in record]
    lacking += [f"keytrail.{name}" for name in ("log", "sequence", "time") if name not in extension["keytrail"]]
    return f"it lacks {', '.join(lacking)}"
