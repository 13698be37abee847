"""What a witness keeps of a log that contradicts itself: two signed notes, so that others can judge. Values and their form.

Source: C2SP tlog-witness: a refused request "might be proof of log misbehavior".
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hashlib import sha256

import orjson

from audit.checkpoint import VerifierKey, claimed_checkpoint, decode_base64
from audit.errors import AuditError, CheckpointInvalid
from audit.merkle import extends
from audit.witnessing.judgement import Contradiction, Refused, authenticate


class EvidenceInvalid(AuditError):
    """A file is no evidence, or does not show what it says."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A checkpoint that was refused (`submitted`, with `proof`), and what the witness had cosigned before (`cosigned`).

    `keys` are those that the witness trusted for the log; `time` is the witness's clock, ISO 8601.
    """

    kind: Contradiction
    time: str
    keys: tuple[VerifierKey, ...]
    cosigned: str
    submitted: str
    proof: tuple[bytes, ...]

    @property
    def name(self) -> str:
        """Of its file: the same contradiction has the same, so that it is kept once."""
        claimed = claimed_checkpoint(self.submitted)
        return f"{self.group}{claimed.size}-{claimed.root.hex()[:16]}.json"

    @property
    def group(self) -> str:
        """What the names begin with of all evidence of this kind against the same log."""
        origin = sha256(claimed_checkpoint(self.submitted).origin.encode()).hexdigest()[:16]
        return f"{self.kind.value}-{origin}-"

    def check(self) -> str:
        """What it shows, in words; nothing but the keys is believed. Raises `EvidenceInvalid`."""
        keys = {self.keys[0].name: self.keys} if self.keys else {}
        try:
            old, new = authenticate(self.cosigned, keys).checkpoint, authenticate(self.submitted, keys).checkpoint
        except Refused as error:
            raise EvidenceInvalid(f"a note in it is not signed by the log: {error}") from error
        if old.size == new.size and old.root != new.root:
            return f"{old.origin} signed two different trees of {old.size} records: its history was forked"
        if old.size < new.size and not extends(old.size, old.root, new.size, new.root, self.proof):
            return (
                f"{old.origin} signed a tree of {new.size} records, and it was not shown to begin with the {old.size} that it "
                "had signed before: ask the log for a proof; if it has none, its history was rewritten"
            )
        raise EvidenceInvalid("the notes in it do not contradict each other")

    def encode(self) -> bytes:
        document = {
            "kind": self.kind.value,
            "time": self.time,
            "keys": [str(key) for key in self.keys],
            "cosigned": self.cosigned,
            "submitted": self.submitted,
            "proof": [base64.b64encode(one).decode() for one in self.proof],
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def parse(cls, data: bytes) -> Evidence:
        """Read what `encode` wrote. Raises `EvidenceInvalid`."""
        try:
            document = orjson.loads(data)
            keys = tuple(VerifierKey.parse(key) for key in document["keys"])
            proof = [decode_base64(one) for one in document["proof"]]
            notes = [document["cosigned"], document["submitted"]]
            kind, time = Contradiction(document["kind"]), document["time"]
        except (orjson.JSONDecodeError, CheckpointInvalid, KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvidenceInvalid(f"it is no evidence: {error}") from error
        if not all(isinstance(text, str) for text in (time, *notes)) or None in proof:
            raise EvidenceInvalid("it is no evidence: a member is not of its type")
        cosigned, submitted = notes
        return cls(kind, time, keys, cosigned, submitted, tuple(one for one in proof if one is not None))
