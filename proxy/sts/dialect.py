"""AWS's Query protocol as STS speaks it: a form comes in, XML goes out. Pure.

The form's names are paths into the request's shape (``Tags.member.1.Key``); what the shape does not have is dropped, as AWS does.
Strict where that costs no real client anything: a name that stands twice and text that is not UTF-8 are refused.

The errors of the walk have KMS's names; STS has others for the same things, and other HTTP statuses: `_CODES`. Messages are the
same. A character that XML cannot hold is answered as U+FFFD.

Source: Smithy, "AWS query protocol"; IAM user guide, "Common errors"; botocore/data/sts/*/service-2.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import botocore.loaders

from proxy.domain import Answer, Members, Operation, RawResponse
from proxy.errors import KmsError
from proxy.kms.model import ServiceModel, Shape, validation_error
from proxy.recording import Exchange, operation_name, plausible
from proxy.sts.operations import OPERATIONS

VERSION = "2011-06-15"
NAMESPACE = f"https://sts.amazonaws.com/doc/{VERSION}/"
_CONTENT_TYPE = "application/x-www-form-urlencoded"
_HEADERS = (("Content-Type", "text/xml"),)
_MAX_FIELDS = 1_000
_MAX_LIST = 100  # the longest list of the service model has 50
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: STS's words for the errors of the walk: code, and HTTP status.
_CODES = {
    "UnrecognizedClientException": ("InvalidClientTokenId", 403),
    "InvalidSignatureException": ("SignatureDoesNotMatch", 403),
    "IncompleteSignatureException": ("IncompleteSignature", 400),
    "MissingAuthenticationTokenException": ("MissingAuthenticationToken", 403),
    "ExpiredTokenException": ("ExpiredToken", 403),
    "AccessDeniedException": ("AccessDenied", 403),
    "ValidationException": ("ValidationError", 400),
    "ThrottlingException": ("Throttling", 400),
    "KMSInternalException": ("InternalFailure", 500),
    "ServiceUnavailableException": ("ServiceUnavailable", 503),
    "RequestEntityTooLargeException": ("RequestEntityTooLarge", 413),
    "RequestHeaderSectionTooLarge": ("RequestHeaderSectionTooLarge", 431),
    "RequestTimeoutException": ("RequestTimeout", 408),
    "SerializationException": ("MalformedInput", 400),
}


def is_for_sts(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request is signed for STS; one that names an operation of KMS is for KMS to refuse."""
    return b"x-amz-target" not in headers and b"/sts/aws4_request" in headers.get(b"authorization", b"")


class StsDialect:
    """Answers for the operations of the table; STS's others are not there."""

    def __init__(self, description: Shape) -> None:
        self._shapes: Mapping[str, Shape] = description["shapes"]
        self._inputs = {name: description["operations"][name]["input"]["shape"] for name in OPERATIONS}
        used = {name: description["operations"][name] for name in OPERATIONS}
        self._model = ServiceModel({**description, "operations": used})

    @classmethod
    def load(cls) -> StsDialect:
        """By the model that the installed botocore carries. Reads a file: once, at start."""
        return cls(botocore.loaders.create_loader().load_service_model("sts", "service-2"))

    def operation(self, exchange: Exchange) -> Operation:
        name = _fields(exchange.raw.body).get("Action", "")
        return OPERATIONS.get(name) or Operation(operation_name(name), key_members=())

    def attempted(self, exchange: Exchange) -> Members:
        fields = _fields(exchange.raw.body)
        if exchange.operation.name not in OPERATIONS:
            return {}
        try:
            return plausible(self._document(exchange.operation.name, fields))
        except KmsError:
            return {}

    def read(self, exchange: Exchange) -> None:
        content_type = exchange.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if content_type != _CONTENT_TYPE.encode():
            raise KmsError("MalformedInput", f"The body must be a form: {_CONTENT_TYPE}.")
        fields = _fields(exchange.raw.body, strict=True)
        name = fields.get("Action")
        if name is None:
            raise KmsError("MissingAction", "The request does not name an Action.")
        if name not in OPERATIONS or fields.get("Version", VERSION) != VERSION:
            version = fields.get("Version", VERSION)
            raise KmsError("InvalidAction", f"Could not find operation {name[:128]} for version {version[:32]}")
        document = self._document(name, fields)
        try:
            exchange.parameters, faults = self._model.read(name, document)
            if faults:
                raise validation_error(faults)
        except KmsError:
            exchange.parameters = plausible(document)
            raise

    def _document(self, name: str, fields: Mapping[str, str]) -> dict[str, Any]:
        found = self._value(self._shapes[self._inputs[name]], "", fields)
        return found if isinstance(found, dict) else {}

    def _value(self, shape: Shape, path: str, fields: Mapping[str, str]) -> Any:  # Any: JSON, by the shape
        """What the fields at `path` and below say of a value of `shape`; None where they say nothing."""
        match shape["type"]:
            case "structure":
                members = {
                    name: self._value(self._shapes[ref["shape"]], f"{path}.{name}" if path else name, fields)
                    for name, ref in shape["members"].items()
                }
                return {name: value for name, value in members.items() if value is not None} or None
            case "list":
                return self._items(shape, path, fields)
            case "integer":
                text = fields.get(path)
                if text is not None and not _INTEGER.fullmatch(text):
                    raise KmsError("MalformedInput", f"{path} is no integer")
                return None if text is None else int(text)
            case _:
                return fields.get(path)

    def _items(self, shape: Shape, path: str, fields: Mapping[str, str]) -> list[Any] | None:  # Any: JSON, by the shape
        items = []
        for number in range(1, _MAX_LIST + 1):
            item = self._value(self._shapes[shape["member"]["shape"]], f"{path}.member.{number}", fields)
            if item is None:
                break
            items.append(item)
        return items or None

    def refusal(self, error: KmsError) -> KmsError:
        code, status = _CODES.get(error.code, (error.code, error.status))
        return KmsError(
            code, error.message, status=status, keys=error.keys, denied_by=error.denied_by, effect_unknown=error.effect_unknown
        )

    def encode(self, exchange: Exchange, outcome: Answer | KmsError, request_id: str) -> RawResponse:
        if isinstance(outcome, Answer):
            name = exchange.operation.name
            told: dict[str, Members] = {f"{name}Result": outcome.members, "ResponseMetadata": {"RequestId": request_id}}
            return RawResponse(200, _document(f"{name}Response", told), request_id, _HEADERS)
        fault = "Receiver" if outcome.status >= 500 else "Sender"
        refused: dict[str, object] = {
            "Error": {"Type": fault, "Code": outcome.code, "Message": outcome.message},
            "RequestId": request_id,
        }
        return RawResponse(outcome.status, _document("ErrorResponse", refused), request_id, _HEADERS)


def _fields(body: bytes, *, strict: bool = False) -> dict[str, str]:
    """The fields of a form. What cannot be read has none; where `strict`, it is refused."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError("a name stands twice")
    except ValueError:  # UnicodeError is one
        if strict:
            raise KmsError("MalformedInput", "The body is no form, or a name stands in it twice.") from None
        return {}
    return fields


def _document(name: str, content: Mapping[str, object]) -> bytes:
    inner = "".join(_element(key, value) for key, value in content.items())
    return f'<{name} xmlns="{NAMESPACE}">{inner}</{name}>\n'.encode()


def _element(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        inner = "".join(_element(key, item) for key, item in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        inner = "".join(_element("member", item) for item in value)
    elif isinstance(value, float):
        inner = f"{datetime.fromtimestamp(value, UTC):%Y-%m-%dT%H:%M:%SZ}"
    else:
        inner = escape(_NO_XML.sub("\ufffd", str(value)))
    return f"<{name}>{inner}</{name}>"
