"""Tampering with segments, and with the mark behind the last line: `verify` names the place (steps 2 and 9)."""

from __future__ import annotations

import pytest

from audit.log import Mark
from audit.report import Fault, Verdict
from audit.segments import segment_name
from audit.verify import verify
from tests.audit.forge import SEGMENT, Forge, line
from tests.audit.verifying.verdicts import failed, faults, only, places, verdicts


def test_a_segment_of_a_number_that_no_file_could_hold(forge: Forge) -> None:
    (forge.folder / ("9" * 20 + ".jsonl")).write_bytes(line(35))
    report = forge.verify()
    assert 2 in failed(report)
    assert places(report, 2) == [("9" * 20 + ".jsonl", 0)]


def test_a_line_without_an_end_is_not_read_to_its_end(forge: Forge) -> None:
    """Memory is bounded, whatever root puts there: a hole has no blocks on the disk."""
    with forge.segment(3).open("r+b") as file:
        file.truncate(1 << 36)
    read: list[int] = []
    report = verify(forge.instance.data, saved=[forge.latest], progress=lambda done, total: read.append(done))
    assert report.passed and "bytes behind them are torn or being written" in only(report).steps[2].detail
    assert max(read) < 20 << 20


@pytest.mark.parametrize("has_leaves", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_deleted_segment(forge: Forge, number: int, has_leaves: bool) -> None:
    forge.segment(number).unlink()
    if not has_leaves:
        (forge.checkpoints / "leaves").unlink()
    report = forge.verify(forge.latest)
    assert {2, 5, 7} <= failed(report)
    first = number * SEGMENT
    reason = f"records {first}–{first + 9} are missing before this segment"
    assert faults(report, 2) == [Fault(2, "admin", segment_name(first + SEGMENT), 0, reason)]


def test_a_deleted_last_segment(forge: Forge) -> None:
    forge.segment(3).unlink()
    report = forge.verify(forge.latest)
    assert failed(report) == {5, 7, 9}
    assert places(report, 5) == [(segment_name(20), 10)]
    assert "the log ends with record 29, but checkpoint 3 of the history (31 records)" in faults(report, 5)[0].reason


def test_all_segments_deleted(forge: Forge) -> None:
    for segment in forge.folder.glob("*.jsonl"):
        segment.unlink()
    report = forge.verify(forge.latest)
    assert {5, 7, 9} <= failed(report)
    assert "the log is empty" in faults(report, 5)[0].reason


def test_a_renamed_segment(forge: Forge) -> None:
    forge.segment(2).rename(forge.folder / segment_name(21))
    report = forge.verify()
    assert 2 in failed(report)
    assert faults(report, 2)[0] == Fault(2, "admin", segment_name(21), 0, "record 20 is missing before this segment")


def test_a_segment_that_overlaps_the_one_before(forge: Forge) -> None:
    forge.segment(1).rename(forge.folder / segment_name(9))
    report = forge.verify()
    reason = "its name says that it begins with record 9, but 10 comes next"
    assert faults(report, 2) == [Fault(2, "admin", segment_name(9), 0, reason)]
    assert failed(report) == {2}


def test_a_closed_segment_without_its_last_newline(forge: Forge) -> None:
    forge.segment(1).write_bytes(forge.segment(1).read_bytes()[:-1])
    report = forge.verify()
    assert {2, 3, 5} <= failed(report)
    assert faults(report, 3)[0].line == 10


# --- the mark


def test_a_forged_line_before_the_mark(forge: Forge) -> None:
    lines = forge.lines(3)
    forge.write(3, [*lines[:3], line(33, word="Forged"), *(line(sequence) for sequence in (34, 35))])
    report = forge.verify()
    assert failed(report) == {9}
    assert "the mark says that record 34 ends" in faults(report, 9)[0].reason


def test_a_mark_that_counts_otherwise(forge: Forge) -> None:
    (forge.folder / "mark").write_bytes(Mark(34, 30, forge.segment(3).stat().st_size, 0).encode())
    reason = "the mark says that record 33 ends here, but record 34 does"
    assert forge.verify().faults == (Fault(9, "admin", segment_name(30), 5, reason),)


@pytest.mark.parametrize(("position", "has_mark"), [(0, False), (0, True), (3, True)])
def test_in_the_last_segment_what_was_signed_for_or_marked_is_not_in_flight(forge: Forge, position: int, has_mark: bool) -> None:
    lines = forge.lines(3)
    lines[position] = b"x" * (len(lines[position]) - 1) + b"\n"
    forge.write(3, lines)
    if not has_mark:
        (forge.folder / "mark").unlink()
    report = forge.verify()
    assert 3 in failed(report)
    assert places(report, 3) == [(segment_name(30), position + 1)]


def test_the_mark_is_an_aid_and_may_be_missing(forge: Forge) -> None:
    (forge.folder / "mark").write_bytes(b"damaged")
    report = forge.verify()
    assert report.passed and verdicts(report)[9] is Verdict.NOT_CHECKED
