"""Whether a sealer that runs apart from `serve` is alive: told by how old the oldest record is that no checkpoint covers.

An old checkpoint alone says nothing, since a log that does not grow gets no new one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from audit.companion import Status
from audit.instance import Instance
from audit.segments import read_mark

LIMIT_S = 10.0  # as long as `verify` gives it


class SealerWatch:
    """`look` now and then, and `status` any time. `now_s` never goes back."""

    def __init__(self, load: Callable[[], Instance], now_s: Callable[[], float]) -> None:
        self._load = load
        self._now_s = now_s
        self._waiting: dict[str, tuple[int, float]] = {}  # records of a log, and since when they wait for a checkpoint

    def look(self) -> None:
        """Raises `NoInstance`, OSError."""
        instance, now_s = self._load(), self._now_s()
        for log in instance.logs:
            mark = read_mark(instance.log_folder(log))
            records, signed = 0 if mark is None else mark.records, _signed_size(instance, log)
            if signed >= self._waiting.get(log, (0, 0.0))[0]:
                self._waiting.pop(log, None)
            if signed < records:
                self._waiting.setdefault(log, (records, now_s))

    def status(self) -> Status:
        oldest = min(self._waiting.items(), key=lambda item: item[1][1], default=None)
        if oldest is None or (age_s := self._now_s() - oldest[1][1]) <= LIMIT_S:
            return Status(ready=True)
        return Status(
            ready=False, reason=f"no checkpoint covers records of the log {oldest[0]} for {age_s:.0f} s: is it running?"
        )


def _signed_size(instance: Instance, log: str) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((instance.checkpoint_folder(log) / "latest").read_bytes().split(b"\n", 2)[1])
    return 0
