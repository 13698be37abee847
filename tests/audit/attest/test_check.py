"""Checking an attestation, with the logs at hand and without: nothing forged passes."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.attest.check import check
from audit.attest.make import sign
from audit.attest.statement import Excepted, Extension, SetBack
from audit.checkpoint import VerifierKey
from audit.errors import QueryError
from audit.query.filters import Filter
from audit.report import Verdict
from tests.audit.attest.builder import House, asked, facts, time_at
from tests.audit.attest.test_statement import canonical, leaves, put
from tests.audit.attest.verdicts import reasons, verdicts
from tests.audit.query.builder import at, fingerprint

# --- by itself


def test_without_a_key_only_the_form_is_checked(house: House) -> None:
    report = check(house.attest()[1])
    assert verdicts(report) == "Fp-p-p--"
    assert reasons(report, 1) == ["no key was given: only the form was checked"]
    report = check(house.attest()[1], saved=[house.latest()])
    assert reasons(report, 5) == [
        f"the checkpoint of 3 records of {house.instance.origin('w0')}: there is no key to check it with"
    ]


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
        ({"set_back": (SetBack(1, time_at(0), time_at(1)),)}, 4, "a time is said to go back, and does not"),
        ({"extends": (Extension("no note", ()),)}, 4, "not a signed note"),
    ],
)
def test_facts_that_cannot_be_do_not_pass_though_they_are_signed(
    house: House, changes: dict[str, Any], step: int, reason: str
) -> None:
    report = check(sign(facts(house.attest()[0].statement, **changes), house.key), [house.verifier])
    assert not report.passed
    assert any(reason in text for text in reasons(report, step)), report.faults


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


def test_checkpoints_in_it_have_to_be_of_its_logs(house: House) -> None:
    statement = house.attest()[0].statement
    admin, w0, w1 = statement.logs
    swapped = replace(statement, logs=(admin, replace(w0, note=w1.note), w1))
    assert any("log w0: not signed by" in reason for reason in reasons(check(sign(swapped, house.key), [house.verifier]), 3))


def test_what_is_no_attestation_fails(house: House) -> None:
    for text in (b"", b"{}", house.latest().encode()):
        assert verdicts(check(text, [house.verifier])) == "F-------"


# --- with the logs


def test_the_key_in_the_data_folder_is_used_and_said(house: House) -> None:
    report = check(house.attest()[1], data=house.data)
    assert verdicts(report) == "pppp-ppp"
    assert "which whoever changes the log can change too" in report.steps[0].detail


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"in_interval": 2}, "the records in the interval: not as it says"),
        ({"first": time_at(9)}, "the time of the first record: not as it says"),
        ({"newest": time_at(51)}, "the time of the newest record: not as it says"),
        ({"excepted": (Excepted(1, "s", 2, "r"),)}, "the lines excepted: not as it says"),
        ({"set_back": (SetBack(1, time_at(0), time_at(1_000)),)}, "the times that go back: not as it says"),
    ],
)
def test_facts_that_are_not_so_are_found_with_the_log(house: House, changes: dict[str, Any], reason: str) -> None:
    document = sign(facts(house.attest()[0].statement, **changes), house.key)
    assert reasons(check(document, [house.verifier], data=house.data), 8) == [f"log w0: {reason}"]


def test_a_false_statement_is_found_with_the_log(house: House) -> None:
    """A signer who lies: offline it is their word, and with the log it is not."""
    statement = replace(house.attest()[0].statement, question=asked(fingerprints=(fingerprint("one"),)))
    document = sign(statement, house.key)
    assert check(document, [house.verifier]).passed
    report = check(document, [house.verifier], data=house.data)
    assert reasons(report, 8) == [f"w0/00000000000000000000.jsonl:1 ({time_at(10)}) matches"]


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
