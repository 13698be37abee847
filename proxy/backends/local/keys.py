"""Keys and aliases as values, and how they stand in rows of the store. Pure.

**A key's row.** The body's members: ``account``, ``state``, ``created_s``, ``description``, ``usage``, ``spec``, ``origin``,
``tags``, ``deletion_s``, ``materials``; and where there is something to say, those of `Key` with a default, and what a family of
operations keeps there for itself (``rotation``). ``materials`` lists one entry for each version of the key material: ``id``,
``created_s``, ``size`` (bytes of it in the row's secret; 32 where not said; 0 where it is gone), and what families keep. The
row's secret is the materials, one after another: random bytes, or of a key pair the private key (PKCS #8, DER).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from proxy.backends.local.crypto import MATERIAL_BYTES, Material
from proxy.backends.local.specs import SPECS, KeySpec
from proxy.domain import KeyUse
from proxy.errors import SealBroken
from proxy.kms.arn import alias_arn, key_arn
from proxy.sealed_store import Body, Entry

KEY = "key"
ALIAS = "alias"


class KeyState(Enum):
    """The states that keys can be in, by their API names."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"
    PENDING_REPLICA_DELETION = "PendingReplicaDeletion"
    PENDING_IMPORT = "PendingImport"
    UNAVAILABLE = "Unavailable"
    CREATING = "Creating"
    UPDATING = "Updating"


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """One version of a key's material, and how a record names its use. `facts` is its entry in the row."""

    id: str  # 64 hex digits
    secret: bytes = field(repr=False)  # empty where it was deleted, or has expired
    use: KeyUse = field(repr=False)
    facts: Body = field(repr=False)
    symmetric: Material | None = field(repr=False)  # of symmetric encryption keys, while it is there

    @property
    def material(self) -> Material:
        """What encrypts and decrypts. Raises LookupError where there is none."""
        if self.symmetric is None:
            raise LookupError(f"the material {self.id} is not there, or not of a symmetric key")
        return self.symmetric


@dataclass(frozen=True, slots=True)
class MultiRegion:
    """The regions that have a key's replicas, and the one of the primary."""

    primary: str
    replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """A KMS key. Times are seconds since the epoch; `materials` are in the order in which they came.

    `body` is the row, for what only one family of operations reads.
    """

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
    body: Body = field(repr=False)
    current_index: int = -1
    policy: str | None = None  # its document; None for the default one
    public: bytes = b""  # of a pair: SubjectPublicKeyInfo, DER
    multi_region: MultiRegion | None = None
    valid_to_s: float | None = None  # when the imported material that is current expires
    expires_s: float | None = None  # when the first of its imported materials expires
    expiration_model: str | None = None
    deletion_window_days: int | None = None
    custom_key_store_id: str | None = None
    xks_key_id: str | None = None

    @property
    def current(self) -> KeyMaterial:
        """The material that new ciphertexts are made with. Raises IndexError where none was imported yet."""
        return self.materials[self.current_index]

    @property
    def meant(self) -> KeyUse:
        """How a record names this key where no material was used."""
        return KeyUse(self.arn, self.account_id)

    @property
    def about(self) -> KeySpec:
        """The row of its key spec."""
        return SPECS[self.spec]

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those that it can be used with."""
        return self.about.algorithms.get(self.usage, ())

    @property
    def is_replica(self) -> bool:
        """Whether it follows a primary key of another region."""
        return self.multi_region is not None and self.multi_region.primary != self.region

    def is_gone(self, now_s: float) -> bool:
        """Whether its deletion date is past: then it may not be used for anything, though its row is there."""
        return self.deletion_s is not None and self.deletion_s <= now_s


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias: `name` is with its `alias/`."""

    region: str
    account_id: str
    name: str
    arn: str
    key_id: str
    created_s: float
    updated_s: float


def new_key_body(
    *,
    account_id: str,
    created_s: float,
    spec: str,
    usage: str,
    origin: str,
    description: str,
    tags: Mapping[str, str],
    materials: list[dict[str, Any]],  # Any: JSON, as in the row
    state: KeyState = KeyState.ENABLED,
    **more: Any,  # members of the row beside these; None is not written
) -> Body:
    """The row of a new key; its secret is the materials, one after another."""
    return {
        "account": account_id,
        "state": state.value,
        "created_s": created_s,
        "description": description,
        "usage": usage,
        "spec": spec,
        "origin": origin,
        "tags": dict(tags),
        "deletion_s": None,
        "materials": materials,
        **{name: value for name, value in more.items() if value is not None},
    }


#: Members that have one of a few values: in memory each value is there once, and not for every key.
_REPEATED = ("account", "state", "usage", "spec", "origin")


def key_of(entry: Entry) -> Key:
    """Read a row. Raises SealBroken where its secret is not the material that it lists."""
    body = {**entry.body, **{name: sys.intern(entry.body[name]) for name in _REPEATED}}
    account_id = body["account"]
    arn = key_arn(entry.region, account_id, entry.id)
    multi_region, public = body.get("multi_region"), body.get("public")
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
        materials=_materials(entry, arn, account_id),
        body=body,
        current_index=body.get("current", -1),
        policy=body.get("policy"),
        public=b"" if public is None else bytes.fromhex(public),
        multi_region=None if multi_region is None else MultiRegion(multi_region["primary"], tuple(multi_region["replicas"])),
        valid_to_s=body.get("valid_to_s"),
        expires_s=body.get("expires_s"),
        expiration_model=body.get("expiration_model"),
        deletion_window_days=body.get("deletion_window_days"),
        custom_key_store_id=body.get("custom_key_store"),
        xks_key_id=body.get("xks_key"),
    )


def _materials(entry: Entry, arn: str, account_id: str) -> tuple[KeyMaterial, ...]:
    secret, listed = entry.secret.reveal(), entry.body["materials"]
    is_symmetric = SPECS[entry.body["spec"]].is_symmetric
    materials, at = [], 0
    for facts in listed:
        material_id, size = facts["id"], facts.get("size", MATERIAL_BYTES)
        own = secret[at : at + size]
        at += size
        symmetric = Material(bytes.fromhex(material_id), own) if is_symmetric and own else None
        use = KeyUse(arn, account_id, material_id if is_symmetric else None)
        materials.append(KeyMaterial(material_id, own, use, facts, symmetric))
    if at != len(secret):
        raise SealBroken(f"the key {entry.id} has {len(secret)} bytes of material, and lists {at}")
    return tuple(materials)


def alias_row(account_id: str, name: str) -> str:
    """The id of an alias's row: accounts may have aliases of one name."""
    return f"{name}@{account_id}"


def alias_of(entry: Entry) -> Alias:
    """Read a row; the key that an alias points to is its parent."""
    body, name = entry.body, entry.id.partition("@")[0]
    account_id = body["account"]
    arn = alias_arn(entry.region, account_id, name)
    return Alias(entry.region, account_id, name, arn, entry.parent, body["created_s"], body["updated_s"])
