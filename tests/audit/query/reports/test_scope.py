from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import QueryError
from audit.query.events import Events, open_events
from audit.query.filters import Filter, KeyName, source_matches
from audit.query.reports.questions import PIECES, fill
from audit.query.reports.scope import Asked, Scope, caller_pattern, of_calls, of_keys
from tests.audit.query.builder import KEY_A, KEY_B, fingerprint
from tests.audit.query.reports.planted import ALICE, ROLE, Planted

KEY_ID = KEY_A.rpartition("/")[2]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    planted = Planted(tmp_path)
    planted.plant()
    return planted


@pytest.fixture
def events(planted: Planted) -> Iterator[Events]:
    with open_events(planted.data) as events:
        yield events


def found(events: Events, scope: Scope) -> list[int]:
    statement = fill("SELECT record FROM calls WHERE {scope} ORDER BY record", {**PIECES, **scope.pieces})
    return [record for (record,) in events.database.execute(statement, scope.parameters).fetchall()]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (ALICE, ALICE),
        ("alice", "alice"),
        ("user/alice", "%:user/alice"),
        ("*/alice", "%/alice"),
        ("assumed-role/reader", "%:assumed-role/reader"),
        ("role/reader", "%:assumed-role/reader"),
        ("role/team/reader", "%:assumed-role/reader"),
        ("arn:aws:iam::111122223333:role/team/reader", "arn:aws:sts::111122223333:assumed-role/reader"),
        ("user/100%_\\", "%:user/100\\%\\_\\\\"),
    ],
)
def test_caller_patterns(text: str, pattern: str) -> None:
    assert caller_pattern(text) == pattern


@given(st.text(alphabet="ab%_\\*/:.", min_size=1), st.text(alphabet="ab%_\\*/:."))
def test_a_pattern_means_what_a_filter_means_by_it(glob: str, text: str) -> None:
    pattern = caller_pattern(glob)
    regex = "".join(
        re.escape(one[1]) if one[1] is not None else ".*" if one[0] == "%" else re.escape(one[0])
        for one in re.finditer(r"\\(.)|%|.", pattern, re.DOTALL)
    )
    wanted = f"*:{glob}" if "/" in glob and not glob.startswith("*") else glob
    record = {
        "userIdentity": {"arn": text},
        "additionalEventData": {"keytrail": {"time": "2026-01-01T00:00:00.000000Z"}},
    }
    assert (re.fullmatch(regex, text, re.DOTALL) is not None) == Filter(caller=wanted).matches(record)


@pytest.mark.parametrize(
    ("caller", "records"),
    [
        (ALICE, [0, 1, 3, 6, 7, 11, 13, 15, 16]),
        ("user/bob", [2, 12, 14, 18, 21]),
        ("bob", [2, 12, 14, 18, 21]),
        ("role/reader", [4, 5, 17]),
        (ROLE, [4, 5, 17]),
        (f"{ROLE}/sam", [4, 17]),
        ("*/tim", [5]),
        ("nobody", []),
    ],
)
def test_callers(events: Events, caller: str, records: list[int]) -> None:
    assert found(events, of_calls(Asked(caller=caller), events.database)) == records


@pytest.mark.parametrize("name", [KEY_A, KEY_B, KEY_ID])
def test_keys_by_name_are_those_that_a_filter_finds(planted: Planted, events: Events, name: str) -> None:
    wanted = Filter(key=KeyName.parse(name))
    calls = [number for number, line in enumerate(planted.log.lines) if wanted.matches(orjson.loads(line))]
    assert calls
    assert found(events, of_calls(Asked(key=name), events.database)) == calls


@pytest.mark.parametrize("name", ["alias/a", "arn:aws:kms:eu-central-1:111122223333:alias/a"])
def test_an_alias_is_every_key_that_it_stood_for(events: Events, name: str) -> None:
    scope = of_calls(Asked(key=name), events.database)
    assert scope.parameters["keys"] == sorted({KEY_A, "alias/a", name})
    assert 8 in found(events, scope)  # which was refused, and named the alias alone
    assert 0 in found(events, scope)  # which named the key
    assert 2 not in found(events, scope)


def test_an_alias_of_another_region_is_another(events: Events) -> None:
    scope = of_keys(Asked(key="arn:aws:kms:us-east-1:111122223333:alias/a"), events.database)
    assert KEY_A not in scope.parameters["keys"]
    assert scope.notes


def test_a_key_that_nobody_named_is_said_to_be_that(events: Events) -> None:
    scope = of_keys(Asked(key="alias/none"), events.database)
    assert scope.parameters == {"keys": ["alias/none"]}
    assert "no call in the logs names the key alias/none" in scope.notes[0]
    assert of_keys(Asked(), events.database).notes == ()


@pytest.mark.parametrize("source", ["10.9.0.1", "10.9.0.0/16", "10.0.0.0/8", "192.0.2.0/24", "::/0"])
def test_sources(planted: Planted, events: Events, source: str) -> None:
    expected = [
        number
        for number, line in enumerate(planted.log.lines)
        if source_matches(source, orjson.loads(line)["sourceIPAddress"])
        and orjson.loads(line)["additionalEventData"]["keytrail"]["phase"] != "intent"
    ]
    assert found(events, of_calls(Asked(source=source), events.database)) == expected


def test_all_must_hold(events: Events) -> None:
    asked = Asked(caller="role/reader", fingerprints=(fingerprint("one"), fingerprint("zero")), access_keys=("ASIATIM", "X"))
    assert found(events, of_calls(asked, events.database)) == [5]
    assert asked.is_anything
    assert not Asked().is_anything
    assert of_calls(Asked(), events.database).parameters == {}


@pytest.mark.parametrize("wrong", [{"source": "10.0.0.0/99"}, {"fingerprints": ("12",)}, {"caller": ""}])
def test_what_is_asked_wrongly(wrong: dict[str, str]) -> None:
    with pytest.raises(QueryError):
        Asked(**wrong)  # type: ignore[arg-type]  # of each test another


def test_an_unknown_piece_is_a_fault_of_ours() -> None:
    with pytest.raises(KeyError):
        fill("SELECT {nothing}", PIECES)
