"""A proof file: one record's place in a log's tree, under a signed checkpoint. Pure.

C2SP tlog-proof v1: a first line, the leaf's index, its audit path, an empty line, the checkpoint as it was signed. The record is
not in it; it stands in a file of its own beside it. Reading is strict.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from audit.checkpoint import Checkpoint, VerifierKey, claimed_checkpoint, open_checkpoint
from audit.errors import CheckpointInvalid, ProofInvalid
from audit.merkle import HASH_BYTES, includes, leaf_hash

HEADER = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,17})", re.ASCII)
_MOST_HASHES = 63


@dataclass(frozen=True, slots=True)
class TlogProof:
    """That a record is leaf `index` of the tree that the note `checkpoint` is about; `path` is its audit path, lowest first."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: str

    def text(self) -> str:
        """The file."""
        hashes = [base64.b64encode(one).decode() for one in self.path]
        return "\n".join([HEADER, f"index {self.index}", *hashes, "", self.checkpoint])

    @classmethod
    def parse(cls, text: str) -> TlogProof:
        """Read a proof file; what it says is not checked yet. Raises `ProofInvalid`."""
        head, gap, checkpoint = text.partition("\n\n")
        header, *lines = head.split("\n")
        if header != HEADER or not gap:
            raise ProofInvalid(f"not a proof: it should begin with {HEADER}, and have an empty line before its checkpoint")
        if lines and lines[0].startswith("extra "):
            del lines[0]  # of no meaning here, and authenticated by nothing
        index = _INDEX.fullmatch(lines[0]) if lines else None
        if index is None:
            raise ProofInvalid("the proof has no line that says which leaf it is for: `index NUMBER`")
        if len(lines) - 1 > _MOST_HASHES:
            raise ProofInvalid(f"the proof has {len(lines) - 1} hashes, more than any tree is high")
        return cls(int(index[1]), tuple(_hash(line) for line in lines[1:]), checkpoint)

    @property
    def claimed(self) -> Checkpoint:
        """What its checkpoint says, no signature checked. Raises `CheckpointInvalid`."""
        return claimed_checkpoint(self.checkpoint)

    def leads_from(self, line: bytes, checkpoint: Checkpoint) -> bool:
        """Whether it leads from the record `line` (without its newline) to the root of `checkpoint`."""
        return includes(leaf_hash(line), self.index, checkpoint.size, self.path, checkpoint.root)

    def check(self, line: bytes, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, VerifierKey]:
        """The checkpoint that it shows the record `line` to be under, and which of `keys`, all of them trusted, signed it.

        Raises `CheckpointInvalid` where none of them did, `ProofInvalid` where it is of another record.
        """
        checkpoint, key = _open_by_any(self.checkpoint, keys)
        if not self.leads_from(line, checkpoint):
            raise ProofInvalid(
                f"the record is not number {self.index} of the {checkpoint.size} that {checkpoint.origin} was signed for: it was"
                " changed, or the proof is of another record"
            )
        return checkpoint, key


def _open_by_any(note: str, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, VerifierKey]:
    """By the key of the log that the note is about: another log's is not asked."""
    origin = claimed_checkpoint(note).origin
    own = [key for key in keys if key.name == origin]
    if not own:
        raise CheckpointInvalid(f"no key was given for {origin}")
    for key in own[:-1]:
        with suppress(CheckpointInvalid):
            return open_checkpoint(note, key), key
    return open_checkpoint(note, own[-1]), own[-1]


def _hash(line: str) -> bytes:
    try:
        found = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != HASH_BYTES or base64.b64encode(found).decode() != line:
        raise ProofInvalid(f"the proof has a line that is no hash of {HASH_BYTES} bytes in base64")
    return found
