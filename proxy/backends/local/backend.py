"""`LocalBackend`: which handler answers which operation, and how changes are carried out.

Calls that only read are answered at once, on the event loop's thread, from this process's tables. Changes run one at
a time on a thread of their own, against the database's state inside one transaction; they are durable and published,
and this process's tables show them, before `call` returns. A new family of operations is a new file of handlers and
rows here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from proxy.backends.local import aliases, cryptographic, management, tags
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.keys import KeyTables
from proxy.backends.local.lookup import Surroundings
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError
from proxy.sealed_store import SealedStore, StoreFailed

Reading = Callable[[Surroundings, KeyTables, KmsCall], Answer]
Changing = Callable[[Surroundings, KeysInChange, KmsCall], Answer]

READINGS: Mapping[str, Reading] = {
    "Encrypt": cryptographic.encrypt_plaintext,
    "Decrypt": cryptographic.decrypt_blob,
    "ReEncrypt": cryptographic.re_encrypt,
    "GenerateDataKey": cryptographic.generate_data_key,
    "GenerateDataKeyWithoutPlaintext": cryptographic.generate_data_key_without_plaintext,
    "GenerateRandom": cryptographic.generate_random,
    "DescribeKey": management.describe_key,
    "ListKeys": management.list_keys,
    "ListAliases": aliases.list_aliases,
    "ListResourceTags": tags.list_resource_tags,
}

CHANGES: Mapping[str, Changing] = {
    "CreateKey": management.create_key,
    "EnableKey": management.enable_key,
    "DisableKey": management.disable_key,
    "ScheduleKeyDeletion": management.schedule_key_deletion,
    "CancelKeyDeletion": management.cancel_key_deletion,
    "CreateAlias": aliases.create_alias,
    "UpdateAlias": aliases.update_alias,
    "DeleteAlias": aliases.delete_alias,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
}


class LocalBackend:
    """A `Backend` on keys in a sealed store. Made and called on one event loop's thread.

    `clock` gives seconds since the epoch; `random(n)` gives n unpredictable bytes; both are also called on the thread
    of changes. Raises SealBroken, also from `call`, where the store was changed by another hand.
    """

    name = "local"
    forwards = False

    def __init__(self, store: SealedStore, account_id: str, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._store = store
        self._around = Surroundings(account_id, clock, random)
        self._tables = KeyTables(store)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keystore")

    async def call(self, call: KmsCall) -> Answer:
        """Answer a call; see `Backend.call`."""
        name = call.operation.name
        reading = READINGS.get(name)
        try:
            if reading is not None:
                self._tables.refresh()
                return reading(self._around, self._tables, call)
            changing = CHANGES.get(name)
            if changing is None:
                raise KmsError("UnsupportedOperationException", f"keytrail's local keys do not support {name} yet.")
            answer = await asyncio.get_running_loop().run_in_executor(self._executor, self._change, changing, call)
            self._tables.refresh()
            return answer
        except StoreFailed as fault:
            raise KmsError("KMSInternalException", "The key store failed.", status=500) from fault

    def _change(self, changing: Changing, call: KmsCall) -> Answer:
        with self._store.change() as tx:
            return changing(self._around, KeysInChange(tx), call)

    def close(self) -> None:
        """Wait for the change that is under way. The store is its maker's to close."""
        self._executor.shutdown()
