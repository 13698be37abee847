"""Making an attestation: what is there is found, and what is not is attested."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.attest.check import check
from audit.attest.make import attest
from audit.attest.statement import LogFacts
from audit.errors import QueryError
from audit.query.filters import Filter, KeyName
from audit.report import Verdict
from tests.audit.attest.builder import NOW, House, asked, time_at
from tests.audit.attest.verdicts import verdicts
from tests.audit.query.builder import KEY_A, KEY_B, at, fingerprint


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ({"fingerprints": (fingerprint("one"),)}, 1),
        ({"fingerprints": (fingerprint("four"), fingerprint("two"))}, 1),
        ({"fingerprints": (fingerprint("three"),)}, 1),  # refused, and on record all the same
        ({"fingerprints": (fingerprint("three"),), "error": "none"}, 0),
        ({"fingerprints": (fingerprint("four"),)}, 0),
        ({"key": KeyName.parse(KEY_B)}, 2),  # intents and unknown outcomes count
        ({"key": KeyName.parse("alias/none")}, 0),
        ({"caller": "bob"}, 1),
        ({"caller": "*user/b*"}, 1),
        ({"caller": "mallory"}, 0),
        ({"access_key": "AKIAEVE"}, 1),
        ({"access_key": "AKIAMALLORY"}, 0),
        ({"context": (("tenant", "acme"),)}, 1),
        ({"context": (("tenant", "acme"), ("user", "7"))}, 0),
        ({"events": ("Generate*",)}, 1),
        ({"events": ("Encrypt",)}, 0),
        ({"error": "AccessDenied"}, 1),
        ({"error": "NotFoundException"}, 0),
        ({"caller": "bob", "events": ("Decrypt",)}, 0),
        ({"caller": "root"}, 1),
    ],
)
def test_what_is_there_is_found_and_what_is_not_is_attested(house: House, conditions: dict[str, Any], count: int) -> None:
    finding, document = house.attest(**conditions)
    assert sum(hits.count for both in finding.hits.values() for hits in both) == count
    assert finding.is_absent is bool(document) is (count == 0)
    if document:
        report = check(document, [house.verifier], [house.latest("w1")], house.data)
        assert verdicts(report) == "pppppppp", report.faults
        assert report.statement == finding.statement


def test_the_interval_begins_with_its_first_moment_and_ends_before_its_last(house: House) -> None:
    one: dict[str, Any] = {"fingerprints": (fingerprint("one"),)}
    assert not house.attest(**one, since=at(10))[0].is_absent
    assert house.attest(**one, since=at(10.000001))[0].is_absent
    assert house.attest(**one, until=at(10))[0].is_absent
    assert not house.attest(**one, until=at(10.000001))[0].is_absent


def test_a_record_that_is_not_under_a_checkpoint_yet_is_found(house: House) -> None:
    house.add(60, user="mallory")
    finding, document = house.attest(caller="mallory")
    assert (finding.is_absent, document) == (False, b"")
    assert finding.hits["w0"][1].kept[0].place.line == 4


def test_records_of_a_log_without_a_checkpoint_are_read(tmp_path: Path) -> None:
    house = House(tmp_path, "w1")
    house.add(0)
    house.seal()
    house.add(5, log="w1", user="mallory")
    assert not house.attest(caller="mallory")[0].is_absent
    finding, document = house.attest(caller="nobody")
    assert finding.statement.covered == (time_at(0), time_at(5))
    assert verdicts(check(document, [house.verifier])) == "pppp-p--"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.sampled_from(["Decrypt", "Encrypt"]),
            st.fixed_dictionaries(
                {},
                optional={
                    "user": st.sampled_from(["alice", "bob"]),
                    "blobs_in": st.lists(st.sampled_from("ab"), max_size=2),
                    "blobs_out": st.lists(st.sampled_from("ab"), max_size=1),
                    "key": st.sampled_from([KEY_A, KEY_B]),
                    "context": st.dictionaries(st.sampled_from(["t", 'q"']), st.sampled_from(["1", "ü\\"]), max_size=2),
                    "error": st.just("AccessDenied"),
                    "phase": st.sampled_from(["intent", "outcome", "unknown"]),
                },
            ),
        ),
        min_size=1,
        max_size=8,
    ),
    wanted=st.fixed_dictionaries(
        {},
        optional={
            "caller": st.sampled_from(["alice", "bo*"]),
            "fingerprints": st.sampled_from([(fingerprint("a"),), (fingerprint("a"), fingerprint("b"))]),
            "key": st.just(KeyName.parse(KEY_A)),
            "context": st.sampled_from([(("t", "1"),), (('q"', "ü\\"),)]),
            "error": st.sampled_from(["any", "none"]),
            "events": st.just(("En*",)),
        },
    ).filter(bool),
    interval=st.tuples(st.integers(0, 9), st.integers(1, 10)).filter(lambda both: both[0] < both[1]),
    sealed=st.integers(1, 8),
)
def test_it_is_attested_exactly_where_no_record_matches(
    tmp_path_factory: pytest.TempPathFactory,
    calls: list[tuple[int, str, dict[str, Any]]],
    wanted: dict[str, Any],
    interval: tuple[int, int],
    sealed: int,
) -> None:
    house = House(tmp_path_factory.mktemp("house"), "w1")
    house.add(0, "Init", log="admin", user="root", key=None)
    for number, (second, event, changes) in enumerate(calls):
        house.add(second, event, log=f"w{number % 2}", **changes)
        if number == sealed - 1:
            house.seal()
    if len(calls) < sealed:
        house.seal()
    question = asked(**wanted, since=at(interval[0]), until=at(interval[1]))
    lines = [line for log in house.logs.values() for line in log.lines]
    expected = sum(question.matches(json.loads(line)) for line in lines)
    try:
        finding, document = attest(house.data, question, NOW)
    except QueryError as error:
        assert "nothing of the interval" in str(error)
        assert expected == 0
        return
    assert sum(hits.count for both in finding.hits.values() for hits in both) == expected
    assert bool(document) is (expected == 0)
    if document:
        report = check(document, [house.verifier], data=house.data)
        assert {step.number for step in report.steps if step.verdict is Verdict.FAILED} <= {6}


def test_a_question_about_nothing_is_refused(house: House) -> None:
    for question, now, reason in (
        (Filter(phases=asked().phases), NOW, "has to say what is absent"),
        (asked(until=at(4_000)), NOW, "ends in the future"),
        (asked(since=at(20), until=at(20)), NOW, "ends before it begins"),
        (asked(since=at(4_000)), NOW, "ends before it begins"),
        (Filter(caller="bob"), NOW, "all phases"),
        (replace(asked(), source="10.0.0.0/8"), NOW, "no ids and no sources"),
    ):
        with pytest.raises(QueryError, match=reason):
            attest(house.data, question, now)


def test_the_moment_is_that_of_the_question(house: House) -> None:
    """A record that is said to be of the future is none of the interval's."""
    house.add(5_000, user="mallory")
    house.seal()
    finding, document = house.attest(caller="mallory")
    assert finding.statement.covered == (time_at(0), time_at(3_600))
    assert finding.statement.logs[1].in_interval == 3
    assert check(document, [house.verifier], data=house.data).passed
    assert isinstance(finding.statement.made, datetime)
    assert all(isinstance(log, LogFacts) for log in finding.statement.logs)
