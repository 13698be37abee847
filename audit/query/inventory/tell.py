"""The inventory for people and for programs: text, JSON lines, CSV; and its summary. Safe as `audit.query.render` is.

Each is written as the objects come; the summary stands last, and what it says of the log is what all of it rests on.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console

from audit.query.artifacts import sops
from audit.query.inventory.keys import KeyState
from audit.query.inventory.status import DataKey, Loss, Material, Opened
from audit.query.inventory.take import StoredObject
from audit.query.inventory.uses import Calls, Snapshot
from audit.query.render import cell, plain, short_caller, short_key
from audit.query.terminal import FINDINGS, OK

MAX_CALLERS = 100  # that are named of one data key; all are counted
_MOST_LINES = 20  # of data keys of one object, for people
CAVEATS = (
    "unwrapped is not read: it says that the key was handed out, not what was done with it",
    "who makes a data key may get it in the clear at once, and who keeps it needs no further call",
    "calls that bypass keytrail, those of the AWS console too, are not in these logs: by one, a key may have been deleted",
    "each object is judged by the blob that it has now, and not by blobs that were re-encrypted into it or from it",
)
_SOPS_NOTE = "unless it has recipients that are no KMS keys (age, PGP, …), which are not read"


@dataclass(slots=True)
class Summary:
    """Counts over all objects that were crawled, those that are not listed included."""

    objects: Counter[str] = field(default_factory=Counter)
    data_keys: Counter[str] = field(default_factory=Counter)
    is_asked: bool = False
    has_findings: bool = False

    def add(self, one: StoredObject) -> None:
        self.objects["crawled"] += 1
        self.objects["with data keys"] += bool(one.keys)
        self.objects["damaged or unreadable"] += one.fault is not None
        self.objects["without data keys"] += not one.keys and one.fault is None
        self.objects["of which a KMS key is not known, so that none can tell"] += one.lost is Loss.UNTOLD
        for label, loss in (("lost", one.lost), ("lost once scheduled deletions are done", one.going)):
            self.objects[label] += loss is Loss.WHOLE
            self.objects[f"{label}, in part"] += loss is Loss.PART
        if one.asked is not None:
            self.objects[_OF_ASKED[one.asked]] += 1
        for key in one.keys:
            for label in _key_labels(key):
                self.data_keys[label] += 1
        self.has_findings |= one.fault is not None or one.going in (Loss.PART, Loss.WHOLE) or one.asked not in (None, Loss.NONE)

    def counts(self) -> dict[str, dict[str, int]]:
        """What is counted, of what, how often; of objects also what there is none of, where the question is about that."""
        shown = [name for name in _ALWAYS if self.is_asked or name not in _OF_ASKED.values()]
        names = [name for name in dict.fromkeys([*shown, *self.objects]) if self.objects[name] or name in shown]
        return {"objects": {name: self.objects[name] for name in names}, "data keys": dict(self.data_keys)}


_OF_ASKED = {
    Loss.WHOLE: "lost if the key is deleted",
    Loss.PART: "lost in part if the key is deleted",
    Loss.UNTOLD: "perhaps lost if the key is deleted: another key or way to open is not known",
    Loss.NONE: "under the key, and under another that opens all the same",
}
_ALWAYS = ("crawled", "with data keys", *_OF_ASKED.values())


def _key_labels(key: DataKey) -> Iterator[str]:
    match key.opened:
        case Opened.NEVER:
            made = key.use is not None and key.use.made is not None
            yield f"never unwrapped, {'' if made else 'not '}minted in the log"
        case other:
            yield other.value
    if key.life.state not in (KeyState.UNTOLD, KeyState.ENABLED):
        yield f"under a key that is {key.life.state.value}"
    if key.material is Material.OLD:
        yield "under old key material"


def is_listed(one: StoredObject, *, is_asked: bool, everything: bool) -> bool:
    """Whether the object is shown, and not only counted."""
    if is_asked:
        return one.asked is not None or one.fault is not None
    return everything or bool(one.keys) or one.fault is not None


# --- For people


def write_text(objects: Iterable[StoredObject], console: Console) -> None:
    """A line for each object, with what is to be said of it, and one for each of its data keys."""
    for one in objects:
        finding = finding_of(one)
        line = plain(one.name, "bold")
        if finding:
            line.append_text(plain(f"  {finding}", "red"))
        console.print(line, soft_wrap=True)
        for key in one.keys[:_MOST_LINES]:
            console.print(plain(f"    {key.wrapped.where}: {_unwrapped(key)}; {_kms_key(key)}"), soft_wrap=True)
        if len(one.keys) > _MOST_LINES:
            console.print(plain(f"    … and {len(one.keys) - _MOST_LINES} more data keys (--json and --csv list them)"))


def finding_of(one: StoredObject) -> str:
    """What is to be said of the object as a whole; empty where nothing is."""
    if one.fault is not None:
        return f"FAULT: {one.fault}"
    found = []
    if one.asked is not None:
        found.append(_OF_ASKED[one.asked])
    elif one.lost in (Loss.PART, Loss.WHOLE):
        found.append("LOST: its key was deleted" if one.lost is Loss.WHOLE else "LOST IN PART: a key of it was deleted")
    elif one.going in (Loss.PART, Loss.WHOLE):
        when = min(key.life.deletion or "" for key in one.keys if key.life.state is KeyState.SCHEDULED)
        found.append(f"to be lost{'' if one.going is Loss.WHOLE else ' in part'} from {_moment(when)} on")
    if found and one.keys and one.keys[0].wrapped.format == sops.FORMAT:
        found.append(_SOPS_NOTE)
    if any(key.life.state in (KeyState.DISABLED, KeyState.NO_MATERIAL) for key in one.keys):
        found.append("a key of it is disabled, or without material")
    if any(key.material is Material.OLD for key in one.keys):
        found.append("under old key material")
    return "; ".join(found)


def _unwrapped(key: DataKey) -> str:
    use = key.use
    if use is None:
        return (key.wrapped.note if key.opened is Opened.NO_BLOB else None) or str(key.opened.value)
    if use.unwrapped.last is not None:
        time, caller = use.unwrapped.last
        callers = len(use.unwrapped.callers)
        by = f"{callers} caller{'' if callers == 1 else 's'}"
        told = f"unwrapped {_times(use.unwrapped)} by {by}, last {_moment(time)} by {short_caller(caller)}"
    elif use.made is not None:
        told = f"never unwrapped; made {_moment(use.made.time)} by {short_caller(use.made.caller)}"
    else:
        told = "never unwrapped; not minted in the log"
    for label, calls in (("re-encrypted", use.reencrypted), ("refused", use.refused)):
        told += f"; {label} {_times(calls)}" if calls.times else ""
    return told


def _kms_key(key: DataKey) -> str:
    if key.key is None:
        return "KMS key not known" if key.wrapped.fingerprint else "of no KMS key that is told here"
    life, told = key.life, f"key {short_key(key.key)}"
    if life.state is not KeyState.UNTOLD:
        told += f" {life.state.value}"
    if life.deletion is not None and life.state in (KeyState.SCHEDULED, KeyState.DELETED):
        told += f" {'on' if life.state is KeyState.SCHEDULED else 'since'} {_moment(life.deletion)}"
    elif life.since is not None and life.state is not KeyState.USED_SINCE:
        told += f" since {_moment(life.since)}"
    return told + (f"; {life.doubt} has no known outcome" if life.doubt is not None else "")


def _times(calls: Calls) -> str:
    return f"{calls.times} time{'' if calls.times == 1 else 's'}"


def _moment(time: str) -> str:
    return time[:19].replace("T", " ") + "Z"


def write_summary(summary: Summary, snapshot: Snapshot, console: Console) -> None:
    """The counts, and what they rest on."""
    console.print()
    for kind, counts in summary.counts().items():
        for label, count in counts.items():
            console.print(plain(f"{count:>9,}  {kind} {label}"))
    console.print()
    for log in snapshot.coverage:
        covers = f"log {log.log} covers {log.first} to {log.last}" if log.first else f"log {log.log} holds no records"
        console.print(plain(f"- {covers}"), soft_wrap=not console.is_terminal)
    for caveat in CAVEATS:
        console.print(plain(f"- {caveat}"), soft_wrap=not console.is_terminal)


# --- JSON lines


def write_lines(objects: Iterable[StoredObject], out: TextIO) -> None:
    """One object a line, in ASCII: text of an object's or of the log's stays text on a terminal."""
    for one in objects:
        out.write(json.dumps(to_json(one)) + "\n")


def to_json(one: StoredObject) -> dict[str, Any]:
    document: dict[str, Any] = {
        "object": one.name,
        "fault": one.fault,
        "lost": one.lost.value,
        "lostOnceScheduled": one.going.value,
    }
    if one.asked is not None:
        document["lostIfKeyIsDeleted"] = one.asked.value
    return document | {"keys": [_key_json(key) for key in one.keys]}


def _key_json(key: DataKey) -> dict[str, Any]:
    use, wrapped = key.use, key.wrapped
    document: dict[str, Any] = {
        "where": wrapped.where,
        "format": wrapped.format,
        "fingerprint": wrapped.fingerprint or None,
        "key": key.key,
        "keyState": key.life.to_json(),
        "material": key.material.value,
        "context": wrapped.context if wrapped.context is None else dict(wrapped.context),
        "note": wrapped.note,
        "status": key.opened.value,
        "made": None,
    }
    if use is None:
        return document
    if use.made is not None:
        document["made"] = {"time": use.made.time, "caller": use.made.caller, "event": use.made.event}
    calls = (("unwrapped", use.unwrapped), ("reencrypted", use.reencrypted), ("refused", use.refused))
    return document | {"materialId": use.material} | {name: _calls_json(one) for name, one in calls}


def _calls_json(calls: Calls) -> dict[str, Any]:
    time, caller = calls.last or (None, None)
    return {
        "times": calls.times,
        "callerCount": len(calls.callers),
        "callers": sorted(calls.callers)[:MAX_CALLERS],
        "first": calls.first,
        "last": time,
        "lastBy": caller,
    }


def write_summary_line(summary: Summary, snapshot: Snapshot, out: TextIO) -> None:
    document = {
        **summary.counts(),
        "coverage": [{"log": log.log, "first": log.first, "last": log.last} for log in snapshot.coverage],
        "damagedLog": list(map(str, snapshot.damaged)),
        "caveats": CAVEATS,
    }
    out.write(json.dumps({"summary": document}) + "\n")


# --- CSV

COLUMNS = (
    *("object", "fault", "finding", "where", "format", "fingerprint", "key", "keyState", "keyDeletion", "material", "status"),
    *("made", "madeBy", "unwrapped", "callers", "lastUnwrapped", "lastUnwrappedBy", "refused"),
)


def write_csv(objects: Iterable[StoredObject], out: TextIO) -> None:
    """One data key a row; a cell that a spreadsheet would take for a formula begins with ``'``."""
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for one in objects:
        for row in [_cells(key) for key in one.keys] or [()]:
            padding = [""] * (len(COLUMNS) - 3 - len(row))
            writer.writerow([cell(text) for text in (one.name, one.fault or "", finding_of(one), *row, *padding)])


def _cells(key: DataKey) -> Sequence[str]:
    use, wrapped = key.use, key.wrapped
    of_key = (key.key or "", key.life.state.value, key.life.deletion or "", key.material.value)
    told = (wrapped.where, wrapped.format, wrapped.fingerprint, *of_key, key.opened.value)
    if use is None:
        return told
    made = (use.made.time, use.made.caller) if use.made is not None else ("", "")
    last = use.unwrapped.last or ("", "")
    return (*told, *made, str(use.unwrapped.times), str(len(use.unwrapped.callers)), *last, str(use.refused.times))


def exit_code(summary: Summary) -> int:
    return FINDINGS if summary.has_findings else OK
