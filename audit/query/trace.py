"""The story of one ciphertext: who had it made, who had it unwrapped, who was refused, and what became of it by
ReEncrypt.

What this can tell, and what it cannot: a data key that was unwrapped is not a file that was read; a call that did not
pass the proxy is not in the log; and the log covers the interval that `Story.coverage` names, less what `Story.damaged`
names.

Blobs that ReEncrypt connects hold the same plaintext, so the story follows them both ways, also from an ancestor to its
other descendants; each blob is visited once, `MAX_BLOBS` and `MAX_ENTRIES` bound the whole, and `Story.incomplete` says
where they did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from audit.query.engine import Progress, search
from audit.query.filters import (
    Filter,
    KeyName,
    Record,
    allowances,
    contexts,
    extension,
    fingerprints,
    named_keys,
    private_names,
    resource_arns,
    was_done,
)
from audit.query.lines import Damage, Found, Place
from audit.query.scan import Coverage
from audit.record import Effect

MAX_BLOBS = 256
MAX_ENTRIES = 10_000
#: Of more keys than these, the events of all keys are asked for at once.
MAX_KEYS = 16

#: What happens to a key and bears on whether its blobs can be unwrapped.
KEY_EVENTS = (
    "DisableKey",
    "EnableKey",
    "ScheduleKeyDeletion",
    "CancelKeyDeletion",
    "PutKeyPolicy",
    "ImportKeyMaterial",
    "DeleteImportedKeyMaterial",
)


class Step(Enum):
    """What an entry of the story is."""

    MADE = "made"  # GenerateDataKey*, Encrypt
    UNWRAPPED = "unwrapped"  # Decrypt answered
    REENCRYPTED = "re-encrypted"
    REFUSED = "refused"  # any call with the blob that failed
    DRY_RUN = "dry run"  # it would have been answered
    KEY = "key event"  # context: the key, not the blob


class Relation(Enum):
    """How a blob of the story stands to the one that was asked about."""

    ASKED = "asked about"
    ANCESTOR = "re-encrypted into it"
    DESCENDANT = "re-encrypted from it"
    SIBLING = "re-encrypted from an ancestor of it"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the story. `keys` are ARNs; `allowed_by` has what allowed each action, as `allowances` says it; `error` is
    CloudTrail's code; `private_context` names what is private in `context`. `effect` tells of a change whose outcome does not say
    whether it was made: made, unknown."""

    step: Step
    time: str
    event: str
    caller: str
    source: str
    keys: tuple[str, ...]
    context: dict[str, dict[str, str]]
    private_context: dict[str, str]
    blobs_in: tuple[str, ...]
    blobs_out: tuple[str, ...]
    allowed_by: tuple[str, ...]
    error: str | None
    effect: str | None
    event_id: str | None
    place: Place

    def to_json(self) -> dict[str, Any]:
        place = {"log": self.place.log, "segment": self.place.segment, "line": self.place.line}
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("step", "place")}
        return {"step": self.step.value, **plain, "place": place}


@dataclass(frozen=True, slots=True)
class Count:
    """How often something happened, by how many callers, when first and last."""

    times: int = 0
    callers: tuple[str, ...] = ()
    first: str | None = None
    last: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Story:
    """What the logs tell of the blob with `fingerprint`. `counts` are over everything, also where `entries` is
    `incomplete`. `index_fault` as of `Result`."""

    fingerprint: str
    blobs: dict[str, Relation]
    entries: tuple[Entry, ...]
    counts: dict[Step, Count]
    coverage: tuple[Coverage, ...]
    damaged: tuple[Damage, ...]
    incomplete: tuple[str, ...]
    index_fault: str | None = None

    @property
    def is_found(self) -> bool:
        """Whether any record speaks of the blob."""
        return any(entry.step is not Step.KEY for entry in self.entries)

    @property
    def interval(self) -> tuple[str, str] | None:
        """Times of the first and the last record of all logs."""
        firsts = [log.first for log in self.coverage if log.first]
        lasts = [log.last for log in self.coverage if log.last]
        return (min(firsts), max(lasts)) if firsts and lasts else None

    def count(self, step: Step) -> Count:
        return self.counts.get(step, Count())

    def to_json(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "found": self.is_found,
            "blobs": {fingerprint: relation.value for fingerprint, relation in self.blobs.items()},
            "counts": {step.value: count.to_json() for step, count in self.counts.items()},
            "entries": [entry.to_json() for entry in self.entries],
            "coverage": [{"log": log.log, "first": log.first, "last": log.last} for log in self.coverage],
            "damaged": [{"log": d.log, "segment": d.segment, "line": d.line, "reason": d.reason} for d in self.damaged],
            "incomplete": list(self.incomplete),
        }


@dataclass(slots=True)
class _Tally:
    times: int = 0
    callers: set[str] = field(default_factory=set)
    first: str | None = None
    last: str | None = None

    def add(self, entry: Entry) -> None:
        self.times += 1
        self.callers.add(entry.caller)
        self.first = min(self.first or entry.time, entry.time)
        self.last = max(self.last or entry.time, entry.time)


@dataclass(slots=True)
class _Collected:
    """What was gathered so far: `edges` are (blob in, blob out) of ReEncrypt calls that were answered."""

    entries: dict[Place, Entry] = field(default_factory=dict)
    key_entries: list[Entry] = field(default_factory=list)
    edges: set[tuple[str, str]] = field(default_factory=set)
    tallies: dict[Step, _Tally] = field(default_factory=dict)
    left_out: int = 0

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.step is Step.KEY:
                self.key_entries.append(entry)
            elif entry.place not in self.entries:
                self._add_use(entry)

    def _add_use(self, entry: Entry) -> None:
        self.tallies.setdefault(entry.step, _Tally()).add(entry)
        # ReEncrypt has room of its own, so that many calls of another kind cannot hide where the data went.
        if (len(self.edges) if entry.step is Step.REENCRYPTED else len(self.entries) - len(self.edges)) >= MAX_ENTRIES:
            self.left_out += 1
            return
        if entry.step is Step.REENCRYPTED:
            self.edges.update((source, made) for source in entry.blobs_in for made in entry.blobs_out)
        self.entries[entry.place] = entry


def trace(data: Path, fingerprint: str, *, progress: Progress | None = None, use_index: bool = True) -> Story:
    """The story of the blob with `fingerprint` in all logs of the data folder; asks them once, once more for each generation of
    ReEncrypt, and then for what happened to the keys. `use_index` as in `search`.

    Raises `QueryError`, OSError.
    """
    collected = _Collected()
    incomplete = []
    index_fault: str | None = None
    damaged: list[Damage] = []  # of every generation: only the one that looks at a line by the index can tell
    known = {fingerprint}
    wanted = [fingerprint]
    filters = [Filter(fingerprints=(fingerprint,))]
    if not use_index:  # reading everything once is better than twice
        filters.append(Filter(events=KEY_EVENTS))
    while True:
        with search(data, filters, progress=progress, use_index=use_index) as result:
            collected.add(_entries(result.records()))
            coverage, damaged = result.coverage, list(dict.fromkeys([*damaged, *result.damaged]))
            index_fault = index_fault or result.index_fault
        wanted = sorted({blob for edge in collected.edges for blob in edge if not known.isdisjoint(edge)} - known)
        if len(known) + len(wanted) > MAX_BLOBS:
            incomplete.append(f"more than {MAX_BLOBS} blobs are connected by ReEncrypt; the others were not followed")
            wanted = wanted[: MAX_BLOBS - len(known)]
        if not wanted:
            break
        known.update(wanted)
        filters = [Filter(fingerprints=tuple(wanted))]
    keys = {key for entry in collected.entries.values() for key in entry.keys if key}
    if keys and use_index:
        with search(data, _key_events(keys), progress=progress, use_index=use_index) as result:
            collected.add(_entries(result.records()))
            coverage, damaged = result.coverage, list(dict.fromkeys([*damaged, *result.damaged]))
            index_fault = index_fault or result.index_fault
    if collected.left_out:
        incomplete.append(f"{collected.left_out} more calls are counted above and not listed")
    return Story(
        fingerprint,
        _relations(fingerprint, known, collected.edges),
        _timeline(collected),
        {step: Count(t.times, tuple(sorted(t.callers)), t.first, t.last) for step, t in collected.tallies.items()},
        coverage,
        tuple(damaged),
        tuple(incomplete),
        index_fault,
    )


def _key_events(keys: set[str]) -> list[Filter]:
    if len(keys) > MAX_KEYS:
        return [Filter(events=KEY_EVENTS)]
    return [Filter(events=KEY_EVENTS, key=KeyName.parse(key)) for key in sorted(keys)]


def _timeline(collected: _Collected) -> tuple[Entry, ...]:
    """The uses in the order of time, with what happened to their keys from the first of them on."""
    uses = sorted(collected.entries.values(), key=lambda entry: (entry.time, entry.place))
    keys = {_key_id(key) for entry in uses for key in entry.keys}
    about = [
        entry
        for entry in collected.key_entries
        if uses and entry.time >= uses[0].time and not keys.isdisjoint(map(_key_id, entry.keys))
    ]
    return tuple(sorted([*uses, *about], key=lambda entry: (entry.time, entry.place)))


def _key_id(name: str) -> str:
    """What an ARN ends with; where the outcome of a change was lost, the key may be named by that alone."""
    return name.rpartition("/")[2]


def _relations(asked: str, known: set[str], edges: set[tuple[str, str]]) -> dict[str, Relation]:
    descendants = _reachable(asked, edges)
    ancestors = _reachable(asked, {(made, source) for source, made in edges})
    relations = {asked: Relation.ASKED}
    for blob in sorted(known - {asked}):
        in_line = Relation.DESCENDANT if blob in descendants else Relation.SIBLING
        relations[blob] = Relation.ANCESTOR if blob in ancestors else in_line
    return relations


def _reachable(start: str, edges: set[tuple[str, str]]) -> set[str]:
    reached, frontier = {start}, {start}
    while frontier:
        frontier = {made for source, made in edges if source in frontier} - reached
        reached |= frontier
    return reached


def _entries(records: Iterable[Found]) -> Iterator[Entry]:
    """Of changes to keys only those that were made, or may have been."""
    for found in records:
        entry = _entry(found, found.record)
        if entry.step is not Step.KEY or was_done(found.record) is not False:
            yield entry


def _entry(found: Found, record: Record) -> Entry:
    return Entry(
        step=_step(record),
        time=found.time,
        event=str(record.get("eventName")),
        caller=caller_of(record),
        source=str(record.get("sourceIPAddress")),
        keys=tuple(resource_arns(record) or named_keys(record)),
        context=contexts(record),
        private_context=dict(private_names(record)),
        blobs_in=tuple(fingerprints(record, "fingerprintsIn")),
        blobs_out=tuple(fingerprints(record, "fingerprintsOut")),
        allowed_by=tuple(allowances(record)),
        error=record.get("errorCode"),
        effect=_effect(record),
        event_id=record.get("eventID"),
        place=found.place,
    )


def _step(record: Record) -> Step:
    if record.get("eventName") in KEY_EVENTS:
        return Step.KEY
    if was_done(record) is not True:
        return Step.DRY_RUN if record.get("errorCode") == "DryRunOperationException" else Step.REFUSED
    match record.get("eventName"):
        case "Decrypt":
            return Step.UNWRAPPED
        case "ReEncrypt":
            return Step.REENCRYPTED
        case _:
            return Step.MADE


def _effect(record: Record) -> str | None:
    told = extension(record).get("effect")
    return told if isinstance(told, str) else Effect.UNKNOWN.value if was_done(record) is None else None


def caller_of(record: Record) -> str:
    """Who called: the ARN, else the user name, else the access key that was claimed, else the type of identity."""
    identity = record.get("userIdentity") or {}
    names = (identity.get(name) for name in ("arn", "userName", "accessKeyId", "type"))
    return next((name for name in names if isinstance(name, str)), "unknown")
