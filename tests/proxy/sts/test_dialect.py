"""AWS's Query protocol, by botocore's serializer and parser, and what is no form, or not STS's."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import botocore.parsers
import botocore.serialize
import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.callers import Caller
from proxy.domain import Answer, Origin, RawRequest, RawResponse
from proxy.errors import KmsError
from proxy.recording import Exchange
from proxy.sigv4 import sign
from proxy.sts.dialect import VERSION, is_for_sts
from proxy.sts.operations import OPERATIONS
from tests.proxy.local.world import ACCOUNT, REGION
from tests.proxy.sts.world import ALICE, BUILDER, World, sts_dialect, trust

MODEL = botocore.session.get_session().get_service_model("sts")
FORM = b"application/x-www-form-urlencoded; charset=utf-8"
Json = Any


def exchange(body: bytes, content_type: bytes = FORM) -> Exchange:
    raw = RawRequest(b"POST", b"/", ((b"content-type", content_type),), body, Origin("192.0.2.7"), 0)
    made = Exchange(raw, "id-1")
    made.operation = sts_dialect().operation(made)
    return made


def serialized(operation: str, parameters: dict[str, Json]) -> bytes:
    serializer = botocore.serialize.create_serializer("query")
    request = serializer.serialize_to_request(parameters, MODEL.operation_model(operation))
    return urlencode(request["body"]).encode()


def parsed(operation: str, response: RawResponse) -> dict[str, Json]:
    """A response as botocore reads it."""
    told = {"status_code": response.status, "headers": dict(response.headers), "body": response.body}
    parser = botocore.parsers.create_parser("query")
    shape: Json = MODEL.operation_model(operation).output_shape
    answer: dict[str, Json] = parser.parse(told, shape)
    return answer


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NAMES = st.text(st.sampled_from("abcXYZ019+=,.@-"), min_size=2, max_size=20)
KEYS = st.text(st.sampled_from("abcXYZ019+=._:/ @-é日"), min_size=1, max_size=20)
REQUESTS = st.fixed_dictionaries(
    {"RoleArn": st.just(BUILDER), "RoleSessionName": NAMES},
    optional={
        "DurationSeconds": st.integers(900, 43_200),
        "ExternalId": NAMES,
        "SourceIdentity": NAMES,
        "Tags": st.lists(st.fixed_dictionaries({"Key": KEYS, "Value": KEYS}), min_size=1, max_size=50),
        "TransitiveTagKeys": st.lists(KEYS, min_size=1, max_size=50),
        "PolicyArns": st.lists(st.just({"arn": "arn:aws:iam::aws:policy/x/y"}), min_size=1, max_size=3),
    },
)


@given(REQUESTS)
def test_a_request_is_read_as_botocore_writes_it(parameters: dict[str, Json]) -> None:
    made = exchange(serialized("AssumeRole", parameters))
    sts_dialect().read(made)
    assert made.operation is OPERATIONS["AssumeRole"]
    assert made.parameters == parameters


@given(TEXT, TEXT, st.integers(0, 4_102_444_800))
def test_an_answer_is_written_as_botocore_reads_it(key: str, arn: str, end_s: int) -> None:
    members: dict[str, Json] = {
        "Credentials": {"AccessKeyId": key, "SecretAccessKey": "<&>", "SessionToken": "==", "Expiration": float(end_s)},
        "AssumedRoleUser": {"AssumedRoleId": "AROA:x", "Arn": arn},
    }
    made = exchange(b"Action=AssumeRole")
    answer = parsed("AssumeRole", sts_dialect().encode(made, Answer(members), "id-1"))
    expected = members["Credentials"] | {"Expiration": datetime.fromtimestamp(end_s, UTC)}
    assert {name: value for name, value in answer["Credentials"].items() if name != "Expiration"} | {
        "Expiration": answer["Credentials"]["Expiration"].astimezone(UTC)
    } == expected
    assert answer["AssumedRoleUser"] == members["AssumedRoleUser"]
    assert answer["ResponseMetadata"]["RequestId"] == "id-1"


@given(st.text(max_size=40))
def test_an_error_is_always_xml(message: str) -> None:
    response = sts_dialect().encode(exchange(b""), KmsError("AccessDenied", message, status=403), "id-1")
    told = parsed("AssumeRole", response)
    assert (told["Error"]["Code"], told["ResponseMetadata"]["RequestId"]) == ("AccessDenied", "id-1")
    if message.isprintable() and message.strip() == message:
        assert (told["Error"].get("Message") or "") == message


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "MissingAction", "Action"),
        (b"Version=2011-06-15", "MissingAction", "Action"),
        (b"Action=AssumeRoleWithSAML&Version=2011-06-15", "InvalidAction", "Could not find operation AssumeRoleWithSAML"),
        (b"Action=GetCallerIdentity&Version=2010-05-08", "InvalidAction", "for version 2010-05-08"),
        (b"Action=GetCallerIdentity&Action=AssumeRole", "MalformedInput", "twice"),
        (b"Action=GetCallerIdentity&x=%ff", "MalformedInput", "no form"),
        (b"Action=GetCallerIdentity&x=\xff", "MalformedInput", "no form"),
        (b"&".join(b"a%d=1" % number for number in range(1_001)), "MalformedInput", "no form"),
        (
            b"Action=AssumeRole&RoleSessionName=ab",
            "ValidationException",
            "'roleArn' failed to satisfy constraint: Member must not be",
        ),
        (b"Action=AssumeRole&DurationSeconds=1e3", "MalformedInput", "DurationSeconds is no integer"),
        (b'{"Action": "GetCallerIdentity"}', "MissingAction", "Action"),
    ],
)
def test_what_is_no_request_of_sts_is_refused(body: bytes, code: str, words: str) -> None:
    with pytest.raises(KmsError) as caught:
        sts_dialect().read(exchange(body))
    assert caught.value.code == code and words in (caught.value.message or "")


@pytest.mark.parametrize("content_type", [b"", b"application/json", b"application/x-amz-json-1.1", b"text/xml"])
def test_another_content_type_is_refused(content_type: bytes) -> None:
    with pytest.raises(KmsError, match="MalformedInput"):
        sts_dialect().read(exchange(b"Action=GetCallerIdentity", content_type))


@pytest.mark.parametrize("body", [b"\xff\xfe", b"Action=%ff", b"Action=Frobnicate!", b"a" * 100_000, b"Action=" + b"x" * 5_000])
def test_any_body_has_an_operation_for_the_record(body: bytes) -> None:
    assert exchange(body).operation.name == "UnknownOperation"
    assert sts_dialect().attempted(exchange(body)) == {}


SIGNED = b"AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/%b/aws4_request, SignedHeaders=host, Signature=0"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({b"authorization": SIGNED % b"sts"}, True),
        ({b"authorization": SIGNED % b"kms"}, False),
        ({b"authorization": SIGNED % b"sts", b"x-amz-target": b"TrentService.ListKeys"}, False),
        ({}, False),
    ],
)
def test_the_service_that_was_signed_for_decides(headers: dict[bytes, bytes], expected: bool) -> None:
    assert is_for_sts(headers) is expected


def signed_form(
    caller: Caller, body: bytes, service: str = "sts", secret: str | None = None, signed: bytes | None = None
) -> RawRequest:
    """A request by hand; `signed` is the body that was signed, where it is another."""
    headers = [
        (b"host", b"sts.amazonaws.com"),
        (b"content-type", FORM),
        (b"x-amz-date", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ").encode()),
    ]
    authorization = sign(
        b"POST",
        b"/",
        headers,
        body if signed is None else signed,
        access_key_id=caller.principal.access_key_id,
        secret_access_key=secret or caller.secret_access_key,
        region=REGION,
        service=service,
    )
    headers.append((b"authorization", authorization))
    return RawRequest(b"POST", b"/", tuple(headers), body, Origin("192.0.2.7"), time.time_ns() // 1_000)


def post(world: World, body: bytes, **how: Json) -> RawResponse:
    """What Alice is answered; `how` is for `signed_form`."""
    return world.send(signed_form(world.callers.add(ALICE), body, **how))


WHO = b"Action=GetCallerIdentity&Version=" + VERSION.encode()


@pytest.mark.parametrize(
    ("case", "code", "status"),
    [
        ({"secret": "another"}, "SignatureDoesNotMatch", 403),
        ({"signed": b"Action=GetSessionToken"}, "SignatureDoesNotMatch", 403),
    ],
)
def test_a_signature_that_does_not_hold_is_refused_in_xml(world: World, case: dict[str, Json], code: str, status: int) -> None:
    response = post(world, WHO, **case)
    assert (response.status, parsed("GetCallerIdentity", response)["Error"]["Code"]) == (status, code)
    (record,) = world.log.records
    assert (record.event_source, record.event_name, record.wire_error) == ("sts.amazonaws.com", "GetCallerIdentity", code)


def test_a_form_that_is_signed_for_kms_is_kms_s_to_refuse(world: World) -> None:
    response = post(world, WHO, service="kms")
    assert response.status == 400 and b"x-amz-target" in response.body.lower()
    assert world.log.records[0].event_source == "kms.amazonaws.com"


def test_a_refused_request_is_recorded_with_what_it_asked_for(world: World) -> None:
    world.roles.add(BUILDER, trust(ACCOUNT))
    body = serialized("AssumeRole", {"RoleArn": BUILDER, "RoleSessionName": "run-1", "TokenCode": "123456"})
    post(world, body, secret="another")
    (record,) = world.log.records
    assert record.request_parameters == {"roleArn": BUILDER, "roleSessionName": "run-1"}


def test_a_log_that_cannot_be_written_is_told_in_xml(world: World) -> None:
    world.log.fault = "the disk is full"
    response = post(world, WHO)
    assert (response.status, parsed("GetCallerIdentity", response)["Error"]["Code"]) == (503, "ServiceUnavailable")
