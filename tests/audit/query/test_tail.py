from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from audit.errors import QueryError
from audit.query.filters import Filter
from audit.query.lines import Damage, Found
from audit.query.tail import Follower, News, follow
from tests.audit.query.builder import LogBuilder


def lines_of(news: list[News]) -> list[bytes]:
    return [one.line for one in news if isinstance(one, Found)]


def test_last_lines_then_what_is_added(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    old = [log.add(seconds) for seconds in range(5)]
    follower = Follower(tmp_path, Filter())
    assert lines_of(follower.last(2)) == old[3:]
    assert follower.poll() == []
    new = [log.add(seconds) for seconds in (6, 7)]
    found = follower.poll()
    assert lines_of(found) == new
    assert [one.place.line for one in found if isinstance(one, Found)] == [6, 7]
    assert follower.poll() == []


def test_no_last_lines_wanted(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1)
    follower = Follower(tmp_path, Filter())
    assert follower.last(0) == []
    assert follower.poll() == []


def test_filters_hold_for_last_and_new(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    follower = Follower(tmp_path, Filter(caller="*/bob"))
    wanted = log.add(1, user="bob")
    log.add(2)
    assert lines_of(follower.last(1)) == [wanted]
    log.add(3)
    wanted = log.add(4, user="bob")
    assert lines_of(follower.poll()) == [wanted]


def test_a_partial_line_waits_until_it_is_complete(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    follower = Follower(tmp_path, Filter())
    follower.last(10)
    whole = LogBuilder(tmp_path / "other").add(1)
    log.raw(whole[:50])
    assert follower.poll() == []
    log.raw(whole[50:])
    assert follower.poll() == []
    log.raw(b"\n")
    assert lines_of(follower.poll()) == [whole]


def test_rotation_and_new_logs(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    follower = Follower(tmp_path, Filter())
    follower.last(10)
    expected = [log.add(1)]
    for seconds in (2, 4):
        log.rotate()
        expected.append(log.add(seconds))
    expected.insert(2, LogBuilder(tmp_path, "w1").add(3))
    assert lines_of(follower.poll()) == expected


def test_damage_is_told(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    follower = Follower(tmp_path, Filter())
    follower.last(0)
    log.raw(b"{broken\n")
    log.add(1)
    log.raw(b"{cut")
    segment = log.segment.name
    log.rotate()
    log.add(2)
    news = follower.poll()
    assert len(lines_of(news)) == 2
    assert [one for one in news if isinstance(one, Damage)] == [
        Damage("w0", segment, 1, "not JSON"),
        Damage("w0", segment, 3, "cut off: no end of line, in a segment that is not the last"),
    ]


def test_one_log_alone(tmp_path: Path) -> None:
    LogBuilder(tmp_path, "w0").add(1)
    log = LogBuilder(tmp_path, "w1")
    follower = Follower(tmp_path, Filter(), "w1")
    assert follower.last(5) == []
    wanted = log.add(2)
    assert lines_of(follower.poll()) == [wanted]
    with pytest.raises(QueryError):
        Follower(tmp_path, Filter(), "w2")


def test_following_waits_only_where_nothing_is_new(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(0)
    waits: list[int] = []

    def wait() -> None:
        waits.append(len(log.lines))
        log.add(len(log.lines))

    found = list(islice(follow(Follower(tmp_path, Filter()), 1, wait), 4))
    assert lines_of(found) == log.lines
    assert waits == [1, 2, 3]
