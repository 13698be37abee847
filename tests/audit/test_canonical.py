"""A record's line: read back as it was written, within CloudTrail's limits, and never with bytes in it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import canonical
from audit.canonical import MAX_ERROR_MESSAGE, MAX_LINE_BYTES, MAX_USER_AGENT, decode, encode, timestamp
from audit.errors import RecordRejected
from audit.record import (
    PARAMETER_NAMES,
    AuditRecord,
    ClientCertificate,
    DeniedBy,
    Effect,
    IdentityProof,
    Phase,
    Resource,
    SessionContext,
    SessionIssuer,
    TlsDetails,
    Upstream,
    UserIdentity,
)

PLAIN = AuditRecord(
    time_us=1_767_323_045_000_006,
    event_id="e",
    event_name="Decrypt",
    identity=UserIdentity("IAMUser"),
    aws_region="us-east-1",
    source_ip="192.0.2.1",
)


def altered(**parts: Any) -> AuditRecord:  # Any: some of them are what no record may hold
    return replace(PLAIN, **parts)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MAYBE_TEXT = st.none() | TEXT
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = st.none() | st.dictionaries(st.sampled_from(sorted(PARAMETER_NAMES)), JSON, max_size=5)
SESSIONS = st.builds(
    SessionContext,
    st.integers(0, 253_402_300_799).map(lambda seconds: seconds * 1_000_000),  # CloudTrail writes whole seconds
    st.none() | st.builds(SessionIssuer, TEXT, TEXT, TEXT, TEXT),
    MAYBE_TEXT,
    st.booleans(),
)
IDENTITIES = st.builds(UserIdentity, TEXT, MAYBE_TEXT, MAYBE_TEXT, MAYBE_TEXT, MAYBE_TEXT, MAYBE_TEXT, st.none() | SESSIONS)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
UPSTREAMS = st.builds(Upstream, TEXT, st.integers(1, 9), st.none() | st.integers(100, 599), MAYBE_TEXT, TEXTS)


@st.composite
def records(draw: st.DrawFn) -> AuditRecord:
    error = draw(MAYBE_TEXT)
    material_names = st.sampled_from(["keyMaterialId", "sourceKeyMaterialId", "destinationKeyMaterialId"])
    recipient_names = st.sampled_from(["attestationDocumentModuleId", "attestationDocumentEnclavePCR8"])
    return AuditRecord(
        time_us=draw(st.integers(0, 253_402_300_799_999_999)),
        event_id=draw(TEXT),
        event_name=draw(TEXT),
        identity=draw(IDENTITIES),
        aws_region=draw(TEXT),
        source_ip=draw(TEXT),
        request_id=draw(MAYBE_TEXT),
        event_source=draw(TEXT),
        event_type=draw(TEXT),
        user_agent=draw(MAYBE_TEXT),
        request_parameters=draw(PARAMETERS),
        response_elements=draw(PARAMETERS),
        service_event_details=draw(st.none() | st.dictionaries(TEXT, JSON, max_size=3)),
        error_code=error,
        error_message=None if error is None else draw(MAYBE_TEXT),
        read_only=draw(st.booleans()),
        resources=tuple(draw(st.lists(st.builds(Resource, TEXT, TEXT, TEXT), max_size=3))),
        recipient_account_id=draw(MAYBE_TEXT),
        key_material_ids=draw(st.none() | st.dictionaries(material_names, TEXT, min_size=1)),
        recipient=draw(st.none() | st.dictionaries(recipient_names, TEXT, min_size=1)),
        phase=draw(st.sampled_from(Phase)),
        intent_id=draw(MAYBE_TEXT),
        fingerprints_in=draw(TEXTS),
        fingerprints_out=draw(TEXTS),
        identity_proof=draw(st.sampled_from(IdentityProof)),
        backend=draw(TEXT),
        topology=draw(TEXT),
        wire_error=draw(MAYBE_TEXT),
        latency_us=draw(st.none() | st.integers(0, 2**63 - 1)),
        repeated_signature=draw(st.booleans()),
        tls=draw(st.none() | st.builds(TlsDetails, TEXT, TEXT, MAYBE_TEXT)),
        peer=draw(MAYBE_TEXT),
        client_certificate=draw(st.none() | st.builds(ClientCertificate, TEXT, TEXT, TEXT, TEXTS)),
        upstream=draw(st.none() | UPSTREAMS),
        effect=draw(st.none() | st.sampled_from(Effect)),
        denied_by=draw(st.none() | st.builds(DeniedBy, TEXT, TEXT)),
    )


@given(records(), st.integers(0, 2**63 - 1))
def test_a_record_is_read_as_it_was_written(record: AuditRecord, sequence: int) -> None:
    line = encode(record, "w0", sequence)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert decode(line) == record
    extension = orjson.loads(line)["additionalEventData"]["keytrail"]
    assert (extension["log"], extension["sequence"]) == ("w0", sequence)


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (999_999, "1970-01-01T00:00:00.999999Z"),
        (1_767_323_045_000_006, "2026-01-02T03:04:05.000006Z"),
        (1_709_251_199_999_999, "2024-02-29T23:59:59.999999Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times(time_us: int, text: str) -> None:
    assert timestamp(time_us) == text
    document = orjson.loads(encode(altered(time_us=time_us), "w0", 0))
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", document["eventTime"])
    assert document["eventTime"] == text[:19] + "Z"
    assert document["additionalEventData"]["keytrail"]["time"] == text


def test_a_session_is_written_as_cloudtrail_does() -> None:
    issuer = SessionIssuer("AROAEXAMPLE", "arn:aws:iam::111122223333:role/builder", "111122223333", "builder")
    session = SessionContext(1_767_323_045_000_000, issuer, "alice")
    document = orjson.loads(encode(altered(identity=UserIdentity("AssumedRole", session=session)), "w0", 0))
    assert document["userIdentity"]["sessionContext"] == {
        "sessionIssuer": {
            "type": "Role",
            "principalId": "AROAEXAMPLE",
            "arn": "arn:aws:iam::111122223333:role/builder",
            "accountId": "111122223333",
            "userName": "builder",
        },
        "attributes": {"creationDate": "2026-01-02T03:04:05Z", "mfaAuthenticated": "false"},
        "sourceIdentity": "alice",
    }


def test_the_keys_of_a_plain_record() -> None:
    document = orjson.loads(encode(PLAIN, "w0", 7))
    assert list(document) == [
        "eventVersion",
        "userIdentity",
        "eventTime",
        "eventSource",
        "eventName",
        "awsRegion",
        "sourceIPAddress",
        "requestParameters",
        "responseElements",
        "additionalEventData",
        "eventID",
        "readOnly",
        "resources",
        "eventType",
        "managementEvent",
        "eventCategory",
    ]
    assert (document["requestParameters"], document["responseElements"]) == (None, None)  # as CloudTrail writes them
    assert document["additionalEventData"]["keytrail"] == {
        "log": "w0",
        "sequence": 7,
        "time": "2026-01-02T03:04:05.000006Z",
        "phase": "outcome",
        "identityProof": "none",
        "backend": "local",
        "topology": "endpoint",
    }


# --- CloudTrail's limits


def test_long_texts_are_cut() -> None:
    record = altered(user_agent="ü" * 5_000, error_code="E", error_message="ü" * 5_000)
    document = orjson.loads(encode(record, "w0", 0))
    assert document["userAgent"] == "ü" * MAX_USER_AGENT
    assert document["errorMessage"] == "ü" * MAX_ERROR_MESSAGE


@pytest.mark.parametrize("name", ["request_parameters", "response_elements"])
def test_what_is_too_large_is_replaced_by_a_note_and_the_rest_is_kept(name: str) -> None:
    key = {"request_parameters": "requestParameters", "response_elements": "responseElements"}
    other = "response_elements" if name == "request_parameters" else "request_parameters"
    large = {"policy": "a" * MAX_LINE_BYTES}
    line = encode(altered(**{name: large, other: {"keyId": "1"}}), "w0", 0)
    document = orjson.loads(line)
    assert len(line) <= MAX_LINE_BYTES + 1
    assert document[key[name]]["omitted"] is True
    assert document[key[name]]["originalSize"] == len(orjson.dumps(large))
    assert document[key[name]]["reason"] == "the record is larger than 65535 bytes"
    assert set(document[key[name]]) <= PARAMETER_NAMES
    assert document[key[other]] == {"keyId": "1"}


@pytest.mark.parametrize(("excess", "kept"), [(0, True), (1, False)])
def test_a_line_may_be_as_long_as_an_entry_of_a_bundle(excess: int, kept: bool) -> None:
    rest = len(encode(altered(request_parameters={"policy": ""}), "w0", 0)) - 1
    at_limit = {"policy": "a" * (MAX_LINE_BYTES - rest + excess)}
    line = encode(altered(request_parameters=at_limit), "w0", 0)
    assert (orjson.loads(line)["requestParameters"] == at_limit) is kept
    assert (len(line) == MAX_LINE_BYTES + 1) is kept


def test_the_largest_part_gives_way_first_and_no_more_than_has_to() -> None:
    small, large = {"policy": "a" * 20_000}, {"policy": "b" * 50_000}
    document = orjson.loads(encode(altered(request_parameters=small, response_elements=large), "w0", 0))
    assert (document["requestParameters"], document["responseElements"]["omitted"]) == (small, True)
    both = orjson.loads(encode(altered(request_parameters=large | {"keyId": "1"}, response_elements=large), "w0", 0))
    assert (both["requestParameters"]["omitted"], both["responseElements"]) == (True, large)
    event = altered(service_event_details={"tornTails": ["a" * 70_000]})
    assert orjson.loads(encode(event, "w0", 0))["serviceEventDetails"]["originalSize"] > 70_000


def test_what_has_bounds_of_its_own_leaves_room_for_the_notes() -> None:
    """All else at its longest: each character of header texts is one that was no UTF-8, and errors are full of escapes."""
    large = {"policy": "a" * 400_000}
    names = tuple("URI:spiffe://" + "a" * 1_000 for _ in range(16))
    record = altered(
        identity=UserIdentity("AssumedRole", "p" * 128, "a" * 2_048, "1" * 12, "k" * 128, "u" * 64),
        aws_region="r" * 32,
        source_ip="f" * 45,
        user_agent="\ufffd" * 32_768,
        error_code="E" * 128,
        error_message="\x00" * 32_768,
        request_parameters=large,
        response_elements=large,
        service_event_details=large,
        resources=tuple(Resource("a" * 2_048, "1" * 12) for _ in range(3)),
        fingerprints_in=("f" * 64,) * 4,
        fingerprints_out=("f" * 64,) * 4,
        tls=TlsDetails("TLSv1.3", "c" * 64, "s" * 255),
        client_certificate=ClientCertificate("\x00" * 1_024, "\x00" * 1_024, "f" * 64, names),
    )
    line = encode(record, "w0", 2**63 - 1)
    assert 40_000 < len(line) <= MAX_LINE_BYTES + 1
    document = orjson.loads(line)
    for part in ("requestParameters", "responseElements", "serviceEventDetails"):
        assert document[part]["omitted"] is True


def test_what_is_too_long_all_the_same_is_refused() -> None:
    with pytest.raises(RecordRejected, match="Decrypt: its record is larger than 65535 bytes without its parameters"):
        encode(altered(source_ip="1" * 70_000, request_parameters={"keyId": "1"}), "w0", 0)


def test_the_note_can_be_read_back() -> None:
    line = encode(altered(request_parameters={"policy": "a" * 200_000}), "w0", 0)
    assert encode(decode(line), "w0", 0) == line


# --- what is no JSON


@pytest.mark.parametrize(
    "value", [b"the secret", bytearray(b"the secret"), memoryview(b"the secret"), {1, 2}, object(), "\ud800", 2**64, {1: 2}]
)
@pytest.mark.parametrize("nested", [False, True])
def test_bytes_and_what_else_is_no_json_are_refused_wherever_they_stand(value: Any, nested: bool) -> None:  # Any: no JSON
    for part in ("request_parameters", "response_elements"):
        record = altered(**{part: {"tags": [{"tagKey": value}] if nested else value}})
        with pytest.raises(RecordRejected) as caught:
            encode(record, "w0", 0)
        assert "the secret" not in str(caught.value)


def test_bytes_are_refused_in_the_other_fields_too() -> None:
    for name in ("user_agent", "source_ip", "request_id", "fingerprints_in", "key_material_ids", "service_event_details"):
        value: Any = {"keyMaterialId": b"x"} if name in ("key_material_ids", "service_event_details") else b"x"
        with pytest.raises(RecordRejected):
            encode(altered(**{name: (b"x",) if name == "fingerprints_in" else value}), "w0", 0)


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"null", b"\xff", b'{"additionalEventData":{}}'])
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        decode(line)


@given(records())
def test_a_line_of_a_version_that_knew_more_keys_is_read(record: AuditRecord) -> None:
    document = orjson.loads(encode(record, "w0", 0))
    document["newKey"] = document["additionalEventData"]["keytrail"]["newKey"] = "x"
    assert decode(orjson.dumps(document)) == record


def test_nothing_of_the_encoding_depends_on_the_hash_seed() -> None:
    assert encode(PLAIN, "w0", 0) == encode(decode(encode(PLAIN, "w0", 0)), "w0", 0)
    assert canonical.EVENT_VERSION == "1.11"
