from __future__ import annotations

import base64
import hashlib
import itertools
from pathlib import Path

import pytest

from audit.errors import QueryError
from audit.query import trace as tracing
from audit.query.blob import fingerprint_in, fingerprint_of_text
from audit.query.index.compact import Compactor
from audit.query.times import time_text
from audit.query.trace import Relation, Step, trace
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at, fingerprint

ONE = fingerprint("one")


def test_the_story_of_a_data_key(tmp_path: Path) -> None:
    workers = [LogBuilder(tmp_path, name) for name in ("w0", "w1")]
    workers[0].add(0, "DisableKey", key=KEY_A)  # before the blob was made
    workers[0].add(1, "GenerateDataKey", blobs_out=["one"], context={"tenant": "acme"})
    workers[1].add(2, "Decrypt", user="bob", blobs_in=["one"], context={"tenant": "acme"})
    workers[0].add(3, "Decrypt", user="eve", blobs_in=["one"], error="InvalidCiphertextException")
    workers[1].add(4, "DisableKey", key=KEY_A, phase="intent")
    workers[1].add(5, "DisableKey", key=KEY_A)
    workers[1].add(5.5, "DisableKey", key=KEY_B)
    workers[1].add(5.6, "EnableKey", key=KEY_A, error="AccessDenied")
    workers[0].add(6, "Decrypt", user="bob", blobs_in=["one"], error="DisabledException")
    workers[0].add(7, "Decrypt", user="carol", blobs_in=["one"])
    workers[0].add(8, "Decrypt", blobs_in=["one"], error="DryRunOperationException")
    workers[0].add(9, "Decrypt", blobs_in=["two"])
    story = trace(tmp_path, ONE)
    assert [(entry.step, entry.time) for entry in story.entries] == [
        (Step.MADE, time_text(at(1))),
        (Step.UNWRAPPED, time_text(at(2))),
        (Step.REFUSED, time_text(at(3))),
        (Step.KEY, time_text(at(5))),
        (Step.REFUSED, time_text(at(6))),
        (Step.UNWRAPPED, time_text(at(7))),
        (Step.DRY_RUN, time_text(at(8))),
    ]
    unwrapped = story.count(Step.UNWRAPPED)
    assert (unwrapped.times, unwrapped.first, unwrapped.last) == (2, time_text(at(2)), time_text(at(7)))
    assert [caller.rpartition("/")[2] for caller in unwrapped.callers] == ["bob", "carol"]
    assert story.count(Step.REFUSED).times == 2
    assert story.interval == (time_text(at(0)), time_text(at(9)))
    assert story.is_found
    assert story.to_json()["entries"][0]["context"] == {"encryptionContext": {"tenant": "acme"}}


def test_what_became_of_a_keys_change_whose_outcome_was_lost(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, "GenerateDataKey", blobs_out=["one"])
    lost = {"phase": "unknown", "error": "KMSInternalException"}
    log.add(2, "DisableKey", effect="made", **lost)
    log.add(3, "EnableKey", effect="none", key=None, requestParameters={"keyId": KEY_A}, **lost)
    log.add(4, "PutKeyPolicy", key=None, requestParameters={"keyId": KEY_A.rpartition("/")[2]}, **lost)
    log.add(5, "ScheduleKeyDeletion", error="InternalFailure", effect="unknown")
    log.add(6, "ScheduleKeyDeletion", error="AccessDenied")
    for use_index in (False, True):
        entries = trace(tmp_path, ONE, use_index=use_index).entries
        assert [(entry.event, entry.step, entry.effect) for entry in entries] == [
            ("GenerateDataKey", Step.MADE, None),
            ("DisableKey", Step.KEY, "made"),
            ("PutKeyPolicy", Step.KEY, "unknown"),
            ("ScheduleKeyDeletion", Step.KEY, "unknown"),
        ]


def test_the_story_tells_what_allowed_each_call(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, "GenerateDataKey", blobs_out=["one"], allowed_by=[{"policy": "KMSFullAccess", "statement": "KMSFullAccess"}])
    log.add(2, "Decrypt", blobs_in=["one"], allowed_by=[{"grant": "g-1"}])
    story = trace(tmp_path, ONE)
    assert [entry.allowed_by for entry in story.entries] == [("KMSFullAccess: KMSFullAccess",), ("grant g-1",)]
    assert story.to_json()["entries"][1]["allowed_by"] == ("grant g-1",)


def chain(log: LogBuilder, *blobs: str) -> None:
    for seconds, (source, made) in enumerate(itertools.pairwise(blobs)):
        log.add(10 + seconds, "ReEncrypt", blobs_in=[source], blobs_out=[made])


def test_re_encryption_is_followed_both_ways_and_to_siblings(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, "GenerateDataKey", blobs_out=["root"])
    chain(log, "root", "one", "child", "grandchild")
    chain(log, "root", "sibling")
    chain(log, "else", "where")
    log.add(30, "Decrypt", blobs_in=["grandchild"])
    log.add(31, "Decrypt", blobs_in=["sibling"])
    log.add(32, "Decrypt", blobs_in=["where"])
    story = trace(tmp_path, ONE)
    names = {fingerprint(name): name for name in ("root", "one", "child", "grandchild", "sibling")}
    assert {names[blob]: relation for blob, relation in story.blobs.items()} == {
        "one": Relation.ASKED,
        "root": Relation.ANCESTOR,
        "child": Relation.DESCENDANT,
        "grandchild": Relation.DESCENDANT,
        "sibling": Relation.SIBLING,
    }
    assert story.count(Step.REENCRYPTED).times == 4
    assert story.count(Step.UNWRAPPED).times == 2
    assert story.count(Step.MADE).times == 1
    assert len({entry.place for entry in story.entries}) == len(story.entries) == 7


def test_a_refused_re_encryption_connects_nothing(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, "ReEncrypt", blobs_in=["one"], blobs_out=["two"], error="AccessDenied")
    log.add(2, "Decrypt", blobs_in=["two"])
    assert list(trace(tmp_path, ONE).blobs) == [ONE]


def test_a_cycle_ends(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    chain(log, "one", "two", "three", "one")
    chain(log, "one", "one")
    story = trace(tmp_path, ONE)
    assert set(story.blobs) == {fingerprint(name) for name in ("one", "two", "three")}
    assert story.count(Step.REENCRYPTED).times == 4


def test_the_bounds_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_BLOBS", 3)
    monkeypatch.setattr(tracing, "MAX_ENTRIES", 4)
    log = LogBuilder(tmp_path)
    for seconds in range(9):
        log.add(seconds, "Decrypt", blobs_in=["one"])
    chain(log, "one", "two", "three", "four", "five")
    story = trace(tmp_path, ONE)
    assert len(story.blobs) == 3
    assert story.count(Step.UNWRAPPED).times == 9
    assert sum(entry.step is Step.UNWRAPPED for entry in story.entries) == 4
    assert [text.split(" ")[:2] for text in story.incomplete] == [["more", "than"], ["5", "more"]]


def test_what_is_not_there_is_not_found_but_the_interval_is(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, "DisableKey")
    log.add(2)
    log.raw(b"{\n")
    story = trace(tmp_path, ONE)
    assert not story.is_found
    assert story.entries == ()
    assert story.interval == (time_text(at(1)), time_text(at(2)))
    assert [damage.line for damage in story.damaged] == [3]


BLOB = bytes.fromhex("01020300") + bytes(range(256)) * 2
EXPECTED = hashlib.sha256(BLOB).hexdigest()


@pytest.mark.parametrize(
    "text", [EXPECTED, EXPECTED.upper(), base64.b64encode(BLOB).decode(), f" {base64.b64encode(BLOB).decode()}\n"]
)
def test_a_fingerprint_or_base64_as_text(text: str) -> None:
    assert fingerprint_of_text(text) == EXPECTED


@pytest.mark.parametrize("content", [EXPECTED.encode(), EXPECTED.upper().encode() + b"\n"])
def test_a_file_may_hold_the_digits_alone(content: bytes) -> None:
    assert fingerprint_in(content) == EXPECTED
    assert fingerprint_in(content + b"x") is None


def test_what_can_be_no_ciphertext_is_refused() -> None:
    for text in ("", "abc", "not base64!", EXPECTED[:-1]):
        with pytest.raises(QueryError, match="accepted: "):
            fingerprint_of_text(text)


def test_damage_that_one_generation_met_is_told_whatever_the_next_one_meets(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, "GenerateDataKey", blobs_out=["a"])
    line = log.add(2, "Decrypt", user="mallory", blobs_in=["a"])
    log.add(3, "ReEncrypt", blobs_in=["a"], blobs_out=["b"])
    segment = log.segment
    log.rotate()
    with Compactor(tmp_path) as compactor:
        compactor.run()
    segment.write_bytes(segment.read_bytes().replace(line, b"x" * len(line)))
    story = trace(tmp_path, fingerprint("a"))
    assert [(damage.line, damage.reason) for damage in story.damaged] == [(2, "not JSON")]
