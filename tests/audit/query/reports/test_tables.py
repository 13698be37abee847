"""What each table says of the planted log; and that its SQL is what ran, whatever the rows come from."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit.query.events import open_events
from audit.query.index.compact import Compactor
from audit.query.reports.build import (
    ACCESS_REVIEW,
    INCIDENT,
    KEY_USAGE,
    QUARTERLY,
    Document,
    ReportKind,
    coverage_remark,
)
from audit.query.reports.interval import Interval
from audit.query.reports.policy_diff import policy_diff
from audit.query.reports.scope import Asked
from audit.query.scan import Coverage
from audit.query.times import time_text
from tests.audit.query.builder import KEY_A, KEY_B, at, fingerprint
from tests.audit.query.reports.planted import (
    ALICE,
    BOB,
    DAY,
    EVE,
    FIRST,
    KINDS,
    POLICY_1,
    POLICY_2,
    ROLE,
    ROLE_IN_IAM,
    SINCE,
    STRANGER,
    UNTIL,
    Planted,
    make,
)

BY_ROLE = Asked(caller="role/reader")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Not to be changed: `own` is."""
    planted = Planted(tmp_path_factory.mktemp("planted"))
    planted.plant()
    return planted


@pytest.fixture
def own(tmp_path: Path) -> Planted:
    own = Planted(tmp_path)
    own.plant()
    return own


def rows(document: Document, id: str, *columns: str) -> list[tuple[Any, ...]]:
    [table] = [table for table in document.tables if table.question.id == id]
    assert table.row_count == len(table.rows)
    return [tuple(row[column] for column in columns) for row in table.rows]


def moment(seconds: float) -> datetime:
    return at(seconds).replace(tzinfo=None)


def test_keys(planted: Planted) -> None:
    document = make(planted, KEY_USAGE)
    assert rows(document, "keys", "key", "uses", "principals", "denied", "other", "changes") == [
        (KEY_A, 8, 4, 0, 1, 5),
        (KEY_B, 1, 1, 0, 1, 1),
        ("alias/a", 0, 0, 1, 0, 0),
    ]
    assert rows(document, "keys", "names", "first_use", "last_use", "last_use_ever")[0] == (
        ["alias/a"],
        moment(FIRST + 60),
        moment(FIRST + 6 * DAY),
        moment(FIRST + 6 * DAY),
    )


def test_a_key_that_was_used_before_the_interval_only_is_there_with_no_use(planted: Planted) -> None:
    document = make(planted, KEY_USAGE, since=at(30 * DAY), until=at(41 * DAY))
    assert rows(document, "keys", "key", "uses", "first_use", "last_use_ever") == [
        (KEY_A, 1, moment(40 * DAY), moment(40 * DAY)),
        ("alias/a", 0, None, None),
        (KEY_B, 0, None, moment(FIRST + DAY + 60)),
    ]


def test_one_key(planted: Planted) -> None:
    document = make(planted, KEY_USAGE, Asked(key=KEY_B))
    assert rows(document, "keys", "key", "uses") == [(KEY_B, 1)]
    assert rows(document, "workloads", "key", "principal", "operations", "ok", "other") == [
        (KEY_B, ALICE, ["ReEncrypt"], 1, 0),
        (KEY_B, EVE, ["ScheduleKeyDeletion"], 0, 1),
    ]
    assert sum(calls for (calls,) in rows(document, "days", "calls")) == 2
    assert rows(document, "policies") == []


def test_workloads_and_operations(planted: Planted) -> None:
    document = make(planted, KEY_USAGE)
    workloads = rows(document, "workloads", "key", "principal", "sessions", "access_keys", "calls", "ok", "denied", "other")
    assert (KEY_A, ROLE, 2, 2, 3, 3, 0, 0) in workloads
    assert (KEY_A, BOB, 0, 1, 3, 2, 0, 1) in workloads
    assert ("alias/a", EVE, 0, 1, 1, 0, 1, 0) in workloads
    assert len(workloads) == 7
    operations = rows(document, "operations", "key", "event_name", "calls", "ok", "other")
    assert (KEY_A, "Decrypt", 6, 5, 1) in operations
    assert (KEY_B, "ReEncrypt", 1, 1, 0) in operations


def test_days(planted: Planted) -> None:
    days = rows(make(planted, KEY_USAGE), "days", "calls", "denied")
    assert days == [(3, 0), (2, 0), (2, 1), (2, 0), (2, 0), (2, 0), (2, 0), (1, 0)] + [(0, 0)] * 14


def test_refused(planted: Planted) -> None:
    columns = ("key", "event_name", "principal", "error", "denied", "denied_policy", "example")
    refused = rows(make(planted, KEY_USAGE), "refused", *columns)
    assert refused == [
        ("alias/a", "Decrypt", EVE, "AccessDenied", True, "strict.json", "event-8"),
        (KEY_A, "Decrypt", BOB, "DisabledException", False, None, "event-12"),
        (KEY_B, "ScheduleKeyDeletion", EVE, "unknown", False, None, "event-19"),
    ]
    nameless = (None, "Decrypt", "(none)", "MissingAuthenticationTokenException", True, None, "event-20")
    assert sorted(rows(make(planted, QUARTERLY), "refused", *columns), key=str) == sorted([*refused, nameless], key=str)


def test_contexts_and_addresses(planted: Planted) -> None:
    document = make(planted, KEY_USAGE)
    assert rows(document, "contexts", "key", "name", "calls", "values", "top_values") == [
        ("alias/a", "tenant", 1, 1, ["globex (1)"]),
        (KEY_A, "tenant", 5, 1, ["acme (5)"]),
        (KEY_A, "copy", 1, 1, ["yes (1)"]),
        (KEY_A, "object", 1, 1, ["1 (1)"]),
        (KEY_B, "copy", 1, 1, ["yes (1)"]),
        (KEY_B, "tenant", 1, 1, ["acme (1)"]),
    ]
    assert rows(document, "addresses", "key", "source_ip", "principals", "agents", "calls") == [
        (KEY_A, "10.0.0.7", 4, 2, 13),
        (KEY_B, "10.0.0.7", 2, 1, 2),
        ("alias/a", "10.9.0.1", 1, 1, 1),
        (KEY_A, "10.9.0.1", 1, 1, 1),
    ]


def test_encrypted_values_count_as_one(own: Planted) -> None:
    for number in range(3):
        own.add(FIRST + 9 * DAY, context={"note": f"a ciphertext {number}"}, private={"note": "encrypted"})
    own.add(FIRST + 9 * DAY, context={"note": "in clear"})
    found = rows(make(own, KEY_USAGE), "contexts", "name", "values", "top_values")
    assert ("note", 2, ["[encrypted] (3)", "in clear (1)"]) in found


def test_only_the_ten_most_frequent_values_are_named(own: Planted) -> None:
    for number in range(12):
        for _ in range(number + 1):
            own.add(FIRST + 9 * DAY, context={"shard": f"{number:02}"})
    [(values, top)] = [
        (values, top)
        for name, values, top in rows(make(own, KEY_USAGE), "contexts", "name", "values", "top_values")
        if name == "shard"
    ]
    assert values == 12
    assert top == [f"{number:02} ({number + 1})" for number in range(11, 1, -1)]


def test_use_from_other_accounts(planted: Planted) -> None:
    crossing = rows(make(planted, KEY_USAGE), "cross_account", "key", "account_id", "principal", "ok")
    assert crossing == [(KEY_A, "999988887777", STRANGER, 1)]


def test_use_after_a_key_was_put_out_of_use(own: Planted) -> None:
    columns = ("key", "turn", "turned", "turned_by", "principal", "ok", "refused")
    document = make(own, KEY_USAGE)
    disabled = moment(FIRST + 3 * DAY + 1)
    assert rows(document, "after_disable", *columns) == [(KEY_A, "DisableKey", disabled, ALICE, BOB, 0, 1)]
    own.add(FIRST + 15 * DAY, "ScheduleKeyDeletion")
    own.add(FIRST + 15 * DAY + 60, user="eve")  # answered, though the key awaits its deletion
    own.add(FIRST + 16 * DAY, "CancelKeyDeletion")
    own.add(FIRST + 16 * DAY + 60, user="eve", error="DisabledException")
    after = rows(make(own, KEY_USAGE), "after_disable", "turn", "principal", "ok", "refused")
    assert after == [
        ("ScheduleKeyDeletion", EVE, 1, 0),
        ("DisableKey", BOB, 0, 1),
        ("CancelKeyDeletion", EVE, 0, 1),
    ]


def test_data_under_older_key_material(planted: Planted) -> None:
    columns = ("key", "material", "newest", "ciphertexts", "reencrypted", "remaining", "unwrapped", "last_made")
    older = rows(make(planted, KEY_USAGE), "older_material", *columns)
    assert older == [(KEY_A, "M1", "M2", 2, 1, 1, 2, moment(FIRST + 60))]
    assert rows(make(planted, KEY_USAGE, until=at(FIRST + DAY)), "older_material") == []  # before the rotation


def test_changes(planted: Planted) -> None:
    changes = rows(make(planted, QUARTERLY), "changes", "event_name", "caller", "outcome", "details", "place")
    assert changes == [
        ("DisableKey", ALICE, "ok", [], "w0/11"),
        ("EnableKey", ALICE, "ok", [], "w0/13"),
        ("PutKeyPolicy", ALICE, "ok", [], "w0/15"),
        ("CreateGrant", ALICE, "ok", ["grant grant-1", f"for {ROLE_IN_IAM}"], "w0/16"),
        ("RevokeGrant", BOB, "ok", ["grant grant-1"], "w0/18"),
        ("ScheduleKeyDeletion", EVE, "unknown", [], "w0/19"),
    ]


def test_policies_are_compared_with_the_one_before(planted: Planted) -> None:
    document = make(planted, KEY_USAGE)
    [(key, before, after, diff)] = rows(document, "policies", "key", "policy_before", "policy", "diff")
    assert (key, before, after) == (KEY_A, POLICY_1, POLICY_2)
    assert [line for line in diff.split("\n") if line[0] in "+-"] == [
        '-      "Action": "kms:Decrypt",',
        '+      "Action": "kms:*",',
    ]
    [(before, diff)] = rows(make(planted, KEY_USAGE, since=at(0), until=SINCE), "policies", "policy_before", "diff")
    assert before is None
    assert all(line[0] in "+@" for line in diff.split("\n"))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', "no change"),
        ("no JSON", "none either", "@@ -1 +1 @@\n-no JSON\n+none either"),
        (None, "[]", "@@ -0,0 +1 @@\n+[]"),
        ("[" * 100_000, "[" * 100_000, "no change"),
    ],
)
def test_policy_diffs(before: str | None, after: str, expected: str) -> None:
    assert policy_diff(before, after) == expected


def test_principals(planted: Planted) -> None:
    columns = ("principal", "sessions", "access_keys", "addresses", "keys", "calls", "denied", "identity_types")
    assert rows(make(planted, ACCESS_REVIEW), "principals", *columns) == [
        (ALICE, 0, 1, 1, 1, 7, 0, ["IAMUser"]),
        (BOB, 0, 1, 1, 1, 3, 0, ["IAMUser"]),
        (ROLE, 2, 2, 2, 1, 3, 0, ["AssumedRole"]),
        (EVE, 0, 1, 2, 2, 2, 1, ["IAMUser"]),
        ("(none)", 0, 0, 0, 0, 1, 1, ["Unknown"]),
        (STRANGER, 0, 1, 1, 1, 1, 0, ["IAMUser"]),
    ]
    assert rows(make(planted, ACCESS_REVIEW, BY_ROLE), "principals", "principal", "proofs") == [(ROLE, ["signature-verified"])]


def test_what_a_role_touched(planted: Planted) -> None:
    document = make(planted, ACCESS_REVIEW, BY_ROLE)
    assert rows(document, "keys", "principal", "key", "operations", "ok") == [(ROLE, KEY_A, ["Decrypt"], 3)]
    assert rows(document, "context_names", "name", "values", "ok") == [("tenant", 1, 2)]
    assert rows(document, "context_pairs", "pair", "keys", "ok") == [("tenant=acme", 1, 2)]
    assert rows(document, "access_keys", "access_key_id", "addresses", "calls") == [("ASIASAM", 1, 2), ("ASIATIM", 1, 1)]
    assert rows(document, "sessions", "session_name", "access_key", "calls") == [("sam", "ASIASAM", 2), ("tim", "ASIATIM", 1)]
    assert rows(document, "grant_uses", "key", "event_name", "tokens", "ok") == [(KEY_A, "Decrypt", 1, 1)]


def test_grants_made_by_somebody_and_for_somebody(planted: Planted) -> None:
    columns = ("grant_id", "caller", "grantee", "outcome", "ended", "ended_by", "ender")
    ended = moment(FIRST + 6 * DAY + 60)
    grant = ("grant-1", ALICE, ROLE_IN_IAM, "ok", ended, "RevokeGrant", BOB)
    for caller, expected in ((None, [grant]), ("alice", [grant]), ("role/reader", [grant]), (ROLE_IN_IAM, [grant]), ("bob", [])):
        assert rows(make(planted, ACCESS_REVIEW, Asked(caller=caller)), "grants", *columns) == expected
    later = make(planted, ACCESS_REVIEW, since=at(FIRST + 7 * DAY))
    assert rows(later, "grants", *columns) == []  # it had ended
    during = make(planted, ACCESS_REVIEW, since=at(FIRST + 5 * DAY + 3600))
    assert rows(during, "grants", *columns) == [grant]  # made before, and in force


def test_first_uses_look_behind_the_interval(planted: Planted) -> None:
    firsts = rows(make(planted, ACCESS_REVIEW), "first_uses", "principal", "what", "thing", "principal_is_new")
    assert (ALICE, "key", KEY_B, False) in firsts
    assert (BOB, "key", KEY_A, False) in firsts
    assert (BOB, "user agent", "aws-cli/2.0", False) in firsts
    assert (ROLE, "address", "10.9.0.1", True) in firsts
    known = {(ALICE, "key", KEY_A), (BOB, "key", KEY_B), (ALICE, "address", "10.0.0.7"), (BOB, "user agent", "Boto3/1.44")}
    assert not known & {first[:3] for first in firsts}


def test_attestation(planted: Planted) -> None:
    document = make(planted, QUARTERLY)
    assert rows(document, "attestation", "key", "principal", "uses", "denied") == [
        ("alias/a", EVE, 0, 1),
        (KEY_A, ALICE, 3, 0),
        (KEY_A, ROLE, 3, 0),
        (KEY_A, BOB, 1, 0),
        (KEY_A, STRANGER, 1, 0),
        (KEY_B, ALICE, 1, 0),
        (None, "(none)", 0, 1),
    ]
    assert document.tables[0].question.sign_off


def test_required_fields(own: Planted) -> None:
    own.import_events({"seconds": FIRST, "sourceIPAddress": None})
    document = make(own, QUARTERLY)
    fields = rows(document, "required_fields", "origin", "field", "records", "lacking", "lacking_ok")
    assert fields == [
        ("keytrail", "date and time", 17, 0, 0),
        ("keytrail", "identity of the resource", 17, 1, 0),
        ("keytrail", "origination", 17, 1, 0),
        ("keytrail", "success or failure", 17, 1, 0),
        ("keytrail", "type of event", 17, 0, 0),
        ("keytrail", "user identification", 17, 1, 0),
        ("cloudtrail", "date and time", 1, 0, 0),
        ("cloudtrail", "identity of the resource", 1, 0, 0),
        ("cloudtrail", "origination", 1, 1, 1),
        ("cloudtrail", "success or failure", 1, 0, 0),
        ("cloudtrail", "type of event", 1, 0, 0),
        ("cloudtrail", "user identification", 1, 0, 0),
    ]
    assert rows(document, "incomplete", "origin", "event_name", "lacks", "calls", "example")[:2] == [
        ("keytrail", "Decrypt", ["user identification", "origination", "identity of the resource"], 1, "event-20"),
        ("keytrail", "ScheduleKeyDeletion", ["success or failure"], 1, "event-19"),
    ]


def test_an_operation_about_no_key_lacks_none(own: Planted) -> None:
    own.add(FIRST + DAY, "ListKeys", key=None)
    fields = rows(make(own, QUARTERLY), "required_fields", "field", "records", "lacking")
    assert ("identity of the resource", 18, 1) in fields


def test_daily_review(planted: Planted) -> None:
    daily = rows(make(planted, QUARTERLY), "daily", "day", "calls", "denied", "other", "changes", "principals")
    assert len(daily) == 22
    assert daily[0] == (SINCE.date(), 3, 0, 0, 0, 2)
    assert daily[3][1:] == (2, 0, 1, 1, 2)
    assert daily[8][1:] == (1, 1, 0, 0, 1)
    assert daily[-1] == ((UNTIL - timedelta(days=1)).date(), 0, 0, 0, 0, 0)


def test_retention(planted: Planted) -> None:
    columns = ("log", "records", "first_seen", "three_months", "twelve_months")
    assert rows(make(planted, QUARTERLY), "retention", *columns) == [("w0", 21, moment(60), False, False)]
    year = rows(make(planted, QUARTERLY, until=datetime(2027, 1, 3, tzinfo=UTC)), "retention", *columns)
    assert year == [("w0", 22, moment(60), True, True)]
    months = rows(make(planted, QUARTERLY), "months", "month", "records", "days")
    assert len(months) == 12
    assert months[0][0] == datetime(2025, 2, 1).date()
    assert months[-1] == (datetime(2026, 1, 1).date(), 21, 11)


def test_incident(planted: Planted) -> None:
    document = make(planted, INCIDENT, BY_ROLE)
    assert rows(document, "actors", "caller", "access_key_id", "source_ip", "calls") == [
        (f"{ROLE}/sam", "ASIASAM", "10.0.0.7", 2),
        (f"{ROLE}/tim", "ASIATIM", "10.9.0.1", 1),
    ]
    assert rows(document, "keys", "key", "operations", "ok") == [(KEY_A, ["Decrypt"], 3)]
    assert rows(document, "contexts", "pair", "ok", "unwrapped") == [("tenant=acme", 2, 2)]
    assert rows(document, "data_keys", "fingerprint", "unwrapped", "made", "refused", "key", "made_at", "made_by") == [
        (fingerprint("one"), 2, 0, 0, KEY_A, moment(60), ALICE),
        (fingerprint("three"), 1, 0, 0, KEY_A, moment(FIRST + DAY), ALICE),
    ]
    assert rows(document, "others", "principal", "data_keys", "before", "within", "after") == [
        (ALICE, 1, 0, 1, 0),
        (BOB, 1, 0, 0, 1),
    ]
    assert rows(document, "calls", "caller", "result", "place") == [
        (f"{ROLE}/sam", "ok", "w0/4"),
        (f"{ROLE}/tim", "ok", "w0/5"),
        (f"{ROLE}/sam", "ok", "w0/17"),
    ]
    elsewhere = rows(document, "same_address", "trait", "principal", "ok", "denied")
    assert ("10.9.0.1", EVE, 0, 1) in elsewhere
    assert not [row for row in elsewhere if row[1] == ROLE]
    agents = rows(document, "same_agent", "trait", "principal", "calls")
    assert ("Boto3/1.44", BOB, 2) in agents
    assert {trait for trait, _, _ in agents} == {"Boto3/1.44"}


def test_hours_of_an_incident(planted: Planted) -> None:
    hours = rows(make(planted, INCIDENT, BY_ROLE), "hours", "begins", "calls", "unwrapped")
    assert len(hours) == 22 * 24
    assert [hour for hour in hours if hour[1]] == [(moment(FIRST), 2, 2), (moment(FIRST + 6 * DAY), 1, 1)]
    days = rows(make(planted, INCIDENT, BY_ROLE, until=at(60 * DAY)), "hours", "begins", "calls")
    assert len(days) == 52
    assert sum(calls for _, calls in days) == 3


def test_what_was_tried_with_a_data_key(planted: Planted) -> None:
    document = make(planted, INCIDENT, Asked(fingerprints=(fingerprint("two"),)))
    assert rows(document, "data_keys", "fingerprint", "unwrapped", "made", "refused") == [(fingerprint("two"), 2, 1, 1)]
    assert rows(document, "others") == []
    denied = make(planted, INCIDENT, Asked(access_keys=("AKIAEVE",)))
    assert rows(denied, "keys", "key", "ok", "denied", "other") == [("alias/a", 0, 1, 0), (KEY_B, 0, 0, 1)]
    assert rows(denied, "changes", "event_name") == [("ScheduleKeyDeletion",)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_imported_events_are_counted_apart(own: Planted, kind: ReportKind) -> None:
    asked = Asked(source="10.0.0.0/8") if kind is INCIDENT else Asked()
    before = make(own, kind, asked)
    own.import_events(
        {"seconds": FIRST + 61, "event": "GenerateDataKey", "requestID": "request-3", "eventID": "aws-1"},
        {"seconds": FIRST + 90, "user": "mallory", "requestID": "other", "eventID": "aws-2"},
        {"seconds": FIRST + 95, "user": "mallory", "requestID": None, "eventID": "aws-3"},
        {"seconds": 40 * DAY, "user": "mallory", "requestID": "later", "eventID": "aws-4"},
    )
    after = make(own, kind, asked)
    assert before.records == {"keytrail": 17, "cloudtrail": 0}
    assert after.records == {"keytrail": 17, "cloudtrail": 3}
    mallory = "arn:aws:iam::111122223333:user/mallory"
    assert rows(before, "bypasses") == []
    assert rows(after, "bypasses", "key", "principal", "calls", "example", "by_service") == [(KEY_A, mallory, 2, "aws-2", False)]
    told_apart = {"bypasses", "months", "required_fields"}
    assert [table.rows for table in before.tables if table.question.id not in told_apart] == [
        table.rows for table in after.tables if table.question.id not in told_apart
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_sql_that_is_shown_is_the_sql_that_ran(own: Planted, kind: ReportKind) -> None:
    own.import_events({"seconds": FIRST + 90, "user": "mallory", "requestID": "other"})
    document = json.loads(make(own, kind, Asked(caller="*", source="10.0.0.0/8") if kind is INCIDENT else Asked()).to_json())
    with open_events(own.data) as events:
        for table in document["tables"]:
            answer = events.database.execute(table["sql"], table["parameters"])
            names = [column[0] for column in answer.description or ()]
            again = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
            shown = [{name: value for name, value in row.items() if name != "diff"} for row in table["rows"]]
            assert shown == json.loads(json.dumps(again, default=_text)), table["id"]
            assert [column["name"] for column in table["columns"] if column["kind"] != "diff"] == names
            assert table["row_count"] == len(again)
            assert "{" not in table["sql"].replace("{'", "")


def _text(value: Any) -> str:
    return time_text(value.replace(tzinfo=UTC)) if isinstance(value, datetime) else str(value.isoformat())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_answer_is_the_same_with_an_index(own: Planted, kind: ReportKind) -> None:
    own.log.rotate()
    own.add(FIRST + 9 * DAY, user="dora", context={"tenant": "late"})
    with Compactor(own.data) as compactor:
        compactor.run()
    indexed, read = (make(own, kind, use_index=use_index) for use_index in (True, False))
    assert [table.rows for table in indexed.tables] == [table.rows for table in read.tables]
    assert indexed.index_fault is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nothing_is_cut_silently(planted: Planted, kind: ReportKind) -> None:
    asked = Asked(source="10.0.0.0/8") if kind is INCIDENT else Asked()
    whole, cut = make(planted, kind, asked), make(planted, kind, asked, max_rows=2)
    for one, other in zip(cut.tables, whole.tables, strict=True):
        assert one.row_count == other.row_count == len(other.rows)
        if one.question.is_whole:
            assert one.rows == other.rows
        else:
            assert one.rows == other.rows[:2]
            assert one.is_cut == (one.row_count > 2)
            assert (one.extent == f"the first 2 of {one.row_count} rows") == one.is_cut
    assert any(table.is_cut for table in cut.tables)


def test_an_extent_counts_in_thousands(planted: Planted) -> None:
    [table] = [table for table in make(planted, KEY_USAGE).tables if table.question.id == "cross_account"]
    assert table.extent == "1 row"
    assert replace(table, row_count=1_234).extent == "the first 1 of 1,234 rows"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_interval_without_a_record(planted: Planted, kind: ReportKind) -> None:
    empty = make(planted, kind, BY_ROLE, since=at(200 * DAY), until=at(202 * DAY))
    assert empty.records == {"keytrail": 0, "cloudtrail": 0}
    moments = {"days": 2, "daily": 2, "hours": 48}
    history = {"keys", "older_material"} if kind is KEY_USAGE else {"retention", "months"}  # these look behind the interval
    for table in empty.tables:
        if table.question.id not in history:
            assert table.row_count == moments.get(table.question.id, 0), table.question.id
    assert coverage_remark(empty.coverage[0], empty.interval) == "the log has no record of the interval"


@pytest.mark.parametrize(
    ("first", "last", "remark"),
    [
        (None, None, "the log holds no record that can be read"),
        ("2026-01-01T00:00:00.000000Z", "2026-01-02T00:00:00.000000Z", "the log has no record of the interval"),
        ("2026-02-01T00:00:00.000000Z", "2026-02-02T00:00:00.000000Z", "the log has no record of the interval"),
        (
            "2026-01-10T00:00:00.000000Z",
            "2026-02-01T00:00:00.000000Z",
            "covers the interval's beginning; goes on after it",
        ),
        (
            "2026-01-10T00:00:00.000001Z",
            "2026-01-31T00:00:00.000000Z",
            "begins within the interval; its last record is from before the interval's end",
        ),
    ],
)
def test_coverage(first: str | None, last: str | None, remark: str) -> None:
    assert coverage_remark(Coverage("w0", first, last), Interval(SINCE, UNTIL)) == remark


def test_without_a_beginning_it_begins_with_the_log(planted: Planted) -> None:
    assert make(planted, KEY_USAGE, since=None).interval == Interval(at(60), UNTIL)


def test_an_interval_that_is_not_over_is_said_to_be_that(planted: Planted) -> None:
    assert "was not over" in make(planted, KEY_USAGE, made_at=SINCE).notes[0]
    assert make(planted, KEY_USAGE, made_at=UNTIL).notes == ()


# --- what keytrail does by itself, and what is done on its host

HEARTBEAT: dict[str, Any] = {
    "event": "Heartbeat",
    "eventSource": "keytrail",
    "eventType": "AwsServiceEvent",
    "userIdentity": {"type": "AWSService", "principalId": "keytrail"},
    "sourceIPAddress": "keytrail",
    "key": None,
    "requestParameters": None,
    "readOnly": False,
}
ROTATION: dict[str, Any] = HEARTBEAT | {"event": "RotateKey", "eventSource": "kms.amazonaws.com", "key": KEY_A}


def operator(event: str) -> dict[str, Any]:
    """What a command on the host leaves."""
    facts = {"phase": "outcome", "identityProof": "host-operator"}
    who = {"type": "Unknown", "principalId": "host:0", "userName": "root"}
    return {"event": event, "userIdentity": who, "key": KEY_A, "additionalEventData": {"keytrail": facts}, "readOnly": False}


def test_heartbeats_are_no_calls_no_changes_and_lack_no_user(own: Planted) -> None:
    before = make(own, QUARTERLY)
    for number in range(50):
        own.add(FIRST + 9 * DAY + number, **HEARTBEAT)
    own.add(FIRST + 9 * DAY + 60, **ROTATION)
    after = make(own, QUARTERLY)
    assert after.records == before.records
    counted = {row[0]: row[1:] for row in rows(before, "daily", "day", "calls", "changes", "principals")}
    [changed] = [
        (old, new[1:])
        for new in rows(after, "daily", "day", "calls", "changes", "principals")
        if (old := counted[new[0]]) != new[1:]
    ]
    assert changed[1] == (changed[0][0], changed[0][1] + 1, changed[0][2])  # the rotation is a change, and nobody's call
    assert rows(after, "incomplete", "event_name", "lacks", "calls") == rows(before, "incomplete", "event_name", "lacks", "calls")
    assert ("RotateKey", "(keytrail itself)") in rows(after, "changes", "event_name", "caller")
    principals = [principal for (principal,) in rows(make(own, ACCESS_REVIEW), "principals", "principal")]
    assert ALICE in principals and "(keytrail itself)" not in principals


def test_what_is_done_on_the_host_is_told_with_its_user(own: Planted) -> None:
    own.add(FIRST + 9 * DAY, **operator("DisableKey"))
    own.add(FIRST + 9 * DAY + 1, error="DisabledException")
    assert ("DisableKey", "host user root") in rows(make(own, QUARTERLY), "changes", "event_name", "caller")
    assert "host user root" in [principal for (principal,) in rows(make(own, ACCESS_REVIEW), "principals", "principal")]
    assert ("DisableKey", "host user root") in rows(make(own, KEY_USAGE), "after_disable", "turn", "turned_by")
