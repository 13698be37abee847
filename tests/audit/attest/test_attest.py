"""Making an attestation, and checking it: what is there is found, what is not is attested, and nothing forged passes."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.attest.check import AttestationReport, check
from audit.attest.make import attest, sign
from audit.attest.statement import Excepted, Extension, LogFacts, SetBack, Statement
from audit.checkpoint import Checkpoint, VerifierKey
from audit.checkpoint import sign as sign_checkpoint
from audit.errors import CheckpointInvalid, LogIncident, QueryError
from audit.merkle import EMPTY_ROOT
from audit.query.filters import Filter, KeyName
from audit.report import Verdict
from audit.sealing.log_sealer import LogSealer
from tests.audit.attest.builder import NOW, House, asked
from tests.audit.attest.test_statement import canonical, leaves, put
from tests.audit.query.builder import KEY_A, KEY_B, at, fingerprint


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Two workers and `admin`; some calls, and a checkpoint over each log."""
    house = House(tmp_path, "w1")
    house.add(0, "Init", log="admin", user="root", key=None)
    house.add(10, blobs_in=["one"], context={"tenant": "acme"})
    house.add(20, "GenerateDataKey", blobs_out=["two"], log="w1", user="bob")
    house.add(30, "DisableKey", phase="intent", key=KEY_B)
    house.add(40, "Decrypt", blobs_in=["three"], error="AccessDenied", user="eve", log="w1")
    house.add(50, "DisableKey", phase="unknown", key=KEY_B)
    house.seal()
    return house


def verdicts(report: AttestationReport) -> str:
    """A letter a step: passed, failed, not checked."""
    letters = {Verdict.PASSED: "p", Verdict.FAILED: "F", Verdict.NOT_CHECKED: "-"}
    return "".join(letters[step.verdict] for step in report.steps)


def reasons(report: AttestationReport, step: int) -> list[str]:
    return [reason for number, reason in report.faults if number == step]


# --- is it there?


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
    assert finding.statement.covered == (_time(0), _time(5))
    assert verdicts(check(document, [house.verifier])) == "pppp-p--"


def _time(seconds: float) -> str:
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


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


# --- what it covers


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


def test_an_interval_before_the_logs_begin_is_not_covered(house: House) -> None:
    with pytest.raises(QueryError, match=r"nothing of the interval \(from their beginning to .*\) is covered: the logs begin at"):
        house.attest(until=at(0))
    finding, document = house.attest(since=at(-60), until=at(20))
    assert finding.statement.covered == (_time(0), _time(20))
    assert list(finding.statement.limits()) == [f"the logs begin at {_time(0)}: before that nothing was recorded"]
    report = check(document, [house.verifier])
    assert verdicts(report) == "pppp-F--"
    assert not report.passed


def test_without_bounds_it_covers_what_there_is(house: House) -> None:
    statement = house.attest()[0].statement
    assert statement.covered == (_time(0), _time(3_600))
    assert (statement.recorded_until, statement.settled_until) == (_time(50), _time(3_600 - 900))
    assert statement.is_complete
    assert [(log.log, log.records, log.in_interval, log.first) for log in statement.logs] == [
        ("admin", 1, 1, _time(0)),
        ("w0", 3, 3, _time(10)),
        ("w1", 2, 2, _time(20)),
    ]


def test_it_ends_at_the_first_record_without_a_checkpoint(house: House) -> None:
    house.add(70, log="w1")
    house.add(65, log="w1")
    finding, document = house.attest(until=at(100))
    assert finding.statement.covered == (_time(0), _time(65))
    assert list(finding.statement.limits()) == [
        f"it holds up to {_time(65)}: later records were not yet under a checkpoint, or the interval was not over"
    ]
    assert verdicts(check(document, [house.verifier], data=house.data)) == "pppp-Fpp"
    assert house.attest(until=at(65))[0].statement.is_complete
    with pytest.raises(QueryError, match="not sealed yet"):
        house.attest(since=at(66))


def test_a_log_of_which_nothing_is_signed_covers_nothing(tmp_path: Path) -> None:
    house = House(tmp_path)
    with pytest.raises(QueryError, match="no record is under a checkpoint yet"):
        house.attest()
    house.add(0)
    with pytest.raises(QueryError, match="no record is under a checkpoint yet"):
        house.attest()


def test_a_damaged_line_is_excepted(house: House) -> None:
    house.logs["w1"].raw(b"{broken\n")
    house.seal()
    finding, document = house.attest()
    (one,) = finding.statement.logs[2].excepted
    assert (one.record, one.line, one.reason) == (2, 3, "not JSON")
    report = check(document, [house.verifier], data=house.data)
    assert verdicts(report) == "pppp-Fpp"
    assert reasons(report, 6) == ["not for w1/00000000000000000000.jsonl line 3 (record 2): not JSON"]


def test_a_damaged_line_behind_the_checkpoint_is_excepted(house: House) -> None:
    house.logs["w1"].raw(b"{broken\n")
    finding, document = house.attest()
    assert [one.record for one in finding.statement.logs[2].excepted] == [2]
    assert verdicts(check(document, [house.verifier], data=house.data)) == "pppp-Fpp"


def test_a_clock_set_back_limits_only_the_times_that_it_puts_in_doubt(house: House) -> None:
    house.add(3_000, log="admin")
    house.add(1_000, log="admin")
    house.seal()
    finding, document = house.attest(since=at(100), until=at(2_000))
    (back,) = finding.statement.logs[0].set_back
    assert (back.record, back.time, back.before) == (2, _time(1_000), _time(3_000))
    assert verdicts(check(document, [house.verifier], data=house.data)) == "pppp-Fpp"
    assert house.attest(since=at(100), until=at(1_000))[0].statement.is_complete
    assert house.attest(since=at(3_000.1), until=at(3_500))[0].statement.is_complete


def test_torn_tails_are_counted(house: House) -> None:
    (house.logs["w0"].folder / "torn" / "00000000000000000000.jsonl-9.0").write_bytes(b"torn")
    house.logs["w0"].raw(b'{"half')
    facts = house.attest()[0].statement.logs[1]
    assert (facts.torn_bytes, facts.aside_files, facts.aside_bytes) == (6, 1, 4)
    assert house.attest()[0].statement.is_complete


# --- what is not attested at all


def test_an_edited_line_is_an_incident(house: House) -> None:
    house.edit(b"AKIAALICE", b"AKIAALICF")
    with pytest.raises(LogIncident, match="w0: its lines are not those that its newest checkpoint was signed for"):
        house.attest()


def test_a_cut_log_is_an_incident(house: House) -> None:
    path = house.logs["w0"].segment
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(LogIncident, match="w0: it has 2 records, but 3 were signed for"):
        house.attest()


def test_a_vanished_log_is_an_incident(house: House) -> None:
    house.logs["w1"].folder.rename(house.data / "elsewhere")
    with pytest.raises(LogIncident, match=r"w1: .* has vanished"):
        house.attest()


def test_a_log_that_is_not_listed_is_an_incident(house: House) -> None:
    folder = house.data / "log" / "w9"
    folder.mkdir()
    assert house.attest()[0].is_absent  # nothing was ever written to it
    (folder / f"{0:020d}.jsonl").touch()
    with pytest.raises(LogIncident, match=r"w9: keytrail\.json does not list it"):
        house.attest()


def test_a_checkpoint_by_another_key_is_refused(house: House) -> None:
    folder = house.instance.checkpoint_folder("w0")
    for name in ("history", "latest", "frontier", "leaves"):
        (folder / name).unlink()
    LogSealer(house.logs["w0"].folder, folder, house.instance.origin("w0"), Ed25519PrivateKey.generate()).seal()
    with pytest.raises(CheckpointInvalid, match="not signed by"):
        house.attest()


def test_saved_checkpoints_are_held_against_the_log(house: House) -> None:
    old = house.latest()
    house.add(60)
    house.seal()
    newer = house.latest()
    origin = house.instance.origin("w0")
    finding, _ = house.attest(old, newer + "\n" + house.latest("w1"))
    assert [len(log.extends) for log in finding.statement.logs] == [0, 2, 1]
    for note, reason in (
        (sign_checkpoint(Checkpoint(origin, 3, EMPTY_ROOT), house.key), "its first 3 lines are not those"),
        (sign_checkpoint(Checkpoint(origin, 5, EMPTY_ROOT), house.key), "a saved checkpoint is of 5 records, its newest of 4"),
        (sign_checkpoint(Checkpoint(origin, 3, EMPTY_ROOT), Ed25519PrivateKey.generate()), "not signed by"),
        (sign_checkpoint(Checkpoint("keytrail/other/w0", 3, EMPTY_ROOT), house.key), "this instance has no such log"),
        (" \n", "holds no checkpoint"),
    ):
        with pytest.raises((LogIncident, CheckpointInvalid), match=reason):
            house.attest(note)


# --- checking


def test_without_a_key_only_the_form_is_checked(house: House) -> None:
    report = check(house.attest()[1])
    assert verdicts(report) == "Fp-p-p--"
    assert reasons(report, 1) == ["no key was given: only the form was checked"]
    report = check(house.attest()[1], saved=[house.latest()])
    assert reasons(report, 5) == [
        f"the checkpoint of 3 records of {house.instance.origin('w0')}: there is no key to check it with"
    ]


def test_the_key_in_the_data_folder_is_used_and_said(house: House) -> None:
    report = check(house.attest()[1], data=house.data)
    assert verdicts(report) == "pppp-ppp"
    assert "which whoever changes the log can change too" in report.steps[0].detail


def test_another_key_does_not_pass(house: House) -> None:
    other = VerifierKey(house.verifier.name, Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    report = check(house.attest()[1], [other], data=house.data)
    assert verdicts(report) == "FpFp-ppp"
    assert "not signed by" in reasons(report, 1)[0]


def test_a_key_of_another_instance_does_not_pass(house: House, tmp_path: Path) -> None:
    other = VerifierKey("keytrail/0123456789abcdef/w0", house.verifier.public_key)
    assert verdicts(check(house.attest()[1], [other])) == "Fp-p-p--"
    document = sign(replace(house.attest()[0].statement, instance="0123456789abcdef"), house.key)
    report = check(document, [other, house.verifier])
    assert verdicts(report)[:3] == "ppF"  # the checkpoints are not that instance's
    with pytest.raises(QueryError, match="is not the name of a key of keytrail"):
        check(document, [VerifierKey("sum.golang.org", bytes(32))])


def test_no_field_can_be_changed(house: House) -> None:
    old = house.latest()
    house.add(60)
    house.logs["w0"].raw(b"7\n")
    house.seal()
    envelope = json.loads(house.attest(old, since=at(1), fingerprints=(fingerprint("four"),), context=(("a", "b"),))[1])
    document = json.loads(base64.b64decode(envelope["payload"]))
    for place in leaves(document):
        inner = document
        for name in place:
            inner = inner[name]
        changed = put(document, place, {str: f"{inner}x", int: 99, bool: not inner}.get(type(inner), "x"))
        forged = envelope | {"payload": base64.b64encode(canonical(changed)).decode()}
        report = check(json.dumps(forged).encode(), [house.verifier])
        assert "is not genuine" in reasons(report, 1)[0], place
    for place in leaves(envelope):
        report = check(json.dumps(put(envelope, place, "AAAA")).encode(), [house.verifier])
        assert report.steps[0].verdict is Verdict.FAILED, place


def facts(statement: Statement, log: str = "w0", **changes: Any) -> Statement:
    return replace(statement, logs=tuple(replace(one, **changes) if one.log == log else one for one in statement.logs))


@pytest.mark.parametrize(
    ("changes", "step", "reason"),
    [
        ({"records": 2, "in_interval": 2}, 4, "2 records were read, and its checkpoint is for 3"),
        ({"note": None}, 4, "3 records were read, and its checkpoint is for 0"),
        ({"in_interval": 4}, 4, "4 of 3 records are in the interval"),
        ({"excepted": (Excepted(3, "s", 4, "r"),)}, 4, "lines are excepted that it does not have"),
        ({"excepted": (Excepted(1, "s", 2, "r"), Excepted(1, "s", 2, "r"))}, 4, "lines are excepted that it does not have"),
        ({"first": None, "newest": None}, 4, "the time of its first record does not fit"),
        ({"newest": None}, 4, "its first and its newest time do not fit"),
        ({"unsealed_oldest": "2026-01-02T00:10:00.000000Z"}, 4, "no record behind the checkpoint, and the time of one"),
        ({"set_back": (SetBack(1, _time(0), _time(1)),)}, 4, "a time is said to go back, and does not"),
        ({"extends": (Extension("no note", ()),)}, 4, "not a signed note"),
    ],
)
def test_facts_that_cannot_be_do_not_pass_though_they_are_signed(
    house: House, changes: dict[str, Any], step: int, reason: str
) -> None:
    report = check(sign(facts(house.attest()[0].statement, **changes), house.key), [house.verifier])
    assert not report.passed
    assert any(reason in text for text in reasons(report, step)), report.faults


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"in_interval": 2}, "the records in the interval: not as it says"),
        ({"first": _time(9)}, "the time of the first record: not as it says"),
        ({"newest": _time(51)}, "the time of the newest record: not as it says"),
        ({"excepted": (Excepted(1, "s", 2, "r"),)}, "the lines excepted: not as it says"),
        ({"set_back": (SetBack(1, _time(0), _time(1_000)),)}, "the times that go back: not as it says"),
    ],
)
def test_facts_that_are_not_so_are_found_with_the_log(house: House, changes: dict[str, Any], reason: str) -> None:
    document = sign(facts(house.attest()[0].statement, **changes), house.key)
    assert reasons(check(document, [house.verifier], data=house.data), 8) == [f"log w0: {reason}"]


def test_questions_that_none_would_be_asked_do_not_pass(house: House) -> None:
    statement = house.attest()[0].statement
    for changed, reason in (
        (replace(statement, question=replace(asked(), until=at(9_000))), "ends in the future"),
        (replace(statement, question=replace(asked(), caller=None)), "has to say what is absent"),
        (replace(statement, question=Filter(caller="nobody")), "all phases"),
        (replace(statement, question=asked(until=at(0))), "it covers nothing"),
    ):
        report = check(sign(changed, house.key), [house.verifier])
        assert verdicts(report) == "pF------"
        assert reason in reasons(report, 2)[0]


def test_a_false_statement_is_found_with_the_log(house: House) -> None:
    """A signer who lies: offline it is their word, and with the log it is not."""
    statement = replace(house.attest()[0].statement, question=asked(fingerprints=(fingerprint("one"),)))
    document = sign(statement, house.key)
    assert check(document, [house.verifier]).passed
    report = check(document, [house.verifier], data=house.data)
    assert reasons(report, 8) == [f"w0/00000000000000000000.jsonl:1 ({_time(10)}) matches"]


def test_an_edit_after_the_attestation_is_found_with_the_log(house: House) -> None:
    document = house.attest()[1]
    house.edit(b"AKIAALICE", b"AKIAALICF")
    report = check(document, [house.verifier], data=house.data)
    assert verdicts(report) == "pppp-pFp"
    assert reasons(report, 7) == ["log w0: its lines are not those that the checkpoint in the attestation was signed for"]


def test_a_log_that_was_cut_or_lost_after_the_attestation_is_found(house: House) -> None:
    document = house.attest()[1]
    path = house.logs["w0"].segment
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    house.logs["w1"].folder.rename(house.data / "elsewhere")
    found = reasons(check(document, [house.verifier], data=house.data), 7)
    assert found[0] == "log w0: it has 2 records, and the attestation speaks of 3"
    assert "w1" in found[1] and "has vanished" in found[1]


def test_a_record_that_came_later_with_an_earlier_time_is_found(house: House) -> None:
    document = house.attest(caller="mallory")[1]
    house.add(3_599, user="mallory")
    report = check(document, [house.verifier], data=house.data)
    assert len(reasons(report, 8)) == 1
    assert "it was not yet under the checkpoint" in reasons(report, 8)[0]
    assert check(document, [house.verifier]).passed


def test_what_comes_after_the_interval_is_none_of_its_business(house: House) -> None:
    document = house.attest(caller="mallory", until=at(3_000))[1]
    house.add(3_000, user="mallory")
    house.add(4_000, user="mallory")
    house.seal()
    assert check(document, [house.verifier], data=house.data).passed


def test_a_log_that_was_left_out_is_found(house: House) -> None:
    statement = house.attest()[0].statement
    document = sign(replace(statement, logs=statement.logs[:2], question=asked(caller="bob")), house.key)
    report = check(document, [house.verifier], [house.latest("w1")])
    assert "the attestation does not speak of that log" in reasons(report, 5)[0]
    assert len(reasons(check(document, [house.verifier], data=house.data), 8)) == 1


def test_another_instance_at_hand_is_found(house: House, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = House(tmp_path / "other")
    report = check(house.attest()[1], [house.verifier], data=other.data)
    assert verdicts(report) == "pppp-pF-"
    assert reasons(report, 7) == [f"it is of the instance {other.instance.id}"]


# --- saved checkpoints


def test_a_saved_checkpoint_of_the_same_size_is_compared(house: House) -> None:
    document = house.attest()[1]
    assert verdicts(check(document, [house.verifier], [house.latest(), house.latest("w1")])) == "pppppp--"
    other = sign_checkpoint(Checkpoint(house.instance.origin("w0"), 3, EMPTY_ROOT), house.key)
    report = check(document, [house.verifier], [other])
    assert "is of another tree than the attestation's" in reasons(report, 5)[0]


def test_a_smaller_saved_checkpoint_needs_a_proof_or_the_log(house: House) -> None:
    old = house.latest()
    for second in range(60, 70):
        house.add(second)
    house.seal()
    document = house.attest()[1]
    report = check(document, [house.verifier], [old])
    assert verdicts(report) == "ppppFp--"
    assert "cannot be compared without the log" in reasons(report, 5)[0]
    assert check(document, [house.verifier], [old], house.data).passed
    proving = house.attest(old)[1]
    assert verdicts(check(proving, [house.verifier], [old])) == "pppppp--"
    other = sign_checkpoint(Checkpoint(house.instance.origin("w0"), 3, EMPTY_ROOT), house.key)
    assert "another tree" in reasons(check(proving, [house.verifier], [other]), 5)[0]
    assert "another tree" in reasons(check(document, [house.verifier], [other], house.data), 5)[0]


def test_a_forged_proof_does_not_pass(house: House) -> None:
    old = house.latest()
    house.add(60)
    house.seal()
    statement = house.attest(old)[0].statement
    (extension,) = statement.logs[1].extends
    for proof in ((), (bytes(32), *extension.proof[1:]), (*extension.proof, bytes(32))):
        forged = facts(statement, extends=(replace(extension, proof=proof),))
        report = check(sign(forged, house.key), [house.verifier], [old])
        assert any("there is no proof" in reason for reason in reasons(report, 4))
        assert report.steps[4].verdict is Verdict.FAILED


def test_a_larger_saved_checkpoint_needs_the_log(house: House) -> None:
    document = house.attest()[1]
    house.add(60)
    house.seal()
    assert "cannot be compared without the log" in reasons(check(document, [house.verifier], [house.latest()]), 5)[0]
    assert check(document, [house.verifier], [house.latest()], house.data).passed
    beyond = sign_checkpoint(Checkpoint(house.instance.origin("w0"), 9, EMPTY_ROOT), house.key)
    assert "than the log at hand" in reasons(check(document, [house.verifier], [beyond], house.data), 5)[0]


def test_a_rollback_before_the_attestation_is_found(house: House) -> None:
    """Root cut the log and its checkpoints, and had the rest attested: a checkpoint kept elsewhere knows of more."""
    house.add(60, user="mallory")
    house.seal()
    kept = house.latest()
    path = house.logs["w0"].segment
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    house.logs["w0"].sequence = 3
    for file in house.instance.checkpoint_folder("w0").iterdir():
        file.unlink()
    (house.data / "checkpoints" / "sealer.state").unlink()  # not kept elsewhere
    house.seal()
    document = house.attest(caller="mallory")[1]
    assert check(document, [house.verifier]).passed
    assert not check(document, [house.verifier], [kept]).passed
    assert not check(document, [house.verifier], [kept], house.data).passed


def test_saved_checkpoints_that_are_none_are_refused(house: House) -> None:
    document = house.attest()[1]
    for text in ("", "no note\n"):
        with pytest.raises(CheckpointInvalid):
            check(document, [house.verifier], [text])
    foreign = sign_checkpoint(Checkpoint("keytrail/0123456789abcdef/w0", 3, EMPTY_ROOT), house.key)
    assert "does not speak of that log" in reasons(check(document, [house.verifier], [foreign]), 5)[0]
    forged = sign_checkpoint(Checkpoint(house.instance.origin("w0"), 3, EMPTY_ROOT), Ed25519PrivateKey.generate())
    assert "not signed by" in reasons(check(document, [house.verifier], [forged]), 5)[0]


def test_checkpoints_in_it_have_to_be_of_its_logs(house: House) -> None:
    statement = house.attest()[0].statement
    admin, w0, w1 = statement.logs
    swapped = replace(statement, logs=(admin, replace(w0, note=w1.note), w1))
    assert any("log w0: not signed by" in reason for reason in reasons(check(sign(swapped, house.key), [house.verifier]), 3))


def test_what_is_no_attestation_fails(house: House) -> None:
    for text in (b"", b"{}", house.latest().encode()):
        assert verdicts(check(text, [house.verifier])) == "F-------"


def test_the_moment_is_that_of_the_question(house: House) -> None:
    """A record that is said to be of the future is none of the interval's."""
    house.add(5_000, user="mallory")
    house.seal()
    finding, document = house.attest(caller="mallory")
    assert finding.statement.covered == (_time(0), _time(3_600))
    assert finding.statement.logs[1].in_interval == 3
    assert check(document, [house.verifier], data=house.data).passed
    assert isinstance(finding.statement.made, datetime)
    assert all(isinstance(log, LogFacts) for log in finding.statement.logs)
