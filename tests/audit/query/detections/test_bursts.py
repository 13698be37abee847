from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.query.detections.findings import Severity
from audit.query.detections.questions import EVENTS_WITHIN, VALUES_WITHIN, Question, ask
from audit.query.detections.settings import Settings
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at
from tests.audit.query.detections.events import FOREIGN_KEY, OTHER_ACCOUNT, SINCE_S, findings, past, session

SECONDS_10 = timedelta(seconds=10)


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    return LogBuilder(tmp_path)


def denied(log: LogBuilder, *seconds: float, **changes: Any) -> None:
    for second in seconds:
        log.add(SINCE_S + second, error="AccessDenied", **changes)


def test_denied_burst_of_a_principal(log: LogBuilder) -> None:
    past(log)
    denied(log, 1, 2, user="eve")
    denied(log, 3, user="eve", key=KEY_B)
    denied(log, 1, 2, user="bob")
    log.add(SINCE_S + 3, user="bob")  # allowed
    denied(log, 50, 51, user="eve")
    [found] = findings(log, "KT001", count=3, within=SECONDS_10)
    assert found.subject == {"principal": "arn:aws:iam::111122223333:user/eve"}
    assert (found.first, found.last, found.count, found.severity) == (at(SINCE_S + 1), at(SINCE_S + 3), 3, Severity.MEDIUM)
    assert [(one.log, one.record) for one in found.evidence] == [("w0", 1), ("w0", 2), ("w0", 3)]
    assert found.why == ("3 calls of arn:aws:iam::111122223333:user/eve were denied (keys: 2); 3 within 10s are a burst")
    assert findings(log, "KT001", count=4, within=SECONDS_10) == []


def test_sessions_of_a_role_are_one_principal(log: LogBuilder) -> None:
    for number in range(3):
        denied(log, number, userIdentity=session("batch", f"pod-{number}"))
    [found] = findings(log, "KT001", count=3, within=SECONDS_10)
    assert found.subject == {"principal": "arn:aws:sts::111122223333:assumed-role/batch"}


@pytest.mark.parametrize(("last", "found"), [(10.0, 1), (10.000001, 0)])
def test_the_window_is_closed_at_both_ends(log: LogBuilder, last: float, found: int) -> None:
    denied(log, 0, 5, last)
    assert len(findings(log, "KT001", count=3, within=SECONDS_10)) == found


@pytest.mark.parametrize(("times", "found"), [((-8, -5, 1), 1), ((-8, -5, 3), 0), ((-8, -7, -6), 0)])
def test_a_burst_that_began_before_since_is_found_if_it_ends_after(log: LogBuilder, times: tuple[float, ...], found: int) -> None:
    denied(log, *times)
    assert len(findings(log, "KT001", count=3, within=SECONDS_10)) == found


def test_bursts_far_apart_are_two_findings(log: LogBuilder) -> None:
    denied(log, 0, 1, 2, 11, 22.5, 23, 24)
    assert [(one.first, one.last, one.count) for one in findings(log, "KT001", count=3, within=SECONDS_10)] == [
        (at(SINCE_S), at(SINCE_S + 11), 4),
        (at(SINCE_S + 22.5), at(SINCE_S + 24), 3),
    ]


def test_denied_burst_on_a_key(log: LogBuilder) -> None:
    for number in range(3):
        denied(log, number, user=f"user{number}")
        denied(log, number, user=f"user{number}", key=None)  # of no key that is known
    denied(log, 1, 2, key=KEY_B)
    [found] = findings(log, "KT002", count=3, within=SECONDS_10)
    assert found.subject == {"key": KEY_A}
    assert "principals: 3" in found.why


def test_calls_without_a_valid_signature_from_one_address(log: LogBuilder) -> None:
    for number, error in enumerate(
        ("InvalidSignatureException", "UnrecognizedClientException", "MissingAuthenticationTokenException")
    ):
        log.add(SINCE_S + number, error=error, sourceIPAddress="10.6.6.6", key=None)
        log.add(SINCE_S + number, error=error, sourceIPAddress=f"10.0.0.{number}", key=None)
    denied(log, 1, 2, 3, sourceIPAddress="10.7.7.7")
    [found] = findings(log, "KT003", count=3, within=SECONDS_10)
    assert found.subject == {"source": "10.6.6.6"}
    assert findings(log, "KT003", count=4, within=SECONDS_10) == []


def test_contexts_tried_on_one_ciphertext(log: LogBuilder) -> None:
    invalid = "InvalidCiphertextException"
    log.add(SINCE_S, blobs_in=["one"], context={"tenant": "a", "n": "1"}, error=invalid)
    log.add(SINCE_S + 1, blobs_in=["one"], context={"n": "1", "tenant": "a"}, error=invalid)  # the same, written otherwise
    log.add(SINCE_S + 2, blobs_in=["one"], context={"tenant": "b"})  # opened it
    log.add(SINCE_S + 3, blobs_in=["two"], context={"tenant": "c"}, error=invalid)  # another one
    assert findings(log, "KT010") == []
    log.add(
        SINCE_S + 4, "ReEncrypt", blobs_in=["one"], error=invalid, requestParameters={"sourceEncryptionContext": {"tenant": "c"}}
    )
    [found] = findings(log, "KT010")
    assert (found.count, found.severity) == (3, Severity.HIGH)
    assert found.why.startswith("2 wrong contexts in 3 calls for one ciphertext")
    assert findings(log, "KT010", count=3) == []
    assert findings(log, "KT010", within=timedelta(seconds=2)) == []
    log.add(SINCE_S + 5, blobs_in=["one"], error=invalid)  # none is a context, too
    assert len(findings(log, "KT010", count=3)) == 1


def test_one_wrong_context_that_is_encrypted_in_the_log_is_one(log: LogBuilder) -> None:
    invalid, forms = "InvalidCiphertextException", {"note": "encrypted", "tenant": "hmac"}
    for number in range(3):  # the same value looks different each time
        context = {"tenant": "a digest", "note": f"a ciphertext {number}"}
        log.add(SINCE_S + number, blobs_in=["one"], context=context, private=forms, error=invalid)
    assert findings(log, "KT010") == []
    log.add(SINCE_S + 4, blobs_in=["one"], context={"tenant": "another", "note": "x"}, private=forms, error=invalid)
    assert len(findings(log, "KT010")) == 1


def wrapped(log: LogBuilder, count: int, **changes: Any) -> None:
    for number in range(count):
        log.add(SINCE_S + 100 + number, "GenerateDataKey", **({"user": "mallory"} | changes))


def test_ransomware_shape(log: LogBuilder) -> None:
    past(log, "GenerateDataKey", user="writer")
    wrapped(log, 5)
    wrapped(log, 5, user="writer")  # has always done so
    [found] = findings(log, "KT012", count=5)
    assert found.subject == {"principal": "arn:aws:iam::111122223333:user/mallory", "key": KEY_A}
    assert found.count == 5
    assert findings(log, "KT012", count=6) == []
    log.add(SINCE_S + 200, user="mallory")  # opens it again: an application
    assert findings(log, "KT012", count=5) == []


def test_ransomware_shape_needs_a_baseline(log: LogBuilder) -> None:
    wrapped(log, 5)
    assert findings(log, "KT012", count=5) == []


def test_bulk_under_another_accounts_key(log: LogBuilder) -> None:
    for number in range(3):
        log.add(
            SINCE_S + number, "ReEncrypt", user="mallory", resources=[{"ARN": KEY_A}, {"ARN": FOREIGN_KEY}], requestParameters={}
        )
        log.add(SINCE_S + number, "ReEncrypt", user="mallory", resources=[{"ARN": FOREIGN_KEY}, {"ARN": KEY_A}])  # to ours
        log.add(SINCE_S + number, "Encrypt", user="mallory", key=KEY_A)
    [found] = findings(log, "KT013", count=3)
    assert found.subject == {"principal": "arn:aws:iam::111122223333:user/mallory", "key": FOREIGN_KEY}
    assert "ReEncrypt: 3" in found.why
    assert findings(log, "KT013", count=4) == []
    assert findings(log, "KT013", Settings(trusted_accounts=(OTHER_ACCOUNT,)), count=3) == []


def hours(log: LogBuilder, counts: list[int], begin_s: float, **changes: Any) -> None:
    for hour, count in enumerate(counts):
        for number in range(count):
            log.add(begin_s + hour * 3_600 + number, **changes)


USUAL = [4, 5, 6, 5, 4, 6]  # median 5, median absolute deviation 1


@pytest.mark.parametrize(("calls", "found"), [(15, 0), (16, 1)])
def test_volume_above_median_and_ten_deviations(log: LogBuilder, calls: int, found: int) -> None:
    hours(log, USUAL, SINCE_S - 20 * 3_600)
    hours(log, [calls], SINCE_S)
    hours(log, [calls, 60], SINCE_S, user="newcomer")  # of whom nothing is usual
    listed = findings(log, "KT014", count=10, hours=6)
    assert len(listed) == found
    if found:
        assert listed[0].subject == {"principal": "arn:aws:iam::111122223333:user/alice", "hour": "2026-01-12T00:00Z"}
        assert "16 Decrypt calls" in listed[0].why
        assert "5 are usual, more than 15 are remarkable" in listed[0].why
    assert findings(log, "KT014", count=17, hours=6) == []
    assert findings(log, "KT014", count=10, hours=7) == []


def test_a_perfectly_even_load_may_vary_by_a_tenth(log: LogBuilder) -> None:
    hours(log, [10] * 6, SINCE_S - 20 * 3_600)
    hours(log, [20, 21], SINCE_S)
    [found] = findings(log, "KT014", count=10, hours=6)
    assert found.count == 21


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(-8, 40), st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1, max_size=16),
    count=st.integers(1, 4),
    within=st.integers(1, 6),
    measure=st.sampled_from((EVENTS_WITHIN, VALUES_WITHIN)),
)
def test_bursts_are_what_a_search_of_all_windows_finds(
    events: list[tuple[int, str, str]], count: int, within: int, measure: str
) -> None:
    expected = []
    for subject in "ab":
        own = sorted((time, value) for time, who, value in events if who == subject)
        windows = [[(time, value) for time, value in own if end - within <= time <= end] for end, _ in own]
        reached = [
            one for one in windows if (len({value for _, value in one}) if measure == VALUES_WITHIN else len(one)) >= count
        ]
        bursts: list[list[int]] = []
        for time, _ in own:
            if not any(window[0][0] <= time <= window[-1][0] for window in reached):
                continue
            if bursts and time - bursts[-1][-1] <= within:
                bursts[-1].append(time)
            else:
                bursts.append([time])
        expected += [(subject, at(one[0]), at(one[-1]), len(one)) for one in bursts if one[-1] >= 0]
    with duckdb.connect(config={"threads": 1}) as database:
        rows = [f"(TIMESTAMP '{at(time):%Y-%m-%d %H:%M:%S}', '{who}', '{value}')" for time, who, value in events]
        database.execute(f"CREATE VIEW observed AS FROM (VALUES {', '.join(rows)}) AS rows(time, who, value)")
        question = Question(
            "X", "x", Severity.LOW,
            "SELECT *, '' AS event_id, '' AS request_id, '' AS origin, '' AS log, 0 AS record FROM observed",
            {"who": "who"}, "", measure, parameters={"count": count, "within": timedelta(seconds=within)},
        )  # fmt: skip
        found = sorted(ask(database, question, at(0), 3), key=lambda one: (one.subject["who"] or "", one.first))
    assert [(one.subject["who"], one.first, one.last, one.count) for one in found] == expected
    assert all(len(one.evidence) == min(one.count, 3) for one in found)


def test_callers_without_an_arn_have_a_name(log: LogBuilder) -> None:
    denied(log, 1, userIdentity={"type": "Unknown", "accessKeyId": "AKIAX"})
    denied(log, 1, userIdentity={"type": "AWSAccount", "accountId": OTHER_ACCOUNT})
    denied(log, 1, userIdentity={"type": "Unknown"})
    names = {one.subject["principal"] for one in findings(log, "KT001", count=1)}
    assert names == {"access key AKIAX", f"account {OTHER_ACCOUNT}", "unknown"}
