"""Finding a record, and proving that it is in the log: from the tiles of its tree, under its newest checkpoint.

It reads O(log n) hashes and believes none of them: a proof is given out only where it leads from the record to the signed root.
Whose signature that is, whoever is given the proof checks.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from audit.checkpoint import Checkpoint, claimed_checkpoint
from audit.errors import CheckpointInvalid, NotProvable, QueryError
from audit.finding import read_lines
from audit.instance import Instance
from audit.levels import LevelFiles
from audit.merkle import includes
from audit.query.engine import search
from audit.query.filters import Filter, Record, extension
from audit.query.lines import Damage
from audit.record import Phase
from audit.tiles import inclusion_proof
from audit.tlog_proof import TlogProof


@dataclass(frozen=True, slots=True)
class Located:
    """A record: the bytes of its `line`, without the newline, as number `sequence` of `log`."""

    log: str
    sequence: int
    line: bytes

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.log}-{self.sequence}"


def find_event(data: Path, event_id: str) -> tuple[Located, list[Damage]]:
    """The record with this event id, found by the index and in what is not indexed; and what was damaged on the way.

    Raises `NotProvable` where there is none, or several, OSError.
    """
    with search(data, [Filter(ids=(event_id,), phases=frozenset(Phase))]) as result:
        found = [(one, one.record) for one in result.records()]
    theirs = [(one, record) for one, record in found if record.get("eventID") == event_id]
    if not theirs and found:
        events = ", ".join(_event(record) for _, record in found)
        raise NotProvable(f"{event_id} is the id of a request; each of its records is proved by its own event id: {events}")
    if not theirs:
        lacking = "; damage was met on the way, and the record may be there" if result.damaged else ""
        raise NotProvable(f"no record has the event id {event_id}{lacking}")
    if len(theirs) > 1:
        places = ", ".join(str(one.place) for one, _ in theirs)
        raise NotProvable(f"several records have the event id {event_id}: {places}; name one by --log and --sequence")
    (one, record) = theirs[0]
    return Located(one.place.log, extension(record)["sequence"], one.line), result.damaged


def find_record(instance: Instance, log: str, sequence: int) -> Located:
    """Record number `sequence` of `log`. Raises `QueryError` where there is no such log, `LogIncident`, OSError."""
    if log not in instance.logs:
        raise QueryError(f"no log {log!r}; there are {', '.join(instance.logs)}")
    return Located(log, sequence, read_lines(instance.log_folder(log), sequence, 1)[0])


def prove(instance: Instance, record: Located) -> TlogProof:
    """The proof of `record`, under the newest checkpoint that witnesses signed, or else under the newest one.

    Raises `NotProvable` where it is under none yet, or is not the record that was signed for; `TreeDamaged`, OSError.
    """
    note, checkpoint = _newest_checkpoint(instance, record)
    levels = LevelFiles(instance.checkpoint_folder(record.log))
    path = inclusion_proof(levels.read, record.sequence, checkpoint.size)
    proof = TlogProof(record.sequence, tuple(path), note)
    if proof.leads_from(record.line, checkpoint):
        return proof
    kept = levels.read(0, record.sequence, 1)
    if includes(kept, record.sequence, checkpoint.size, path, checkpoint.root):
        raise NotProvable(f"record {record.sequence} of {record.log} is not the one that was signed for: it was changed")
    raise NotProvable(
        f"record {record.sequence} of {record.log} cannot be proved: it, or {levels.path(0)} and the levels above, are not those"
        f" of the checkpoint of {checkpoint.size} records. `keytrail verify` tells which; the levels are derived, and made anew"
        " by the sealer where they are deleted"
    )


def _newest_checkpoint(instance: Instance, record: Located) -> tuple[str, Checkpoint]:
    """With its witnesses' signatures, or else the newest one without."""
    size = 0
    for path in (instance.witnessed_folder(record.log) / "cosigned", instance.checkpoint_folder(record.log) / "latest"):
        with suppress(FileNotFoundError):
            note = path.read_bytes().decode("utf-8", "replace")
            checkpoint = claimed_checkpoint(note)
            if checkpoint.origin != instance.origin(record.log):
                raise CheckpointInvalid(f"{path.name} of log {record.log} is a checkpoint of {checkpoint.origin}")
            if checkpoint.size > record.sequence:
                return note, checkpoint
            size = max(size, checkpoint.size)
    raise NotProvable(
        f"record {record.sequence} of {record.log} is under no checkpoint yet (the newest is of {size} records): the sealer signs"
        " every two seconds while it runs"
    )


def _event(record: Record) -> str:
    return f"{record.get('eventID')} ({extension(record).get('phase')})"
