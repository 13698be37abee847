"""Keys, aliases and grants within a change: looked up in the database as it is now, written in the same transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from proxy.backends.local.grants import GRANT, Context, Grant, grant_body, grant_of, grant_parent
from proxy.backends.local.keys import ALIAS, KEY, Alias, Key, alias_of, alias_row, key_of
from proxy.sealed_store import Body, Entry, Secret, Transaction


class KeysInChange:
    """A `View` over an open transaction, and what a handler may write through it. `tx` is for rows of other kinds."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx

    def find_key(self, account_id: str, region: str, key_id: str) -> Key | None:
        entry = self.tx.get(KEY, region, key_id)
        return None if entry is None or entry.body["account"] != account_id else key_of(entry)

    def find_alias(self, account_id: str, region: str, name: str) -> Alias | None:
        entry = self.tx.get(ALIAS, region, alias_row(account_id, name))
        return None if entry is None else alias_of(entry)

    def names_of(self, key: Key) -> tuple[str, ...]:
        return tuple(sorted(alias_of(entry).name for entry in self.tx.children(ALIAS, key.region, key.id)))

    def count_aliases(self, key: Key) -> int:
        return self.tx.count_children(ALIAS, key.region, key.id)

    def add_key(self, region: str, key_id: str, body: Body, secret: Secret, parent: str = "") -> Key:
        """`parent` is the custom key store of a key that is in one."""
        self.tx.put(KEY, region, key_id, body, secret, parent)
        return key_of(self._row(region, key_id))

    def alter_key(self, key: Key, secret: Secret | None = None, **members: Any) -> Key:  # Any: JSON values of the key's row
        """Write `members` into the key's row (None takes one out, unless it stands in every row), and `secret` in place of the
        materials; the rest of it stays. Returns the key as it is then."""
        entry = self._row(key.region, key.id)
        body = {**entry.body, **members}
        body = {name: value for name, value in body.items() if value is not None or name == "deletion_s"}
        self.tx.put(KEY, key.region, key.id, body, entry.secret if secret is None else secret, entry.parent)
        return key_of(self._row(key.region, key.id))

    def delete_key(self, key: Key) -> None:
        self.tx.delete(KEY, key.region, key.id)

    def _row(self, region: str, key_id: str) -> Entry:
        """The row of a key that was found or written in this transaction."""
        entry = self.tx.get(KEY, region, key_id)
        if entry is None:
            raise LookupError(f"the row of {key_id} is gone within its transaction")
        return entry

    def put_alias(self, key: Key, name: str, created_s: float, updated_s: float) -> None:
        body = {"account": key.account_id, "created_s": created_s, "updated_s": updated_s}
        self.tx.put(ALIAS, key.region, alias_row(key.account_id, name), body, parent=key.id)

    def delete_alias(self, alias: Alias) -> None:
        self.tx.delete(ALIAS, alias.region, alias_row(alias.account_id, alias.name))

    def find_grant(self, region: str, grant_id: str) -> Grant | None:
        entry = self.tx.get(GRANT, region, grant_id)
        return None if entry is None else grant_of(entry)

    def grants_of(self, key: Key) -> Iterator[Grant]:
        return map(grant_of, self.tx.children_below(GRANT, key.region, grant_parent(key.id)))

    def grants_to(self, key: Key, grantee: str, context: Context | None) -> Iterator[Grant]:
        return map(grant_of, self.tx.children_below(GRANT, key.region, grant_parent(key.id, grantee)))

    def grants_named(self, key: Key, grantee: str, name: str) -> Iterator[Grant]:
        """The key's grants to this grantee that have this name."""
        return map(grant_of, self.tx.children(GRANT, key.region, grant_parent(key.id, grantee, name)))

    def count_grants(self, key: Key) -> int:
        return self.tx.count_children_below(GRANT, key.region, grant_parent(key.id))

    def put_grant(self, grant: Grant) -> None:
        parent = grant_parent(grant.key_id, grant.grantee, grant.name)
        self.tx.put(GRANT, grant.region, grant.id, grant_body(grant), Secret(grant.token_key), parent)

    def delete_grant(self, grant: Grant) -> None:
        self.delete_grants(grant.region, (grant.id,))

    def delete_grants(self, region: str, ids: Iterable[str]) -> None:
        for id in ids:
            self.tx.delete(GRANT, region, id)

    def delete_grants_of(self, key: Key) -> None:
        """All that are left; they are not looked into."""
        self.delete_grants(key.region, [entry.id for entry in self.tx.children_below(GRANT, key.region, grant_parent(key.id))])
