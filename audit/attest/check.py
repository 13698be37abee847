"""`keytrail verify-attestation`: what can be proved of an attestation, as a numbered checklist. The numbers are those of
docs/attestation.md.

Steps 1 to 6 need the document and a key that is trusted, and nothing else. Steps 7 and 8 read the log again, where it is at hand.
A step passes only where something was checked; where there is no key to trust, the first one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from audit.attest.envelope import AttestationInvalid, open_envelope, payload_of
from audit.attest.make import attestation_key, check_question
from audit.attest.parsing import parse
from audit.attest.reading import Hits, LogReading, read_log
from audit.attest.statement import UNDER_WAY, VERSION, Excepted, LogFacts, SetBack, Statement
from audit.checkpoint import Checkpoint, VerifierKey, claimed_checkpoint, split_notes
from audit.errors import AuditError, CheckpointInvalid, QueryError
from audit.instance import Instance
from audit.keychain import KeyChain, LogKeys
from audit.merkle import EMPTY_ROOT, extends
from audit.query.times import time_text
from audit.report import Step, Verdict
from audit.sealing.keys import read_chain, verifier_keys

Progress = Callable[[int, int], None]  # bytes read, bytes to read

TITLES = {
    1: "it is signed by the key that is trusted",
    2: "it is a statement of this version, and says what follows from its facts",
    3: "every checkpoint in it is signed by the same key",
    4: "every log was read from its first record to its checkpoint",
    5: "every saved checkpoint is of the same tree",
    6: "it holds for all that was asked",
    7: "the log at hand is the one that it speaks of",
    8: "no record of the log at hand matches",
}
_MAX_FAULTS = 50  # of one step; the rest is counted


@dataclass(frozen=True, slots=True)
class AttestationReport:
    """The steps; what is wrong, each with the number of its step; and the statement, where there is one."""

    statement: Statement | None
    steps: tuple[Step, ...]
    faults: tuple[tuple[int, str], ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed. What was not checked is in the steps."""
        return all(step.verdict is not Verdict.FAILED for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "steps": [
                {"number": step.number, "title": step.title, "verdict": step.verdict.value, "detail": step.detail}
                for step in self.steps
            ],
            "faults": [{"step": number, "reason": reason} for number, reason in self.faults],
            "statement": None if self.statement is None else self.statement.document(),
        }


def check(
    envelope: bytes,
    keys: Sequence[VerifierKey] = (),
    saved: Iterable[str] = (),
    data: Path | None = None,
    progress: Progress | None = None,
    chain: KeyChain | None = None,
) -> AttestationReport:
    """Check an attestation. `keys` are trusted: any verifier key of the instance will do, since one signs for all of its logs.

    `saved` are texts of checkpoints kept elsewhere. `data` is a data folder with the log; without `keys`, its public key is used.
    `chain`: the changes of the sealer's key, those in `data` where none is given. Raises `CheckpointInvalid` where a saved file
    holds no checkpoint, `NoInstance`, OSError.
    """
    instance = None if data is None else Instance.load(data)
    if chain is None and instance is not None:
        chain = read_chain(instance)
    walk = _Check(envelope, [*keys], [note for text in saved for note in _notes(text)], instance, chain)
    walk.run(progress)
    return walk.report()


class _Check:
    """The walk through the steps. Of a step, the faults found; and where it was checked at all, what was."""

    def __init__(
        self,
        envelope: bytes,
        keys: list[VerifierKey],
        saved: list[str],
        instance: Instance | None,
        chain: KeyChain | None,
    ) -> None:
        self._envelope, self._saved, self._instance, self._chain = envelope, saved, instance, chain
        self._is_key_given = bool(keys)
        verifiers = keys if keys or instance is None else verifier_keys(instance).values()
        self._keys = {(_instance_of(key), key.public_key): None for key in verifiers}  # one key signs for all logs of an instance
        self._signed_for: str | None = None
        self._statement: Statement | None = None
        self._faults: dict[int, list[str]] = {number: [] for number in TITLES}
        self._checked: dict[int, str] = {}
        self._genuine: dict[str, Checkpoint] = {}  # saved notes that are signed, of logs that the statement speaks of
        self._compared: set[str] = set()  # those of them that could be held against a tree

    def run(self, progress: Progress | None) -> None:
        payload = self._signature()
        if payload is None or (statement := self._form(payload)) is None:
            return
        self._statement = statement
        public_keys = [public_key for instance, public_key in self._keys if instance == statement.instance]
        self._embedded(statement, public_keys)
        self._coverage(statement)
        self._saved_offline(statement, public_keys)
        self._completeness(statement)
        if self._instance is not None:
            self._read_again(self._instance, statement, progress)
        for note in self._genuine.keys() - self._compared:
            self._fault(5, f"{_told(self._genuine[note])} cannot be compared without the log (or `attest-absence --checkpoint`)")

    def _fault(self, step: int, reason: str) -> None:
        self._faults[step].append(reason)

    # --- the document

    def _signature(self) -> bytes | None:
        """The payload; also where its signature is not genuine, so that the rest can be told of too."""
        try:
            payload = payload_of(self._envelope)
        except AttestationInvalid as error:
            self._fault(1, str(error))
            return None
        if not self._keys:
            self._fault(1, "no key was given: only the form was checked")
            return payload
        try:
            verifiers = {
                attestation_key(instance, public_key): instance
                for instance, trusted in self._keys
                for public_key in self._vouched(instance, trusted)
            }
            _, signer = open_envelope(self._envelope, verifiers)
        except AttestationInvalid as error:
            self._fault(1, str(error))
            return payload
        self._signed_for = verifiers[signer]
        source = "was given" if self._is_key_given else "is in the data folder, which whoever changes the log can change too"
        self._checked[1] = f"{signer.name}, by the key that {source}"
        return payload

    def _vouched(self, instance: str, trusted: bytes) -> tuple[bytes, ...]:
        """The keys that may have signed the document, by the word of one that is trusted."""
        is_of_chain = self._chain is not None and self._chain.instance == instance
        return self._chain.vouched(trusted) if self._chain is not None and is_of_chain else (trusted,)

    def _open_own(self, note: str, origin: str, public_keys: Iterable[bytes]) -> Checkpoint:
        """The checkpoint of the log `origin` in `note`, as one of `public_keys` vouches for it. Raises `CheckpointInvalid`."""
        error = CheckpointInvalid("there is no key to check it with")
        for public_key in public_keys:
            try:
                return LogKeys(VerifierKey(origin, public_key), self._chain).open(note)
            except CheckpointInvalid as reason:
                error = reason
        raise error

    def _form(self, payload: bytes) -> Statement | None:
        try:
            statement = parse(payload)
            check_question(statement.question, statement.made)
            if statement.covered is None:
                raise AttestationInvalid("it covers nothing")
        except (AttestationInvalid, QueryError) as error:
            self._fault(2, str(error))
            return None
        if self._signed_for not in (None, statement.instance):
            self._fault(1, f"it speaks of the instance {statement.instance}, and is signed for {self._signed_for}")
        self._checked[2] = f"version {VERSION}, of the instance {statement.instance}, made {time_text(statement.made)}"
        return statement

    def _embedded(self, statement: Statement, public_keys: list[bytes]) -> None:
        if not public_keys:
            return
        count = 0
        for log in statement.logs:
            for note in (*([log.note] if log.note is not None else []), *(one.note for one in log.extends)):
                count += 1
                try:
                    self._open_own(note, _origin(statement, log.log), public_keys)
                except CheckpointInvalid as error:
                    self._fault(3, f"log {log.log}: {error}")
        self._checked[3] = f"{count} checkpoints"

    def _coverage(self, statement: Statement) -> None:
        for log in statement.logs:
            for reason in _gaps(log):
                self._fault(4, f"log {log.log}: {reason}")
        records = sum(log.records for log in statement.logs)
        in_interval = sum(log.in_interval for log in statement.logs)
        self._checked[4] = f"{records} records of {len(statement.logs)} logs, {in_interval} of them in the interval"

    def _saved_offline(self, statement: Statement, public_keys: list[bytes]) -> None:
        logs = {_origin(statement, log.log): log for log in statement.logs}
        for note in self._saved:
            claimed = claimed_checkpoint(note)
            try:
                if claimed.origin not in logs:
                    raise CheckpointInvalid("the attestation does not speak of that log")
                if not public_keys:
                    raise CheckpointInvalid("there is no key to check it with")
                self._genuine[note] = self._open_own(note, claimed.origin, public_keys)
            except CheckpointInvalid as error:
                self._fault(5, f"{_told(claimed)}: {error}")
                continue
            is_extended = _extends(logs[claimed.origin], claimed)
            if is_extended is not None:
                self._compared.add(note)
            if is_extended is False:
                self._fault(5, f"{_told(claimed)} is of another tree than the attestation's")
        if self._saved:
            self._checked[5] = f"{len(self._saved)} saved checkpoints"

    # --- how much is claimed

    def _completeness(self, statement: Statement) -> None:
        for reason in statement.limits():
            self._fault(6, reason)
        if statement.covered is not None:
            self._checked[6] = f"from {statement.covered[0]} to {statement.covered[1]}"

    # --- the log at hand

    def _read_again(self, instance: Instance, statement: Statement, progress: Progress | None) -> None:
        if instance.id != statement.instance:
            self._fault(7, f"it is of the instance {instance.id}")
            return
        total, done = sum(path.stat().st_size for path in instance.data.glob("log/*/*.jsonl")), 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            if progress is not None:
                progress(min(done, total), total)

        facts = {log.log: log for log in statement.logs}
        for log in sorted({*instance.logs, *facts}):
            sizes = {one.size for one in self._genuine.values() if one.origin == instance.origin(log)}
            records = facts[log].records if log in facts else 0  # one that was made later: all its records are too
            try:
                reading = read_log(instance.data, log, statement.searched, records, sizes, advance)
            except AuditError as error:
                self._fault(7, str(error))
                continue
            self._compare_saved(reading, instance.origin(log))
            if log in facts:
                self._compare_facts(facts[log], reading)
            self._require_absence(statement, reading)
        self._checked[7] = f"{len(facts)} logs"
        self._checked[8] = "its records were read again, and those behind its checkpoints"

    def _compare_saved(self, reading: LogReading, origin: str) -> None:
        for note, checkpoint in self._genuine.items():
            if checkpoint.origin == origin:
                self._compared.add(note)
                if reading.roots.get(checkpoint.size) != checkpoint.root:
                    self._fault(5, f"{_told(checkpoint)} is of another tree than the log at hand")

    def _compare_facts(self, log: LogFacts, reading: LogReading) -> None:
        root = EMPTY_ROOT if log.note is None else claimed_checkpoint(log.note).root
        if reading.roots.get(log.records) != root:
            if reading.records < log.records:
                self._fault(7, f"log {log.log}: it has {reading.records} records, and the attestation speaks of {log.records}")
            else:
                self._fault(7, f"log {log.log}: its lines are not those that the checkpoint in the attestation was signed for")
            return
        pairs: tuple[tuple[str, object, object], ...] = (
            ("the records in the interval", log.in_interval, reading.in_interval),
            ("the time of the first record", log.first, reading.first),
            ("the time of the newest record", log.newest, reading.newest),
            ("the lines excepted", _under(log.records, log.excepted), _under(log.records, reading.excepted)),
            ("the times that go back", log.set_back, tuple(reading.set_back)),
        )
        for what, said, found in pairs:
            if said != found:
                self._fault(8, f"log {log.log}: {what}: not as it says")

    def _require_absence(self, statement: Statement, reading: LogReading) -> None:
        self._tell_hits(reading.hits, "matches")
        if statement.covered is not None and reading.later_hits.first < statement.covered[1]:
            self._tell_hits(reading.later_hits, "matches; it was not yet under the checkpoint when the attestation was made")

    def _tell_hits(self, hits: Hits, what: str) -> None:
        for hit in hits.kept:
            self._fault(8, f"{hit.place} ({hit.time}) {what}")
        if hits.count > len(hits.kept):
            self._fault(8, f"and {hits.count - len(hits.kept)} more")

    # --- the verdicts

    def report(self) -> AttestationReport:
        why_not = {3: "there is no key to check them with", 5: "none was given"}
        steps = []
        for number, title in TITLES.items():
            count = len(self._faults[number])
            if count:
                steps.append(Step(number, title, Verdict.FAILED, f"{count} fault{'s' if count > 1 else ''}"))
            elif number in self._checked:
                steps.append(Step(number, title, Verdict.PASSED, self._checked[number]))
            else:
                why = why_not.get(number, "the log was not given") if self._statement is not None else "there is no statement"
                steps.append(Step(number, title, Verdict.NOT_CHECKED, why))
        faults = [(number, reason) for number in TITLES for reason in self._faults[number][:_MAX_FAULTS]]
        return AttestationReport(self._statement, tuple(steps), tuple(faults))


def _gaps(log: LogFacts) -> Iterator[str]:
    """What of a log's facts cannot be, or does not fit its checkpoint; one reason at a time."""
    size = 0 if log.note is None else claimed_checkpoint(log.note).size
    if size != log.records:
        yield f"{log.records} records were read, and its checkpoint is for {size}"
    places = [one.record for one in log.excepted]
    judged = log.records - sum(place < log.records for place in places)
    if log.in_interval > log.records:
        yield f"{log.in_interval} of {log.records} records are in the interval"
    if places != sorted({*places}) or any(place >= log.records + log.unsealed for place in places):
        yield "lines are excepted that it does not have"
    if (log.first is None) != (log.newest is None) or (log.first or "") > (log.newest or ""):
        yield "its first and its newest time do not fit"
    if (log.first is None and judged > 0) or (log.first is not None and not log.records):
        yield "the time of its first record does not fit the number of records"
    if log.unsealed_oldest is not None and not log.unsealed:
        yield "it has no record behind the checkpoint, and the time of one"
    if any(not _is_set_back(one) or one.record >= log.records for one in log.set_back):
        yield "a time is said to go back, and does not"
    for one in log.extends:
        try:
            old = claimed_checkpoint(one.note)
            if log.note is None or not _is_extended(old, claimed_checkpoint(log.note), one.proof):
                yield f"there is no proof that its tree extends that of {_told(old)}"
        except CheckpointInvalid as error:
            yield str(error)


def _is_set_back(one: SetBack) -> bool:
    return datetime.fromisoformat(one.before) - datetime.fromisoformat(one.time) > UNDER_WAY


def _extends(log: LogFacts, saved: Checkpoint) -> bool | None:
    """Whether the log's tree extends the saved one; None where the document alone does not tell."""
    own = None if log.note is None else claimed_checkpoint(log.note)
    if own is None or saved.size > own.size:
        return None
    if saved.size in (0, own.size):
        return _is_extended(saved, own, ())
    for one in log.extends:
        old = claimed_checkpoint(one.note)
        if old.size == saved.size and _is_extended(old, own, one.proof):
            return old.root == saved.root
    return None


def _is_extended(old: Checkpoint, new: Checkpoint, proof: tuple[bytes, ...]) -> bool:
    if not old.size:
        return not proof and old.root == EMPTY_ROOT
    return extends(old.size, old.root, new.size, new.root, proof)


def _under(records: int, excepted: Iterable[Excepted]) -> tuple[Excepted, ...]:
    return tuple(one for one in excepted if one.record < records)


def _origin(statement: Statement, log: str) -> str:
    return f"keytrail/{statement.instance}/{log}"


def _instance_of(key: VerifierKey) -> str:
    """The id of the instance that a verifier key is of. Raises `QueryError`."""
    parts = key.name.split("/")
    if len(parts) != 3 or parts[0] != "keytrail":
        raise QueryError(f"{key.name} is not the name of a key of keytrail: it should be keytrail/INSTANCE/LOG")
    return parts[1]


def _notes(text: str) -> list[str]:
    """The notes in a saved file. Raises `CheckpointInvalid` where it holds none."""
    if not text.strip():
        raise CheckpointInvalid("a saved file holds no checkpoint")
    notes = split_notes(text)
    for note in notes:
        claimed_checkpoint(note)
    return notes


def _told(checkpoint: Checkpoint) -> str:
    return f"the checkpoint of {checkpoint.size} records of {checkpoint.origin}"
