"""AWS JSON 1.1 as CloudTrail speaks it: the walk's words for what it finds become CloudTrail's own. Pure.

What the service model knows and is not answered here is refused as unsupported, in its words; what it does not know is no
operation. A constraint that does not hold has, for most members, an error of its own; which one is for the member to say.

Source: botocore/data/cloudtrail/*/service-2.json; AWS CloudTrail API reference, "Errors" of each operation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import botocore.loaders

from proxy.cloudtrail.operations import OPERATIONS
from proxy.domain import Answer, Members, Operation, RawResponse
from proxy.errors import KmsError
from proxy.kms import wire
from proxy.kms.model import ServiceModel, Shape, validation_error
from proxy.recording import Exchange, operation_name, plausible

#: Most SDKs send the long form, some the service's name alone.
_TARGET = re.compile(rb"(?:com\.amazonaws\.cloudtrail\.v20131101\.)?CloudTrail_20131101\.([A-Za-z]{1,128})")
_MEMBER_OF = re.compile(r" at '([A-Za-z]+)")
#: The error for a member that is not as it must be.
_OF_MEMBER = {
    "lookupAttributes": "InvalidLookupAttributesException",
    "maxResults": "InvalidMaxResultsException",
    "nextToken": "InvalidNextTokenException",
    "eventCategory": "InvalidEventCategoryException",
    "name": "InvalidTrailNameException",
    "trailNameList": "InvalidTrailNameException",
}
#: CloudTrail's words for the errors of the walk, where they are others than KMS's.
_CODES = {"KMSInternalException": "InternalFailure"}
_TOO_OFTEN = "Rate exceeded"


class CloudTrailDialect:
    """Answers for the operations of the table."""

    def __init__(self, description: Shape) -> None:
        self._known = frozenset(description["operations"])
        used = {name: description["operations"][name] for name in OPERATIONS}
        self._model = ServiceModel({**description, "operations": used})

    @classmethod
    def load(cls) -> CloudTrailDialect:
        """By the model that the installed botocore carries. Reads a file: once, at start."""
        return cls(botocore.loaders.create_loader().load_service_model("cloudtrail", "service-2"))

    def operation(self, exchange: Exchange) -> Operation:
        target = _TARGET.fullmatch(exchange.headers.get(b"x-amz-target", b""))
        name = "" if target is None else target[1].decode()
        return OPERATIONS.get(name) or Operation(operation_name(name), key_members=())

    def attempted(self, exchange: Exchange) -> Members:
        try:
            return plausible(wire.parse_body(exchange.raw.body))
        except KmsError:
            return {}

    def read(self, exchange: Exchange) -> None:
        wire.check_content_type(exchange.headers.get(b"content-type"))
        operation = exchange.operation
        if operation.name not in OPERATIONS:
            if operation.name in self._known:
                raise KmsError(
                    "UnsupportedOperationException", f"{operation.name} is not supported here: the trail is keytrail's."
                )
            raise KmsError("UnknownOperationException")
        document = wire.parse_body(exchange.raw.body)
        try:
            exchange.parameters, faults = self._model.read(operation.name, document)
            if faults:
                raise _error_of(faults)
        except KmsError:
            exchange.parameters = plausible(document)
            raise

    def refusal(self, error: KmsError) -> KmsError:
        message = _TOO_OFTEN if error.code == "ThrottlingException" else error.message
        return KmsError(
            _CODES.get(error.code, error.code), message, status=error.status, keys=error.keys, denied_by=error.denied_by
        )

    def encode(self, exchange: Exchange, outcome: Answer | KmsError, request_id: str) -> RawResponse:
        if isinstance(outcome, Answer):
            return RawResponse(200, wire.encode_answer(outcome.members), request_id)
        return RawResponse(outcome.status, wire.encode_error(outcome), request_id)


def _error_of(faults: Sequence[str]) -> KmsError:
    """The error for constraints that do not hold: that of the first member that has one of its own."""
    told: Any = validation_error(faults).message
    members = [found[1] for fault in faults if (found := _MEMBER_OF.search(fault)) is not None]
    code = next((_OF_MEMBER[member] for member in members if member in _OF_MEMBER), "InvalidParameterException")
    return KmsError(code, told)
