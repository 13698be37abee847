"""Making an attestation: the newest checkpoint of each log first, then all lines, then the statement; signed by the caller's key.

The order matters: the moment is taken before the checkpoints, and the checkpoints before the lines, so whatever was answered by
then is under a checkpoint, or among the lines behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from audit.attest.envelope import seal
from audit.attest.occurring import Unseen
from audit.attest.reading import Hits, LogReading, read_log
from audit.attest.statement import Extension, LogFacts, Statement
from audit.checkpoint import Checkpoint, SigningKey, VerifierKey, claimed_checkpoint, split_notes
from audit.errors import CheckpointInvalid, LogIncident, QueryError
from audit.instance import Instance
from audit.keychain import LogKeys
from audit.merkle import EMPTY_ROOT
from audit.query.filters import DEFAULT_PHASES, Filter
from audit.query.times import time_text
from audit.record import Phase
from audit.sealing.keys import KeyPlace
from audit.sealing.log_sealer import last_note
from audit.sealing.rotation import open_current

Progress = Callable[[int, int], None]  # bytes read, bytes to read

KEY_NAME = "attestation"
#: Every record counts: what was tried and refused, what was announced, and what nobody knows the outcome of.
ALL_PHASES = DEFAULT_PHASES | {Phase.INTENT}


@dataclass(frozen=True, slots=True)
class Finding:
    """The statement, and the records that contradict it, by log; it may be signed where there are none.

    `unseen` is what of the question occurs in no record of the logs, of whatever time: perhaps it was mistyped.
    """

    statement: Statement
    hits: dict[str, tuple[Hits, Hits]]  # under the checkpoint, and behind it
    unseen: tuple[str, ...] = ()

    @property
    def is_absent(self) -> bool:
        return not any(hits.count for both in self.hits.values() for hits in both)


def attestation_key(instance: str, public_key: bytes) -> VerifierKey:
    """The sealer's key as it is named under attestations of the instance with this id."""
    return VerifierKey(f"keytrail/{instance}/{KEY_NAME}", public_key)


def check_question(question: Filter, now: datetime) -> None:
    """Raise `QueryError` where nothing can be attested for `question`, whatever is in the logs."""
    if question.phases != ALL_PHASES:
        raise QueryError("an attestation speaks of all phases")
    if question.ids or question.source is not None:
        raise QueryError("an attestation speaks of no ids and no sources")
    if replace(question, since=None, until=None) == Filter(phases=ALL_PHASES):
        raise QueryError("it has to say what is absent: by fingerprint, key, caller, access key, context, event or error")
    if question.until is not None and question.until > now:
        raise QueryError(f"the interval ends in the future, at {time_text(question.until)}: nobody can say yet")
    if question.since is not None and question.since >= (question.until or now):
        raise QueryError("the interval ends before it begins")


def attest(
    data: Path,
    question: Filter,
    now: datetime,
    saved: Iterable[str] = (),
    progress: Progress | None = None,
    place: KeyPlace | None = None,
) -> tuple[Finding, bytes]:
    """Whether no record of any log of the instance in `data` matches `question`; and the signed document, where it is so.

    `now` is the present, taken before this is called. `saved` are texts of checkpoints kept elsewhere: the document will prove
    that its trees extend theirs. `place`: where the sealer's key is. Raises `QueryError` where the question cannot be asked, or
    nothing of the interval is covered; `CheckpointInvalid` where a checkpoint is not by the sealer's key; `LogIncident` where the
    lines are not those that were signed for; `NoInstance`, OSError.
    """
    check_question(question, now)
    instance = Instance.load(data)
    key, chain = open_current(instance, place or KeyPlace())
    keys = {log: LogKeys(VerifierKey.of(instance.origin(log), key), chain) for log in instance.logs}
    finding = _examine(instance, question, now, keys, saved, progress)
    if not finding.is_absent:
        return finding, b""
    if finding.statement.covered is None:
        raise QueryError(_why_nothing(finding.statement))
    return finding, sign(finding.statement, key)


def sign(statement: Statement, key: SigningKey) -> bytes:
    """The document: `statement` in an envelope, signed by `key`."""
    return seal(statement.encode(), attestation_key(statement.instance, key.public_key().public_bytes_raw()), key.sign)


def _examine(
    instance: Instance,
    question: Filter,
    now: datetime,
    keys: dict[str, LogKeys],
    saved: Iterable[str],
    progress: Progress | None,
) -> Finding:
    extended = _saved_checkpoints(instance, keys, saved)
    newest = {log: _newest_checkpoint(instance, log, keys[log]) for log in instance.logs}
    _require_listed(instance)
    total, done = sum(path.stat().st_size for path in instance.data.glob("log/*/*.jsonl")), 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(min(done, total), total)

    facts, hits, searched, unseen = [], {}, Statement(instance.id, now, question, ()).searched, Unseen(question)
    for log in instance.logs:
        note, checkpoint = newest[log]
        old = extended.get(log, {})
        for one in old.values():
            if one.size > checkpoint.size:
                raise LogIncident(log, f"a saved checkpoint is of {one.size} records, its newest of {checkpoint.size}")
        sizes = {one.size for one in old.values()}
        reading = read_log(instance.data, log, searched, checkpoint.size, sizes, advance, unseen)
        if reading.records < checkpoint.size:
            raise LogIncident(log, f"it has {reading.records} records, but {checkpoint.size} were signed for")
        if note is not None and reading.roots[checkpoint.size] != checkpoint.root:
            raise LogIncident(
                log, "its lines are not those that its newest checkpoint was signed for: `keytrail verify` says which"
            )
        facts.append(_facts(instance, reading, note, _extensions(reading, checkpoint, old)))
        hits[log] = reading.hits, reading.later_hits
    return Finding(Statement(instance.id, now, question, tuple(facts)), hits, unseen.names)


def _facts(instance: Instance, reading: LogReading, note: str | None, extensions: tuple[Extension, ...]) -> LogFacts:
    aside = _set_aside(instance.log_folder(reading.log) / "torn")
    return LogFacts(
        log=reading.log,
        note=note,
        records=reading.sealed,
        in_interval=reading.in_interval,
        first=reading.first,
        newest=reading.newest,
        unsealed=reading.unsealed,
        unsealed_oldest=reading.unsealed_oldest,
        torn_bytes=reading.torn_bytes,
        aside_files=len(aside),
        aside_bytes=sum(aside),
        excepted=tuple(reading.excepted),
        set_back=tuple(reading.set_back),
        extends=extensions,
    )


def _extensions(reading: LogReading, newest: Checkpoint, old: dict[str, Checkpoint]) -> tuple[Extension, ...]:
    """The proofs that `newest` extends the checkpoints `old`, by their notes. Raises `LogIncident` where it does not."""
    for one in old.values():
        if reading.roots[one.size] != one.root:
            raise LogIncident(reading.log, f"its first {one.size} lines are not those that a saved checkpoint was signed for")
    return tuple(Extension(note, reading.proofs.get(one.size, ())) for note, one in old.items())


def _saved_checkpoints(instance: Instance, keys: dict[str, LogKeys], saved: Iterable[str]) -> dict[str, dict[str, Checkpoint]]:
    """The notes in the texts `saved`, by log. Raises `CheckpointInvalid` where one is not genuine, or not of `instance`."""
    logs = {instance.origin(log): log for log in instance.logs}
    notes: dict[str, dict[str, Checkpoint]] = {}
    for text in saved:
        if not text.strip():
            raise CheckpointInvalid("a saved file holds no checkpoint")
        for note in split_notes(text):
            origin = claimed_checkpoint(note).origin
            if origin not in logs:
                raise CheckpointInvalid(f"a saved checkpoint is of {origin}: this instance has no such log")
            notes.setdefault(logs[origin], {})[note] = keys[logs[origin]].open(note)
    return notes


def _newest_checkpoint(instance: Instance, log: str, keys: LogKeys) -> tuple[str | None, Checkpoint]:
    """The last note of the log's history, and what it says; no note, and a tree of nothing, where nothing was signed yet."""
    try:
        with (instance.checkpoint_folder(log) / "history").open("rb") as history:
            note, _ = last_note(history)
    except FileNotFoundError:
        note = ""
    if not note:
        return None, Checkpoint(keys.origin, 0, EMPTY_ROOT)
    return note, keys.open(note)


def _require_listed(instance: Instance) -> None:
    """All logs have to be known: one that keytrail.json does not list would be left out."""
    patterns = ("log/*/*.jsonl", "checkpoints/*/history")
    found = {path.parent.name for pattern in patterns for path in instance.data.glob(pattern)}
    for log in sorted(found - {*Instance.load(instance.data).logs}):  # one that was made meanwhile is listed there by now
        raise LogIncident(log, "keytrail.json does not list it")


def _set_aside(folder: Path) -> list[int]:
    """The sizes of the torn tails that recovery moved away."""
    return [path.stat().st_size for path in folder.iterdir()] if folder.is_dir() else []


def _why_nothing(statement: Statement) -> str:
    if statement.began is None:
        return "no record is under a checkpoint yet: does the sealer run?"
    asked = f"from {statement.asked_from or 'their beginning'} to {statement.asked_to or 'now'}"
    return (
        f"nothing of the interval ({asked}) is covered: the logs begin at {statement.began}, or what is later is not sealed yet"
    )
