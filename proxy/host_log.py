"""The record of what is done on the host: an intent before each change and its outcome afterwards, in the log `admin`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from audit.commit import BlockingLog, Known
from audit.instance import ADMIN_LOG, Instance, host_user
from audit.record import AuditRecord, IdentityProof, JsonValue, UserIdentity
from proxy.assembly import log_place, make_ids
from proxy.authorization import operator
from proxy.backends.local import effects
from proxy.backends.local.backend import LocalBackend
from proxy.domain import Answer, Operation, Origin, RawRequest
from proxy.errors import KmsError, ProxyError
from proxy.opening import open_store
from proxy.privacy_keys import privacy_keys
from proxy.recording import Exchange, Recorder
from proxy.sealed_store import StoreFailed
from proxy.settings import Settings

T = TypeVar("T")
_log = logging.getLogger(__name__)


class HostLog:
    """The log `admin`, open for one command of whoever is logged in on the host. A context manager; it blocks.

    Raises `AuditError` where it cannot be opened, and where something cannot be recorded. `effect_of` as in `BlockingLog`; where
    none is given, the key store is opened if there is something to be asked of it.
    """

    def __init__(
        self, instance: Instance, settings: Settings, effect_of: Callable[[AuditRecord], Known | None] | None = None
    ) -> None:
        effect_of = effect_of or partial(known_effect, instance, settings)
        self._region = instance.region
        self._new_id = make_ids(os.urandom)
        self._privacy = privacy_keys(settings.context_privacy, instance, os.urandom)
        self._log = BlockingLog(log_place(instance, settings, ADMIN_LOG), effect_of=effect_of)
        hides = None if self._privacy is None else self._privacy.privacy
        self._recorder = Recorder(
            instance.account_id, instance.region, LocalBackend.name, settings.grant_tokens, self._new_id, privacy=hides
        )
        self.operator = operator(instance.account_id, os.getuid(), host_user())

    def __enter__(self) -> HostLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._log.close()
        if self._privacy is not None:
            self._privacy.close()

    def exchange(self, operation: Operation, parameters: Mapping[str, JsonValue]) -> Exchange:
        """What is about to be done, for its records."""
        raw = RawRequest(b"", b"", ((b"user-agent", b"keytrail"),), b"", Origin("localhost"), now_us())
        return Exchange(raw, self._new_id(), operation, parameters, self.operator, region=self._region)

    def recorded(self, exchange: Exchange, source: str, effect: Callable[[], T], answer: Callable[[T], Answer]) -> T:
        """Intent, effect, outcome."""

        def by_operator(record: AuditRecord) -> AuditRecord:
            identity = UserIdentity("Unknown", self.operator.principal_id, user_name=self.operator.user_name)
            return replace(record, identity=identity, identity_proof=IdentityProof.HOST, event_source=source, topology="host")

        intent = by_operator(self._recorder.intent(exchange))
        self._log.commit(intent)
        exchange.intent_id = intent.event_id
        try:
            made = effect()
        except ProxyError as error:
            unknown = isinstance(error, StoreFailed) and error.outcome_unknown
            refusal = error if isinstance(error, KmsError) else KmsError("InvalidRequest", str(error), effect_unknown=unknown)
            self._log.commit(by_operator(self._recorder.outcome(exchange, refusal, now_us())))
            raise
        self._log.commit(by_operator(self._recorder.outcome(exchange, answer(made), now_us())))
        return made


def known_effect(instance: Instance, settings: Settings, intent: AuditRecord) -> Known | None:
    """What the key store knows of the effect of `intent`, whose outcome was lost; None where nothing, or it cannot be opened."""
    try:
        store = open_store(instance, settings)
    except ProxyError as error:
        _log.error("the effect of %s is not known: %s", intent.event_id, error)
        return None
    try:
        return effects.known(store, intent)
    finally:
        store.close()


def now_us() -> int:
    return time.time_ns() // 1_000
