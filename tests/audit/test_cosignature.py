"""Cosignatures of witnesses: the specification's example first, then our own, and what must be refused."""

from __future__ import annotations

import base64
import struct
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from dilithium_py.ml_dsa import ML_DSA_44
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, VerifierKey, open_checkpoint, parse_note, sign
from audit.cosignature import WitnessKey, cosign, open_cosignatures
from audit.errors import CheckpointInvalid

LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in range(3)]
NAMES = ["witness.example/a", "witness.example/b", "witness.example/c"]
WITNESSES = [WitnessKey.of(name, key) for name, key in zip(NAMES, KEYS, strict=True)]
CHECKPOINT = Checkpoint("keytrail/0123456789abcdef/w0", 7, bytes(32))
NOTE = sign(CHECKPOINT, LOG_KEY)


def cosigned(number: int, time_s: int, text: str = CHECKPOINT.text()) -> str:
    return cosign(text, NAMES[number], KEYS[number], time_s)


def test_the_key_id_and_the_time_are_where_the_specification_puts_them() -> None:
    """The cosignature in the example of C2SP tlog-cosignature: its key is not given there, its time is 1679315147."""
    encoded = "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA=="
    data = base64.b64decode(encoded)
    ours = base64.b64decode(cosign(CHECKPOINT.text(), NAMES[0], KEYS[0], 1679315147).split()[2])
    assert len(data) == len(ours) == 4 + 8 + 64
    assert data[4:12] == ours[4:12]
    assert ours[:4] == WITNESSES[0].key_id


def test_what_is_signed_is_the_message_of_the_specification() -> None:
    data = base64.b64decode(cosigned(0, 1679315147).split()[2])
    message = f"cosignature/v1\ntime 1679315147\n{CHECKPOINT.text()}"
    KEYS[0].public_key().verify(data[12:], message.encode())  # raises where it is not


def test_cosignatures_are_told_by_key_the_newest_of_each() -> None:
    note = NOTE + cosigned(1, 200) + cosigned(0, 100) + cosigned(1, 300) + cosigned(1, 250)
    found = open_cosignatures(note, WITNESSES)
    assert [(one.key, one.time_s) for one in found] == [(WITNESSES[0], 100), (WITNESSES[1], 300)]
    assert found[1].line == cosigned(1, 300)
    assert open_checkpoint(note, VerifierKey.of(CHECKPOINT.origin, LOG_KEY)) == CHECKPOINT


def test_those_of_others_are_passed_over() -> None:
    impostor = cosign(CHECKPOINT.text(), NAMES[0], KEYS[2], 100)  # the name of one, the key of another
    assert open_cosignatures(NOTE + impostor + cosigned(2, 5), WITNESSES[:2]) == []


@pytest.mark.parametrize("place", [4, 11, 12, 75])
def test_one_that_is_not_genuine_is_refused(place: int) -> None:
    name, _, encoded = cosigned(0, 100).removeprefix("\u2014 ").rstrip("\n").partition(" ")
    data = bytearray(base64.b64decode(encoded))
    data[place] ^= 1
    with pytest.raises(CheckpointInvalid, match=f"the cosignature of {name} is not genuine"):
        open_cosignatures(f"{NOTE}\u2014 {name} {base64.b64encode(data).decode()}\n", WITNESSES)


@pytest.mark.parametrize("data", [b"", b"x" * 71, b"x" * 73, (1 << 63).to_bytes(8, "big") + b"x" * 64])
def test_one_that_has_another_form_is_refused(data: bytes) -> None:
    line = base64.b64encode(WITNESSES[0].key_id + data).decode()
    with pytest.raises(CheckpointInvalid):
        open_cosignatures(f"{NOTE}\u2014 {NAMES[0]} {line}\n", WITNESSES)


def test_a_signature_of_a_log_is_no_cosignature() -> None:
    as_log = sign(Checkpoint(NAMES[0], 7, bytes(32)), KEYS[0])
    assert open_cosignatures(as_log, WITNESSES) == []


def test_it_is_of_this_checkpoint_only() -> None:
    other = Checkpoint(CHECKPOINT.origin, 8, bytes(32))
    with pytest.raises(CheckpointInvalid, match="not genuine"):
        open_cosignatures(NOTE + cosigned(0, 100, other.text()), WITNESSES)


@given(st.integers(0, (1 << 63) - 1), st.integers(0, 10**18))
def test_any_time_and_size_come_back(time_s: int, size: int) -> None:
    text = Checkpoint("log.example/1", size, bytes(32)).text()
    note = sign(Checkpoint("log.example/1", size, bytes(32)), LOG_KEY) + cosign(text, NAMES[0], KEYS[0], time_s)
    assert [one.time_s for one in open_cosignatures(note, WITNESSES)] == [time_s]
    assert parse_note(note)[0] == text


def test_keys_come_back_as_they_were_written() -> None:
    assert [WitnessKey.parse(str(key)) for key in WITNESSES] == WITNESSES


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (str(VerifierKey.of("log.example", LOG_KEY)), "algorithm 1 is not one of cosignatures"),
        (str(WITNESSES[0]).replace("/a+", "/b+"), "its key id is"),
        ("witness.example/a", "it should be NAME"),
        (f"a b+{WITNESSES[0].key_id.hex()}+AAAA", "it should be NAME"),
    ],
)
def test_what_is_no_key_of_a_witness_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CheckpointInvalid, match=reason):
        WitnessKey.parse(text)


# --- ML-DSA-44

POST_QUANTUM = MLDSA44PrivateKey.from_seed_bytes(bytes(32))
POST_QUANTUM_KEY = WitnessKey.of("witness.example/pq", POST_QUANTUM)


def test_what_is_signed_with_ml_dsa_is_the_structure_of_the_specification() -> None:
    """Another implementation verifies it, over a message that is put together here."""
    data = base64.b64decode(cosign(CHECKPOINT.text(), POST_QUANTUM_KEY.name, POST_QUANTUM, 1679315147).split()[2])
    assert data[:4] == sha256(b"witness.example/pq\n\x06" + POST_QUANTUM_KEY.public_key).digest()[:4]
    origin = CHECKPOINT.origin.encode()
    message = (
        *(b"subtree/v1\n\x00", bytes([18]), b"witness.example/pq", struct.pack(">Q", 1679315147)),
        *(bytes([len(origin)]), origin, struct.pack(">QQ", 0, 7), CHECKPOINT.root),
    )
    assert struct.unpack(">Q", data[4:12]) == (1679315147,)
    assert ML_DSA_44.verify(POST_QUANTUM_KEY.public_key, b"".join(message), data[12:])


def test_cosignatures_of_both_kinds_are_told() -> None:
    text = CHECKPOINT.text() + "an extension line\n"
    note = NOTE.replace(CHECKPOINT.text(), text) + cosign(text, NAMES[0], KEYS[0], 5)
    note += cosign(text, POST_QUANTUM_KEY.name, POST_QUANTUM, 7)
    found = open_cosignatures(note, [POST_QUANTUM_KEY, WITNESSES[0]])
    assert [(one.key, one.time_s) for one in found] == [(POST_QUANTUM_KEY, 7), (WITNESSES[0], 5)]
    assert WitnessKey.parse(str(POST_QUANTUM_KEY)) == POST_QUANTUM_KEY


@pytest.mark.parametrize("place", [4, 11, 12, 2431])
def test_one_of_ml_dsa_that_is_not_genuine_is_refused(place: int) -> None:
    data = bytearray(base64.b64decode(cosign(CHECKPOINT.text(), POST_QUANTUM_KEY.name, POST_QUANTUM, 100).split()[2]))
    data[place] ^= 1
    with pytest.raises(CheckpointInvalid, match="not genuine"):
        open_cosignatures(f"{NOTE}\u2014 {POST_QUANTUM_KEY.name} {base64.b64encode(data).decode()}\n", [POST_QUANTUM_KEY])


def test_it_is_of_this_witness_only() -> None:
    line = cosign(CHECKPOINT.text(), POST_QUANTUM_KEY.name, POST_QUANTUM, 100)
    other = WitnessKey.of("other.example", POST_QUANTUM)
    data = base64.b64decode(line.split()[2])
    moved = f"\u2014 other.example {base64.b64encode(other.key_id + data[4:]).decode()}\n"
    with pytest.raises(CheckpointInvalid, match="not genuine"):
        open_cosignatures(NOTE + moved, [other])


def test_names_that_are_too_long_for_it_are_refused() -> None:
    long = Checkpoint("l" * 256, 1, bytes(32))
    with pytest.raises(CheckpointInvalid, match="too long"):
        cosign(long.text(), POST_QUANTUM_KEY.name, POST_QUANTUM, 1)
    with pytest.raises(CheckpointInvalid, match="too long"):
        WitnessKey.parse(str(WitnessKey.of("w" * 256, POST_QUANTUM)))
