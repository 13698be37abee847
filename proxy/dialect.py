"""How a service is spoken to: `Dialect`, and that of KMS.

A dialect finds in a request's bytes what is asked, and puts an outcome into bytes; the walk between is the same for all
(`proxy.pipeline`). It decides nothing about callers and keeps no state of a call: that is the exchange's.
"""

from __future__ import annotations

from typing import Protocol

from proxy.domain import Answer, Members, Operation, RawResponse
from proxy.errors import KmsError
from proxy.kms import wire
from proxy.kms.model import ServiceModel, validation_error
from proxy.kms.operations import OPERATIONS
from proxy.recording import Exchange, operation_name, plausible


class Dialect(Protocol):
    """One for each pipeline. None of its methods waits for anything."""

    def operation(self, exchange: Exchange) -> Operation:
        """What is asked by its name, before anything was verified: for the record of a refusal. Raises nothing."""
        ...

    def attempted(self, exchange: Exchange) -> Members:
        """The members of a request that was refused unread, as far as they can be recorded. Raises nothing."""
        ...

    def read(self, exchange: Exchange) -> None:
        """Find out what is asked, by the service model; the exchange's operation and parameters say it then, also where this
        raises KmsError."""
        ...

    def refusal(self, error: KmsError) -> KmsError:
        """A refusal in the service's own words, as it is recorded and sent."""
        ...

    def encode(self, exchange: Exchange, outcome: Answer | KmsError, request_id: str) -> RawResponse: ...


class KmsDialect:
    """AWS JSON 1.1. With `forwards`, AWS may know more than this version: what it is asked for, it refuses itself."""

    def __init__(self, model: ServiceModel, *, forwards: bool) -> None:
        self._model = model
        self._forwards = forwards

    def operation(self, exchange: Exchange) -> Operation:
        target = exchange.headers.get(b"x-amz-target")
        return wire.TARGETS.get(target) or Operation(operation_name(wire.claimed_operation(target)))

    def attempted(self, exchange: Exchange) -> Members:
        try:
            return plausible(wire.parse_body(exchange.raw.body))
        except KmsError:
            return {}

    def read(self, exchange: Exchange) -> None:
        operation = exchange.operation
        wire.check_content_type(exchange.headers.get(b"content-type"))
        is_known = OPERATIONS.get(operation.name) is operation
        if not is_known:
            if not self._forwards:
                raise KmsError("UnknownOperationException")
            operation = exchange.operation = wire.new_operation(exchange.headers.get(b"x-amz-target"))
        document = wire.parse_body(exchange.raw.body)
        try:
            exchange.parameters, faults = self._model.read(operation.name, document) if is_known else (plausible(document), ())
            if faults and not self._forwards:
                raise validation_error(faults)
        except KmsError:
            exchange.parameters = plausible(document)
            raise

    def refusal(self, error: KmsError) -> KmsError:
        return error

    def encode(self, exchange: Exchange, outcome: Answer | KmsError, request_id: str) -> RawResponse:
        if isinstance(outcome, Answer):
            return RawResponse(200, wire.encode_answer(outcome.members), request_id)
        return RawResponse(outcome.status, wire.encode_error(outcome), request_id)
