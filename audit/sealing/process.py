"""The sealer: follows an instance's logs, and signs what their trees are. A process of its own, `python -m audit.sealing DATA`.

It signs every two seconds while there is something new, at once when a segment has been closed or a change of its key is asked
for, and when it ends. While the KMS that has its key does not sign, it tries again ever more seldom; nothing is lost by that.
"""

from __future__ import annotations

import fcntl
import select
import time
from collections.abc import Callable
from pathlib import Path

from audit import durable
from audit.checkpoint import SigningKey
from audit.companion import Plan, Report, Reporter, Status
from audit.errors import AuditError, SigningUnavailable
from audit.instance import Instance
from audit.keychain import KeyChain
from audit.sealing import rotation
from audit.sealing.account import become, require_own
from audit.sealing.keys import KeyPlace
from audit.sealing.log_sealer import LogSealer
from audit.sealing.state import SealerState
from audit.segments import read_mark

INTERVAL_S = 2.0
_LONGEST_INTERVAL_S = 60.0
_LOOK_S = 0.25  # how often it looks whether a segment was closed


class SealerRuns(AuditError):
    """Another sealer runs on the data folder."""


class Sealer:
    """Seals every log of the instance in `data`, those made later too, with the key at `place`. `report` is told what goes wrong,
    and when it is over."""

    def __init__(self, data: Path, report: Report, place: KeyPlace | None = None, now: Callable[[], str] | None = None) -> None:
        self._data = data
        self._report = report
        self._place = place or KeyPlace()
        self._now = now or _now
        self._key: SigningKey | None = None
        self._chain: KeyChain | None = None
        self._state: SealerState | None = None
        self._logs: dict[str, LogSealer] = {}
        self._told: Status | None = None
        self._interval_s = INTERVAL_S

    def seal_all(self) -> None:
        """One step for every log, and a change of the key where one is asked for. A log that cannot be sealed is reported, and
        does not keep the others from it."""
        faults: dict[str, str] = {}
        try:
            self._step(faults)
            self._interval_s = INTERVAL_S
        except SigningUnavailable as error:  # so it is for all of them
            self._forget()
            self._interval_s = min(2 * self._interval_s, _LONGEST_INTERVAL_S)
            faults[""] = str(error)
        except (AuditError, OSError) as error:
            self._forget()
            faults[""] = str(error)
        status = Status(not faults, "; ".join(faults.values()) or None)
        if status != self._told:
            self._told = status
            self._report(status)

    def _step(self, faults: dict[str, str]) -> None:
        instance = Instance.load(self._data)
        require_own(checkpoints := self._data / "checkpoints", checkpoints)
        if self._key is None or self._state is None:
            self._key, self._chain = rotation.open_current(instance, self._place)
            self._state = SealerState(self._place.state_file(instance), instance.id)
        for log in instance.logs:
            try:
                if log not in self._logs:
                    self._logs[log] = _open_log(instance, log, self._key, self._chain, self._state)
                self._logs[log].seal()
            except SigningUnavailable:
                raise
            except (AuditError, OSError) as error:
                self._logs.pop(log, None)  # start again from what is on disk
                faults[log] = str(error)
        request = rotation.asked(instance)
        if request is not None and not faults:
            last = {log: self._logs[log].signed for log in instance.logs}
            self._place = rotation.carry_out(instance, self._place, request, self._key, last, self._now())
            self._forget()

    def _forget(self) -> None:
        """Start again, with the key and the logs as they are then."""
        self._key = self._chain = self._state = None
        self._logs.clear()

    def is_wanted(self) -> bool:
        """Whether a segment was closed since the last step, or another key is asked for. What went wrong can wait its turn."""
        if self._told is not None and not self._told.ready:
            return False
        for log in self._logs.values():
            mark = read_mark(log.folder)
            if mark is not None and mark.segment > log.segment:
                return True
        return (self._data / "checkpoints" / "rotation").exists()

    def run(self, stop: int) -> None:
        """Seal until the file descriptor `stop` becomes readable; then once more."""
        since_s = INTERVAL_S
        while not select.select([stop], [], [], _LOOK_S)[0]:
            since_s += _LOOK_S
            if since_s >= self._interval_s or self.is_wanted():
                self.seal_all()
                since_s = 0.0
        self.seal_all()


def _open_log(instance: Instance, log: str, key: SigningKey, chain: KeyChain | None, state: SealerState) -> LogSealer:
    checkpoints = instance.checkpoint_folder(log)
    if not checkpoints.exists():  # where the folder of checkpoints is the sealer's own, nobody else could make it
        durable.create_folder(checkpoints, 0o750)
    require_own(checkpoints, checkpoints)
    return LogSealer(instance.log_folder(log), checkpoints, instance.origin(log), key, chain=chain, state=state)


def seal_once(instance: Instance, place: KeyPlace | None = None) -> None:
    """One step for each log of `instance`, for a command that is not followed by a sealer. Raises `AuditError`, OSError."""
    place = place or KeyPlace()
    key, chain = rotation.open_current(instance, place)
    state = SealerState(place.state_file(instance), instance.id)
    for log in instance.logs:
        _open_log(instance, log, key, chain, state).seal()


def main(data: str, plan: Plan | None = None, stop: int = 0, report: Report | None = None, *, is_patient: bool = True) -> int:
    """The sealer's process, as the user that the plan names: the file descriptor `stop` ends when it should.

    One that runs already is waited for, where `is_patient`: that of a killed supervisor may still be signing its last.
    """
    report, plan, folder = report or Reporter(), plan or {}, Path(data)
    try:
        Instance.load(folder)
        become(str(plan.get("user", "")), folder)
        with (folder / "checkpoints" / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if is_patient else fcntl.LOCK_NB))
            except BlockingIOError:
                raise SealerRuns(f"another sealer runs on {data}") from None
            Sealer(folder, report, KeyPlace.of(plan)).run(stop)
    except (AuditError, OSError) as error:
        report(Status(ready=False, reason=str(error)))
        return 3
    return 0


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
