"""The logs of an instance as delivery reads them: `deliverer.Log` over a log's folder and its checkpoints.

What is sealed is told by the newest checkpoint, as it stands in the data folder: whether it is genuine, `verify` says.
"""

from __future__ import annotations

from pathlib import Path

from audit.checkpoint import claimed_checkpoint
from audit.errors import CheckpointInvalid
from audit.following import LogFollower
from audit.instance import Instance
from audit.segments import read_mark


class FollowedLog:
    """A log that may be written at the same time."""

    def __init__(self, folder: Path, checkpoints: Path) -> None:
        self._folder = folder
        self._latest = checkpoints / "latest"
        self._follower: LogFollower | None = None

    def sealed(self) -> int:
        """Never more than what is known to be durable; 0 where nothing was sealed yet, or a power cut left that untold."""
        try:
            signed = claimed_checkpoint(self._latest.read_text("utf-8", "replace")).size
        except (FileNotFoundError, CheckpointInvalid):
            return 0
        mark = read_mark(self._folder)
        return min(signed, mark.records) if mark is not None else 0

    def closed(self) -> int:
        mark = read_mark(self._folder)
        return mark.segment if mark is not None else 0

    def read(self, start: int, at_most: int) -> list[bytes]:
        follower, self._follower = self._follower, None  # one that raised is no good any more
        if follower is None or follower.record != start:
            follower = LogFollower(self._folder, start)
        lines = follower.read(at_most)
        self._follower = follower
        return lines


class Logs:
    """All logs of the instance in `data`, those made later too."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._found: dict[str, FollowedLog] = {}

    def __call__(self) -> dict[str, FollowedLog]:
        """Raises `NoInstance`."""
        instance = Instance.load(self._data)
        for name in instance.logs:
            if name not in self._found:
                self._found[name] = FollowedLog(instance.log_folder(name), instance.checkpoint_folder(name))
        return self._found
