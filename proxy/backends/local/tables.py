"""This process's copy of the store, in tables that calls look up in.

`Tables.refresh` brings it up to date by the rows that changed, and costs a comparison when none did. A family of operations with
rows of its own has a `Table` of them here.

A table holds rows as they are, found by what they claim to be. A row's seal is opened, and its value made, when a call first
looks into it (`Lazy`): a start costs little however many keys rest, and a row that another hand changed is a fault of the calls
that need it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Protocol

from proxy.backends.local.due import DueKeys, first_due_s
from proxy.backends.local.grant_table import GrantTable
from proxy.backends.local.grants import GRANT, Context, Grant
from proxy.backends.local.keys import ALIAS, KEY, Alias, Key, KeyMaterial, alias_of, key_of
from proxy.backends.local.lazy import Lazy, LazyMap
from proxy.backends.local.loaded import LoadedPairs
from proxy.backends.local.specs import SYMMETRIC
from proxy.backends.local.stores import CUSTOM_STORE, StoreTable
from proxy.sealed_store import Entry, SealedStore

_log = logging.getLogger(__name__)


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

    def names_of(self, key: Key) -> tuple[str, ...]:
        """The names of the key's aliases, in order."""
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
        self.keys: LazyMap[Key] = LazyMap()
        self.aliases: LazyMap[Alias] = LazyMap()
        self.names_of_key: dict[str, set[str]] = {}
        self._key_of_name: dict[str, str] = {}

    def put_alias(self, name: str, key_id: str, alias: Lazy[Alias]) -> None:
        self.drop_alias(name)
        self.aliases.put(name, alias)
        self._key_of_name[name] = key_id
        self.names_of_key.setdefault(key_id, set()).add(name)

    def drop_alias(self, name: str) -> None:
        self.aliases.drop(name)
        key_id = self._key_of_name.pop(name, None)
        if key_id is not None:
            names = self.names_of_key[key_id]
            names.discard(name)
            if not names:
                del self.names_of_key[key_id]

    def sort(self) -> None:
        """Put the names in order now, and not within a call."""
        self.keys.in_order()
        self.aliases.in_order()


_EMPTY = AccountTable()


class _HeldKey(Lazy[Key]):
    """A key's row, with what it claims: whose it is, when something is due of it, and the ids of the materials that ciphertexts
    can name. Those that are gone are among them: then the key's state is told. The one that a rotation is still to make current
    is not.
    """

    __slots__ = ("account_id", "due_s", "material_ids")

    def __init__(self, entry: Entry) -> None:
        """Raises ValueError where the row claims nothing that can be read."""
        super().__init__(entry, key_of)
        try:
            claimed = entry.claimed
            self.account_id = sys.intern(claimed["account"])
            self.due_s = first_due_s(claimed, entry.region)
            listed = claimed["materials"] if claimed["spec"] == SYMMETRIC else ()
            if listed:
                listed = listed[: range(len(listed))[claimed.get("current", -1)] + 1]
            self.material_ids = tuple([bytes.fromhex(facts["id"]) for facts in listed])
        except (LookupError, TypeError, AttributeError) as fault:
            raise ValueError(f"{type(fault).__name__}: {fault}") from fault


class KeyTable:
    """All keys, by account and region, and by their material."""

    def __init__(self, accounts: dict[tuple[str, str], AccountTable], pairs: LoadedPairs) -> None:
        self._accounts = accounts
        self._pairs = pairs
        self._where: dict[tuple[str, str], _HeldKey] = {}  # by region and id
        self._by_material: dict[tuple[str, bytes], _HeldKey] = {}  # by region and material id
        self._unreadable: dict[tuple[str, str], Lazy[Key]] = {}
        self.due = DueKeys(self.find)

    def put(self, entry: Entry) -> None:
        self.drop(entry.region, entry.id)
        try:
            key = _HeldKey(entry)
        except ValueError as fault:
            _log.error("the row of the key %s cannot be read: %s", entry.id, fault)
            self._unreadable[(entry.region, entry.id)] = Lazy(entry, key_of)
            return
        self._where[(entry.region, entry.id)] = key
        self._accounts.setdefault((key.account_id, entry.region), AccountTable()).keys.put(entry.id, key)
        for material_id in key.material_ids:
            self._by_material[(entry.region, material_id)] = key
        self.due.put(entry.region, entry.id, key.due_s)

    def drop(self, region: str, id: str) -> None:
        self._unreadable.pop((region, id), None)
        key = self._where.pop((region, id), None)
        self._pairs.forget(region, id)
        if key is not None:
            self._accounts[(key.account_id, region)].keys.drop(id)
            for material_id in key.material_ids:
                if self._by_material.get((region, material_id)) is key:
                    del self._by_material[(region, material_id)]

    def find(self, region: str, key_id: str) -> Key | None:
        """The key, whosever it is."""
        key = self._where.get((region, key_id)) or self._unreadable.get((region, key_id))
        return None if key is None else key.value

    def find_unreadable(self, region: str, key_id: str) -> None:
        """Raises SealBroken where that key's row does not even tell whose it is."""
        if (key := self._unreadable.get((region, key_id))) is not None:
            _ = key.value

    def find_material(self, region: str, material_id: bytes) -> tuple[Key, KeyMaterial] | None:
        """The symmetric key that has this material."""
        key = self._by_material.get((region, material_id))
        if key is not None:
            name = material_id.hex()
            for version in key.value.materials:
                if version.id == name:
                    return key.value, version
        return None

    def clear(self) -> None:
        for region, key_id in [*self._where, *self._unreadable]:
            self.drop(region, key_id)


class AliasTable:
    """All aliases, by account and region. An alias's row tells its name, account and key before it is opened."""

    def __init__(self, accounts: dict[tuple[str, str], AccountTable]) -> None:
        self._accounts = accounts

    def put(self, entry: Entry) -> None:
        name, _, account_id = entry.id.partition("@")
        table = self._accounts.setdefault((account_id, entry.region), AccountTable())
        table.put_alias(name, entry.parent, Lazy(entry, alias_of))

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

    A look-up raises SealBroken where the row that it finds was changed by another hand. `refresh` raises StoreFailed.
    """

    def __init__(self, store: SealedStore) -> None:
        self._store = store
        self._accounts: dict[tuple[str, str], AccountTable] = {}
        self.pairs = LoadedPairs()
        self.all_keys = KeyTable(self._accounts, self.pairs)
        self.all_grants = GrantTable()
        self.all_stores = StoreTable()
        self._tables: dict[str, Table] = {
            KEY: self.all_keys,
            ALIAS: AliasTable(self._accounts),
            GRANT: self.all_grants,
            CUSTOM_STORE: self.all_stores,
        }
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
        if changes.complete:
            for account in self._accounts.values():
                account.sort()
        self._generation = changes.generation

    def of(self, account_id: str, region: str) -> AccountTable:
        """The keys and aliases of an account in a region; where there are none, a table that is not to be written to."""
        return self._accounts.get((account_id, region), _EMPTY)

    def find_key(self, account_id: str, region: str, key_id: str) -> Key | None:
        key = self.of(account_id, region).keys.get(key_id)
        if key is None:
            self.all_keys.find_unreadable(region, key_id)
        return key

    def find_alias(self, account_id: str, region: str, name: str) -> Alias | None:
        return self.of(account_id, region).aliases.get(name)

    def find_grant(self, region: str, grant_id: str) -> Grant | None:
        return self.all_grants.find(region, grant_id)

    def grants_of(self, key: Key) -> Iterator[Grant]:
        return self.all_grants.of(key)

    def grants_to(self, key: Key, grantee: str, context: Context | None) -> Iterator[Grant]:
        return self.all_grants.to(key, grantee, context)

    def names_of(self, key: Key) -> tuple[str, ...]:
        return tuple(sorted(self.of(key.account_id, key.region).names_of_key.get(key.id, ())))

    def find_material(self, region: str, material_id: bytes) -> tuple[Key, KeyMaterial] | None:
        """The symmetric key, whosever it is, that has this material."""
        return self.all_keys.find_material(region, material_id)
