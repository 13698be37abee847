"""The document: one encoding of a set of facts, read back exactly, and nothing that is any other is taken for one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from audit.attest.envelope import AttestationInvalid
from audit.attest.parsing import parse
from audit.attest.statement import Statement
from audit.query.filters import KeyName
from tests.audit.attest.builder import House
from tests.audit.query.builder import KEY_A, at, fingerprint

Place = tuple[str | int, ...]


@pytest.fixture(scope="module")
def statement(tmp_path_factory: pytest.TempPathFactory) -> Statement:
    """One with something in every field."""
    house = House(tmp_path_factory.mktemp("house"), "w1")
    house.add(0, log="admin")
    house.add(7_200)
    house.seal()
    old = house.latest()
    house.add(60)
    house.logs["w0"].raw(b"no record\n")
    house.seal()
    house.add(3_000)
    finding, _ = house.attest(
        old,
        now=at(9_000),
        since=at(1),
        until=at(8_000),
        fingerprints=(fingerprint("one"), fingerprint("two")),
        key=KeyName.parse(KEY_A),
        caller="*nobody",
        access_key="AKIANOBODY",
        context=(("tenant", "acme\u2028"), ("tenant", "\x00\x7f")),
        events=("Decrypt", "Re*"),
        error="AccessDenied",
    )
    return finding.statement


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """The places of all values in a document that hold no others, and of empty lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inner or (isinstance(value, list) and not value):
        yield place
    for name, one in inner:
        yield from leaves(one, (*place, name))


def canonical(document: Any) -> bytes:
    """RFC 8785, for what is in a statement."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def put(document: Any, place: Place, value: object) -> Any:
    document = copy.deepcopy(document)
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    return document


def test_it_is_read_as_it_was_written(statement: Statement) -> None:
    assert parse(statement.encode()) == statement


def test_it_is_canonical_json(statement: Statement) -> None:
    assert statement.encode() == canonical(json.loads(statement.encode()))


def test_it_is_a_statement_of_in_toto_about_the_checkpoints(statement: Statement) -> None:
    document = json.loads(statement.encode())
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    notes = [log["checkpoint"] for log in document["predicate"]["logs"] if log["checkpoint"]]
    texts = [note.partition("\n\n")[0] + "\n" for note in notes]
    digests = [sha256(text.encode()).hexdigest() for text in texts]
    assert document["subject"] == [
        {"name": text.split("\n")[0], "digest": {"sha256": digest}} for text, digest in zip(texts, digests, strict=True)
    ]
    assert len(notes) == 2  # nothing was ever signed for w1


def test_every_field_has_something_in_it(statement: Statement) -> None:
    """So that the tests below leave none out."""
    document = json.loads(statement.encode())
    w0 = document["predicate"]["logs"][1]
    assert all(w0[name] for name in ("excepted", "setBack", "extends", "checkpoint"))
    assert all(value for name, value in document["predicate"]["question"].items())
    assert document["predicate"]["complete"] is False


def test_other_values_do_not_follow_or_are_not_possible_or_make_another_statement(statement: Statement) -> None:
    document = json.loads(statement.encode())
    for place in leaves(document):
        values: tuple[object, ...] = (
            None,
            True,
            7,
            -1,
            1.5,
            1 << 60,
            "text",
            "",
            [],
            {},
            [7],
            ["text"],
            "2026-01-02T00:00:00.000001Z",
        )
        for value in values:
            changed = put(document, place, value)
            if canonical(changed) == canonical(document):
                continue
            try:
                other = parse(canonical(changed))
            except AttestationInvalid:
                continue
            assert other != statement, place
            assert other.encode() == canonical(changed)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("predicate", "covered", "to"), "2026-01-02T03:00:00.000000Z", "what it says of covered does not follow"),
        (("predicate", "complete"), True, "what it says of complete does not follow"),
        (("predicate", "recordedUntil"), "2026-01-02T03:00:00.000000Z", "what it says of recordedUntil does not follow"),
        (("predicate", "settledUntil"), "2026-01-02T03:00:00.000000Z", "what it says of settledUntil does not follow"),
        (("subject", 0, "digest", "sha256"), "0" * 64, "what it says of subject does not follow"),
        (("subject",), [], "what it says of subject does not follow"),
        (("predicate", "made"), "2026-01-02T02:30:00Z", "where a time should be"),
        (("predicate", "version"), 2, "version 2, this reads version 1"),
        (("predicate", "version"), True, "version True"),
        (("predicateType",), "urn:something", "not a statement of absence"),
        (("predicate", "basis"), "None.", "its basis is not that of this version"),
        (("predicate", "instance"), "0123456789ABCDEF", "its instance is none"),
        (("predicate", "more"), 1, "and nothing else"),
        (("predicate", "logs", 0, "more"), 1, "and nothing else"),
        (("predicate", "logs", 0, "log"), "w0", "a log stands in it twice"),
        (("predicate", "logs", 0, "log"), "../w0", "the name of a log is none"),
        (("predicate", "logs", 0, "checkpoint"), "no note", "not a signed note"),
        (("predicate", "logs", 1, "extends", 0, "proof", 0), "AAAA", "a hash in it has 3 bytes"),
        (("predicate", "logs", 1, "records"), 1.0, "where a count should be"),
        (("predicate", "question", "fingerprints", 0), "ff", "not a fingerprint"),
        (("predicate", "question", "phases"), ["outcome", "intent"], "what it says of question does not follow"),
        (("predicate", "question", "phases"), ["rehearsal"], "not possible"),
        (("predicate", "question", "key"), "", "not a key"),
    ],
)
def test_what_is_wrong_is_said(statement: Statement, place: Place, value: object, reason: str) -> None:
    with pytest.raises(AttestationInvalid, match=reason):
        parse(canonical(put(json.loads(statement.encode()), place, value)))


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b"{}", b'{"_type":1,"subject":1,"predicateType":1,"predicate":1}', b'"\xff"', b"[" * 2_000]
)
def test_other_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(AttestationInvalid):
        parse(payload)


def test_only_the_canonical_encoding_is_read(statement: Statement) -> None:
    payload = statement.encode()
    for other in (
        payload + b"\n",
        payload.replace(b'"complete":false', b'"complete": false'),
        json.dumps(json.loads(payload)).encode(),
    ):
        with pytest.raises(AttestationInvalid, match="not canonical JSON"):
            parse(other)
    twice = payload.replace(b'"version":1', b'"version":1,"version":1')
    with pytest.raises(AttestationInvalid, match="not canonical JSON"):
        parse(twice)


def test_it_says_why_it_is_limited(statement: Statement) -> None:
    assert [limit.split(": ")[0] for limit in statement.limits()] == [
        "it holds up to 2026-01-02T00:50:00.000000Z",
        "not for w0/00000000000000000000.jsonl line 3 (record 2)",
        "in w0 the clock was set back",
    ]
    assert statement.covered == ("2026-01-02T00:00:01.000000Z", "2026-01-02T00:50:00.000000Z")


def test_files_may_be_compared_by_their_bytes(tmp_path: Path) -> None:
    """The same facts, at the same moment, are the same document: Ed25519 signatures have no randomness in them."""
    house = House(tmp_path)
    house.add(0)
    house.seal()
    assert house.attest()[1] == house.attest()[1]
