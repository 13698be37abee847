"""`verify` on a log that is being written: what is in flight, or comes while it reads, is no fault."""

from __future__ import annotations

import fcntl

import pytest

from audit.report import Verdict
from audit.segments import segment_name
from audit.verify import verify
from tests.audit.forge import Forge, line
from tests.audit.verifying.verdicts import failed, only, places, verdicts


@pytest.mark.parametrize("tail", [b'{"torn', b"\0\0\n\0", line(36), line(35)[:-1]])
def test_what_is_in_flight_is_no_fault(forge: Forge, tail: bytes) -> None:
    with forge.segment(3).open("ab") as file:
        file.write(tail)
    report = forge.verify()
    assert report.passed
    assert only(report).records == 35
    assert f"{len(tail)} bytes behind them are torn" in only(report).steps[2].detail


def test_lines_behind_the_mark_count_as_records(forge: Forge) -> None:
    with forge.segment(3).open("ab") as file:
        file.write(line(35))
    report = forge.verify()
    assert report.passed and only(report).records == 36


def test_records_and_checkpoints_that_come_while_it_reads_are_no_fault(forge: Forge) -> None:
    grown: list[int] = []

    def grow(done: int, total: int) -> None:
        if not grown:
            grown.append(done)
            for _ in range(3):
                forge.grow(12)
                forge.seal()

    report = verify(forge.instance.data, saved=[forge.latest], progress=grow)
    assert grown and report.passed
    assert only(report).sealed == 31
    assert forge.verify().passed and only(forge.verify()).sealed == 71


def test_a_log_whose_first_checkpoint_comes_while_it_reads(empty: Forge) -> None:
    empty.grow(5)

    def seal(done: int, total: int) -> None:
        if not (empty.checkpoints / "history").exists():
            empty.seal()

    report = verify(empty.instance.data, progress=seal)
    assert report.passed and only(report).sealed == 5


def test_a_call_without_outcome_is_a_finding_unless_it_may_be_under_way(forge: Forge) -> None:
    forge.append(line(35, phase="intent"), line(36, intent="e35"))
    forge.append(line(37, phase="intent"), line(38, phase="unknown", intent="e37"))
    assert verdicts(forge.verify())[8] is Verdict.PASSED
    forge.append(line(39, phase="intent"))
    report = forge.verify()
    assert failed(report) == {8}
    assert places(report, 8) == [(segment_name(30), 10)]
    with (forge.folder / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report = forge.verify()
        assert report.passed
        assert "1 of them under way" in only(report).steps[7].detail


def test_a_writer_that_came_and_went_while_it_read(forge: Forge) -> None:
    forge.append(line(35, phase="intent"))

    def finish(done: int, total: int) -> None:
        if forge.records == 36:
            forge.segment(4).write_bytes(line(40))

    assert verdicts(verify(forge.instance.data, progress=finish))[8] is Verdict.PASSED
