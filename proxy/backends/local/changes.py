"""Keys and aliases within a change: looked up in the database as it is now, written in the same transaction."""

from __future__ import annotations

from typing import Any

from proxy.backends.local.keys import ALIAS, KEY, Alias, Key, alias_of, key_of
from proxy.sealed_store import Body, Entry, Secret, Transaction


class KeysInChange:
    """A `KeyView` over an open transaction, and what a handler may write through it."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def find_key(self, region: str, key_id: str) -> Key | None:
        entry = self._tx.get(KEY, region, key_id)
        return None if entry is None else key_of(entry)

    def find_alias(self, region: str, name: str) -> Alias | None:
        entry = self._tx.get(ALIAS, region, name)
        return None if entry is None else alias_of(entry)

    def count_aliases(self, key: Key) -> int:
        return self._tx.count_children(ALIAS, key.region, key.id)

    def add_key(self, region: str, key_id: str, body: Body, secret: Secret) -> Key:
        self._tx.put(KEY, region, key_id, body, secret)
        return key_of(self._row(region, key_id))

    def alter_key(self, key: Key, **members: Any) -> None:  # Any: JSON values of the key's row
        """Write `members` into the key's row, and leave the rest of it, and its material, as they are."""
        entry = self._row(key.region, key.id)
        self._tx.put(KEY, key.region, key.id, {**entry.body, **members}, entry.secret)

    def _row(self, region: str, key_id: str) -> Entry:
        """The row of a key that was found or written in this transaction."""
        entry = self._tx.get(KEY, region, key_id)
        if entry is None:
            raise LookupError(f"the row of {key_id} is gone within its transaction")
        return entry

    def put_alias(self, key: Key, name: str, created_s: float, updated_s: float) -> None:
        body = {"account": key.account_id, "created_s": created_s, "updated_s": updated_s}
        self._tx.put(ALIAS, key.region, name, body, parent=key.id)

    def delete_alias(self, alias: Alias) -> None:
        self._tx.delete(ALIAS, alias.region, alias.name)
