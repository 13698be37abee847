from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from audit.query.engine import search
from audit.query.filters import Filter
from audit.query.lines import Found
from audit.query.render import CSV_COLUMNS, clean, make_console, record_line, write_csv, write_lines, write_table
from audit.query.timeline import write_story
from audit.query.trace import trace
from tests.audit.query.builder import KEY_A, LogBuilder, fingerprint

HOSTILE = "\x1b[2J\x1b]0;x\x07[bold red]markup[/] :boom: \u202egnp.\u202c \x9b31m \u2028 \r\n end"


def found_in(data: Path) -> list[Found]:
    with search(data, [Filter()]) as result:
        return list(result.records())


def hostile_log(data: Path) -> LogBuilder:
    log = LogBuilder(data)
    log.add(1, "GenerateDataKey", user=HOSTILE, context={HOSTILE: HOSTILE}, blobs_out=["one"], userAgent=HOSTILE)
    log.add(2, "Decrypt", user=HOSTILE, sourceIPAddress=HOSTILE, error=HOSTILE, blobs_in=["one"], key=KEY_A + HOSTILE)
    return log


def is_safe(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def test_control_and_direction_characters_become_visible() -> None:
    assert clean("a\x1b[0m\x9b\u202eb\n\U000e0001") == "a\\x1b[0m\\x9b\\u202eb\\x0a\\U000e0001"
    assert clean("Zürich 東京 [bold] :boom:") == "Zürich 東京 [bold] :boom:"


def test_no_record_commands_the_terminal(tmp_path: Path) -> None:
    hostile_log(tmp_path)
    out = io.StringIO()
    console = make_console(out, width=4_000)
    write_table(found_in(tmp_path), console)
    for one in found_in(tmp_path):
        console.print(record_line(one))
    write_story(trace(tmp_path, fingerprint("one")), console)
    shown = out.getvalue()
    assert is_safe(shown)
    assert shown.count("[bold red]markup[/] :boom:") >= 6
    assert "\\x1b[2J" in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}])
def test_nothing_is_broken_or_cut_where_it_is_piped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: dict[str, str]
) -> None:
    for name, value in {"COLUMNS": "40", "TERM": "xterm", **forced}.items():
        monkeypatch.setenv(name, value)
    log = LogBuilder(tmp_path)
    log.add(1, context={"tenant": "a" * 300}, error="AccessDenied")
    log.add(2)
    out = io.StringIO()
    write_table(found_in(tmp_path), make_console(out))
    _, first, second = out.getvalue().splitlines()
    assert "2026-01-02 00:00:01.000" in first and f"tenant={'a' * 300}" in first
    key_id = KEY_A.rpartition("/")[2]
    assert key_id in first and key_id in second
    assert forced or second == second.rstrip()  # not filled up to the length of the other


def test_a_terminals_lines_are_as_wide_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    LogBuilder(tmp_path).add(1, context={"tenant": "a" * 300}, error="AccessDenied")
    out = Terminal()
    write_table(found_in(tmp_path), make_console(out, width=100))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.count("a") for line in lines) > 300  # folded, not cut


def test_json_lines_are_the_bytes_of_the_log(tmp_path: Path) -> None:
    log = hostile_log(tmp_path)
    out = io.BytesIO()
    write_lines(found_in(tmp_path), out)
    assert out.getvalue() == log.segment.read_bytes()


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_cells_are_no_formulas(tmp_path: Path, start: str) -> None:
    LogBuilder(tmp_path).add(1, userAgent=start, sourceIPAddress="10.0.0.1")
    out = io.StringIO(newline="")
    write_csv(found_in(tmp_path), out)
    heading, row = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert heading == list(CSV_COLUMNS)
    cells = dict(zip(heading, row, strict=True))
    assert cells["userAgent"] == "'" + clean(start)
    assert cells["sourceIPAddress"] == "10.0.0.1"


def test_csv_says_where_the_record_stands_and_what_it_says(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, user="bob", context={"a": 'q"x, y'}, blobs_in=["one", "two"], error="AccessDenied")
    out = io.StringIO(newline="")
    write_csv(found_in(tmp_path), out)
    (cells,) = csv.DictReader(io.StringIO(out.getvalue(), newline=""))
    expected = {
        "time": "2026-01-02T00:00:01.000000Z",
        "error": "AccessDenied",
        "caller": "arn:aws:iam::111122223333:user/bob",
        "keys": KEY_A,
        "context": '{"encryptionContext":{"a":"q\\"x, y"}}',
        "fingerprintsIn": f"{fingerprint('one')} {fingerprint('two')}",
        "log": "w0",
        "segment": log.segment.name,
        "line": "1",
    }
    assert {name: cells[name] for name in expected} == expected


def test_a_story_says_what_happened_and_what_it_does_not_tell(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, "GenerateDataKey", blobs_out=["one"], context={"tenant": "acme"})
    log.add(2, "Decrypt", user="bob", blobs_in=["one"])
    log.add(3, "DisableKey")
    log.add(4, "Decrypt", user="eve", blobs_in=["one"], error="DisabledException")
    log.raw(b"{\n")
    out = io.StringIO()
    write_story(trace(tmp_path, fingerprint("one")), make_console(out))
    shown = out.getvalue()
    for text in (
        "made       2026-01-02 00:00:01Z by user/alice: GenerateDataKey under aaaaaaaa-1111-2222-3333-444455556666",
        "context tenant=acme",
        "unwrapped  1 time by 1 caller: first 2026-01-02 00:00:02Z",
        "refused    1 time by 1 caller",
        "unwrapped is not read",
        "calls that bypass keytrail are not in these logs",
        "log w0 covers 2026-01-02T00:00:01.000000Z to 2026-01-02T00:00:04.000000Z",
        "DAMAGED, the story may lack it: log w0",
        "00:00:03Z  key event     DisableKey by user/alice",
        "refused       Decrypt by user/eve from 10.0.0.7: DisabledException",
    ):
        assert text in shown
    assert "\x1b" not in shown


GRANT = {"grant": "ab" * 32}


def test_a_table_says_which_grant_allowed_a_call(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, allowed_by=[GRANT])
    log.add(2, allowed_by=[{"policy": "KMSFullAccess", "statement": "KMSFullAccess"}] * 2)
    log.add(3, "CreateKey", phase="unknown", error="KMSInternalException", effect="made", allowed_by=[])
    out = io.StringIO()
    write_table(found_in(tmp_path), make_console(out, width=400))
    _, first, second, third = out.getvalue().splitlines()
    assert first.endswith(f"ok by grant {GRANT['grant']}")
    assert second.rstrip().endswith("ok")
    assert third.rstrip().endswith("unknown KMSInternalException (made)")
    assert "unknown KMSInternalException (made)" in str(record_line(found_in(tmp_path)[2]))
    table = io.StringIO(newline="")
    write_csv(found_in(tmp_path), table)
    assert [row["allowedBy"] for row in csv.DictReader(io.StringIO(table.getvalue(), newline=""))] == [
        f"grant {GRANT['grant']}",
        "KMSFullAccess: KMSFullAccess, KMSFullAccess: KMSFullAccess",
        "",
    ]


def test_a_story_says_by_which_grant_a_key_was_unwrapped_and_what_may_have_been_done(tmp_path: Path) -> None:
    log = LogBuilder(tmp_path)
    log.add(1, "Decrypt", user="bob", blobs_in=["one"], allowed_by=[GRANT])
    log.add(2, "DisableKey", phase="unknown", error="KMSInternalException", effect="made")
    log.add(3, "EnableKey", phase="unknown", error="KMSInternalException")
    out = io.StringIO()
    write_story(trace(tmp_path, fingerprint("one")), make_console(out))
    assert f"allowed by grant {GRANT['grant']}\n" in out.getvalue()
    assert (
        "DisableKey by user/alice from 10.0.0.7: KMSInternalException, its outcome was lost, and the change was made"
        in out.getvalue()
    )
    assert (
        "EnableKey by user/alice from 10.0.0.7: KMSInternalException, and the change may or may not have been made"
        in out.getvalue()
    )


def test_a_story_that_is_not_there_says_so_plainly(tmp_path: Path) -> None:
    LogBuilder(tmp_path).add(1)
    out = io.StringIO()
    write_story(trace(tmp_path, fingerprint("nowhere")), make_console(out))
    assert "NOT FOUND: no call with this ciphertext is in the logs between 2026-01-02T00:00:01.000000Z and" in out.getvalue()
