"""The walk of a call, whole: `Pipeline.walk`.

Commit before release: no answer leaves before its record is durable. Intent before effect: what changes something first commits
what it is about to do. Refusals and faults are outcomes like any other. Only a failed commit skips recording, and it releases
nothing but an error.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Protocol, TypeAlias

from audit.commit import Receipt
from audit.errors import CommitFailed
from audit.record import AuditRecord, IdentityProof
from proxy.backends.base import Backend
from proxy.dialect import Dialect
from proxy.domain import Answer, KmsCall, Members, RawRequest, RawResponse
from proxy.errors import KmsError
from proxy.recording import Exchange, Recorder
from proxy.sigv4 import AuthenticationFailed, SeenSignatures, Verified

_log = logging.getLogger(__name__)
_NOT_READY = KmsError("ServiceUnavailableException", "The audit log is not available; no call is answered.", status=503)
_NOT_RECORDED = KmsError("KMSInternalException", "The call could not be recorded, so it is not answered.", status=500)
_TOO_OFTEN = "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."


class Commits(Protocol):
    """What the pipeline needs of `audit.commit.AuditLog`."""

    @property
    def fault(self) -> str | None: ...

    def commit(self, record: AuditRecord) -> Awaitable[Receipt]: ...


class Authenticator(Protocol):
    """Who is calling: `proxy.sigv4.Verifier`, or where the signature is for AWS to verify, `proxy.claims.ClaimReader`."""

    def verify(self, raw: RawRequest, now_us: int) -> Verified: ...


#: Whether a caller (a word for it) may call once more now (microseconds since the epoch).
MayCall: TypeAlias = Callable[[str, int], bool]
#: Raises KmsError, with `denied_by`, for a call that the guardrails refuse; it is told the client's address as well.
Authorise: TypeAlias = Callable[[KmsCall, str], None]
#: The client's address by the headers of a request, where they may be believed.
ClientOf: TypeAlias = Callable[[RawRequest], str | None]
#: Told of each call that ended: its operation, error code ("" for none), and how long it took in microseconds.
Observe: TypeAlias = Callable[[str, str, int], None]
#: Told of each record that is durable, and where it is.
Note: TypeAlias = Callable[[AuditRecord, Receipt], None]
#: Sees to it that what is private in a request can be recorded as it is to be. Raises KmsError where it cannot.
Confide: TypeAlias = Callable[[Members], Awaitable[None]]


class Pipeline:
    """Answers calls. One for each worker; `walk` runs as often at a time as there are calls. `now_us` is the clock, UTC.

    `origin` is the name of `log` in checkpoints, for receipts. `proof` says what the authenticator's word is worth. More than
    `calls_at_once` calls under way are refused as throttled.
    Another service on the same listener has a pipeline of its own, `beside`, which walks the calls whose headers say so.
    """

    def __init__(
        self,
        *,
        verifier: Authenticator,
        dialect: Dialect,
        backend: Backend,
        recorder: Recorder,
        log: Commits,
        origin: str,
        now_us: Callable[[], int],
        new_id: Callable[[], str],
        proof: IdentityProof = IdentityProof.SIGNATURE,
        may_call: MayCall | None = None,
        authorise: Authorise | None = None,
        client_of: ClientOf | None = None,
        observe: Observe | None = None,
        note: Note | None = None,
        confide: Confide | None = None,
        calls_at_once: int = 1 << 30,
        beside: Pipeline | None = None,
        is_for_beside: Callable[[Mapping[bytes, bytes]], bool] = lambda headers: False,
    ) -> None:
        self._verifier = verifier
        self._proof = proof
        self._may_call = may_call
        self._authorise = authorise
        self._client_of = client_of
        self._observe = observe
        self._note = note
        self._confide = confide
        self._calls_at_once = calls_at_once
        self._under_way = 0
        self._dialect = dialect
        self._beside = beside
        self._is_for_beside = is_for_beside
        self._backend = backend
        self._recorder = recorder
        self._log = log
        self._origin = origin
        self._now_us = now_us
        self._new_id = new_id
        self._seen = SeenSignatures(50_000)

    @property
    def under_way(self) -> int:
        """How many calls have no answer yet."""
        return self._under_way + (self._beside.under_way if self._beside is not None else 0)

    async def walk(self, raw: RawRequest) -> RawResponse:
        """The response to `raw`, its record durable. Raises nothing."""
        exchange = Exchange(raw, self._new_id())
        if self._beside is not None and self._is_for_beside(exchange.headers):
            return await self._beside.walk(raw)
        if self._log.fault is not None:
            return self._encode(exchange, self._dialect.refusal(_NOT_READY))
        self._under_way += 1
        outcome: Answer | KmsError | None = None
        try:
            try:
                caller = self._authenticate(exchange)
                await _turn()
                call = self._parse(exchange, caller)
                if self._confide is not None:
                    await self._confide(call.parameters)
                self._admit(exchange, call)
                await _turn()
                if call.operation.mutates:
                    call.intent_id = exchange.intent_id = await self._commit_intent(exchange)
                outcome = await self._backend.call(call)
            except KmsError as error:
                outcome = self._dialect.refusal(error)
            await _turn()
            response = self._encode(exchange, outcome)
            await _turn()
            record = self._recorder.outcome(exchange, outcome, self._now_us())
            await _turn()
            receipt = await self._log.commit(record)
            response.receipt = receipt.text(self._origin)
            self._count(record)
            if self._note is not None:
                self._note(record, receipt)
            return response
        except CommitFailed as error:
            _log.error("request %s: %s", exchange.request_id, error)
            return self._encode(exchange, self._dialect.refusal(_NOT_RECORDED))
        except Exception:
            _log.exception("request %s: internal fault in %s", exchange.request_id, exchange.operation.name)
            return await self._record_fault(exchange, outcome)
        finally:
            self._under_way -= 1

    def _authenticate(self, exchange: Exchange) -> Verified:
        """Who is calling, and for which region. The operation is noted first, so that a refusal's record names it."""
        raw = exchange.raw
        exchange.operation = self._dialect.operation(exchange)
        if self._client_of is not None:
            exchange.source_ip = self._client_of(raw) or exchange.source_ip
        if raw.fault is not None:
            raise KmsError(raw.fault.code, raw.fault.message, status=raw.fault.status)
        try:
            verified = self._verifier.verify(raw, raw.received_us)
        except AuthenticationFailed as error:
            if error.__cause__ is not None:
                _log.error("request %s: %s", exchange.request_id, error.__cause__)
            exchange.claimed_access_key_id = error.claimed_access_key_id
            exchange.region = error.claimed_region
            exchange.parameters = self._dialect.attempted(exchange)
            raise
        exchange.principal = verified.principal
        exchange.proof = self._proof
        exchange.region = verified.region
        exchange.repeated_signature = self._seen.seen(verified.signature)
        return verified

    def _parse(self, exchange: Exchange, caller: Verified) -> KmsCall:
        """What is asked, by the service model."""
        self._dialect.read(exchange)
        raw, operation = exchange.raw, exchange.operation
        call = KmsCall(
            operation,
            caller.region,
            caller.principal,
            exchange.parameters,
            raw.received_us,
            raw,
            exchange.source_ip,
            exchange.request_id,
        )
        exchange.allowed_by = call.allowed_by
        exchange.call = call
        return call

    def _admit(self, exchange: Exchange, call: KmsCall) -> None:
        """Whether the call may go on: by its caller's rate, by how much is under way, and by the guardrails."""
        caller = call.principal.arn or call.principal.access_key_id
        if self._under_way > self._calls_at_once or (self._may_call is not None and not self._may_call(caller, call.received_us)):
            raise KmsError("ThrottlingException", _TOO_OFTEN)
        if self._authorise is not None:
            self._authorise(call, exchange.source_ip)

    async def _commit_intent(self, exchange: Exchange) -> str:
        intent = self._recorder.intent(exchange)
        await self._log.commit(intent)
        return intent.event_id

    async def _record_fault(self, exchange: Exchange, outcome: Answer | KmsError | None) -> RawResponse:
        """A fault of ours is an outcome too: recorded as far as that goes, and answered without a word of what it was.

        Behind an intent nobody knows what was done; and where AWS had answered, its request id joins the record to AWS's own.
        """
        exchange.parameters = {}
        fault = self._dialect.refusal(
            KmsError(
                "KMSInternalException",
                "The call failed because of an internal fault.",
                status=500,
                keys=outcome.keys if outcome is not None else (),
                upstream=outcome.upstream if outcome is not None else None,
                effect_unknown=exchange.intent_id is not None,
            )
        )
        response = self._encode(exchange, fault)
        try:
            record = self._recorder.outcome(exchange, fault, self._now_us())
            response.receipt = (await self._log.commit(record)).text(self._origin)
            self._count(record)
        except CommitFailed as error:
            _log.error("request %s: %s", exchange.request_id, error)
        return response

    def _count(self, record: AuditRecord) -> None:
        if self._observe is not None:
            self._observe(record.event_name, record.wire_error or "", record.latency_us or 0)

    def _encode(self, exchange: Exchange, outcome: Answer | KmsError) -> RawResponse:
        """The answer for the client; where AWS gave one, that, and in any case under AWS's request id, as in the record."""
        forwarded, upstream = outcome.forwarded, outcome.upstream
        request_id = (upstream and upstream.request_id) or exchange.request_id
        if forwarded is not None and upstream is not None and upstream.status is not None:
            return RawResponse(upstream.status, forwarded.body, request_id, forwarded.headers)
        return self._dialect.encode(exchange, outcome, request_id)


@types.coroutine
def _turn() -> Generator[None]:
    """Lets the other calls that are here come as far, so that all do the next step one after the other: its code is then in the
    processor's cache, which halves the price of a call under load (docs/adr/0007)."""
    yield
