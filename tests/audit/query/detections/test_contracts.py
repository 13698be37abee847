from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import QueryError
from audit.query.detections.contracts import Contract, Learned, _form, learn, to_toml, toml_text
from audit.query.detections.settings import Settings, parse_settings
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder
from tests.audit.query.detections.events import SINCE, SINCE_S, findings, observed, past

MISSING, UNKNOWN, FORM = "is missing", "is not among those allowed", "has a value of another form"
ANY = Contract("*", ("tenant",), ("object",), {"tenant": "tenant-[0-9]+"})


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    return LogBuilder(tmp_path)


def violations(log: LogBuilder, *contracts: Contract) -> list[tuple[str | None, str | None, int]]:
    found = findings(log, "KT040", Settings(contracts=contracts))
    return sorted((one.subject["name"], one.subject["fault"], one.count) for one in found)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({"tenant": "tenant-1"}, []),
        ({"tenant": "tenant-1", "object": "x"}, []),
        ({}, [("tenant", MISSING, 1)]),
        ({"object": "x"}, [("tenant", MISSING, 1)]),
        ({"tenant": "tenant-x"}, [("tenant", FORM, 1)]),
        ({"tenant": "xtenant-1"}, [("tenant", FORM, 1)]),  # the whole value has to be of the form
        ({"tenant": "tenant-1\n"}, [("tenant", FORM, 1)]),
        ({"tenant": "tenant-1", "extra": ""}, [("extra", UNKNOWN, 1)]),
        ({"Tenant": "tenant-1"}, [("Tenant", UNKNOWN, 1), ("tenant", MISSING, 1)]),
    ],
)
def test_contexts_against_a_contract(log: LogBuilder, context: dict[str, str], expected: list[tuple[str, str, int]]) -> None:
    log.add(SINCE_S, context=context)
    past(log, context={"nonsense": "1"})
    assert violations(log, ANY) == expected


def test_of_a_private_value_the_name_is_checked_and_not_the_form(log: LogBuilder) -> None:
    log.add(SINCE_S, context={"tenant": "hmac-sha256:00", "extra": "x"}, private={"tenant": "hmac"})
    log.add(SINCE_S, context={"tenant": "hmac-sha256:00"})  # forged: the record does not say that it is private
    assert violations(log, ANY) == [("extra", UNKNOWN, 1), ("tenant", FORM, 1)]


def test_no_form_is_learned_of_private_values(log: LogBuilder) -> None:
    for number in range(3):
        log.add(SINCE_S + number, context={"tenant": "7", "patient": "8", "note": "9"}, private={"patient": "hmac"})
    log.add(SINCE_S + 3, context={"tenant": "7", "patient": "8", "note": "[withheld]"}, private={"note": "withheld"})
    with observed(log.data) as database:
        [one] = learn(database, SINCE, 3)
    assert one.contract.required == ("note", "patient", "tenant")
    assert one.contract.values == {"tenant": "7"}


def test_what_takes_a_context_is_checked_and_nothing_else(log: LogBuilder) -> None:
    log.add(SINCE_S, "Encrypt", error="AccessDenied")  # an attempt is a violation, too
    for event in ("Sign", "DescribeKey", "GenerateMac", "PutKeyPolicy"):
        log.add(SINCE_S, event)
    log.add(SINCE_S, key=None)
    assert violations(log, ANY) == [("tenant", MISSING, 1)]


def test_both_contexts_of_reencrypt_are_checked_each_for_its_key(log: LogBuilder) -> None:
    parameters = {"sourceEncryptionContext": {"tenant": "tenant-1"}, "destinationEncryptionContext": {"tenant": "x"}}
    log.add(SINCE_S, "ReEncrypt", resources=[{"ARN": KEY_A}, {"ARN": KEY_B}], requestParameters=parameters)
    [found] = findings(log, "KT040", Settings(contracts=(ANY,)))
    assert found.subject == {"principal": "arn:aws:iam::111122223333:user/alice", "key": KEY_B, "name": "tenant", "fault": FORM}
    assert found.why.endswith("called once with a context in which “tenant” has a value of another form")


def test_the_first_contract_that_fits_a_key_counts_and_without_allowed_any_name_is(log: LogBuilder) -> None:
    log.add(SINCE_S, context={"other": "1"})
    log.add(SINCE_S, context={"other": "1"}, key=KEY_B)
    first = Contract(KEY_A.rpartition("/")[2], ("a",))
    assert violations(log, first, Contract("*", ("b",))) == [("a", MISSING, 1), ("b", MISSING, 1)]
    assert violations(log, Contract("*", ("b",)), first) == [("b", MISSING, 1)] * 2
    assert violations(log, first) == [("a", MISSING, 1)]
    assert violations(log, Contract("nothing", ("a",))) == []


def test_a_form_that_is_no_regular_expression_is_refused(log: LogBuilder) -> None:
    log.add(SINCE_S)
    with pytest.raises(QueryError, match=r"contract of \*: values.tenant is no regular expression"):
        violations(log, Contract("*", values={"tenant": "(?=x)"}))


def test_a_contract_is_learned_and_holds_for_what_it_was_learned_of(log: LogBuilder) -> None:
    for number in range(4):
        context = {
            "tenant": f"tenant-{number}",
            "id": f"0c3f7a52-9d14-8b6e-a7d0-00000003{number:04x}",
            "day": f"2026-01-0{number + 1}",
            "n": str(number),
            "service": "payroll.v1 (\\o/)",
            "free": "ab c"[number],
        }
        log.add(SINCE_S + number, "GenerateDataKey", context=context | ({"retry": "1"} if number == 3 else {}))
    log.add(SINCE_S + 5, context={"wrong": "x"}, error="InvalidCiphertextException")  # nothing is learned of failures
    log.add(SINCE_S + 6, key=KEY_B)  # too few
    past(log, context={"old": "x"})
    with observed(log.data) as database:
        learned = list(learn(database, SINCE, 4))
    [one] = learned
    assert (one.uses, one.contract.key) == (4, KEY_A)
    assert set(one.contract.required) == {"tenant", "id", "day", "n", "service", "free"}
    assert one.contract.allowed == ("retry",)
    assert dict(one.forms) == {
        "tenant": "numbered", "id": "uuid", "day": "date", "n": "integer", "service": "always the same",
    }  # fmt: skip
    assert one.contract.values["tenant"] == "tenant\\-[0-9]+"
    read = parse_settings(tomllib.loads(to_toml(learned))).contracts
    assert read == (replace(one.contract, values=dict(one.contract.values)),)
    log.add(SINCE_S + 7, context={"tenant": "x"}, user="eve")
    found = findings(log, "KT040", Settings(contracts=read))
    assert {(one.subject["principal"], one.subject["name"]) for one in found if "eve" in (one.subject["principal"] or "")} == {
        ("arn:aws:iam::111122223333:user/eve", name) for name in ("tenant", "id", "day", "n", "service", "free")
    }
    others = [one for one in found if "eve" not in (one.subject["principal"] or "")]
    assert {one.evidence[0].record for one in others} == {4}  # the call that failed


def test_a_key_that_is_never_used_with_a_context_is_learned_so(log: LogBuilder) -> None:
    for number in range(3):
        log.add(SINCE_S + number)
    with observed(log.data) as database:
        [one] = learn(database, SINCE, 3)
    assert one.contract == Contract(KEY_A, (), (), {})
    log.add(SINCE_S + 9, context={"new": "x"})
    assert violations(log, one.contract) == [("new", UNKNOWN, 1)]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(TEXTS)
def test_texts_of_toml_are_read_as_they_were(text: str) -> None:
    written = toml_text(text)
    assert tomllib.loads(f"{written} = {written}") == {text: text}
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in written)


def test_what_would_command_a_terminal_is_escaped() -> None:
    assert toml_text("\x1b[31m\u202e\u200b\U000e0001") == '"\\u001b[31m\\u202e\\u200b\\U000e0001"'


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=3))
def test_contracts_are_read_as_they_were_learned(texts: list[tuple[str, str, str]]) -> None:
    contracts = [Contract(f"k{key}", (name,), (value,), {name: value}) for key, name, value in texts]
    written = to_toml([Learned(one, 20, dict.fromkeys(one.values, "form")) for one in contracts])
    assert parse_settings(tomllib.loads(written)).contracts == tuple(contracts)


@settings(deadline=None)
@given(TEXTS)
def test_a_value_that_is_always_the_same_is_its_own_form(text: str) -> None:
    form = _form(text, None, [])
    assert form is not None
    assert duckdb.execute("SELECT regexp_full_match(?, ?), regexp_full_match(? || 'x', ?)", [text, form[1]] * 2).fetchone() == (
        True,
        False,
    )
