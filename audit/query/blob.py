"""The fingerprint that somebody asks about by a text: its digits, or a CiphertextBlob in base64. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from audit.errors import QueryError

ACCEPTED = (
    "an artefact (file, folder, s3://…, - for standard input), a CiphertextBlob in base64, or a fingerprint (64 hex digits)"
)

_FINGERPRINT = re.compile(rb"[0-9a-fA-F]{64}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]{4,}={0,2}")


def fingerprint_of_text(text: str) -> str:
    """The fingerprint that the argument `text` means. Raises `QueryError`."""
    found = _from_text(text.encode())
    if found is None:
        raise QueryError(f"no file of that name, and neither a fingerprint nor base64: {text[:80]!r}; accepted: {ACCEPTED}")
    return found


def fingerprint_in(content: bytes) -> str | None:
    """The fingerprint that stands in `content` as text, and nothing else does; None where it is none."""
    stripped = content.strip()
    return stripped.decode().lower() if _FINGERPRINT.fullmatch(stripped) else None


def _from_text(text: bytes) -> str | None:
    if (found := fingerprint_in(text)) is not None:
        return found
    stripped = text.strip()
    if not _BASE64.fullmatch(stripped):
        return None
    try:
        return hashlib.sha256(base64.b64decode(b"".join(stripped.split()), validate=True)).hexdigest()
    except binascii.Error:
        return None
