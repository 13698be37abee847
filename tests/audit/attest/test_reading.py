"""The pass over a log: its roots and proofs are those of the definition, and what cannot be judged is named."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.attest import reading
from audit.attest.reading import LogReading, proof_ranges, read_log
from audit.attest.statement import UNDER_WAY
from audit.errors import LogIncident
from audit.merkle import leaf_hash, root_of
from audit.query import scan
from audit.query.filters import KeyName
from tests.audit.attest.builder import House, asked
from tests.audit.query.builder import KEY_A, LogBuilder, at, placed, record
from tests.audit.trees import consistency_by_definition


def read(log: LogBuilder, sealed: int | None = None, *sizes: int, **conditions: object) -> LogReading:
    return read_log(log.data, log.name, asked(**conditions), log.sequence if sealed is None else sealed, sizes, lambda _: None)


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    house = House(tmp_path)
    for second in range(3):
        house.add(second)
    return house.logs["w0"]


def test_a_call_is_under_way_as_long_here_as_in_a_search() -> None:
    assert UNDER_WAY == scan.IN_FLIGHT


@given(st.integers(1, 70).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))))
def test_the_ranges_of_a_proof_are_the_proof(sizes: tuple[int, int]) -> None:
    size, old_size = sizes
    leaves = [leaf_hash(b"%d" % number) for number in range(size)]
    roots = [root_of(leaves[start:end]) for start, end in proof_ranges(old_size, size)]
    assert roots == consistency_by_definition(leaves, old_size)


def test_roots_and_proofs_are_worked_out_while_reading(log: LogBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK_BYTES", 3_000)  # a few lines at a time
    for second in range(3, 40):
        if second % 9 == 0:
            log.rotate()
        log.add(second)
    leaves = [leaf_hash(line) for line in log.lines]
    found = read(log, 29, 1, 8, 29, 33)
    assert found.roots == {size: root_of(leaves[:size]) for size in (0, 1, 8, 29, 33)}
    assert found.proofs == {size: tuple(consistency_by_definition(leaves[:29], size)) for size in (1, 8, 29)}
    assert (found.records, found.unsealed) == (40, 11)


def changed(line: bytes, **changes: object) -> bytes:
    """`line` with changes in its `keytrail`."""
    document = orjson.loads(line)
    document["additionalEventData"]["keytrail"] |= changes
    return orjson.dumps(document) + b"\n"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sequence": 4}, "it says that it is record 4 of the log 'w0'"),
        ({"sequence": True}, "it says that it is record True of the log 'w0'"),
        ({"log": "w1"}, "it says that it is record 3 of the log 'w1'"),
        ({"time": "2026-01-02"}, "its time is none"),
        ({"time": "2026-13-42T00:00:00.000000Z"}, "its fields are not those of a record"),
        ({"time": 7}, "its fields are not those of a record"),
        ({"phase": "rehearsal"}, "its phase, 'rehearsal', is not known here"),
    ],
)
def test_lines_that_cannot_be_judged_are_named(log: LogBuilder, changes: dict[str, object], reason: str) -> None:
    log.raw(changed(orjson.dumps(placed(record(eventCategory="Management"), "w0", 3, at(4))), **changes))
    (one,) = read(log).excepted
    assert (one.record, one.segment, one.line) == (3, log.segment.name, 4)
    assert one.reason == reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"7", "JSON, but not a record of a keytrail log"),
        (b'{"additionalEventData":{"keytrail":7}}', "JSON, but not a record of a keytrail log"),
    ],
)
def test_lines_that_are_no_records_are_named(log: LogBuilder, line: bytes, reason: str) -> None:
    log.raw(line + b"\n")
    assert [one.reason for one in read(log).excepted] == [reason]


def test_a_line_that_lacks_fields_is_named_with_them(log: LogBuilder) -> None:
    document = placed(record(), "w0", 3, at(4))
    del document["eventName"], document["additionalEventData"]["keytrail"]["time"]
    log.raw(orjson.dumps(document) + b"\n")
    assert [one.reason for one in read(log).excepted] == ["it lacks eventName, eventCategory, keytrail.time"]


def test_fields_of_another_shape_are_named_where_they_are_asked_for(log: LogBuilder) -> None:
    log.add(4, eventCategory="Management", resources=[7, {"ARN": KEY_A}])
    assert read(log).excepted == []
    key = KeyName.parse(KEY_A)
    assert [one.reason for one in read(log, key=key, caller="*alice").excepted] == ["its fields are not those of a record"]


def test_parameters_that_were_not_recorded_are_named_where_they_are_asked_for(log: LogBuilder) -> None:
    omitted = {"omitted": True, "originalSize": 200_000, "reason": "larger than 102400 bytes"}
    log.add(4, eventCategory="Management", requestParameters=omitted)
    assert read(log).excepted == []
    for conditions in ({"context": (("tenant", "acme"),)}, {"key": KeyName.parse("alias/none")}):
        (one,) = read(log, **conditions).excepted
        assert one.record == 3
        assert one.reason.startswith("its parameters were too large to be recorded")
    assert read(log, context=(("tenant", "acme"),), since=at(5)).excepted == []


def test_a_clock_set_back_is_named_once(log: LogBuilder) -> None:
    log.add(7_200, eventCategory="Management")
    for second in (3_600, 3_601, 3_000, 8_000):  # the third is ten minutes behind: some calls take their time
        log.add(second, eventCategory="Management")
    (one,) = read(log).set_back
    assert (one.record, one.time, one.before) == (4, "2026-01-02T01:00:00.000000Z", "2026-01-02T02:00:00.000000Z")


def test_a_torn_tail_is_counted(log: LogBuilder) -> None:
    log.raw(b'{"torn":')
    found = read(log)
    assert (found.torn_bytes, found.records, found.excepted) == (8, 3, [])


def test_hits_are_counted_and_a_few_kept(log: LogBuilder) -> None:
    for second in range(10, 40):
        log.add(second, eventCategory="Management", user="bob")
    found = read(log, 30, caller="*bob")
    assert (found.hits.count, found.later_hits.count) == (27, 3)
    assert [hit.line for hit in found.hits.kept] == log.lines[3:23]
    assert (found.hits.first, found.hits.last) == ("2026-01-02T00:00:10.000000Z", "2026-01-02T00:00:36.000000Z")


def test_a_missing_segment_ends_the_reading(log: LogBuilder) -> None:
    log.rotate()
    log.add(4)
    first, second = sorted(log.folder.glob("*.jsonl"))
    second.rename(log.folder / f"{4:020d}.jsonl")
    with pytest.raises(LogIncident, match="should begin with record 3"):
        read(log)
    first.unlink()
    with pytest.raises(LogIncident, match="records 0 to 3 are not in this folder"):
        read(log)


def test_a_segment_that_is_cut_ends_the_reading(log: LogBuilder) -> None:
    log.segment.write_bytes(log.segment.read_bytes()[:-1])
    log.rotate()
    log.add(4)
    with pytest.raises(LogIncident, match="cut off"):
        read(log)


def test_more_than_can_be_named_ends_the_reading(log: LogBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_NAMED", 2)
    log.raw(b"7\n7\n")
    assert len(read(log).excepted) == 2
    log.raw(b"7\n")
    with pytest.raises(LogIncident, match="more than 2 lines that cannot be judged"):
        read(log)
