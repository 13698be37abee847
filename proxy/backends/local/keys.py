"""Keys and aliases as the backend sees them: what a row says, and the tables of a region that calls look them up in.

`Key` and `Alias` are values. `KeyTables` is this process's copy of the store's keys and aliases; `refresh` brings it
up to date by the rows that changed, and costs a comparison when none did. Lookups never return a key whose deletion
date is past.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from proxy.backends.local.crypto import MATERIAL_BYTES, Material
from proxy.domain import KeyUse
from proxy.errors import SealBroken
from proxy.kms.arn import alias_arn, key_arn
from proxy.sealed_store import Body, Entry, SealedStore

KEY = "key"
ALIAS = "alias"

SYMMETRIC = "SYMMETRIC_DEFAULT"
ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"


class KeyState(Enum):
    """The states that keys of this backend can be in, by their API names."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """One version of a key's material, and how a record names its use."""

    id: str  # 64 hex digits
    material: Material = field(repr=False)
    use: KeyUse = field(repr=False)


@dataclass(frozen=True, slots=True)
class Key:
    """A KMS key. Times are seconds since the epoch; the last of `materials` is the current one."""

    region: str
    id: str
    arn: str
    account_id: str
    state: KeyState
    created_s: float
    description: str
    usage: str
    spec: str
    origin: str
    tags: Mapping[str, str]
    deletion_s: float | None
    materials: tuple[KeyMaterial, ...]

    @property
    def current(self) -> KeyMaterial:
        return self.materials[-1]

    @property
    def meant(self) -> KeyUse:
        """How a record names this key where no material was used."""
        return KeyUse(self.arn, self.account_id)

    def is_gone(self, now_s: float) -> bool:
        """Whether its deletion date is past: then it may not be used for anything, though its row is there."""
        return self.deletion_s is not None and self.deletion_s <= now_s


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias: `name` is with its `alias/`."""

    region: str
    name: str
    arn: str
    key_id: str
    created_s: float
    updated_s: float


class KeyView(Protocol):
    """Where handlers look keys up: the tables in memory, or the database within a change."""

    def find_key(self, region: str, key_id: str) -> Key | None: ...

    def find_alias(self, region: str, name: str) -> Alias | None: ...


def new_key_body(material_id: str, created_s: float, account_id: str, description: str, tags: Mapping[str, str]) -> Body:
    """The row of a new symmetric key; its secret is the material (of several versions: one after another)."""
    return {
        "account": account_id,
        "state": KeyState.ENABLED.value,
        "created_s": created_s,
        "description": description,
        "usage": ENCRYPT_DECRYPT,
        "spec": SYMMETRIC,
        "origin": "AWS_KMS",
        "tags": dict(tags),
        "deletion_s": None,
        "materials": [{"id": material_id, "created_s": created_s}],
    }


def key_of(entry: Entry) -> Key:
    """Read a row. Raises SealBroken where its secret is not the material that it lists."""
    body = entry.body
    account_id = body["account"]
    arn = key_arn(entry.region, account_id, entry.id)
    secret = entry.secret.reveal()
    listed = body["materials"]
    if len(secret) != MATERIAL_BYTES * len(listed):
        raise SealBroken(f"the key {entry.id} has {len(secret)} bytes of material for {len(listed)} versions")
    materials = []
    for index, version in enumerate(listed):
        one = Material(bytes.fromhex(version["id"]), secret[index * MATERIAL_BYTES : (index + 1) * MATERIAL_BYTES])
        materials.append(KeyMaterial(version["id"], one, KeyUse(arn, account_id, version["id"])))
    return Key(
        region=entry.region,
        id=entry.id,
        arn=arn,
        account_id=account_id,
        state=KeyState(body["state"]),
        created_s=body["created_s"],
        description=body["description"],
        usage=body["usage"],
        spec=body["spec"],
        origin=body["origin"],
        tags=body["tags"],
        deletion_s=body["deletion_s"],
        materials=tuple(materials),
    )


def alias_of(entry: Entry) -> Alias:
    """Read a row; the key that an alias points to is its parent."""
    body = entry.body
    arn = alias_arn(entry.region, body["account"], entry.id)
    return Alias(entry.region, entry.id, arn, entry.parent, body["created_s"], body["updated_s"])


class RegionTable:
    """The keys and aliases of one region."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.aliases: dict[str, Alias] = {}
        self.by_material: dict[bytes, tuple[Key, KeyMaterial]] = {}
        self.names_of_key: dict[str, set[str]] = {}
        self._key_order: list[str] | None = None
        self._alias_order: list[str] | None = None

    def put_key(self, key: Key) -> None:
        before = self.keys.get(key.id)
        if before is None:
            self._key_order = None
        else:
            for version in before.materials:
                self.by_material.pop(version.material.id, None)
        self.keys[key.id] = key
        for version in key.materials:
            self.by_material[version.material.id] = (key, version)

    def drop_key(self, key_id: str) -> None:
        key = self.keys.pop(key_id, None)
        if key is not None:
            self._key_order = None
            for version in key.materials:
                self.by_material.pop(version.material.id, None)

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


_EMPTY = RegionTable()


class KeyTables:
    """This process's copy of every region's keys and aliases. Used on one thread only."""

    def __init__(self, store: SealedStore) -> None:
        self._store = store
        self._regions: dict[str, RegionTable] = {}
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
        changes = self._store.changes_since(self._generation, (KEY, ALIAS))
        if changes.complete:
            self._regions = {}
        for entry in changes.entries:
            table = self._regions.get(entry.region)
            if table is None:
                table = self._regions[entry.region] = RegionTable()
            if entry.kind == KEY:
                table.drop_key(entry.id) if entry.deleted else table.put_key(key_of(entry))
            else:
                table.drop_alias(entry.id) if entry.deleted else table.put_alias(alias_of(entry))
        self._generation = changes.generation

    def region(self, region: str) -> RegionTable:
        """The table of a region; one without keys has an empty one, which is not to be written to."""
        return self._regions.get(region, _EMPTY)

    def find_key(self, region: str, key_id: str) -> Key | None:
        return self.region(region).keys.get(key_id)

    def find_alias(self, region: str, name: str) -> Alias | None:
        return self.region(region).aliases.get(name)
