"""How often a caller may call. Pure: the clock is an argument."""

from __future__ import annotations

from collections import OrderedDict

MAX_CALLERS = 20_000
_MAX_STEP_BACK_US = 1_000_000


class CallerRates:
    """A token bucket for each caller: `calls_per_s` on average, and up to `burst` at once. For one thread.

    Of more than `MAX_CALLERS` callers, the one whose bucket was made or refilled longest ago is forgotten: it begins anew with a
    full bucket, which is what it would nearly have.
    """

    def __init__(self, calls_per_s: float, burst: float) -> None:
        self._per_us = calls_per_s / 1e6
        self._burst = max(burst, 1.0)
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()  # tokens, and when they were counted; oldest first

    def take(self, caller: str, now_us: int) -> bool:
        """Whether `caller` may call now (microseconds): takes one of its tokens if so. A clock that is set back by more than a
        second refills the bucket from its new time on."""
        tokens, counted_us = self._buckets.pop(caller, (self._burst, now_us))
        if counted_us - now_us > _MAX_STEP_BACK_US:
            counted_us = now_us
        tokens = min(self._burst, tokens + max(0, now_us - counted_us) * self._per_us)
        may = tokens >= 1.0
        self._buckets[caller] = (tokens - 1.0 if may else tokens, max(now_us, counted_us))
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return may
