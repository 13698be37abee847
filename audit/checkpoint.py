"""Signed checkpoints: what a log's tree was, under an Ed25519 signature. Pure.

A checkpoint is a C2SP signed note whose text is a tlog-checkpoint: origin, tree size, root hash, perhaps extension lines; then
an empty line, and a signature line for each signer. Reading is strict: what is not exactly of this form is refused, signatures of
other keys are passed over, as the specification says.

Source: C2SP signed-note and tlog-checkpoint; the `note` package of Go's x/mod/sumdb.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import CheckpointInvalid
from audit.merkle import HASH_BYTES

ED25519_BYTES = 32
_ED25519 = 0x01
SIGNATURE_PREFIX = "\u2014 "  # em dash, as the specification wants it
_MAX_NOTE_CHARS = 1_000_000
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_NAME = re.compile(r"[^\s+]+")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tree of the log `origin` when it had `size` leaves; `root` is 32 bytes."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note's text: what is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key and its name, written `NAME+KEYID+BASE64`."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, _ED25519, self.public_key)

    def __str__(self) -> str:
        return write_key(self.name, _ED25519, self.public_key)

    @classmethod
    def of(cls, name: str, private_key: Ed25519PrivateKey) -> VerifierKey:
        return cls(name, private_key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a verifier key. Raises `CheckpointInvalid`."""
        name, algorithm, public_key = read_key(text)
        if algorithm != _ED25519:
            raise CheckpointInvalid(f"verifier key {name}: algorithm {algorithm} is not Ed25519")
        if len(public_key) != ED25519_BYTES:
            raise CheckpointInvalid(f"verifier key {name}: its key is not {ED25519_BYTES} bytes long")
        return cls(name, public_key)


def key_id(name: str, algorithm: int, public_key: bytes) -> bytes:
    """The four bytes that stand before a signature (signed-note, "Signatures")."""
    return sha256(f"{name}\n".encode() + bytes([algorithm]) + public_key).digest()[:4]


def write_key(name: str, algorithm: int, public_key: bytes) -> str:
    """A public key as text: `NAME+KEYID+BASE64` (signed-note, "Verifier keys")."""
    encoded = base64.b64encode(bytes([algorithm]) + public_key).decode()
    return f"{name}+{key_id(name, algorithm, public_key).hex()}+{encoded}"


def read_key(text: str) -> tuple[str, int, bytes]:
    """Name, algorithm and key of what `write_key` wrote, whatever the algorithm. Raises `CheckpointInvalid`."""
    name, _, rest = text.strip().partition("+")
    told, _, encoded = rest.partition("+")
    key = decode_base64(encoded)
    if not _NAME.fullmatch(name) or key is None or len(key) < 2:
        raise CheckpointInvalid("not a verifier key: it should be NAME+KEYID+BASE64")
    expected = key_id(name, key[0], key[1:]).hex()
    if told != expected:
        raise CheckpointInvalid(f"verifier key {name}: its key id is {expected}, not {told}")
    return name, key[0], key[1:]


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """The signed note of `checkpoint`; the signer's name is the origin."""
    verifier = VerifierKey.of(checkpoint.origin, key)
    text = checkpoint.text()
    signature = base64.b64encode(verifier.key_id + key.sign(text.encode())).decode()
    return f"{text}\n{SIGNATURE_PREFIX}{checkpoint.origin} {signature}\n"


def open_note(note: str, verifier: VerifierKey) -> str:
    """The text of a note that `verifier` signed. Raises `CheckpointInvalid`."""
    text, signatures = parse_note(note)
    for name, signer, signature in signatures:
        if name != verifier.name or signer != verifier.key_id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(verifier.public_key).verify(signature, text.encode())
        except InvalidSignature:
            raise CheckpointInvalid(f"the signature of {name} is not genuine") from None
        return text
    signers = ", ".join(f"{name} (key id {signer.hex()})" for name, signer, _ in signatures)
    raise CheckpointInvalid(f"not signed by {verifier.name} (key id {verifier.key_id.hex()}), but by {signers}")


def sole_signature(note: str, verifier: VerifierKey) -> str:
    """A note that `verifier` signed, without the signatures of others. Raises `CheckpointInvalid`."""
    text, signatures = parse_note(note)
    for name, signer, signature in signatures:
        if name == verifier.name and signer == verifier.key_id:
            return f"{text}\n{SIGNATURE_PREFIX}{name} {base64.b64encode(signer + signature).decode()}\n"
    raise CheckpointInvalid(f"not signed by {verifier.name}")


def open_checkpoint(note: str, verifier: VerifierKey) -> Checkpoint:
    """The checkpoint in a note that `verifier` signed. Raises `CheckpointInvalid`."""
    return parse_checkpoint(open_note(note, verifier))


def claimed_checkpoint(note: str) -> Checkpoint:
    """What a note says, with no signature checked. Raises `CheckpointInvalid`."""
    return parse_checkpoint(parse_note(note)[0])


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text. Raises `CheckpointInvalid`."""
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0]:
        raise CheckpointInvalid("not a checkpoint: it should have an origin, a size and a root hash")
    origin, size, encoded = lines[:3]
    root = decode_base64(encoded)
    if not _SIZE.fullmatch(size):
        raise CheckpointInvalid(f"checkpoint of {origin}: {size[:30]!r} is not a tree size")
    if root is None or len(root) != HASH_BYTES:
        raise CheckpointInvalid(f"checkpoint of {origin}: its root is not {HASH_BYTES} bytes in base64")
    if any(not line for line in lines[3:-1]):
        raise CheckpointInvalid(f"checkpoint of {origin}: it has an empty extension line")
    return Checkpoint(origin, int(size), root)


def split_notes(text: str) -> list[str]:
    """The notes in `text`, one after another with an empty line between them; a torn last one is given as it is."""
    notes: list[str] = []
    current: list[str] = []
    signed = False
    for line in text.splitlines(keepends=True):
        if signed and not line.startswith(SIGNATURE_PREFIX):
            notes.append("".join(current))
            current, signed = [], False
            if line == "\n":
                continue
        current.append(line)
        signed = signed or line.startswith(SIGNATURE_PREFIX)
    if current:
        notes.append("".join(current))
    return notes


def parse_note(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """A note's text and its signatures: name, key id, signature. Nothing is checked. Raises `CheckpointInvalid`."""
    if len(note) > _MAX_NOTE_CHARS:
        raise CheckpointInvalid("the note is too long")
    text, gap, block = note.rpartition("\n\n")
    if not gap or not text or not block.endswith("\n"):
        raise CheckpointInvalid("not a signed note: it should be a text, an empty line, and signature lines")
    signatures = []
    for line in block[:-1].split("\n"):
        name, _, encoded = line.removeprefix(SIGNATURE_PREFIX).partition(" ")
        data = decode_base64(encoded)
        if not line.startswith(SIGNATURE_PREFIX) or not _NAME.fullmatch(name) or data is None or len(data) < 5:
            raise CheckpointInvalid("not a signed note: a signature line is malformed")
        signatures.append((name, data[:4], data[4:]))
    return text + "\n", signatures


def decode_base64(encoded: str) -> bytes | None:
    """Base64, exactly as one would write it; None where it is not."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == encoded else None
