"""Steps 4, 6, 7, 11 and 12: the signed notes about a log, which are genuine, and what the tree over its lines has to come to.

The history is read first, and the lines after it: what was signed by then has to be there. `latest` follows the history, so it is
read between two looks at how far that goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from pathlib import Path

from audit.checkpoint import Checkpoint, VerifierKey, claimed_checkpoint
from audit.errors import AuditError, CheckpointInvalid
from audit.instance import ADMIN_LOG, Instance
from audit.keychain import LogKeys
from audit.sealing.keys import log_keys, verifier_keys
from audit.verifying.comparison import Comparison, Target
from audit.verifying.faults import Faults
from audit.verifying.notes import read_bounded, read_if_there, read_notes
from audit.verifying.subject import Asked, Subject
from audit.verifying.titles import COSIGNED, HISTORY, LATEST, SAVED, SIGNED, STAMPED


class SignedNotes:
    """What was signed of one log. `count` is how many notes of the history were read, once the targets were walked."""

    def __init__(self, subject: Subject, asked: Asked, faults: Faults, now_us: int) -> None:
        self._subject = subject
        self._asked = asked
        self._faults = faults
        self._started_s = now_us / 1_000_000
        self._keys: LogKeys | None = None
        self._cosigned = "not asked for: no policy was given" if asked.demand is None else "there is none"
        self._stamps = "not asked for: no certificates were given" if asked.authorities is None else "there is none"
        self.count = self._settled_count = self._torn_bytes = 0
        self._settled = 0  # bytes of the history that were there before `latest` was read
        self._latest: str | None = None
        self._latest_at: int | None = None

    def _trusted_keys(self, trusted: VerifierKey | None) -> LogKeys | None:
        """The keys that `trusted` vouches for; it alone where the chain of keys says nothing."""
        if trusted is None:
            return None
        try:
            return log_keys(self._subject.instance, trusted)
        except (CheckpointInvalid, OSError) as error:
            self._faults.add(SIGNED, f"the chain of the sealer's keys: {error}")
            return LogKeys(trusted)

    # --- what the tree has to come to

    def targets(self) -> Iterator[Target]:
        """Every genuine note, in the order of their sizes. What is not genuine becomes a fault as they are walked."""
        checkpoints, witnessed = self._subject.checkpoints, self._subject.witnessed
        has_folder = not self._subject.is_foreign
        newest_cosigned = read_if_there(witnessed / "cosigned") if self._asked.demand is not None and has_folder else None
        self._settled = self._subject.history_bytes()
        self._latest = read_if_there(checkpoints / "latest") if self._settled else None
        end = self._subject.history_bytes()
        # After all of these: whatever key they are by, the chain has it by now.
        self._keys = self._trusted_keys(self._asked.key or _key_in_data_folder(self._subject.instance, self._subject.origin))
        history, cosigned = self._read_history(end), self._read_cosigned(newest_cosigned)
        saved = self._read_saved(), self._acknowledged()
        known = (history, self._fixed_by_keys(), *saved, cosigned, self._read_timestamps())
        return iter(merge(*known, key=lambda target: target.checkpoint.size))

    def leaves(self) -> Path | None:
        """The leaf hashes that the sealer kept, where it has sealed anything; to be asked for behind `targets`."""
        leaves = self._subject.checkpoints / "leaves"
        return leaves if self._settled and leaves.exists() else None

    def _read_history(self, end: int) -> Iterator[Target]:
        if self._keys is None and end:
            self._faults.add(
                SIGNED, "there is no key to check the checkpoints with: sealer.pub cannot be read, and none was given"
            )
        previous, last_end = -1, 0
        for position, note, is_whole in read_notes(self._subject.history, end):
            if not is_whole:
                self._torn_bytes = position - last_end  # torn by a crash, or being written: it was never published
                return
            last_end = position
            name = f"checkpoint {self.count} of the history"
            if note == self._latest:
                self._latest_at = self.count
            self.count += 1
            self._settled_count += position <= self._settled
            if self._keys is None:
                continue
            try:
                checkpoint = self._keys.open(note)
            except CheckpointInvalid as error:
                self._faults.add(SIGNED, f"{name}: {error}")
                continue
            if checkpoint.size <= previous:
                self._faults.add(SIGNED, f"{name}: it is for {checkpoint.size} records, the one before it for {previous}")
                continue
            previous = checkpoint.size
            yield Target(checkpoint, HISTORY, f"{name} ({checkpoint.size} records)")

    def _fixed_by_keys(self) -> Iterator[Target]:
        """What each change of the sealer's key says of this log: it is signed by the key that followed, too."""
        for number, checkpoint in self._keys.fixed() if self._keys is not None else ():
            yield Target(checkpoint, HISTORY, f"change {number} of the sealer's key ({checkpoint.size} records)")

    def _read_saved(self) -> Iterator[Target]:
        targets = []
        for note in self._asked.saved:
            claimed = claimed_checkpoint(note)
            name = f"the saved checkpoint of {claimed.size} records"
            try:
                if self._keys is None:
                    raise CheckpointInvalid("there is no key to check it with")
                targets.append(Target(self._keys.open(note), SAVED, name))
            except CheckpointInvalid as error:
                self._faults.add(SAVED, f"{name}: {error}")
        return iter(sorted(targets, key=lambda target: target.checkpoint.size))

    def _acknowledged(self) -> Iterator[Target]:
        """What each acknowledgement says that was in the log: as good as a saved checkpoint, since its receipt was saved."""
        findings = sorted((one.finding for one in self._asked.acknowledged), key=lambda finding: finding.size)
        for finding in findings:
            checkpoint = Checkpoint(self._subject.origin, finding.size, finding.root)
            yield Target(checkpoint, SAVED, f"the acknowledgement of the finding at record {finding.record}")

    def _read_cosigned(self, note: str | None) -> Iterator[Target]:
        """The newest checkpoint that witnesses cosigned, where it is genuine."""
        demand = self._asked.demand
        if demand is None or note is None:
            return iter(())
        try:
            if self._keys is None:
                raise CheckpointInvalid("there is no key to check it with")
            checkpoint = self._keys.open(note)
            for shortcoming in demand.shortcomings(note, self._started_s):
                self._faults.add(COSIGNED, f"the newest cosigned checkpoint, of {checkpoint.size} records: {shortcoming}")
            self._cosigned = f"{checkpoint.size} records, {demand.told(note, self._started_s)}"
        except CheckpointInvalid as error:
            self._faults.add(COSIGNED, f"the newest cosigned checkpoint: {error}")
            return iter(())
        return iter((Target(checkpoint, COSIGNED, f"the newest cosigned checkpoint ({checkpoint.size} records)"),))

    def _read_timestamps(self) -> Iterator[Target]:
        """The checkpoints that an authority put its time to, where they are genuine."""
        targets, count, authorities = [], 0, self._asked.authorities
        folder = self._subject.witnessed / "timestamps"
        for path in sorted(folder.glob("*.note")) if authorities is not None and not self._subject.is_foreign else ():
            responses = sorted(folder.glob(f"{path.stem}-*.tsr"))
            if not responses:  # a crash left the note alone: nobody has put a time to it
                continue
            data = read_bounded(path)
            try:
                if self._keys is None:
                    raise CheckpointInvalid("there is no key to check it with")
                checkpoint = self._keys.open(data.decode("utf-8", "replace"))
                for response in responses:
                    count += 1
                    stamp = authorities.open(read_bounded(response), data) if authorities is not None else None
                    self._stamps = f"{count}; by the newest, {checkpoint.size} records were there at {stamp}"
            except AuditError as error:
                self._faults.add(STAMPED, f"the time stamp {path.name}: {error}")
                continue
            targets.append(Target(checkpoint, STAMPED, f"the time-stamped checkpoint of {checkpoint.size} records"))
        return iter(sorted(targets, key=lambda target: target.checkpoint.size))

    # --- once the lines were read

    def look_at_latest(self) -> None:
        """The sealer replaces `latest` when the history has grown: in between, and after a crash there, it is one behind."""
        if self._latest is None:
            if self._settled_count > 1:
                self._faults.add(LATEST, "`latest` is missing")
        elif self._latest_at is None:
            self._faults.add(LATEST, "`latest` is not in the history")
        elif self._latest_at < self._settled_count - 2:
            self._faults.add(
                LATEST, f"`latest` is checkpoint {self._latest_at} of the history, which goes on to {self._settled_count - 1}"
            )

    def left_a_trace(self) -> bool:
        """Whether the sealer has been here, whatever became of the history."""
        return any((self._subject.checkpoints / name).exists() for name in ("latest", "frontier"))

    def finish(self, tree: Comparison, *, is_young: bool) -> None:
        """`is_young`: the sealer, and the witnesses, had no time yet."""
        if tree.records and not self.count and not is_young:
            self._faults.add(SIGNED, f"no checkpoint was ever signed for its {tree.records} records: does the sealer run?")
        demand, is_begun = self._asked.demand, self._subject.log == ADMIN_LOG  # in which `init` writes the first record
        asked = {
            # However young its records say that they are: who puts an old log away, begins a new one now and then.
            COSIGNED: ("cosigned checkpoint", demand is not None and not demand.is_empty and (tree.records > 0 or is_begun)),
            STAMPED: ("time stamp", self._asked.authorities is not None and tree.records > 0 and not is_young),
        }
        for step, (what, is_asked) in asked.items():
            if is_asked and not tree.compared[step] and not self._faults.count(step):
                self._faults.add(step, f"there is no {what} of its {tree.records} records")

    def checked(self, tree: Comparison) -> dict[int, tuple[bool, str]]:
        source = "the key in the data folder, which whoever changes the log can change too"
        if self._asked.key is not None:
            source = "the key that was given"
        torn = f"; {self._torn_bytes} bytes behind them are torn or being written" if self._torn_bytes else ""
        unsigned = "not yet sealed, all its records are seconds old" if tree.records else "empty"
        signed = f"{self.count} checkpoints, by {source}{torn}" if self.count else f"none was signed: the log is {unsigned}"
        covered = "there is no genuine checkpoint to compare with"
        if tree.compared[HISTORY]:
            covered = f"{tree.compared[HISTORY]} checkpoints; the newest covers {tree.sealed} of {tree.records} records"
        latest = "it is not there yet"
        if self._latest is not None:
            is_behind = self._latest_at == self._settled_count - 2
            latest = "one behind: it is replaced next" if is_behind else f"checkpoint {self._latest_at}"
        given = ((len(self._asked.saved), "saved checkpoints"), (len(self._asked.acknowledged), "acknowledgements"))
        saved = " and ".join(f"{count} {what}" for count, what in given if count) or "none was given"
        return {
            SIGNED: (self.count > 0, signed),
            HISTORY: (tree.compared[HISTORY] > 0, covered),
            LATEST: (self._latest is not None, latest),
            SAVED: (tree.compared[SAVED] > 0, saved),
            COSIGNED: (tree.compared[COSIGNED] > 0, self._cosigned),
            STAMPED: (tree.compared[STAMPED] > 0, self._stamps),
        }


def _key_in_data_folder(instance: Instance, origin: str) -> VerifierKey | None:
    try:
        keys = verifier_keys(instance)
    except (CheckpointInvalid, OSError):
        return None
    return next((VerifierKey(origin, key.public_key) for key in keys.values()), None)
