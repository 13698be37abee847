from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from audit.errors import QueryError
from audit.query import engine, scan
from audit.query.engine import search
from audit.query.filters import Filter
from audit.query.index.compact import Compactor
from audit.query.lines import Damage, Found
from audit.query.scan import Coverage
from audit.query.times import time_text
from tests.audit.query.builder import LogBuilder, at, fingerprint

EVERYTHING = [Filter()]


def find(data: Path, *filters: Filter, log: str | None = None) -> tuple[list[Found], list[Damage]]:
    with search(data, filters or EVERYTHING, log=log) as result:
        found = list(result.records())
        assert len(found) == result.count
        return found, result.damaged


def test_records_of_all_logs_come_in_the_order_of_time_with_their_places(tmp_path: Path) -> None:
    first, second = LogBuilder(tmp_path, "w0"), LogBuilder(tmp_path, "w1")
    lines = {seconds: log.add(seconds) for seconds, log in ((3, first), (1, second), (2, first), (2.5, second))}
    first.rotate()
    lines[0.5] = first.add(0.5)
    found, damaged = find(tmp_path)
    assert [one.line for one in found] == [lines[seconds] for seconds in (0.5, 1, 2, 2.5, 3)]
    assert [str(one.place).replace("0" * 19, "") for one in found] == [
        "w0/2.jsonl:1",
        "w1/0.jsonl:1",
        "w0/0.jsonl:2",
        "w1/0.jsonl:2",
        "w0/0.jsonl:1",
    ]
    assert damaged == []


def test_records_of_one_moment_come_by_log_and_place(tmp_path: Path) -> None:
    logs = [LogBuilder(tmp_path, name) for name in ("w1", "w0")]
    for log in (*logs, *logs):
        log.add(1)
    assert [(one.place.log, one.place.line) for one in find(tmp_path)[0]] == [
        ("w0", 1),
        ("w0", 2),
        ("w1", 1),
        ("w1", 2),
    ]


def test_one_log_alone(tmp_path: Path) -> None:
    LogBuilder(tmp_path, "w0").add(1)
    wanted = LogBuilder(tmp_path, "w1").add(2)
    assert [one.line for one in find(tmp_path, log="w1")[0]] == [wanted]
    with pytest.raises(QueryError, match="there are: w0, w1"):
        find(tmp_path, log="w2")


def test_a_folder_without_logs_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="no logs"):
        find(tmp_path)


def test_a_torn_tail_is_quiet_in_the_last_segment_and_damage_before(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1)
    log.raw(b'{"torn')
    assert [find(tmp_path)[0][0].line] == log.lines
    assert find(tmp_path)[1] == []
    segment = log.segment.name
    log.rotate()
    log.add(2)
    found, damaged = find(tmp_path)
    assert len(found) == 2
    assert damaged == [Damage("w0", segment, 2, "cut off: no end of line, in a segment that is not the last")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a":1}{"keytrail":{}}', "not JSON"),
        (b'"text"', "JSON, but not a record of a keytrail log"),
        (b"[]", "JSON, but not a record of a keytrail log"),
        (b"{}", "JSON, but not a record of a keytrail log"),
        (
            b'{"additionalEventData":{"keytrail":{"log":"w0","sequence":1,"time":"yesterday"}}}',
            "JSON, but not a record of a keytrail log",
        ),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b"\x00\x00", "not JSON"),
        (b'{"a":"\\ud800"}', "not JSON"),
    ],
)
def test_damaged_lines_are_named_and_the_others_still_found(tmp_path: Path, line: bytes, reason: str) -> None:
    log = LogBuilder(tmp_path)
    before = log.add(1, context={"city": "Zürich"}, blobs_in=["one"])
    log.raw(line + b"\n")
    after = log.add(2, blobs_in=["one"])
    found, damaged = find(tmp_path)
    assert [one.line for one in found] == [before, after]
    assert [one.place.line for one in found] == [1, 3]
    assert damaged == [Damage("w0", log.segment.name, 2, reason)]


def test_damage_is_named_too_where_the_sieve_would_pass_it_by(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1)
    log.raw(b"{broken\n")
    found, damaged = find(tmp_path, Filter(fingerprints=(fingerprint("nowhere"),)))
    assert found == []
    assert [(one.line, one.reason) for one in damaged] == [(2, "not JSON")]


def test_a_value_that_was_written_with_escapes_passes_the_sieve(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    line = orjson.dumps(orjson.loads(log.add(1))).replace(b"AKIAALICE", b"AKI\\u0041ALICE")
    log.raw(line + b"\n")
    assert len(find(tmp_path, Filter(access_key="AKIAALICE"))[0]) == 2


def test_missing_segments_and_lines_are_damage(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1)
    log.sequence += 2
    log.rotate()
    log.add(2)
    reason = "1 lines; by the name of the next segment it had 3"
    assert [one.reason for one in find(tmp_path)[1]] == [reason]
    (log.folder / f"{0:020d}.jsonl").unlink()
    assert [one.reason for one in find(tmp_path)[1]] == ["records 0 to 2 are not in this folder"]


def test_a_log_that_has_vanished_is_damage(tmp_path: Path) -> None:
    facts = {"format": 1, "instance": "0" * 16, "account": "1", "region": "r", "created": "Z", "logs": ["w0", "w1"]}
    (tmp_path / "keytrail.json").write_bytes(orjson.dumps(facts))
    LogBuilder(tmp_path, "w0").add(1)
    found, damaged = find(tmp_path)
    assert len(found) == 1
    assert damaged == [Damage("w1", "", 0, "the log is listed in keytrail.json and is not there")]


def test_lines_across_chunks_keep_their_bytes_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK_BYTES", 700)
    monkeypatch.setattr(engine, "_FETCH_ROWS", 3)
    monkeypatch.setattr(engine, "_OPEN_FILES", 2)
    logs = [LogBuilder(tmp_path, name) for name in ("w0", "w1", "w2")]
    for count in range(30):
        logs[count % 3].add(count, context={"n": "ü" * (count % 7) * 60})
        if count % 5 == 4:
            logs[count % 3].rotate()
    seen: list[tuple[int, int]] = []
    with search(tmp_path, EVERYTHING, progress=lambda done, total: seen.append((done, total))) as result:
        found = list(result.records())
    assert {log.name: [one.line for one in found if one.place.log == log.name] for log in logs} == {
        log.name: log.lines for log in logs
    }
    assert all(
        (tmp_path / "log" / one.place.log / one.place.segment).read_bytes().split(b"\n")[one.place.line - 1] == one.line
        for one in found
    )
    assert seen == sorted(seen)
    assert seen[-1] == (result.scanned_bytes, result.scanned_bytes)


def test_a_line_too_long_to_be_one_is_damage_and_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK_BYTES", 1_000)
    monkeypatch.setattr(scan, "MAX_LINE_BYTES", 5_000)
    log = LogBuilder(tmp_path)
    log.add(1)
    log.raw(b"x" * 20_000 + b"\n")
    last = log.add(2)
    found, damaged = find(tmp_path)
    assert [(one.place.line, one.line) for one in found] == [(1, log.lines[0]), (3, last)]
    assert [one.line for one in damaged] == [2]


def test_the_newest_come_in_the_order_of_time(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    lines = [log.add(seconds) for seconds in range(5)]
    with search(tmp_path, EVERYTHING) as result:
        assert [one.line for one in result.records(newest=2)] == lines[3:]
        assert result.count == 5


def test_segments_outside_the_interval_are_not_read_and_calls_in_flight_are_found(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    hour = 3_600
    log.add(0)
    log.rotate()
    log.add(hour)
    late = log.add(2 * hour + 60)  # arrived after the next segment's first record
    log.rotate()
    log.add(2 * hour)
    log.rotate()
    log.add(9 * hour)
    with search(tmp_path, [Filter(since=at(2 * hour + 30), until=at(3 * hour))]) as result:
        assert [one.line for one in result.records()] == [late]
        sizes = [segment.stat().st_size for segment in sorted(log.folder.iterdir())]
        assert result.scanned_bytes == sum(sizes[1:3])
        assert result.damaged == []


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("question", [Filter(), Filter(events=("Decrypt",)), Filter(caller="alice")])
def test_records_from_before_the_clock_was_set_back_are_found(tmp_path: Path, question: Filter, indexed: bool) -> None:
    log, hour = LogBuilder(tmp_path), 3_600
    for start in (0, 1 * hour, 9 * hour, 2 * hour, 3 * hour):  # of the segment from nine on, all others are before it
        for minute in range(0, 60, 10):
            log.add(start + 60 * minute)
        log.rotate()
    log.add(4 * hour)
    if indexed:
        with Compactor(tmp_path) as compactor:
            compactor.run()
    for since, until in (
        (9 * hour, None),
        (9 * hour + 1_500, 10 * hour),
        (2 * hour, 3 * hour),
        (2 * hour + 1_500, 9 * hour + 1_500),
    ):
        asked = replace(question, since=at(since), until=at(until) if until is not None else None)
        expected = sorted(line for line in log.lines if asked.matches(orjson.loads(line)))
        with search(tmp_path, [asked]) as result:
            assert sorted(one.line for one in result.records()) == expected != []


def test_records_from_before_the_clock_was_set_back_within_a_segment_are_found(tmp_path: Path) -> None:
    log, minute = LogBuilder(tmp_path), 60
    log.add(0)
    late = log.add(50 * minute)
    log.add(5 * minute)  # set back, and not behind the segment's first record
    log.rotate()
    log.add(6 * minute)
    with search(tmp_path, [Filter(since=at(40 * minute))]) as result:
        assert [one.line for one in result.records()] == [late]


def test_coverage_is_first_and_last_record_whatever_was_asked(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.raw(b"damaged\n")
    log.add(1)
    log.rotate()
    log.add(7)
    log.raw(b"damaged\ntorn")
    LogBuilder(tmp_path, "w1")
    with search(tmp_path, [Filter(caller="nobody")]) as result:
        assert result.coverage == (Coverage("w0", time_text(at(1)), time_text(at(7))), Coverage("w1", None, None))


def test_nothing_is_left_in_the_data_folder_or_open(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1)
    before = sorted(tmp_path.rglob("*"))
    find(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupt_ends_the_scan(tmp_path: Path) -> None:
    LogBuilder(tmp_path).add(1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, EVERYTHING, progress=interrupt)


def test_a_log_without_a_segment_has_no_records(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    line = log.add(1)
    (tmp_path / "log" / "w1").mkdir()
    with search(tmp_path, EVERYTHING) as result:
        assert [one.line for one in result.records()] == [line]
        assert [(one.log, one.first is None) for one in result.coverage] == [("w0", False), ("w1", True)]
