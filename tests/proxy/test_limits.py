"""Token buckets: the average, the burst, and how many callers are remembered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.limits import MAX_CALLERS, CallerRates

SECOND = 1_000_000


def test_a_burst_and_then_the_average() -> None:
    rates = CallerRates(10, 20)
    assert [rates.take("a", 0) for _ in range(21)] == [True] * 20 + [False]
    assert [rates.take("a", SECOND // 10) for _ in range(2)] == [True, False]
    assert sum(rates.take("a", 100 * SECOND) for _ in range(50)) == 20


def test_callers_do_not_share() -> None:
    rates = CallerRates(1, 1)
    assert rates.take("a", 0) and not rates.take("a", 0) and rates.take("b", 0)


def test_less_than_one_call_a_second_is_possible() -> None:
    rates = CallerRates(0.1, 0.2)
    assert rates.take("a", 0)
    assert not rates.take("a", 9 * SECOND)
    assert rates.take("a", 11 * SECOND)


def test_no_number_of_callers_fills_the_memory() -> None:
    rates = CallerRates(1, 1)
    for number in range(MAX_CALLERS + 100):
        assert rates.take(str(number), 0)
    assert len(rates._buckets) == MAX_CALLERS
    assert rates.take("0", 0)  # forgotten, and so anew
    assert not rates.take(str(MAX_CALLERS + 99), 0)


@given(st.lists(st.integers(0, 3 * SECOND), max_size=200), st.floats(0.1, 100), st.floats(1, 50))
def test_never_more_than_rate_and_burst(times: list[int], rate: float, burst: float) -> None:
    rates = CallerRates(rate, burst)
    taken = sum(rates.take("a", moment) for moment in sorted(times))
    assert taken <= burst + rate * 3 + 1e-6


def test_a_clock_that_steps_back_gives_nothing_and_takes_nothing_for_long() -> None:
    rates = CallerRates(1, 1)
    assert rates.take("a", 10 * SECOND)
    assert not rates.take("a", 10 * SECOND - SECOND // 2)
    assert not rates.take("a", 10 * SECOND)
    assert rates.take("a", 11 * SECOND)
    assert not rates.take("a", 2 * SECOND)  # set back by nine seconds: from here on it counts anew
    assert rates.take("a", 3 * SECOND)
