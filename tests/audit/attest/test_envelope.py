"""The envelope: DSSE's own example, and that no signature passes for one of another kind or key."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.attest.envelope import AttestationInvalid, open_envelope, pae, payload_of, seal
from audit.checkpoint import Checkpoint, VerifierKey, open_note, sign
from audit.errors import CheckpointInvalid
from audit.merkle import EMPTY_ROOT

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VERIFIER = VerifierKey.of("keytrail/0123456789abcdef/attestation", KEY)


def test_what_is_signed_is_as_the_specification_shows() -> None:
    assert pae(b"hello world", "http://example.com/HelloWorld") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_the_signature_can_be_verified_by_hand() -> None:
    document = json.loads(seal(b'{"a":1}', VERIFIER, KEY.sign))
    assert document["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(document["payload"])
    assert payload == b'{"a":1}'
    (signature,) = document["signatures"]
    assert signature["keyid"] == f"{VERIFIER.name}+{VERIFIER.key_id.hex()}"
    signed = b"DSSEv1 28 application/vnd.in-toto+json 7 " + payload
    Ed25519PublicKey.from_public_bytes(VERIFIER.public_key).verify(base64.b64decode(signature["sig"]), signed)


def test_what_was_sealed_is_opened() -> None:
    other = VerifierKey.of("keytrail/0123456789abcdef/attestation", Ed25519PrivateKey.generate())
    assert open_envelope(seal(b"text", VERIFIER, KEY.sign), [other, VERIFIER]) == (b"text", VERIFIER)


def test_signatures_of_others_are_passed_over() -> None:
    document = json.loads(seal(b"text", VERIFIER, KEY.sign))
    document["signatures"].insert(0, {"keyid": "somebody", "sig": "AAAA"})
    assert open_envelope(json.dumps(document).encode(), [VERIFIER])[0] == b"text"


def test_another_key_is_told_who_signed() -> None:
    other = VerifierKey.of("keytrail/0123456789abcdef/attestation", Ed25519PrivateKey.generate())
    with pytest.raises(AttestationInvalid, match=f"not signed by .*{other.key_id.hex()}, but by .*{VERIFIER.key_id.hex()}"):
        open_envelope(seal(b"text", VERIFIER, KEY.sign), [other])


def test_a_checkpoint_is_no_attestation_and_an_attestation_no_checkpoint() -> None:
    checkpoint = Checkpoint(VERIFIER.name, 0, EMPTY_ROOT)
    signature = base64.b64decode(sign(checkpoint, KEY).rsplit(" ", 1)[1])[4:]
    with pytest.raises(AttestationInvalid, match="not genuine"):
        open_envelope(seal(checkpoint.text().encode(), VERIFIER, lambda _: signature), [VERIFIER])
    signature = base64.b64decode(json.loads(seal(checkpoint.text().encode(), VERIFIER, KEY.sign))["signatures"][0]["sig"])
    note = f"{checkpoint.text()}\n— {VERIFIER.name} {base64.b64encode(VERIFIER.key_id + signature).decode()}\n"
    with pytest.raises(CheckpointInvalid, match="not genuine"):
        open_note(note, VERIFIER)


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": "dGV4dA"},  # without its padding
        {"payload": "dGV4dB=="},  # with bits that mean nothing
        {"payload": 7},
        {"payloadType": "text/plain"},
        {"signatures": "none"},
        {"signatures": [{"sig": "AAAA"}]},
        {"signatures": [{"keyid": "x", "sig": "?"}]},
    ],
)
def test_what_is_no_envelope_is_refused(changes: dict[str, Any]) -> None:
    document = json.loads(seal(b"text", VERIFIER, KEY.sign)) | changes
    with pytest.raises(AttestationInvalid):
        payload_of(json.dumps(document).encode())


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"7", b"\xff", b"{}", b'{"payload":"","payloadType":"application/vnd.in-toto+json"}']
)
def test_other_files_are_refused(text: bytes) -> None:
    with pytest.raises(AttestationInvalid):
        payload_of(text)


def test_an_envelope_without_signatures_is_signed_by_nobody() -> None:
    document = json.loads(seal(b"text", VERIFIER, KEY.sign)) | {"signatures": []}
    with pytest.raises(AttestationInvalid, match="but by nobody"):
        open_envelope(json.dumps(document).encode(), [VERIFIER])
