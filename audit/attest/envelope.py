"""The signature around a statement: DSSE, the Dead Simple Signing Envelope. Pure.

What is signed is the payload's type and the payload, each with its length before it (PAE). It begins with ``DSSEv1``, and a
checkpoint's text with ``keytrail/``: no signature of the one can be taken for one of the other, though the key is the same.

Source: DSSE protocol and envelope, version 1.0.2.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature

from audit.checkpoint import VerifierKey
from audit.errors import AuditError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES = 64 << 20
_MAX_SIGNATURES = 16


class AttestationInvalid(AuditError):
    """A document is no attestation, or not signed by the key that it should be."""


def key_name(verifier: VerifierKey) -> str:
    """How an envelope names the key that signed it: its name and its key id."""
    return f"{verifier.name}+{verifier.key_id.hex()}"


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The bytes that are signed for `payload` (DSSE's pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, verifier: VerifierKey, sign: Callable[[bytes], bytes]) -> bytes:
    """The envelope around `payload`, one line of ASCII; `sign` makes the signature that `verifier` verifies."""
    signature = {"keyid": key_name(verifier), "sig": base64.b64encode(sign(pae(payload))).decode()}
    document = {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def payload_of(envelope: bytes) -> bytes:
    """What is in an envelope, with no signature checked. Raises `AttestationInvalid`."""
    return _open(envelope)[0]


def open_envelope(envelope: bytes, verifiers: Iterable[VerifierKey]) -> tuple[bytes, VerifierKey]:
    """What is in an envelope that one of `verifiers` signed, and which. Raises `AttestationInvalid`.

    Signatures of other keys are passed over; one that claims to be by a key of `verifiers` has to be.
    """
    payload, signatures = _open(envelope)
    known = {key_name(verifier): verifier for verifier in verifiers}
    for name, signature in signatures:
        if (verifier := known.get(name)) is None:
            continue
        try:
            verifier.verify(signature, pae(payload))
        except InvalidSignature:
            raise AttestationInvalid(f"the signature of {name} is not genuine") from None
        return payload, verifier
    signers = ", ".join(name for name, _ in signatures) or "nobody"
    raise AttestationInvalid(f"not signed by {' or '.join(known)}, but by {signers:.200}")


def _open(envelope: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The payload; and of each signature the name of its key, and the signature."""
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise AttestationInvalid(f"longer than {MAX_ENVELOPE_BYTES >> 20} MiB: no attestation")
    try:
        document: Any = orjson.loads(envelope)  # Any: JSON that nobody has looked at yet
        payload_type, payload = document["payloadType"], _decode(document["payload"])
        signatures = [(str(one["keyid"]), _decode(one["sig"])) for one in document["signatures"][:_MAX_SIGNATURES]]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise AttestationInvalid(
            "not an attestation: it should be a DSSE envelope with payload, payloadType, signatures"
        ) from error
    if payload_type != PAYLOAD_TYPE:
        raise AttestationInvalid(f"an envelope of {str(payload_type)!r:.60}, not of {PAYLOAD_TYPE}")
    return payload, signatures


def _decode(encoded: str) -> bytes:
    """Base64, exactly as one would write it. Raises ValueError, TypeError."""
    data = base64.b64decode(encoded, validate=True)
    if base64.b64encode(data).decode() != encoded:
        raise binascii.Error("not as one would write it")
    return data
