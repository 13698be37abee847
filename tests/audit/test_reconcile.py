"""Clean data gives no finding; each kind of finding, planted alone, gives exactly that one; and all of them at once, all."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from audit.instance import Instance
from audit.private_keys import PrivacyKey
from audit.reconcile import findings, tables
from audit.reconcile.files import Wanted
from audit.reconcile.findings import Finding, Kind, Report
from audit.reconcile.judge import Terms, reconcile
from tests.audit.fixtures.reconcile import ACCOUNT, KEY, OTHER_KEY, REGION, World
from tests.audit.query.builder import at

HOUR = 3_600


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Four honest hours of both ways of signing, of a day that AWS's files cover whole."""
    world = World(tmp_path / "data", tmp_path / "trail")
    world.call(0)
    for number in range(1, 40):
        user = ("alice", "bob", "eve")[number % 3]
        event = ("Decrypt", "GenerateDataKey", "DescribeKey", "Encrypt")[number % 4]
        world.call(number * 300, event, user=user, passed=number % 2 == 0)
    world.call(4 * HOUR)
    world.other_service(0)
    world.other_service(5 * HOUR)
    return world


def judged(world: World, wanted: Wanted | None = None, terms: Terms | None = None) -> Report:
    report, damaged = reconcile(world.data, str(world.deliver()), wanted or Wanted(), terms or Terms())
    assert damaged == []
    return report


def test_honest_calls_give_no_finding(world: World) -> None:
    report = judged(world)
    assert report.findings == []
    counts = report.counts
    assert (counts.agreed, counts.records, counts.aws_events) == (41, 41, 41)
    assert (counts.pending, counts.failed, counts.explained, counts.outside_interval, counts.unanswered) == (0,) * 5
    assert report.coverage == [(ACCOUNT, REGION, "2026-01-02T00:00:00Z", "2026-01-02T05:00:00Z")]


# --- each kind alone ---------------------------------------------------------------------------------------------------

Plant = Callable[[World], str]


def _bypass(world: World) -> str:
    return str(world.event(HOUR, passed=True)["requestID"])


def _bypass_by_the_role(world: World) -> str:
    return str(world.event(HOUR)["requestID"])


def _bypass_at_the_console(world: World) -> str:
    identity = world.user("alice") | {"invokedBy": "signin.amazonaws.com"}
    return str(world.event(HOUR, userIdentity=identity)["requestID"])


def _bypass_by_a_vpc_endpoint(world: World) -> str:
    return str(world.event(HOUR, vpcEndpointId="vpce-1")["requestID"])


def _bypass_that_was_refused(world: World) -> str:
    return str(world.event(HOUR, error="AccessDenied")["requestID"])


def _unconfirmed(world: World) -> str:
    return world.record(HOUR, request_id=world.new_id("f"))


def _duplicate_of_ours(world: World) -> str:
    request_id = world.call(HOUR)
    return world.record(HOUR + 60, request_id=request_id)


def _duplicate_of_aws(world: World) -> str:
    request_id = world.call(HOUR)
    world.event(HOUR + 60, request_id=request_id)
    return request_id


PLANTS: list[tuple[Plant, Kind]] = [
    (_bypass, Kind.BYPASS),
    (_bypass_by_the_role, Kind.BYPASS),
    (_bypass_at_the_console, Kind.BYPASS),
    (_bypass_by_a_vpc_endpoint, Kind.BYPASS),
    (_bypass_that_was_refused, Kind.BYPASS),
    (_unconfirmed, Kind.UNCONFIRMED),
    (_duplicate_of_ours, Kind.DUPLICATE),
    (_duplicate_of_aws, Kind.DUPLICATE),
]


@pytest.mark.parametrize(("plant", "kind"), PLANTS)
def test_each_kind_alone(world: World, plant: Plant, kind: Kind) -> None:
    request_id = plant(world)
    [found] = judged(world).findings
    assert (found.kind, found.request_id, found.operation, found.keys) == (kind, request_id, "Decrypt", (KEY,))


#: What one side says otherwise than the other, and in which field the pair then disagrees.
LIES: list[tuple[str, dict[str, Any]]] = [
    ("operation", {"ours": {"eventName": "Encrypt"}}),
    ("key", {"ours": {"key": OTHER_KEY}}),
    ("key", {"aws": {"key": KEY.replace(ACCOUNT, "999988887777")}}),
    ("key", {"ours": {"key": None, "parameters": {"keyId": OTHER_KEY.rpartition("/")[2]}}}),
    ("context", {"ours": {"context": {"tenant": "other"}}}),
    ("context", {"ours": {"context": {}}}),
    ("context", {"aws": {"context": {}}}),
    ("caller", {"ours": {"user": "bob"}}),
    ("caller", {"ours": {"user": "bob"}, "passed": True}),
    ("error", {"ours": {"error": "AccessDenied"}}),
    ("error", {"aws": {"error": "DisabledException"}}),
    ("error", {"ours": {"error": "AccessDenied"}, "aws": {"error": "NotFoundException"}}),
    ("region", {"ours": {"awsRegion": "eu-west-1"}}),
    ("requestId", {"ours": {"requestID": "another"}}),
    ("keyMaterialId", {"ours": {"material": {"keyMaterialId": "m1"}}, "aws": {"material": {"keyMaterialId": "m2"}}}),
    ("parameters", {"ours": {"parameters": {"numberOfBytes": 32}}, "aws": {"parameters": {"numberOfBytes": 64}}}),
]


@pytest.mark.parametrize(("name", "lie"), LIES)
def test_each_lie_is_a_mismatch_in_that_field(world: World, name: str, lie: dict[str, Any]) -> None:
    request_id = world.call(HOUR, **lie)
    [found] = judged(world).findings
    assert (found.kind, found.request_id) == (Kind.MISMATCH, request_id)
    assert {one.field for one in found.differences} == {name}


def test_a_record_of_another_hour_is_a_mismatch_in_time(world: World) -> None:
    request_id = world.record(HOUR, request_id=world.new_id("c"))
    world.event(2 * HOUR, request_id=request_id)
    [found] = judged(world).findings
    assert [one.to_json() for one in found.differences] == [
        {"field": "time", "ours": "2026-01-02T01:00:00.000000Z", "aws": "2026-01-02T02:00:00Z"}
    ]


def test_every_lie_of_a_forged_record_is_told(world: World) -> None:
    world.call(HOUR, ours={"user": "bob", "key": OTHER_KEY, "eventName": "Encrypt", "context": {}})
    [found] = judged(world).findings
    assert [one.field for one in found.differences] == ["operation", "key", "context", "caller"]
    assert found.places and found.event_ids and found.files


#: What AWS writes differently from us, though both are right.
SAME: list[dict[str, Any]] = [
    {"ours": {"error": "AccessDenied"}, "aws": {"error": "AccessDenied", "requestParameters": None}},
    {"ours": {"error": "AccessDenied"}, "aws": {"error": "AccessDeniedException"}},
    {"ours": {"error": "ServiceUnavailableException"}, "aws": {"error": "ExpiredTokenException"}},
    {"ours": {"parameters": {"keyId": "alias/a"}, "key": None}},
    {"ours": {"parameters": {"keyId": KEY.rpartition("/")[2]}, "key": None}, "aws": {"parameters": {"keyId": KEY}}},
    {"aws": {"requestParameters": {"omitted": True, "originalSize": 200_000, "reason": "requestParameters too large"}}},
    {
        "ours": {"parameters": {"policy": '{"a": 1, "b": 2}', "operations": ["Decrypt", "Encrypt"]}},
        "aws": {"parameters": {"policy": '{"b":2,"a":1}', "operations": ["Encrypt", "Decrypt"]}},
    },
    {"context": {}},
    {"user": "a/b", "aws": {"user": f"a-b@{hashlib.sha256(f'arn:aws:iam::{ACCOUNT}:user/a/b'.encode()).hexdigest()[:16]}"}},
]


@pytest.mark.parametrize("said", SAME)
def test_what_is_said_in_two_ways_agrees(world: World, said: dict[str, Any]) -> None:
    world.call(HOUR, **said)
    assert judged(world).findings == []


def test_a_role_session_is_compared_by_its_name_where_asked_for(world: World) -> None:
    request_id = world.call(HOUR, aws={"userIdentity": world.session("bob", source=False)})
    assert judged(world).findings == []  # keytrail's own credentials may be a session of any name
    # The others carry a source identity, which tells more than a name.
    assert [one.request_id for one in judged(world, terms=Terms(session_names=True)).findings] == [request_id]


def test_a_role_stands_for_its_sessions_where_calls_are_passed_through(world: World) -> None:
    role = {"type": "AssumedRole", "arn": f"arn:aws:iam::{ACCOUNT}:role/keytrail"}
    world.call(HOUR, passed=True, ours={"userIdentity": role}, aws={"userIdentity": world.session("i-0123")})
    assert judged(world).findings == []


# --- what is no finding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "changes"),
    [
        ("s3.amazonaws.com", {"userIdentity": {"type": "AWSService", "invokedBy": "s3.amazonaws.com"}}),
        ("fas.s3.amazonaws.com", {"userIdentity": {"type": "IAMUser", "invokedBy": "fas.s3.amazonaws.com"}}),
        ("AWS Internal", {"sourceIPAddress": "AWS Internal"}),
        ("rds.amazonaws.com", {"sourceIPAddress": "rds.amazonaws.com"}),
        ("kms.amazonaws.com", {"eventName": "RotateKey", "eventType": "AwsServiceEvent", "requestID": None}),
    ],
)
def test_what_aws_services_do_is_counted_apart(world: World, service: str, changes: dict[str, Any]) -> None:
    world.event(HOUR, **changes)
    report = judged(world)
    assert report.findings == []
    assert (report.counts.by_aws_services, report.services) == (1, {service: 1})


def test_copies_of_one_event_are_one(world: World) -> None:
    world.call(HOUR)
    world.copy(world.events[-1])
    owner = "999988887777"
    request_id = world.call(HOUR + 60, ours={"key": KEY.replace(ACCOUNT, owner)}, aws={"key": KEY.replace(ACCOUNT, owner)})
    world.events[-1]["sharedEventID"] = "shared"
    identity = {"type": "AWSAccount", "principalId": "AROA:alice", "accountId": ACCOUNT}
    world.copy(world.events[-1], eventID=world.new_id("e"), recipientAccountId=owner, userIdentity=identity)
    report = judged(world)
    assert report.findings == []
    assert report.counts.agreed == 43
    assert request_id in {event["requestID"] for event in world.events if event["recipientAccountId"] == owner}
    # The owner's copy alone is enough.
    assert judged(world, Wanted(accounts=(owner,))).counts.agreed == 1


def test_two_events_of_a_shared_event_with_other_request_ids_are_two(world: World) -> None:
    world.event(HOUR, sharedEventID="shared")
    world.event(HOUR + 1, sharedEventID="shared")
    assert judged(world).totals[Kind.BYPASS] == 2


def test_events_outside_the_time_of_our_log_are_no_bypass_unless_asked_for(world: World) -> None:
    world.event(-60)
    world.event(4 * HOUR + 60)
    report = judged(world)
    assert (report.findings, report.counts.outside_interval, report.counts.after_log) == ([], 1, 1)
    assert report.has_findings and "has the traffic left the proxy?" in report.notes[0]
    asked = judged(world, Wanted(until=at(5 * HOUR)))
    assert [one.kind for one in asked.findings] == [Kind.BYPASS]


@pytest.mark.parametrize(
    ("seconds", "pending"), [(5 * HOUR - 31 * 60, 0), (5 * HOUR - 29 * 60, 1), (6 * HOUR, 1)], ids=["late", "young", "younger"]
)
def test_young_records_are_pending(world: World, seconds: float, pending: int) -> None:
    world.record(seconds, request_id=world.new_id("c"))
    report = judged(world)
    assert (report.counts.pending, report.totals[Kind.UNCONFIRMED]) == (pending, 1 - pending)
    patient = judged(world, terms=Terms(grace=timedelta(minutes=32)))
    assert (patient.counts.pending, patient.totals[Kind.UNCONFIRMED]) == (1, 0)


def test_records_that_the_files_do_not_cover_are_counted_apart(world: World) -> None:
    world.record(-HOUR, request_id=world.new_id("c"))
    key = KEY.replace(REGION, "us-east-1")
    world.record(HOUR, request_id=world.new_id("c"), awsRegion="us-east-1", key=key)
    world.record(HOUR, request_id=world.new_id("c"), key=KEY.replace(ACCOUNT, "999988887777"))
    report = judged(world)
    assert (report.findings, report.counts.outside_aws_files) == ([], 3)


def test_refused_calls_need_no_event(world: World) -> None:
    world.record(HOUR, request_id=world.new_id("c"), error="InvalidCiphertextException")
    report = judged(world)
    assert (report.findings, report.counts.failed) == ([], 1)


def test_local_calls_denied_calls_and_intents_are_not_compared(world: World) -> None:
    world.records.append((HOUR, "Decrypt", {}))
    world.record(HOUR, "DisableKey", phase="intent")
    world.record(HOUR, request_id=world.new_id("c"), backend="local")
    report = judged(world)
    assert (report.findings, report.counts.records, report.counts.unanswered) == ([], 41, 0)


def test_an_event_whose_answer_was_lost_is_explained_once(world: World) -> None:
    world.record(HOUR, "DisableKey", error="KMSInternalException", extension={"effect": "unknown"})
    world.event(HOUR + 2, "DisableKey")
    report = judged(world)
    assert (report.findings, report.counts.explained, report.counts.unanswered) == ([], 1, 1)
    world.event(HOUR + 3, "DisableKey")
    assert [one.kind for one in judged(world).findings] == [Kind.BYPASS]


def test_a_lost_answer_explains_no_other_call(world: World) -> None:
    world.record(HOUR, "DisableKey", error="KMSInternalException", extension={"effect": "unknown"})
    world.event(HOUR + 2, "DisableKey", user="bob")
    world.event(HOUR + 2, "DisableKey", key=OTHER_KEY)
    world.event(HOUR + 2, "EnableKey")
    world.event(HOUR + 600, "DisableKey")
    report = judged(world)
    assert (report.totals[Kind.BYPASS], report.counts.explained) == (4, 0)


def test_the_first_attempt_of_a_repeated_call_is_explained(world: World) -> None:
    request_id = world.record(HOUR, request_id=world.new_id("c"), failures=["reset"])
    world.event(HOUR + 1)
    world.event(HOUR + 2, request_id=request_id)
    report = judged(world)
    assert (report.findings, report.counts.explained, report.counts.agreed) == ([], 1, 42)


def test_a_call_lost_in_a_crash_is_explained_at_the_time_of_its_intent(world: World) -> None:
    world.record(HOUR, "DisableKey", phase="intent", eventID="intent-1")
    world.event(HOUR + 1, "DisableKey")
    unknown: dict[str, Any] = {"phase": "unknown", "error": "KMSInternalException", "extension": {"intent": "intent-1"}}
    world.record(3 * HOUR, "DisableKey", **unknown)
    report = judged(world)
    assert (report.findings, report.counts.explained) == ([], 1)


def test_the_second_half_of_replicate_key_is_explained(world: World) -> None:
    parameters = {"keyId": KEY, "replicaRegion": "us-east-1"}
    world.call(HOUR, "ReplicateKey", parameters=parameters, context={})
    world.event(HOUR + 1, "CreateKey", awsRegion="us-east-1", key=KEY.replace(REGION, "us-east-1"), context={})
    report = judged(world)
    assert (report.findings, report.counts.explained) == ([], 1)


# --- what is asked for ----------------------------------------------------------------------------------------------------


def test_an_interval_tears_no_pair(world: World) -> None:
    world.record(2 * HOUR - 0.2, request_id=(request_id := world.new_id("c")))
    world.event(2 * HOUR + 1, request_id=request_id)
    _bypass(world)
    for wanted in (Wanted(since=at(2 * HOUR)), Wanted(since=at(HOUR + 1), until=at(2 * HOUR))):
        assert judged(world, wanted).findings == []
    assert len(judged(world, Wanted(since=at(HOUR), until=at(HOUR + 1))).findings) == 1


def test_files_of_other_accounts_and_regions_are_not_read(world: World) -> None:
    world.event(HOUR, awsRegion="us-east-1", key=None)
    world.event(HOUR, recipientAccountId="999988887777", key=None)
    files = judged(world).files
    assert judged(world).totals[Kind.BYPASS] == 2
    report = judged(world, Wanted(accounts=(ACCOUNT,), regions=(REGION,)))
    assert (report.findings, report.files) == ([], files - 2)


# --- event selectors ------------------------------------------------------------------------------------------------------


def test_a_trail_without_kms_is_told(world: World) -> None:
    world.events = [event for event in world.events if event["eventSource"] != "kms.amazonaws.com"]
    report = judged(world)
    assert report.totals[Kind.UNCONFIRMED] == 41
    [note] = report.notes
    assert "ExcludeManagementEventSources" in note


def test_a_trail_of_writes_only_is_told(world: World) -> None:
    world.call(HOUR, "DisableKey", ours={"readOnly": False}, aws={"readOnly": False})
    world.events = [event for event in world.events if not event["readOnly"] or event["eventSource"] != "kms.amazonaws.com"]
    [note] = judged(world).notes
    assert "ReadWriteType" in note


# --- all of it ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_exactly_what_was_planted_is_found(world: World, seed: int) -> None:
    chance = random.Random(seed)
    planted: list[tuple[Kind, str]] = []
    for number in range(chance.randrange(10, 40)):
        seconds = 60 + number * 290
        if chance.random() < 0.4:
            world.call(seconds, user=chance.choice(["alice", "bob"]), passed=chance.random() < 0.5)
        elif chance.random() < 0.4:
            planted.append((Kind.MISMATCH, world.call(seconds, **chance.choice(LIES)[1])))
        else:
            plant, kind = chance.choice([*PLANTS, (_unconfirmed, Kind.UNCONFIRMED)])
            planted.append((kind, plant(world)))
    chance.shuffle(world.events)
    report = judged(world)
    assert sorted((one.kind, one.request_id) for one in report.findings) == sorted(planted)
    assert sum(report.totals.values()) == len(planted)


def test_findings_come_in_the_order_of_time(world: World) -> None:
    planted = [world.event(3 * HOUR), world.event(HOUR)]
    middle = world.record(2 * HOUR, request_id=world.new_id("c"))
    found: list[Finding] = judged(world).findings
    assert [one.request_id for one in found] == [planted[1]["requestID"], middle, planted[0]["requestID"]]


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_parts_do_not_change_the_answer(world: World, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    planted = {_bypass(world), _unconfirmed(world), _duplicate_of_ours(world), world.call(HOUR + 9, ours={"user": "bob"})}
    world.copy(world.events[3])
    whole = judged(world)
    monkeypatch.setattr(tables, "_PART_ROWS", rows)
    assert judged(world).to_json() == whole.to_json()
    assert {one.request_id for one in whole.findings} == planted


def test_all_findings_are_counted_and_the_first_listed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MAX_LISTED", 2)
    planted = [str(world.event(HOUR + number)["requestID"]) for number in range(5)]
    report = judged(world)
    assert report.totals[Kind.BYPASS] == 5
    assert [one.request_id for one in report.findings] == planted[:2]


# --- private contexts: our record has another form, AWS's event the value in clear

PRIVACY = PrivacyKey(bytes(range(32)))


def private_call(world: World, value: str, **ours: Any) -> str:
    forms = {"patient": "hmac", "note": "encrypted"}
    mine = {"patient": PRIVACY.digest("patient", "anna"), "note": "aes-256-gcm:0123456789abcdef:AAAA", "tenant": "acme"}
    theirs = {"patient": value, "note": "asthma", "tenant": "acme"}
    changes = {"context": mine, "extension": {"privateContext": forms}, **ours}
    return world.call(HOUR, ours=changes, aws={"context": theirs})


def judged_with_key(world: World, key: bytes | None = bytes(range(32))) -> Report:
    where = str(world.deliver())
    Instance(world.data, "0" * 16, ACCOUNT, REGION, "2026-01-01T00:00:00Z", ("w0",)).save()
    (world.data / "privacy").mkdir()
    (world.data / "privacy" / "subjects.db").touch()
    if key is not None:
        (world.data / "privacy.key").write_bytes(base64.b64encode(key))
    report, damaged = reconcile(world.data, where, Wanted(), Terms())
    assert damaged == []
    return report


def test_private_values_agree_by_their_hmac(world: World) -> None:
    private_call(world, "anna")
    report = judged_with_key(world)
    assert report.findings == []
    assert report.counts.agreed == 42


def test_another_private_value_is_a_mismatch_that_tells_no_clear_value(world: World) -> None:
    request_id = private_call(world, "ben")
    [found] = judged_with_key(world).findings
    assert (found.kind, found.request_id) == (Kind.MISMATCH, request_id)
    [difference] = found.differences
    assert difference.field == "context"
    assert PRIVACY.digest("patient", "ben") in difference.aws
    assert "ben" not in difference.aws.replace(PRIVACY.digest("patient", "ben"), "")
    assert "asthma" not in difference.aws


def test_a_clear_value_beside_private_ones_is_still_compared(world: World) -> None:
    mine = {"patient": PRIVACY.digest("patient", "anna"), "note": "x", "tenant": "other"}
    private_call(world, "anna", context=mine)
    [found] = judged_with_key(world).findings
    assert [one.field for one in found.differences] == ["context"]


def test_without_the_privacy_key_private_values_are_not_compared_and_that_is_noted(world: World) -> None:
    private_call(world, "ben")
    report = judged_with_key(world, None)
    assert report.findings == []
    [note] = [text for text in report.notes if "private" in text]
    assert "are not compared" in note
