"""CloudTrail's JSON 1.1: what is asked for, by any SDK's target, and the errors of the service model for what is no question."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cloudtrail.dialect import CloudTrailDialect
from proxy.cloudtrail.operations import OPERATIONS
from proxy.domain import Answer, Origin, RawRequest
from proxy.errors import KmsError
from proxy.recording import Exchange

MODEL = botocore.session.get_session().get_service_model("cloudtrail")
LONG, SHORT = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.", "CloudTrail_20131101."
JSON_1_1 = b"application/x-amz-json-1.1"
dialect = lru_cache(maxsize=1)(CloudTrailDialect.load)


def exchange(operation: str, document: object, prefix: str = LONG, content_type: bytes = JSON_1_1) -> Exchange:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = ((b"x-amz-target", (prefix + operation).encode("latin-1")), (b"content-type", content_type))
    made = Exchange(RawRequest(b"POST", b"/", headers, body, Origin("192.0.2.7"), 0), "id-1")
    made.operation = dialect().operation(made)
    return made


def refused(made: Exchange) -> str:
    with pytest.raises(KmsError) as told:
        dialect().read(made)
    return told.value.code


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_of_the_table_is_the_models_and_records_members_that_it_has(name: str) -> None:
    shape: Any = MODEL.operation_model(name).input_shape
    assert set(OPERATIONS[name].request) <= set(shape.members)
    assert OPERATIONS[name].read_only and not OPERATIONS[name].mutates


@pytest.mark.parametrize("prefix", [LONG, SHORT])
def test_both_forms_of_the_target_name_an_operation(prefix: str) -> None:
    made = exchange("LookupEvents", {"MaxResults": 3, "StartTime": 1.5, "Unheard": 1}, prefix)
    dialect().read(made)
    assert made.operation is OPERATIONS["LookupEvents"] and made.parameters == {"MaxResults": 3, "StartTime": 1.5}


@pytest.mark.parametrize(
    ("operation", "document", "code"),
    [
        ("LookupEvents", {"MaxResults": 51}, "InvalidMaxResultsException"),
        ("LookupEvents", {"LookupAttributes": [{"AttributeKey": "EventId"}]}, "InvalidLookupAttributesException"),
        (
            "LookupEvents",
            {"LookupAttributes": [{"AttributeKey": "x", "AttributeValue": "y"}]},
            "InvalidLookupAttributesException",
        ),
        (
            "LookupEvents",
            {"LookupAttributes": [{"AttributeKey": "EventId", "AttributeValue": "y" * 2_001}]},
            "InvalidLookupAttributesException",
        ),
        ("LookupEvents", {"EventCategory": "management"}, "InvalidEventCategoryException"),
        ("LookupEvents", {"StartTime": "yesterday"}, "SerializationException"),
        ("LookupEvents", {"LookupAttributes": "all"}, "SerializationException"),
        ("LookupEvents", b"{", "SerializationException"),
        ("LookupEvents", b'{"MaxResults": 1, "MaxResults": 2}', "SerializationException"),
        ("GetTrail", {}, "InvalidTrailNameException"),
        ("CreateTrail", {"Name": "x", "S3BucketName": "b"}, "UnsupportedOperationException"),
        ("StopLogging", {"Name": "x"}, "UnsupportedOperationException"),
        ("Frobnicate", {}, "UnknownOperationException"),
    ],
)
def test_what_is_no_question_has_the_models_error(operation: str, document: object, code: str) -> None:
    assert refused(exchange(operation, document)) == code
    known = operation in MODEL.operation_names
    if known and code not in ("SerializationException",):
        assert code in {shape.name for shape in MODEL.operation_model(operation).error_shapes}


def test_another_services_target_and_another_content_type_name_no_operation() -> None:
    assert refused(exchange("Decrypt", {}, "TrentService.")) == "UnknownOperationException"
    assert refused(exchange("LookupEvents", {}, content_type=b"text/plain")) == "UnknownOperationException"


def test_an_answer_and_a_refusal_are_in_the_wires_form() -> None:
    made = exchange("LookupEvents", {})
    answer = dialect().encode(made, Answer({"Events": [{"EventTime": 1.0}]}), "r-1")
    assert (answer.status, json.loads(answer.body), answer.request_id) == (200, {"Events": [{"EventTime": 1.0}]}, "r-1")
    throttled = dialect().refusal(KmsError("ThrottlingException", "You call KMS too often"))
    assert json.loads(dialect().encode(made, throttled, "r-1").body) == {
        "__type": "ThrottlingException",
        "message": "Rate exceeded",
    }
    assert dialect().refusal(KmsError("KMSInternalException", "x", status=500)).code == "InternalFailure"


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.text() | st.integers() | st.floats(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_no_rubbish_is_more_than_a_refusal(body: bytes) -> None:
    made = exchange("LookupEvents", body)
    try:
        dialect().read(made)
    except KmsError:
        dialect().attempted(made)
