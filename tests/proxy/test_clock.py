"""The virtual clock: what its file may say, and that it moves while it is in use."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from proxy.clock import VirtualClock, clock_of
from proxy.errors import SetupError

NOW_S = 1_700_000_000.0


def write(path: Path, text: str, written_s: float = NOW_S) -> Path:
    path.write_text(text)
    os.utime(path, (written_s, written_s))
    return path


def test_without_a_file_it_is_the_systems() -> None:
    assert clock_of(None) is time.time


@pytest.mark.parametrize(
    ("text", "offset_s"),
    [
        ("0", 0),
        ("86400\n", 86400),
        (" -3.5 ", -3.5),
        ("2023-11-14T22:13:21Z", 1),
        ("2023-11-14T23:13:20+01:00", 0),
        ("2030-01-01T00:00:00+00:00", 1_893_456_000 - NOW_S),
    ],
)
def test_what_the_file_adds(tmp_path: Path, text: str, offset_s: float) -> None:
    clock = VirtualClock(write(tmp_path / "clock", text), lambda: NOW_S + 10)
    assert (clock(), clock.offset_s) == (NOW_S + 10 + offset_s, offset_s)


def test_a_time_goes_on_from_when_it_was_written(tmp_path: Path) -> None:
    now_s = [NOW_S]
    clock = VirtualClock(write(tmp_path / "clock", "2030-01-01T00:00:00Z"), lambda: now_s[0])
    first = clock()
    now_s[0] += 5
    assert (first, clock()) == (1_893_456_000, 1_893_456_005)


def test_writing_the_file_moves_the_time(tmp_path: Path) -> None:
    clock = VirtualClock(write(tmp_path / "clock", "0"), lambda: NOW_S)
    write(tmp_path / "clock", "100", NOW_S + 1)
    assert clock() == NOW_S + 100


@pytest.mark.parametrize("text", ["", "tomorrow", "2030-01-01T00:00:00", "1e300", "nan", "inf"])
def test_a_file_that_says_nothing_is_refused_at_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(SetupError, match="clock: "):
        VirtualClock(write(tmp_path / "clock", text))


def test_no_file_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="clock: "):
        clock_of(tmp_path / "none")


def test_a_file_that_breaks_later_leaves_the_time_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock(write(tmp_path / "clock", "100"), lambda: NOW_S)
    write(tmp_path / "clock", "soon", NOW_S + 1)
    with caplog.at_level(logging.ERROR):
        assert [clock(), clock()] == [NOW_S + 100] * 2
    assert len(caplog.records) == 1
