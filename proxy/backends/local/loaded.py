"""Key pairs as the library's objects: loaded once, and kept while they are in use.

Reading a private key costs up to half a millisecond. RSA keys are read without the library's checks of them, which take 40 to
500 ms with no other thread running: those were made by us, or checked when they were imported, and the row is sealed.

A pair is found by its key, and holds the material that it was read from. It is given only for that very object: a row that was
written anew is read anew, and the table of keys has us forget what is gone.
"""

from __future__ import annotations

from collections import OrderedDict

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from proxy.backends.local.keys import Key, KeyMaterial

#: The largest, ML-DSA-87 with its expanded matrix, takes about 60 KB.
MOST_PAIRS = 256


class Pair:
    """The halves of one key's material, each read when it is first wanted."""

    __slots__ = ("_private", "_public", "_public_der", "material")

    def __init__(self, material: KeyMaterial, public_der: bytes) -> None:
        self.material = material
        self._public_der = public_der
        self._private: PrivateKeyTypes | None = None
        self._public: PublicKeyTypes | None = None

    @property
    def private(self) -> PrivateKeyTypes:
        if self._private is None:
            self._private = load_der_private_key(self.material.secret, None, unsafe_skip_rsa_key_validation=True)
        return self._private

    @property
    def public(self) -> PublicKeyTypes:
        if self._public is None:
            self._public = load_der_public_key(self._public_der)
        return self._public


class LoadedPairs:
    """At most `most` pairs, those that were used last. Used on one thread; what it gives may be used on any."""

    def __init__(self, most: int = MOST_PAIRS) -> None:
        self._most = most
        self._pairs: OrderedDict[tuple[str, str], Pair] = OrderedDict()

    def of(self, key: Key) -> Pair:
        """The pair of a key that has its material. Raises IndexError where it has none yet."""
        name, material = (key.region, key.id), key.current
        pair = self._pairs.get(name)
        if pair is None or pair.material is not material:
            pair = self._pairs[name] = Pair(material, key.public)
            if len(self._pairs) > self._most:
                self._pairs.popitem(last=False)
        self._pairs.move_to_end(name)
        return pair

    def forget(self, region: str, key_id: str) -> None:
        """The key's row was written or deleted: its private key shall not outlive it here."""
        self._pairs.pop((region, key_id), None)

    def __len__(self) -> int:
        return len(self._pairs)
