"""`keytrail verify`: what can be proved of an instance's logs, as a numbered checklist. The numbers are those of docs/verify.md.

It only reads, while the proxy serves too: the checkpoints are taken first and the lines after them, so whatever was signed by
then must be there, and what is being written meanwhile is no fault. Memory is bounded at any size: lines, history and leaf hashes
are streamed.

A step passes only where something was checked. Here the lines are read, and each is looked at; `audit.comparison` holds the tree
over them against the checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from audit.canonical import timestamp
from audit.checkpoint import VerifierKey, claimed_checkpoint, split_notes
from audit.comparison import COSIGNED, HISTORY, SAVED, STAMPED, Comparison, Faults, Target
from audit.errors import AuditError, CheckpointInvalid
from audit.instance import ADMIN_LOG, Instance
from audit.keychain import LogKeys
from audit.log import Mark
from audit.merkle import leaf_hash
from audit.receipts import Awaited, ClaimedReceipt
from audit.report import LogReport, Report, Step, Verdict
from audit.sealing.keys import log_keys, verifier_keys
from audit.segments import Segment, is_being_written, list_segments, read_mark, segment_name
from audit.witnessed import Demand

if TYPE_CHECKING:  # it brings a library that only those need who have time stamps
    from audit.timestamp_token import Authorities

Progress = Callable[[int, int], None]  # bytes read, bytes to read

TITLES = {
    1: "the log is there",
    2: "its segments follow each other without a gap",
    3: "every line is a record of this log, numbered densely",
    4: "every checkpoint in the history is signed by the log's key, and each is larger than the one before",
    5: "the tree over the lines has the root of every checkpoint in the history",
    6: "`latest` is the last checkpoint of the history",
    7: "every saved checkpoint is of this tree",
    8: "every call that changes state has its outcome",
    9: "the mark agrees with the lines",
    10: "every receipt that was given is of a record that is here, under a checkpoint",
    11: "the newest cosigned checkpoint fulfils the policy, and is of this tree",
    12: "every time stamp is genuine, and of a checkpoint of this tree",
}
_CHUNK_BYTES = 1 << 20
_MAX_LINE_BYTES = 16 << 20
_MAX_NOTE_BYTES = 1_000_000
_MAX_OPEN_INTENTS = 100_000
_MAX_GAP = 1_000_000  # records that a line's number may jump where nothing signed tells
_UNSEALED_US = 10_000_000  # how long the first records of a log may wait for the first checkpoint: the sealer takes two seconds
#: What CloudTrail requires of every record, with our extension.
REQUIRED = (
    *("eventVersion", "userIdentity", "eventTime", "eventSource", "eventName", "awsRegion", "sourceIPAddress"),
    *("requestParameters", "responseElements", "additionalEventData", "eventID", "eventType", "eventCategory"),
)
require_all = itemgetter(*REQUIRED)  # KeyError where one is lacking: the cheapest way to ask, once a line
_SIGNATURE_PREFIX = "\u2014 ".encode()


def _now_us() -> int:
    return time.time_ns() // 1_000


def verify(
    data: Path,
    keys: Iterable[VerifierKey] = (),
    saved: Iterable[str] = (),
    progress: Progress | None = None,
    now_us: Callable[[], int] = _now_us,
    receipts: Iterable[ClaimedReceipt] = (),
    demand: Demand | None = None,
    authorities: Authorities | None = None,
) -> Report:
    """Verify every log of the instance in `data`.

    `keys` are trusted instead of the public key in the data folder, and so are the logs' of the policy in `demand`; `saved` are
    the texts of checkpoint files kept elsewhere, with one or several notes each, of any of the logs; `receipts` are a client's,
    of any of them; `demand` is what the newest cosigned checkpoint of each has to fulfil; time stamps have to be by
    `authorities`. Raises `CheckpointInvalid` where a saved file holds no checkpoint, `NoInstance`, OSError.
    """
    listed = demand.policy.logs if demand is not None else ()
    trusted = {key.name: key for key in (*(log.key for log in listed), *keys)}
    notes: dict[str, list[str]] = {}
    for text in saved:
        if not text.strip():
            raise CheckpointInvalid("a saved file holds no checkpoint")
        for note in split_notes(text):
            notes.setdefault(claimed_checkpoint(note).origin, []).append(note)
    given: dict[str, list[ClaimedReceipt]] = {}
    for receipt in receipts:
        given.setdefault(receipt.origin, []).append(receipt)
    found = {path.parent.name for pattern in ("log/*/*.jsonl", "checkpoints/*/history") for path in data.glob(pattern)}
    instance = Instance.load(data)  # after the folders were listed: a log is listed there before anything is in it
    names = (*instance.logs, ADMIN_LOG, *sorted(found))  # `init` makes `admin`: there is no instance without it
    origins = dict.fromkeys((*map(instance.origin, names), *trusted, *notes, *given))
    meter = _Meter(progress, sum(path.stat().st_size for path in data.glob("log/*/*.jsonl")))

    def check_of(origin: str) -> _LogCheck:
        given_for = Awaited(given.get(origin, ()))
        key, kept = trusted.get(origin), notes.get(origin, [])
        return _LogCheck(instance, origin, key, kept, given_for, demand, now_us(), authorities)

    return Report(tuple(_verify_log(partial(check_of, origin), meter, now_us) for origin in origins))


def _verify_log(new_check: Callable[[], _LogCheck], meter: _Meter, now_us: Callable[[], int]) -> LogReport:
    check = new_check()
    check.run(meter)
    if check.never_sealed() and check.history_bytes():  # its first checkpoint came while the lines were read
        check = new_check()
        check.run(meter)
    return check.report(now_us())


class _Meter:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


class _LogCheck:
    """The steps of one log in one pass over its lines."""

    def __init__(
        self,
        instance: Instance,
        origin: str,
        key: VerifierKey | None,
        saved: list[str],
        receipts: Awaited,
        demand: Demand | None,
        now_us: int,
        authorities: Authorities | None,
    ) -> None:
        name = origin.removeprefix(instance.origin(""))
        self._is_foreign = name == origin or "/" in name or name in {"", ".", ".."}  # no folder here can be meant
        self._log = origin if self._is_foreign else name
        self._listed = name in instance.logs and not self._is_foreign
        self._folder = instance.log_folder(name)
        self._checkpoints = instance.checkpoint_folder(name)
        self._saved, self._key_given = saved, key is not None
        self._receipts = receipts
        self._demand, self._started_s = demand, now_us / 1_000_000
        self._authorities = authorities
        self._stamps = "not asked for: no certificates were given" if authorities is None else "there is none"
        self._cosigned = "not asked for: no policy was given" if demand is None else "there is none"
        self._faults = Faults(self._log, iter(TITLES))
        self._keys = self._trusted_keys(instance, key or _key_in_data_folder(instance, origin))
        self._tree = Comparison(iter(()), None, self._faults)  # nothing to compare with, until `run` has read the checkpoints
        self._notes = self._settled_notes = self._torn_note_bytes = 0
        self._latest: str | None = None
        self._latest_at: int | None = None
        self._segments: list[Segment] = []
        self._lines = self._read_bytes = self._tail_bytes = self._intents = 0
        self._oldest: str | None = None  # the earliest time of a record, as long as there is no checkpoint
        self._open_intents: dict[str, tuple[str, int]] = {}
        self._mark: Mark | None = None
        self._mark_seen = False
        self._being_written = False

    def _trusted_keys(self, instance: Instance, trusted: VerifierKey | None) -> LogKeys | None:
        """The keys that `trusted` vouches for; it alone where the chain of keys says nothing."""
        if trusted is None:
            return None
        try:
            return log_keys(instance, trusted)
        except (CheckpointInvalid, OSError) as error:
            self._faults.add(4, f"the chain of the sealer's keys: {error}")
            return LogKeys(trusted)

    def never_sealed(self) -> bool:
        return self._tree.records > 0 and not self._notes

    def history_bytes(self) -> int:
        history = self._checkpoints / "history"
        return history.stat().st_size if not self._is_foreign and history.exists() else 0

    # --- the walk

    def run(self, meter: _Meter) -> None:
        """Checkpoints first, then lines. `latest` follows the history, so it is read between two looks at how far that goes."""
        cosigned = self._read_cosigned()
        settled = self.history_bytes()
        self._latest = _read_if_there(self._checkpoints / "latest") if settled else None
        history = self._read_history(settled, self.history_bytes())
        known = (history, self._fixed_by_keys(), self._read_saved(), cosigned, self._read_timestamps())
        targets = iter(merge(*known, key=lambda target: target.checkpoint.size))
        leaves = self._checkpoints / "leaves"
        with Comparison(targets, leaves if settled and leaves.exists() else None, self._faults) as self._tree:
            self._look_at_folder()
            for segment in self._segments:
                if not self._read_segment(segment, meter):
                    break
            self._tree.finish()
        self._look_at_latest()
        self._look_at_intents()

    def _look_at_folder(self) -> None:
        if self._is_foreign or not (self._folder.is_dir() or self._checkpoints.is_dir()):
            self._faults.add(1, "its folders have vanished" if self._listed else "this instance has no such log")
            return
        if not self._listed:
            self._faults.add(1, "keytrail.json does not list it")
        if not self._folder.is_dir():
            self._faults.add(1, f"{self._folder} has vanished")
            return
        if (self._folder / "lock").exists():
            self._being_written = is_being_written(self._folder)
        else:
            self._faults.add(1, f"{self._folder / 'lock'} has vanished")
        self._mark = read_mark(self._folder)
        self._segments = list_segments(self._folder)

    def _read_segment(self, segment: Segment, meter: _Meter) -> bool:
        """False where the lines end before the file does: what follows was never confirmed."""
        self._faults.segment, self._faults.line = segment.path.name, 0
        if segment.first_index > self._tree.records:
            self._faults.add_here(2, f"{_missing(self._tree.records, segment.first_index)} before this segment")
            self._tree.skip_to(segment.first_index)
        elif segment.first_index < self._tree.records:
            self._faults.add_here(
                2, f"its name says that it begins with record {segment.first_index}, but {self._tree.records} comes next"
            )
        is_last = segment == self._segments[-1]
        self._read_bytes, offset, rest = 0, 0, b""
        with segment.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                meter.add(len(chunk))
                self._read_bytes += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for text in lines:
                    self._faults.line += 1
                    if not self._take(text, is_last):
                        self._tail_bytes = segment.path.stat().st_size - offset
                        return False
                    offset += len(text) + 1
                    if self._mark is not None and offset == self._mark.offset and segment.first_index == self._mark.segment:
                        self._meet_mark(self._mark)
                if len(rest) > _MAX_LINE_BYTES:
                    break
        if rest and is_last:
            self._tail_bytes = len(rest)
        elif rest:
            self._faults.line += 1
            self._faults.add_here(3, "the line is not ended, and this is not the last segment")
            self._tree.alter()
        return True

    def _take(self, text: bytes, is_last: bool) -> bool:
        """One line. False where it cannot be a line of this log and need not be: recovery will set it aside."""
        leaf = leaf_hash(text)
        log, sequence, record, extension = _read_place(text)
        if log != self._log or sequence != self._tree.records:
            confirmed = self._mark.records if self._mark is not None else 0
            if is_last and self._tree.is_through and self._tree.records >= confirmed and not self._tree.altered:
                return False
            if not self._place(leaf, log, sequence):
                return True
        self._lines += 1
        if self._receipts.count and not self._receipts.meet(self._tree.records, leaf, str(extension.get("time", ""))):
            self._faults.add_here(10, f"record {self._tree.records} is not the one that a receipt was given for")
        self._tree.take(leaf)
        try:
            require_all(record)
        except KeyError:
            if log is not None:
                lacking = ", ".join(name for name in REQUIRED if name not in record)
                self._faults.add_here(3, f"record {sequence} lacks what CloudTrail requires of every record: {lacking}")
        if not self._notes:
            time_text = str(extension.get("time", ""))
            self._oldest = time_text if self._oldest is None else min(self._oldest, time_text)
        if extension.get("phase") == "intent":
            self._intents += 1
            if len(self._open_intents) < _MAX_OPEN_INTENTS:
                self._open_intents[str(record.get("eventID"))] = (self._faults.segment, self._faults.line)
        elif "intent" in extension:
            self._open_intents.pop(str(extension["intent"]), None)
        return True

    def _place(self, leaf: bytes, log: str | None, sequence: int) -> bool:
        """Say what is wrong with the place of a line; whether it goes into the tree where the reading is."""
        expected = self._tree.records
        if log != self._log:
            what = "it is not a record of keytrail" if log is None else f"it is a record of the log {log!r:.60}"
            self._faults.add_here(3, f"record {expected} should stand here: {what}")
        elif sequence < expected:
            if any(start <= sequence < end for start, end in self._tree.missing):
                self._faults.add_here(3, f"record {sequence} stands behind record {expected - 1}: out of order")
            else:
                self._faults.add_here(3, f"record {sequence} stands here a second time; record {expected} should")
            self._tree.alter()
            return False
        elif self._tree.leaf_at(sequence) == leaf or (self._tree.leaf_at(expected) is None and sequence - expected <= _MAX_GAP):
            self._faults.add_here(3, f"{_missing(expected, sequence)}: here stands record {sequence}")
            self._tree.skip_to(sequence)
        else:
            self._faults.add_here(3, f"record {expected} should stand here: the line says that it is record {sequence}")
        return True

    def _read_history(self, settled: int, end: int) -> Iterator[Target]:
        """The genuine checkpoints of the history, in order; those within `settled` were there before `latest` was read."""
        if self._keys is None and end:
            self._faults.add(4, "there is no key to check the checkpoints with: sealer.pub cannot be read, and none was given")
        previous, last_end = -1, 0
        for position, note, is_whole in _notes(self._checkpoints / "history", end):
            if not is_whole:
                self._torn_note_bytes = position - last_end  # torn by a crash, or being written: it was never published
                return
            last_end = position
            name = f"checkpoint {self._notes} of the history"
            if note == self._latest:
                self._latest_at = self._notes
            self._notes += 1
            self._settled_notes += position <= settled
            if self._keys is None:
                continue
            try:
                checkpoint = self._keys.open(note)
            except CheckpointInvalid as error:
                self._faults.add(4, f"{name}: {error}")
                continue
            if checkpoint.size <= previous:
                self._faults.add(4, f"{name}: it is for {checkpoint.size} records, the one before it for {previous}")
                continue
            previous = checkpoint.size
            yield Target(checkpoint, HISTORY, f"{name} ({checkpoint.size} records)")

    def _fixed_by_keys(self) -> Iterator[Target]:
        """What each change of the sealer's key says of this log: it is signed by the key that followed, too."""
        for number, checkpoint in self._keys.fixed() if self._keys is not None else ():
            yield Target(checkpoint, HISTORY, f"change {number} of the sealer's key ({checkpoint.size} records)")

    def _read_saved(self) -> Iterator[Target]:
        targets = []
        for note in self._saved:
            claimed = claimed_checkpoint(note)
            name = f"the saved checkpoint of {claimed.size} records"
            try:
                if self._keys is None:
                    raise CheckpointInvalid("there is no key to check it with")
                targets.append(Target(self._keys.open(note), SAVED, name))
            except CheckpointInvalid as error:
                self._faults.add(7, f"{name}: {error}")
        return iter(sorted(targets, key=lambda target: target.checkpoint.size))

    def _read_cosigned(self) -> Iterator[Target]:
        """The newest checkpoint that witnesses cosigned, where it is genuine."""
        note = None if self._demand is None or self._is_foreign else _read_if_there(self._checkpoints / "cosigned")
        if self._demand is None or note is None:
            return iter(())
        try:
            if self._keys is None:
                raise CheckpointInvalid("there is no key to check it with")
            checkpoint = self._keys.open(note)
            for shortcoming in self._demand.shortcomings(note, self._started_s):
                self._faults.add(COSIGNED, f"the newest cosigned checkpoint, of {checkpoint.size} records: {shortcoming}")
            self._cosigned = f"{checkpoint.size} records, {self._demand.told(note, self._started_s)}"
        except CheckpointInvalid as error:
            self._faults.add(COSIGNED, f"the newest cosigned checkpoint: {error}")
            return iter(())
        return iter((Target(checkpoint, COSIGNED, f"the newest cosigned checkpoint ({checkpoint.size} records)"),))

    def _read_timestamps(self) -> Iterator[Target]:
        """The checkpoints that an authority put its time to, where they are genuine."""
        targets, count = [], 0
        folder = self._checkpoints / "timestamps"
        for path in sorted(folder.glob("*.note")) if self._authorities is not None and not self._is_foreign else ():
            data = path.read_bytes()
            try:
                if self._keys is None:
                    raise CheckpointInvalid("there is no key to check it with")
                checkpoint = self._keys.open(data.decode("utf-8", "replace"))
                for response in sorted(folder.glob(f"{path.stem}-*.tsr")):
                    count += 1
                    stamp = self._authorities.open(response.read_bytes(), data) if self._authorities is not None else None
                    self._stamps = f"{count}; by the newest, {checkpoint.size} records were there at {stamp}"
            except AuditError as error:
                self._faults.add(STAMPED, f"the time stamp {path.name}: {error}")
                continue
            targets.append(Target(checkpoint, STAMPED, f"the time-stamped checkpoint of {checkpoint.size} records"))
        return iter(sorted(targets, key=lambda target: target.checkpoint.size))

    # --- the rest

    def _meet_mark(self, mark: Mark) -> None:
        self._mark_seen = True
        if self._tree.records != mark.records:
            self._faults.add_here(
                9, f"the mark says that record {mark.records - 1} ends here, but record {self._tree.records - 1} does"
            )

    def _look_at_intents(self) -> None:
        if self._segments and not self._being_written and (self._folder / "lock").exists():
            # A writer that came while the lines were read, and perhaps left, has the outcomes behind what was read.
            grew = self._segments[-1].path.stat().st_size > self._read_bytes or list_segments(self._folder) != self._segments
            self._being_written = grew or is_being_written(self._folder)
        if len(self._open_intents) >= _MAX_OPEN_INTENTS:
            self._faults.add(8, f"{_MAX_OPEN_INTENTS} calls at once have no outcome; no more were followed")
        elif not self._being_written:
            for event, (segment, line) in self._open_intents.items():
                self._faults.add(8, f"the call that this record announces (event {event:.40}) has no outcome", segment, line)

    def _look_at_latest(self) -> None:
        """The sealer replaces `latest` when the history has grown: in between, and after a crash there, it is one behind."""
        if self._latest is None:
            if self._settled_notes > 1:
                self._faults.add(6, "`latest` is missing")
        elif self._latest_at is None:
            self._faults.add(6, "`latest` is not in the history")
        elif self._latest_at < self._settled_notes - 2:
            self._faults.add(
                6, f"`latest` is checkpoint {self._latest_at} of the history, which goes on to {self._settled_notes - 1}"
            )

    def _is_young(self, now_us: int) -> bool:
        """Whether the sealer had no time yet: no record is old, and it left no trace."""
        if self._oldest is None or any((self._checkpoints / name).exists() for name in ("latest", "frontier")):
            return False
        return timestamp(now_us - _UNSEALED_US) < self._oldest < timestamp(now_us + _UNSEALED_US)

    def _look_at_receipts(self, now_us: int) -> None:
        end = f"ends with record {self._tree.records - 1}" if self._tree.records else "is empty"
        for sequence in self._receipts.unmet():
            missing = f"the log {end}" if sequence >= self._tree.records else "it is missing"
            self._faults.add(10, f"a receipt was given for record {sequence}: {missing}")
        for sequence, time_text in self._receipts.met_from(self._tree.sealed):
            if not timestamp(now_us - _UNSEALED_US) < time_text < timestamp(now_us + _UNSEALED_US):
                self._faults.add(10, f"record {sequence}, which a receipt was given for, is under no checkpoint that agrees")

    def report(self, now_us: int) -> LogReport:
        """The verdicts, once `run` is through."""
        if self._tree.records and not self._notes and not self._is_young(now_us):
            self._faults.add(4, f"no checkpoint was ever signed for its {self._tree.records} records: does the sealer run?")
        if self._mark is not None and self._mark.records and not self._mark_seen:
            mark = f"byte {self._mark.offset} of {segment_name(self._mark.segment)}"
            self._faults.add_here(9, f"the mark says that record {self._mark.records - 1} ends at {mark}, where no line does")
        self._look_at_receipts(now_us)
        self._look_at_missing(now_us)
        checked = self._what_was_checked()
        steps = []
        for number, title in TITLES.items():
            if count := self._faults.count(number):
                steps.append(Step(number, title, Verdict.FAILED, f"{count} fault{'s' if count > 1 else ''}"))
            else:
                is_checked, detail = checked[number]
                steps.append(Step(number, title, Verdict.PASSED if is_checked else Verdict.NOT_CHECKED, detail))
        return LogReport(self._log, tuple(steps), self._faults.listed(), self._tree.records, self._tree.sealed)

    def _look_at_missing(self, now_us: int) -> None:
        """A log whose records are to be cosigned or time-stamped, and that has nothing genuine of the kind."""
        if not self._tree.records or self._is_young(now_us):
            return
        asked = {
            COSIGNED: ("cosigned checkpoint", self._demand is not None and not self._demand.is_empty),
            STAMPED: ("time stamp", self._authorities is not None),
        }
        for step, (what, is_asked) in asked.items():
            if is_asked and not self._tree.compared[step] and not self._faults.count(step):
                self._faults.add(step, f"there is no {what} of its {self._tree.records} records")

    def _what_was_checked(self) -> dict[int, tuple[bool, str]]:
        """For each step that found no fault: whether there was anything to check, and what."""
        some = self._tree.records > 0
        tail = f"; {self._tail_bytes} bytes behind them are torn or being written" if self._tail_bytes else ""
        source = (
            "the key that was given"
            if self._key_given
            else "the key in the data folder, which whoever changes the log can change too"
        )
        behind = (
            "one behind: it is replaced next" if self._latest_at == self._settled_notes - 2 else f"checkpoint {self._latest_at}"
        )
        unsigned = "not yet sealed, all its records are seconds old" if some else "empty"
        in_flight = f"; {len(self._open_intents)} of them under way" if self._open_intents else ""
        torn_note = f"; {self._torn_note_bytes} bytes behind them are torn or being written" if self._torn_note_bytes else ""
        unsealed_receipts = len(self._receipts.met_from(self._tree.sealed))
        unsealed = f"; {unsealed_receipts} of them seconds old, and under no checkpoint yet" if unsealed_receipts else ""
        covered = f"{self._tree.compared[5]} checkpoints; the newest covers {self._tree.sealed} of {self._tree.records} records"
        return {
            1: (True, "listed in keytrail.json, with its lock" if some else "listed in keytrail.json; it is empty"),
            2: (bool(self._segments), f"{len(self._segments)} segments"),
            3: (some, f"{self._lines} records{tail}" if some else f"the log is empty{tail}"),
            4: (
                self._notes > 0,
                f"{self._notes} checkpoints, by {source}{torn_note}"
                if self._notes
                else f"none was signed: the log is {unsigned}",
            ),
            5: (
                self._tree.compared[5] > 0,
                covered if self._tree.compared[5] else "there is no genuine checkpoint to compare with",
            ),
            6: (self._latest is not None, behind if self._latest is not None else "it is not there yet"),
            7: (self._tree.compared[7] > 0, f"{self._tree.compared[7]} saved checkpoints" if self._saved else "none was given"),
            8: (self._intents > 0, f"{self._intents} calls{in_flight}" if self._intents else "there is no such call"),
            9: (
                self._mark_seen,
                "it is no evidence, and agrees" if self._mark_seen else "it is missing, damaged, or of an empty log",
            ),
            10: (
                self._receipts.count > 0,
                f"{self._receipts.count} given{unsealed}" if self._receipts.count else "none was given",
            ),
            11: (self._tree.compared[COSIGNED] > 0, self._cosigned),
            12: (self._tree.compared[STAMPED] > 0, self._stamps),
        }


def _key_in_data_folder(instance: Instance, origin: str) -> VerifierKey | None:
    try:
        keys = verifier_keys(instance)
    except (CheckpointInvalid, OSError):
        return None
    return next((VerifierKey(origin, key.public_key) for key in keys.values()), None)


def _read_if_there(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return None


def _missing(start: int, end: int) -> str:
    return f"record {start} is missing" if end == start + 1 else f"records {start}–{end - 1} are missing"


def _read_place(text: bytes) -> tuple[str | None, int, dict[str, Any], dict[str, Any]]:
    """Log, number, record and extension of a line; no log where it is no record. Any: JSON that nobody has looked at yet."""
    try:
        record = orjson.loads(text)
        extension = record["additionalEventData"]["keytrail"]
        log, sequence = extension["log"], extension["sequence"]
        if isinstance(log, str) and type(sequence) is int and sequence >= 0:
            return log, sequence, record, extension
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    return None, -1, {}, {}


def _notes(path: Path, end: int) -> Iterator[tuple[int, str, bool]]:
    """The notes in the first `end` bytes of a history: where each ends, its text, whether it is whole (the last may not be)."""
    if not end:
        return
    note: list[bytes] = []
    position = start = 0
    is_signed = False
    with path.open("rb") as file:
        while position < end and (line := file.readline(min(end - position, _MAX_NOTE_BYTES))):
            if note and ((is_signed and not line.startswith(_SIGNATURE_PREFIX)) or position - start > _MAX_NOTE_BYTES):
                yield position, b"".join(note).decode("utf-8", "replace"), True
                note, start, is_signed = [], position, False
                if line == b"\n":
                    position += 1
                    continue
            note.append(line)
            position += len(line)
            is_signed = line.startswith(_SIGNATURE_PREFIX) and line.endswith(b"\n")
    if note:
        yield position, b"".join(note).decode("utf-8", "replace"), is_signed
