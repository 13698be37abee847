"""How conditions hold: IAM's documented semantics as tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.operators import OPERATORS, date_us, read_condition
from proxy.policy.patterns import MAYBE, NO, YES, PatternError, Text, Wild, compare, matcher

KEY = "aws:key"
Values: TypeAlias = "tuple[str, ...] | None"


def holds(
    name: str, wanted: str | tuple[str, ...], found: Values, others: Mapping[str, Values] | None = None, *, variables: bool = True
) -> int:
    values = (wanted,) if isinstance(wanted, str) else wanted
    return read_condition(name, KEY, values, variables=variables).holds({KEY: found, **(others or {})}.get)


# --- One value on each side ---------------------------------------------------------------------------------------------

MATCHES = [
    ("StringEquals", "acme", "acme", True),
    ("StringEquals", "acme", "Acme", False),
    ("StringEquals", "ac*", "acme", False),  # no wildcards here
    ("StringEquals", "ac*", "ac*", True),
    ("StringEqualsIgnoreCase", "acme", "ACME", True),
    ("StringEqualsIgnoreCase", "acme", "acne", False),
    ("StringLike", "ac*", "acme", True),
    ("StringLike", "a?me", "acme", True),
    ("StringLike", "a?me", "ame", False),
    ("StringLike", "AC*", "acme", False),
    ("StringLike", "?*", "", False),
    ("StringLike", "*", "two\nlines", True),
    ("StringLike", "a?b", "a\nb", True),
    ("StringLike", "a.c", "abc", False),  # no regular expressions
    ("StringLike", "${*}", "*", True),
    ("StringLike", "${*}", "x", False),
    ("StringLike", "${?}${$}", "?$", True),
    ("NumericEquals", "10", "10.0", True),
    ("NumericEquals", "10", "ten", False),
    ("NumericLessThan", "10", "9", True),
    ("NumericLessThan", "10", "10", False),
    ("NumericLessThanEquals", "10", "10", True),
    ("NumericGreaterThan", "9", "10", True),  # as numbers, not as text
    ("NumericGreaterThanEquals", "10", "9.99", False),
    ("DateEquals", "2026-01-01T00:00:00Z", "1767225600", True),
    ("DateLessThan", "2026-01-01T00:00:00Z", "2025-12-31T23:59:59.999Z", True),
    ("DateLessThanEquals", "2026-01-01", "2026-01-01T00:00:00Z", True),
    ("DateGreaterThan", "2026-01-01T00:00:00+02:00", "2025-12-31T22:00:01Z", True),
    ("DateGreaterThanEquals", "2026", "2025-12-31T23:59:59Z", False),
    ("Bool", "true", "true", True),
    ("Bool", "True", "true", True),
    ("Bool", "false", "true", False),
    ("BinaryEquals", "YWNtZQ==", "acme", True),
    ("BinaryEquals", "YWNtZQ==", "acne", False),
    ("IpAddress", "203.0.113.0/24", "203.0.113.77", True),
    ("IpAddress", "203.0.113.0/24", "203.0.114.1", False),
    ("IpAddress", "203.0.113.5", "203.0.113.5", True),
    ("IpAddress", "2001:db8::/32", "2001:DB8:1::1", True),
    ("IpAddress", "10.0.0.0/8", "::ffff:10.1.2.3", True),
    ("IpAddress", "fe80::/10", "fe80::1%eth0", True),
    ("IpAddress", "10.0.0.0/8", "2001:db8::1", False),
    ("IpAddress", "10.0.0.0/8", "not an address", False),
    ("ArnEquals", "arn:aws:iam::*:role/Admin*", "arn:aws:iam::111122223333:role/Admin-1", True),
    ("ArnLike", "arn:aws:iam::*:role/Admin", "arn:aws:iam::111122223333:role/admin", False),
    # The guide's own example: a wildcard does not reach over a colon.
    (
        "ArnLike",
        "arn:aws:someservice:*:111122223333:finance/*",
        "arn:aws:someservice:us-east-2:999999999999:store/abc:111122223333:finance/document.txt",
        False,
    ),
    (
        "StringLike",
        "arn:aws:someservice:*:111122223333:finance/*",
        "arn:aws:someservice:us-east-2:999999999999:store/abc:111122223333:finance/document.txt",
        True,
    ),
    ("ArnLike", "arn:aws:iam::*:*", "no arn", False),
]
NEGATED = {
    "StringEquals": "StringNotEquals",
    "StringEqualsIgnoreCase": "StringNotEqualsIgnoreCase",
    "StringLike": "StringNotLike",
    "NumericEquals": "NumericNotEquals",
    "DateEquals": "DateNotEquals",
    "IpAddress": "NotIpAddress",
    "ArnEquals": "ArnNotEquals",
    "ArnLike": "ArnNotLike",
}


@pytest.mark.parametrize(("name", "wanted", "found", "matches"), MATCHES)
def test_a_value_matches_or_does_not(name: str, wanted: str, found: str, matches: bool) -> None:
    expected = YES if matches else NO
    assert holds(name, wanted, (found,)) == expected
    assert holds(f"{name}IfExists", wanted, (found,)) == expected
    for quantifier in ("ForAllValues", "ForAnyValue"):
        if found:
            assert holds(f"{quantifier}:{name}", wanted, (found,)) == expected
    if name in NEGATED:
        assert holds(NEGATED[name], wanted, (found,)) == YES - expected


def test_every_operator_is_in_the_table() -> None:
    assert {name for name, *_ in MATCHES} | set(NEGATED.values()) == set(OPERATORS)
    assert {name for name, row in OPERATORS.items() if row.negated} == set(NEGATED.values())


# --- Absent, and several ------------------------------------------------------------------------------------------------

VALUES = {
    "String": "x",
    "Numeric": "1",
    "Date": "2026",
    "Bool": "true",
    "Binary": "eA==",
    "Ip": "10.0.0.0/8",
    "NotIp": "10.0.0.0/8",
    "Arn": "arn:aws:iam::1:x",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_without_a_value(name: str) -> None:
    """ "If the key is not present, the values do not match"; negated operators match then; IfExists; the quantifiers."""
    wanted = next(value for family, value in VALUES.items() if name.startswith(family))
    assert holds(name, wanted, ()) == (YES if OPERATORS[name].negated else NO)
    assert holds(f"{name}IfExists", wanted, ()) == YES
    assert holds(f"ForAllValues:{name}", wanted, ()) == YES
    assert holds(f"ForAllValues:{name}IfExists", wanted, ()) == YES
    assert holds(f"ForAnyValue:{name}", wanted, ()) == NO
    assert holds(f"ForAnyValue:{name}IfExists", wanted, ()) == NO
    assert holds(name, wanted, None) == MAYBE  # not known whether it has one


@pytest.mark.parametrize(
    ("name", "wanted", "found", "expected"),
    [
        # the examples of the guide, "Multivalued context keys"
        ("ForAllValues:StringEquals", ("PostDateTime", "Message", "Tags"), ("PostDateTime", "Message"), YES),
        ("ForAllValues:StringEquals", ("PostDateTime", "Message", "Tags"), ("PostDateTime", "UserName"), NO),
        ("ForAnyValue:StringEquals", ("ID", "PostDateTime"), ("UserName", "Message", "PostDateTime"), YES),
        ("ForAnyValue:StringEquals", ("ID", "PostDateTime"), ("UserName",), NO),
        ("ForAllValues:StringNotLike", "key1*", ("key1:legal",), NO),
        ("ForAllValues:StringNotLike", "key1*", ("key1:hr", "key1:personnel"), NO),
        ("ForAllValues:StringNotLike", "key1*", ("key2:audit",), YES),
        ("ForAllValues:StringNotLike", "key1*", ("key2:audit", "key1:hr"), NO),
        ("ForAnyValue:StringNotLike", ("Owner:*", "State:??"), ("Owner:Legal", "State:NY"), NO),
        ("ForAnyValue:StringNotLike", ("Owner:*", "State:??"), ("owner:Legal", "Owner:Legal"), YES),
        # an empty text is no value
        ("ForAllValues:StringEquals", "x", ("",), YES),
        ("ForAnyValue:StringEquals", "", ("",), NO),
        # several values of the policy are alternatives; negated, none of them may match
        ("StringEquals", ("a", "b"), ("b",), YES),
        ("StringNotEquals", ("a", "b"), ("b",), NO),
        ("StringNotEquals", ("a", "b"), ("c",), YES),
        # several values of the request, for an operator that is for one: against the caller, where they do not agree
        ("StringEquals", "acme", ("acme", "acme"), YES),
        ("StringEquals", "acme", ("acme", "evil"), MAYBE),
        ("StringNotEquals", "acme", ("acme", "evil"), MAYBE),
        ("StringNotEquals", "acme", ("evil", "worse"), YES),
    ],
)
def test_several_values(name: str, wanted: str | tuple[str, ...], found: tuple[str, ...], expected: int) -> None:
    assert holds(name, wanted, found) == expected


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [("true", (), YES), ("true", ("x",), NO), ("false", (), NO), ("false", ("x",), YES), ("FALSE", ("x", "y"), YES)],
)
def test_null_asks_for_presence(wanted: str, found: tuple[str, ...], expected: int) -> None:
    assert holds("Null", wanted, found) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("StringMatches", "x"),
        ("stringequals", "x"),
        ("ForSomeValues:StringEquals", "x"),
        ("NullIfExists", "true"),
        ("ForAllValues:Null", "true"),
        ("Null", "yes"),
        ("Bool", "1"),
        ("NumericEquals", "many"),
        ("NumericEquals", "1_0"),
        ("NumericEquals", "nan"),
        ("DateEquals", "yesterday"),
        ("DateEquals", "2026-02-30"),
        ("DateEquals", "2026-01-01T00:00:00"),  # W3C's note asks for a zone
        ("IpAddress", "10.0.0.1/8"),
        ("IpAddress", "10.0.0.0/33"),
        ("IpAddress", "*"),
        ("BinaryEquals", "no base64!"),
        ("ArnLike", "arn:aws:iam:role/x"),
        ("ArnLike", "arn:${aws:x}:iam::1:x"),
        ("StringEquals", "${aws:username"),
        ("StringEquals", "${}"),
        ("StringEquals", "${aws:username, nobody}"),
        ("NumericEquals", "${aws:username}"),
        ("IpAddress", "${aws:SourceIp}"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, value: str) -> None:
    with pytest.raises(PatternError):
        read_condition(name, KEY, (value,), variables=True)


# --- Variables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted", "found", "user", "expected"),
    [
        ("StringEquals", "${aws:user}", "alice", ("alice",), YES),
        ("StringEquals", "${aws:user}", "bob", ("alice",), NO),
        ("StringLike", "home/${aws:user}/*", "home/alice/x", ("alice",), YES),
        ("StringLike", "home/${aws:user}/*", "home/bob/x", ("*",), NO),  # a value's wildcard is none
        ("StringEquals", "${aws:user}", "alice", (), MAYBE),
        ("StringNotEquals", "${aws:user}", "alice", (), MAYBE),
        ("StringEquals", "${aws:user, 'nobody'}", "nobody", (), YES),
        ("StringEquals", "${aws:user, 'nobody'}", "nobody", ("alice",), NO),
        ("StringEquals", "${aws:user, 'nobody'}", "nobody", None, MAYBE),
        ("StringEquals", "${aws:user}", "alice", ("alice", "bob"), MAYBE),
        ("ArnLike", "arn:aws:iam::1:user/${aws:user}", "arn:aws:iam::1:user/alice", ("alice",), YES),
    ],
)
def test_variables(name: str, wanted: str, found: str, user: tuple[str, ...] | None, expected: int) -> None:
    assert holds(name, wanted, (found,), {"aws:user": user}) == expected


def test_an_alternative_that_matches_needs_no_variable() -> None:
    assert holds("StringEquals", ("${aws:user}", "alice"), ("alice",), {"aws:user": ()}) == YES


def test_in_documents_of_2008_a_variable_is_text() -> None:
    assert holds("StringEquals", "${aws:user}", ("${aws:user}",), variables=False) == YES
    assert holds("StringLike", "${*}", ("${anything}",), variables=False) == YES


# --- Patterns -----------------------------------------------------------------------------------------------------------

texts = st.text("ab:/", max_size=12)
names = st.text("ab*?", max_size=6)
globs = st.text("ab:/*?", max_size=12)


def glob(text: str) -> tuple[str | Wild, ...]:
    return Text.parse(text, variables=False, wildcards=True).fixed or ()


@given(globs, texts)
def test_wildcards_match_as_a_plain_regular_expression_does(pattern: str, text: str) -> None:
    plain = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    assert bool(matcher(glob(pattern)).fullmatch(text)) == bool(re.fullmatch(plain, text))


@given(globs, texts, st.integers(0, 12), names)
def test_what_is_not_known_is_decided_for_no_text_wrongly(pattern: str, text: str, at: int, filled: str) -> None:
    """YES holds for whatever the unknown part is, and NO for none of it."""
    unknown, known = text[:at] + "\0" + text[at:], text[:at] + filled + text[at:]
    result, really = compare(glob(pattern), unknown), compare(glob(pattern), known)
    assert result in (MAYBE, really)


def test_what_is_not_known_stays_in_its_part() -> None:
    assert compare(glob("arn:aws:kms:*:*:alias/x"), "arn:aws:kms:eu-central-1:111122223333:key/\0") == NO
    assert compare(glob("arn:aws:kms:*:*:key/1*"), "arn:aws:kms:eu-central-1:111122223333:key/\0") == MAYBE
    assert compare(glob("arn:aws:kms:*:*:key/*"), "arn:aws:kms:eu-central-1:\0:key/\0") == YES
    assert compare(glob("arn:aws:kms:*:1:key/*"), "arn:aws:kms:eu-central-1:\0:key/\0") == MAYBE
    assert compare(glob("arn:aws:kms:us-*:1:key/*"), "arn:aws:kms:eu-central-1:\0:key/\0") == NO


def test_wildcards_do_not_take_for_ever() -> None:
    assert matcher(glob("*a" * 30 + "b")).fullmatch("a" * 5_000) is None
    assert compare(glob("*a" * 100 + "b"), "a" * 200 + "\0c") == NO


@given(st.integers(0, 4_000_000_000))
def test_dates_are_read_as_they_are_written(seconds: int) -> None:
    text = datetime.fromtimestamp(seconds, UTC).isoformat()
    assert date_us(text) == date_us(text.replace("+00:00", "Z")) == seconds * 1_000_000
