"""AWS JSON 1.1 as KMS speaks it: target, body, answer, error. Pure.

Strict where AWS is lax and it costs no real client anything: a member that stands twice in one object, text that is not UTF-8 and
nesting beyond `MAX_DEPTH` are refused, so that what is recorded is what is done. Errors with no message are AWS's own way: it
gives none for JSON that does not parse, nor for an unknown operation.

Source: Smithy, "AWS JSON 1.1 protocol"; error bodies as recorded from AWS services of the same protocol (Athena, Cognito).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from proxy.domain import Members
from proxy.errors import KmsError
from proxy.kms.operations import OPERATIONS

CONTENT_TYPE = "application/x-amz-json-1.1"
MAX_DEPTH = 32  # the deepest request shape of the service model has 4
_PREFIX = "TrentService."


def claimed_operation(target: bytes | None) -> str:
    """What stands where the operation's name should: any text of the client's, at most 256 characters; "" where there is none."""
    text = (target or b"")[:256].decode("latin-1")
    return text.removeprefix(_PREFIX)


def parse_target(target: bytes | None) -> str:
    """The operation of the X-Amz-Target header. Raises UnknownOperationException, without a message, as AWS does."""
    text = (target or b"").decode("latin-1")
    name = text.removeprefix(_PREFIX)
    if not text.startswith(_PREFIX) or name not in OPERATIONS:
        raise KmsError("UnknownOperationException")
    return name


def check_content_type(value: bytes | None) -> None:
    """Raises UnknownOperationException unless the request says that it is AWS JSON 1.1.

    AWS finds the protocol by this header, so a wrong one names no operation: HTTP 404 and an XML or JSON body, by service. Here
    it is 404 with the JSON body, which the SDKs read.
    """
    if value is None or value.partition(b";")[0].strip().lower() != CONTENT_TYPE.encode():
        raise KmsError("UnknownOperationException", status=404)


def parse_body(body: bytes) -> dict[str, Any]:
    """The request's members. Raises SerializationException; an empty body is refused like any other that is no JSON object."""
    try:
        document = _DECODER.decode(body.decode())
        if b"\\u" in body:
            orjson.loads(body)  # refuses lone surrogates, which no later step could encode
    except (ValueError, RecursionError):
        raise KmsError("SerializationException") from None
    if type(document) is list:
        raise KmsError("SerializationException", "Start of list found where not expected")
    if type(document) is not dict or (body.count(b"{") + body.count(b"[") > MAX_DEPTH and _is_too_deep(document)):
        raise KmsError("SerializationException")
    return document


def encode_answer(members: Members) -> bytes:
    """The body of a successful answer: `bytes` become base64, times become epoch seconds."""
    return orjson.dumps(members, default=_encode_value, option=orjson.OPT_PASSTHROUGH_DATETIME)


def encode_error(error: KmsError) -> bytes:
    """The body of a refusal; only `__type` where AWS sends no message."""
    body = {"__type": error.code}
    if error.message is not None:
        body["message"] = error.message
    return orjson.dumps(body)


def _encode_value(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in an answer")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("out of range")
    return number


def _is_too_deep(document: object) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if type(value) is dict:
                below.extend(value.values())
            elif type(value) is list:
                below.extend(value)
        if not below:
            return False
        level = below
    return any(type(value) in (dict, list) for value in level)


#: One decoder for all: it holds no state. json and not orjson, which keeps the last of two equal members without a word.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_constant=_refuse_constant,
    parse_float=_finite,
)
