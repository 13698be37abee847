"""The index leads to every record that answers, whatever was done to it, and to the log, or to a compaction under way."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.log import Mark
from audit.query.engine import search
from audit.query.events import open_events
from audit.query.filters import Filter, KeyName
from audit.query.index import compact, layout, lookup, rows
from audit.query.index.compact import Compactor, IndexInUse, due
from audit.query.index.layout import IndexFault, Manifest, index_folder
from audit.query.index.sums import Rotted, sums_path, write_sums
from audit.query.index.terms import terms
from audit.query.lines import Damage
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at, fingerprint
from tests.audit.query.test_filters import records_and_filters

EVERYTHING = Filter()
ACME = Filter(context=(("tenant", "acme"),))


def build(data: Path, segments: int = 5, each: int = 4) -> LogBuilder:
    """A log with so many closed segments, and an open one: every second record is of tenant acme."""
    log = LogBuilder(data)
    for number in range(segments):
        for place in range(each):
            log.add(number * 10 + place, context={"tenant": "acme" if place % 2 else "globex"}, blobs_in=[f"b{number}"])
        log.rotate()
    log.add(segments * 10, context={"tenant": "acme"}, blobs_in=["open"])
    return log


def compacted(data: Path, **how: Any) -> None:
    with Compactor(data, **how) as compactor:
        compactor.run()


def found(data: Path, *filters: Filter) -> tuple[list[bytes], list[Damage], int]:
    """The lines that answer, what is damaged, and how much of the log was read whole."""
    with search(data, filters) as result:
        assert result.index_fault is None
        return [one.line for one in result.records()], result.damaged, result.scanned_bytes


def rewrite(path: Path, select: str) -> None:
    """Put what `select` makes of the file in its place, with its sums where it had any; it is called `file` there."""
    other = path.with_suffix(".new")
    with duckdb.connect(":memory:") as database:
        database.execute(f"CREATE VIEW file AS SELECT * FROM read_parquet('{path}', hive_partitioning = false)")  # noqa: S608 - ours
        database.execute(f"COPY ({select}) TO '{other}' (FORMAT parquet)")
    other.rename(path)
    if sums_path(path).exists():
        write_sums(path)


def lines_of(log: LogBuilder, *filters: Filter) -> list[bytes]:
    return [line for line in log.lines if any(one.matches(orjson.loads(line)) for one in filters)]


# --- what it finds


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(records_and_filters(), st.data())
def test_with_the_index_the_answer_is_what_the_predicate_says(
    asked: tuple[list[dict[str, Any]], list[Filter]], data: st.DataObject
) -> None:
    records, filters = asked
    with tempfile.TemporaryDirectory() as folder:
        log = LogBuilder(Path(folder))
        for content in records:
            log.raw(orjson.dumps(content) + b"\n")
            if data.draw(st.booleans(), label="rotate"):
                log.rotate()
        compacted(Path(folder), fanout=data.draw(st.integers(2, 4), label="fanout"))
        lines, damaged, _ = found(Path(folder), *filters)
        assert sorted(lines) == sorted(lines_of(log, *filters))
        assert damaged == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(records_and_filters())
def test_a_record_has_the_same_terms_in_python_and_in_sql(asked: tuple[list[dict[str, Any]], list[Filter]]) -> None:
    records, _ = asked
    with tempfile.TemporaryDirectory() as folder:
        log = LogBuilder(Path(folder))
        for content in records:
            log.raw(orjson.dumps(content) + b"\n")
        log.rotate()
        compacted(Path(folder))
        database = duckdb.connect()
        files = f"{folder}/index/postings/*.parquet"
        postings = database.execute("SELECT DISTINCT record, term FROM read_parquet(?)", [files]).fetchall()
        texts = {(number, term) for number, one in enumerate(records) for term in terms(one)}
        hashed = {
            (number, database.execute(f"SELECT hash({', '.join('?' * len(term))})", list(term)).fetchall()[0][0])
            for number, term in texts
        }
        assert set(postings) == hashed


def test_a_term_is_looked_up_and_only_the_open_segment_is_read_whole(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    assert found(tmp_path, ACME) == (lines_of(log, ACME), [], log.segment.stat().st_size)


@pytest.mark.parametrize(
    "question",
    [
        Filter(fingerprints=(fingerprint("b3"),)),
        Filter(ids=("00000000-0000-0000-0000-000000000002",)),
        Filter(key=KeyName.parse(KEY_A.rpartition("/")[2])),
        Filter(caller="*:user/alice"),
        Filter(access_key="AKIAALICE", context=(("tenant", "globex"),)),
        Filter(events=("Decrypt",), source="10.0.0.7"),
        Filter(context=(("tenant", "acme"),), since=at(10), until=at(30)),
    ],
)
def test_each_kind_of_question_is_answered_by_look_up(tmp_path: Path, question: Filter) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    lines, damaged, scanned = found(tmp_path, question)
    assert (lines, damaged) == (lines_of(log, question), [])
    assert scanned <= log.segment.stat().st_size


def test_a_common_term_is_intersected_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.query.index.lookup.FEW", 1)
    log = build(tmp_path)
    compacted(tmp_path)
    question = Filter(context=(("tenant", "acme"),), fingerprints=(fingerprint("b3"),))
    lines, _, scanned = found(tmp_path, question)
    assert (lines, scanned) == (lines_of(log, question), log.segment.stat().st_size)


def test_what_is_common_throughout_is_read_from_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.query.index.lookup.FEW", 1)
    monkeypatch.setattr("audit.query.index.lookup.MANY", 2)
    log = build(tmp_path)
    compacted(tmp_path)
    lines, _, scanned = found(tmp_path, ACME)
    assert (lines, scanned) == (lines_of(log, ACME), sum(path.stat().st_size for path in log.folder.iterdir()))


def test_several_logs_are_asked_together(tmp_path: Path) -> None:
    first, second = LogBuilder(tmp_path, "w0"), LogBuilder(tmp_path, "w1")
    for log in (first, second):
        log.add(1 if log is first else 2, context={"tenant": "acme"})
        log.rotate()
    compacted(tmp_path)
    first.add(3, context={"tenant": "acme"})
    assert found(tmp_path, ACME)[0] == [first.lines[0], second.lines[0], first.lines[1]]
    with search(tmp_path, [ACME], log="w1") as result:
        assert result.count == 1


# --- merging


def test_many_files_become_few_and_the_answer_stays(tmp_path: Path) -> None:
    log = build(tmp_path, segments=20)
    compacted(tmp_path, batch_bytes=1, fanout=3)
    manifest = Manifest.load(index_folder(tmp_path)).logs["w0"]
    assert len(manifest.runs) < 3 and len(manifest.days) < 3
    assert [piece.first for piece in manifest.pieces] == [number * 4 for number in range(20)]
    assert found(tmp_path, ACME)[0] == lines_of(log, ACME)


def test_a_large_run_is_kept_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "SLICED_FROM", 3)
    log = build(tmp_path, segments=9)
    compacted(tmp_path, batch_bytes=1, fanout=2)
    runs = Manifest.load(index_folder(tmp_path)).logs["w0"].runs
    assert any(run.slices == layout.SLICES for run in runs)
    for number in range(9):
        question = Filter(fingerprints=(fingerprint(f"b{number}"),))
        assert found(tmp_path, question)[0] == lines_of(log, question)


@given(st.lists(st.integers(0, 10**8), max_size=60), st.integers(2, 9))
def test_merging_ends_and_leaves_few_files_of_a_size(records: list[int], fanout: int) -> None:
    while (window := due(records, fanout)) is not None:
        assert window.stop - window.start >= fanout
        records[window] = [sum(records[window])]
    for start in range(len(records) - fanout + 1):
        neighbours = records[start : start + fanout]
        assert due(neighbours, fanout) is None


def test_a_file_that_is_merged_away_while_it_is_asked_is_found_by_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = build(tmp_path, segments=6)
    with Compactor(tmp_path, batch_bytes=1, fanout=100) as compactor:
        compactor.run()
    stale = Manifest.load(index_folder(tmp_path))
    compacted(tmp_path, fanout=2, grace_s=0)
    answers = iter([stale])
    monkeypatch.setattr(lookup, "_loaded", lambda index, _: next(answers, None) or Manifest.load(index))
    assert found(tmp_path, ACME)[0] == lines_of(log, ACME)
    assert next(answers, None) is None


def test_a_file_that_was_merged_is_kept_a_while_for_those_who_read_it(tmp_path: Path) -> None:
    build(tmp_path, segments=6)
    with Compactor(tmp_path, batch_bytes=1, fanout=100) as compactor:
        compactor.run()
    old = set(Manifest.load(index_folder(tmp_path)).paths(index_folder(tmp_path)))
    compacted(tmp_path, fanout=2)
    now = set(Manifest.load(index_folder(tmp_path)).paths(index_folder(tmp_path)))
    assert all(path.exists() for path in old | now) and old - now
    long_ago = time.time() - compact.GRACE_S - 1
    for path in old - now:
        os.utime(path, (long_ago, long_ago))
    compacted(tmp_path)
    assert {path for part in ("postings", "events") for path in (index_folder(tmp_path) / part).rglob("*.*")} == now


# --- the open segment


def mark(log: LogBuilder, records: int) -> None:
    """Say that so many records of the log are durable, all in its open segment."""
    first = int(log.segment.stem)
    offset = sum(len(line) + 1 for line in log.lines[first:records])
    (log.folder / "mark").write_bytes(Mark(records, first, offset, 0).encode())


def test_what_is_durable_of_the_open_segment_is_indexed_once_there_is_enough_of_it(tmp_path: Path) -> None:
    log = build(tmp_path, segments=1)
    for second in range(20, 26):
        log.add(second, context={"tenant": "acme"})
    mark(log, 8)
    compacted(tmp_path, open_bytes=5_000)
    assert [(piece.first, piece.next) for piece in Manifest.load(index_folder(tmp_path)).logs["w0"].pieces] == [(0, 4)]
    compacted(tmp_path, open_bytes=3_000)
    assert [(piece.first, piece.next) for piece in Manifest.load(index_folder(tmp_path)).logs["w0"].pieces] == [(0, 4), (4, 8)]
    not_durable = sum(len(line) + 1 for line in log.lines[8:])
    assert found(tmp_path, ACME) == (lines_of(log, ACME), [], not_durable)


def test_without_a_mark_the_open_segment_is_not_indexed(tmp_path: Path) -> None:
    log = build(tmp_path, segments=1)
    compacted(tmp_path, open_bytes=0)
    assert found(tmp_path, ACME) == (lines_of(log, ACME), [], log.segment.stat().st_size)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["add", "add", "add", "damaged", "mark", "rotate", "compact"]), max_size=30), st.integers(2, 4))
def test_in_whatever_pieces_a_log_is_indexed_each_record_is_found_once(steps: list[str], fanout: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = LogBuilder(Path(folder))
        bad = 0
        for number, step in enumerate(steps):
            match step:
                case "add":
                    log.add(number, context={"tenant": "acme" if number % 3 else "globex"})
                case "damaged":
                    log.raw(b"{}\n")
                    bad += 1
                case "mark":
                    mark(log, log.sequence)
                case "rotate":
                    log.rotate()
                case _:
                    compacted(Path(folder), open_bytes=0, fanout=fanout)
        sound = [line for line in log.lines if line != b"{}"]
        expected = [line for line in sound if ACME.matches(orjson.loads(line))]
        with search(Path(folder), [ACME]) as result:
            assert [one.line for one in result.records()] == expected
        with open_events(Path(folder)) as events:
            counted = events.database.execute("SELECT count(*), count(DISTINCT record) FROM events").fetchall()
            assert (counted, len(events.damaged)) == ([(len(sound), len(sound))], bad)


def test_a_segment_of_which_a_piece_is_indexed_is_read_from_there_on_after_it_was_closed(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    for second in range(4):
        log.add(second, context={"tenant": "acme"})
    mark(log, 2)
    compacted(tmp_path, open_bytes=0)
    log.rotate()
    log.add(9)
    rest = sum(len(line) + 1 for line in log.lines[2:])
    assert found(tmp_path, ACME) == (log.lines[:4], [], rest)
    compacted(tmp_path)
    assert found(tmp_path, ACME) == (log.lines[:4], [], log.segment.stat().st_size)


def test_an_open_segment_that_was_cut_back_is_read_as_it_stands(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    for second in range(4):
        log.add(second, context={"tenant": "acme"})
    mark(log, 4)
    compacted(tmp_path, open_bytes=0)
    log.segment.write_bytes(log.lines[0] + b"\n")
    assert found(tmp_path, ACME) == (log.lines[:1], [], len(log.lines[0]) + 1)


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_log_that_was_put_back_and_grew_otherwise_is_not_taken_for_the_one_that_was_indexed(
    tmp_path: Path, is_closed: bool
) -> None:
    log = LogBuilder(tmp_path)
    for second in range(4):
        log.add(second, context={"tenant": "acme"})
    mark(log, 4)
    compacted(tmp_path, open_bytes=0)
    shutil.rmtree(log.folder)
    other = LogBuilder(tmp_path)
    for second in range(8):
        other.add(second, context={"tenant": "acme" if second % 2 else "other"}, user="mallory")
    if is_closed:
        other.rotate()
    else:
        mark(other, 8)
    assert found(tmp_path, ACME)[:2] == (lines_of(other, ACME), [])
    with open_events(tmp_path) as events:
        assert events.database.execute("SELECT count(*) FROM events WHERE user_name = 'mallory'").fetchall() == [(8,)]
        assert events.database.execute("SELECT count(*) FROM events").fetchall() == [(8,)]
    compacted(tmp_path, open_bytes=0)
    assert found(tmp_path, ACME) == (lines_of(other, ACME), [], 0)


# --- damage


BAD_LINES = [
    b"not JSON",
    b'{"eventName": "Decrypt"',
    b'{"eventName": "Decrypt"}',
    b"\xff\xfe",
    b"",
    b"[]",
    b'{"x":{"keytrail":{"log":"w0","sequence":1,"time":"2026-01-02T00:00:00.000001Z","phase":"outcome"}}}',
    b'{"additionalEventData":{"keytrail":{"log":"w0","sequence":"1","time":"2026-01-02T00:00:00.000001Z"}}}',
    b'{"additionalEventData":{"keytrail":{"log":"w0","sequence":1,"time":"yesterday"}}}',
]


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_damaged_line_is_named_in_each_answer(tmp_path: Path, bad: bytes) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, context={"tenant": "acme"})
    log.raw(bad + b"\n")
    log.add(2, context={"tenant": "acme"})
    log.rotate()
    log.add(3)
    _, before, _ = found(tmp_path, ACME)
    compacted(tmp_path)
    lines, damaged, _ = found(tmp_path, ACME)
    assert lines == [log.lines[0], log.lines[2]]
    assert set(before) <= set(damaged)  # without the index, lines that cannot match are not looked at as closely
    assert [(one.segment, one.line) for one in damaged] == [("00000000000000000000.jsonl", 2)]


def test_a_record_with_a_name_twice_is_indexed_as_it_is_read(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    line = log.add(1, context={"tenant": "acme"})
    log.raw(line.replace(b'{"tenant":"acme"}', b'{"tenant":"globex","tenant":"acme"}') + b"\n")
    log.rotate()
    compacted(tmp_path)
    assert found(tmp_path, ACME)[0] == log.lines


def test_a_segment_that_lacks_lines_is_left_out_and_read_as_it_stands(tmp_path: Path) -> None:
    log = build(tmp_path, segments=3)
    first = sorted(log.folder.iterdir())[1]
    first.write_bytes(b"".join(line + b"\n" for line in log.lines[4:7]))
    _, before, _ = found(tmp_path, ACME)
    compacted(tmp_path)
    lines, damaged, scanned = found(tmp_path, ACME)
    assert lines == [line for line in lines_of(log, ACME) if line != log.lines[7]]
    assert damaged == before != []
    assert scanned == first.stat().st_size + log.segment.stat().st_size


def test_a_segment_that_was_changed_after_it_was_indexed_is_read_as_it_stands(tmp_path: Path) -> None:
    log = build(tmp_path, segments=3)
    compacted(tmp_path)
    first = sorted(log.folder.iterdir())[0]
    first.write_bytes(first.read_bytes().replace(b"globex", b"acme"))
    assert len(found(tmp_path, ACME)[0]) == len(lines_of(log, ACME)) + 2


def test_a_line_that_is_not_what_was_indexed_is_named(tmp_path: Path) -> None:
    log = build(tmp_path, segments=2)
    compacted(tmp_path)
    first = sorted(log.folder.iterdir())[0]
    first.write_bytes(first.read_bytes().replace(b'"tenant":"acme"', b'"tenant":"evil"'))
    lines, damaged, _ = found(tmp_path, ACME)
    assert lines == lines_of(log, ACME)[2:]
    assert [(one.line, one.reason) for one in damaged] == [(number, "not the line that was indexed") for number in (2, 4)]


def test_an_index_that_cannot_be_read_costs_time_and_nothing_else(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    for path in (tmp_path / "index" / "postings").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-8] + b"rubbish!")
    with search(tmp_path, [ACME]) as result:
        assert [one.line for one in result.records()] == lines_of(log, ACME)
        assert result.index_fault is not None


def test_a_manifest_that_cannot_be_read_costs_time_and_nothing_else(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    (tmp_path / "index" / "manifest.json").write_bytes(b'{"version": %d, "logs": []}' % layout.VERSION)
    with search(tmp_path, [ACME]) as result:
        assert [one.line for one in result.records()] == lines_of(log, ACME)
        assert result.index_fault is not None and "rebuild" in result.index_fault


@pytest.mark.parametrize("place", [4, 40, 100, -20, -200])
def test_postings_that_rotted_lead_past_nothing_and_make_no_others(tmp_path: Path, place: int) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    [postings] = (tmp_path / "index" / "postings").glob("*.parquet")
    content = bytearray(postings.read_bytes())
    content[place] ^= 1
    postings.write_bytes(content)
    with search(tmp_path, [ACME]) as result:
        assert [one.line for one in result.records()] == lines_of(log, ACME)
        assert result.index_fault is not None and "rebuild" in result.index_fault
    log.rotate()
    with pytest.raises(Rotted, match="not as it was written"):
        compacted(tmp_path, batch_bytes=1, fanout=2)
    with search(tmp_path, [ACME]) as result:
        assert [one.line for one in result.records()] == lines_of(log, ACME)


def test_a_manifest_that_rotted_leads_past_nothing(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    path = index_folder(tmp_path) / "manifest.json"
    sound = path.read_bytes()
    digits = [at for at, byte in enumerate(sound) if chr(byte).isdigit()]
    for place in digits[:: len(digits) // 40]:
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with search(tmp_path, [Filter(context=ACME.context, since=at(0))]) as result:
            assert [one.line for one in result.records()] == lines_of(log, ACME)


@pytest.mark.parametrize(
    ("part", "at", "value"), [("pieces", 1, "x"), ("pieces", 3, None), ("pieces", 4, 1.5), ("runs", 0, "x"), ("days", 1, -1)]
)
def test_a_manifest_that_was_made_up_costs_time_and_nothing_else(tmp_path: Path, part: str, at: int, value: object) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    path = index_folder(tmp_path) / "manifest.json"
    document = orjson.loads(path.read_bytes())
    document["logs"]["w0"][part][0][at] = value
    del document["sum"]
    path.write_bytes(orjson.dumps(document | {"sum": hashlib.sha256(orjson.dumps(document)).hexdigest()}))
    with search(tmp_path, [ACME]) as result:
        assert [one.line for one in result.records()] == lines_of(log, ACME)
        assert result.index_fault is not None and "rebuild" in result.index_fault


def test_an_index_that_cannot_be_opened_costs_time_and_nothing_else(tmp_path: Path) -> None:
    log = build(tmp_path)
    (index_folder(tmp_path) / "manifest.json").mkdir(parents=True)  # as one that this user may not read, for root too
    with search(tmp_path, [ACME]) as result:
        assert [one.line for one in result.records()] == lines_of(log, ACME)
        assert result.index_fault is not None and "manifest.json" in result.index_fault
    with open_events(tmp_path) as events:
        assert events.database.execute("SELECT count(*) FROM events").fetchall() == [(len(log.lines),)]
        assert events.index_fault is not None and "manifest.json" in events.index_fault


def test_an_index_that_leads_to_a_line_twice_tells_it_once_and_says_so(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    [postings] = (index_folder(tmp_path) / "postings").glob("*.parquet")
    other = "(SELECT any_value(start) FROM file WHERE record = 1)"
    rewrite(postings, f"SELECT * REPLACE (if(record = 3, {other}, start) AS start) FROM file ORDER BY term, record")  # noqa: S608 - ours
    lines, damaged, _ = found(tmp_path, ACME)
    assert lines == [line for line in lines_of(log, ACME) if line != log.lines[3]]
    assert [(one.line, one.reason) for one in damaged] == [(4, "not the line that was indexed")]


def test_without_the_index_nothing_is_lost(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    shutil.rmtree(tmp_path / "index")
    assert found(tmp_path, ACME)[0] == lines_of(log, ACME)
    compacted(tmp_path)
    assert found(tmp_path, ACME) == (lines_of(log, ACME), [], log.segment.stat().st_size)


def test_an_index_whose_terms_are_hashed_in_another_way_is_made_anew(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    manifest = Manifest.load(index_folder(tmp_path))
    manifest.probe = 1
    manifest.save(index_folder(tmp_path))
    with search(tmp_path, [ACME]) as result:
        assert [one.line for one in result.records()] == lines_of(log, ACME)
        assert result.index_fault is not None and "another version" in result.index_fault
    compacted(tmp_path)
    assert Manifest.load(index_folder(tmp_path)).probe != 1
    assert found(tmp_path, ACME)[0] == lines_of(log, ACME)


def test_a_step_that_fails_leaves_no_file_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = build(tmp_path)

    def full(files: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(compact, "_sync", full)
        with pytest.raises(OSError, match="No space"):
            compacted(tmp_path)
    assert [path for path in index_folder(tmp_path).rglob("*") if path.suffix in (".parquet", ".sums")] == []
    compacted(tmp_path)
    assert found(tmp_path, ACME)[:2] == (lines_of(log, ACME), [])


def test_the_log_is_left_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = build(tmp_path)
    monkeypatch.setattr(compact, "LEFT_FREE_BYTES", shutil.disk_usage(tmp_path).total)
    with pytest.raises(IndexFault, match="MiB of the disk are free"):
        compacted(tmp_path)
    assert found(tmp_path, ACME)[:2] == (lines_of(log, ACME), [])


def test_one_process_at_a_time_compacts(tmp_path: Path) -> None:
    build(tmp_path)
    with Compactor(tmp_path), pytest.raises(IndexInUse), Compactor(tmp_path):
        pass


# --- crashes


EFFECTS = 73  # on the disk, in the compaction of the test below


class Crash(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


def crash_at(step: int, *, is_done: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break off at the `step`th effect on the disk; `is_done` says whether that one is still done."""
    left = step

    def breaking(effect: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            is_it = left == 0  # asked before: an effect may have others within
            if is_it and not is_done:
                raise Crash
            outcome = effect(*arguments, **more)
            if is_it:
                raise Crash
            return outcome

        return replaced

    monkeypatch.setattr(Compactor, "_write", breaking(Compactor._write))
    monkeypatch.setattr(compact, "write_sums", breaking(write_sums))
    monkeypatch.setattr(compact, "_sync", breaking(compact._sync))
    monkeypatch.setattr(Manifest, "save", breaking(Manifest.save))
    monkeypatch.setattr(Path, "unlink", breaking(Path.unlink))


def every_step() -> Iterator[Any]:
    for step in range(1, EFFECTS + 1):
        for is_done in (False, True):
            yield pytest.param(step, is_done, id=f"{step}-{'done' if is_done else 'not-done'}")


@pytest.mark.parametrize(("step", "is_done"), list(every_step()))
def test_a_crash_at_any_step_loses_nothing_and_doubles_nothing(
    tmp_path: Path, step: int, is_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = build(tmp_path, segments=4, each=2)
    with monkeypatch.context() as patched, pytest.raises(Crash):
        crash_at(step, is_done=is_done, monkeypatch=patched)
        compacted(tmp_path, batch_bytes=1, fanout=2, grace_s=0)
    assert found(tmp_path, ACME)[:2] == (lines_of(log, ACME), [])  # before anything is mended
    compacted(tmp_path, batch_bytes=1, fanout=2, grace_s=0)
    assert found(tmp_path, ACME) == (lines_of(log, ACME), [], log.segment.stat().st_size)
    index = index_folder(tmp_path)
    there = {path for folder in ("postings", "events") for path in (index / folder).rglob("*.*")}
    assert there == set(Manifest.load(index).paths(index))
    events = duckdb.connect().read_parquet(f"{index}/events/*/*.parquet")
    counted = events.aggregate("count(*), count(DISTINCT record)").fetchall()
    assert counted == [(8, 8)]


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path) -> None:
    log = build(tmp_path, segments=30)
    program = "import sys; from pathlib import Path; from audit.query.index.compact import Compactor\n"
    program += "with Compactor(Path(sys.argv[1]), batch_bytes=1, fanout=3, told=lambda _: print('.', flush=True)) as c: c.run()"
    for batches in (1, 4, 9):
        with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(batches):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        assert found(tmp_path, ACME)[:2] == (lines_of(log, ACME), [])
    compacted(tmp_path, batch_bytes=1, fanout=3)
    assert found(tmp_path, ACME) == (lines_of(log, ACME), [], log.segment.stat().st_size)


# --- the view


def test_the_events_say_what_the_records_say(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(
        5,
        "ReEncrypt",
        user="bob",
        key=KEY_B,
        blobs_in=["one"],
        blobs_out=["two"],
        error="AccessDenied",
        wire_error="AccessDeniedException",
        requestParameters={"sourceEncryptionContext": {"a": "b"}, "destinationEncryptionContext": {"c": "d"}},
    )
    log.rotate()
    compacted(tmp_path)
    events = duckdb.connect().read_parquet(f"{tmp_path}/index/events/*/*.parquet", hive_partitioning=True)
    names = events.columns
    row = dict(zip(names, events.fetchone() or (), strict=True))
    assert set(names) == {*rows.EVENTS, "day"}
    expected = {
        "time": at(5).replace(tzinfo=None),
        "event_name": "ReEncrypt",
        "phase": "outcome",
        "caller": "arn:aws:iam::111122223333:user/bob",
        "keys": [KEY_B],
        "error_code": "AccessDenied",
        "wire_error": "AccessDeniedException",
        "source_context": {"a": "b"},
        "destination_context": {"c": "d"},
        "context": None,
        "fingerprints_in": [fingerprint("one")],
        "fingerprints_out": [fingerprint("two")],
        "log": "w0",
        "record": 0,
        "start": 0,
        "size": len(log.lines[0]) + 1,
        "day": at(5).date(),
    }
    assert {name: row[name] for name in expected} == expected
