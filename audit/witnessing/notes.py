"""A log's checkpoints on their way to witnesses and back: what is to be witnessed, its proof, and where cosignatures are kept.

In `witnessed/LOG/`: `cosignatures`, each note with what a witness gave for it, appended, with an empty line between two;
`cosigned`, the newest note with the quorum. Both are durable when a call returns. One process at a time writes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from audit import durable
from audit.checkpoint import Checkpoint, claimed_checkpoint, open_note, parse_checkpoint, sole_signature, split_notes
from audit.cosignature import WitnessKey, open_cosignatures
from audit.errors import CheckpointInvalid, TreeDamaged
from audit.instance import Instance
from audit.levels import LevelFiles
from audit.merkle import extends
from audit.sealing.keys import log_keys, verifier_keys
from audit.sealing.log_sealer import last_note
from audit.tiles import consistency_proof, root
from audit.witnessing.judgement import Signed

_TAIL_BYTES = 1 << 20


class LogNotes:
    """The notes of the log `log` of `instance`."""

    def __init__(self, instance: Instance, log: str) -> None:
        self.log = log
        self._instance = instance
        self.folder = instance.witnessed_folder(log)
        self._checkpoints = instance.checkpoint_folder(log)
        self._levels = LevelFiles(self._checkpoints)
        self._newest: tuple[str, Signed] | None = None  # as it was read, and what it is

    def newest(self) -> Signed | None:
        """The newest checkpoint, signed by the key that is valid for it; None where none was signed yet. Raises
        `CheckpointInvalid`, OSError."""
        try:
            note = (self._checkpoints / "latest").read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        if self._newest is None or self._newest[0] != note:  # it is looked for every second
            key = log_keys(self._instance, verifier_keys(self._instance)[self.log]).at(claimed_checkpoint(note).size)
            text = open_note(note, key)
            self._newest = note, Signed(parse_checkpoint(text), text, sole_signature(note, key))
        return self._newest[1]

    def prove(self, old_size: int, new: Checkpoint) -> tuple[bytes, ...]:
        """The proof that the tree `new` begins with its first `old_size` records. Raises `TreeDamaged`, OSError.

        It leads to the root of `new`: to a witness, one by damaged hashes would be evidence of a log that was rewritten.
        """
        if not old_size:
            return ()
        proof = consistency_proof(self._levels.read, old_size, new.size)
        if not extends(old_size, root(self._levels.read, old_size), new.size, new.root, proof):
            raise TreeDamaged(
                self._levels.path(0), f"it, or a level above, has another root than was signed for {new.size} records"
            )
        return tuple(proof)

    def cosigned(self) -> str:
        """The newest note with a quorum, "" where there is none. Raises OSError."""
        try:
            return (self.folder / "cosigned").read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def publish(self, note: str) -> None:
        """Have `note` be the newest with a quorum; durable when this returns. Raises OSError."""
        self.make_folder()
        durable.replace(self.folder / "cosigned", note.encode(), 0o640)

    def make_folder(self) -> None:
        """Raises OSError."""
        self._instance.make_witnessed_folder(self.log)

    def keep(self, note: str) -> None:
        """Append `note`, with a cosignature; durable when this returns. Raises `CheckpointInvalid`, OSError."""
        path = self.folder / "cosignatures"
        is_new = not path.exists()
        self.make_folder()
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640), "r+b") as file:
            end = last_note(file)[1]
            file.truncate(end)  # what a crash tore off there was never relied on
            file.seek(end)
            file.write((f"\n{note}" if end else note).encode())
            file.flush()
            os.fdatasync(file.fileno())
        if is_new:
            durable.sync_folder(self.folder)

    def sizes(self, keys: Iterable[WitnessKey]) -> dict[WitnessKey, int]:
        """What each of `keys` cosigned last, as far as the end of `cosignatures` and `cosigned` tell. Raises OSError."""
        wanted = list(keys)
        sizes: dict[WitnessKey, int] = {}
        for note in [*self._kept(), self.cosigned()]:
            try:
                size = claimed_checkpoint(note).size
                for one in open_cosignatures(note, wanted):
                    sizes[one.key] = max(size, sizes.get(one.key, 0))
            except CheckpointInvalid:
                continue  # cut at its beginning, or torn
        return sizes

    def _kept(self) -> list[str]:
        try:
            with (self.folder / "cosignatures").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return split_notes(file.read().decode("utf-8", "replace"))
        except FileNotFoundError:
            return []
