"""A process that runs beside the workers: what it is told, what it tells, and when it ends.

The supervisor starts it as `python -m MODULE DATA`. The first line on its standard input is its plan, JSON: settings, of which
one may be a secret, and so they are no arguments. When standard input ends, it is time to go, so that no companion outlives a
supervisor that was killed. On standard output it reports its status, a JSON line a change, and counts where it has any. Without
a supervisor it can be run by hand, or by an init system: its plan is then empty, or what is piped to it.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import orjson

_LONGEST_PLAN_BYTES = 1 << 20

#: What a companion needs to know; each has members of its own.
Plan = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a companion does its work, and if not, why. `failed`: trying again is of no use, a person has to look."""

    ready: bool
    reason: str | None = None
    failed: bool = False


#: Is told the status of a companion.
Report = Callable[[Status], None]
#: Counts for the metrics: of each its name, the values of its labels, and how much.
Counts = list[list[str | int]]
ReportCounts = Callable[[Counts], None]


class Reporter:
    """Tells the supervisor, on standard output, what changed."""

    def __init__(self) -> None:
        self._told: Status | None = None

    def __call__(self, status: Status) -> None:
        if status != self._told:
            self._told = status
            print(orjson.dumps(asdict(status)).decode(), flush=True)


class CountsReporter:
    """Tells the supervisor, on standard output, all counts when one has changed."""

    def __init__(self) -> None:
        self._told: Counts = []

    def __call__(self, counts: Counts) -> None:
        if counts != self._told:
            self._told = counts
            print(orjson.dumps(counts).decode(), flush=True)


def read_plan(stream: int | None = None) -> Plan:
    """The plan on the file descriptor `stream` (standard input), read byte by byte: what stands behind it is left there.

    Empty where there is none. Raises ValueError where it is none.
    """
    fd = sys.stdin.fileno() if stream is None else stream
    line = bytearray()
    while not line.endswith(b"\n") and (byte := os.read(fd, 1)):
        line += byte
        if len(line) > _LONGEST_PLAN_BYTES:
            raise ValueError("the plan is too long")
    if not line:
        return {}
    plan = orjson.loads(line)
    if not isinstance(plan, dict):
        raise ValueError("the plan is no JSON object")
    return plan


def is_over(within_s: float, stream: int | None = None) -> bool:
    """Wait, `within_s` at most, for the end of standard input; whether it has come."""
    fd = sys.stdin.fileno() if stream is None else stream
    return bool(select.select([fd], [], [], within_s)[0]) and not os.read(fd, 1)


def end_of_input() -> asyncio.Event:
    """An event of the running loop that is set when standard input has ended."""
    loop, ended, fd = asyncio.get_running_loop(), asyncio.Event(), sys.stdin.fileno()

    def wait() -> None:
        while os.read(fd, 4_096):
            pass
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    return ended
