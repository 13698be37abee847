"""Keeps the last uses of keys, for GetKeyLastUsage: reads at the start what a crash left unsaved, and saves now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from audit.errors import AuditError
from audit.record import AuditRecord
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.last_uses import LastUses, begin, mark, read, save
from proxy.errors import ProxyError
from proxy.sealed_store import SealedStore, StoreFailed

T = TypeVar("T")

_log = logging.getLogger(__name__)
_INTERVAL_S = 10.0
_FAR = 10_000  # records without a use behind the mark: to read them again takes a moment
_AT_ONCE = 500  # rows in one transaction: other changes wait for it


class UseKeeper:
    """`read_from(first)` gives the records of the log `log` from that number on; `records` of them are older than this process.
    For one event loop."""

    def __init__(
        self, uses: LastUses, store: SealedStore, log: str, records: int, read_from: Callable[[int], Iterable[AuditRecord]]
    ) -> None:
        self._uses = uses
        self._store = store
        self._log = log
        self._records = records
        self._read_from = read_from
        self._marked = records

    async def keep(self, stop: asyncio.Event, now_s: float, interval_s: float = _INTERVAL_S) -> None:
        """Until `stop`. Raises nothing: what cannot be saved is in the log."""
        self._uses.catching_up = asyncio.ensure_future(_told(self.catch_up(now_s)))
        await self._uses.catching_up
        self._uses.catching_up = None
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):  # wait_for would make a task each time
                    await stop.wait()
            await _told(self.save())

    async def finish(self) -> None:
        """Save what is left, when no call is under way any more. Raises nothing."""
        await _told(self.save())
        await _told(self.save(is_last=True))  # what was noted up to the first is safe to be marked now

    async def catch_up(self, now_s: float) -> None:
        """Note what the log has behind its mark."""
        first = await self._change(begin, self._log, self._records, now_s)
        if first < self._records:
            self._uses.add(await asyncio.to_thread(lambda: read(self._read_from(first))))
            await self.save()

    async def save(self, *, is_last: bool = False) -> None:
        """Save what was noted since; durable when this returns. Raises StoreFailed."""
        uses, safe = self._uses.take()
        try:
            for some in range(0, len(uses), _AT_ONCE):
                await self._change(save, dict(islice(uses.items(), some, some + _AT_ONCE)))
            if uses or is_last or safe > self._marked + _FAR:
                await self._change(mark, self._log, safe)
                self._marked = safe
        except ProxyError:
            self._uses.add(uses)
            raise

    async def _change(self, changing: Callable[..., T], *arguments: object) -> T:
        def change() -> T:
            with self._store.change() as tx:
                return changing(KeysInChange(tx), *arguments)

        return await asyncio.to_thread(change)


async def _told(doing: Awaitable[None]) -> None:
    try:
        await doing
    except StoreFailed:
        pass  # its watcher tells of it, and not each time
    except (ProxyError, AuditError, OSError) as error:
        _log.error("the last uses of keys: %s", error)
    except Exception:
        _log.exception("the last uses of keys: internal fault")
