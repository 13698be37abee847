"""Proof files: read as they are written, strictly; and what they show, and do not show."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Checkpoint, VerifierKey, sign
from audit.errors import CheckpointInvalid, ProofInvalid
from audit.merkle import leaf_hash, root_of
from audit.tiles import inclusion_proof
from audit.tlog_proof import HEADER, TlogProof
from tests.audit.trees import levels_of

ORIGIN = "keytrail/0123456789abcdef/w0"
SIZE = 11
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
TRUSTED = VerifierKey.of(ORIGIN, KEY)
LINES = [b"%d" % number for number in range(SIZE)]
CHECKPOINT = Checkpoint(ORIGIN, SIZE, root_of([leaf_hash(line) for line in LINES]))


def proof_of(index: int, key: Ed25519PrivateKey = KEY) -> TlogProof:
    return TlogProof(index, tuple(inclusion_proof(levels_of(SIZE), index, SIZE)), sign(CHECKPOINT, key))


def test_the_form_is_that_of_the_specification() -> None:
    proof = proof_of(7)
    hashes = "".join(f"{base64.b64encode(one).decode()}\n" for one in proof.path)
    assert proof.text() == f"c2sp.org/tlog-proof@v1\nindex 7\n{hashes}\n{sign(CHECKPOINT, KEY)}"


@pytest.mark.parametrize("index", range(SIZE))
def test_it_is_read_as_it_was_written_and_shows_its_record_and_no_other(index: int) -> None:
    proof = TlogProof.parse(proof_of(index).text())
    assert proof == proof_of(index)
    assert proof.check(LINES[index], [TRUSTED]) == (CHECKPOINT, TRUSTED)
    for other in {*LINES, b"", LINES[index] + b"\n"} - {LINES[index]}:
        with pytest.raises(ProofInvalid, match=f"the record is not number {index} of the 11"):
            proof.check(other, [TRUSTED])
    with pytest.raises(ProofInvalid):
        replace(proof, index=(index + 1) % SIZE).check(LINES[index], [TRUSTED])


def test_a_tree_of_one_needs_no_hash() -> None:
    alone = TlogProof(0, (), sign(Checkpoint(ORIGIN, 1, leaf_hash(b"x")), KEY))
    assert TlogProof.parse(alone.text()) == alone
    assert alone.check(b"x", [TRUSTED])[0].size == 1


def test_extra_data_is_passed_over() -> None:
    text = proof_of(3).text().replace("index 3", "extra AAAA\nindex 3")
    assert TlogProof.parse(text) == proof_of(3)


def test_the_key_has_to_be_the_logs() -> None:
    with pytest.raises(CheckpointInvalid, match=f"no key was given for {ORIGIN}"):
        proof_of(0).check(LINES[0], [VerifierKey.of("keytrail/0123456789abcdef/w1", KEY)])
    with pytest.raises(CheckpointInvalid, match="not signed by"):
        proof_of(0, OTHER).check(LINES[0], [TRUSTED])
    both = [VerifierKey.of(ORIGIN, OTHER), TRUSTED]
    assert proof_of(0).check(LINES[0], both)[1] == TRUSTED == proof_of(0).check(LINES[0], both[::-1])[1]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (HEADER, "c2sp.org/tlog-proof@v2", "not a proof"),
        ("\n\n", "\n", "not a proof"),
        ("index 7", "index 07", "which leaf"),
        ("index 7", "index -7", "which leaf"),
        ("index 7", "7", "which leaf"),
        ("index 7", "extra AAAA", "which leaf"),
        ("index 7\n", "index 7\nAAAA\n", "no hash of 32 bytes"),
        ("index 7\n", f"index 7\n{'A' * 43}B=\n", "no hash of 32 bytes"),
        ("index 7\n", f"index 7\n{'A' * 42}B=\n", "no hash of 32 bytes"),  # bits that nobody would write
        ("index 7\n", "index 7\n" + f"{'A' * 43}=\n" * 64, "more than any tree"),
    ],
)
def test_what_is_not_of_the_form_is_refused(old: str, new: str, reason: str) -> None:
    text = proof_of(7).text()
    with pytest.raises(ProofInvalid, match=reason):
        TlogProof.parse(text.replace(old, new, 1) if old != "\n\n" else text.partition("\n\n")[0])


def test_an_empty_file_is_no_proof() -> None:
    with pytest.raises(ProofInvalid, match="not a proof"):
        TlogProof.parse("")
