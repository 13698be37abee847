"""NextToken of LookupEvents: where the next page begins, self-contained, and signed so that nobody makes one up. Pure.

    base64url(HMAC-SHA256(key, QUESTION 0x00 MARKS) MARKS)        MARKS: JSON, {LOG: [SEGMENT, OFFSET]}

The question is in the signature and not in the token: a token is good for the question, and the account, that it was given out
for. It never ends, for what it points to does not move.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping

import orjson

from audit.query.newest import Mark
from proxy.errors import KmsError

KEY_BYTES = 32
_MAC_BYTES = 32
_LONGEST = 64 << 10


def write_token(key: bytes, question: bytes, marks: Mapping[str, Mark]) -> str:
    """The token for the page of `question` that begins at `marks`."""
    text = orjson.dumps({log: list(mark) for log, mark in sorted(marks.items())})
    return base64.urlsafe_b64encode(_mac(key, question, text) + text).decode()


def read_token(key: bytes, question: bytes, token: str) -> dict[str, Mark]:
    """The marks of a token that was given out for `question`. Raises InvalidNextTokenException for any other."""
    try:
        if len(token) > _LONGEST:
            raise ValueError("too long")
        decoded = base64.b64decode(token, altchars=b"-_", validate=True)
        mac, text = decoded[:_MAC_BYTES], decoded[_MAC_BYTES:]
        if not hmac.compare_digest(mac, _mac(key, question, text)):
            raise ValueError("not signed here, or for another question")
        return {log: Mark(*place) for log, place in orjson.loads(text).items()}
    except (binascii.Error, ValueError):
        message = "The token is not one that was given out for this lookup: its other parameters must stay as they were."
        raise KmsError("InvalidNextTokenException", message) from None


def _mac(key: bytes, question: bytes, text: bytes) -> bytes:
    return hmac.digest(key, question + b"\0" + text, "sha256")
