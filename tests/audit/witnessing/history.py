"""A log made up for tests: its leaves, and checkpoints, proofs and requests over them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Checkpoint, VerifierKey, sign
from audit.merkle import leaf_hash, root_of
from audit.witnessing.protocol import AddCheckpoint
from tests.audit.trees import consistency_by_definition

LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


@dataclass
class History:
    """`forked` is the first record that is another than in a history without a fork."""

    origin: str = "log.example/1"
    forked: int | None = None
    key: Ed25519PrivateKey = field(default_factory=lambda: LOG_KEY)

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey.of(self.origin, self.key)

    def leaves(self, size: int) -> list[bytes]:
        fork = size if self.forked is None else self.forked
        return [leaf_hash(f"{'other ' if index >= fork else ''}record {index}".encode()) for index in range(size)]

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(self.origin, size, root_of(self.leaves(size)))

    def note(self, size: int) -> str:
        return sign(self.checkpoint(size), self.key)

    def proof(self, old_size: int, size: int) -> tuple[bytes, ...]:
        return tuple(consistency_by_definition(self.leaves(size), old_size)) if old_size else ()

    def request(self, old_size: int, size: int) -> bytes:
        return AddCheckpoint(old_size, self.proof(old_size, size), self.note(size)).encode()
