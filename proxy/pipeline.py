"""The walk of a call, whole: `Pipeline.walk`.

Commit before release: no answer leaves before its record is durable. Intent before effect: what changes something first commits
what it is about to do. Refusals and faults are outcomes like any other. Only a failed commit skips recording, and it releases
nothing but an error.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Protocol

from audit.commit import Receipt
from audit.errors import CommitFailed
from audit.record import AuditRecord
from proxy.backends.base import Backend
from proxy.domain import Answer, KmsCall, Members, Operation, RawRequest, RawResponse
from proxy.errors import KmsError
from proxy.kms import wire
from proxy.kms.model import ServiceModel
from proxy.kms.operations import OPERATIONS
from proxy.recording import Exchange, Recorder, operation_name, plausible
from proxy.sigv4 import AuthenticationFailed, SeenSignatures, Verified, Verifier

_log = logging.getLogger(__name__)
_NOT_READY = KmsError("ServiceUnavailableException", "The audit log is not available; no call is answered.", status=503)
_NOT_RECORDED = KmsError("KMSInternalException", "The call could not be recorded, so it is not answered.", status=500)
_FAULT = KmsError("KMSInternalException", "The call failed because of an internal fault.", status=500)


class Commits(Protocol):
    """What the pipeline needs of `audit.commit.AuditLog`."""

    @property
    def fault(self) -> str | None: ...

    def commit(self, record: AuditRecord) -> Awaitable[Receipt]: ...


class Pipeline:
    """Answers calls. One for each worker; `walk` runs as often at a time as there are calls. `now_us` is the clock, UTC."""

    def __init__(
        self,
        *,
        verifier: Verifier,
        model: ServiceModel,
        backend: Backend,
        recorder: Recorder,
        log: Commits,
        now_us: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._verifier = verifier
        self._model = model
        self._backend = backend
        self._recorder = recorder
        self._log = log
        self._now_us = now_us
        self._new_id = new_id
        self._seen = SeenSignatures(50_000)

    async def walk(self, raw: RawRequest) -> RawResponse:
        """The response to `raw`, its record durable. Raises nothing."""
        exchange = Exchange(raw, self._new_id())
        if self._log.fault is not None:
            return _encode(exchange, _NOT_READY)
        try:
            outcome: Answer | KmsError
            try:
                caller = self._authenticate(exchange)
                await _turn()
                call = self._parse(exchange, caller)
                await _turn()
                if call.operation.mutates:
                    exchange.intent_id = await self._commit_intent(exchange)
                outcome = await self._backend.call(call)
            except KmsError as error:
                outcome = error
            await _turn()
            response = _encode(exchange, outcome)
            await _turn()
            record = self._recorder.outcome(exchange, outcome, self._now_us())
            await _turn()
            await self._log.commit(record)
            return response
        except CommitFailed as error:
            _log.error("request %s: %s", exchange.request_id, error)
            return _encode(exchange, _NOT_RECORDED)
        except Exception:
            _log.exception("request %s: internal fault in %s", exchange.request_id, exchange.operation.name)
            return await self._record_fault(exchange)

    def _authenticate(self, exchange: Exchange) -> Verified:
        """Who is calling, and for which region. The operation is noted first, so that a refusal's record names it."""
        raw, target = exchange.raw, exchange.headers.get(b"x-amz-target")
        exchange.operation = wire.TARGETS.get(target) or Operation(operation_name(wire.claimed_operation(target)))
        if raw.fault is not None:
            raise KmsError(raw.fault.code, raw.fault.message, status=raw.fault.status)
        try:
            verified = self._verifier.verify(raw, raw.received_us)
        except AuthenticationFailed as error:
            exchange.claimed_access_key_id = error.claimed_access_key_id
            exchange.region = error.claimed_region
            exchange.parameters = _attempted(raw)
            raise
        exchange.principal = verified.principal
        exchange.region = verified.region
        exchange.repeated_signature = self._seen.seen(verified.signature)
        return verified

    def _parse(self, exchange: Exchange, caller: Verified) -> KmsCall:
        """What is asked, by the service model."""
        raw, operation = exchange.raw, exchange.operation
        wire.check_content_type(exchange.headers.get(b"content-type"))
        if OPERATIONS.get(operation.name) is not operation:
            raise KmsError("UnknownOperationException")
        document = wire.parse_body(raw.body)
        try:
            exchange.parameters = self._model.validate(operation.name, document)
        except KmsError:
            exchange.parameters = plausible(document)
            raise
        return KmsCall(operation, caller.region, caller.principal, exchange.parameters, raw.received_us)

    async def _commit_intent(self, exchange: Exchange) -> str:
        intent = self._recorder.intent(exchange)
        await self._log.commit(intent)
        return intent.event_id

    async def _record_fault(self, exchange: Exchange) -> RawResponse:
        """A fault of ours is an outcome too: recorded as far as that goes, and answered without a word of what it was."""
        exchange.parameters = {}
        try:
            await self._log.commit(self._recorder.outcome(exchange, _FAULT, self._now_us()))
        except CommitFailed as error:
            _log.error("request %s: %s", exchange.request_id, error)
        return _encode(exchange, _FAULT)


@types.coroutine
def _turn() -> Generator[None]:
    """Lets the other calls that are here come as far, so that all do the next step one after the other: its code is then in the
    processor's cache, which halves the price of a call under load (docs/adr/0007)."""
    yield


def _attempted(raw: RawRequest) -> Members:
    """What a request that was refused unread asked for, as far as it can be recorded."""
    try:
        return plausible(wire.parse_body(raw.body))
    except KmsError:
        return {}


def _encode(exchange: Exchange, outcome: Answer | KmsError) -> RawResponse:
    if isinstance(outcome, Answer):
        return RawResponse(200, wire.encode_answer(outcome.members), exchange.request_id)
    return RawResponse(outcome.status, wire.encode_error(outcome), exchange.request_id)
