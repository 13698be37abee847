"""Looking back page by page finds what a look at every line finds, once each: however large the pages and blocks are, whether it
is given up at each step, whatever the index has, and whatever is written meanwhile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.query import newest
from audit.query.event_lookup import Lookup
from audit.query.filters import Record
from audit.query.index.compact import Compactor
from audit.query.newest import Mark, Page, read_page
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at

#: What can be asked for; each of them of a few of the records.
ATTRIBUTES = {
    "EventName": ["Decrypt", "CreateAlias", "Never"],
    "Username": ["alice", "bob"],
    "AccessKeyId": ["AKIABOB"],
    "ResourceName": [KEY_A, KEY_B.rpartition("/")[2]],
    "ReadOnly": ["true", "false"],
    "EventId": ["e3", "e7"],
}


def lookup(attributes: Sequence[tuple[str, str]] = (), start: float | None = None, end: float | None = None) -> Lookup:
    return Lookup.of(attributes, start, end, lambda record: True, {})


def never() -> bool:
    return False


def pages(data: Path, wanted: Lookup, most: int = 50, is_over: Callable[[], bool] = never) -> Iterator[Page]:
    marks: Mapping[str, Mark] | None = None
    while marks is None or marks:
        page = read_page(data, wanted, most, is_over, marks)
        assert page.marks != marks, "it does not go on"
        marks = page.marks
        yield page


def lines(data: Path, wanted: Lookup, most: int = 50, is_over: Callable[[], bool] = never) -> list[bytes]:
    return [found.line for page in pages(data, wanted, most, is_over) for found in page.found]


def time_of(line: bytes) -> str:
    return str(orjson.loads(line)["additionalEventData"]["keytrail"]["time"])


@dataclass(frozen=True)
class Case:
    """Records, of which log, and whether its segment ends behind each; and how they are looked for."""

    records: list[tuple[str, dict[str, Any], bool]]
    attributes: list[tuple[str, str]]
    start: float | None
    end: float | None
    most: int
    impatient: bool
    block: int
    near: int


RECORDS = st.tuples(
    st.sampled_from(["w0", "w1", "admin"]),
    st.fixed_dictionaries(
        {
            "event": st.sampled_from(["Decrypt", "Decrypt", "CreateAlias"]),
            "user": st.sampled_from(["alice", "bob"]),
            "key": st.sampled_from([KEY_A, KEY_B, None]),
            "phase": st.sampled_from(["outcome", "outcome", "intent", "unknown"]),
            "readOnly": st.booleans(),
            "userAgent": st.sampled_from(["short", 'with "quotes"', "x" * 700]),
        }
    ),
    st.booleans(),
)
SECONDS = st.none() | st.integers(-1, 30).map(lambda second: at(second).timestamp())
CASES = st.builds(
    Case,
    st.lists(RECORDS, max_size=25),
    st.lists(
        st.sampled_from(sorted(ATTRIBUTES)).flatmap(lambda key: st.tuples(st.just(key), st.sampled_from(ATTRIBUTES[key]))),
        max_size=2,
    ),
    SECONDS,
    SECONDS,
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([64, 1_000, 64 << 10]),
    st.sampled_from([0, 2_000, 1 << 20]),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CASES, st.booleans())
def test_all_that_match_come_once_newest_first(case: Case, indexed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(newest, "_FIRST_BLOCK", case.block)
        patch.setattr(newest, "_LARGEST_BLOCK", case.block * 2)
        patch.setattr(newest, "_NEAR_BYTES", case.near)
        data = Path(folder)
        logs = {name: LogBuilder(data, name) for name in ("w0", "w1", "admin")}
        for number, (name, content, ends) in enumerate(case.records):
            logs[name].add(number, eventID=f"e{number}", **content)
            if ends:
                logs[name].rotate()
        if indexed:
            with Compactor(data, open_bytes=1) as compactor:
                compactor.run()
        wanted = lookup(case.attributes, case.start, case.end)
        expected = [line for log in logs.values() for line in log.lines if wanted.matches(orjson.loads(line))]
        found = lines(data, wanted, case.most, lambda: case.impatient)
        assert found == sorted(expected, key=time_of, reverse=True)


def test_what_is_written_meanwhile_is_not_in_the_pages_to_come_and_moves_nothing(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    for number in range(10):
        log.add(number)
    before = list(reversed(log.lines))
    asking = pages(tmp_path, lookup(), 4)
    found = [one.line for one in next(asking).found]
    for number in range(10, 13):
        log.add(number)
        log.rotate()
        LogBuilder(tmp_path, f"later-{number}").add(number)
    found += [one.line for page in asking for one in page.found]
    assert found == before


def test_a_line_that_is_still_being_written_is_not_there_yet(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    line = log.add(1)
    log.raw(b'{"half a')
    (page, *rest) = pages(tmp_path, lookup())
    assert [one.line for one in page.found] == [line] and page.damaged == [] and not rest


def test_what_cannot_be_read_is_told_and_passed_over(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    first = log.add(1)
    log.raw(b"no record\n")
    last = log.add(2)
    log.raw(b'{"cut')
    log.rotate()
    (page,) = pages(tmp_path, lookup())
    assert [one.line for one in page.found] == [last, first]
    told = [str(damage) for damage in page.damaged]
    assert len(told) == 2 and "no whole line" in told[0] and "not JSON" in told[1]


def test_a_line_longer_than_any_that_is_written_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "_FIRST_BLOCK", 512)
    monkeypatch.setattr(newest, "_LARGEST_BLOCK", 1_024)
    monkeypatch.setattr(newest, "MAX_LINE_BYTES", 4_096)
    log = LogBuilder(tmp_path)
    first = log.add(1)
    log.raw(b"x" * 50_000 + b"\n")
    last = log.add(2)
    found = list(pages(tmp_path, lookup()))
    assert [one.line for page in found for one in page.found] == [last, first]
    assert any(page.damaged for page in found)


def test_the_index_leads_to_the_lines_and_what_it_does_not_have_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogBuilder(tmp_path)
    for number in range(40):
        log.add(number, eventID=f"e{number}", user="bob" if number == 7 else "alice")
    log.rotate()
    with Compactor(tmp_path) as compactor:
        compactor.run()
    young = log.add(50, user="bob")
    judged: list[Record] = []

    class Counting(Lookup):
        def matches(self, record: Record) -> bool:
            judged.append(record)
            return Lookup.matches(self, record)

    monkeypatch.setattr(newest, "_NEAR_BYTES", 0)
    asked = Counting.of([("AccessKeyId", "AKIABOB")], None, None, lambda record: True, {})
    monkeypatch.setattr(Counting, "texts", ())  # so that nothing is passed over for its text
    assert lines(tmp_path, asked) == [young, log.lines[7]]
    assert len(judged) == 2, "the index is not used"
    (tmp_path / "index" / "manifest.json").write_bytes(b"rubbish")
    assert lines(tmp_path, asked) == [young, log.lines[7]]
    assert len(judged) == 2 + 41


def test_segments_out_of_the_interval_are_not_read(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    hour = 3_600
    for number in range(6):
        log.add(number * hour)
        log.rotate()
    for number in (0, 1, 4, 5):  # rubbish behind the first line would be told of
        path = log.folder / f"{number:020d}.jsonl"
        path.write_bytes(path.read_bytes() + b"rubbish\n")
    (page, *_) = pages(tmp_path, lookup((), at(2.5 * hour).timestamp(), at(3.5 * hour).timestamp()))
    assert [one.line for one in page.found] == [log.lines[3]] and page.damaged == []


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("attributes", [[], [("EventName", "CreateAlias")]])
def test_records_from_before_the_clock_was_set_back_are_found(
    tmp_path: Path, attributes: list[tuple[str, str]], indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest, "_FIRST_BLOCK", 64)
    monkeypatch.setattr(newest, "_LARGEST_BLOCK", 64)
    monkeypatch.setattr(newest, "_NEAR_BYTES", 0)
    log, hour = LogBuilder(tmp_path), 3_600
    for start in (0, 9 * hour, 2 * hour, 3 * hour):  # of the second segment, all others are before it
        for minute in (0, 50, 5):  # and within each, the clock is set back once more
            log.add(start + 60 * minute, "CreateAlias")
        log.rotate()
    log.add(4 * hour, "CreateAlias")
    if indexed:
        with Compactor(tmp_path) as compactor:
            compactor.run()
    for start, end in ((9 * hour, None), (9 * hour + 2_400, None), (2 * hour, 2 * hour + 600), (2 * hour + 2_400, 3 * hour)):
        wanted = lookup(attributes, at(start).timestamp(), None if end is None else at(end).timestamp())
        expected = [line for line in log.lines if wanted.matches(orjson.loads(line))]
        assert sorted(lines(tmp_path, wanted)) == sorted(expected) != []


def test_every_group_of_terms_is_asked_with_the_interval() -> None:
    asked = lookup([("ResourceName", KEY_A), ("EventId", "x")], 1, 2)
    assert [len(group) for group in asked.terms] == [1, 1]
    assert {(one.since, one.until) for group in asked.terms for one in group} == {(asked.since, asked.until)} != {(None, None)}
