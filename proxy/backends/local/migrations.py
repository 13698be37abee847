"""Rows as earlier versions wrote them, made into those of this version; once, when a store is opened for serving."""

from __future__ import annotations

from proxy.backends.local.keys import ALIAS, alias_row
from proxy.sealed_store import SealedStore


def migrate(store: SealedStore) -> None:
    """Safe beside other workers that do the same, and cheap where there is nothing to do. Raises SealBroken, StoreFailed."""
    if not any(_is_old(entry.id) for entry in store.changes_since(0, (ALIAS,)).entries):
        return
    with store.change() as tx:
        for entry in store.changes_since(0, (ALIAS,)).entries:
            old = tx.get(ALIAS, entry.region, entry.id) if _is_old(entry.id) else None
            if old is not None:
                # Up to version 0.2 an alias's row had its name for an id, for there was one account.
                tx.put(ALIAS, old.region, alias_row(old.body["account"], old.id), old.body, parent=old.parent)
                tx.delete(ALIAS, old.region, old.id)


def _is_old(alias_id: str) -> bool:
    return "@" not in alias_id
