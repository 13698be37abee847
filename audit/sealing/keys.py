"""The sealer's signing key, and the verifier keys that belong to it."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from audit import durable
from audit.checkpoint import VerifierKey
from audit.errors import CheckpointInvalid
from audit.instance import Instance


def create_key(instance: Instance) -> None:
    """Make the signing key of `instance` (0600, PEM) and its public part; durable when this returns. Raises FileExistsError."""
    key = Ed25519PrivateKey.generate()
    durable.create(instance.sealer_key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    durable.create(instance.sealer_public_key, base64.b64encode(key.public_key().public_bytes_raw()) + b"\n", mode=0o644)


def verifier_keys(instance: Instance) -> dict[str, VerifierKey]:
    """The verifier key of each log, from the public key in the data folder. Raises `CheckpointInvalid`, OSError."""
    path = instance.sealer_public_key
    try:
        public_key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except binascii.Error as error:
        raise CheckpointInvalid(f"{path} is not base64") from error
    if len(public_key) != 32:
        raise CheckpointInvalid(f"{path} does not hold an Ed25519 public key")
    return {log: VerifierKey(instance.origin(log), public_key) for log in instance.logs}


def load_key(path: Path) -> Ed25519PrivateKey:
    """The signing key at `path`. Raises `CheckpointInvalid`, OSError; nothing of the key is in the message."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except ValueError as error:
        raise CheckpointInvalid(f"{path} is not a private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CheckpointInvalid(f"{path} is not an Ed25519 key")
    return key
