"""`verify --index`: an honest index passes, and whatever was done to it is found, by the step that looks for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.query.index.against_log import FINDABLE, POSTINGS, ROWS, TITLES, check_index
from audit.query.index.layout import Manifest, index_folder
from audit.report import IndexReport, Verdict
from tests.audit.query.builder import LogBuilder
from tests.audit.query.test_index import build, compacted, rewrite


def verdicts(report: IndexReport) -> dict[int, Verdict]:
    return {step.number: step.verdict for step in report.steps}


def failed(report: IndexReport) -> set[int]:
    return {step for step, verdict in verdicts(report).items() if verdict is Verdict.FAILED}


def reasons(report: IndexReport) -> list[str]:
    return [fault.reason for fault in report.faults]


def manifest(data: Path, change: Callable[[Manifest], object]) -> None:
    one = Manifest.load(index_folder(data))
    change(one)
    one.save(index_folder(data))


def rows_file(data: Path) -> Path:
    return sorted((index_folder(data) / "events").glob("*/*.parquet"))[0]


def postings_file(data: Path) -> Path:
    return sorted((index_folder(data) / "postings").glob("*.parquet"))[0]


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    """Twenty records in five segments that are indexed, and one that is not."""
    made = build(tmp_path)
    compacted(tmp_path)
    return made


def test_an_honest_index_passes(log: LogBuilder, tmp_path: Path) -> None:
    report = check_index(tmp_path)
    assert not report.faults and report.records == 20
    assert verdicts(report) == dict.fromkeys(TITLES, Verdict.PASSED)


def test_an_index_of_many_batches_that_were_merged_passes(tmp_path: Path) -> None:
    build(tmp_path, segments=9)
    compacted(tmp_path, batch_bytes=1, fanout=2)
    report = check_index(tmp_path)
    assert not report.faults and report.records == 36


def test_an_index_of_a_log_with_damaged_lines_passes(tmp_path: Path) -> None:
    log = build(tmp_path, segments=2)
    log.raw(b"no JSON\n")
    log.rotate()
    compacted(tmp_path)
    assert not check_index(tmp_path).faults


def test_without_an_index_it_fails(tmp_path: Path) -> None:
    build(tmp_path)
    report = check_index(tmp_path)
    assert failed(report) == {ROWS} and "there is no index" in reasons(report)[0]
    index_folder(tmp_path).mkdir()
    (index_folder(tmp_path) / "manifest.json").write_text("{")
    assert failed(check_index(tmp_path)) == {ROWS}


def test_an_index_that_covers_nothing_yet_is_not_checked(tmp_path: Path) -> None:
    build(tmp_path, segments=0)
    compacted(tmp_path)
    report = check_index(tmp_path)
    assert not report.faults and verdicts(report) == dict.fromkeys(TITLES, Verdict.NOT_CHECKED)


@pytest.mark.parametrize(
    ("select", "told"),
    [
        ("SELECT * REPLACE ('arn:aws:iam::1:user/eve' AS caller) FROM file", "record 0 is not in the index as its line has it"),
        ("SELECT * REPLACE (MAP {'tenant': 'umbrella'} AS context) FROM file", "record 0 has in the index what its line has not"),
        ("SELECT * FROM file UNION ALL SELECT * FROM file WHERE record = 1", "record 1 has in the index what its line has not"),
        ("SELECT * REPLACE (time - INTERVAL 1 SECOND AS time) FROM file", "record 0 is not in the index as its line has it"),
    ],
)
def test_rows_that_were_changed_or_made_up(log: LogBuilder, tmp_path: Path, select: str, told: str) -> None:
    rewrite(rows_file(tmp_path), select)
    report = check_index(tmp_path)
    assert ROWS in failed(report) and told in reasons(report)


def test_a_row_that_was_taken_out(log: LogBuilder, tmp_path: Path) -> None:
    rewrite(rows_file(tmp_path), "SELECT * FROM file WHERE record <> 3")
    assert "record 3 is not in the index as its line has it" in reasons(check_index(tmp_path))


def test_a_posting_that_was_taken_out(log: LogBuilder, tmp_path: Path) -> None:
    rewrite(postings_file(tmp_path), "SELECT * FROM file WHERE record <> 3")
    report = check_index(tmp_path)
    assert failed(report) == {POSTINGS} and reasons(report) == ["record 3 is not in the index as its line has it"]


def test_a_posting_that_leads_elsewhere(log: LogBuilder, tmp_path: Path) -> None:
    rewrite(postings_file(tmp_path), "SELECT term, record, start + (record = 3)::BIGINT AS start FROM file")
    assert failed(check_index(tmp_path)) == {POSTINGS}


def test_postings_that_no_look_up_comes_to(log: LogBuilder, tmp_path: Path) -> None:
    rewrite(postings_file(tmp_path), "SELECT * FROM file ORDER BY record DESC")
    report = check_index(tmp_path)
    assert failed(report) == {FINDABLE} and "its postings are not sorted" in reasons(report)[0]


def test_a_run_that_the_manifest_leaves_out(tmp_path: Path) -> None:
    build(tmp_path)
    compacted(tmp_path, batch_bytes=1, fanout=100)
    manifest(tmp_path, lambda one: one.logs["w0"].runs.pop(2))
    report = check_index(tmp_path)
    assert failed(report) == {POSTINGS, FINDABLE}
    manifest(tmp_path, lambda one: one.logs["w0"].days.pop())
    assert failed(check_index(tmp_path)) == {ROWS, POSTINGS, FINDABLE}


def test_files_that_are_gone_or_broken(log: LogBuilder, tmp_path: Path) -> None:
    shutil.copytree(index_folder(tmp_path), tmp_path / "kept")
    rows_file(tmp_path).unlink()
    assert "cannot be read" in reasons(check_index(tmp_path))[-1]
    shutil.rmtree(index_folder(tmp_path))
    (tmp_path / "kept").rename(index_folder(tmp_path))
    postings_file(tmp_path).write_bytes(b"PAR1")
    assert failed(check_index(tmp_path)) == {FINDABLE}


def test_an_index_of_other_bytes_than_are_there(log: LogBuilder, tmp_path: Path) -> None:
    segment = log.folder / f"{4:020d}.jsonl"
    segment.write_bytes(segment.read_bytes()[:-200] + b" " * 199 + b"\n")
    report = check_index(tmp_path)
    assert ROWS in failed(report)


def test_an_index_of_a_log_that_is_not_there(log: LogBuilder, tmp_path: Path) -> None:
    manifest(tmp_path, lambda one: one.logs.update(w9=one.logs["w0"]))
    assert "the index has rows of this log, which is not here" in reasons(check_index(tmp_path))
