"""Checking an attestation against checkpoints that were saved elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.attest.check import check
from audit.attest.make import sign
from audit.checkpoint import Checkpoint
from audit.checkpoint import sign as sign_checkpoint
from audit.errors import CheckpointInvalid
from audit.merkle import EMPTY_ROOT
from audit.report import Verdict
from tests.audit.attest.builder import House, facts
from tests.audit.attest.verdicts import reasons, verdicts


def test_a_saved_checkpoint_of_the_same_size_is_compared(house: House) -> None:
    document = house.attest()[1]
    assert verdicts(check(document, [house.verifier], [house.latest(), house.latest("w1")])) == "pppppp--"
    other = sign_checkpoint(Checkpoint(house.instance.origin("w0"), 3, EMPTY_ROOT), house.key)
    report = check(document, [house.verifier], [other])
    assert "is of another tree than the attestation's" in reasons(report, 5)[0]


def test_a_smaller_saved_checkpoint_needs_a_proof_or_the_log(house: House) -> None:
    old = house.latest()
    for second in range(60, 70):
        house.add(second)
    house.seal()
    document = house.attest()[1]
    report = check(document, [house.verifier], [old])
    assert verdicts(report) == "ppppFp--"
    assert "cannot be compared without the log" in reasons(report, 5)[0]
    assert check(document, [house.verifier], [old], house.data).passed
    proving = house.attest(old)[1]
    assert verdicts(check(proving, [house.verifier], [old])) == "pppppp--"
    other = sign_checkpoint(Checkpoint(house.instance.origin("w0"), 3, EMPTY_ROOT), house.key)
    assert "another tree" in reasons(check(proving, [house.verifier], [other]), 5)[0]
    assert "another tree" in reasons(check(document, [house.verifier], [other], house.data), 5)[0]


def test_a_forged_proof_does_not_pass(house: House) -> None:
    old = house.latest()
    house.add(60)
    house.seal()
    statement = house.attest(old)[0].statement
    (extension,) = statement.logs[1].extends
    for proof in ((), (bytes(32), *extension.proof[1:]), (*extension.proof, bytes(32))):
        forged = facts(statement, extends=(replace(extension, proof=proof),))
        report = check(sign(forged, house.key), [house.verifier], [old])
        assert any("there is no proof" in reason for reason in reasons(report, 4))
        assert report.steps[4].verdict is Verdict.FAILED


def test_a_larger_saved_checkpoint_needs_the_log(house: House) -> None:
    document = house.attest()[1]
    house.add(60)
    house.seal()
    assert "cannot be compared without the log" in reasons(check(document, [house.verifier], [house.latest()]), 5)[0]
    assert check(document, [house.verifier], [house.latest()], house.data).passed
    beyond = sign_checkpoint(Checkpoint(house.instance.origin("w0"), 9, EMPTY_ROOT), house.key)
    assert "than the log at hand" in reasons(check(document, [house.verifier], [beyond], house.data), 5)[0]


def test_a_rollback_before_the_attestation_is_found(house: House) -> None:
    """Root cut the log and its checkpoints, and had the rest attested: a checkpoint kept elsewhere knows of more."""
    house.add(60, user="mallory")
    house.seal()
    kept = house.latest()
    path = house.logs["w0"].segment
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    house.logs["w0"].sequence = 3
    for file in house.instance.checkpoint_folder("w0").iterdir():
        file.unlink()
    (house.data / "checkpoints" / "sealer.state").unlink()  # not kept elsewhere
    house.seal()
    document = house.attest(caller="mallory")[1]
    assert check(document, [house.verifier]).passed
    assert not check(document, [house.verifier], [kept]).passed
    assert not check(document, [house.verifier], [kept], house.data).passed


def test_saved_checkpoints_that_are_none_are_refused(house: House) -> None:
    document = house.attest()[1]
    for text in ("", "no note\n"):
        with pytest.raises(CheckpointInvalid):
            check(document, [house.verifier], [text])
    foreign = sign_checkpoint(Checkpoint("keytrail/0123456789abcdef/w0", 3, EMPTY_ROOT), house.key)
    assert "does not speak of that log" in reasons(check(document, [house.verifier], [foreign]), 5)[0]
    forged = sign_checkpoint(Checkpoint(house.instance.origin("w0"), 3, EMPTY_ROOT), Ed25519PrivateKey.generate())
    assert "not signed by" in reasons(check(document, [house.verifier], [forged]), 5)[0]
