"""This process's copy of the store, in tables that calls look up in.

`Tables.refresh` brings it up to date by the rows that changed, and costs a comparison when none did. A family of operations with
rows of its own has a `Table` of them here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Protocol

from proxy.backends.local.due import DueKeys
from proxy.backends.local.grant_table import GrantTable
from proxy.backends.local.grants import GRANT, Context, Grant
from proxy.backends.local.keys import ALIAS, KEY, Alias, Key, KeyMaterial, alias_of, key_of
from proxy.backends.local.loaded import LoadedPairs
from proxy.sealed_store import Entry, SealedStore


class View(Protocol):
    """Where handlers look things up: the tables in memory, or the database within a change."""

    def find_key(self, account_id: str, region: str, key_id: str) -> Key | None:
        """The key, if it is that account's, also where its deletion date is past."""
        ...

    def find_alias(self, account_id: str, region: str, name: str) -> Alias | None: ...

    def find_grant(self, region: str, grant_id: str) -> Grant | None:
        """The grant, whosever key it is on."""
        ...

    def grants_of(self, key: Key) -> Iterator[Grant]:
        """Every grant of the key, in the order of their ids."""
        ...

    def grants_to(self, key: Key, grantee: str, context: Context | None) -> Iterator[Grant]:
        """The key's grants to this grantee (`principals.known_as`); with a context, at least those whose constraints it meets."""
        ...


class Table(Protocol):
    """The rows of one kind, kept for look-ups."""

    def put(self, entry: Entry) -> None:
        """A row that is new, or stands in place of the one with its region and id."""

    def drop(self, region: str, id: str) -> None:
        """There is no such row any more, if there was one."""

    def clear(self) -> None: ...


class AccountTable:
    """The keys and aliases of one account in one region."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.aliases: dict[str, Alias] = {}
        self.names_of_key: dict[str, set[str]] = {}
        self._key_order: list[str] | None = None
        self._alias_order: list[str] | None = None

    def put_key(self, key: Key) -> None:
        if key.id not in self.keys:
            self._key_order = None
        self.keys[key.id] = key

    def drop_key(self, key_id: str) -> None:
        self.keys.pop(key_id, None)
        self._key_order = None

    def put_alias(self, alias: Alias) -> None:
        self.drop_alias(alias.name)
        self.aliases[alias.name] = alias
        self.names_of_key.setdefault(alias.key_id, set()).add(alias.name)

    def drop_alias(self, name: str) -> None:
        alias = self.aliases.pop(name, None)
        self._alias_order = None
        if alias is not None:
            names = self.names_of_key[alias.key_id]
            names.discard(name)
            if not names:
                del self.names_of_key[alias.key_id]

    def keys_after(self, key_id: str) -> Iterable[Key]:
        """Keys in the order of their ids, behind `key_id`."""
        if self._key_order is None:
            self._key_order = sorted(self.keys)
        order = self._key_order
        return (self.keys[order[i]] for i in range(bisect_right(order, key_id), len(order)))

    def aliases_after(self, name: str) -> Iterable[Alias]:
        """Aliases in the order of their names, behind `name`."""
        if self._alias_order is None:
            self._alias_order = sorted(self.aliases)
        order = self._alias_order
        return (self.aliases[order[i]] for i in range(bisect_right(order, name), len(order)))


_EMPTY = AccountTable()


class KeyTable:
    """All keys, by account and region, and by their material."""

    def __init__(self, accounts: dict[tuple[str, str], AccountTable], pairs: LoadedPairs) -> None:
        self._accounts = accounts
        self._pairs = pairs
        self._where: dict[tuple[str, str], Key] = {}  # by region and id
        self.by_material: dict[tuple[str, bytes], tuple[Key, KeyMaterial]] = {}  # by region and material id
        self.due = DueKeys(self.find)

    def put(self, entry: Entry) -> None:
        key = key_of(entry)
        self._pairs.forget(key.region, key.id)
        self._drop_materials(self._where.get((key.region, key.id)))
        self._where[(key.region, key.id)] = key
        self._accounts.setdefault((key.account_id, key.region), AccountTable()).put_key(key)
        for name, version in _by_material(key):
            self.by_material[name] = key, version
        self.due.put(key)

    def drop(self, region: str, id: str) -> None:
        key = self._where.pop((region, id), None)
        self._pairs.forget(region, id)
        self._drop_materials(key)
        if key is not None:
            self._accounts[(key.account_id, region)].drop_key(id)

    def _drop_materials(self, key: Key | None) -> None:
        if key is not None:
            for name, _ in _by_material(key):
                self.by_material.pop(name, None)

    def find(self, region: str, key_id: str) -> Key | None:
        """The key, whosever it is."""
        return self._where.get((region, key_id))

    def clear(self) -> None:
        for region, key_id in list(self._where):
            self.drop(region, key_id)


def _by_material(key: Key) -> Iterator[tuple[tuple[str, bytes], KeyMaterial]]:
    """The versions that ciphertexts can name, by region and material id. Those that are gone are among them: then the key's state
    is told. The one that a rotation is still to make current is not."""
    if key.about.is_symmetric and key.materials:
        for version in key.materials[: range(len(key.materials))[key.current_index] + 1]:
            yield (key.region, bytes.fromhex(version.id)), version


class AliasTable:
    """All aliases, by account and region."""

    def __init__(self, accounts: dict[tuple[str, str], AccountTable]) -> None:
        self._accounts = accounts

    def put(self, entry: Entry) -> None:
        alias = alias_of(entry)
        self._accounts.setdefault((alias.account_id, alias.region), AccountTable()).put_alias(alias)

    def drop(self, region: str, id: str) -> None:
        name, _, account_id = id.partition("@")
        if (table := self._accounts.get((account_id, region))) is not None:
            table.drop_alias(name)

    def clear(self) -> None:
        for table in self._accounts.values():
            for name in list(table.aliases):
                table.drop_alias(name)


class Tables:
    """The copy of the whole store, but for the callers. A `View`. Used on one thread only.

    Raises SealBroken, also from `refresh`, where a row was changed by another hand; StoreFailed.
    """

    def __init__(self, store: SealedStore) -> None:
        self._store = store
        self._accounts: dict[tuple[str, str], AccountTable] = {}
        self.pairs = LoadedPairs()
        self.all_keys = KeyTable(self._accounts, self.pairs)
        self.all_grants = GrantTable()
        self._tables: dict[str, Table] = {KEY: self.all_keys, ALIAS: AliasTable(self._accounts), GRANT: self.all_grants}
        self._generation = 0
        self._seen = store.published
        self._load()

    def refresh(self) -> None:
        """Take in what any process has changed since. The published value is read before the rows: no news is lost."""
        published = self._store.published
        if published != self._seen:
            self._load()
            self._seen = published

    def _load(self) -> None:
        changes = self._store.changes_since(self._generation, tuple(self._tables))
        if changes.complete:
            for table in self._tables.values():
                table.clear()
        for entry in changes.entries:
            table = self._tables[entry.kind]
            table.drop(entry.region, entry.id) if entry.deleted else table.put(entry)
        self._generation = changes.generation

    def of(self, account_id: str, region: str) -> AccountTable:
        """The keys and aliases of an account in a region; where there are none, a table that is not to be written to."""
        return self._accounts.get((account_id, region), _EMPTY)

    def find_key(self, account_id: str, region: str, key_id: str) -> Key | None:
        return self.of(account_id, region).keys.get(key_id)

    def find_alias(self, account_id: str, region: str, name: str) -> Alias | None:
        return self.of(account_id, region).aliases.get(name)

    def find_grant(self, region: str, grant_id: str) -> Grant | None:
        return self.all_grants.find(region, grant_id)

    def grants_of(self, key: Key) -> Iterator[Grant]:
        return self.all_grants.of(key)

    def grants_to(self, key: Key, grantee: str, context: Context | None) -> Iterator[Grant]:
        return self.all_grants.to(key, grantee, context)

    def find_material(self, region: str, material_id: bytes) -> tuple[Key, KeyMaterial] | None:
        """The symmetric key, whosever it is, that has this material."""
        return self.all_keys.by_material.get((region, material_id))
