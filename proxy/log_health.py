"""The health of a process that records: its log when that is poisoned, and the key store when it cannot be gone by."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from audit.commit import AuditLog
from audit.errors import AuditError
from proxy.sealed_store import SealedStore

_log = logging.getLogger(__name__)
_RECOVERY_INTERVAL_S = 1.0
_HEALTH_INTERVAL_S = 0.2


async def watch(log: AuditLog, store: SealedStore, report: Callable[[str | None], None]) -> None:
    """Report when the log is poisoned, and recover it; and when the key store cannot be gone by, and can again. `report` is told
    why the process is not ready; None when it is again."""
    reported: str | None = None
    while True:
        await asyncio.sleep(_HEALTH_INTERVAL_S)
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
