"""AWS JSON 1.1: what is read is what was sent or a refusal, and what is written the SDKs read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pytest
from botocore.loaders import create_loader
from botocore.model import ServiceModel as BotocoreModel
from botocore.parsers import create_parser
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import KmsError
from proxy.kms import wire
from proxy.kms.operations import OPERATIONS

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def refused(code: str, message: str | None, status: int = 400) -> Any:  # Any: pytest's own type is private
    def matches(error: KmsError) -> bool:
        return (error.code, error.message, error.status) == (code, message, status)

    return pytest.raises(KmsError, check=matches)


# --- target and content type


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_has_a_target(name: str) -> None:
    assert wire.TARGETS[f"TrentService.{name}".encode()] is OPERATIONS[name]


@pytest.mark.parametrize(
    "target",
    [
        *(None, b"", b"Encrypt", b"TrentService.", b"TrentService.encrypt", b"TrentService.Encrypt ", b"trentservice.Encrypt"),
        *(b"TrentService.Destroy", b"DynamoDB_20120810.Encrypt", b"TrentService.TrentService.Encrypt", b"TrentService.\xff"),
    ],
)
def test_a_target_that_names_no_operation(target: bytes | None) -> None:
    assert wire.TARGETS.get(target) is None


def test_claimed_operation() -> None:
    assert wire.claimed_operation(b"TrentService.Destroy") == "Destroy"
    assert wire.claimed_operation(b"Other.\xffThing") == "Other.\xffThing"
    assert wire.claimed_operation(None) == ""
    assert len(wire.claimed_operation(b"x" * 10_000)) == 256


@pytest.mark.parametrize("value", [b"application/x-amz-json-1.1", b"application/X-AMZ-json-1.1 ; charset=utf-8"])
def test_the_content_type(value: bytes) -> None:
    wire.check_content_type(value)


@pytest.mark.parametrize("value", [None, b"", b"application/json", b"application/x-amz-json-1.0", b"application/cbor"])
def test_another_content_type_names_no_operation(value: bytes | None) -> None:
    with refused("UnknownOperationException", None, 404):
        wire.check_content_type(value)


# --- bodies

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_what_was_sent_is_read(document: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    assert wire.parse_body(json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()) == document


MALFORMED = {
    "empty": b"",
    "blank": b"  ",
    "cut": b'{"KeyId":"a"',
    "trailing comma": b'{"KeyId":"a",}',
    "something behind": b'{"KeyId":"a"} {}',
    "single quotes": b"{'KeyId':'a'}",
    "null": b"null",
    "string": b'"KeyId"',
    "number": b"1",
    "a member twice": b'{"KeyId":"a","KeyId":"b"}',
    "a member twice, one escaped": b'{"KeyId":"a","\\u004beyId":"b"}',
    "a member twice, deeper": b'{"EncryptionContext":{"a":"1","a":"2"}}',
    "not UTF-8": b'{"KeyId":"\xff"}',
    "byte order mark": b'\xef\xbb\xbf{"KeyId":"a"}',
    "lone surrogate": b'{"KeyId":"\\ud800"}',
    "lone surrogate in a name": b'{"\\udfff":"a"}',
    "control character": b'{"KeyId":"a\nb"}',
    "NaN": b'{"NumberOfBytes":NaN}',
    "infinity": b'{"NumberOfBytes":-Infinity}',
    "a number past all bounds": b'{"NumberOfBytes":1e999}',
    "a number of many digits": b'{"NumberOfBytes":' + b"9" * 10_000 + b"}",
    "nested too deep": b'{"a":' * (wire.MAX_DEPTH + 1) + b"1" + b"}" * (wire.MAX_DEPTH + 1),
    "lists nested too deep": b'{"a":' + b"[" * wire.MAX_DEPTH + b"]" * wire.MAX_DEPTH + b"}",
    "nested without end": b'{"a":' * 200_000,
    "lists without end": b'{"a":' + b"[" * 200_000,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies(name: str) -> None:
    with refused("SerializationException", None):
        wire.parse_body(MALFORMED[name])


def test_a_list_is_refused_in_awss_words() -> None:
    with refused("SerializationException", "Start of list found where not expected"):
        wire.parse_body(b"[]")


def test_the_deepest_nesting_that_is_read() -> None:
    body = b'{"a":' * wire.MAX_DEPTH + b"1" + b"}" * wire.MAX_DEPTH
    assert wire.parse_body(body) == json.loads(body)
    wide = {"Tags": [{"TagKey": str(number), "TagValue": "{[{["} for number in range(200)]}
    assert wire.parse_body(json.dumps(wide).encode()) == wide


@given(st.binary(max_size=40) | st.text('{}[]":,\\u0ad8 e1-.', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        document = wire.parse_body(body)
    except KmsError as error:
        assert error.code == "SerializationException"
    else:
        assert document == json.loads(body, parse_int=read_integer)


def read_integer(text: str) -> int | float:
    """Past 64 bits an integer is read as a float; no member of the model is so wide."""
    number = int(text)
    return number if -(2**63) <= number < 2**64 else float(number)


KEYS = st.sampled_from(["a", "b", "KeyId", "é", '"', "\\", "\n", "{"])
PAIRS = st.recursive(
    st.integers(0, 9) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=4).map(tuple),
    max_leaves=12,
)


@given(st.lists(st.tuples(KEYS, PAIRS), max_size=4).map(tuple), st.booleans(), st.sampled_from([":", " :\n"]))
def test_members_that_stand_twice_are_refused_and_no_others(pairs: Any, ascii_only: bool, colon: str) -> None:
    body = write(pairs, ascii_only, colon).encode()
    if has_twice(pairs):
        with refused("SerializationException", None):
            wire.parse_body(body)
    else:
        assert wire.parse_body(body) == json.loads(body)


def write(value: Any, ascii_only: bool, colon: str) -> str:
    """JSON of a value in which objects are tuples of pairs, so that a member can stand twice."""
    if isinstance(value, tuple):
        members = (json.dumps(k, ensure_ascii=ascii_only) + colon + write(v, ascii_only, colon) for k, v in value)
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(item, ascii_only, colon) for item in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def has_twice(value: Any) -> bool:
    if isinstance(value, tuple):
        names = [name for name, _ in value]
        return len(set(names)) < len(names) or any(has_twice(item) for _, item in value)
    return isinstance(value, list) and any(has_twice(item) for item in value)


# --- answers, as botocore reads them


def read_with_botocore(operation: str, status: int, body: bytes) -> dict[str, Any]:
    model = BotocoreModel(create_loader().load_service_model("kms", "service-2"), "kms")
    response = {"status_code": status, "headers": {"x-amzn-requestid": "1"}, "body": body}
    shape = model.operation_model(operation).output_shape
    assert shape is not None
    parsed: dict[str, Any] = create_parser("json").parse(response, shape)
    return parsed


def test_a_data_key_comes_back_whole() -> None:
    members = {"KeyId": ARN, "Plaintext": bytes(range(32)), "CiphertextBlob": b"\x00\xff" * 90}
    parsed = read_with_botocore("GenerateDataKey", 200, wire.encode_answer(members))
    assert {name: parsed[name] for name in members} == members


@pytest.mark.parametrize("when", [datetime(2026, 1, 2, 3, 4, 5, 678000, UTC), 1_767_323_045.678])
def test_times_are_epoch_seconds(when: datetime | float) -> None:
    body = wire.encode_answer(MappingProxyType({"KeyMetadata": MappingProxyType({"KeyId": "1", "CreationDate": when})}))
    assert json.loads(body) == {"KeyMetadata": {"KeyId": "1", "CreationDate": 1_767_323_045.678}}
    parsed = read_with_botocore("DescribeKey", 200, body)
    assert parsed["KeyMetadata"]["CreationDate"].astimezone(UTC) == datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


def test_an_answer_of_no_members() -> None:
    assert wire.encode_answer({}) == b"{}"


def test_what_has_no_place_in_an_answer() -> None:
    with pytest.raises(TypeError):
        wire.encode_answer({"Plaintext": object()})


def test_errors() -> None:
    assert json.loads(wire.encode_error(KmsError("NotFoundException", "Key 'é' does not exist"))) == {
        "__type": "NotFoundException",
        "message": "Key 'é' does not exist",
    }
    assert wire.encode_error(KmsError("InvalidCiphertextException")) == b'{"__type":"InvalidCiphertextException"}'
    parsed = read_with_botocore("Decrypt", 400, wire.encode_error(KmsError("DisabledException", f"{ARN} is disabled.")))
    assert parsed["Error"] == {"Code": "DisabledException", "Message": f"{ARN} is disabled."}
