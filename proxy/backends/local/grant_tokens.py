"""Grant tokens: bytes that only this KMS can have made, and that name a grant. Pure.

A token is, in base64 (URL-safe): a version byte ‖ the grant's id (32 bytes) ‖ a nonce (16) ‖ HMAC-SHA-256 of all that, under a
key of the grant's own, which stands sealed in its row. So there can be any number of tokens of a grant, each unlike the others
and none of them stored; nobody makes one without the master key; and all are void when the grant is gone.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

TOKEN_KEY_BYTES = 32
NONCE_BYTES = 16
GRANT_ID_BYTES = 32

_VERSION = b"\x01"
_HEAD_BYTES = len(_VERSION) + GRANT_ID_BYTES + NONCE_BYTES
_TOKEN_BYTES = _HEAD_BYTES + 32


def make_token(grant_id: str, token_key: bytes, nonce: bytes) -> str:
    head = _VERSION + bytes.fromhex(grant_id) + nonce
    return urlsafe_b64encode(head + hmac.digest(token_key, head, "sha256")).decode()


def read_grant_id(token: str) -> str | None:
    """The id of the grant that a token names, whether or not it is genuine; None where it has not the form of one."""
    raw = _read(token)
    return None if raw is None else raw[1 : 1 + GRANT_ID_BYTES].hex()


def is_token_of(token: str, grant_id: str, token_key: bytes) -> bool:
    """Whether this is a genuine token of the grant."""
    raw = _read(token)
    if raw is None or raw[1 : 1 + GRANT_ID_BYTES].hex() != grant_id:
        return False
    return hmac.compare_digest(raw[_HEAD_BYTES:], hmac.digest(token_key, raw[:_HEAD_BYTES], "sha256"))


def _read(token: str) -> bytes | None:
    try:
        raw = urlsafe_b64decode(token)
    except ValueError:
        return None
    is_one = len(raw) == _TOKEN_BYTES and raw[:1] == _VERSION
    return raw if is_one and urlsafe_b64encode(raw).decode() == token else None
