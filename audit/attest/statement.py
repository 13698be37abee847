"""What an attestation of absence says, and its canonical bytes. Pure. Format: docs/attestation.md.

A `Statement` holds what was found out; what follows from it (the interval covered, whether the claim is complete, the subjects)
is worked out here, for the maker and the checker alike. `encode` is the only way to write one: a document that says anything but
what follows from its own facts is not the encoding of them, and is refused.

The payload is an in-toto Statement v1 whose predicate is ours, as canonical JSON (RFC 8785): a set of facts has one encoding.
Times are as in the log: UTC, microseconds, 27 characters, so that text sorts as time does.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson

from audit.checkpoint import claimed_checkpoint
from audit.query.filters import Filter
from audit.query.times import time_text

VERSION = 1
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:keytrail:absence:v1"
#: How long a call may be under way before its record is committed; further back than that a log's times do not go.
UNDER_WAY = timedelta(minutes=15)
#: Of each log: what is excepted, and where its clock was set back. What has more of it is not attested.
MAX_NAMED = 1_000
BASIS = (
    "The signer states: in the logs listed, which are all of the instance, no record with a time in the interval covered matches "
    "the question. Refused calls, intents and unknown outcomes are records too. Every record under each checkpoint was read, and "
    "the checkpoint's root computed from the same bytes; the records are numbered densely. The claim does not hold for the lines "
    "excepted. The signature proves who says so. That no record matches is proved by the log alone: whoever has it can have it "
    "read again by `keytrail verify-attestation FILE --key KEY --data FOLDER`. Times are by the host's clock. That the logs "
    "ended where they did when this was made is the signer's word. A call that did not pass through keytrail is in no log of it."
)


@dataclass(frozen=True, slots=True)
class Excepted:
    """A line that the claim does not hold for, since it could not be judged: record number, segment, line in it from 1, why."""

    record: int
    segment: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class SetBack:
    """Record `record` has the time `time`, more than `UNDER_WAY` earlier than one before it: the clock was set back."""

    record: int
    time: str
    before: str  # the newest time of the records before it


@dataclass(frozen=True, slots=True)
class Extension:
    """That the log's tree extends that of the checkpoint in `note`: an RFC 6962 consistency proof, empty for the same tree."""

    note: str
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What was found out about the log `log`: its first `records` records, those under the checkpoint in the signed `note`, and
    the `unsealed` ones behind them were read. A log without a checkpoint has no note.

    `in_interval` of the `records` have a time in the interval asked for, as far as it was over. `first` is the time of the first
    record, `newest` the latest of any under the checkpoint, `unsealed_oldest` the earliest of those behind it. `torn_bytes`
    stand behind the last line; `aside_files`, of `aside_bytes` in all, are torn tails that recovery moved away.
    """

    log: str
    note: str | None
    records: int
    in_interval: int
    first: str | None
    newest: str | None
    unsealed: int
    unsealed_oldest: str | None
    torn_bytes: int
    aside_files: int
    aside_bytes: int
    excepted: tuple[Excepted, ...] = ()
    set_back: tuple[SetBack, ...] = ()
    extends: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Statement:
    """No record matches `question` in `logs`, which are all logs of the instance. `made` is when its maker began to look."""

    instance: str
    made: datetime
    question: Filter
    logs: tuple[LogFacts, ...]

    @property
    def asked_from(self) -> str | None:
        return None if self.question.since is None else time_text(self.question.since)

    @property
    def asked_to(self) -> str | None:
        return None if self.question.until is None else time_text(self.question.until)

    @property
    def searched(self) -> Filter:
        """What the records were asked: the question, up to when the statement was made."""
        return replace(self.question, until=self.question.until or self.made)

    @property
    def began(self) -> str | None:
        """When the instance's logs begin; None where no record has a time."""
        return min((log.first for log in self.logs if log.first is not None), default=None)

    @property
    def covered(self) -> tuple[str, str] | None:
        """The interval that the claim is for: from inclusive, to exclusive. None where nothing is left of what was asked for.

        It begins when the logs do, and ends when the statement was made, or at the first record without a checkpoint.
        """
        if self.began is None:
            return None
        start = max(self.asked_from or self.began, self.began)
        unsealed = (log.unsealed_oldest for log in self.logs)
        end = min(time for time in (self.asked_to, time_text(self.made), *unsealed) if time is not None)
        return (start, end) if start < end else None

    @property
    def recorded_until(self) -> str | None:
        """The time of the newest record. Behind it the logs hold nothing, and that they ended there is the signer's word."""
        return max((log.newest for log in self.logs if log.newest is not None), default=None)

    @property
    def settled_until(self) -> str:
        """Calls that arrived from then on may have been under way, not yet answered, and may still come to be recorded."""
        return time_text(self.made - UNDER_WAY)

    @property
    def is_complete(self) -> bool:
        """Whether the claim holds for all that was asked for."""
        return not any(True for _ in self.limits())

    def limits(self) -> Iterator[str]:
        """Why the claim does not hold for all that was asked for, one reason at a time."""
        if self.covered is None:
            yield "nothing of the interval is covered"
            return
        start, end = self.covered
        if self.asked_from is not None and self.asked_from < start:
            yield f"the logs begin at {start}: before that nothing was recorded"
        if self.asked_to is not None and end < self.asked_to:
            yield f"it holds up to {end}: later records were not yet under a checkpoint, or the interval was not over"
        for log in self.logs:
            for one in log.excepted:
                yield f"not for {log.log}/{one.segment} line {one.line} (record {one.record}): {one.reason}"
            for back in log.set_back:
                if back.time < end and back.before >= start:
                    yield (
                        f"in {log.log} the clock was set back: record {back.record} is of {back.time}, one before it of "
                        f"{back.before}; times between the two may be wrong"
                    )

    def encode(self) -> bytes:
        """The payload: canonical JSON. Raises `CheckpointInvalid` where a log's note is none."""
        return orjson.dumps(self.document(), option=orjson.OPT_SORT_KEYS)  # of strings, whole numbers, booleans: RFC 8785

    def document(self) -> dict[str, Any]:
        """The payload as a document. Raises `CheckpointInvalid` where a log's note is none."""
        return {
            "_type": STATEMENT_TYPE,
            "subject": [_subject(log.note) for log in self.logs if log.note is not None],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "version": VERSION,
                "instance": self.instance,
                "made": time_text(self.made),
                "question": self._question(),
                "covered": None if self.covered is None else {"from": self.covered[0], "to": self.covered[1]},
                "recordedUntil": self.recorded_until,
                "settledUntil": self.settled_until,
                "complete": self.is_complete,
                "logs": [_log(log) for log in self.logs],
                "basis": BASIS,
            },
        }

    def _question(self) -> dict[str, Any]:
        asked = self.question
        return {
            "from": self.asked_from,
            "to": self.asked_to,
            "fingerprints": asked.fingerprints,
            "key": None if asked.key is None else asked.key.text,
            "caller": asked.caller,
            "accessKey": asked.access_key,
            "context": asked.context,
            "events": asked.events,
            "error": asked.error,
            "phases": sorted(phase.value for phase in asked.phases),
        } | ({"digests": [asked.digests[pair] for pair in asked.context]} if asked.digests else {})


def _subject(note: str) -> dict[str, Any]:
    """A checkpoint by the SHA-256 of what is signed of it: other signatures under it do not make it another one."""
    text = note.rpartition("\n\n")[0] + "\n"
    return {"name": claimed_checkpoint(note).origin, "digest": {"sha256": sha256(text.encode()).hexdigest()}}


def _log(log: LogFacts) -> dict[str, Any]:
    return {
        "log": log.log,
        "checkpoint": log.note,
        "records": log.records,
        "inInterval": log.in_interval,
        "first": log.first,
        "newest": log.newest,
        "unsealed": {"records": log.unsealed, "oldest": log.unsealed_oldest},
        "torn": {"bytes": log.torn_bytes, "asideFiles": log.aside_files, "asideBytes": log.aside_bytes},
        "excepted": [
            {"record": one.record, "segment": one.segment, "line": one.line, "reason": one.reason} for one in log.excepted
        ],
        "setBack": [{"record": one.record, "time": one.time, "before": one.before} for one in log.set_back],
        "extends": [
            {"checkpoint": one.note, "proof": [base64.b64encode(node).decode() for node in one.proof]} for one in log.extends
        ],
    }
