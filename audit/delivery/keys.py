"""The key that signs digests: RSA, 2048 bits, made at the first start, in the data folder; another one whenever that is wanted.

    delivery/digest.key    0600: the private key, PEM (PKCS #8)
    delivery/digest.pub    a JSON line for each key that ever signed here: fingerprint, since when, key (PKCS #1 DER, base64)

Signing is deterministic (PKCS #1 v1.5): the same digest, signed twice, has the same signature.
"""

from __future__ import annotations

import base64
from pathlib import Path

import orjson
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from audit import durable
from audit.delivery.digest import PublicKey
from audit.errors import AuditError

_BITS = 2_048
_KEY = "digest.key"


class DigestKeyInvalid(AuditError):
    """The key of the digests cannot be used; nothing of it is in the message."""


class DigestKey:
    """The signing key."""

    def __init__(self, key: RSAPrivateKey, since: int) -> None:
        self._key = key
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
        self.public = PublicKey(der, since)

    def sign(self, text: bytes) -> str:
        """The signature over `text`, in hex."""
        return self._key.sign(text, PKCS1v15(), SHA256()).hex()


def open_key(folder: Path, now: int) -> DigestKey:
    """The key in `folder`, made where there is none; it and its public part are durable when this returns.

    Raises `DigestKeyInvalid`, OSError.
    """
    path = folder / _KEY
    if not path.exists():
        _make_key(path)
    try:
        private = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise DigestKeyInvalid(f"{path} is not a private key in PEM") from error
    if not isinstance(private, RSAPrivateKey):
        raise DigestKeyInvalid(f"{path} is not an RSA key")
    known = read_public_keys(folder)
    key = DigestKey(private, now)
    if (found := known.get(key.public.fingerprint)) is not None:
        return DigestKey(private, found.since)
    write_public_keys(folder, [*known.values(), key.public])
    return key


def rotate_key(folder: Path, now: int) -> DigestKey:
    """Another key in the place of the one in `folder`, as `open_key` gives it; the old one is gone. It signs from the next
    digest on.

    Raises `DigestKeyInvalid`: also where there was none; OSError.
    """
    path = folder / _KEY
    if not path.exists():
        raise DigestKeyInvalid(f"{path} is not there: it is made when delivery begins")
    read_public_keys(folder)  # where they cannot be read, nothing is changed
    _make_key(path)
    return open_key(folder, now)


def _make_key(path: Path) -> None:
    made = generate_private_key(public_exponent=65_537, key_size=_BITS)
    durable.replace(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def read_public_keys(folder: Path) -> dict[str, PublicKey]:
    """Every key that ever signed here, by its fingerprint, oldest first. Raises `DigestKeyInvalid`, OSError."""
    path = folder / "digest.pub"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    return parse_public_keys(text, str(path))


def parse_public_keys(text: bytes, name: str) -> dict[str, PublicKey]:
    """The keys in the file `name`, by their fingerprints. Raises `DigestKeyInvalid`."""
    found = {}
    for line in filter(None, text.split(b"\n")):
        try:
            row = orjson.loads(line)
            key = PublicKey(base64.b64decode(row["value"], validate=True), int(row["since"]))
            load_der_public_key(key.der)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise DigestKeyInvalid(f"{name} does not hold public keys of digests") from error
        found[key.fingerprint] = key
    return found


def write_public_keys(folder: Path, keys: list[PublicKey]) -> None:
    rows = [{"fingerprint": one.fingerprint, "since": one.since, "value": base64.b64encode(one.der).decode()} for one in keys]
    lines = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    durable.replace(folder / "digest.pub", lines, mode=0o644)
