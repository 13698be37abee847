"""The sealer's signing key, where it is, and the verifier keys that belong to it.

The key is a file (PEM), in the data folder or elsewhere, or a key of a KMS. `sealer.pub` in the data folder holds the first
public key; what came after it, the chain says (`audit.keychain`), in `checkpoints/keys`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from audit import durable
from audit.checkpoint import SigningKey, VerifierKey, is_public_key
from audit.companion import Plan
from audit.errors import CheckpointInvalid
from audit.instance import Instance
from audit.keychain import KeyChain, LogKeys

KMS = "awskms:"


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where the signing key is: the path of a file, or ``awskms:`` and the ARN, id or alias of a key, which is reached as `kms`
    says (the fields of `audit.sealing.kms_key.KmsAccess`, where a password may be among them). "": in the data folder.

    `state`: the path of the sealer's state; "": beside the key's file, where that is outside the data folder, or else among the
    checkpoints.
    """

    key: str = ""
    state: str = ""
    kms: dict[str, Any] = field(default_factory=dict, repr=False)  # Any: texts and truth values

    @classmethod
    def of(cls, plan: Plan) -> KeyPlace:
        """As the sealer's plan says."""
        return cls(str(plan.get("key", "")), str(plan.get("state", "")), dict(plan.get("kms", {})))

    @property
    def is_file(self) -> bool:
        return not self.key.startswith(KMS)

    def file(self, instance: Instance) -> Path:
        """The key's file; where it is in a KMS, the one that it would be."""
        return Path(self.key) if self.key and self.is_file else instance.sealer_key

    def next_file(self, instance: Instance) -> Path:
        """Where the key that follows is made, until it is the key."""
        path = self.file(instance)
        return path.with_name(path.name + ".next")

    def state_file(self, instance: Instance) -> Path:
        if self.state:
            return Path(self.state)
        return (
            Path(self.key).with_suffix(".state") if self.key and self.is_file else instance.data / "checkpoints" / "sealer.state"
        )

    def require_new(self) -> None:
        """Raises `CheckpointInvalid` or `SigningUnavailable` unless the key that is named can be made, or is there in a KMS."""
        if not self.is_file:
            self._open_kms()
        elif Path(self.key).exists():
            raise CheckpointInvalid(f"{self.key} is there already: it is the key of another instance, or of one that was here")
        elif not Path(self.key).parent.is_dir():
            raise CheckpointInvalid(f"{Path(self.key).parent} is no folder")

    def open(self, instance: Instance) -> SigningKey:
        """The key. Raises `CheckpointInvalid`, `SigningUnavailable`, OSError; nothing of the key is in the message."""
        return load_key(self.file(instance)) if self.is_file else self._open_kms(instance.id)

    def _open_kms(self, instance: str = "") -> SigningKey:
        from audit.sealing.kms_key import KmsAccess, KmsKey  # boto3 takes a second to be there, and is seldom needed

        return KmsKey(self.key.removeprefix(KMS), KmsAccess(**self.kms), instance)


def create_key(instance: Instance, place: KeyPlace | None = None) -> None:
    """Make the signing key of `instance` (0600, PEM), unless it is in a KMS, and write its public part; durable when this
    returns. Raises FileExistsError, `SigningUnavailable`."""
    place = place or KeyPlace()
    if place.is_file:
        durable.create(place.file(instance), new_key_file())
    public_key = place.open(instance).public_key().public_bytes_raw()
    durable.create(instance.sealer_public_key, base64.b64encode(public_key) + b"\n", mode=0o644)


def new_key_file() -> bytes:
    """What a file with a new signing key holds."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_chain(instance: Instance) -> KeyChain:
    """The chain of the sealer's keys. Raises `CheckpointInvalid`, OSError."""
    try:
        text = instance.key_chain.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return KeyChain(instance.id)
    return KeyChain.read(text, instance.id)


def first_key(instance: Instance) -> bytes:
    """The first public key, of `sealer.pub`. Raises `CheckpointInvalid`, OSError."""
    path = instance.sealer_public_key
    try:
        public_key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except binascii.Error as error:
        raise CheckpointInvalid(f"{path} is not base64") from error
    if not is_public_key(public_key):
        raise CheckpointInvalid(f"{path} does not hold a public key, Ed25519 or P-256")
    return public_key


def newest_key(instance: Instance) -> bytes:
    """The public key of today, as the data folder tells it. Raises `CheckpointInvalid`, OSError."""
    first, chain = first_key(instance), read_chain(instance)
    if chain.first_key(first) != first:
        raise CheckpointInvalid(f"{instance.key_chain} does not begin with the key in {instance.sealer_public_key}")
    return chain.newest_key(first)


def verifier_keys(instance: Instance) -> dict[str, VerifierKey]:
    """The verifier key of each log today, as the data folder tells it. Raises `CheckpointInvalid`, OSError."""
    public_key = newest_key(instance)
    return {log: VerifierKey(instance.origin(log), public_key) for log in instance.logs}


def log_keys(instance: Instance, expected: VerifierKey) -> LogKeys:
    """Which key is valid for which records of a log, as `expected`, the key of it that is trusted, vouches for them: one that an
    auditor keeps, of whatever time, or that of `verifier_keys`. Raises `CheckpointInvalid`, OSError."""
    return LogKeys(expected, read_chain(instance))


def load_key(path: Path) -> Ed25519PrivateKey:
    """The signing key at `path`. Raises `CheckpointInvalid`, OSError; nothing of the key is in the message."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except ValueError as error:
        raise CheckpointInvalid(f"{path} is not a private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CheckpointInvalid(f"{path} is not an Ed25519 key")
    return key
