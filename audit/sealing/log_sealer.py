"""Seals one log: what its tree is, in signed checkpoints.

It reads only what the log's mark says is durable, so it never signs for a record that a power cut could take back. A step goes:
hash the new lines → `leaves` (synced) → the levels above them → sign → the sealer's own state (synced) → `history` (synced) →
`latest`. The last note in `history` is what was signed, or the one in the state, where a crash kept it from the history;
everything else is derived from these and from the segments, so a crash between any two leaves nothing that the next start does
not mend. What contradicts the state or the history is refused. `frontier` only saves time at start.
"""

from __future__ import annotations

import contextlib
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import orjson

from audit import durable
from audit.checkpoint import Checkpoint, SigningKey, VerifierKey, sign, split_notes
from audit.errors import CheckpointInvalid, LogIncident
from audit.keychain import KeyChain, LogKeys
from audit.levels import LevelFiles
from audit.merkle import EMPTY_ROOT, HASH_BYTES, Frontier
from audit.sealing.state import SealerState
from audit.segments import list_segments, read_mark, segment_name

_CHUNK_BYTES = 1 << 18
_HISTORY_TAIL_BYTES = 16 << 10
_SIGNATURE_LINE = re.compile(rb"^\xe2\x80\x94 [^\n]+\n", re.MULTILINE)


def last_note(history: BinaryIO) -> tuple[str, int]:
    """The last whole note in a history, "" where there is none, and the byte behind it. Raises `CheckpointInvalid`, OSError."""
    start = max(0, history.seek(0, os.SEEK_END) - _HISTORY_TAIL_BYTES)
    history.seek(start)
    tail = history.read()
    whole = max((match.end() for match in _SIGNATURE_LINE.finditer(tail)), default=0)
    if start and not whole:
        raise CheckpointInvalid(f"{history.name} does not end in signed notes")
    notes = split_notes(tail[:whole].decode("utf-8", "replace"))
    return notes[-1] if notes else "", start + whole


class LogSealer:
    """Seals one log. `seal` is one step; a step that raised may be tried again. For one process and thread at a time.

    `chain` says which keys were before `key`. `state` remembers what was signed last. Raises `LogIncident` where the log, or the
    history, contradicts what was signed, `CheckpointInvalid` where the history is not by these keys, `SigningUnavailable`.
    """

    def __init__(
        self,
        log_folder: Path,
        checkpoint_folder: Path,
        origin: str,
        key: SigningKey,
        *,
        chain: KeyChain | None = None,
        state: SealerState | None = None,
    ) -> None:
        self.log = log_folder.name
        self.folder = log_folder
        self._checkpoints = checkpoint_folder
        self._key = key
        self._origin = origin
        self._keys = LogKeys(VerifierKey.of(origin, key), chain)
        self._levels = LevelFiles(checkpoint_folder)
        self._state = state
        self._note = ""
        self._signed = self._last_signed()
        self._tree = self._restore()
        self._mend_levels()
        self._segment, self._offset = self._locate(self._tree.size)
        if state is not None and (remembered := state.of(self.log)) is not None:
            self._finish(remembered.previous, remembered.note)

    @property
    def signed(self) -> Checkpoint:
        """What was signed last; of the empty tree where nothing was."""
        return self._signed or Checkpoint(self._origin, 0, EMPTY_ROOT)

    @property
    def signed_size(self) -> int:
        """The tree size that was signed last; 0 where nothing was."""
        return self._signed.size if self._signed is not None else 0

    @property
    def segment(self) -> int:
        """The first index of the segment that the last sealed record is in."""
        return self._segment

    def seal(self) -> Checkpoint | None:
        """Sign for everything durable; durable itself when this returns. None where there is nothing new."""
        mark = read_mark(self.folder)
        records = mark.records if mark is not None else self.signed_size
        if mark is None and not self.folder.is_dir():
            raise LogIncident(self.log, f"{self.folder} has vanished")
        if records < self.signed_size:
            self._require_signed(records)
        if records <= self.signed_size:
            return None
        return self._advance(records)

    def _advance(self, records: int, remembered: str = "") -> Checkpoint:
        """Sign for `records`; or have what was `remembered` for them, a note that a crash kept from the history, stand in it."""
        tree, segment, offset = self._tree.copy(), self._segment, self._offset
        if self._levels.count(0) < tree.size:  # somebody took them away
            self._from_segments(tree.size)
        leaves = os.open(self._checkpoints / "leaves", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.lseek(leaves, tree.size * HASH_BYTES, os.SEEK_SET)
            segment, offset = self._hash_new(tree, segment, offset, records, leaves)
            os.ftruncate(leaves, tree.size * HASH_BYTES)
            os.fdatasync(leaves)
        finally:
            os.close(leaves)
        self._levels.extend(tree.size)
        checkpoint = Checkpoint(self._origin, tree.size, tree.root())
        if remembered and self._keys.open(remembered) != checkpoint:
            raise LogIncident(self.log, f"its first {records} records are not those that were signed for")
        note = remembered or sign(checkpoint, self._key)
        if self._state is not None and not remembered:
            self._state.remember(self.log, self._note, note)
        self._append_to_history(note)
        self._signed, self._note = checkpoint, note
        self._tree, self._segment, self._offset = tree, segment, offset
        _replace_derived(self._checkpoints / "latest", note.encode())
        state = {"size": tree.size, "subtrees": [root.hex() for root in tree.subtrees]}
        _replace_derived(self._checkpoints / "frontier", orjson.dumps(state))
        return checkpoint

    def _finish(self, previous: str, note: str) -> None:
        """Hold the history against what is remembered, and put into it what a crash kept from it."""
        remembered = self._keys.open(note)
        if remembered.size < self.signed_size or note == self._note:
            return  # a state that was begun, or put back, later than the history says no more than that
        try:
            if previous != self._note or remembered.size == self.signed_size:
                raise LogIncident(self.log, f"its history ends at {self.signed_size} records")
            self._advance(remembered.size, note)
        except LogIncident as incident:
            told = f"{remembered.size} records were signed for, as the sealer's own state says, but {incident.reason}"
            raise LogIncident(self.log, told) from incident

    def _require_signed(self, marked: int) -> None:
        """The mark need not survive a power cut, so that it may be older than what was signed. Lines may not be missing."""
        segment, offset = self._locate(self.signed_size - 1)
        path = self.folder / segment_name(segment)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(offset)
            if file.readline().endswith(b"\n"):
                return
        raise LogIncident(self.log, f"it has {marked} records by its mark, but {self.signed_size} were signed for")

    def _hash_new(self, tree: Frontier, segment: int, offset: int, records: int, leaves: int) -> tuple[int, int]:
        """Grow `tree` to `records` leaves from the segments, and write the leaf hashes; gives where it got to."""
        while tree.size < records:
            path = next((s.path for s in list_segments(self.folder) if s.first_index == segment), None)
            if path is None:
                raise LogIncident(self.log, f"segment {segment} is gone")
            with path.open("rb") as file:
                file.seek(offset)
                rest = b""
                while tree.size < records and (chunk := file.read(_CHUNK_BYTES)):
                    *lines, rest = (rest + chunk).split(b"\n")
                    lines = lines[: records - tree.size]
                    hashes = [sha256(b"\x00" + line).digest() for line in lines]
                    tree.extend(hashes)
                    offset += sum(map(len, lines)) + len(lines)
                    durable.write_all(leaves, b"".join(hashes))
            if tree.size < records:
                if rest or tree.size <= segment:
                    raise LogIncident(self.log, f"{path.name} ends before record {records - 1}, which its mark says is there")
                segment, offset = tree.size, 0
        return segment, offset

    def _append_to_history(self, note: str) -> None:
        path = self._checkpoints / "history"
        new = not path.exists()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            durable.write_all(fd, (note if new or not os.fstat(fd).st_size else "\n" + note).encode())
            os.fdatasync(fd)
        finally:
            os.close(fd)
        if new:
            durable.sync_folder(self._checkpoints)

    def _last_signed(self) -> Checkpoint | None:
        """The last whole note in `history`. What is torn behind it was never published, and is cut off."""
        path = self._checkpoints / "history"
        if not path.exists():
            self._mend_latest(None, "")
            return None
        with path.open("r+b") as file:
            note, end = last_note(file)
            signed = self._keys.open(note) if note else None
            self._note = note
            self._mend_latest(signed, note)
            if end < file.seek(0, os.SEEK_END):
                file.truncate(end)
                os.fsync(file.fileno())
        return signed

    def _mend_latest(self, signed: Checkpoint | None, note: str) -> None:
        """Make `latest` the last note of the history, which a crash may have kept from it. It is never ahead of the history."""
        path = self._checkpoints / "latest"
        with contextlib.suppress(FileNotFoundError, CheckpointInvalid):  # torn by a power cut: it is not synced
            latest = path.read_bytes().decode("utf-8", "replace")
            if latest == note:
                return
            published = self._keys.open(latest)
            if signed is None or published.size > signed.size:
                raise LogIncident(self.log, f"{published.size} records were signed for, but the history does not say so")
        if signed is not None:
            _replace_derived(path, note.encode())

    def _restore(self) -> Frontier:
        """The tree that was signed last: from `frontier`, or from `leaves`, or from the segments themselves."""
        if self._signed is None:
            return Frontier()
        for source in (self._from_frontier, self._from_leaves, self._from_segments):
            tree = source(self._signed.size)
            if tree is not None and tree.size == self._signed.size and tree.root() == self._signed.root:
                return tree
        raise LogIncident(self.log, f"its first {self._signed.size} records are not those that were signed for")

    def _mend_levels(self) -> None:
        """Have `leaves` and the levels above them be those of the tree that was signed last."""
        if self._signed is None or self._levels.mend(self._signed.size, self._signed.root):
            return
        self._from_segments(self._signed.size)
        if not self._levels.mend(self._signed.size, self._signed.root):
            raise LogIncident(self.log, f"its first {self._signed.size} records are not those that were signed for")

    def _from_frontier(self, size: int) -> Frontier | None:
        with contextlib.suppress(OSError, orjson.JSONDecodeError, KeyError, ValueError, TypeError, AttributeError):
            if (self._checkpoints / "leaves").stat().st_size < size * HASH_BYTES:
                return None
            state = orjson.loads((self._checkpoints / "frontier").read_bytes())
            return Frontier(state["size"], [bytes.fromhex(root) for root in state["subtrees"]])
        return None

    def _from_leaves(self, size: int) -> Frontier | None:
        tree = Frontier()
        with contextlib.suppress(OSError), (self._checkpoints / "leaves").open("rb") as file:
            while chunk := file.read(min(_CHUNK_BYTES, (size - tree.size) * HASH_BYTES)):
                tree.extend(chunk[start : start + HASH_BYTES] for start in range(0, len(chunk) - HASH_BYTES + 1, HASH_BYTES))
        return tree

    def _from_segments(self, size: int) -> Frontier:
        """Makes `leaves` anew too; where the segments are not what was signed, the old one stays, to tell what differs."""
        tree = Frontier()
        temporary = self._checkpoints / "leaves.new"
        leaves = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            self._hash_new(tree, 0, 0, size, leaves)
            os.fsync(leaves)
        finally:
            os.close(leaves)
        if self._signed is not None and tree.root() == self._signed.root:
            temporary.rename(self._checkpoints / "leaves")
        else:
            temporary.unlink()
        return tree

    def _locate(self, size: int) -> tuple[int, int]:
        """The segment and the byte in it at which record `size` begins."""
        before = [segment for segment in list_segments(self.folder) if segment.first_index <= size]
        if not before:
            return 0, 0
        last = before[-1]
        offset = 0
        with last.path.open("rb") as file:
            for _ in range(size - last.first_index):
                offset += len(file.readline())
        return last.first_index, offset


def _replace_derived(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all; not synced, since it can be made again from what is."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(data)
    temporary.rename(path)
