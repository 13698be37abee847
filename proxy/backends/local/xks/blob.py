"""The ciphertext of a key in an external key store: encrypted here first, and then by the external key manager. Pure.

    01 02 02 00 78 ‖ material id (32) ‖ 02 ‖ u8 length of the IV ‖ u8 length of the metadata ‖ IV ‖ metadata ‖ tag (16) ‖ content

It begins as every ciphertext does (`crypto`), so that it tells its key; the mark 02 in place of 01 says that the rest is the
external key manager's. The content is, encrypted once more, a whole ciphertext of `crypto` under the key's own material. What the
external key manager authenticates with it is a hash of the beginning and the encryption context: it does not see the context.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from proxy.backends.local.crypto import MATERIAL_ID_BYTES, MOST_BLOB_BYTES

IV_BYTES = (12, 16)
TAG_BYTES = 16
MAX_METADATA_BYTES = 20
_HEADER = bytes.fromhex("0102020078")
_MARK = b"\x02"
_MARK_AT = len(_HEADER) + MATERIAL_ID_BYTES
_LENGTHS_AT = _MARK_AT + 1
_IV_AT = _LENGTHS_AT + 2
_PURPOSE = b"keytrail/xks/1\0"


class Outer(NamedTuple):
    """What the external key manager made of a ciphertext of ours."""

    iv: bytes
    metadata: bytes
    tag: bytes
    ciphertext: bytes


class ExternalCiphertext(NamedTuple):
    """A blob of the right form, taken apart."""

    material_id: bytes
    outer: Outer


def associated_data(material_id: bytes, context: bytes) -> bytes:
    """What the external key manager authenticates; `context` is from `crypto.encode_context`."""
    return sha256(_PURPOSE + material_id + context).digest()


def join(material_id: bytes, outer: Outer) -> bytes:
    lengths = bytes((len(outer.iv), len(outer.metadata)))
    return b"".join((_HEADER, material_id, _MARK, lengths, outer.iv, outer.metadata, outer.tag, outer.ciphertext))


def parse_external(blob: bytes) -> ExternalCiphertext | None:
    """Take a blob apart, or None where it is none of this form."""
    if not _IV_AT < len(blob) <= MOST_BLOB_BYTES or blob[: len(_HEADER)] != _HEADER or blob[_MARK_AT:_LENGTHS_AT] != _MARK:
        return None
    iv_bytes, metadata_bytes = blob[_LENGTHS_AT:_IV_AT]
    metadata_at = _IV_AT + iv_bytes
    tag_at = metadata_at + metadata_bytes
    content_at = tag_at + TAG_BYTES
    if iv_bytes not in IV_BYTES or metadata_bytes > MAX_METADATA_BYTES or content_at >= len(blob):
        return None
    outer = Outer(blob[_IV_AT:metadata_at], blob[metadata_at:tag_at], blob[tag_at:content_at], blob[content_at:])
    return ExternalCiphertext(blob[len(_HEADER) : _MARK_AT], outer)
