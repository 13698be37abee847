from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from audit import cli
from audit.ocsf import encode_event
from audit.query import commands
from tests.audit.query.builder import KEY_A, LogBuilder, fingerprint

BLOB = bytes(range(200)) * 2


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    log = LogBuilder(tmp_path)
    log.add(1, "GenerateDataKey", blobs_out=["one"], context={"tenant": "acme"})
    log.add(2, "Decrypt", user="bob", blobs_in=["one"], sourceIPAddress="10.9.0.1")
    log.add(3, "DisableKey", phase="intent")
    log.add(4, "Decrypt", user="eve", blobs_in=["one"], error="AccessDenied")
    return log


def run(log: LogBuilder, *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli.app, list(arguments), input=stdin, env={"KEYTRAIL_DATA": str(log.data), "COLUMNS": "200"})


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ([], [0, 1, 3]),
        (["--intents"], [0, 1, 2, 3]),
        (["--phase", "intent"], [2]),
        (["--since", "2026-01-02T00:00:02Z", "--until", "2026-01-02T00:00:04"], [1]),
        (["--until", "1h"], [0, 1, 3]),
        (["--event", "GenerateDataKey*", "--event", "Encrypt"], [0]),
        (["--key", KEY_A.rpartition("/")[2]], [0, 1, 3]),
        (["--caller", "bob"], [1]),
        (["--caller", "user/bob"], [1]),
        (["--access-key", "AKIAEVE"], [3]),
        (["--context", "tenant=acme"], [0]),
        (["--fingerprint", fingerprint("one").upper(), "--error", "any"], [3]),
        (["--source", "10.9.0.0/16"], [1]),
        (["--log", "w0", "--limit", "1"], [3]),
        (["--caller", "nobody"], []),
    ],
)
def test_query_options(log: LogBuilder, options: list[str], lines: list[int]) -> None:
    result = run(log, "query", "--format", "json", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes.splitlines() == [log.lines[line] for line in lines]


def test_query_as_table_and_csv(log: LogBuilder) -> None:
    table = run(log, "query", "--caller", "*/eve")
    assert "AccessDenied" in table.stdout
    assert "1 record\n" in table.stderr
    sheet = run(log, "query", "--caller", "*/eve", "--format", "csv")
    assert sheet.stdout_bytes.count(b"\r\n") == 2
    assert b"user/eve" in sheet.stdout_bytes


def test_query_as_ocsf(log: LogBuilder) -> None:
    result = run(log, "query", "--format", "ocsf", "--caller", "bob")
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes.splitlines() == [encode_event(line) for line in [log.lines[1]]]


def test_what_makes_no_event_is_damage(log: LogBuilder) -> None:
    log.add(9, user="zoe", userAgent=None, eventID=None)
    log.raw(log.lines[-1].replace(b'"eventName":"Decrypt"', b'"eventName":7').replace(b'"sequence":4', b'"sequence":5') + b"\n")
    result = run(log, "query", "--format", "ocsf", "--caller", "*/zoe")
    assert result.exit_code != 0
    assert "no record of a keytrail log" in result.stderr


def test_query_prints_the_answer_and_then_names_the_damage(log: LogBuilder) -> None:
    log.raw(b"{\n")
    result = run(log, "query", "--format", "json", "--caller", "bob")
    assert result.exit_code == 1
    assert result.stdout_bytes.splitlines() == [log.lines[1]]
    assert f"log w0, {log.segment.name}, line 5: not JSON" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--since", "whenever"],
        ["--context", "tenant"],
        ["--fingerprint", "12"],
        ["--source", "10.0.0.0/99"],
        ["--log", "w9"],
        ["--nonsense"],
    ],
)
def test_what_is_asked_wrongly_is_usage(log: LogBuilder, options: list[str]) -> None:
    result = run(log, "query", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if options != ["--nonsense"]:
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


def test_what_cannot_be_read_is_io(log: LogBuilder) -> None:
    log.segment.unlink()
    log.segment.mkdir()
    result = run(log, "query")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: ")


def test_trace_by_text_file_and_standard_input(log: LogBuilder, tmp_path: Path) -> None:
    log.add(
        5,
        "Decrypt",
        blobs_in=["x"],
        additionalEventData={"keytrail": {"phase": "outcome", "fingerprintsIn": [hashlib.sha256(BLOB).hexdigest()]}},
    )
    raw, text = tmp_path / "blob", tmp_path / "blob.b64"
    raw.write_bytes(BLOB)
    text.write_bytes(base64.encodebytes(BLOB))
    ways = (base64.b64encode(BLOB).decode(), str(raw), str(text), "-", hashlib.sha256(BLOB).hexdigest())
    results = [run(log, "trace", way, stdin=BLOB) for way in ways]
    assert [result.exit_code for result in results] == [0] * len(ways)
    assert len({result.stdout for result in results}) == 1
    assert "unwrapped  1 time by 1 caller" in results[0].stdout


def test_trace_as_json(log: LogBuilder) -> None:
    result = run(log, "trace", "--json", fingerprint("one"))
    story = json.loads(result.stdout)
    assert [entry["step"] for entry in story["entries"]] == ["made", "unwrapped", "refused"]
    assert story["counts"]["refused"]["times"] == 1


def test_trace_says_why_the_index_was_of_no_use(log: LogBuilder) -> None:
    (log.data / "index").mkdir()
    (log.data / "index" / "manifest.json").write_text("rubbish")
    result = run(log, "trace", fingerprint("one"))
    assert (result.exit_code, "unwrapped  1 time by 1 caller" in result.stdout) == (0, True)
    assert result.stderr.count("the index cannot be read, and everything was read instead") == 1


def test_trace_of_what_is_not_there(log: LogBuilder) -> None:
    result = run(log, "trace", fingerprint("nowhere"))
    assert result.exit_code == 1
    assert "NOT FOUND" in result.stdout


def test_trace_of_what_is_no_ciphertext(log: LogBuilder) -> None:
    result = run(log, "trace", "no such file")
    assert result.exit_code == 2
    assert "accepted: an artefact" in result.stderr


def test_tail_prints_the_last_and_the_new_until_interrupted(log: LogBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter(range(2))

    def wait() -> None:
        if next(waits) == 1:
            raise KeyboardInterrupt
        log.add(5, "Decrypt", user="dora")
        log.raw(b"{\n")

    monkeypatch.setattr(commands, "_wait", wait)
    result = run(log, "tail", "-n", "2", "--json")
    assert result.exit_code == 0
    assert result.stdout_bytes.splitlines() == [log.lines[1], log.lines[3], log.lines[4]]
    assert "damaged: log w0" in result.stderr


def test_tail_for_people(log: LogBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_wait", wait)
    result = run(log, "tail", "--error", "any")
    assert result.stdout.splitlines() == [
        "2026-01-02T00:00:04.000Z  Decrypt  user/eve  AccessDenied  " + KEY_A.rpartition("/")[2]
    ]


def test_control_characters_are_escaped_in_json(log: LogBuilder) -> None:
    log.add(5, "Decrypt", user="mallory\x9b31m\x85", blobs_in=["one"])
    result = run(log, "trace", fingerprint("one"), "--json")
    assert "mallory\\u009b31m\\u0085" in result.stdout
    assert result.stdout.isascii()


_KEYTRAIL = [sys.executable, "-c", "from proxy.cli import main; main()"]


def shell(log: LogBuilder, script: str) -> subprocess.CompletedProcess[bytes]:
    """`script` for sh, in which "$@" is the console script."""
    environment = os.environ | {"KEYTRAIL_DATA": str(log.data)}
    return subprocess.run(["/bin/sh", "-c", script, "sh", *_KEYTRAIL], capture_output=True, env=environment, timeout=60)


def test_a_reader_that_goes_away_ends_the_command_quietly(log: LogBuilder) -> None:
    for second in range(5, 3_000):
        log.add(second, "Decrypt", blobs_in=["one"])
    ended = shell(log, '{ "$@" query --format json; echo $? >&2; } | head -n 1')
    assert ended.stdout.splitlines() == [log.lines[0]]
    assert ended.stderr == b"141\n"


def test_closed_and_full_outputs(log: LogBuilder) -> None:
    closed = shell(log, '"$@" query --format json <&- >&- 2>&-')
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, b"", b"")
    full = shell(log, '"$@" query --format json >/dev/full')
    assert full.returncode == 3
    assert full.stderr.endswith(b"No space left on device\n")
    segment = next((log.data / "log" / "w0").glob("*.jsonl"))
    assert segment.read_bytes().splitlines() == log.lines
