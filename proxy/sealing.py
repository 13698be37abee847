"""How the sealed store seals: rows under a random store key, and the store key under the master key.

- A row's secret is sealed with AES-256-GCM under a key that HKDF derives from the store key for the row's kind, with everything
  else of the row as associated data.
- The store key is sealed under a key that HKDF derives from the master key. Another master key changes that one seal and no row.
  While the master key is being changed, the store key lies there sealed under both.
- A master key has an id, which tells it from others and nothing about it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.errors import SealBroken, SetupError

#: A row's document. Any, because each kind has its own members; the modules that own a kind give them types.
Body = Mapping[str, Any]

MASTER_KEY_BYTES = 32
STORE_KEY_BYTES = 32
_IV_BYTES = 12


class Secret:
    """Bytes that show themselves to `reveal` only: not in repr, not in messages, not to pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


RowValues = tuple[str, str, str, str, int, int, bytes, bytes]


class Row(NamedTuple):
    """A row as it stands in the database; `body` is JSON."""

    kind: str
    region: str
    id: str
    parent: str
    generation: int
    deleted: int
    body: bytes
    sealed: bytes

    @classmethod
    def of(cls, values: RowValues) -> Row:
        """From the database. Of a hundred thousand rows all have one of a few kinds and regions: in memory each is there once."""
        return cls(sys.intern(values[0]), sys.intern(values[1]), *values[2:])

    @property
    def bound(self) -> bytes:
        """Its associated data. No NUL gets into the names (checked on writing); the kind is in the sealing key."""
        names = (self.region.encode(), self.id.encode(), self.parent.encode())
        return b"\0".join((*names, b"%d.%d" % (self.generation, self.deleted), self.body))


class Seal:
    """Seals and opens rows under keys derived from the store key, one for each kind; the instance is the salt.

    `store` names the store in messages.
    """

    def __init__(self, store_key: bytes, instance: str, store: str) -> None:
        self.store_key = store_key
        self._salt = instance.encode()
        self._store = store
        self._ciphers: dict[str, AESGCM] = {}

    def _cipher(self, kind: str) -> AESGCM:
        cipher = self._ciphers.get(kind)
        if cipher is None:
            info = b"keytrail/sealed-store/1/" + kind.encode()
            cipher = AESGCM(HKDF(SHA256(), 32, self._salt, info).derive(self.store_key))
            self._ciphers[kind] = cipher
        return cipher

    def close(self, row: Row, secret: bytes) -> Row:
        """`row` with `secret` sealed in it."""
        iv = os.urandom(_IV_BYTES)
        return row._replace(sealed=iv + self._cipher(row.kind).encrypt(iv, secret, row.bound))

    def open(self, row: Row) -> bytes:
        """The row's secret. Raises SealBroken."""
        sealed = row.sealed
        try:
            return self._cipher(row.kind).decrypt(sealed[:_IV_BYTES], sealed[_IV_BYTES:], row.bound)
        except (InvalidTag, ValueError) as fault:
            raise SealBroken(f"{self._store}: the {row.kind} {row.id} was changed by another hand") from fault

    def opens(self, kind: str, sealed: bytes) -> bool:
        """Whether `sealed` is an empty secret, bound to nothing, of `kind`: how stores of version 1 knew their master key."""
        try:
            return self._cipher(kind).decrypt(sealed[:_IV_BYTES], sealed[_IV_BYTES:], b"") == b""
        except (InvalidTag, ValueError):
            return False


_NO_SEAL = Seal(bytes(STORE_KEY_BYTES), "", "no store")


class Entry:
    """A row. `parent` names what this one belongs to (an alias its key), or is empty.

    Its seal is opened when `body` or `secret` is first asked for, which raises SealBroken where it does not open; only then is
    known that the rest is as it was written, too.
    """

    __slots__ = ("_body", "_row", "_seal", "_secret", "deleted", "generation", "id", "kind", "parent", "region")

    def __init__(self, row: Row, seal: Seal) -> None:
        self.kind, self.region, self.id, self.parent, self.generation = row[:5]
        self.deleted = bool(row.deleted)
        self._row: Row | None = row
        self._seal = seal
        self._body: Body = {}
        self._secret: Secret | None = None

    @classmethod
    def opened(cls, kind: str, region: str, id: str, body: Body, secret: Secret) -> Entry:
        """A row that is in no store."""
        one = cls(Row(kind, region, id, "", 0, 0, b"", b""), _NO_SEAL)
        one._row, one._body, one._secret = None, body, secret
        return one

    @property
    def body(self) -> Body:
        self._open()
        return self._body

    @property
    def secret(self) -> Secret:
        return self._secret or self._open()

    @property
    def claimed(self) -> Body:
        """The body, its seal not opened: what another hand may have written. For finding the row by, never to act upon.

        Raises ValueError where it is no JSON.
        """
        if self._row is None:
            return self._body
        body: Body = orjson.loads(self._row.body)
        return body

    def _open(self) -> Secret:
        if self._row is None:
            return self._secret or Secret(b"")
        secret = Secret(self._seal.open(self._row))
        self._body, self._secret = orjson.loads(self._row.body), secret
        self._row = None
        return secret

    def __repr__(self) -> str:
        return f"Entry({self.kind} {self.region} {self.id} of generation {self.generation})"


class MasterKey:
    """A master key: opens and closes store keys. Raises SetupError where it has another length."""

    __slots__ = ("_value", "id")

    def __init__(self, value: bytes) -> None:
        if len(value) != MASTER_KEY_BYTES:
            raise SetupError(f"the master key must be {MASTER_KEY_BYTES} bytes long, not {len(value)}")
        self._value = value
        self.id = HKDF(SHA256(), 8, None, b"keytrail/master-key-id/1").derive(value).hex()

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"

    def close(self, store_key: bytes, instance: str) -> bytes:
        iv = os.urandom(_IV_BYTES)
        return iv + self._cipher(instance).encrypt(iv, store_key, self.id.encode())

    def open(self, sealed: bytes, instance: str) -> bytes | None:
        """The store key, or None where it does not open."""
        try:
            return self._cipher(instance).decrypt(sealed[:_IV_BYTES], sealed[_IV_BYTES:], self.id.encode())
        except (InvalidTag, ValueError):
            return None

    def seal_of_version_1(self, instance: str, store: str) -> Seal:
        """Version 1 sealed rows under the master key itself."""
        return Seal(self._value, instance, store)

    def _cipher(self, instance: str) -> AESGCM:
        return AESGCM(HKDF(SHA256(), 32, instance.encode(), b"keytrail/store-key/1").derive(self._value))
