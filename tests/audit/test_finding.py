"""Lines are found by their numbers, in segments of any size, be they damaged on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit import finding
from audit.errors import LogIncident
from audit.finding import read_lines
from audit.segments import segment_name
from tests.audit.forge import line

SEGMENTS = (0, 400, 401, 1_000)
RECORDS = 1_500


@pytest.fixture(params=[64, 2_000, 128 << 10])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log whose segments are of one record, of some hundred; and bytes behind them that are no line yet."""
    monkeypatch.setattr(finding, "_NEAR_BYTES", request.param)
    for first, end in zip(SEGMENTS, (*SEGMENTS[1:], RECORDS), strict=True):
        (tmp_path / segment_name(first)).write_bytes(b"".join(written(number) for number in range(first, end)))
    with (tmp_path / segment_name(SEGMENTS[-1])).open("ab") as file:
        file.write(written(RECORDS)[:-1])
    return tmp_path


def written(number: int) -> bytes:
    return line(number, word="w" * (number * 37 % 900))


def test_every_record_is_found(folder: Path) -> None:
    for number in range(RECORDS):
        assert read_lines(folder, number, 1) == [written(number)[:-1]]


def test_lines_across_segments(folder: Path) -> None:
    assert read_lines(folder, 390, 256) == [written(number)[:-1] for number in range(390, 646)]
    assert read_lines(folder, 0, RECORDS) == [written(number)[:-1] for number in range(RECORDS)]
    assert read_lines(folder, 7, 0) == []


def test_what_is_not_there_is_named(folder: Path) -> None:
    for first, count, lacking in ((RECORDS, 1, RECORDS), (RECORDS - 2, 5, RECORDS), (9_999_999, 1, 9_999_999)):
        with pytest.raises(LogIncident, match=rf"record {lacking} is not there"):
            read_lines(folder, first, count)
    (folder / segment_name(400)).unlink()
    with pytest.raises(LogIncident, match="record 400 is not there"):
        read_lines(folder, 400, 1)


def test_lines_that_have_no_number_do_not_hide_the_others(folder: Path) -> None:
    path = folder / segment_name(1_000)
    path.write_bytes(b"".join(b"x" * 500 + b"\n" if number % 3 else written(number) for number in range(1_000, RECORDS)))
    for number in (1_002, 1_251, 1_497):
        assert read_lines(folder, number, 1) == [written(number)[:-1]]
    assert read_lines(folder, 1_000, 1) == [b"x" * 500]


def test_an_empty_segment_at_the_end(folder: Path) -> None:
    path = folder / segment_name(1_000)
    path.write_bytes(path.read_bytes().rpartition(b"\n")[0] + b"\n")
    (folder / segment_name(RECORDS)).write_bytes(b"")
    assert read_lines(folder, RECORDS - 1, 1) == [written(RECORDS - 1)[:-1]]
    with pytest.raises(LogIncident, match=f"record {RECORDS} is not there"):
        read_lines(folder, RECORDS, 1)
