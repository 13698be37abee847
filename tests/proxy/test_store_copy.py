"""The copy in memory of a store elsewhere: when it is gone by, and when it is not."""

from __future__ import annotations

import pytest

from proxy.sealing import RowValues
from proxy.store_copy import Copy, Fetched
from proxy.store_database import StoreFailed


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def copy(clock: Clock) -> Copy:
    return Copy("the store", 10.0, clock)


def row(name: str, generation: int, deleted: int = 0) -> RowValues:
    return ("key", "eu", name, "", generation, deleted, b"{}", b"sealed")


def told(copy: Copy) -> tuple[int, str | None, str | None]:
    return copy.published, copy.fault, copy.lost


def names(copy: Copy) -> list[str]:
    with copy.reading() as connection:
        return [name for (name,) in connection.execute("SELECT id FROM entries ORDER BY id")]


def test_it_is_not_gone_by_before_it_was_filled(copy: Copy) -> None:
    with pytest.raises(StoreFailed, match="has not been heard of"):
        _ = copy.published


def test_it_is_as_old_as_the_question_and_too_old_after_the_limit(copy: Copy, clock: Clock) -> None:
    copy.take(Fetched(7, 0, [row("a", 7)], True), asked_s := clock())
    clock.now_s = asked_s + 9.9  # the answer took long; what counts is when it was asked for
    assert (copy.published, copy.fault) == (7, None)
    copy.heard(asked_s + 5)
    copy.heard(asked_s)  # an answer that came late makes it no older
    clock.now_s = asked_s + 14.9
    assert copy.published == 7
    clock.now_s = asked_s + 15.1
    copy.lost = "connection refused"
    with pytest.raises(StoreFailed, match="the store has not been heard of for 10 s: connection refused"):
        _ = copy.published
    copy.heard(clock())
    assert told(copy) == (7, None, None)


def test_what_this_process_changed_is_waited_for(copy: Copy, clock: Clock) -> None:
    copy.take(Fetched(7, 0, [], True), clock())
    copy.owe(9)
    copy.owe(8)  # two threads changed something, and told it in another order
    for generation in (7, 8):
        copy.take(Fetched(generation, 0, [], False), clock())
        with pytest.raises(StoreFailed, match="what was changed here has not come back yet"):
            _ = copy.published
    copy.take(Fetched(10, 0, [], False), clock())
    assert copy.published == 10


def test_rows_come_and_go_as_in_the_store(copy: Copy, clock: Clock) -> None:
    copy.take(Fetched(2, 0, [row("a", 1), row("b", 2)], True), clock())
    copy.take(Fetched(4, 0, [row("a", 3, deleted=1), row("c", 4)], False), clock())
    assert names(copy) == ["a", "b", "c"]  # with the tombstone, for readers that have the row
    copy.take(Fetched(5, 3, [], False), clock())
    assert names(copy) == ["b", "c"]
    copy.take(Fetched(9, 8, [row("z", 9)], True), clock())
    assert names(copy) == ["z"]
    with copy.reading() as connection:
        assert dict(connection.execute("SELECT name, value FROM meta")) == {"generation": b"9", "pruned": b"8"}


def test_a_store_that_went_back_is_refused_for_good(copy: Copy, clock: Clock) -> None:
    copy.take(Fetched(7, 0, [row("a", 7)], True), clock())
    copy.take(Fetched(5, 0, [], False), clock())
    for _ in range(2):
        with pytest.raises(StoreFailed, match="went back from generation 7 to 5"):
            _ = copy.published
        assert copy.fault is not None and "went back" in copy.fault
        copy.heard(clock())
        copy.take(Fetched(8, 0, [], False), clock())
