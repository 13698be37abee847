"""The fingerprint that somebody asks about: from the hex itself, or from a CiphertextBlob in base64 or raw. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from audit.errors import QueryError

#: KMS returns at most 6,144 bytes for symmetric keys; a blob is refused beyond ten times that, it would be the data,
#: not its key.
MAX_BLOB_BYTES = 65_536
ACCEPTED = (
    "64 hex digits (a fingerprint), a CiphertextBlob in base64, a file with the blob (raw or base64), or - for standard input"
)

_FINGERPRINT = re.compile(rb"[0-9a-fA-F]{64}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]{4,}={0,2}")


def fingerprint_of_text(text: str) -> str:
    """The fingerprint that the argument `text` means. Raises `QueryError`."""
    found = _from_text(text.encode())
    if found is None:
        raise QueryError(f"no file of that name, and neither a fingerprint nor base64: {text[:80]!r}; accepted: {ACCEPTED}")
    return found


def fingerprint_of_content(content: bytes) -> str:
    """The fingerprint of what a file holds: its text, where that is one or is base64; else of the bytes as they are.

    Raises `QueryError` where it is empty, or larger than any blob.
    """
    if not content.strip():
        raise QueryError("there is nothing in it: expected a CiphertextBlob")
    if len(content) > MAX_BLOB_BYTES * 4 // 3 + 1_024:
        raise QueryError(
            f"{len(content)} bytes: larger than any CiphertextBlob; give the blob alone, not the data that it protects"
        )
    return _from_text(content) or hashlib.sha256(content).hexdigest()


def _from_text(text: bytes) -> str | None:
    stripped = text.strip()
    if _FINGERPRINT.fullmatch(stripped):
        return stripped.decode().lower()
    if not _BASE64.fullmatch(stripped):
        return None
    try:
        return hashlib.sha256(base64.b64decode(b"".join(stripped.split()), validate=True)).hexdigest()
    except binascii.Error:
        return None
