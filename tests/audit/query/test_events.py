"""The tables `events` and `calls` have every record that was committed, once; and a user's SELECT can read, and nothing else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from audit import cli
from audit.errors import QueryError
from audit.query.events import COLUMNS, open_events
from audit.query.filters import Filter, allowances, contexts, fingerprints, resource_arns
from audit.query.index.layout import index_folder
from audit.query.statement import admit, limited
from tests.audit.query.builder import KEY_A, LogBuilder, at, fingerprint
from tests.audit.query.test_filters import records_and_filters
from tests.audit.query.test_index import build, compacted
from tests.docs.repository import read_required


def run(data: Path, *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli.app, ["sql", *arguments, "--data", str(data)], input=stdin, env={"COLUMNS": "200"})


def rows(data: Path, statement: str, **how: Any) -> list[tuple[Any, ...]]:
    with open_events(data, **how) as events:
        assert events.damaged == ()
        return events.database.execute(statement).fetchall()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(records_and_filters(), st.data())
def test_every_record_is_an_event_once_wherever_it_is_kept(
    asked: tuple[list[dict[str, Any]], list[Filter]], data: st.DataObject
) -> None:
    records, _ = asked
    with tempfile.TemporaryDirectory() as folder:
        log = LogBuilder(Path(folder))
        for content in records:
            log.raw(orjson.dumps(content) + b"\n")
            if data.draw(st.booleans(), label="rotate"):
                log.rotate()
            if data.draw(st.booleans(), label="compact"):
                compacted(Path(folder), fanout=2)
        found = rows(
            Path(folder),
            """SELECT record, event_name, phase, caller, access_key_id, source_ip, error_code, keys, fingerprints_in, context,
                      request_id FROM events ORDER BY record""",
        )
    assert found == [
        (
            number,
            one["eventName"],
            one["additionalEventData"]["keytrail"]["phase"],
            one["userIdentity"]["arn"],
            one["userIdentity"]["accessKeyId"],
            one["sourceIPAddress"],
            one.get("errorCode"),
            resource_arns(one),
            fingerprints(one, "fingerprintsIn") or None,
            contexts(one).get("encryptionContext", (one["requestParameters"] or {}).get("encryptionContext")),
            one["requestID"],
        )
        for number, one in enumerate(records)
    ]


def test_a_row_leads_to_its_line(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    for record, start, size in rows(tmp_path, "SELECT record, start, size FROM events"):
        segment = max(path for path in log.folder.glob("*.jsonl") if int(path.stem) <= record)
        assert segment.read_bytes()[start : start + size] == log.lines[record] + b"\n"


def test_an_interval_has_its_first_moment_and_not_its_last(tmp_path: Path) -> None:
    build(tmp_path)
    compacted(tmp_path)
    found = rows(tmp_path, "SELECT record FROM events ORDER BY record", since=at(10), until=at(20))
    assert found == [(4,), (5,), (6,), (7,)]


@pytest.mark.parametrize("indexed", [False, True])
def test_events_from_before_the_clock_was_set_back_are_found(tmp_path: Path, indexed: bool) -> None:
    log, hour = LogBuilder(tmp_path), 3_600
    for start in (0, 9 * hour, 2 * hour):
        log.add(start)
        log.add(start + hour - 1)
        log.rotate()
    log.add(3 * hour)
    if indexed:
        compacted(tmp_path)
    assert rows(tmp_path, "SELECT record FROM events ORDER BY record", since=at(9 * hour)) == [(2,), (3,)]
    assert rows(tmp_path, "SELECT record FROM events ORDER BY record", since=at(2 * hour), until=at(4 * hour)) == [
        (4,),
        (5,),
        (6,),
    ]


def test_calls_leave_out_the_intents_of_changes(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, "DisableKey", phase="intent")
    log.add(1, "DisableKey")
    log.add(2, "EnableKey", phase="unknown")
    assert rows(tmp_path, "SELECT event_name, outcome FROM calls ORDER BY record") == [
        ("DisableKey", "ok"),
        ("EnableKey", "unknown"),
    ]
    assert rows(tmp_path, "SELECT count(*) FROM events") == [(3,)]


@pytest.mark.parametrize("indexed", [False, True])
def test_what_is_known_of_a_lost_outcome_is_its_outcome(tmp_path: Path, indexed: bool) -> None:
    log = LogBuilder(tmp_path)
    for effect in ("made", "none", None):
        log.add(1, "DisableKey", phase="unknown", error="KMSInternalException", effect=effect)
    log.add(2, "DisableKey", error="InternalFailure", effect="unknown")
    log.rotate()
    if indexed:
        compacted(tmp_path)
    assert rows(tmp_path, "SELECT outcome FROM calls ORDER BY record") == [("ok",), ("failed",), ("unknown",), ("unknown",)]


@pytest.mark.parametrize("indexed", [False, True])
def test_what_allowed_each_action(tmp_path: Path, indexed: bool) -> None:
    log = LogBuilder(tmp_path)
    policy, grant = {"policy": "key policy", "statement": "it's: 1"}, {"grant": "g-1"}
    told = [[policy], [grant, {"policy": "host"}], [], None, [None, grant, {}]]
    records = [orjson.loads(log.add(number, "ReEncrypt", allowed_by=by)) for number, by in enumerate(told)]
    log.rotate()
    if indexed:
        compacted(tmp_path)
    found = rows(tmp_path, "SELECT allowed_by FROM calls ORDER BY record")
    assert [by or [] for (by,) in found] == [allowances(one) for one in records]
    assert found[:3] == [(["key policy: it's: 1"],), (["grant g-1", "host"],), ([],)]
    assert rows(tmp_path, "SELECT record FROM calls WHERE list_contains(allowed_by, 'grant g-1') ORDER BY record") == [(1,), (4,)]


def test_columns_that_are_made_of_others(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    role = {"type": "AssumedRole", "arn": "arn:aws:sts::111122223333:assumed-role/claims/bob@example.com"}
    log.add(1, "Decrypt", userIdentity=role, error="AccessDenied")
    log.add(2, "ScheduleKeyDeletion", responseElements={"deletionDate": 1767225600.5, "keyId": KEY_A})
    log.add(3, "Decrypt", error="DryRunOperationException")
    found = rows(
        tmp_path,
        "SELECT CAST(day AS VARCHAR), key, role, session_name, outcome, deletion_date::VARCHAR FROM calls ORDER BY record",
    )
    assert found == [
        ("2026-01-02", KEY_A, "claims", "bob@example.com", "failed", None),
        ("2026-01-02", KEY_A, None, None, "ok", "2026-01-01 00:00:00.5"),
        ("2026-01-02", KEY_A, None, None, "dry run", None),
    ]


def test_a_segment_that_was_changed_since_is_read_from_the_log(tmp_path: Path) -> None:
    log = build(tmp_path, segments=3)
    compacted(tmp_path)
    changed = log.folder / f"{4:020d}.jsonl"
    changed.write_bytes(changed.read_bytes().replace(b'"acme"', b'"other"'))
    found = rows(tmp_path, "SELECT context['tenant'], count(*) FROM events GROUP BY ALL ORDER BY ALL")
    assert found == [("acme", 5), ("globex", 6), ("other", 2)]


def test_what_is_damaged_is_named_in_the_answer(tmp_path: Path) -> None:
    log = build(tmp_path, segments=2)
    compacted(tmp_path)
    log.raw(b"{not json}\n")
    result = run(tmp_path, "SELECT count(*) AS n FROM events", "--format", "csv")
    assert result.exit_code == 1
    assert result.stdout.split() == ["n", "9"]
    assert "line 2: not JSON" in result.stderr


# --- what is admitted


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SELECT 1; SELECT 2", "2 statements"),
        ("", "0 statements"),
        ("SELEC 1", "syntax error"),
        ("COPY (SELECT 1) TO 'x'", "one SELECT"),
        ("INSERT INTO tail SELECT * FROM tail", "one SELECT"),
        ("DROP VIEW events", "one SELECT"),
        ("SET threads = 8", "one SELECT"),
        ("INSTALL httpfs", "one SELECT"),
        ("ATTACH 'x.db'", "one SELECT"),
        ("PRAGMA database_list", "one SELECT"),
        ("CALL enable_logging()", "one SELECT"),
        ("SELECT * FROM enable_logging(storage = 'file', storage_path = 'x')", "enable_logging"),
        ("SELECT 1 WHERE EXISTS (FROM glob('*'))", "glob"),
        ("WITH a AS (SELECT * FROM read_text('/etc/hostname')) SELECT * FROM a", "read_text"),
        ("SELECT * FROM Read_CSV('x')", "read_csv"),
        ("SELECT * FROM query('DROP VIEW events')", "query"),
        ("SELECT * FROM 'x/*.parquet'", "no table 'x/*.parquet'"),
        ("SELECT * FROM tail", "no table 'tail'"),
        ("SELECT * FROM information_schema.tables", "no table 'tables'"),
        ("SELECT json_serialize_plan('FROM enable_logging()')", "json_serialize_plan"),
        (f"SELECT {'+'.join('1' * 900)}", "nested too deeply"),
        ("""SELECT * FROM (WITH "x.parquet" AS (SELECT 1) SELECT 1), 'x.parquet'""", "WITH 'x.parquet'"),
        ("SELECT (SELECT max(x) FROM events, LATERAL (SELECT * FROM read_parquet('x')) AS t(x))", "read_parquet"),
    ],
)
def test_nothing_but_one_select_is_admitted(tmp_path: Path, statement: str, reason: str) -> None:
    build(tmp_path, segments=1)
    with open_events(tmp_path) as events, pytest.raises(QueryError, match=re.escape(reason)):
        admit(events.database, statement)


@pytest.mark.parametrize(
    "statement", ["SELECT * FROM '/etc/hostname'", "SELECT * FROM secret_variable", "SELECT nothing FROM events"]
)
def test_what_is_not_there_is_said_in_duckdbs_words(tmp_path: Path, statement: str) -> None:
    secret_variable = [1]  # which DuckDB would find in Python's frames, where it were let to
    assert secret_variable
    build(tmp_path, segments=1)
    result = run(tmp_path, statement)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error" in result.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "WITH a AS (SELECT 1 AS x), b AS (FROM a) SELECT count(*) FROM b, events, calls",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT max(n) FROM t",
        "SELECT count(*) FROM EVENTS e WHERE EXISTS (WITH z AS (SELECT 1) FROM z)",
        "DESCRIBE events",
        "FROM range(3), (VALUES (1)) v",
    ],
)
def test_selects_over_the_tables_are_admitted(tmp_path: Path, statement: str) -> None:
    build(tmp_path, segments=1)
    assert run(tmp_path, statement, "--format", "csv").exit_code == 0


def test_files_of_the_host_cannot_be_read_even_by_the_database_itself(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    with open_events(tmp_path) as events:
        for statement in ("SELECT * FROM read_text('/etc/hostname')", "SET enable_external_access = true", "LOAD httpfs"):
            with pytest.raises(QueryError, match=r"disabled|locked"), limited(events.database, None):
                events.database.execute(statement)


def test_rows_that_rotted_are_told_where_they_fail_and_never_stand_in_a_report_that_is_verified(tmp_path: Path) -> None:
    log = build(tmp_path, segments=40)
    compacted(tmp_path)
    [file] = (index_folder(tmp_path) / "events").glob("*/*.parquet")
    sound = file.read_bytes()
    everything = [(number,) for number in range(len(log.lines))]
    with open_events(tmp_path, only_sound=True) as events:
        assert events.index_fault is None and events.indexed == (file,)
    for place in range(4, len(sound), len(sound) // 7):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with open_events(tmp_path, only_sound=True) as events:
            assert events.index_fault is not None and events.indexed == ()
            assert events.database.execute("SELECT record FROM events ORDER BY record").fetchall() == everything
    file.write_bytes(sound[:4] + bytes([0xFF]) * 600 + sound[604:])
    told = run(tmp_path, "SELECT * FROM events")
    assert (told.exit_code, "not as it was written; --no-index reads the log" in told.stderr) == (3, True)
    assert run(tmp_path, "SELECT * FROM events", "--no-index").exit_code == 0
    assert run(tmp_path, "SELECT nothing FROM events").exit_code == 2


# --- the command


def test_the_formats(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1.5, "Decrypt", context={"tenant": "acme"}, blobs_in=["one"])
    statement = "SELECT time, context, fingerprints_in AS blobs, error_code FROM events"
    assert orjson.loads(run(tmp_path, statement, "--format", "json").stdout) == {
        "time": "2026-01-02T00:00:01.500000Z",
        "context": {"tenant": "acme"},
        "blobs": [fingerprint("one")],
        "error_code": None,
    }
    as_csv = run(tmp_path, "-", "--format", "csv", stdin=statement.encode()).stdout.splitlines()
    assert as_csv == [
        "time,context,blobs,error_code",
        f'2026-01-02 00:00:01.500000,"{{""tenant"":""acme""}}","[""{fingerprint("one")}""]",',
    ]
    table = run(tmp_path, "SELECT event_name, 'a' || chr(27) || '[2J' AS odd FROM events")
    assert table.stdout.splitlines()[0].split() == ["event_name", "odd"]
    assert "Decrypt" in table.stdout and "\x1b" not in table.stdout
    assert table.stderr == "1 row\n"
    assert "x" * 300 in run(tmp_path, "SELECT repeat('x', 300) AS wide").stdout


def test_no_column_and_no_digit_is_lost_in_json(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    twice = run(tmp_path, "SELECT 1 AS a, 2 AS a", "--format", "json")
    assert (twice.exit_code, twice.stdout) == (2, "") and "one name" in twice.stderr
    large = run(
        tmp_path, "SELECT 170141183460469231731687303715884105727 AS a, MAP {1: 'x'} AS b, 'nan'::DOUBLE AS c", "--format", "json"
    )
    assert large.stdout == '{"a":170141183460469231731687303715884105727,"b":{"1":"x"},"c":null}\n'


def test_nothing_in_it_is_obeyed_by_terminals_and_spreadsheets(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    statement = "SELECT '=1+1' AS a, chr(27) || chr(155) || chr(8238) AS b, -1 AS c, '-1' AS d"
    assert run(tmp_path, statement, "--format", "csv").stdout.splitlines()[1] == "'=1+1,\\x1b\\x9b\\u202e,-1,'-1"
    assert run(tmp_path, statement, "--format", "json").stdout == '{"a":"=1+1","b":"\\u001b\\u009b\\u202e","c":-1,"d":"-1"}\n'


def test_a_long_table_is_cut_off_and_says_so(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    result = run(tmp_path, "FROM range(1001)")
    assert len(result.stdout.splitlines()) == 1 + 1000
    assert result.stderr == "the first 1000 rows; --format json or csv prints all\n"
    assert len(run(tmp_path, "FROM range(1001)", "--format", "csv").stdout.splitlines()) == 1 + 1001


def test_explain_prints_the_plan_and_asks_nothing(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    result = run(tmp_path, "SELECT count(*) FROM events WHERE event_name = 'Decrypt'", "--explain")
    assert (result.exit_code, "AGGREGATE" in result.stdout) == (0, True)


def test_values_are_bound_to_names(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    statement = "SELECT $name AS name, len($list::VARCHAR[]) AS size, $number + 1 AS next FROM events LIMIT 1"
    given = ("--parameter", "name='; DROP VIEW events; --", "--parameter", 'list=["a", "b"]', "--parameter", "number=41")
    assert orjson.loads(run(tmp_path, statement, *given, "--format", "json").stdout) == {
        "name": "'; DROP VIEW events; --",
        "size": 2,
        "next": 42,
    }
    assert run(tmp_path, statement, *given, "--explain").exit_code == 0
    assert (run(tmp_path, statement).exit_code, run(tmp_path, statement, "--parameter", "=1").exit_code) == (2, 2)


def test_a_statement_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    result = run(tmp_path, "SELECT count(*) FROM range(1000000000000)", "--time-limit", "0.05")
    assert (result.exit_code, result.stderr) == (2, "error: interrupted after 0.05 s, its time limit\n")


def test_memory_that_duckdb_does_not_count_is_bounded_too(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    result = run(tmp_path, "SELECT length(repeat('x', 3900000000))")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "Out of Memory" in result.stderr
    assert run(tmp_path, "SELECT 1").exit_code == 0


def test_what_cannot_be_interrupted_is_ended(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    program = "from audit.query import statement; statement._GRACE_S = 0.1; from audit.cli import app; app()"
    statement = "SELECT levenshtein(repeat('x', 100000), repeat('y', 100000))"
    command = [sys.executable, "-c", program, "sql", statement, "--time-limit", "0.1", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert "could not be interrupted" in done.stderr
    assert not list(tmp_path.glob("keytrail-*"))


@pytest.mark.parametrize("damage", ["missing", "garbage", "another shape"])
def test_an_index_that_cannot_be_read_costs_time_and_nothing_else(tmp_path: Path, damage: str) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    file = next(index_folder(tmp_path).glob("events/*/*.parquet"))
    match damage:
        case "missing":
            file.unlink()
        case "garbage":
            file.write_bytes(b"garbage" * 100)
        case _:
            pq.write_table(pa.table({"x": [1]}), file)
    result = run(tmp_path, "SELECT count(*) AS n FROM events", "--format", "csv")
    assert (result.exit_code, result.stdout) == (0, f"n\n{len(log.lines)}\n")
    assert "the index cannot be read, and everything was read instead" in result.stderr


def test_ctrl_c_interrupts(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background process ignores\n"
        "from audit.cli import app; print(flush=True); app()"
    )
    statement = "SELECT range, sum(range) OVER () FROM range(1000000000000)"
    command = [sys.executable, "-c", program, "sql", statement, "--format", "csv", "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            while not _uses_its_processor(process.pid):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, told) == (130, b"")


def _uses_its_processor(pid: int) -> bool:
    """Whether the process has worked for some seconds, which only its statement can cost."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > 4


def test_without_a_statement_it_tells_what_is_missing(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    assert "--columns" in run(tmp_path).stderr
    assert [line.split()[0] for line in run(tmp_path, "--columns").stdout.splitlines()] == list(COLUMNS)


def test_the_document_tells_every_column_and_its_type(tmp_path: Path) -> None:
    build(tmp_path, segments=1)
    told = re.findall(r"^\| `(\w+)` \| (\S[^|]*?) \| (\S.*?) \|$", read_required("docs/events.md"), re.MULTILINE)
    types = {name: type_ for name, type_, *_ in rows(tmp_path, "DESCRIBE events")}
    assert told == [(name, types[name], meaning) for name, meaning in COLUMNS.items()]


def test_nothing_is_written_by_asking(tmp_path: Path) -> None:
    build(tmp_path, segments=2)
    compacted(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    assert run(tmp_path, "SELECT count(*) FROM events").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before
    assert index_folder(tmp_path).is_dir()
