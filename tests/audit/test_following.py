"""Reading a log while it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit import following
from audit.errors import LogIncident
from audit.following import LogFollower
from audit.log import Mark
from audit.segments import segment_name
from tests.audit.forge import Forge


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge.create(tmp_path)


def all_lines(forge: Forge) -> list[bytes]:
    return b"".join(path.read_bytes() for path in sorted(forge.folder.glob("*.jsonl"))).split(b"\n")[:-1]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
@pytest.mark.parametrize("at_most", [1, 3, 100])
def test_each_line_once_from_any_record_on(forge: Forge, monkeypatch: pytest.MonkeyPatch, chunk: int, at_most: int) -> None:
    monkeypatch.setattr(following, "_CHUNK_BYTES", chunk)
    forge.grow(25)
    lines = all_lines(forge)
    for start in range(26):
        follower = LogFollower(forge.folder, start)
        found: list[bytes] = []
        while more := follower.read(at_most):
            assert len(more) <= at_most
            found += more
        assert found == lines[start:]
        assert follower.record == 25


def test_what_comes_later_is_read_later(forge: Forge) -> None:
    follower = LogFollower(forge.folder)
    found: list[bytes] = []
    for _ in range(12):
        assert follower.read() == []
        forge.grow(3)
        found += follower.read()
    assert found == all_lines(forge)


def test_nothing_behind_the_mark_is_read(forge: Forge) -> None:
    forge.grow(3)
    last = sorted(forge.folder.glob("*.jsonl"))[-1]
    with last.open("ab") as file:
        file.write(b'{"not":"durable"}\n')
    assert len(LogFollower(forge.folder).read()) == 3


def test_what_is_missing_is_an_incident(forge: Forge) -> None:
    forge.grow(25)
    segments = sorted(forge.folder.glob("*.jsonl"))
    segments[1].unlink()
    for start in (0, 10, 15):
        with pytest.raises(LogIncident, match=r"record 1[05] is"):
            LogFollower(forge.folder, start).read()
    assert len(LogFollower(forge.folder, 20).read()) == 5


def test_a_cut_end_is_an_incident(forge: Forge) -> None:
    forge.grow(2)
    mark = Mark(5, 0, 999_999, 0)
    (forge.folder / "mark").write_bytes(mark.encode())
    with pytest.raises(LogIncident, match="record 2 is missing"):
        LogFollower(forge.folder).read()
    (forge.folder / segment_name(0)).unlink()
    with pytest.raises(LogIncident, match="gone"):
        LogFollower(forge.folder).read()
