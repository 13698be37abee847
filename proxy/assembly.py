"""From settings to what answers calls: the parts of a worker, put together. It decides nothing about a call.

`assemble` runs at a worker's start and at each SIGHUP, which puts a new pipeline in the old one's place.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from audit.commit import AuditLog, LogPlace
from audit.instance import Instance
from audit.record import IdentityProof
from proxy.backends.base import Backend
from proxy.backends.local.backend import LocalBackend
from proxy.callers import Callers
from proxy.errors import SetupError
from proxy.kms.model import ServiceModel
from proxy.metrics import Counts
from proxy.pipeline import Authenticator, Pipeline
from proxy.recording import Recorder
from proxy.sealed_store import MASTER_KEY_BYTES, SealedStore
from proxy.settings import Settings
from proxy.sigv4 import Verifier


@dataclass(frozen=True, slots=True)
class Parts:
    """What stays the same as long as a worker lives."""

    instance: Instance
    log: AuditLog
    store: SealedStore
    model: ServiceModel
    counts: Counts
    new_id: Callable[[], str]
    own_addresses: frozenset[tuple[str, int]]  # where this instance listens: never an upstream


@dataclass(frozen=True, slots=True)
class Assembly:
    """A pipeline, and how what is behind it is closed."""

    pipeline: Pipeline
    close: Callable[[], Awaitable[None]]


async def assemble(settings: Settings, parts: Parts) -> Assembly:
    """The pipeline that `settings` ask for. Raises SetupError where it cannot be."""
    verifier: Authenticator = Verifier(Callers(parts.store, time.time, os.urandom).find)
    proof = IdentityProof.SIGNATURE
    local = LocalBackend(parts.store, parts.instance.account_id, time.time, os.urandom)
    backend: Backend = local

    async def close() -> None:
        local.close()

    pipeline = Pipeline(
        verifier=verifier,
        proof=proof,
        model=parts.model,
        backend=backend,
        recorder=Recorder(parts.instance.account_id, parts.instance.region, backend.name, settings.grant_tokens, parts.new_id),
        log=parts.log,
        now_us=lambda: time.time_ns() // 1_000,
        new_id=parts.new_id,
        observe=parts.counts.observe,
        calls_at_once=settings.calls_at_once,
    )
    return Assembly(pipeline, close)


def read_master_key(instance: Instance) -> bytes:
    """The master key of `instance`, which opens its key store. Raises `SetupError`; nothing of the key is in the message."""
    try:
        key = base64.b64decode(instance.master_key.read_bytes(), validate=False)
    except (OSError, binascii.Error) as error:
        raise SetupError(f"the master key cannot be read from {instance.master_key}; nothing was changed") from error
    if len(key) != MASTER_KEY_BYTES:
        raise SetupError(f"{instance.master_key} does not hold {MASTER_KEY_BYTES} bytes in base64; nothing was changed")
    return key


def log_place(instance: Instance, settings: Settings, log: str, *, syncing: bool = True) -> LogPlace:
    """Where the log `log` of `instance` is, with the settings for its segments."""
    return LogPlace(
        instance.log_folder(log),
        instance.checkpoint_folder(log),
        instance.region,
        instance.account_id,
        settings.segment_max_bytes,
        settings.segment_max_age_s,
        syncing,
    )


def make_ids(random: Callable[[int], bytes]) -> Callable[[], str]:
    """A source of ids in the form of UUIDs (version 8): ten random bytes of this source, and a count. Unique, and no secret."""
    prefix = random(10).hex()
    head = f"{prefix[:8]}-{prefix[8:12]}-8{prefix[12:15]}-a{prefix[15:18]}-"
    count = itertools.count()
    return lambda: f"{head}{next(count):012x}"
