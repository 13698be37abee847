"""The sealer: follows an instance's logs, and signs what their trees are. A process of its own, `python -m audit.sealing DATA`.

It signs every two seconds while there is something new, at once when a segment has been closed, and when it ends.
"""

from __future__ import annotations

import fcntl
import select
from pathlib import Path

from audit.companion import Report, Reporter, Status
from audit.errors import AuditError
from audit.instance import Instance
from audit.sealing.keys import load_key
from audit.sealing.log_sealer import LogSealer
from audit.segments import read_mark

INTERVAL_S = 2.0
_LOOK_S = 0.25  # how often it looks whether a segment was closed


class Sealer:
    """Seals every log of the instance in `data`, those made later too. `report` is told what goes wrong, and when it is over."""

    def __init__(self, data: Path, report: Report) -> None:
        self._data = data
        self._report = report
        self._key = load_key(Instance.load(data).sealer_key)
        self._logs: dict[str, LogSealer] = {}
        self._told: Status | None = None

    def seal_all(self) -> None:
        """One step for every log. A log that cannot be sealed is reported, and does not keep the others from it."""
        faults = {}
        instance = Instance.load(self._data)
        for log in instance.logs:
            try:
                if log not in self._logs:
                    folders = (instance.log_folder(log), instance.checkpoint_folder(log))
                    self._logs[log] = LogSealer(*folders, instance.origin(log), self._key)
                self._logs[log].seal()
            except (AuditError, OSError) as error:
                self._logs.pop(log, None)  # start again from what is on disk
                faults[log] = str(error)
        status = Status(not faults, "; ".join(faults.values()) or None)
        if status != self._told:
            self._told = status
            self._report(status)

    def has_closed_segment(self) -> bool:
        """Whether a segment was closed since the last step."""
        for log in self._logs.values():
            mark = read_mark(log.folder)
            if mark is not None and mark.segment > log.segment:
                return True
        return False

    def run(self, stop: int) -> None:
        """Seal until the file descriptor `stop` becomes readable; then once more."""
        since_s = INTERVAL_S
        while not select.select([stop], [], [], _LOOK_S)[0]:
            since_s += _LOOK_S
            if since_s >= INTERVAL_S or self.has_closed_segment():
                self.seal_all()
                since_s = 0.0
        self.seal_all()


def seal_once(instance: Instance) -> None:
    """One step for each log of `instance`, for a command that is not followed by a sealer. Raises `AuditError`, OSError."""
    key = load_key(instance.sealer_key)
    for log in instance.logs:
        LogSealer(instance.log_folder(log), instance.checkpoint_folder(log), instance.origin(log), key).seal()


def main(data: str, stop: int = 0) -> int:
    """The sealer's process: the file descriptor `stop` ends when it should."""
    report = Reporter()
    try:
        Instance.load(Path(data))
        with (Path(data) / "checkpoints" / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one sealer at a time: that of a killed supervisor may still be signing its last
            Sealer(Path(data), report).run(stop)
    except (AuditError, OSError) as error:
        report(Status(ready=False, reason=str(error)))
        return 3
    return 0
