"""Tampering with the checkpoints on the host: the history and `latest` (steps 4 to 6 of `verify`)."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Checkpoint, VerifierKey, sign
from audit.merkle import leaf_hash, root_of
from audit.report import Report, Verdict
from audit.verify import verify
from tests.audit.forge import Forge
from tests.audit.verifying.verdicts import failed, faults, only, verdicts


def test_a_wrong_key(forge: Forge) -> None:
    wrong = VerifierKey.of(forge.instance.origin("admin"), Ed25519PrivateKey.generate())
    report = verify(forge.instance.data, [wrong], [forge.latest])
    assert failed(report) == {4, 7}
    assert len(faults(report, 4)) == 4
    assert "not signed by" in faults(report, 4)[0].reason
    assert verdicts(report)[5] is Verdict.NOT_CHECKED
    assert only(report).sealed == 0


def test_the_key_in_the_data_folder_was_replaced(forge: Forge) -> None:
    forge.instance.sealer_public_key.write_text("A" * 43 + "=\n")
    assert 4 in failed(forge.verify())
    forge.instance.sealer_public_key.unlink()
    report = forge.verify()
    assert failed(report) == {4}
    assert "no key" in faults(report, 4)[0].reason
    assert verify(forge.instance.data, [forge.verifier]).passed


def edit_history(forge: Forge, change: Callable[[str], str]) -> Report:
    history = forge.checkpoints / "history"
    text = history.read_text("utf-8")
    assert change(text) != text
    history.write_text(change(text), "utf-8")
    return forge.verify()


def test_an_edited_checkpoint(forge: Forge) -> None:
    report = edit_history(forge, lambda text: text.replace("\n20\n", "\n21\n"))
    assert failed(report) == {4}
    assert faults(report, 4)[0].reason.startswith("checkpoint 1 of the history: the signature of")


def test_checkpoints_out_of_order(forge: Forge) -> None:
    report = edit_history(forge, lambda text: text + "\n" + "\n\n".join(text.split("\n\n")[:2]) + "\n")
    assert failed(report) == {4}
    assert faults(report, 4)[0].reason == "checkpoint 4 of the history: it is for 7 records, the one before it for 31"


def test_the_same_checkpoint_twice(forge: Forge) -> None:
    report = edit_history(forge, lambda text: text + "\n" + forge.latest)
    assert failed(report) == {4}
    assert "it is for 31 records, the one before it for 31" in faults(report, 4)[0].reason


def test_a_checkpoint_of_another_tree_by_the_right_key(forge: Forge) -> None:
    fork = sign(Checkpoint(forge.instance.origin("admin"), 33, bytes(32)), forge.key)
    report = edit_history(forge, lambda text: text + "\n" + fork)
    assert failed(report) == {5}
    assert "checkpoint 4 of the history (33 records)" in faults(report, 5)[0].reason
    assert only(report).sealed == 31


def test_a_checkpoint_of_another_log_by_the_right_key(forge: Forge) -> None:
    root = root_of([leaf_hash(text[:-1]) for number in range(4) for text in forge.lines(number)])
    checkpoint = Checkpoint(forge.instance.origin("w0"), 35, root)
    by_its_own_name = sign(checkpoint, forge.key)
    signature = base64.b64encode(forge.verifier.key_id + forge.key.sign(checkpoint.text().encode())).decode()
    by_this_name = f"{checkpoint.text()}\n\u2014 {forge.verifier.name} {signature}\n"
    history = (forge.checkpoints / "history").read_text("utf-8")
    for note, reason in ((by_its_own_name, "not signed by"), (by_this_name, "it is for keytrail/")):
        (forge.checkpoints / "history").write_text(history + "\n" + note, "utf-8")
        report = forge.verify()
        assert failed(report) == {4}
        assert reason in faults(report, 4)[0].reason


def test_a_log_without_checkpoints(forge: Forge) -> None:
    (forge.checkpoints / "history").unlink()
    report = forge.verify()
    assert failed(report) == {4}
    assert "no checkpoint was ever signed for its 35 records" in faults(report, 4)[0].reason


def test_a_torn_note_at_the_end_of_the_history_was_never_published(forge: Forge) -> None:
    note = sign(Checkpoint(forge.instance.origin("admin"), 35, bytes(32)), forge.key)
    report = edit_history(forge, lambda text: text + "\n" + note[:-1])
    assert report.passed
    assert f"{len(note.encode())} bytes behind them are torn" in only(report).steps[3].detail


def test_every_byte_of_the_history_and_of_latest_counts(forge: Forge) -> None:
    for path in (forge.checkpoints / "history", forge.checkpoints / "latest"):
        whole = path.read_bytes()
        for position in range(0, len(whole), 5):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            assert failed(forge.verify()) & {4, 6}, position
        path.write_bytes(whole)
    assert forge.verify().passed


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_checkpoint_taken_out_of_the_history_takes_nothing_out_of_the_proof(forge: Forge, number: int) -> None:
    def take_out(text: str) -> str:
        notes = text.split("\n\n")
        return "\n\n".join(notes[: 2 * number] + notes[2 * number + 2 :])

    report = edit_history(forge, take_out)
    assert report.passed and only(report).sealed == 31, "those behind it cover the same records"


def test_latest(forge: Forge) -> None:
    latest = forge.checkpoints / "latest"
    notes = (forge.checkpoints / "history").read_text("utf-8").split("\n\n")
    latest.write_text("\n\n".join(notes[4:6]) + "\n", "utf-8")
    report = forge.verify()
    assert report.passed and "one behind" in only(report).steps[5].detail
    latest.write_text("\n\n".join(notes[2:4]) + "\n", "utf-8")
    assert failed(forge.verify()) == {6}
    latest.write_text(sign(Checkpoint(forge.instance.origin("admin"), 35, bytes(32)), forge.key), "utf-8")
    assert "not in the history" in faults(forge.verify(), 6)[0].reason
    latest.unlink()
    assert failed(forge.verify()) == {6}
