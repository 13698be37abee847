"""Malformed requests to a running server: 4xx in AWS's form, never a 500, never a hang, and a record of each."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection as Connection
from typing import Any
from urllib.parse import urlsplit

import botocore.loaders
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.kms.operations import OPERATIONS
from tests.integration.conftest import JSON_1_1, LIMIT_S, Reply, Server, keytrail

MODEL: Mapping[str, Any] = botocore.loaders.create_loader().load_service_model("kms", "service-2")  # Any: JSON
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LATIN = st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")
BODY_LIMIT = 256 << 10


class Log:
    """The records of a running server, as they come."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._offset = server.segments()[-1].stat().st_size if server.segments() else 0

    def new(self) -> list[dict[str, Any]]:  # Any: JSON
        """The records since the last look."""
        (path,) = self._server.segments()
        with path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        assert data.endswith(b"\n") or not data
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture(scope="module")
def log(server: Server) -> Log:
    return Log(server)


@pytest.fixture(scope="module")
def connection(server: Server) -> Iterator[Connection]:
    kept = server.connect()
    yield kept
    kept.close()


def require_answered_and_recorded(log: Log, reply: Reply) -> dict[str, Any]:  # Any: JSON
    """200, or 4xx in AWS's form; one record of the outcome, and an intent at most besides."""
    assert reply.status == 200 or 400 <= reply.status < 500, reply.body
    *intents, outcome = log.new()
    assert outcome["requestID"] == reply.request_id
    assert len(intents) <= 1 and all(keytrail(intent)["phase"] == "intent" for intent in intents)
    if reply.status != 200:
        document = json.loads(reply.body)
        assert set(document) <= {"__type", "message"}
        assert keytrail(outcome)["wireError"] == document["__type"]
    return outcome


def nested(depth: int, inner: str = "1") -> str:
    return '{"a":' * depth + inner + "}" * depth


MALFORMED: dict[str, tuple[str, bytes, int]] = {
    "no body": ("GenerateDataKey", b"", 400),
    "no JSON": ("GenerateDataKey", b"KeyId=alias/demo", 400),
    "cut short": ("GenerateDataKey", b'{"KeyId": "alias/de', 400),
    "a list": ("GenerateDataKey", b"[]", 400),
    "null": ("GenerateDataKey", b"null", 400),
    "two documents": ("GenerateDataKey", b"{}{}", 400),
    "wrong type": ("GenerateDataKey", b'{"KeyId": {"a": 1}, "KeySpec": 7}', 400),
    "missing member": ("Decrypt", b"{}", 400),
    "duplicate key": ("GenerateDataKey", b'{"KeyId": "alias/demo", "KeyId": "alias/demo", "KeySpec": "AES_256"}', 400),
    "invalid UTF-8": ("GenerateDataKey", b'{"KeyId": "\xff\xfe"}', 400),
    "UTF-16": ("GenerateDataKey", '{"KeyId": "alias/demo"}'.encode("utf-16"), 400),
    "lone surrogate": ("GenerateDataKey", b'{"KeyId": "alias/demo", "EncryptionContext": {"a": "\\udc00"}}', 400),
    "NaN": ("GenerateDataKey", b'{"KeyId": "alias/demo", "NumberOfBytes": NaN}', 400),
    "huge number": ("GenerateDataKey", b'{"KeyId": "alias/demo", "NumberOfBytes": 1' + b"0" * 4_000 + b"}", 400),
    "huger number": ("GenerateDataKey", b'{"KeyId": "alias/demo", "NumberOfBytes": ' + b"9" * 100_000 + b"}", 400),
    "huge exponent": ("GenerateDataKey", b'{"KeyId": "alias/demo", "NumberOfBytes": 1e99999}', 400),
    "negative": ("GenerateDataKey", b'{"KeyId": "alias/demo", "NumberOfBytes": -1}', 400),
    "deep": ("GenerateDataKey", nested(40).encode(), 400),
    "deeper": ("GenerateDataKey", nested(20_000).encode(), 400),
    "deep lists": ("GenerateDataKey", b'{"GrantTokens":' + b"[" * 100_000, 400),
    "bad base64": ("Decrypt", b'{"CiphertextBlob": "not base64"}', 400),
    "no ciphertext": ("Decrypt", b'{"CiphertextBlob": "AAAA"}', 400),
    "unknown operation": ("Frobnicate", b"{}", 400),
    "NUL in text": ("GenerateDataKey", b'{"KeyId": "\\u0000", "KeySpec": "AES_256"}', 400),
    "many members": ("ListKeys", json.dumps({f"m{n}": "x" for n in range(5_000)}).encode(), 200),
    "large context": ("Encrypt", json.dumps({"KeyId": "alias/demo", "EncryptionContext": {"a": "x" * 200_000}}).encode(), 400),
    "large policy": ("CreateKey", json.dumps({"Policy": "x" * 200_000}).encode(), 400),
    "at the limit": ("ListKeys", b"{" + b" " * (BODY_LIMIT - 2) + b"}", 200),
    "over the limit": ("ListKeys", b"{" + b" " * BODY_LIMIT + b"}", 413),
}


@pytest.mark.parametrize(("operation", "body", "status"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_is_refused_and_recorded(server: Server, log: Log, operation: str, body: bytes, status: int) -> None:
    reply = server.post(operation, body)
    assert reply.status == status, reply.body
    outcome = require_answered_and_recorded(log, reply)
    assert outcome["eventName"] == operation


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"text/plain", b"application/x-amz-json-1.0", b"application/x-www-form-urlencoded"]
)
def test_a_wrong_content_type_is_refused_and_recorded(server: Server, log: Log, content_type: bytes) -> None:
    reply = server.post("ListKeys", {}, content_type=content_type)
    assert 400 <= reply.status < 500
    require_answered_and_recorded(log, reply)


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["alias/demo", "AES_256", "SYMMETRIC_DEFAULT", "Decrypt", "AAAA", "\x00", "\U0001f511"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, bytes]:
    """An operation with members of its own, their values of any kind; at times with the bytes damaged."""
    operation = draw(st.sampled_from(sorted(OPERATIONS)))
    shape = MODEL["operations"][operation].get("input", {}).get("shape")
    members = sorted(MODEL["shapes"][shape]["members"]) if shape else []
    names = st.sampled_from([*members, "Unknown"]) if members else st.text(max_size=8)
    body = json.dumps(draw(st.dictionaries(names, JSON_VALUES, max_size=4)), ensure_ascii=draw(st.booleans()))
    data = bytearray(body.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return operation, bytes(data)


@FUZZ
@given(calls())
def test_signed_calls_of_any_kind(server: Server, log: Log, connection: Connection, call: tuple[str, bytes]) -> None:
    operation, body = call
    outcome = require_answered_and_recorded(log, server.post(operation, body, connection))
    assert outcome["eventName"] == operation


@settings(FUZZ, max_examples=60)
@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40), st.binary(max_size=40)
)
def test_targets_and_bodies_of_any_kind(server: Server, log: Log, connection: Connection, target: str, body: bytes) -> None:
    reply = server.post(target, body, connection)
    assert 400 <= reply.status < 500
    require_answered_and_recorded(log, reply)


@settings(FUZZ, max_examples=60)
@given(st.data())
def test_requests_whose_signature_no_longer_holds(server: Server, log: Log, connection: Connection, data: st.DataObject) -> None:
    headers = server.signed_headers(b"TrentService.ListKeys", b"{}", JSON_1_1)
    name = data.draw(st.sampled_from(sorted(headers)))
    value = bytearray(headers[name])
    place = data.draw(st.integers(0, len(value) - 1))
    value[place : place + 1] = data.draw(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=3)).encode()
    changed = bytes(value) != headers[name]
    connection.request(
        "POST", "/", b"{}", {**{k.decode(): v.decode() for k, v in headers.items()}, name.decode(): value.decode()}
    )
    response = connection.getresponse()
    reply = Reply(response.status, response.headers["x-amzn-RequestId"], response.read())
    require_answered_and_recorded(log, reply)
    assert not changed or reply.status != 200 or name == b"authorization"


def test_bytes_of_any_kind(server: Server, log: Log) -> None:
    """Seeded, not hypothesis: what comes back is not a function of the bytes alone, but of how they arrive."""
    source = random.Random(7)
    head = b"".join(b"%b: %b\r\n" % pair for pair in server.signed_headers(b"TrentService.ListKeys", b"{}").items())
    valid = b"POST / HTTP/1.1\r\n" + head + b"Content-Length: 2\r\n\r\n{}"
    address = urlsplit(server.url)
    for _ in range(150):
        sent = bytearray(valid if source.random() < 0.8 else source.randbytes(source.randrange(1, 400)))
        for _ in range(source.randrange(1, 4)):
            place = source.randrange(len(sent))
            sent[place : place + source.randrange(4)] = source.choice([source.randbytes(2), b"\r\n", b"\0", b" ", b":"])
        with socket.create_connection((address.hostname, address.port), timeout=LIMIT_S) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: client.recv(65_536), b""))
        statuses = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
        assert all(status == 200 or 400 <= status < 500 for status in statuses)
        assert len([record for record in log.new() if keytrail(record)["phase"] == "outcome"]) == len(statuses)


def test_after_all_that_it_is_ready_and_answers(server: Server, log: Log) -> None:
    assert server.is_ready()
    assert server.post("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256"}).status == 200
    server.records()
    assert not any(b"Traceback" in path.read_bytes() for path in server.outputs)
