"""Events of CloudTrail become rows: what each column has, and what becomes of other shapes."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from audit.imports.rows import LEAVES, Unusable, event_of, is_call
from audit.query.index.rows import STRUCTURE, Shape
from tests.audit.fixtures.reconcile import ACCOUNT, KEY, OTHER_KEY, REGION, World
from tests.audit.imports import imported, rows, write
from tests.audit.query.builder import LogBuilder

Changes = dict[str, Any]


@pytest.fixture
def world(tmp_path: Path) -> World:
    LogBuilder(tmp_path / "data")
    return World(tmp_path / "data", tmp_path / "trail")


def row_of(world: World, **changes: Any) -> dict[str, Any]:
    event = {**world.event(7), **changes}
    report = imported(world.data, write(world.trail, [event]))
    assert report.told == []
    [row] = rows(world.data)
    return row


def test_a_call_that_succeeded(world: World) -> None:
    row = row_of(world, userIdentity=world.user("eve"), userAgent="aws-cli", additionalEventData={"keyMaterialId": "m"})
    expected: Changes = {
        "time": datetime(2026, 1, 2, 0, 0, 7),
        "event_name": "Decrypt",
        "phase": "outcome",
        "caller": f"arn:aws:iam::{ACCOUNT}:user/eve",
        "user_name": "eve",
        "identity_type": "IAMUser",
        "identity_proof": None,
        "access_key_id": "AKIAEVE",
        "account_id": ACCOUNT,
        "recipient_account_id": ACCOUNT,
        "region": REGION,
        "source_ip": "192.0.2.1",
        "user_agent": "aws-cli",
        "error_code": None,
        "keys": [KEY],
        "key": KEY,
        "key_material_id": "m",
        "context": {"tenant": "acme"},
        "fingerprints_in": None,
        "fingerprints_out": None,
        "event_source": "kms.amazonaws.com",
        "read_only": True,
        "backend": None,
        "outcome": "ok",
        "origin": "cloudtrail",
        "log": "import:trail",
        "record": 0,
        "start": len('{"Records":[\n'),
    }
    assert {name: row[name] for name in expected} == expected
    assert row["event_id"].startswith("eeeeeeee-")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"errorCode": "AccessDenied"}, {"error_code": "AccessDenied", "outcome": "failed"}),
        ({"eventTime": "2026-01-02T05:00:00+03:00"}, {"time": datetime(2026, 1, 2, 2)}),
        (
            {"userIdentity": {"type": "AWSService", "invokedBy": "kms.amazonaws.com"}, "eventType": "AwsServiceEvent"},
            {
                "caller": "kms.amazonaws.com",
                "identity_type": "AWSService",
                "event_type": "AwsServiceEvent",
                "access_key_id": None,
            },
        ),
        (
            {"userIdentity": {"type": "AWSAccount", "principalId": "AIDA", "accountId": "444455556666"}},
            {"caller": "444455556666", "identity_type": "AWSAccount", "account_id": "444455556666"},
        ),
        (
            {"userIdentity": {"type": "AssumedRole", "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/app/i-1", "invokedBy": "x"}},
            {"caller": f"arn:aws:sts::{ACCOUNT}:assumed-role/app/i-1", "role": "app", "session_name": "i-1"},
        ),
        ({"resources": [{"ARN": KEY}, {"ARN": OTHER_KEY}]}, {"keys": [KEY, OTHER_KEY]}),
        ({"resources": None, "requestParameters": {"keyId": KEY}}, {"keys": [KEY], "key_name": KEY}),
        ({"resources": [], "requestParameters": {"sourceKeyId": KEY, "destinationKeyId": OTHER_KEY}}, {"keys": [KEY, OTHER_KEY]}),
        ({"resources": [], "requestParameters": {"keyId": "alias/app"}}, {"keys": [], "key_name": "alias/app"}),
        ({"resources": [], "requestParameters": {"keyId": f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/app"}}, {"keys": []}),
        ({"resources": ["text", {"ARN": 7}, {"ARN": KEY}]}, {"keys": [KEY]}),
        (
            {"responseElements": {"keyId": KEY, "deletionDate": "Apr 22, 2024, 12:00:00 AM"}},
            {"deletion_date": datetime(2024, 4, 22)},
        ),
        (
            {"responseElements": {"deletionDate": "Apr 2, 2024 1:02:03\u202fPM"}},
            {"deletion_date": datetime(2024, 4, 2, 13, 2, 3)},
        ),
        ({"responseElements": {"deletionDate": "2024-04-22T00:00:00Z"}}, {"deletion_date": datetime(2024, 4, 22)}),
        ({"responseElements": {"deletionDate": "soon"}}, {"deletion_date": None}),
        ({"responseElements": {"deletionDate": {"a": 1}}}, {"deletion_date": None}),
        ({"requestParameters": {"encryptionContext": {"a": 1}}}, {"context": None}),
        ({"requestParameters": {"grantTokens": ["a", 7], "policy": {"a": 1}}}, {"grant_tokens": ["a", None], "policy": None}),
        ({"readOnly": "false"}, {"read_only": False}),
        ({"requestID": None}, {"request_id": None}),
        ({"errorMessage": "\ud800 half"}, {"error_message": "\\ud800 half"}),
        ({"errorMessage": "a\0b"}, {"error_message": "a\0b"}),
    ],
)
def test_columns(world: World, changes: Changes, expected: Changes) -> None:
    row = row_of(world, **changes)
    assert {name: row[name] for name in expected} == expected


SHAPES: list[Any] = [None, True, 7, -1.5, 10**30, "text", [], {}, [None], [[]], {"a": {"b": 1}}, "\ud800", "\0", float("nan")]


def has_extension(additional: Any) -> bool:
    return isinstance(additional, dict) and "keytrail" in additional


def test_other_shapes_become_null_and_lose_no_event(world: World) -> None:
    """Every member that a column is made of, in every shape."""
    events = []

    def vary(shape: Shape, put: Any) -> None:
        for value in SHAPES:
            events.append(put(value))
        if isinstance(shape, dict):
            for name, part in shape.items():
                vary(part, lambda value, name=name: put({name: value}))
        if isinstance(shape, list):
            vary(shape[0], lambda value: put([value]))

    for name, shape in STRUCTURE.items():
        if name not in ("eventSource", "eventName"):
            vary(shape, lambda value, name=name: {**world.event(30), name: value})
    sound = [event for event in events if not has_extension(event.get("additionalEventData"))]
    report = imported(world.data, write(world.trail, sound))
    assert (report.told, report.added + report.known) == ([], len(sound))
    assert len(rows(world.data)) == report.added


def test_members_that_stand_twice_are_no_two_rows(world: World) -> None:
    text = json.dumps(world.event(30))
    doubled = text[:-1] + ', "additionalEventData": {"keyMaterialId": "last"}, "awsRegion": "eu-west-9"}'
    world.trail.mkdir()
    (world.trail / "a.json").write_text(f'{{"Records": [{doubled}]}}')
    assert imported(world.data, world.trail).told == []
    [row] = rows(world.data)
    assert (row["region"], row["key_material_id"]) == ("eu-west-9", "last")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eventSource": None}, "no eventSource"),
        ({"eventTime": None}, "no eventTime"),
        ({"eventTime": "yesterday"}, "no eventTime"),
        ({"eventTime": "1066-01-01T00:00:00Z"}, "no eventTime"),
        ({"eventName": 7}, "no eventName"),
        ({"additionalEventData": {"keytrail": {"log": "w0", "phase": "outcome"}}}, "a record of keytrail's own"),
    ],
)
def test_what_cannot_be_a_row_is_named(world: World, changes: Changes, reason: str) -> None:
    event = {**world.event(30), **changes}
    with pytest.raises(Unusable, match=reason):
        is_call(event, False)
        event_of(event, json.dumps(event), "import:trail")


def test_every_type_of_the_structure_is_known() -> None:
    def leaves(shape: Any) -> set[str]:
        if isinstance(shape, str):
            return {shape}
        return set().union(*map(leaves, shape if isinstance(shape, list) else shape.values()))

    assert leaves(STRUCTURE) <= set(LEAVES)


def test_the_text_of_an_event_is_kept_on_one_line(world: World) -> None:
    event = world.event(30, errorMessage="line\nend")
    made = event_of(event, json.dumps(event, indent=2).replace("\n", "\r\n"), "import:trail")
    assert b"\n" not in made.text and b"\r" not in made.text
    assert json.loads(made.text) == event
