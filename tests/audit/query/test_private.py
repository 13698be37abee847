"""What is shown of private values: encrypted ones where it is asked for, and nothing of what only looks like one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit import cli
from audit.instance import Instance
from audit.private_keys import SubjectKey
from audit.query.engine import search
from audit.query.filters import Filter
from audit.query.private import Revealer, with_digests
from audit.query.standing import wrapping
from audit.query.trace import trace
from audit.subjects import Subjects, make_privacy_key, subjects_path
from tests.audit.query.builder import KEY_A, LogBuilder, fingerprint

NOTE = {"note": "encrypted", "patient": "hmac"}


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    instance = Instance.create(tmp_path, "111122223333", "eu-central-1", "2026-01-02T00:00:00Z")
    instance.save()
    return instance


@pytest.fixture
def subjects(instance: Instance) -> Iterator[Subjects]:
    opened = Subjects(subjects_path(instance), make_privacy_key(instance, os.urandom), os.urandom)
    yield opened
    opened.close()


def key_of(subjects: Subjects, subject: str) -> SubjectKey:
    subjects.make(subject)
    found = subjects.find(subject)
    assert found is not None
    return found


def revealed(instance: Instance) -> list[dict[str, Any]]:
    with Revealer(instance.data) as revealer, search(instance.data, [Filter()]) as result:
        lines = [found.line for found in revealer.revealed(result.records())]
    return [json.loads(line)["requestParameters"] for line in lines]


def test_encrypted_values_are_shown_wherever_they_stand_and_shredded_ones_are_not(instance: Instance, subjects: Subjects) -> None:
    log = LogBuilder(instance.data)
    anna, ben = key_of(subjects, "anna"), key_of(subjects, "ben")
    stored = {"note": anna.encrypted("note", "asthma", bytes(12)), "patient": "hmac-sha256:00"}
    log.add(0, context=stored, private=NOTE)
    parameters = {"keyId": KEY_A, "constraints": {"encryptionContextSubset": stored, "sourceArn": "arn:x"}}
    log.add(1, "CreateGrant", requestParameters=parameters, private=NOTE)
    log.add(2, context={"note": ben.encrypted("note", "gout", bytes(12))}, private=NOTE)
    log.add(3, context={"note": "[withheld]"}, private={"note": "withheld"})
    log.add(4, requestParameters=None, private={"*": "withheld"})
    subjects.shred("ben")
    shown = {"note": "asthma", "patient": "hmac-sha256:00"}
    assert revealed(instance) == [
        {"encryptionContext": shown},
        {"keyId": KEY_A, "constraints": {"encryptionContextSubset": shown, "sourceArn": "arn:x"}},
        {"encryptionContext": {"note": "[shredded]"}},
        {"encryptionContext": {"note": "[withheld]"}},
        {},
    ]


def test_a_story_is_told_in_clear_where_that_is_asked_for(instance: Instance, subjects: Subjects) -> None:
    stored = {"note": key_of(subjects, "anna").encrypted("note", "asthma", bytes(12)), "tenant": "acme"}
    LogBuilder(instance.data).add(0, "GenerateDataKey", blobs_out=["one"], context=stored, private=NOTE)
    arguments = ["trace", fingerprint("one"), "--json", "--data", str(instance.data)]
    shown = [
        json.loads(CliRunner().invoke(cli.app, [*arguments, *further]).stdout)["entries"][0]["context"]["encryptionContext"]
        for further in ([], ["--reveal"])
    ]
    assert shown == [stored, {"note": "asthma", "tenant": "acme"}]
    [record] = [json.loads(path.read_bytes()) for path in instance.log_folder("admin").glob("*.jsonl")]
    assert record["requestParameters"] == {"command": "trace", "question": {"artifact": fingerprint("one"), "reveal": True}}


def test_a_callers_own_text_is_not_decrypted(instance: Instance, subjects: Subjects) -> None:
    """Whoever read a value's ciphertext in the log cannot have it shown in a place of their choosing."""
    log = LogBuilder(instance.data)
    stolen = key_of(subjects, "anna").encrypted("note", "asthma", bytes(12))
    log.add(0, context={"note": stolen})
    log.add(1, context={"room": stolen, "note": "aes-256-gcm:0123456789abcdef:AAAA"}, private={"room": "encrypted"})
    assert revealed(instance) == [
        {"encryptionContext": {"note": stolen}},
        {"encryptionContext": {"room": stolen, "note": "aes-256-gcm:0123456789abcdef:AAAA"}},
    ]


def test_without_a_privacy_key_a_question_stays_as_it_is(instance: Instance, tmp_path: Path) -> None:
    asked = Filter(context=(("patient", "anna"),))
    assert with_digests(asked, instance.data) is asked
    assert with_digests(asked, tmp_path / "nothing") is asked
    key = make_privacy_key(instance, os.urandom)
    assert with_digests(asked, instance.data).digests == {("patient", "anna"): key.digest("patient", "anna")}
    assert with_digests(Filter(), instance.data) == Filter()


def test_who_can_unwrap_is_not_worked_out_from_a_private_context(instance: Instance) -> None:
    log = LogBuilder(instance.data)
    log.add(0, "GenerateDataKey", blobs_out=["one"], context={"patient": "hmac-sha256:00"}, private=NOTE)
    log.add(1, "GenerateDataKey", blobs_out=["two"], context={"tenant": "acme"})
    private, clear = (trace(instance.data, fingerprint(blob)) for blob in ("one", "two"))
    assert wrapping(private) == (KEY_A, None)
    assert wrapping(clear) == (KEY_A, {"tenant": "acme"})
    assert private.to_json()["entries"][0]["private_context"] == NOTE
