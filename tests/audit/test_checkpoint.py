"""Signed notes: a third party's vectors first, then our own, and what must be refused."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import (
    Checkpoint,
    VerifierKey,
    claimed_checkpoint,
    decode_base64,
    is_public_key,
    open_checkpoint,
    open_note,
    sign,
    sign_note,
    split_notes,
)
from audit.errors import CheckpointInvalid

#: The example in the documentation of Go's sumdb/note package.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    GO_TEXT
    + "\n\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "keytrail/0123456789abcdef/w0"
VERIFIER = VerifierKey.of(ORIGIN, KEY)
CHECKPOINT = Checkpoint(ORIGIN, 7, bytes(32))
NOTE = sign(CHECKPOINT, KEY)


def test_a_note_signed_by_go_opens() -> None:
    assert open_note(GO_NOTE, VerifierKey.parse(GO_KEY)) == GO_TEXT


def test_the_key_of_the_go_checksum_database_is_read() -> None:
    text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    assert str(VerifierKey.parse(text)) == text


def test_a_checkpoint_comes_back_as_it_was_signed() -> None:
    assert open_checkpoint(NOTE, VERIFIER) == CHECKPOINT
    assert claimed_checkpoint(NOTE) == CHECKPOINT
    assert VerifierKey.parse(str(VERIFIER)) == VERIFIER


def test_signatures_of_others_are_passed_over() -> None:
    other = sign(CHECKPOINT, KEY).splitlines()[-1].replace(ORIGIN, "witness.example")
    assert open_checkpoint(NOTE + other + "\n", VERIFIER) == CHECKPOINT


def test_extension_lines_are_allowed() -> None:
    text = CHECKPOINT.text() + "an extension\n"
    signature = KEY.sign(text.encode())
    import base64

    note = f"{text}\n\u2014 {ORIGIN} {base64.b64encode(VERIFIER.key_id + signature).decode()}\n"
    assert open_checkpoint(note, VERIFIER) == CHECKPOINT


@given(st.integers(0, len(NOTE.encode()) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(place: int, change: int) -> None:
    data = bytearray(NOTE.encode())
    data[place] ^= change
    with pytest.raises(CheckpointInvalid):
        open_checkpoint(data.decode("utf-8", "replace"), VERIFIER)


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (NOTE[:-1], "not a signed note"),
        (NOTE.replace("\n\n", "\n"), "not a signed note"),
        (sign(Checkpoint("keytrail/other/w0", 7, bytes(32)), KEY), "not signed by"),
        (sign(CHECKPOINT, Ed25519PrivateKey.generate()), "not signed by"),
        ("x" * 1_000_001, "too long"),
    ],
)
def test_refusals_say_why(note: str, reason: str) -> None:
    with pytest.raises(CheckpointInvalid, match=reason):
        open_checkpoint(note, VERIFIER)


def test_an_empty_extension_line_is_refused() -> None:
    note = sign_note(CHECKPOINT.text() + "one\n\ntwo\n", ORIGIN, KEY)
    assert open_note(note, VERIFIER).endswith("\n\ntwo\n"), "it is a note"
    with pytest.raises(CheckpointInvalid, match="empty extension line"):
        open_checkpoint(note, VERIFIER)


@pytest.mark.parametrize("text", ["AAB=", "AB==", "AAA", "AA A=", "AAA=\n", "AA-_", "\u00c4AA="])
def test_base64_has_one_form(text: str) -> None:
    assert decode_base64("AAA=") == bytes(2)
    assert decode_base64(text) is None


def test_a_public_key_has_one_form() -> None:
    key = generate_private_key(SECP256R1()).public_key()
    whole = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    short = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    head = whole.removesuffix(point)
    compressed = bytes([0x30, head[1] - 32]) + head[2:-3] + bytes([0x03, len(short) + 1, 0]) + short
    assert load_der_public_key(compressed) == key, "it is the same key"
    assert is_public_key(whole) and not is_public_key(compressed) and not is_public_key(whole + b"\0")


@pytest.mark.parametrize("size", ["07", "-1", "1e3", "", " 7", "99999999999999999999"])
def test_a_size_that_is_not_one_is_refused(size: str) -> None:
    with pytest.raises(CheckpointInvalid, match="not a tree size"):
        claimed_checkpoint(NOTE.replace("\n7\n", f"\n{size}\n") if size else NOTE.replace("\n7\n", "\n\u00a0\n"))


@pytest.mark.parametrize("text", ["", "a+b", "a b+00000000+AAAA", GO_KEY.replace("c74f20a3", "c74f20a4"), GO_KEY[:-4]])
def test_what_is_not_a_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        VerifierKey.parse(text)


def test_notes_one_after_another_come_apart() -> None:
    second = sign(Checkpoint(ORIGIN, 9, bytes(32)), KEY)
    assert split_notes(NOTE + "\n" + second) == [NOTE, second]
    assert split_notes(NOTE + "\n" + second[:40]) == [NOTE, second[:40]]
    assert split_notes(NOTE) == [NOTE]
    assert split_notes("") == []
