"""Signed checkpoints: what a log's tree was, under a signature of the sealer's key. Pure.

A checkpoint is a C2SP signed note whose text is a tlog-checkpoint: origin, tree size, root hash, perhaps extension lines; then
an empty line, and a signature line for each signer. Reading is strict: what is not exactly of this form is refused, signatures of
other keys are passed over, as the specification says. Keys are Ed25519 (signature type 0x01), or ECDSA on P-256 with SHA-256
(0x02), for key stores that have no other; the public key itself tells which.

Source: C2SP signed-note and tlog-checkpoint; the `note` package of Go's x/mod/sumdb; for ECDSA that of transparency-dev/formats.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from audit.errors import CheckpointInvalid
from audit.merkle import HASH_BYTES

ED25519_BYTES = 32
_ED25519, _ECDSA = 0x01, 0x02
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


class PublicKey(Protocol):
    """The public part of a `SigningKey`, as bytes: an Ed25519 key's 32, or a P-256 key's SubjectPublicKeyInfo (DER)."""

    def public_bytes_raw(self) -> bytes: ...


class SigningKey(Protocol):
    """What signs: an `Ed25519PrivateKey` is one, and so is a key that only a KMS can use."""

    def sign(self, data: bytes, /) -> bytes: ...

    def public_key(self) -> PublicKey: ...


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key and its name, written `NAME+KEYID+BASE64`. `public_key`: as of `PublicKey`."""

    name: str
    public_key: bytes

    @property
    def algorithm(self) -> int:
        """The signature type of C2SP signed-note."""
        return _ED25519 if len(self.public_key) == ED25519_BYTES else _ECDSA

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, self.algorithm, self.public_key)

    def __str__(self) -> str:
        return write_key(self.name, self.algorithm, self.public_key)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises InvalidSignature unless this key signed `message`."""
        if self.algorithm == _ED25519:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        elif (key := _p256(self.public_key)) is not None:
            key.verify(signature, message, ECDSA(SHA256()))
        else:
            raise InvalidSignature

    @classmethod
    def of(cls, name: str, private_key: SigningKey) -> VerifierKey:
        return cls(name, private_key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a verifier key. Raises `CheckpointInvalid`."""
        name, algorithm, public_key = read_key(text)
        if algorithm not in (_ED25519, _ECDSA):
            raise CheckpointInvalid(f"verifier key {name}: algorithm {algorithm} is not Ed25519, nor ECDSA")
        verifier = cls(name, public_key)
        if verifier.algorithm != algorithm or not is_public_key(public_key):
            raise CheckpointInvalid(f"verifier key {name}: it holds no key of its algorithm")
        return verifier


def key_id(name: str, algorithm: int, public_key: bytes) -> bytes:
    """The four bytes that stand before a signature (signed-note, "Signatures"); those of ECDSA are of the key alone."""
    if algorithm == _ECDSA:
        return sha256(public_key).digest()[:4]
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


def is_public_key(data: bytes) -> bool:
    """Whether `data` is a public key in the form of `PublicKey`."""
    return len(data) == ED25519_BYTES or _p256(data) is not None


def _p256(data: bytes) -> EllipticCurvePublicKey | None:
    """The P-256 key in `data`, which is written in the one form that DER and X9.62 prefer; None where it is none."""
    try:
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        return None
    return key if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == data else None


def sign(checkpoint: Checkpoint, key: SigningKey) -> str:
    """The signed note of `checkpoint`; the signer's name is the origin."""
    return sign_note(checkpoint.text(), checkpoint.origin, key)


def sign_note(text: str, name: str, *keys: SigningKey) -> str:
    """The note of `text`, signed by each of `keys` under `name`."""
    lines = []
    for key in keys:
        signature = VerifierKey.of(name, key).key_id + key.sign(text.encode())
        lines.append(f"{SIGNATURE_PREFIX}{name} {base64.b64encode(signature).decode()}\n")
    return f"{text}\n{''.join(lines)}"


def open_note(note: str, verifier: VerifierKey) -> str:
    """The text of a note that `verifier` signed. Raises `CheckpointInvalid`."""
    text, signatures = parse_note(note)
    for name, signer, signature in signatures:
        if name != verifier.name or signer != verifier.key_id:
            continue
        try:
            verifier.verify(signature, text.encode())
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


def claimed_text(note: str) -> str:
    """The text of a note, with no signature checked. Raises `CheckpointInvalid`."""
    return parse_note(note)[0]


def claimed_checkpoint(note: str) -> Checkpoint:
    """What a note says, with no signature checked. Raises `CheckpointInvalid`."""
    return parse_checkpoint(claimed_text(note))


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
