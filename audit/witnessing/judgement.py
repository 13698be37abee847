"""What a witness answers to a checkpoint, by what it knows of the log. Pure: ONE order of checks, that of the specification.

Source: C2SP tlog-witness, "add-checkpoint".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from audit.checkpoint import Checkpoint, VerifierKey, claimed_checkpoint, open_note, parse_checkpoint, parse_note, sole_signature
from audit.errors import AuditError, CheckpointInvalid
from audit.merkle import EMPTY_ROOT, extends
from audit.witnessing.protocol import AddCheckpoint

#: The keys that a witness trusts, by the origin of the log that they are of.
LogKeys = Mapping[str, Sequence[VerifierKey]]


class Code(IntEnum):
    """The specification's status codes for a refusal."""

    MALFORMED = 400  # or an old size beyond the checkpoint's
    NOT_SIGNED = 403
    UNKNOWN_LOG = 404
    CONFLICT = 409  # the old size is not the witness's
    NOT_PROVED = 422  # by version 1.1 of the specification also where the same size has another root, which was 409 in 1.0


class Contradiction(Enum):
    """How a genuinely signed checkpoint can stand against what the log signed before."""

    FORK = "fork"  # two roots for one size: these two notes alone prove that the log lied
    UNPROVED = "unproved"  # the proof that came with it does not hold: the log is inconsistent, or the sender's proof was wrong


class Refused(AuditError):
    """The witness does not cosign. `contradiction`: the request is worth keeping."""

    def __init__(self, code: Code, reason: str, contradiction: Contradiction | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.contradiction = contradiction


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint that a log has signed: the text that it signed, and the note with this signature and no other."""

    checkpoint: Checkpoint
    text: str
    note: str


def nothing_yet(origin: str) -> Checkpoint:
    """What a witness knows of a log that it has never cosigned for: the empty tree."""
    return Checkpoint(origin, 0, EMPTY_ROOT)


def authenticate(note: str, keys: LogKeys) -> Signed:
    """The checkpoint in `note`, signed by a key that is trusted for its origin. Raises `Refused`."""
    try:
        claimed = claimed_checkpoint(note)
    except CheckpointInvalid as error:
        raise Refused(Code.MALFORMED, str(error)) from error
    if claimed.origin not in keys:
        raise Refused(Code.UNKNOWN_LOG, "this log is not witnessed here")
    signers = {(name, signer) for name, signer, _ in parse_note(note)[1]}
    trusted = [key for key in keys[claimed.origin] if (key.name, key.key_id) in signers]
    if not trusted:
        raise Refused(Code.NOT_SIGNED, f"it is not signed by a key that is trusted for {claimed.origin}")
    try:
        texts = [open_note(note, key) for key in trusted]  # each that is there must be genuine
    except CheckpointInvalid as error:
        raise Refused(Code.NOT_SIGNED, str(error)) from error
    return Signed(parse_checkpoint(texts[0]), texts[0], sole_signature(note, trusted[0]))


def judge(request: AddCheckpoint, new: Checkpoint, latest: Checkpoint) -> None:
    """Return where `new` may be cosigned, by a witness that has cosigned `latest`. Raises `Refused`."""
    if request.old_size > new.size:
        raise Refused(Code.MALFORMED, f"the old size {request.old_size} is beyond the checkpoint's, {new.size}")
    fork = Contradiction.FORK if new.size == latest.size and new.root != latest.root else None  # whatever old size came with it
    if request.old_size != latest.size:
        reason = f"the latest tree that was cosigned has {latest.size} records, not {request.old_size}"
        raise Refused(Code.CONFLICT, reason, fork if latest.size else None)
    if new.size == 0 and new.root != EMPTY_ROOT:
        raise Refused(Code.NOT_PROVED, "its root is not that of an empty tree")
    if fork is not None:
        raise Refused(Code.NOT_PROVED, f"another tree of {new.size} records was cosigned", fork)
    is_first = latest.size == 0 and not request.proof  # any tree begins with the empty one
    if not is_first and not extends(latest.size, latest.root, new.size, new.root, request.proof):
        reason = f"it is not proved that these {new.size} records begin with the {latest.size} that were cosigned"
        raise Refused(Code.NOT_PROVED, reason, Contradiction.UNPROVED if 0 < latest.size < new.size else None)
