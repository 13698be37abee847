"""A local backend for tests: a clock that is set by hand, calls built directly, answers awaited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.authorization import PolicyAuthoriser
from proxy.backends.local.backend import LocalBackend
from proxy.backends.local.due import Due
from proxy.backends.local.maintenance import Done, Intent
from proxy.backends.local.surroundings import Authoriser
from proxy.domain import Answer, KmsCall, Principal
from proxy.errors import KmsError
from proxy.kms.operations import OPERATIONS
from proxy.permissions import Permissions
from proxy.sealed_store import SealedStore

ACCOUNT = "111122223333"
REGION = "us-east-1"
MASTER_KEY = bytes(range(32))
INSTANCE = "0123456789abcdef"
ALICE = Principal("IAMUser", f"arn:aws:iam::{ACCOUNT}:user/alice", ACCOUNT, "AKIAIOSFODNN7EXAMPLE", "AIDAEXAMPLE", "alice")
BOB = Principal("IAMUser", "arn:aws:iam::444455556666:user/bob", "444455556666", "AKIAI44QH8DHBEXAMPLE", "AIDABOB", "bob")
START_S = 1_700_000_000.0


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s


def call(operation: str, region: str = REGION, caller: Principal = ALICE, **parameters: object) -> KmsCall:
    return KmsCall(OPERATIONS[operation], region, caller, parameters, 0)


class World:
    """One worker: a store handle and a backend. Two of them on one path are two workers; with a `store` of their own, on one
    server, they are two hosts. `caller` is who calls. `more` is the backend's."""

    def __init__(
        self,
        path: Path,
        clock: Clock | None = None,
        authoriser: Authoriser | None = None,
        store: SealedStore | None = None,
        **more: Any,
    ) -> None:
        if store is None and not path.exists():
            SealedStore.create(path, MASTER_KEY, INSTANCE).close()
        self.path = path
        self.store = store or SealedStore.at(path, MASTER_KEY)
        self.clock = clock or Clock()
        self.caller = ALICE
        self.permissions = Permissions(self.store)
        self.authoriser = authoriser or PolicyAuthoriser(self.permissions, self.clock)
        self.backend = LocalBackend(self.store, self.clock, os.urandom, self.authoriser, **more)

    def close(self) -> None:
        self.backend.close()
        self.store.close()

    def ask(self, operation: str, region: str = REGION, **parameters: object) -> Answer:
        return asyncio.run(self.backend.call(call(operation, region, self.caller, **parameters)))

    def __call__(self, operation: str, region: str = REGION, **parameters: object) -> Mapping[str, Any]:
        """The members of the answer."""
        return self.ask(operation, region, **parameters).members

    def due(self) -> list[Due]:
        return self.backend.due()

    def carry_out(self, due: Due) -> Done | None:
        return asyncio.run(self.backend.carry_out(due, Intent(f"of {due}", 0)))

    def refused(self, operation: str, region: str = REGION, **parameters: object) -> KmsError:
        """The refusal; fails when the call is answered."""
        try:
            answer = self.ask(operation, region, **parameters)
        except KmsError as refusal:
            return refusal
        raise AssertionError(f"{operation} was answered: {sorted(answer.members)}")

    def new_key(self, region: str = REGION, **parameters: object) -> str:
        """The id of a new key."""
        key_id: str = self("CreateKey", region, **parameters)["KeyMetadata"]["KeyId"]
        return key_id


def arn_of(key_id: str, region: str = REGION) -> str:
    return f"arn:aws:kms:{region}:{ACCOUNT}:key/{key_id}"
