"""Pauses between tries that fail: each twice as long as the last, up to five minutes, with jitter."""

from __future__ import annotations

import asyncio
from random import SystemRandom

FIRST_S, LONGEST_S = 1.0, 300.0
_jitter = SystemRandom().uniform  # so that what failed together does not come back together


class Pauses:
    """Of one thing that is tried again and again, inside an event loop."""

    def __init__(self) -> None:
        self.failures = 0
        self.until_s = float("-inf")

    @property
    def is_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self.until_s

    def begin(self) -> None:
        """A try has failed."""
        pause_s = min(FIRST_S * 2**self.failures, LONGEST_S) * _jitter(0.5, 1.5)
        self.until_s = asyncio.get_running_loop().time() + pause_s
        self.failures = min(self.failures + 1, 20)

    def reset(self) -> None:
        """A try has not."""
        self.failures = 0
