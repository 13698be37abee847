"""The OCSF form of records: valid by the published schema (1.5.0, as its own server exports it), and nothing is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from audit.canonical import encode
from audit.ocsf import VERSION, Activity, Event, NoRecord, activity_of, encode_event, event_of
from audit.record import AuditRecord, DeniedBy, Effect, IdentityProof, Phase, Resource, UserIdentity
from proxy.kms.operations import OPERATIONS
from tests.audit.query.builder import KEY_A, at, placed, record
from tests.audit.test_canonical import PLAIN, records


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    """The class with its two profiles; members that it does not know are refused."""
    document = OcsfJsonSchemaEmbedded(get_ocsf_schema(VERSION)).get_class_schema("api_activity", ["cloud", "datetime"])
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def faults(schema: Draft202012Validator, event: Event) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in schema.iter_errors(event)]


def event(one: AuditRecord) -> Event:
    return event_of(orjson.loads(encode(one, "w0", 7)))


def leaves(value: Any) -> Iterator[object]:  # Any: JSON
    match value:
        case dict():
            for inner in value.values():
                yield from leaves(inner)
        case list():
            for inner in value:
                yield from leaves(inner)
        case _:
            yield value


@given(record=records())
def test_every_record_is_valid_and_nothing_of_it_is_left_out(schema: Draft202012Validator, record: AuditRecord) -> None:
    line = encode(record, "w0", 7)
    found = orjson.loads(encode_event(line.removesuffix(b"\n")))
    assert faults(schema, found) == []
    there = {(type(leaf), leaf) for leaf in leaves(found)}
    read = orjson.loads(line)
    read["userIdentity"].pop("type")  # it has its number, where OCSF has one
    read["resources"] = [one for one in read["resources"] if one["ARN"]]  # one without a name is none
    assert [leaf for leaf in leaves(read) if (type(leaf), leaf) not in there and leaf not in (None, "")] == []


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("error", [None, "AccessDenied", "DisabledException"])
def test_every_operation(schema: Draft202012Validator, operation: str, phase: Phase, error: str | None) -> None:
    found = event(replace(PLAIN, event_name=operation, phase=phase, error_code=error, read_only=OPERATIONS[operation].read_only))
    assert faults(schema, found) == []
    assert found["activity_id"] != Activity.UNKNOWN
    assert (found["activity_id"] in (Activity.USE, Activity.READ)) is OPERATIONS[operation].read_only
    assert found["type_uid"] == 600_300 + found["activity_id"]
    expected = {Phase.INTENT: 99, Phase.UNKNOWN: 0, Phase.OUTCOME: 2 if error else 1}
    assert found["status_id"] == expected[phase]


@pytest.mark.parametrize(
    ("name", "activity"),
    [
        ("Decrypt", Activity.USE),
        ("GenerateDataKeyPairWithoutPlaintext", Activity.USE),
        ("GetSessionToken", Activity.CREATE),
        ("AssumeRole", Activity.CREATE),
        ("GetCallerIdentity", Activity.READ),
        ("CreateGrant", Activity.CREATE),
        ("RevokeGrant", Activity.DELETE),
        ("ScheduleKeyDeletion", Activity.UPDATE),
        ("DeleteKey", Activity.DELETE),
        ("DisconnectCustomKeyStore", Activity.UPDATE),
        ("AddCaller", Activity.CREATE),
        ("Unheard", Activity.UNKNOWN),
    ],
)
def test_activities(name: str, activity: Activity) -> None:
    assert activity_of(name, is_read_only=False) is activity


def test_what_is_not_known_is_a_read_where_it_says_so() -> None:
    assert activity_of("Heartbeat", is_read_only=True) is Activity.READ


def test_a_call_in_full(schema: Draft202012Validator) -> None:
    content = record(
        context={"tenant": "acme"}, recipientAccountId="111122223333", eventVersion="1.11", eventCategory="Management"
    )
    found = event_of(placed(content, "w0", 7, at(3661.5)))
    assert faults(schema, found) == []
    assert found == {
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": 6003,
        "class_name": "API Activity",
        "activity_id": 99,
        "activity_name": "Use",
        "type_uid": 600_399,
        "type_name": "API Activity: Use",
        "severity_id": 1,
        "severity": "Informational",
        "status_id": 1,
        "status": "Success",
        "time": 1_767_315_661_500,
        "time_dt": "2026-01-02T01:01:01.500000Z",
        "metadata": {
            "version": "1.5.0",
            "product": {"name": "keytrail", "vendor_name": "keytrail"},
            "profiles": ["cloud", "datetime"],
            "uid": "00000000-0000-0000-0000-000000000002",
            "event_code": "AwsApiCall",
            "log_name": "w0",
            "log_provider": "keytrail",
            "log_version": "1.11",
            "sequence": 7,
            "original_time": "2026-01-02T01:01:01Z",
        },
        "api": {
            "operation": "Decrypt",
            "service": {"name": "kms.amazonaws.com"},
            "request": {
                "uid": "00000000-0000-0000-0000-000000000001",
                "data": {"encryptionContext": {"tenant": "acme"}},
            },
        },
        "actor": {
            "user": {
                "type_id": 1,
                "type": "User",
                "uid": "arn:aws:iam::111122223333:user/alice",
                "name": "alice",
                "credential_uid": "AKIAALICE",
                "account": {"uid": "111122223333", "type_id": 10, "type": "AWS Account"},
            }
        },
        "src_endpoint": {"ip": "10.0.0.7"},
        "cloud": {
            "provider": "AWS",
            "region": "eu-central-1",
            "account": {"uid": "111122223333", "type_id": 10, "type": "AWS Account"},
        },
        "http_request": {"user_agent": "Boto3/1.44"},
        "resources": [
            {
                "uid": KEY_A,
                "type": "AWS::KMS::Key",
                "cloud_partition": "aws",
                "region": "eu-central-1",
                "owner": {"account": {"uid": "111122223333", "type_id": 10, "type": "AWS Account"}},
            }
        ],
        "unmapped": {
            "additionalEventData": content["additionalEventData"]
            | {
                "keytrail": {
                    "log": "w0",
                    "sequence": 7,
                    "time": "2026-01-02T01:01:01.500000Z",
                    **content["additionalEventData"]["keytrail"],
                }
            },
            "readOnly": True,
            "eventCategory": "Management",
            "userIdentity": {"type": "IAMUser"},
        },
    }


def test_a_refusal_and_a_lost_outcome_weigh_more_than_a_failure() -> None:
    assert event(PLAIN)["severity"] == "Informational"
    assert event(replace(PLAIN, error_code="DisabledException"))["severity"] == "Low"
    assert event(replace(PLAIN, error_code="AccessDenied", error_message="no"))["severity"] == "Medium"
    assert event(replace(PLAIN, error_code="x", denied_by=DeniedBy("p", "s")))["severity"] == "Medium"
    lost = event(replace(PLAIN, phase=Phase.UNKNOWN, effect=Effect.MADE, error_code="x"))
    assert (lost["severity"], lost["status"], lost["status_code"]) == ("Medium", "Unknown", "x")


def test_an_intent_and_its_outcome_have_one_correlation() -> None:
    intent = event(replace(PLAIN, event_id="a", phase=Phase.INTENT))
    outcome = event(replace(PLAIN, event_id="b", intent_id="a"))
    assert intent["metadata"]["correlation_uid"] == outcome["metadata"]["correlation_uid"] == "a"
    assert "correlation_uid" not in event(PLAIN)["metadata"]


@pytest.mark.parametrize(
    ("source", "endpoint"),
    [
        ("192.0.2.1", {"ip": "192.0.2.1"}),
        ("2001:db8::1", {"ip": "2001:db8::1"}),
        ("::ffff:192.0.2.1", {"ip": "::ffff:192.0.2.1"}),
        ("fe80::1%eth0", {"ip": "fe80::1%eth0"}),
        ("AWS Internal", {"name": "AWS Internal"}),
        ("fe80::1111:2222:3333:4444%a-very-long-interface", {"name": "fe80::1111:2222:3333:4444%a-very-long-interface"}),
        ("", {"name": "unknown"}),
    ],
)
def test_addresses(schema: Draft202012Validator, source: str, endpoint: Event) -> None:
    found = event(replace(PLAIN, source_ip=source))
    assert found["src_endpoint"] == endpoint
    assert faults(schema, found) == []


def test_what_the_service_does_by_itself(schema: Draft202012Validator) -> None:
    found = event(
        replace(
            PLAIN,
            event_name="RotateKey",
            event_type="AwsServiceEvent",
            identity=UserIdentity("AWSService", invoked_by="AWS Internal"),
            source_ip="AWS Internal",
            service_event_details={"keyId": "k"},
            read_only=False,
            resources=(Resource(KEY_A, "111122223333"),),
        )
    )
    assert faults(schema, found) == []
    assert found["actor"] == {"user": {"type_id": 3, "type": "System", "name": "AWS Internal"}, "invoked_by": "AWS Internal"}
    assert found["unmapped"]["serviceEventDetails"] == {"keyId": "k"} and found["metadata"]["event_code"] == "AwsServiceEvent"


@pytest.mark.parametrize("name", ["Heartbeat", "StartServing", "RecoverLog", "SearchLog"])
def test_events_of_keytrail_itself(schema: Draft202012Validator, name: str) -> None:
    own = replace(
        PLAIN, event_name=name, event_source="keytrail", event_type="AwsServiceEvent", identity_proof=IdentityProof.NONE
    )
    found = event(replace(own, identity=UserIdentity("Unknown"), service_event_details={"intervalSeconds": 60}))
    assert faults(schema, found) == []
    assert found["actor"]["user"] == {"type_id": 0, "type": "Unknown", "name": "Unknown"}


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"{}", b'"x"', b'{"additionalEventData":{"keytrail":{"time":"never"}}}'])
def test_what_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(NoRecord):
        encode_event(line)


@given(st.sampled_from(sorted(OPERATIONS)))
def test_the_schema_finds_what_is_wrong(schema: Draft202012Validator, operation: str) -> None:
    """That the validator is none that lets everything through."""
    good = event(replace(PLAIN, event_name=operation))
    for broken in (
        {**good, "unheard": 1},
        {**good, "activity_id": 5},
        {**good, "src_endpoint": {}},
        {**good, "metadata": {}},
        {key: value for key, value in good.items() if key != "cloud"},
    ):
        assert faults(schema, broken)
