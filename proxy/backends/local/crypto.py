"""Symmetric encryption under a KMS key: bytes in, bytes out, randomness as an argument.

A ciphertext has the shape of AWS's (the labels and the associated data of AWS are private; so the shape, not the
bytes):

    01 02 02 00 78 ‖ material id (32) ‖ 01 ‖ nonce (16) ‖ u32 length ‖ DER
    DER: PKCS #7 EncryptedData (RFC 2315 §13) of id-data, AES-256-GCM with its parameters (RFC 5084 §3.2: nonce 12,
    ICV 16)

- The one-use content key: KBKDF in counter mode, HMAC-SHA256, one block (SP 800-108r1 §4.1), over the nonce.
- Associated data: the first 54 bytes (up to and with the nonce) ‖ the encryption context as a count and length-prefixed
  UTF-8 pairs, sorted by key. So `{a: bc}` and `{ab: c}` differ, and no other order of the same pairs does.
- The DER's frame is fixed for each length. A blob is accepted only if it is byte for byte what `encrypt` would have
  framed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct, pack
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

MATERIAL_BYTES = 32
MATERIAL_ID_BYTES = 32
NONCE_BYTES = 16
IV_BYTES = 12
TAG_BYTES = 16
#: Random bytes that one encryption takes: the nonce, then the IV.
SALT_BYTES = NONCE_BYTES + IV_BYTES
MOST_BLOB_BYTES = 6144

_HEADER = bytes.fromhex("0102020078")
_MARK = b"\x01"
_ID_AT = len(_HEADER)
_MARK_AT = _ID_AT + MATERIAL_ID_BYTES
_NONCE_AT = _MARK_AT + 1
_BOUND_BYTES = _NONCE_AT + NONCE_BYTES  # what of the blob is authenticated as associated data
_LEAST_FRAME_BYTES, _MOST_FRAME_BYTES = (48, 96)  # brackets of what the framing adds to the content and the IV

_KDF_HEAD = pack(">I", 1) + b"keytrail/data-key/1" + b"\0"
_KDF_TAIL = pack(">I", 256)

_ENCRYPTED_DATA = bytes.fromhex("06092a864886f70d010706")
_DATA = bytes.fromhex("06092a864886f70d010701")
_AES256_GCM = bytes.fromhex("060960864801650304012e")
_GCM_PARAMETERS_HEAD = bytes.fromhex("3011040c")  # SEQUENCE { OCTET STRING (12) …
_GCM_PARAMETERS_TAIL = bytes.fromhex("020110")  # … INTEGER 16 }

_LENGTH = Struct(">I")
_EMPTY_CONTEXT = _LENGTH.pack(0)


class Material:
    """A backing key: `id` (32 bytes) finds it from a blob; from its secret content keys are derived."""

    __slots__ = ("_mac", "_secret", "head", "id")

    def __init__(self, material_id: bytes, secret: bytes) -> None:
        if len(material_id) != MATERIAL_ID_BYTES or len(secret) != MATERIAL_BYTES:
            raise ValueError("a material id or a key material of the wrong length")
        self.id = material_id
        self.head = _HEADER + material_id + _MARK
        self._secret = secret
        self._mac: HMAC | None = None  # made at the first use: most of a large store's keys rest

    def content_key(self, nonce: bytes) -> bytes:
        """The one-use key for `nonce`."""
        if self._mac is None:
            self._mac = HMAC(self._secret, SHA256())
        mac = self._mac.copy()
        mac.update(_KDF_HEAD + nonce + _KDF_TAIL)
        return mac.finalize()


def encode_context(context: Mapping[str, str] | None) -> bytes:
    """An encryption context in its one canonical form; an absent and an empty context are the same."""
    if not context:
        return _EMPTY_CONTEXT
    length = _LENGTH.pack
    parts = [length(len(context))]
    for key, value in sorted(context.items()):
        key_bytes, value_bytes = key.encode(), value.encode()
        parts += (length(len(key_bytes)), key_bytes, length(len(value_bytes)), value_bytes)
    return b"".join(parts)


def encrypt(material: Material, plaintext: bytes, context: bytes, salt: bytes) -> bytes:
    """Encrypt under `material`. `context` comes from `encode_context`; `salt` is SALT_BYTES of fresh randomness."""
    nonce, iv = salt[:NONCE_BYTES], salt[NONCE_BYTES:]
    if len(iv) != IV_BYTES:
        raise ValueError(f"the salt must be {SALT_BYTES} bytes long")
    bound = material.head + nonce
    content = AESGCM(material.content_key(nonce)).encrypt(iv, plaintext, bound + context)
    before_iv, after_iv = _frame(len(content))
    return b"".join((bound, before_iv, iv, after_iv, content))


class Ciphertext(NamedTuple):
    """A blob of the right form, taken apart. `bound` is its part that is authenticated as associated data."""

    material_id: bytes
    bound: bytes
    nonce: bytes
    iv: bytes
    content: bytes


def parse(blob: bytes) -> Ciphertext | None:
    """Take a blob apart, or None where it is not a ciphertext of this format, byte for byte."""
    frame = _frame_of_blob(len(blob))
    if frame is None or blob[:_ID_AT] != _HEADER or blob[_MARK_AT:_NONCE_AT] != _MARK:
        return None
    before_iv, after_iv = frame
    iv_at = _BOUND_BYTES + len(before_iv)
    content_at = iv_at + IV_BYTES + len(after_iv)
    if blob[_BOUND_BYTES:iv_at] != before_iv or blob[iv_at + IV_BYTES : content_at] != after_iv:
        return None
    bound = blob[:_BOUND_BYTES]
    return Ciphertext(bound[_ID_AT:_MARK_AT], bound, bound[_NONCE_AT:], blob[iv_at : iv_at + IV_BYTES], blob[content_at:])


def decrypt(material: Material, ciphertext: Ciphertext, context: bytes) -> bytes | None:
    """The plaintext, or None where ciphertext, context and material do not belong together or a bit was changed."""
    cipher = AESGCM(material.content_key(ciphertext.nonce))
    try:
        return cipher.decrypt(ciphertext.iv, ciphertext.content, ciphertext.bound + context)
    except InvalidTag:
        return None


def _length(size: int) -> bytes:
    """A DER length (X.690 §8.1.3, the shortest form)."""
    if size < 0x80:
        return bytes((size,))
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(octets),)) + octets


@lru_cache(maxsize=MOST_BLOB_BYTES)
def _frame(content_bytes: int) -> tuple[bytes, bytes]:
    """What stands before and after the IV in a blob with that much content (ciphertext and tag)."""
    after_iv = _GCM_PARAMETERS_TAIL + b"\x80" + _length(content_bytes)
    algorithm_bytes = len(_AES256_GCM) + len(_GCM_PARAMETERS_HEAD) + IV_BYTES + len(_GCM_PARAMETERS_TAIL)
    before_iv = _DATA + b"\x30" + _length(algorithm_bytes) + _AES256_GCM + _GCM_PARAMETERS_HEAD
    size = len(before_iv) + IV_BYTES + len(after_iv) + content_bytes
    for prefix in (b"\x02\x01\x00\x30", b"\x30", _ENCRYPTED_DATA + b"\xa0", b"\x30"):
        before_iv = prefix + _length(size) + before_iv
        size += len(prefix) + len(_length(size))
    return pack(">I", size) + before_iv, after_iv


@lru_cache(maxsize=MOST_BLOB_BYTES)
def _frame_of_blob(blob_bytes: int) -> tuple[bytes, bytes] | None:
    """The frame that makes a blob of that length, or None where none does, or the blob is too long."""
    if blob_bytes > MOST_BLOB_BYTES:
        return None
    most = blob_bytes - _BOUND_BYTES - IV_BYTES
    for content_bytes in range(max(TAG_BYTES, most - _MOST_FRAME_BYTES), most - _LEAST_FRAME_BYTES + 1):
        frame = _frame(content_bytes)
        if len(frame[0]) + len(frame[1]) + content_bytes == most:
            return frame
    return None
