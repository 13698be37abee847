"""What each attribute of LookupEvents means, and how an event is told."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from audit.query.event_lookup import BadAttribute, Lookup, event_of, user_name
from tests.audit.query.builder import KEY_A, KEY_B, at, placed, record

KEY_ID = KEY_A.rpartition("/")[2]
ALIAS_ARN = "arn:aws:kms:eu-central-1:111122223333:alias/app"
SESSION = {
    "type": "AssumedRole",
    "arn": "arn:aws:sts::111122223333:assumed-role/builder/run-7",
    "accountId": "111122223333",
    "accessKeyId": "ASIA1",
}


def one(**changes: Any) -> dict[str, Any]:  # Any: changes of a record
    return placed(record(**changes), "w0", 0, at(5.25))


def holds(key: str, value: str, content: dict[str, Any], also: dict[str, str] | None = None) -> bool:
    asked = Lookup.of([(key, value)], None, None, lambda _: True, also or {})
    line = orjson.dumps(content)
    found = asked.matches(content)
    assert not found or all(text in line for text in asked.texts), "a line that matches would be passed over"
    return found


@pytest.mark.parametrize(
    ("key", "value", "content", "other"),
    [
        ("EventId", "e1", {"eventID": "e1"}, {"eventID": "e2"}),
        ("EventName", "Encrypt", {"event": "Encrypt"}, {"event": "Decrypt"}),
        ("EventSource", "sts.amazonaws.com", {"eventSource": "sts.amazonaws.com"}, {}),
        ("AccessKeyId", "AKIABOB", {"user": "bob"}, {"user": "alice"}),
        ("Username", "bob", {"user": "bob"}, {"user": "alice"}),
        ("Username", "run-7", {"userIdentity": SESSION}, {"user": "builder"}),
        ("Username", "root", {"userIdentity": {"type": "Root"}}, {"userIdentity": {"type": "Unknown"}}),
        ("ReadOnly", "false", {"readOnly": False}, {"readOnly": True}),
        ("ReadOnly", "TRUE", {"readOnly": True}, {"readOnly": False}),
        ("ResourceType", "AWS::IAM::Role", {"resources": [{"type": "AWS::IAM::Role", "ARN": "r"}]}, {"key": KEY_A}),
        ("ResourceName", "arn:aws:iam::1:role/x", {"resources": [{"type": "t", "ARN": "arn:aws:iam::1:role/x"}]}, {"key": KEY_A}),
    ],
)
def test_an_attribute_holds_for_what_has_it(key: str, value: str, content: dict[str, Any], other: dict[str, Any]) -> None:
    assert holds(key, value, one(**content))
    assert not holds(key, value, one(**other))


@pytest.mark.parametrize("written", [KEY_A, KEY_ID, "alias/app", ALIAS_ARN])
@pytest.mark.parametrize("asked", [KEY_A, KEY_ID, "alias/app", ALIAS_ARN])
def test_any_name_of_a_key_finds_the_calls_by_any_other(asked: str, written: str) -> None:
    call = one(key=KEY_A, requestParameters={"keyId": written})
    assert holds("ResourceName", asked, call, {"alias/app": KEY_A, ALIAS_ARN: KEY_A})
    assert not holds("ResourceName", asked, one(key=KEY_B, requestParameters={"keyId": KEY_B}), {"alias/app": KEY_A})


def test_an_alias_that_is_gone_still_finds_the_calls_that_named_it() -> None:
    assert holds("ResourceName", "alias/app", one(key=KEY_A, requestParameters={"keyId": "alias/app"}))
    assert not holds("ResourceName", "alias/app", one(key=KEY_A, requestParameters={"keyId": KEY_ID}))


def test_all_attributes_must_hold_those_of_one_kind_too() -> None:
    def both(*attributes: tuple[str, str]) -> bool:
        return Lookup.of(attributes, None, None, lambda _: True, {}).matches(one(user="bob"))

    assert both(("Username", "bob"), ("EventName", "Decrypt"))
    assert not both(("Username", "bob"), ("EventName", "Encrypt"))
    assert not both(("Username", "bob"), ("Username", "alice"))


@pytest.mark.parametrize(("phase", "is_told"), [("outcome", True), ("unknown", True), ("intent", False)])
def test_an_intent_is_no_event(phase: str, is_told: bool) -> None:
    assert Lookup.of([], None, None, lambda _: True, {}).matches(one(phase=phase)) is is_told


@pytest.mark.parametrize(
    ("start", "end", "is_in"),
    [(None, None, True), (5, 5, True), (5.2, 6, False), (4.5, 5.1, True), (0, 4.99, False), (6, 9, False), (None, 2.6e14, True)],
)
def test_both_ends_belong_to_the_interval_in_whole_seconds(start: float | None, end: float | None, is_in: bool) -> None:
    zero = at(0).timestamp()
    asked = Lookup.of(
        [], None if start is None else zero + start, None if end is None else min(zero + end, 253_402_300_799), lambda _: True, {}
    )
    assert asked.matches(one()) is is_in


def test_what_is_not_there_is_not_told() -> None:
    assert not Lookup.of([], None, None, lambda _: False, {}).matches(one())


@pytest.mark.parametrize(("key", "value"), [("ReadOnly", "maybe"), ("Colour", "red")])
def test_what_an_attribute_cannot_be_is_refused(key: str, value: str) -> None:
    with pytest.raises(BadAttribute):
        Lookup.of([(key, value)], None, None, lambda _: True, {})


def test_an_event_is_told_as_cloudtrail_tells_it() -> None:
    content = one(user="bob", event="Encrypt")
    line = orjson.dumps(content)
    assert event_of(content, line) == {
        "EventId": content["eventID"],
        "EventName": "Encrypt",
        "ReadOnly": "true",
        "AccessKeyId": "AKIABOB",
        "EventTime": at(5).timestamp(),
        "EventSource": "kms.amazonaws.com",
        "Username": "bob",
        "Resources": [{"ResourceType": "AWS::KMS::Key", "ResourceName": KEY_A}],
        "CloudTrailEvent": line.decode(),
    }


def test_what_nobody_signed_has_no_name() -> None:
    assert user_name(one(userIdentity={"type": "Unknown"})) is None
    assert "AccessKeyId" not in event_of(one(userIdentity={"type": "Unknown"}), b"{}")
