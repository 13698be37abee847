"""The health of a process that records: its log when that is poisoned, and the key store when it cannot be gone by, or fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from audit.commit import AuditLog
from audit.errors import AuditError
from proxy.sealed_store import Failures, SealedStore

_log = logging.getLogger(__name__)
_RECOVERY_INTERVAL_S = 1.0
_HEALTH_INTERVAL_S = 0.2
_QUIET_S = 5.0


class FailuresTold:
    """Tells of failures once, when they begin, and how many there were when none has come for a while since one succeeded. `what`
    fails, and what is so again when that is over."""

    def __init__(self, failures: Failures, what: str, over: str) -> None:
        self._failures = failures
        self._what = what
        self._over = over
        self._seen = self._before = failures.count
        self._last_s: float | None = None  # when the last one was seen; None where they are over

    def look(self, now_s: float) -> None:
        """For now and then; `now_s` is of a clock that only goes forward."""
        count = self._failures.count
        if count != self._seen:
            if self._last_s is None:
                _log.error("%s: %s", self._what, self._failures.reason)
                self._before = self._seen
            self._seen, self._last_s = count, now_s
        elif self._last_s is not None and self._failures.are_over and now_s - self._last_s >= _QUIET_S:
            _log.info("%s; %d failed", self._over, count - self._before)
            self._last_s = None


def failures_of(store: SealedStore) -> tuple[FailuresTold, ...]:
    """Of its changes and its readings: a full disk lets calls be answered that change nothing."""
    return (
        FailuresTold(store.failed_changes, "the key store takes no changes", "the key store takes changes again"),
        FailuresTold(store.failed_readings, "the key store cannot be read", "the key store can be read again"),
    )


async def watch(log: AuditLog, store: SealedStore, report: Callable[[str | None], None]) -> None:
    """Report when the log is poisoned, and recover it; and when the key store cannot be gone by, and can again. `report` is told
    why the process is not ready; None when it is again. What of the key store fails is told in the log."""
    reported: str | None = None
    failures, loop = failures_of(store), asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_HEALTH_INTERVAL_S)
        for one in failures:
            one.look(loop.time())
        if log.fault is None:
            fault = store.fault
            if (fault is None) is not (reported is None):
                reported = fault
                _log.log(logging.INFO if fault is None else logging.ERROR, "%s", fault or "the key store is there again")
                report(fault)
            continue
        if log.fault != reported:
            reported = log.fault
            _log.error("not ready: %s", reported)
            report(reported)
        await asyncio.sleep(_RECOVERY_INTERVAL_S)
        try:
            await log.recover()
        except (AuditError, OSError) as error:
            if str(error) != reported:
                reported = str(error)
                _log.error("the log cannot be recovered yet: %s", error)
                report(reported)
        else:
            reported = None
            _log.info("the log is healthy again")
            report(None)
