from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import QueryError
from audit.query.engine import search
from audit.query.filters import Filter, KeyName, allowances, contexts, parse_pair, source_matches, was_done
from audit.record import Phase
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at, fingerprint, placed, record

ID_A = KEY_A.rpartition("/")[2]
ALIAS = "alias/app"
ALIAS_ARN = "arn:aws:kms:eu-central-1:111122223333:alias/app"


def record_with(**changes: Any) -> dict[str, Any]:
    return placed(record(**changes), "w0", 0, at(0))


@pytest.mark.parametrize(
    ("asked", "keys", "matches"),
    [
        (KEY_A, {"key": KEY_A}, True),
        (KEY_A, {"key": KEY_B}, False),
        (ID_A, {"key": KEY_A}, True),
        (ID_A[:-1], {"key": KEY_A}, False),
        (ID_A, {"key": None, "requestParameters": {"keyId": ID_A}}, True),
        (KEY_A, {"key": None, "requestParameters": {"sourceKeyId": ID_A}}, True),
        (KEY_A, {"key": None, "requestParameters": {"keyId": ID_A}, "awsRegion": "us-east-1"}, False),
        (ALIAS, {"key": KEY_A, "requestParameters": {"keyId": ALIAS}}, True),
        (ALIAS, {"key": KEY_A, "requestParameters": {"keyId": ALIAS_ARN}}, True),
        (ALIAS, {"key": KEY_A, "requestParameters": {"keyId": "alias/apples"}}, False),
        (ALIAS_ARN, {"key": KEY_A, "requestParameters": {"destinationKeyId": ALIAS}}, True),
        (ALIAS_ARN, {"key": KEY_A, "requestParameters": {"aliasName": ALIAS}, "awsRegion": "us-east-1"}, False),
        (KEY_A, {"key": None, "responseElements": {"keyId": KEY_A}}, True),
    ],
)
def test_a_key_in_any_form(asked: str, keys: dict[str, Any], matches: bool) -> None:
    assert Filter(key=KeyName.parse(asked)).matches(record_with(**keys)) is matches


@pytest.mark.parametrize("place", ["encryptionContext", "sourceEncryptionContext", "destinationEncryptionContext"])
def test_context_pairs_must_all_hold(place: str) -> None:
    found = record_with(requestParameters={place: {"tenant": "acme", "table": "orders"}})
    assert Filter(context=(("tenant", "acme"), ("table", "orders"))).matches(found)
    assert not Filter(context=(("tenant", "acme"), ("table", "users"))).matches(found)
    assert not Filter(context=(("acme", "tenant"),)).matches(found)


def test_a_private_value_is_found_by_its_digest_where_the_record_says_that_it_is_one() -> None:
    asked = Filter(context=(("tenant", "acme"),), digests={("tenant", "acme"): "a digest"})
    contexts = {"encryptionContext": {"tenant": "a digest"}}
    forged, private = record_with(requestParameters=contexts), record_with(requestParameters=contexts)
    private["additionalEventData"]["keytrail"]["privateContext"] = {"tenant": "hmac"}
    assert asked.matches(private)
    assert not asked.matches(forged)
    assert asked.matches(record_with(requestParameters={"encryptionContext": {"tenant": "acme"}}))
    assert not Filter(context=(("tenant", "acme"),)).matches(private)
    private["additionalEventData"]["keytrail"]["privateContext"] = {"tenant": "encrypted"}
    assert not asked.matches(private)


def test_what_allowed_each_action_in_words() -> None:
    by = [{"grant": "g-1"}, {"policy": "key policy", "statement": "partners"}, {"policy": "host"}]
    assert allowances(record_with(allowed_by=by)) == ["grant g-1", "key policy: partners", "host"]
    assert allowances(record_with()) == []


LOST = {"phase": "unknown", "error": "KMSInternalException"}


@pytest.mark.parametrize(
    ("changes", "done"),
    [
        ({}, True),
        ({"error": "AccessDenied"}, False),
        ({"error": "InternalFailure", "effect": "unknown"}, None),
        (LOST, None),
        ({**LOST, "effect": "made"}, True),
        ({**LOST, "effect": "none"}, False),
    ],
)
def test_whether_it_was_done(changes: dict[str, Any], done: bool | None) -> None:
    assert was_done(record_with(event="DisableKey", **changes)) is done


def test_intents_only_when_asked_for() -> None:
    intent = record_with(event="DisableKey", phase="intent")
    assert not Filter().matches(intent)
    assert Filter(phases=frozenset({Phase.INTENT})).matches(intent)
    assert Filter().matches(record_with(phase="unknown"))


def test_the_interval_is_half_open() -> None:
    assert Filter(since=at(0), until=at(1)).matches(record_with())
    assert not Filter(since=at(-1), until=at(0)).matches(record_with())
    assert not Filter(since=at(0) + timedelta(microseconds=1)).matches(record_with())


def test_errors_by_either_name() -> None:
    denied = record_with(error="AccessDenied", wire_error="AccessDeniedException")
    for wanted in ("AccessDenied", "AccessDeniedException", "any"):
        assert Filter(error=wanted).matches(denied)
    assert not Filter(error="none").matches(denied)
    assert Filter(error="none").matches(record_with())


@pytest.mark.parametrize(
    ("wanted", "source", "matches"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("2001:db8::/32", "2001:db8:0:0::1", True),
        ("10.0.0.0/8", "keytrail", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
    ],
)
def test_sources(wanted: str, source: str, matches: bool) -> None:
    assert source_matches(wanted, source) is matches


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Filter(fingerprints=("abc",)),
        lambda: Filter(source="10.0.0.0/99"),
        lambda: KeyName.parse(""),
        lambda: parse_pair("tenant"),
        lambda: parse_pair("=acme"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_is_accepted(bad: Any) -> None:
    with pytest.raises(QueryError, match="accepted: "):
        bad()


def test_a_pair_is_divided_at_its_first_equals_sign() -> None:
    assert parse_pair("a=b=c") == ("a", "b=c")


# --- the predicate and the SQL say the same ---------------------------------------------------------------------------

# Few values, so that filters and records meet; odd ones, so that escaping, wildcards and JSON pointers are tried.
_WORDS = st.sampled_from(
    [
        "acme",
        "a/b",
        "a~1b",
        'q"uo',
        "back\\slash",
        "per%cent",
        "under_score",
        "*",
        "x*",
        "grün",
        "\u2028",
        "0",
        "",
        "\n",
        "\x00",
        "'; --",
    ]
)
_USERS = st.sampled_from(["alice", "bob", "al_ce", "al%", "älice", "a\\b"])
_KEYS = st.sampled_from([KEY_A, KEY_B, ID_A, ALIAS, ALIAS_ARN, "alias/o'hara", "nonsense"])
_BLOBS = st.sampled_from(["one", "two", "three"])
_SOURCES = st.sampled_from(["10.0.0.7", "10.1.0.7", "::ffff:10.0.0.7", "2001:db8::1", "keytrail"])
_EVENTS = st.sampled_from(["Decrypt", "GenerateDataKey", "GenerateDataKeyPair", "Disable_Key"])
_IDS = st.sampled_from(["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002", "another", ""])
_ERRORS = st.sampled_from(["AccessDenied", "AccessDeniedException", "DisabledException"])
_CONTEXTS = st.dictionaries(_WORDS, _WORDS, max_size=3)
_MOMENTS = st.integers(-3, 3).map(lambda count: at(count / 1_000_000))


@st.composite
def _records(draw: st.DrawFn) -> dict[str, Any]:
    names = ("keyId", "sourceKeyId", "destinationKeyId", "targetKeyId", "aliasName")
    parameters: dict[str, Any] = draw(st.dictionaries(st.sampled_from(names), _KEYS, max_size=2))
    for name in ("encryptionContext", "sourceEncryptionContext", "destinationEncryptionContext"):
        if draw(st.booleans()):
            parameters[name] = draw(_CONTEXTS)
    content = record(
        draw(_EVENTS),
        user=draw(_USERS),
        key=draw(st.sampled_from([KEY_A, KEY_B, None])),
        blobs_in=draw(st.lists(_BLOBS, max_size=2)),
        blobs_out=draw(st.lists(_BLOBS, max_size=2)),
        phase=draw(st.sampled_from(["intent", "outcome", "unknown"])),
        requestParameters=draw(st.sampled_from([parameters, None])),
        responseElements=draw(st.sampled_from([None, {"keyId": KEY_B}])),
        sourceIPAddress=draw(_SOURCES),
        awsRegion=draw(st.sampled_from(["eu-central-1", "us-east-1"])),
        requestID=draw(_IDS),
        **draw(
            st.sampled_from(
                [{}, {"error": "DisabledException"}, {"error": "AccessDenied", "wire_error": "AccessDeniedException"}]
            )
        ),
    )
    if forms := draw(st.dictionaries(_WORDS, st.sampled_from(["hmac", "encrypted", "withheld"]), max_size=2)):
        content["additionalEventData"]["keytrail"]["privateContext"] = forms
    return placed(content, "w0", 0, draw(_MOMENTS))


def _maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


_FILTERS = st.builds(
    Filter,
    since=_maybe(_MOMENTS),
    until=_maybe(_MOMENTS),
    events=st.lists(_EVENTS | st.sampled_from(["GenerateDataKey*", "*", "*Key"]), max_size=2).map(tuple),
    key=_maybe(_KEYS.map(KeyName.parse)),
    caller=_maybe(_USERS | st.sampled_from(["*", "arn:*/al*", "*_*", "a*e", "arn:aws:iam::111122223333:user/bob"])),
    access_key=_maybe(st.sampled_from(["AKIAALICE", "AKIABOB"])),
    context=st.lists(st.tuples(_WORDS, _WORDS), max_size=2).map(tuple),
    fingerprints=st.lists(_BLOBS.map(fingerprint), max_size=2).map(tuple),
    ids=st.lists(_IDS, max_size=2).map(tuple),
    error=_maybe(_ERRORS | st.sampled_from(["any", "none"])),
    source=_maybe(_SOURCES | st.sampled_from(["10.0.0.0/16", "0.0.0.0/0", "2001:db8::/32", "::/0"])),
    phases=st.sets(st.sampled_from(Phase), min_size=1).map(frozenset),
    digests=st.dictionaries(st.tuples(_WORDS, _WORDS), _WORDS, max_size=3),
)


@st.composite
def _one_condition(draw: st.DrawFn) -> Filter:
    """A filter with one or two conditions only, which generated records do meet."""
    whole = draw(_FILTERS)
    names = draw(
        st.sets(
            st.sampled_from(
                [
                    "since",
                    "until",
                    "events",
                    "key",
                    "caller",
                    "access_key",
                    "context",
                    "fingerprints",
                    "ids",
                    "error",
                    "source",
                ]
            ),
            max_size=2,
        )
    )
    return Filter(phases=frozenset(Phase), **{name: getattr(whole, name) for name in names})


@st.composite
def records_and_filters(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[Filter]]:
    """Records, and filters of which many are about something that stands in one of them."""
    records = draw(st.lists(_records(), min_size=1, max_size=12))
    pairs = [pair for one in records for context in contexts(one).values() for pair in context.items()]
    filters = draw(st.lists(_FILTERS | _one_condition(), min_size=1, max_size=2))
    is_about_a_context: bool = draw(st.booleans())
    if pairs and is_about_a_context:
        wanted: list[tuple[str, str]] = draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=2))
        filters = [Filter(context=tuple(wanted), phases=frozenset(Phase))]
        if draw(st.booleans()):  # what stands there is the digest of what is asked for
            digests = {(key, f"{value}?"): value for key, value in wanted}
            filters = [Filter(context=tuple(digests), phases=frozenset(Phase), digests=digests)]
    return records, filters


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(records_and_filters())
def test_the_engine_finds_what_the_predicate_says(asked: tuple[list[dict[str, Any]], list[Filter]]) -> None:
    records, filters = asked
    with tempfile.TemporaryDirectory() as folder:
        log = LogBuilder(Path(folder))
        for content in records:
            log.raw(orjson.dumps(content) + b"\n")
        expected = [line for line in log.lines if any(one.matches(orjson.loads(line)) for one in filters)]
        with search(Path(folder), filters) as result:
            assert sorted(found.line for found in result.records()) == sorted(expected)
            assert result.count == len(expected)
            assert result.damaged == []
