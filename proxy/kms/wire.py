"""AWS JSON 1.1 as KMS speaks it: target, body, answer, error. Pure.

Strict where AWS is lax and it costs no real client anything: a member that stands twice in one object, text that is not UTF-8 and
nesting beyond `MAX_DEPTH` are refused, so that what is recorded is what is done. Errors with no message are AWS's own way: it
gives none for JSON that does not parse, nor for an unknown operation.

Source: Smithy, "AWS JSON 1.1 protocol"; error bodies as recorded from AWS services of the same protocol (Athena, Cognito).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from proxy.domain import Members, Operation
from proxy.errors import KmsError
from proxy.kms.operations import OPERATIONS

CONTENT_TYPE = "application/x-amz-json-1.1"
_CONTENT_TYPE = CONTENT_TYPE.encode()
MAX_DEPTH = 32  # the deepest request shape of the service model has 4
_PREFIX = "TrentService."
_NEW_TARGET = re.compile(rb"TrentService\.([A-Z][A-Za-z0-9]{0,127})")


#: The operation that an X-Amz-Target header names. AWS answers any other with UnknownOperationException, without a message.
TARGETS: dict[bytes | None, Operation] = {f"{_PREFIX}{name}".encode(): operation for name, operation in OPERATIONS.items()}


def claimed_operation(target: bytes | None) -> str:
    """What stands where the operation's name should: any text of the client's, at most 256 characters; "" where there is none."""
    text = (target or b"")[:256].decode("latin-1")
    return text.removeprefix(_PREFIX)


def new_operation(target: bytes | None) -> Operation:
    """An operation that this version does not know, for AWS to answer. By AWS's names for operations, all but Get, List and
    Describe may change something; nothing of its request but the key is recorded.

    Raises UnknownOperationException where `target` is none of KMS's.
    """
    name = _NEW_TARGET.fullmatch(target or b"")
    if name is None:
        raise KmsError("UnknownOperationException")
    operation = name[1].decode()
    return Operation(operation, mutates=not operation.startswith(("Get", "List", "Describe")), request=("KeyId",))


def check_content_type(value: bytes | None) -> None:
    """Raises UnknownOperationException unless the request says that it is AWS JSON 1.1.

    AWS finds the protocol by this header, so a wrong one names no operation: HTTP 404 and an XML or JSON body, by service. Here
    it is 404 with the JSON body, which the SDKs read.
    """
    if value == _CONTENT_TYPE:
        return
    if value is None or value.partition(b";")[0].strip().lower() != _CONTENT_TYPE:
        raise KmsError("UnknownOperationException", status=404)


def parse_body(body: bytes) -> dict[str, Any]:
    """The request's members. Raises SerializationException; an empty body is refused like any other that is no JSON object.

    orjson keeps the last of two equal members without a word. Where no character is escaped, every string of the text has two
    quotation marks and there are no others, so a member that was dropped is missed in the count; else a slower decoder looks.
    """
    try:
        document = orjson.loads(body)
        if type(document) is dict:
            strings = _count_strings(document, MAX_DEPTH)
            if b"\\" in body:
                _DECODER.decode(body.decode())
            elif body.count(b'"') != 2 * strings:
                raise ValueError("a member stands twice")
            return document
    except ValueError:
        raise KmsError("SerializationException") from None
    raise KmsError("SerializationException", "Start of list found where not expected" if type(document) is list else None)


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


def _count_strings(document: dict[str, Any] | list[Any], depth: int) -> int:
    """How many strings stand in `document`, the members' names among them. Raises ValueError where it is deeper than `depth`."""
    if depth == 0:
        raise ValueError("nested too deep")
    count, values = (len(document), document.values()) if isinstance(document, dict) else (0, document)
    for value in values:
        kind = type(value)
        if kind is str:
            count += 1
        elif kind is dict or kind is list:
            count += _count_strings(value, depth - 1)
    return count


#: One decoder for all: it holds no state.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique_members)
