"""`keytrail index`, and the process that keeps the index up to date."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from audit.query.index import follow
from audit.query.index.compact import Compactor
from tests.audit.query.test_commands import run
from tests.audit.query.test_index import build, compacted


def test_update_and_status(tmp_path: Path) -> None:
    log = build(tmp_path, segments=3)
    assert "0 of 3 closed segments" in run(log, "index", "status").stdout
    done = run(log, "index", "update")
    assert (done.exit_code, done.stderr) == (0, "12 records were indexed\n")
    assert run(log, "index", "status").stdout.startswith("log w0: 3 of 3 closed segments, 12 records, in 2 files, ")
    (told,) = json.loads(run(log, "index", "status", "--json").stdout)
    assert (told["log"], told["indexed_segments"], told["records"], told["damaged"]) == ("w0", 3, 12, [])


def test_rebuild_makes_it_anew_whatever_is_there(tmp_path: Path) -> None:
    log = build(tmp_path, segments=3)
    compacted(tmp_path)
    (tmp_path / "index" / "manifest.json").write_text("rubbish")
    assert run(log, "index", "update").exit_code == 3
    assert run(log, "index", "rebuild").exit_code == 0
    assert "3 of 3" in run(log, "index", "status").stdout


def test_status_names_what_could_not_be_read(tmp_path: Path) -> None:
    log = build(tmp_path, segments=1)
    log.rotate()
    log.raw(b"rubbish\n")
    log.rotate()
    compacted(tmp_path)
    told = run(log, "index", "status")
    assert told.exit_code == 1
    assert "line 1: not JSON" in told.stderr


def test_while_another_process_compacts_it_says_so_and_changes_nothing(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    before = (tmp_path / "index" / "manifest.json").read_bytes()
    with Compactor(tmp_path):
        for command in ("update", "rebuild"):
            refused = run(log, "index", command)
            assert (refused.exit_code, "another process" in refused.stderr) == (3, True)
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("command", ["status", "update", "rebuild"])
def test_where_there_is_no_log_there_will_be_no_index(tmp_path: Path, command: str) -> None:
    log = build(tmp_path / "elsewhere")
    log.data = tmp_path
    assert run(log, "index", command).exit_code == 2
    assert not (tmp_path / "index").exists()


def test_a_query_says_that_the_index_could_not_be_read(tmp_path: Path) -> None:
    log = build(tmp_path)
    compacted(tmp_path)
    (tmp_path / "index" / "manifest.json").write_text("rubbish")
    asked = run(log, "query", "--context", "tenant=acme", "--format", "json")
    assert (asked.exit_code, len(asked.stdout.splitlines())) == (0, 11)
    assert "everything was read instead" in asked.stderr


def test_the_process_catches_up_and_reports_and_ends_with_its_standard_input(tmp_path: Path) -> None:
    build(tmp_path, segments=3)
    argv = [sys.executable, "-m", "audit.query.index.follow", str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"ready": True, "reason": None, "failed": False}
        assert not follow.is_behind(tmp_path)
        process.stdin.close()
        assert process.wait(30) == 0


def test_what_goes_wrong_is_reported_once_and_does_not_end_the_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path)
    faults = iter([OSError(28, "No space left on device"), OSError(28, "No space left on device"), RuntimeError("odd"), None])
    stopped = threading.Event()

    def catch_up(data: Path) -> None:
        if (fault := next(faults)) is not None:
            raise fault
        stopped.set()

    monkeypatch.setattr(follow, "catch_up", catch_up)
    monkeypatch.setattr(follow, "_AFTER_FAULT_S", 0)
    follow.follow(tmp_path, stopped)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["ready"], one["reason"]) for one in told] == [
        (False, "[Errno 28] No space left on device"),
        (False, "RuntimeError: odd"),
        (True, None),
    ]
