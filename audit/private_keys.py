"""The keys that private values of encryption contexts are under: what `privacy.key` is good for, and a subject's key. Pure.

The forms that values take by them: `audit.privacy`. Apart from it, since most who read records need no cipher.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from audit.privacy import ENCRYPTED, HMAC_PREFIX

KEY_BYTES = 32
NONCE_BYTES = 12
_BLOCK_BYTES = 64  # of SHA-256


class PrivacyKey:
    """What `privacy.key` is good for: digests of values, and the seal of subjects' keys. Each has a key of its own, derived."""

    __slots__ = ("_inner", "_outer", "_seal")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a privacy key has {KEY_BYTES} bytes")
        key = _derived(secret, b"keytrail/privacy/hmac").ljust(_BLOCK_BYTES, b"\0")
        # RFC 2104 with the key's two blocks hashed beforehand: half the price of hmac.digest, on the way of every call
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))
        self._seal = AESGCM(_derived(secret, b"keytrail/privacy/seal"))

    def digest(self, name: str, value: str) -> str:
        """`value` of the context key `name` in the form hmac."""
        told = name.lower().encode("utf-8", "surrogatepass")
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(len(told).to_bytes(4, "big") + told + value.encode("utf-8", "surrogatepass"))
        outer.update(inner.digest())
        return HMAC_PREFIX + outer.hexdigest()

    def seal(self, plaintext: bytes, about: str, nonce: bytes) -> bytes:
        """`plaintext` sealed, bound to `about`; `nonce` is 12 bytes, never the same twice."""
        return nonce + self._seal.encrypt(nonce, plaintext, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes | None:
        """What was sealed so; None where it was not, or by another key."""
        try:
            return self._seal.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """A subject's key, 32 bytes; `id`: 16 hex digits, which say in a record which key it is."""

    id: str
    cipher: AESGCM = field(repr=False, compare=False)

    @classmethod
    def of(cls, id: str, secret: bytes) -> SubjectKey:
        return cls(id, AESGCM(secret))

    def encrypted(self, name: str, value: str, nonce: bytes) -> str:
        """`value` of the context key `name` in the form encrypted; `nonce` is 12 random bytes."""
        blob = nonce + self.cipher.encrypt(nonce, value.encode("utf-8", "surrogatepass"), name.encode("utf-8", "surrogatepass"))
        return f"aes-256-gcm:{self.id}:{base64.b64encode(blob).decode()}"

    def decrypted(self, name: str, stored: str) -> str | None:
        """The value in `stored`; None where this key did not make it for that name."""
        parts = ENCRYPTED.fullmatch(stored)
        if parts is None:
            return None
        try:
            blob = base64.b64decode(parts[2], validate=True)
            told = self.cipher.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], name.encode("utf-8", "surrogatepass"))
            return told.decode("utf-8", "surrogatepass")
        except (binascii.Error, InvalidTag, ValueError):
            return None


def _derived(secret: bytes, what: bytes) -> bytes:
    return HKDFExpand(SHA256(), KEY_BYTES, what).derive(secret)
