"""Tampering with the whole, the log and all that speaks of it here: a saved checkpoint tells (step 7 of `verify`)."""

from __future__ import annotations

import pytest

from audit.checkpoint import split_notes
from audit.errors import CheckpointInvalid
from audit.log import Mark
from audit.report import Fault
from audit.segments import segment_name
from tests.audit.forge import Forge
from tests.audit.verifying.verdicts import failed, faults, only


def roll_back(forge: Forge, records: int, checkpoints: int) -> None:
    """Cut the log and everything that speaks of it, as root can."""
    forge.segment(3).unlink()
    forge.write(2, forge.lines(2)[: records - 20])
    (forge.folder / "mark").write_bytes(Mark(records, 20, forge.segment(2).stat().st_size, 0).encode())
    notes = (forge.checkpoints / "history").read_text("utf-8").split("\n\n")
    history = "\n\n".join(notes[: 2 * checkpoints]) + "\n"
    (forge.checkpoints / "history").write_text(history, "utf-8")
    (forge.checkpoints / "latest").write_text("\n\n".join(notes[2 * checkpoints - 2 : 2 * checkpoints]) + "\n", "utf-8")
    leaves = (forge.checkpoints / "leaves").read_bytes()
    (forge.checkpoints / "leaves").write_bytes(leaves[: 26 * 32])


def test_a_saved_checkpoint_covers_nothing_in_the_place_of_the_history(forge: Forge) -> None:
    """It is of this tree; what it is about is sealed here only once the history says so."""
    saved = forge.latest
    notes = split_notes((forge.checkpoints / "history").read_text("utf-8"))
    (forge.checkpoints / "history").write_text("\n".join(notes[:3]), "utf-8")
    (forge.checkpoints / "latest").write_text(notes[2], "utf-8")
    for kept in ((), (saved,)):
        report = forge.verify(*kept)
        assert report.passed
        assert (only(report).sealed, only(report).unsealed) == (26, 9)


def test_a_consistent_rollback_is_told_by_a_saved_checkpoint_alone(forge: Forge) -> None:
    saved = forge.latest
    roll_back(forge, 26, 3)
    assert forge.verify().passed, "nothing on this host tells"
    report = forge.verify(saved)
    assert failed(report) == {7}
    reason = "the log ends with record 25, but the saved checkpoint of 31 records was signed for records up to 30"
    assert faults(report, 7) == [Fault(7, "admin", segment_name(20), 6, reason)]


def test_the_tail_cut_behind_the_history(forge: Forge) -> None:
    forge.write(3, [])
    report = forge.verify()
    assert failed(report) == {5, 9}


def test_a_log_that_was_rewritten_whole(forge: Forge) -> None:
    saved = forge.latest
    for number in range(4):
        forge.write(number, [text.replace(b"Encrypt", b"Decrypt") for text in forge.lines(number)])
    report = forge.verify(saved)
    assert failed(report) == {5, 7}
    assert faults(report, 5)[0].reason.startswith("record 0 is not the one")


def test_a_log_that_was_rewritten_and_sealed_anew_with_the_same_key(forge: Forge) -> None:
    saved = forge.latest
    for number in range(4):
        forge.write(number, [text.replace(b"Encrypt", b"Decrypt") for text in forge.lines(number)])
    for path in forge.checkpoints.iterdir():
        path.unlink()
    forge.seal()
    assert forge.verify().passed, "nothing on this host tells"
    report = forge.verify(saved)
    assert failed(report) == {7}
    assert "the lines do not have the root of the saved checkpoint of 31 records" in faults(report, 7)[0].reason


@pytest.mark.parametrize("text", ["", "\n", "nonsense"])
def test_a_saved_file_without_a_checkpoint_is_refused(forge: Forge, text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        forge.verify(forge.latest, text)
