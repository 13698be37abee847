"""`LocalBackend`: the embedded KMS; which handler answers which operation, and how changes are carried out.

There are three kinds of handlers. A *reading* is answered at once, on the event loop's thread, from this process's tables. A
*change* runs on a thread of its own, one at a time, against the database's state inside one transaction; it is durable and
published, and this process's tables show it, before `call` returns. A *work* is a coroutine, for what takes long (making an RSA
key, asking another server): it has a `Desk` to change things from. A new family of operations is a new file with tables of its
handlers, and its name in `FAMILIES`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from types import ModuleType
from typing import Any

from cryptography.x509 import Certificate

from proxy.backends.local import (
    agreement,
    aliases,
    creation,
    cryptographic,
    custom_stores,
    encapsulation,
    grant_lists,
    granting,
    imports,
    key_policies,
    last_usage,
    life,
    macs,
    metadata,
    pairs,
    public_keys,
    replicas,
    rotation,
    signing,
    tags,
)
from proxy.backends.local.attested import answer_attested
from proxy.backends.local.desk import Changing, Desk
from proxy.backends.local.due import Due, Happening
from proxy.backends.local.external_keys import EXTERNAL, names_external_key
from proxy.backends.local.last_uses import LastUses
from proxy.backends.local.lookup import check_grant_tokens
from proxy.backends.local.maintenance import GRANTS_AT_ONCE, Done, Intent, carry_out, clear
from proxy.backends.local.migrations import migrate
from proxy.backends.local.surroundings import Authoriser, Surroundings
from proxy.backends.local.tables import Tables
from proxy.backends.local.xks.client import XksClient
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError, SealBroken
from proxy.sealed_store import SealedStore, StoreFailed

_log = logging.getLogger(__name__)

Reading = Callable[[Surroundings, Tables, KmsCall], Answer]
Working = Callable[[Desk, KmsCall], Awaitable[Answer]]

#: Each has some of the tables READINGS, CHANGES and WORKS, from an operation's name to its handler.
FAMILIES: tuple[ModuleType, ...] = (
    cryptographic,
    pairs,
    signing,
    macs,
    agreement,
    encapsulation,
    public_keys,
    creation,
    custom_stores,
    metadata,
    life,
    key_policies,
    aliases,
    tags,
    rotation,
    imports,
    replicas,
    last_usage,
    granting,
    grant_lists,
)


def _gathered(kind: str) -> dict[str, Any]:  # Any: handlers of that kind
    found: dict[str, Any] = {}
    for family in FAMILIES:
        for name, handler in getattr(family, kind, {}).items():
            if name in found:
                raise LookupError(f"two handlers for {name}")
            found[name] = handler
    return found


READINGS: Mapping[str, Reading] = _gathered("READINGS")
CHANGES: Mapping[str, Changing] = _gathered("CHANGES")
WORKS: Mapping[str, Working] = _gathered("WORKS")


class LocalBackend:
    """A `Backend` on keys in a sealed store. Made and called on one event loop's thread.

    `clock` gives seconds since the epoch; `random(n)` gives n unpredictable bytes; both are called on other threads too. A call
    that needs a row which another hand changed is answered with KMSInternalException, as it is when the store fails.
    """

    name = "local"
    forwards = False

    def __init__(
        self,
        store: SealedStore,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        authoriser: Authoriser,
        attestation_roots: tuple[Certificate, ...] = (),
        xks: XksClient | None = None,
        uses: LastUses | None = None,
    ) -> None:
        migrate(store)
        self._around = Surroundings(clock, random, authoriser, attestation_roots, xks, uses or LastUses())
        self._tables = Tables(store)
        self._desk = Desk(self._around, self._tables, store)

    async def call(self, call: KmsCall) -> Answer:
        """Answer a call; see `Backend.call`."""
        try:
            if "Recipient" in call.parameters:
                return await answer_attested(self._desk, call, self._answer)
            return await self._answer(call)
        except (StoreFailed, SealBroken) as fault:
            if isinstance(fault, SealBroken):  # that the store fails, its watcher tells, and not for each call
                _log.error("%s: %s", call.operation.name, fault)
            is_unknown = isinstance(fault, StoreFailed) and fault.outcome_unknown
            raise KmsError("KMSInternalException", "The key store failed.", status=500, effect_unknown=is_unknown) from fault

    async def _answer(self, call: KmsCall) -> Answer:
        name = call.operation.name
        self._tables.refresh()
        if "GrantTokens" in call.parameters or "GrantToken" in call.parameters:
            check_grant_tokens(self._tables, call)
        if self._tables.all_stores.is_used and name in EXTERNAL and names_external_key(self._around, self._tables, call):
            return await EXTERNAL[name](self._desk, call)
        if (reading := READINGS.get(name)) is not None:
            return reading(self._around, self._tables, call)
        if (changing := CHANGES.get(name)) is not None:
            return await self._desk.change(changing, call)
        if (working := WORKS.get(name)) is not None:
            return await working(self._desk, call)
        raise KmsError("UnsupportedOperationException", f"keytrail's local keys do not support {name} yet.")

    def due(self) -> list[Due]:
        """What is due of the keys by now. Raises SealBroken."""
        return self._desk.tables.all_keys.due.until(self._around.clock())

    async def carry_out(self, due: Due, intent: Intent) -> Done | None:
        """Do what is due, or nothing where it is not due any more; durable when this returns. Raises StoreFailed, SealBroken."""
        if due.happening is Happening.DELETION:
            await self._clear_grants(due)
        return await self._desk.write(carry_out, self._around, due, intent)

    async def _clear_grants(self, due: Due) -> None:
        """Of a key that is to be deleted, all grants but the last few."""
        ids = self._desk.tables.all_grants.ids_of(due.region, due.key_id)
        for at in range(0, len(ids) - GRANTS_AT_ONCE, GRANTS_AT_ONCE):
            if not await self._desk.write(clear, self._around, due, ids[at : at + GRANTS_AT_ONCE]):
                return

    def close(self) -> None:
        """Wait for what is under way. The store is its maker's to close."""
        self._desk.close()
