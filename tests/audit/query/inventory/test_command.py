from __future__ import annotations

import csv
import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from audit.query.inventory.command import app
from tests.audit.query.artifacts.blobs import local_blob
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at, placed, record
from tests.audit.query.inventory.planted import key_event

USED, IDLE, DOOMED, FOREIGN = (local_blob(number) for number in range(4))


def call(log: LogBuilder, seconds: float, event: str, blob: bytes, **changes: Any) -> None:
    """A call about a blob of which the bytes matter."""
    content = record(event, **changes)
    name = "fingerprintsIn" if event == "Decrypt" else "fingerprintsOut"
    content["additionalEventData"]["keytrail"][name] = [sha256(blob).hexdigest()]
    log.raw(orjson.dumps(placed(content, log.name, log.sequence, at(seconds))) + b"\n")


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    log = LogBuilder(tmp_path / "data")
    call(log, 1, "GenerateDataKey", USED)
    call(log, 2, "GenerateDataKey", IDLE)
    call(log, 3, "GenerateDataKey", DOOMED, key=KEY_B)
    call(log, 4, "Decrypt", USED, user="bob")
    call(log, 5, "Decrypt", USED, user="=cmd()")
    return log


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    for name, blob in (("1-used", USED), ("2-idle", IDLE), ("3-doomed", DOOMED), ("4-foreign", FOREIGN)):
        (store / name).write_bytes(blob)
    (store / "readme").write_text("nothing to see")
    return store


def run(log: LogBuilder, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"KEYTRAIL_DATA": str(log.data), "COLUMNS": "250"})


def lines_of(result: Result) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The objects by their file names, and the summary."""
    *objects, last = map(json.loads, result.stdout.splitlines())
    return {one["object"].rpartition("/")[2]: one for one in objects}, last["summary"]


def test_json_lines_and_the_summary_behind_them(log: LogBuilder, store: Path) -> None:
    result = run(log, "--json", str(store))
    assert result.exit_code == 0, result.output
    objects, summary = lines_of(result)
    assert list(objects) == ["1-used", "2-idle", "3-doomed", "4-foreign"]
    (used,) = objects["1-used"]["keys"]
    assert (used["status"], used["key"]) == ("unwrapped", KEY_A)
    assert (used["unwrapped"]["times"], used["unwrapped"]["callerCount"]) == (2, 2)
    assert used["unwrapped"]["lastBy"].endswith("user/=cmd()")
    assert [objects[name]["keys"][0]["status"] for name in ("2-idle", "4-foreign")] == ["never unwrapped", "not in the log"]
    assert objects["2-idle"]["keys"][0]["made"]["event"] == "GenerateDataKey"
    assert summary["objects"]["crawled"] == 5
    assert summary["objects"]["without data keys"] == 1
    assert summary["data keys"]["never unwrapped, minted in the log"] == 2
    assert summary["data keys"]["not in the log"] == 1
    assert summary["coverage"] == [{"log": "w0", "first": "2026-01-02T00:00:01.000000Z", "last": "2026-01-02T00:00:05.000000Z"}]
    with_all = run(log, "--json", "--all", str(store))
    assert "readme" in lines_of(with_all)[0]


def test_text_for_people_and_what_it_rests_on(log: LogBuilder, store: Path) -> None:
    (store / "9-\x1b[31m").write_bytes(USED[:-1])
    result = run(log, str(store))
    assert result.exit_code == 1
    squeezed = " ".join(result.stdout.split())
    assert "unwrapped 2 times by 2 callers, last 2026-01-02 00:00:05Z by user/=cmd()" in squeezed
    assert "never unwrapped; made 2026-01-02 00:00:02Z by user/alice" in squeezed
    assert "FAULT: damaged CiphertextBlob" in squeezed
    assert "\x1b" not in result.stdout
    assert "log w0 covers 2026-01-02T00:00:01.000000Z to 2026-01-02T00:00:05.000000Z" in result.stdout
    assert "unwrapped is not read" in result.stdout
    assert "1 objects damaged or unreadable" in squeezed


def test_csv_is_no_command_to_a_spreadsheet(log: LogBuilder, store: Path) -> None:
    result = run(log, "--csv", str(store))
    assert result.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["status"] for row in rows] == ["unwrapped", "never unwrapped", "never unwrapped", "not in the log"]
    assert rows[0]["lastUnwrappedBy"].endswith("=cmd()")
    assert (rows[0]["unwrapped"], rows[0]["callers"]) == ("2", "2")
    assert "objects crawled" in result.stderr


def test_what_a_keys_deletion_takes(log: LogBuilder, store: Path) -> None:
    result = run(log, "--json", "--key", KEY_B.rpartition("/")[2], str(store))
    assert result.exit_code == 1
    objects, summary = lines_of(result)
    assert {name: one["lostIfKeyIsDeleted"] for name, one in objects.items()} == {
        "3-doomed": "whole",
        "4-foreign": "unknown",
    }
    assert summary["objects"]["lost if the key is deleted"] == 1
    assert [count for label, count in summary["objects"].items() if label.startswith("perhaps lost")] == [1]
    (store / "4-foreign").unlink()
    (store / "3-doomed").unlink()
    nothing = run(log, "--json", "--key", KEY_B, str(store))
    assert nothing.exit_code == 0
    assert lines_of(nothing)[1]["objects"]["lost if the key is deleted"] == 0
    text = run(log, "--key", KEY_A, str(store))
    assert "2 objects lost if the key is deleted" in " ".join(text.stdout.split())


def test_orphans_and_what_is_going(log: LogBuilder, store: Path) -> None:
    key_event(log, 10, "ScheduleKeyDeletion", KEY_B, {"deletionDate": "2199-02-01T00:00:00Z"})
    key_event(log, 10, "ScheduleKeyDeletion", KEY_A, {"deletionDate": "2026-01-05T00:00:00Z"})
    result = run(log, str(store))
    assert result.exit_code == 1
    squeezed = " ".join(result.stdout.split())
    assert "LOST: its key was deleted" in squeezed
    assert "to be lost from 2199-02-01 00:00:00Z on" in squeezed
    assert "2 objects lost 3 objects lost once scheduled deletions are done" in squeezed
    row = next(
        one for one in csv.DictReader(io.StringIO(run(log, "--csv", str(store)).stdout)) if one["object"].endswith("doomed")
    )
    assert (row["keyState"], row["keyDeletion"]) == ("scheduled for deletion", "2199-02-01T00:00:00.000000Z")


def test_damage_in_the_log_is_a_finding(log: LogBuilder, store: Path) -> None:
    log.raw(b"{\n")
    result = run(log, "--json", str(store))
    assert result.exit_code == 1
    assert "the answer may lack records" in result.stderr
    assert lines_of(result)[1]["damagedLog"] == [f"log w0, {log.segment.name}, line 6: not JSON"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nowhere"], 3), (["--key", "alias/demo", "."], 2), (["--json", "--csv", "."], 2), ([], 2)],
)
def test_what_is_asked_wrongly(log: LogBuilder, arguments: list[str], code: int) -> None:
    result = run(log, *arguments)
    assert result.exit_code == code
    assert "Traceback" not in result.stderr


def test_a_place_with_nothing_in_it_is_no_good_news(log: LogBuilder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(log, "--key", KEY_A, str(tmp_path / "empty"))
    assert result.exit_code == 2
    assert "there is nothing in" in result.stderr
