"""The body of `add-checkpoint`: an old size, a consistency proof, and a checkpoint. Pure; read strictly, and bounded.

Source: C2SP tlog-witness.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from audit.checkpoint import decode_base64
from audit.errors import AuditError
from audit.merkle import HASH_BYTES

#: The specification allows a note 16 signatures, of up to 5 kB where they are post-quantum.
MAX_BODY_BYTES = 128 << 10
MAX_PROOF_LINES = 63
SIZE_TYPE = "text/x.tlog.size"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class Malformed(AuditError):
    """A body is not of the form that the specification gives it."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request: `note`, and the proof that its tree begins with that of the first `old_size` records."""

    old_size: int
    proof: tuple[bytes, ...]
    note: str

    def encode(self) -> bytes:
        lines = [f"old {self.old_size}", *(base64.b64encode(one).decode() for one in self.proof)]
        return ("\n".join(lines) + "\n\n" + self.note).encode()

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """Read a request. The note is not looked into. Raises `Malformed`."""
        if len(body) > MAX_BODY_BYTES:
            raise Malformed(f"the request is longer than {MAX_BODY_BYTES} bytes")
        try:
            head, gap, note = body.decode().partition("\n\n")
        except UnicodeDecodeError as error:
            raise Malformed("the request is not UTF-8") from error
        if not gap or _CONTROL.search(note):
            raise Malformed("the request should be an old size, proof lines, an empty line, and a checkpoint")
        first, *lines = head.split("\n")
        old = _OLD.fullmatch(first)
        if old is None:
            raise Malformed("the first line should be `old` and a size")
        if len(lines) > MAX_PROOF_LINES:
            raise Malformed(f"there are more than {MAX_PROOF_LINES} proof lines")
        proof = [decode_base64(line) for line in lines]
        if not all(one is not None and len(one) == HASH_BYTES for one in proof):
            raise Malformed(f"a proof line is not {HASH_BYTES} bytes in base64")
        return cls(int(old[1]), tuple(one for one in proof if one is not None), note)


def encode_size(size: int) -> bytes:
    """The body that says what a witness's size is."""
    return f"{size}\n".encode()


def parse_size(body: bytes) -> int:
    """What `encode_size` wrote. Raises `Malformed`."""
    size = _SIZE.fullmatch(body)
    if size is None:
        raise Malformed("it does not tell the size of its checkpoint")
    return int(size[1])
