"""Cosignatures: a witness's word that a checkpoint extends whatever it saw of the log before, and when it said so. Pure.

A cosignature is a signature line of the checkpoint's note. Its key has a type of its own (0x04), so that no signature of a log
passes for one. It signs the time and the note's text: `cosignature/v1`, `time SECONDS`, then the text.

Source: C2SP tlog-cosignature, of which the Ed25519 type is read and written here, not the one of ML-DSA-44.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.checkpoint import ED25519_BYTES, SIGNATURE_PREFIX, key_id, parse_note, read_key, write_key
from audit.errors import CheckpointInvalid

_COSIGNATURE = 0x04
_TIME_BYTES, _SIGNATURE_BYTES = 8, 64
_LATEST_S = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness's public key and its name, written `NAME+KEYID+BASE64`."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, _COSIGNATURE, self.public_key)

    def __str__(self) -> str:
        return write_key(self.name, _COSIGNATURE, self.public_key)

    @classmethod
    def of(cls, name: str, private_key: Ed25519PrivateKey) -> WitnessKey:
        return cls(name, private_key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> WitnessKey:
        """Read a witness's key. Raises `CheckpointInvalid`."""
        name, algorithm, public_key = read_key(text)
        if algorithm != _COSIGNATURE:
            raise CheckpointInvalid(f"verifier key {name}: algorithm {algorithm} is not that of Ed25519 cosignatures (4)")
        if len(public_key) != ED25519_BYTES:
            raise CheckpointInvalid(f"verifier key {name}: its key is not {ED25519_BYTES} bytes long")
        return cls(name, public_key)


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A genuine one: whose, when (seconds since 1970), and its line in the note, with the newline."""

    key: WitnessKey
    time_s: int
    line: str


def cosign(text: str, name: str, key: Ed25519PrivateKey, time_s: int) -> str:
    """The signature line of the witness `name` on a note's text, made at `time_s`."""
    signature = key.sign(_message(text, time_s))
    data = WitnessKey.of(name, key).key_id + time_s.to_bytes(_TIME_BYTES, "big") + signature
    return _line(name, data)


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
    time_s = int.from_bytes(data[:_TIME_BYTES], "big")
    if len(data) != _TIME_BYTES + _SIGNATURE_BYTES or time_s > _LATEST_S:
        raise CheckpointInvalid(f"the cosignature of {key.name} is not a time and an Ed25519 signature")
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(data[_TIME_BYTES:], _message(text, time_s))
    except InvalidSignature:
        raise CheckpointInvalid(f"the cosignature of {key.name} is not genuine") from None
    return Cosignature(key, time_s, _line(key.name, key.key_id + data))


def _message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _line(name: str, data: bytes) -> str:
    return f"{SIGNATURE_PREFIX}{name} {base64.b64encode(data).decode()}\n"
