"""Stand-ins that implement the real Protocols, and break one rule at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from audit.log import Mark

#: What is left of an operation that failed: nothing, half of it, or all of it.
Effect = Literal["nothing", "half", "all"]


@dataclass
class SimulatedDisk:
    """An `audit.log.Disk` in memory, with a page cache that a power cut empties.

    The operation number `fail_at` (counted from 0 over all that can fail) raises OSError, its effect as `effect` says. A sync
    that fails marks the lost pages as clean, as Linux does: a later sync of the same pages succeeds and writes nothing.
    """

    fail_at: int = -1
    effect: Effect = "nothing"
    platter: dict[int, bytes] = field(default_factory=dict)  # what a power cut leaves
    cache: dict[int, bytes] = field(default_factory=dict)  # what reads see
    clean: dict[int, int] = field(default_factory=dict)  # bytes that the kernel thinks are on the platter
    mark: Mark | None = None
    marks: list[Mark] = field(default_factory=list)  # all that were ever written: any of them may be what a power cut leaves
    aside: list[tuple[int, int, bytes]] = field(default_factory=list)
    operations: int = 0
    current: int | None = None

    def _step(self) -> Effect | None:
        """Whether this operation fails, and with what effect; None when it works."""
        number, self.operations = self.operations, self.operations + 1
        return self.effect if number == self.fail_at else None

    def segments(self) -> list[int]:
        return sorted(self.cache)

    def read(self, segment: int, offset: int = 0) -> bytes:
        return self.cache[segment][offset:]

    def first_line(self, segment: int) -> bytes:
        line, newline, _ = self.cache[segment].partition(b"\n")
        return line + newline

    def create(self, segment: int) -> None:
        fault = self._step()
        if fault != "nothing":
            self.cache.setdefault(segment, b"")
            self.platter.setdefault(segment, b"")
            self.clean.setdefault(segment, 0)
        if fault is not None:
            raise OSError("create failed")
        self.current = segment

    def reopen(self, segment: int, size: int) -> None:
        if self._step() is not None:
            raise OSError("reopen failed")
        assert len(self.cache[segment]) == size
        self.current = segment

    def append(self, data: bytes) -> None:
        fault = self._step()
        assert self.current is not None
        written = {None: data, "all": data, "half": data[: len(data) // 2], "nothing": b""}[fault]
        self.cache[self.current] += written
        if fault is not None:
            raise OSError("append failed")

    def sync(self, size: int) -> None:
        fault = self._step()
        assert self.current is not None
        self._flush(self.current, fault)
        if fault is not None:
            raise OSError("sync failed")
        assert len(self.cache[self.current]) == size

    def rewrite(self, segment: int, offset: int, data: bytes) -> None:
        fault = self._step()
        if fault == "nothing":
            raise OSError("rewrite failed")
        written = data[: len(data) // 2] if fault == "half" else data
        old = self.cache[segment]
        # An overwrite in place: until the file is cut, the old bytes behind the new ones are still there.
        self.cache[segment] = old[:offset] + written + (old[offset + len(written) :] if fault == "half" else b"")
        self.clean[segment] = min(self.clean[segment], offset)
        self._flush(segment, fault)
        if fault is not None:
            raise OSError("rewrite failed")

    def _flush(self, segment: int, fault: Effect | None) -> None:
        cached, clean = self.cache[segment], self.clean[segment]
        dirty = cached[clean:]
        reached = {None: dirty, "all": dirty, "half": dirty[: len(dirty) // 2], "nothing": b""}[fault]
        old = self.platter[segment]
        left = b"" if fault in (None, "all") else old[clean + len(reached) :]  # not overwritten yet, not cut yet
        self.platter[segment] = old[:clean].ljust(clean, b"\0") + reached + left
        self.clean[segment] = len(cached)

    def set_aside(self, segment: int, offset: int, data: bytes) -> str:
        fault = self._step()
        if fault != "nothing":
            self.aside.append((segment, offset, data))
        if fault is not None:
            raise OSError("set_aside failed")
        return f"torn/{len(self.aside)}"

    def read_mark(self) -> Mark | None:
        return self.mark

    def write_mark(self, mark: Mark) -> None:
        fault = self._step()
        if fault is None or fault == "all":
            self.mark = mark
            self.marks.append(mark)
        elif fault == "half":
            self.mark = None
        if fault is not None:
            raise OSError("write_mark failed")

    def close(self) -> None:
        self.current = None

    def after_kill(self) -> SimulatedDisk:
        """The disk as the next process finds it when this one was killed: the page cache lives on."""
        return SimulatedDisk(
            platter=dict(self.platter),
            cache=dict(self.cache),
            clean=dict(self.clean),
            mark=self.mark,
            marks=list(self.marks),
            aside=list(self.aside),
        )

    def after_power_cut(self, mark: Mark | None = None) -> SimulatedDisk:
        """The disk as the next process finds it after a power cut: only what was synced, and `mark`, one of `marks`, or none."""
        return SimulatedDisk(
            platter=dict(self.platter),
            cache=dict(self.platter),
            clean={segment: len(data) for segment, data in self.platter.items()},
            mark=mark,
            marks=list(self.marks),
            aside=list(self.aside),
        )
