"""The desk of a handler that takes long: the tables, changes, and threads for what would keep the event loop waiting."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.effects import note
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.sealed_store import SealedStore, StoreFailed

T = TypeVar("T")
Changing = Callable[[Surroundings, KeysInChange, KmsCall], Answer]

_ASIDE_THREADS = 2
_ASIDE_NICENESS = 10
_BESIDE_THREADS = 2


class Desk:
    """What a work works with: the tables as they are now, and the ways off the event loop's thread."""

    def __init__(self, around: Surroundings, tables: Tables, store: SealedStore) -> None:
        self.around = around
        self._tables = tables
        self._store = store
        self._changes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keystore")
        # Making an RSA key takes seconds of a core: calls go first. Linux has a niceness for each thread.
        self._aside = ThreadPoolExecutor(_ASIDE_THREADS, "aside", initializer=os.nice, initargs=(_ASIDE_NICENESS,))
        self._beside = ThreadPoolExecutor(max_workers=_BESIDE_THREADS, thread_name_prefix="beside")

    @property
    def tables(self) -> Tables:
        """This process's copy of the store, brought up to date."""
        self._tables.refresh()
        return self._tables

    async def change(self, changing: Changing, call: KmsCall) -> Answer:
        """Run a change. What `changing` learnt before it, from the tables, it has to look up again."""
        return await self.write(self._changing, changing, call)

    def _changing(self, keys: KeysInChange, changing: Changing, call: KmsCall) -> Answer:
        answer = changing(self.around, keys, call)
        if keys.tx.wrote:
            note(keys.tx, call, answer)
        return answer

    async def write(self, writing: Callable[..., T], *arguments: object) -> T:
        """What `writing(keys, *arguments)` gives, run in one transaction on the keystore's thread; durable when this returns."""
        written = await asyncio.get_running_loop().run_in_executor(self._changes, self._write, writing, arguments)
        with suppress(StoreFailed):  # it was made, and the next call asks again
            self._tables.refresh()
        return written

    def _write(self, writing: Callable[..., T], arguments: tuple[object, ...]) -> T:
        with self._store.change() as tx:
            return writing(KeysInChange(tx), *arguments)

    async def aside(self, function: Callable[..., T], *arguments: object) -> T:
        """What `function`, which may take long, gives; it runs on a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, function, *arguments)

    async def beside(self, is_slow: bool, function: Callable[..., T], *arguments: object) -> T:
        """What `function` gives; where it takes milliseconds, on a thread, but never behind what takes long."""
        if not is_slow:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._beside, function, *arguments)

    def close(self) -> None:
        """Wait for what is under way."""
        self._changes.shutdown()
        self._aside.shutdown()
        self._beside.shutdown()
