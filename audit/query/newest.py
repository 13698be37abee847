"""The newest records first, a page at a time, from all logs: for whoever looks back, and stops when it has seen enough.

Each log is read backwards, from a `Mark`: what stands before it is still to come. The marks of all logs are where the next page
begins; what is written meanwhile stands behind them, so every record comes once. Where the index has a term of the question, only
the lines that it leads to are read, and what it does not have is read whole; nothing is believed of it but where to look.

Order: of what comes next in each log, the newest by its time of arrival. Within a log that is the order of the log, so two
records may have changed places that arrived within the time that a call takes.

A page may be given up before it is full, for its time: it then has what was found so far, and the next one goes on there. Rules
kept: bounded memory; what cannot be read is told (`Page.damaged`), and passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import duckdb

from audit.errors import DamagedLog
from audit.query import scan
from audit.query.database import connect
from audit.query.filters import Filter, Record, extension
from audit.query.index.layout import IndexFault, index_folder
from audit.query.index.lookup import Index, open_index
from audit.query.index.pieces import Covered
from audit.query.lines import Damage, Found, Place, parse
from audit.query.scan import IN_FLIGHT, MAX_LINE_BYTES, SET_BACK, Part

_FIRST_BLOCK, _LARGEST_BLOCK = 64 << 10, 1 << 20
_NEAR_BYTES = 1 << 20
_INDEX_TRIES = 5


class Mark(NamedTuple):
    """A place between two records of a log: byte `offset` of the segment that begins with the record `segment`."""

    segment: int
    offset: int


class Wanted(Protocol):
    """What is looked for."""

    @property
    def since(self) -> datetime | None: ...
    @property
    def until(self) -> datetime | None: ...
    @property
    def texts(self) -> Sequence[bytes]:
        """What stands in every line that matches, unless something was escaped in it."""
        ...

    @property
    def terms(self) -> Sequence[Sequence[Filter]]:
        """What the index is asked for: every record that matches, matches of each group one, but for its phase."""
        ...

    def matches(self, record: Record) -> bool: ...


@dataclass(slots=True)
class Page:
    """What was found, newest first. `marks`: where the next page begins, by log; those that have nothing more are not in it."""

    found: list[Found] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)
    damaged: list[Damage] = field(default_factory=list)


class _Seen(NamedTuple):
    """A step backwards: what is before `mark` is still to come. `found`: what was just behind it, if that matches."""

    mark: Mark
    found: Found | None = None


def read_page(
    data: Path, wanted: Wanted, most: int, is_over: Callable[[], bool], marks: Mapping[str, Mark] | None = None
) -> Page:
    """At most `most` records that match, from `marks` on back; by default from the end of every log.

    It goes on by at least one step, and is given up when `is_over`. Raises `QueryError` where there are no logs, OSError.
    """
    logs, damaged = scan.find_logs(data)
    page = Page(damaged=damaged)
    with closing(connect(index_folder(data))) as database:
        backwards = []
        for name in logs:
            parts, missing = scan.find_parts(data, name)
            page.damaged += missing
            end = Mark(parts[-1].first_index, parts[-1].size_bytes) if parts else None
            mark = end if marks is None else marks.get(name)
            if mark is not None:
                log = _Log(data, database, name, parts, mark, page.damaged)
                backwards.append(_Backwards(name, _steps(log, wanted), mark))
        _merge(backwards, page, most, is_over)
    return page


@dataclass(slots=True)
class _Backwards:
    """A log that is read backwards. `mark` is where the next page takes it up; None at the log's beginning. `head` is what was
    found just before it, and is not taken yet."""

    log: str
    steps: Iterator[_Seen]
    mark: Mark | None
    head: Found | None = None
    after: Mark | None = None  # the mark once `head` is taken

    def advance(self, is_over: Callable[[], bool]) -> bool:
        """Look for the next one that matches, or for the beginning; False where it was given up before."""
        while self.head is None:
            step = next(self.steps, None)
            if step is None:
                self.mark = None
                return True
            if step.found is not None:
                self.head, self.after = step.found, step.mark
                return True
            has_moved, self.mark = step.mark != self.mark, step.mark
            if has_moved and is_over():
                return False
        return True

    def take(self) -> Found | None:
        found, self.head, self.mark = self.head, None, self.after
        return found


def _merge(backwards: list[_Backwards], page: Page, most: int, is_over: Callable[[], bool]) -> None:
    while len(page.found) < most:
        # One that was given up may still have something newer than all others: nothing is taken any more.
        if not all(one.advance(is_over) for one in backwards if one.mark is not None):
            break
        ready = [one for one in backwards if one.head is not None]
        if not ready:
            break
        newest = max(ready, key=lambda one: ("" if one.head is None else one.head.time, one.log))
        if (found := newest.take()) is not None:
            page.found.append(found)
    page.marks = {one.log: one.mark for one in backwards if one.mark is not None}


# --- one log, backwards


@dataclass(frozen=True, slots=True)
class _Log:
    """A log, of which what is before `mark` is to be read."""

    data: Path
    database: duckdb.DuckDBPyConnection
    name: str
    parts: list[Part]
    mark: Mark
    damaged: list[Damage]

    def stop_of(self, part: Part) -> int:
        return min(part.size_bytes, self.mark.offset) if part.first_index == self.mark.segment else part.size_bytes


def _steps(log: _Log, wanted: Wanted) -> Iterator[_Seen]:
    """From the mark of `log` to its beginning; segments that can have nothing of the interval are passed over.

    What is near is read whole: where most records match, a page is full before the index could say where all of them are.
    """
    if not wanted.terms:
        yield from _back(log, wanted, Covered([], log.parts), {})
        return
    for step in _back(log, wanted, Covered([], log.parts), {}):
        yield step
        is_far = step.mark.segment != log.mark.segment or step.mark.offset + _NEAR_BYTES <= log.mark.offset
        if is_far and step.found is None:
            log = replace(log, mark=step.mark)
            yield from _back(log, wanted, *_ask_index(log, wanted))
            return


def _back(log: _Log, wanted: Wanted, covered: Covered, places: Mapping[int, Sequence[int]]) -> Iterator[_Seen]:
    """`places` are where records may be that match in what the index has; what it does not have is read whole."""
    rest = {part.first_index: part.skipped_bytes for part in covered.rest}
    behind = next((part for part in log.parts if part.first_index > log.mark.segment), None)
    follower = None if behind is None else scan.first_time(behind)
    for part in reversed([part for part in log.parts if part.first_index <= log.mark.segment]):
        start = scan.first_time(part)
        if scan.may_hold(start, follower, wanted.since, wanted.until):
            if part.first_index in rest:
                yield from _read_back(part, rest[part.first_index], log.stop_of(part), wanted, log.damaged)
            offsets = [offset for offset in places.get(part.first_index, ()) if offset < log.stop_of(part)]
            yield from _read_at(part, offsets, wanted, log.damaged)
        follower = start
        yield _Seen(Mark(part.first_index, 0))


def _is_too_new(time: datetime | None, wanted: Wanted) -> bool:
    """Whether nothing that stands behind a record of that time, in its segment, can be in the interval."""
    return time is not None and wanted.until is not None and time - IN_FLIGHT - SET_BACK >= wanted.until


def _is_too_old(time: datetime | None, wanted: Wanted) -> bool:
    """Whether nothing that stands before a record of that time, in its segment, can be in the interval."""
    return time is not None and wanted.since is not None and time + IN_FLIGHT + SET_BACK < wanted.since


def _time_of(line: bytes) -> datetime | None:
    try:
        return datetime.fromisoformat(str(extension(parse(line, Place("", "", 0)))["time"]))
    except (DamagedLog, ValueError):
        return None


def _ask_index(log: _Log, wanted: Wanted) -> tuple[Covered, Mapping[int, Sequence[int]]]:
    """What of the log the index has, and where records may be there that match: by segment, where their lines begin, in order.
    What it does not have is to be read whole; all, where it is of no use. A file that was merged away meanwhile is found by its
    new name."""
    for _ in range(_INDEX_TRIES):
        try:
            return _ask(open_index(log.data, log.database), log, wanted) or (Covered([], log.parts), {})
        except (duckdb.Error, IndexFault):
            continue
    return Covered([], log.parts), {}


def _ask(index: Index, log: _Log, wanted: Wanted) -> tuple[Covered, Mapping[int, Sequence[int]]] | None:
    covered = index.covered(log.name, log.parts)
    if not covered.pieces:
        return None
    for group in wanted.terms:
        found = [index.places(log.name, one, covered) for one in group]
        if any(places is None for places in found):
            continue
        starts: dict[int, set[int]] = {}
        for place in (place for places in found for place in places or ()):
            if (part := covered.part_of(place.record)) is not None:
                starts.setdefault(part.first_index, set()).add(place.start)
        return covered, {segment: sorted(there) for segment, there in starts.items()}
    return None


def _read_at(part: Part, starts: Sequence[int], wanted: Wanted, damaged: list[Damage]) -> Iterator[_Seen]:
    """The lines of `part` that begin at `starts`, the last first."""
    if not starts:
        return
    with part.path.open("rb") as file:
        for start in reversed(starts):
            file.seek(start)
            line = file.readline(MAX_LINE_BYTES).removesuffix(b"\n")
            yield _Seen(Mark(part.first_index, start), _judge(part, start, line, wanted, damaged))


def _read_back(part: Part, start: int, stop: int, wanted: Wanted, damaged: list[Damage]) -> Iterator[_Seen]:
    """The whole lines of `part` from byte `start` up to `stop`, the last first."""
    size, is_open_ended = _FIRST_BLOCK, part.is_last and stop == part.size_bytes
    with part.path.open("rb", buffering=0) as file:
        while stop > start:
            begin = max(start, stop - size)
            block = os.pread(file.fileno(), stop - begin, begin)
            first = 0 if begin == start else block.find(b"\n") + 1
            end = block.rfind(b"\n") + 1
            if begin != start and first >= end and size <= MAX_LINE_BYTES:  # no line is whole in it
                size *= 2
                continue
            if end < len(block) and not is_open_ended:
                damaged.append(Damage(part.log, part.path.name, 0, f"no whole line before byte {stop}"))
            stop, size, is_open_ended = begin + first if first < end else begin, min(size * 2, _LARGEST_BLOCK), False
            began = _time_of(block[first : block.find(b"\n", first)])
            if not _is_too_new(began, wanted):
                yield from _lines_back(part, block[first:end], begin + first, wanted, damaged)
            if _is_too_old(began, wanted):
                return
            yield _Seen(Mark(part.first_index, stop))


def _lines_back(part: Part, block: bytes, offset: int, wanted: Wanted, damaged: list[Damage]) -> Iterator[_Seen]:
    """The lines of `block`, which begins at `offset`, the last first; those without the wanted texts are passed over."""
    stop = len(block) if _may_match(block, wanted.texts) else 0
    while stop:
        start = block.rfind(b"\n", 0, stop - 1) + 1
        line = block[start : stop - 1]
        if _may_match(line, wanted.texts) and (found := _judge(part, offset + start, line, wanted, damaged)) is not None:
            yield _Seen(Mark(part.first_index, offset + start), found)
        stop = start


def _may_match(text: bytes, wanted: Sequence[bytes]) -> bool:
    return all(one in text for one in wanted) or b"\\" in text


def _judge(part: Part, start: int, line: bytes, wanted: Wanted, damaged: list[Damage]) -> Found | None:
    """What stands at byte `start`, where it matches."""
    try:
        record = parse(line, Place(part.log, part.path.name, 0))
    except DamagedLog as error:
        damaged.append(Damage(part.log, part.path.name, 0, f"at byte {start}: {error.reason}"))
        return None
    if not wanted.matches(record):
        return None
    facts = extension(record)
    return Found(Place(part.log, part.path.name, int(facts["sequence"]) - part.first_index + 1), str(facts["time"]), line)
