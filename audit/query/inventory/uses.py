"""What the logs say of many blobs at once: who had each made, who had it unwrapped, how often and when last.

A few are looked up in the index. Many are found sooner by reading the log once, and what the index does not have is read as well:
so the time for a batch does not grow with the number of its blobs, and its memory only with the blobs and their callers.

All batches are asked of the logs as they stood when the snapshot was made, so that an inventory that takes hours speaks of one
moment.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path

import duckdb

from audit.errors import DamagedLog
from audit.query import scan
from audit.query.database import connect
from audit.query.engine import Progress
from audit.query.filters import DEFAULT_PHASES, Filter, Record, extension, fingerprints, resource_arns
from audit.query.index.layout import IndexFault, index_folder
from audit.query.index.lookup import Index, open_index
from audit.query.indexed import Hit, look_up
from audit.query.lines import Damage, Place, parse
from audit.query.scan import Part
from audit.query.trace import caller_of
from audit.record import Phase

#: Up to so many blobs are looked up in the index, so many at a time; for more than that the log is read.
MOST_LOOKED_UP, _LOOKED_UP_AT_ONCE = 2_000, 250
_INDEX_TRIES = 5
_PHASES = frozenset(phase.value for phase in DEFAULT_PHASES)


@dataclass(slots=True)
class Calls:
    """How often something was done, by whom, when first and last; `last` is (time, caller)."""

    times: int = 0
    callers: set[str] = field(default_factory=set)
    first: str | None = None
    last: tuple[str, str] | None = None

    def add(self, time: str, caller: str) -> None:
        self.times += 1
        self.callers.add(caller)
        self.first = min(self.first or time, time)
        self.last = max(self.last or (time, caller), (time, caller))


@dataclass(frozen=True, slots=True, order=True)
class Wrapping:
    """Under which key and which of its material a blob is, by a call that was answered: None where the record does not tell."""

    time: str
    caller: str
    event: str
    key: str | None
    material: str | None


@dataclass(slots=True)
class Use:
    """What the logs say of one blob. `made` is the call that gave it out; `seen` the last that opened it."""

    made: Wrapping | None = None
    seen: Wrapping | None = None
    unwrapped: Calls = field(default_factory=Calls)
    reencrypted: Calls = field(default_factory=Calls)
    refused: Calls = field(default_factory=Calls)

    @property
    def key(self) -> str | None:
        """The ARN of the KMS key that the blob is under."""
        return next((one.key for one in (self.made, self.seen) if one is not None and one.key is not None), None)

    @property
    def material(self) -> str | None:
        """The id of the key material that the blob is under."""
        return next((one.material for one in (self.made, self.seen) if one is not None and one.material is not None), None)


def destination(record: Record, time: str) -> Wrapping:
    """Under what the blob is that the call of `record` gave out."""
    return _wrapping(record, time, -1, "destinationKeyMaterialId")


def _wrapping(record: Record, time: str, which: int, of_reencrypt: str) -> Wrapping:
    event = str(record.get("eventName"))
    keys = [arn for arn in resource_arns(record) if ":key/" in arn]
    additional = record.get("additionalEventData")
    material = additional.get(of_reencrypt if event == "ReEncrypt" else "keyMaterialId") if isinstance(additional, dict) else None
    is_known = bool(keys) and (event != "ReEncrypt" or len(keys) == 2)  # of one key nobody knows which of both it is
    return Wrapping(
        time, caller_of(record), event, keys[which] if is_known else None, material if isinstance(material, str) else None
    )


def note_uses(uses: dict[str, Use], record: Record, sought: frozenset[str]) -> None:
    """Add what `record` says of the blobs `sought` to `uses`."""
    facts = extension(record)
    outs = sought.intersection(fingerprints(record, "fingerprintsOut"))
    ins = sought.intersection(fingerprints(record, "fingerprintsIn"))
    if not (ins or outs) or facts.get("phase", Phase.OUTCOME.value) not in _PHASES:
        return
    time, error = str(facts.get("time")), record.get("errorCode")
    is_answered = error is None and facts.get("phase") != Phase.UNKNOWN.value
    for fingerprint in outs if is_answered else ():
        use = uses.setdefault(fingerprint, Use())
        made = destination(record, time)
        use.made = made if use.made is None or _order(made) < _order(use.made) else use.made
    for fingerprint in ins:
        use = uses.setdefault(fingerprint, Use())
        if not is_answered:
            if error != "DryRunOperationException":
                use.refused.add(time, caller_of(record))
            continue
        # Any call that takes a blob and is no ReEncrypt is taken to hand out what is in it.
        (use.reencrypted if record.get("eventName") == "ReEncrypt" else use.unwrapped).add(time, caller_of(record))
        seen = _wrapping(record, time, 0, "sourceKeyMaterialId")
        use.seen = seen if use.seen is None or _order(seen) > _order(use.seen) else use.seen


def _order(one: Wrapping) -> tuple[str, ...]:
    return (one.time, one.caller, one.event, one.key or "", one.material or "")


class Snapshot:
    """The logs of a data folder as they stand when it is made; `damaged` grows with what is read.

    `index_fault` says why the index could not be used, where it is there and could not. Raises `QueryError`, OSError.
    """

    def __init__(self, data: Path, *, use_index: bool = True, progress: Progress | None = None) -> None:
        self.data = data
        self.use_index = use_index
        self.index_fault: str | None = None
        self.damaged: dict[Damage, None] = {}
        self._progress = progress
        self._parts: dict[str, list[Part]] = {}
        logs, missing = scan.find_logs(data)
        self.note_damage(missing)
        for log in logs:
            self._parts[log], missing = scan.find_parts(data, log)
            self.note_damage(missing)
        self.coverage = tuple(scan.coverage(log, parts) for log, parts in self._parts.items())

    @property
    def interval(self) -> tuple[str, str] | None:
        """First and last time of all logs; None where they hold no record."""
        spans = [(one.first, one.last) for one in self.coverage if one.first is not None and one.last is not None]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None

    def note_damage(self, damaged: Iterable[Damage]) -> None:
        self.damaged |= dict.fromkeys(damaged)

    def uses_of(self, blobs: Collection[str]) -> dict[str, Use]:
        """What the logs say of `blobs` (fingerprints); those that they do not know are not in it. Raises OSError."""
        wanted = list(dict.fromkeys(blobs))
        uses: dict[str, Use] = {}
        if not wanted:
            return uses
        to_read = self._everything(wanted)
        if self.use_index and len(wanted) <= MOST_LOOKED_UP:
            for _ in range(_INDEX_TRIES):  # a file that was merged away meanwhile is found by its new name
                try:
                    uses = {}
                    to_read, self.index_fault = self._look_up(wanted, uses), None
                    break
                except (duckdb.Error, IndexFault) as error:
                    uses, self.index_fault = {}, str(error)
        self._read(to_read, uses)
        return uses

    def _everything(self, wanted: Sequence[str]) -> list[tuple[Part, frozenset[str]]]:
        sought = frozenset(wanted)
        return [(part, sought) for parts in self._parts.values() for part in parts]

    def _look_up(self, wanted: Sequence[str], uses: dict[str, Use]) -> list[tuple[Part, frozenset[str]]]:
        """Note what the index leads to; returns what is still to be read, and for which blobs."""
        to_read: list[tuple[Part, frozenset[str]]] = []
        groups = [frozenset(wanted[at : at + _LOOKED_UP_AT_ONCE]) for at in range(0, len(wanted), _LOOKED_UP_AT_ONCE)]
        with closing(connect(index_folder(self.data))) as database:
            index = open_index(self.data, database)
            for log, parts in self._parts.items():
                to_read += self._look_up_in(index, log, parts, groups, uses)
        return to_read

    def _look_up_in(
        self, index: Index, log: str, parts: list[Part], groups: Sequence[frozenset[str]], uses: dict[str, Use]
    ) -> Iterator[tuple[Part, frozenset[str]]]:
        wanted: frozenset[str] = frozenset().union(*groups)
        without_index: set[str] = set()  # blobs that have too many records for a look-up
        rest = parts
        for group in groups:
            found = look_up(index, log, parts, [Filter(fingerprints=tuple(sorted(group)))])
            if found is None:
                without_index |= group
                continue
            rest = found.rest  # the same for each group
            self.note_damage(found.damaged)
            for hit, line in _lines_of(found.hits):
                note_uses(uses, parse(line, Place(log, hit.part.path.name, hit.line)), group)
        if without_index:
            yield from ((part, frozenset(without_index)) for part in parts)
        if found_by_index := wanted - without_index:
            yield from ((part, found_by_index) for part in rest)

    def _read(self, to_read: Sequence[tuple[Part, frozenset[str]]], uses: dict[str, Use]) -> None:
        total, done = sum(part.size_bytes - part.skipped_bytes for part, _ in to_read), 0
        for part, sought in to_read:
            damaged: list[Damage] = []
            last_line = part.skipped_lines
            for chunk in scan.chunks(part, damaged):
                for number, (start, stop) in enumerate(pairwise(chunk.bounds), chunk.first_line):
                    try:
                        note_uses(uses, parse(chunk.data[start:stop], Place(part.log, part.path.name, number)), sought)
                    except DamagedLog as error:
                        damaged.append(Damage(part.log, part.path.name, number, error.reason))
                last_line = chunk.first_line + chunk.lines - 1
                done += chunk.size_bytes
                if self._progress is not None:
                    self._progress(done, total)
            expected = last_line if part.next_index is None else part.next_index - part.first_index
            if last_line != expected:
                reason = f"{last_line} lines; by the name of the next segment it had {expected}"
                damaged.append(Damage(part.log, part.path.name, 0, reason))
            self.note_damage(damaged)


def _lines_of(hits: Iterable[Hit]) -> Iterator[tuple[Hit, bytes]]:
    for part, of_part in groupby(hits, key=lambda hit: hit.part):
        file = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for hit in of_part:
                yield hit, os.pread(file, hit.size, hit.start)
        finally:
            os.close(file)
