"""Commit before release: `AuditLog.commit` turns a record into a `Receipt` once the record is on disk.

Group commit: the event loop's thread numbers and encodes records; at the end of each turn of the loop it hands all that wait to
one writer thread, which writes them with one call and makes them durable with one fdatasync. There is no batching window: batches
form by themselves while the disk is busy with the one before. Each waiter is woken alone, so that one that has gone harms nobody.

What a change did is known to who makes changes: `effect_of` tells it of an intent without an outcome, when the log is opened.

When the disk fails, every waiter gets `CommitFailed`, the log is poisoned, and `commit` refuses until `recover` has succeeded.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, TypeAlias

import orjson

from audit import canonical
from audit.errors import AuditError, CommitFailed, LogIncident, LogInUse
from audit.log import LogWriter, Recovered, open_log
from audit.merkle import leaf_hash
from audit.receipts import write_receipt
from audit.record import AuditRecord, Effect, JsonValue, Phase, Resource, UserIdentity
from audit.segments import LONGEST_LINE_BYTES, SegmentFolder, list_segments, segment_name

__all__ = ["AuditLog", "BlockingLog", "EffectOf", "Known", "LogPlace", "Receipt", "records_from"]

_HISTORY_TAIL_BYTES = 16 << 10
_NOTE = re.compile(rb"^[^\n]+\n([0-9]{1,18})\n[^\n]+\n\n\xe2\x80\x94 [^\n]+\n", re.MULTILINE)
_PAUSE_S = 0.02  # between two looks at a log that another command writes
_KEYTRAIL = UserIdentity("AWSService", principal_id="keytrail")


class Receipt(NamedTuple):
    """A record's place and its leaf hash, given once the record is durable there."""

    log: str
    sequence: int
    leaf: bytes

    def text(self, origin: str) -> str:
        """For whoever is told of it; `origin` is the log's name in checkpoints."""
        return write_receipt(origin, self.sequence, self.leaf)


class Known(NamedTuple):
    """What is known of the effect of a call whose outcome was lost: whether it was made, and of what.

    `grant_id` is the grant that was made or retired, where the intent does not name it.
    """

    effect: Effect
    resources: tuple[Resource, ...] = ()
    grant_id: str | None = None


#: What is known of the effect of an intent; None where nothing is. Nobody makes that change any more when it is asked.
EffectOf: TypeAlias = Callable[[AuditRecord], Known | None]


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where a log is, and what its own events are stamped with. `checkpoints` is the folder of its signed checkpoints."""

    folder: Path
    checkpoints: Path
    region: str
    account_id: str
    max_segment_bytes: int = 64 << 20
    max_segment_age_s: int = 3_600
    syncing: bool = True  # False only in the benchmark that tells what durability costs

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(slots=True)
class _Waiting:
    line: bytes
    leaf: bytes
    sequence: int
    future: asyncio.Future[Receipt]
    intent_opened: str | None
    intent_closed: str | None


class AuditLog:
    """The log of one worker, open for appending. Its methods are for the event loop's thread.

    Opening recovers: it blocks, and raises `LogIncident`, `LogInUse` or OSError. What recovery found is recorded first.
    """

    def __init__(self, place: LogPlace, loop: asyncio.AbstractEventLoop, effect_of: EffectOf | None = None) -> None:
        self._place = place
        self._effect_of = effect_of
        self._loop = loop
        self._waiting: list[_Waiting] = []
        self._next = 0  # the next record's place
        self._thread: threading.Thread | None = None
        self.name = place.name
        self.fault: str | None = "the log is not open yet"  # why `commit` refuses; None while the log is healthy
        self._start()

    def commit(self, record: AuditRecord) -> asyncio.Future[Receipt]:
        """Queue `record`; the future's result comes when it is durable. Records keep the order of these calls.

        Raises `CommitFailed`, at once or from the future: the record is then not known to be on disk, and what depends on it
        must not be released.
        """
        if self.fault is not None:
            raise CommitFailed(self.name, self.fault)
        sequence = self._next
        line = canonical.encode(record, self.name, sequence)
        future = self._loop.create_future()
        intent = record.event_id if record.phase is Phase.INTENT else None
        self._next = sequence + 1
        if not self._waiting:
            self._loop.call_soon(self._hand_over)
        self._waiting.append(_Waiting(line, leaf_hash(line[:-1]), sequence, future, intent, record.intent_id))
        return future

    @property
    def records(self) -> int:
        """How many records it has, with those that are on their way."""
        return self._next

    async def recover(self) -> None:
        """Open a poisoned log anew, with a new segment. Raises what opening raises; the log stays poisoned then."""
        await self.close()
        await asyncio.to_thread(self._start, self._writer.records, is_poisoned=True)

    async def close(self) -> None:
        """Make durable what waits, then let go of the log; `commit` refuses from now on."""
        if self._thread is None:
            return
        self.fault = self.fault or "the log is closed"
        thread, self._thread = self._thread, None
        if self._waiting:
            self._queue.put(self._waiting)
            self._waiting = []
        self._queue.put([])
        await asyncio.to_thread(thread.join)
        self._writer.close()
        self._disk.release()

    def _start(self, at_least: int = 0, *, is_poisoned: bool = False) -> None:
        # Where this process opens it anew, calls may still be under way: what they have not done yet, they may do yet.
        effect_of = _made(self._effect_of) if is_poisoned else self._effect_of
        self._disk, self._writer = _open(self._place, at_least, new_segment=is_poisoned, effect_of=effect_of)
        self._next = self._writer.records
        self._waiting = []
        self._is_writing = False
        self._queue: SimpleQueue[list[_Waiting]] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name=f"audit-{self.name}", daemon=True)
        self._thread.start()
        self.fault = None

    def _hand_over(self) -> None:
        """Give the writer what waits, unless it has its hands full: then it is given the rest when it is done."""
        if self._waiting and not self._is_writing:
            self._is_writing = True
            self._queue.put(self._waiting)
            self._waiting = []

    def _write(self) -> None:
        """The writer thread: append each batch and let go of its waiters, until an empty one."""
        while batch := self._queue.get():
            self._append(self._writer, batch)

    def _append(self, writer: LogWriter, batch: list[_Waiting]) -> None:
        failure: str | None = None
        try:
            writer.append(
                [entry.line for entry in batch],
                _now_us(),
                opened=[entry.intent_opened for entry in batch if entry.intent_opened is not None],
                closed=[entry.intent_closed for entry in batch if entry.intent_closed is not None],
            )
        except CommitFailed as error:
            failure = error.reason
        except Exception as error:  # a fault of ours: without this, the thread would end, and every waiter wait for good
            failure = writer.poison = f"{type(error).__name__}: {error}"
        try:
            self._loop.call_soon_threadsafe(self._release, batch, failure)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more, and nothing was released

    def _release(self, batch: list[_Waiting], failure: str | None) -> None:
        self._is_writing = False
        if failure is not None:
            self.fault = failure
        self._hand_over()
        for entry in batch:
            if entry.future.done():
                continue  # cancelled: its waiter has gone
            if failure is None:
                entry.future.set_result(Receipt(self.name, entry.sequence, entry.leaf))
            else:
                entry.future.set_exception(CommitFailed(self.name, failure))


def records_from(folder: Path, first: int) -> Iterator[AuditRecord]:
    """The records of the log in `folder` from number `first` on, those that are whole lines now and can be read; for any thread.

    It verifies nothing. Raises OSError.
    """
    segments = list_segments(folder)
    later = [segment for segment in segments if segment.first_index > first]
    for segment in segments[max(0, len(segments) - len(later) - 1) :]:
        with segment.path.open("rb") as file:
            for number, line in enumerate(file, segment.first_index):
                if number >= first and line.endswith(b"\n"):
                    with suppress(KeyError, TypeError, ValueError):
                        yield canonical.decode(line)


class BlockingLog:
    """A log for commands run on the host: each `commit` blocks until its record is durable. A context manager.

    Another command that writes the same log is waited for, up to `patience_s`. Raises what opening an `AuditLog` raises.
    """

    def __init__(self, place: LogPlace, *, patience_s: float = 5.0, effect_of: EffectOf | None = None) -> None:
        self._name = place.name
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self._disk, self._writer = _open(place, effect_of=effect_of)
                return
            except LogInUse:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE_S)

    def __enter__(self) -> BlockingLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the log."""
        self._writer.close()
        self._disk.release()

    def commit(self, record: AuditRecord) -> Receipt:
        """Append `record`; it is durable when this returns. Raises `CommitFailed`."""
        sequence = self._writer.records
        line = canonical.encode(record, self._name, sequence)
        opened = [record.event_id] if record.phase is Phase.INTENT else []
        closed = [record.intent_id] if record.intent_id is not None else []
        self._writer.append([line], _now_us(), opened, closed)
        return Receipt(self._name, sequence, leaf_hash(line[:-1]))


def _open(
    place: LogPlace, at_least: int = 0, *, new_segment: bool = False, effect_of: EffectOf | None = None
) -> tuple[SegmentFolder, LogWriter]:
    """Recover the log at `place`, known to have `at_least` records, and record what recovery found."""
    disk = SegmentFolder(place.folder, syncing=place.syncing)
    try:
        _require_marked_record(place.name, disk)
        writer, recovered = open_log(
            place.name,
            disk,
            at_least=max(at_least, _signed_size(place.checkpoints)),
            max_segment_bytes=place.max_segment_bytes,
            max_age_us=place.max_segment_age_s * 1_000_000,
            new_segment=new_segment,
        )
        report = _recovery_records(place, recovered, effect_of)
        if report:
            lines = [canonical.encode(entry, place.name, recovered.records + offset) for offset, entry in enumerate(report)]
            writer.append(lines, _now_us(), closed=[entry.intent_id for entry in report if entry.intent_id is not None])
    except (AuditError, OSError):
        disk.release()
        raise
    except (KeyError, TypeError, ValueError) as error:
        disk.release()
        raise LogIncident(place.name, f"a record in it cannot be read: {type(error).__name__}: {error}") from error
    return disk, writer


def _require_marked_record(name: str, disk: SegmentFolder) -> None:
    """Raise `LogIncident` unless the last line that the mark counts is the record of that number.

    A segment that was cut, and written to afterwards, has the right size again; its numbers are not right.
    """
    mark = disk.read_mark()
    if mark is None or not mark.records or mark.segment not in disk.segments():
        return  # nothing to hold against it; what is missing, `open_log` tells
    start = max(0, mark.offset - LONGEST_LINE_BYTES)
    line = disk.read(mark.segment, start)[: mark.offset - start].removesuffix(b"\n").rpartition(b"\n")[2]
    try:
        extension = orjson.loads(line)["additionalEventData"]["keytrail"]
        found = extension["log"], extension["sequence"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        found = None
    if found != (name, mark.records - 1):
        where = f"byte {mark.offset} of {segment_name(mark.segment)}"
        raise LogIncident(name, f"record {mark.records - 1} is not before {where}, where it was committed")


def _signed_size(checkpoints: Path) -> int:
    """The tree size of the newest checkpoint; 0 where none was signed yet. Whether it is genuine, `verify` tells.

    From `history`: `latest` is derived from it, and a power cut may leave it empty. A note that is torn was never published.
    """
    try:
        with (checkpoints / "history").open("rb") as history:
            history.seek(max(0, history.seek(0, os.SEEK_END) - _HISTORY_TAIL_BYTES))
            notes = _NOTE.findall(history.read())
    except FileNotFoundError:
        return 0
    return int(notes[-1]) if notes else 0


def _recovery_records(place: LogPlace, recovered: Recovered, effect_of: EffectOf | None) -> list[AuditRecord]:
    """What recovery has to say: nothing after a clean shutdown."""
    records = [_unknown_outcome(line, effect_of) for line in recovered.intents]
    if recovered.set_aside or recovered.unconfirmed or records:
        torn: list[JsonValue] = [
            {"segment": segment_name(tail.segment), "offset": tail.offset, "sizeBytes": tail.size, "movedTo": tail.name}
            for tail in recovered.set_aside
        ]
        details: dict[str, JsonValue] = {
            "unconfirmedRecords": recovered.unconfirmed,
            "tornTails": torn,
            "unknownOutcomes": len(records),
        }
        event = AuditRecord(
            time_us=_now_us(),
            event_id=str(uuid.uuid4()),
            event_name="RecoverLog",
            event_source="keytrail",
            event_type="AwsServiceEvent",
            identity=_KEYTRAIL,
            aws_region=place.region,
            source_ip="keytrail",
            service_event_details=details,
            read_only=False,
            recipient_account_id=place.account_id,
        )
        records.insert(0, event)
    return records


def _unknown_outcome(intent_line: bytes, effect_of: EffectOf | None) -> AuditRecord:
    """The record that closes an intent whose outcome was lost, with what is known of its effect."""
    intent = canonical.decode(intent_line)
    known = None if effect_of is None else effect_of(intent)
    return replace(
        intent,
        time_us=_now_us(),
        event_id=str(uuid.uuid4()),
        error_code="KMSInternalException",
        error_message="Outcome unknown: keytrail stopped between the intent and the outcome of this call.",
        resources=intent.resources if known is None else known.resources or intent.resources,
        response_elements=None if known is None or known.grant_id is None else {"grantId": known.grant_id},
        phase=Phase.UNKNOWN,
        intent_id=intent.event_id,
        effect=None if known is None else known.effect,
    )


def _made(effect_of: EffectOf | None) -> EffectOf | None:
    """What is known by `effect_of` of changes that were made."""
    if effect_of is None:
        return None

    def made(intent: AuditRecord) -> Known | None:
        known = effect_of(intent)
        return known if known is not None and known.effect is Effect.MADE else None

    return made


def _now_us() -> int:
    return time.time_ns() // 1_000
