"""Does what time does to keys: deletes those whose waiting period is over, erases what has expired, rotates what is to rotate.

Intent before effect, as for a call: the intent of each thing is committed before it is done, and then its outcome, as events of
the service (`AwsServiceEvent`). A crash between the two leaves an intent that the next start closes, and tells by the row that
the effect left whether it was done (`effects`); what was not done is still due, and is done under an intent of its own. What
several workers see is done once: one of them has the turn, by a lock on a file, and the transaction looks again whether the
thing is due.

With a virtual clock, the log says so: at the first pass and whenever the clock was moved.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Protocol

from audit.commit import Receipt
from audit.errors import CommitFailed
from audit.record import AuditRecord, Phase
from proxy.backends.local.due import Due
from proxy.backends.local.maintenance import Done, Intent
from proxy.clock import Clock, VirtualClock
from proxy.domain import KeyUse
from proxy.errors import KmsError, ProxyError
from proxy.kms.arn import key_arn
from proxy.recording import Recorder
from proxy.sealed_store import StoreFailed

_log = logging.getLogger(__name__)
_NOT_DUE = KmsError("KMSInvalidStateException", "It is not due any more; nothing was done.")
_FAILED = KmsError("KMSInternalException", "It failed, and is tried again.", status=500)
_MAY_HAVE = KmsError(
    "KMSInternalException", "It may have been done; where not, it is tried again.", status=500, effect_unknown=True
)
_PATIENCE_US = 60_000_000


class Keys(Protocol):
    """What maintenance needs of `proxy.backends.local.backend.LocalBackend`."""

    def due(self) -> Sequence[Due]: ...

    async def carry_out(self, due: Due, intent: Intent) -> Done | None: ...


class Commits(Protocol):
    """What it needs of `audit.commit.AuditLog`."""

    @property
    def fault(self) -> str | None: ...

    def commit(self, record: AuditRecord) -> Awaitable[Receipt]: ...


class Maintenance:
    """The maintenance of one worker; `turn` is the file of the lock. `run` is called again and again, one at a time."""

    def __init__(self, keys: Keys, recorder: Recorder, log: Commits, now_us: Callable[[], int], clock: Clock, turn: Path) -> None:
        self._keys = keys
        self._recorder = recorder
        self._log = log
        self._now_us = now_us
        self._clock = clock
        self._turn = turn
        self._told_s: float | None = None
        self._again_us: dict[Due, int] = {}  # when what failed is tried again
        self.busy = False

    async def run(self) -> None:
        """Do what is due now, some of it if it is much. Raises nothing: what fails is told, and is due still."""
        if self._log.fault is not None:
            return
        self.busy = True
        try:
            await self._tell_clock()
            if self._keys.due():
                with _turn(self._turn) as is_ours:
                    for due in self._keys.due() if is_ours else ():
                        await self._do(due)
        except (ProxyError, CommitFailed, OSError) as error:
            _log.error("maintenance goes on later: %s", error)
        except Exception:
            _log.exception("maintenance goes on later: internal fault")
        finally:
            self.busy = False

    async def _tell_clock(self) -> None:
        if isinstance(self._clock, VirtualClock) and (offset_s := self._clock.offset_s) != self._told_s:
            _log.warning("keys live by a virtual clock: %+.0f s", offset_s)
            details = {"offsetSeconds": offset_s}
            await self._log.commit(self._recorder.own_event("SetVirtualClock", self._now_us(), details))
            self._told_s = offset_s

    async def _do(self, due: Due) -> None:
        """Intent, effect, outcome. Each thing that was done is an event of its own, and the first closes the intent."""
        if self._again_us.get(due, 0) > self._now_us():
            return
        meant = (KeyUse(key_arn(due.region, due.account_id, due.key_id), due.account_id),)
        event = partial(self._recorder.service_event, due.happening.event, due.region)
        told = {"keyId": due.key_id}
        intent = event(self._now_us(), told, meant, phase=Phase.INTENT)
        await self._log.commit(intent)
        try:
            done = await self._keys.carry_out(due, Intent(intent.event_id, intent.time_us))
        except Exception as fault:  # also one of ours: the intent is to have its outcome, and other keys theirs
            _log.error(
                "%s of %s failed: %s", due.happening.event, meant[0].arn, fault, exc_info=not isinstance(fault, ProxyError)
            )
            self._again_us[due] = self._now_us() + _PATIENCE_US
            failed = _MAY_HAVE if isinstance(fault, StoreFailed) and fault.outcome_unknown else _FAILED
            await self._log.commit(event(self._now_us(), told, meant, intent_id=intent.event_id, error=failed))
            return
        self._again_us.pop(due, None)
        if done is None or not done.details:
            await self._log.commit(event(self._now_us(), told, meant, intent_id=intent.event_id, error=_NOT_DUE))
            return
        ids = (intent.event_id, *repeat(None, len(done.details) - 1))
        records = [
            event(self._now_us(), details, done.keys, intent_id=closed) for closed, details in zip(ids, done.details, strict=True)
        ]
        for committing in [self._log.commit(record) for record in records]:
            await committing


@contextmanager
def _turn(path: Path) -> Iterator[bool]:
    """Whether it is this process's turn; it is until the end of the block, or of the process."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
