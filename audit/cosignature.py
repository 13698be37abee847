"""Cosignatures: a witness's word that a checkpoint extends whatever it saw of the log before, and when it said so. Pure.

A cosignature is a signature line of the checkpoint's note. Its key has a type of its own, so that no signature of a log passes
for one. Type 0x04 is Ed25519, and signs the time and the note's text. Type 0x06 is ML-DSA-44, which no quantum computer is known
to break, and signs the witness's name, the time, and the checkpoint's origin, size and root, but no extension lines.

Source: C2SP tlog-cosignature.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from audit.checkpoint import SIGNATURE_PREFIX, key_id, parse_checkpoint, parse_note, read_key, write_key
from audit.errors import CheckpointInvalid

_ED25519, _ML_DSA_44 = 0x04, 0x06
_KEY_BYTES = {_ED25519: 32, _ML_DSA_44: 1312}
_SIGNATURE_BYTES = {_ED25519: 64, _ML_DSA_44: 2420}
_TIME_BYTES = 8
_LONGEST_NAME_BYTES = 255  # that an ML-DSA-44 cosignature can speak of
_LATEST_S = (1 << 63) - 1

WitnessPrivateKey = Ed25519PrivateKey | MLDSA44PrivateKey


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness's public key and its name, written `NAME+KEYID+BASE64`."""

    name: str
    public_key: bytes
    algorithm: int = _ED25519

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, self.algorithm, self.public_key)

    def __str__(self) -> str:
        return write_key(self.name, self.algorithm, self.public_key)

    @classmethod
    def of(cls, name: str, private_key: WitnessPrivateKey) -> WitnessKey:
        algorithm = _ED25519 if isinstance(private_key, Ed25519PrivateKey) else _ML_DSA_44
        return cls(name, private_key.public_key().public_bytes_raw(), algorithm)

    @classmethod
    def parse(cls, text: str) -> WitnessKey:
        """Read a witness's key. Raises `CheckpointInvalid`."""
        name, algorithm, public_key = read_key(text)
        if algorithm not in _KEY_BYTES:
            raise CheckpointInvalid(f"verifier key {name}: algorithm {algorithm} is not one of cosignatures (4, 6)")
        if len(public_key) != _KEY_BYTES[algorithm]:
            raise CheckpointInvalid(f"verifier key {name}: its key is not {_KEY_BYTES[algorithm]} bytes long")
        if len(name.encode()) > _LONGEST_NAME_BYTES:
            raise CheckpointInvalid(f"verifier key {name[:60]}…: its name is too long")
        return cls(name, public_key, algorithm)


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A genuine one: whose, when (seconds since 1970), and its line in the note, with the newline."""

    key: WitnessKey
    time_s: int
    line: str


def cosign(text: str, name: str, key: WitnessPrivateKey, time_s: int) -> str:
    """The signature line of the witness `name` on a note's text, made at `time_s`. Raises `CheckpointInvalid`."""
    witness = WitnessKey.of(name, key)
    signature = key.sign(_message(text, witness, time_s))
    return _line(name, witness.key_id + time_s.to_bytes(_TIME_BYTES, "big") + signature)


def open_cosignatures(note: str, keys: Iterable[WitnessKey]) -> list[Cosignature]:
    """The cosignatures on `note` by `keys`, of each key its newest, in the order of `keys`. Those by others are passed over.

    Raises `CheckpointInvalid` where the note is none, or one that claims to be by one of `keys` is not.
    """
    text, signatures = parse_note(note)
    by_signer = {(key.name, key.key_id): key for key in keys}
    newest: dict[WitnessKey, Cosignature] = {}
    for name, signer, data in signatures:
        key = by_signer.get((name, signer))
        if key is None:
            continue
        cosignature = _open(text, key, data)
        if key not in newest or newest[key].time_s < cosignature.time_s:
            newest[key] = cosignature
    return [newest[key] for key in by_signer.values() if key in newest]


def _open(text: str, key: WitnessKey, data: bytes) -> Cosignature:
    time_s, signature = int.from_bytes(data[:_TIME_BYTES], "big"), data[_TIME_BYTES:]
    if len(signature) != _SIGNATURE_BYTES[key.algorithm] or time_s > _LATEST_S:
        raise CheckpointInvalid(f"the cosignature of {key.name} is not a time and a signature of its kind")
    kind = Ed25519PublicKey if key.algorithm == _ED25519 else MLDSA44PublicKey
    try:
        kind.from_public_bytes(key.public_key).verify(signature, _message(text, key, time_s))
    except InvalidSignature:
        raise CheckpointInvalid(f"the cosignature of {key.name} is not genuine") from None
    return Cosignature(key, time_s, _line(key.name, key.key_id + data))


def _message(text: str, key: WitnessKey, time_s: int) -> bytes:
    """What is signed. Raises `CheckpointInvalid`."""
    if key.algorithm == _ED25519:
        return f"cosignature/v1\ntime {time_s}\n{text}".encode()
    checkpoint = parse_checkpoint(text)
    start, end = 0, checkpoint.size  # of the part of the tree that is vouched for: all of it
    numbers = [number.to_bytes(8, "big") for number in (time_s, start, end)]
    name, origin = _with_length(key.name), _with_length(checkpoint.origin)
    return b"".join([b"subtree/v1\n\0", name, numbers[0], origin, *numbers[1:], checkpoint.root])


def _with_length(text: str) -> bytes:
    data = text.encode()
    if not 0 < len(data) <= _LONGEST_NAME_BYTES:
        raise CheckpointInvalid(f"{text[:60]}… is too long a name for an ML-DSA-44 cosignature")
    return bytes([len(data)]) + data


def _line(name: str, data: bytes) -> str:
    return f"{SIGNATURE_PREFIX}{name} {base64.b64encode(data).decode()}\n"
