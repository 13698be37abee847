from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from typer.testing import CliRunner, Result

from audit.errors import DamagedLog
from audit.instance import Instance
from audit.log import Mark
from audit.query.engine import Progress
from audit.query.reports.command import VerifyKept, make_app
from audit.query.reports.interval import last_quarter
from audit.query.times import time_text
from audit.report import Acknowledged, Fault, LogReport, Report, Step, Verdict
from audit.sealing.keys import create_key, load_key
from audit.sealing.log_sealer import LogSealer
from audit.verify import verify
from tests.audit.query.builder import KEY_A
from tests.audit.query.reports.planted import BREAKOUT, INSTANCE, SCRIPT, Planted

IN_JANUARY = ("--since", "2026-01-10", "--until", "2026-02-01")
COMMANDS = [
    ("key-usage", *IN_JANUARY),
    ("access-review", *IN_JANUARY),
    ("quarterly", "--quarter", "2026Q1"),
    ("incident", *IN_JANUARY, "--caller", "role/reader"),
]
PASSED = Report((LogReport("w0", (Step(1, "the log is there", Verdict.PASSED, ""),), (), 22, 22),))
FAILED = Report((LogReport("w0", (Step(3, "lines", Verdict.FAILED, ""),), (Fault(3, "w0", "0.jsonl", 7, "changed"),), 22, 0),))


def passing(data: Path, progress: Progress | None, acknowledged: Sequence[Path]) -> Report:
    if progress is not None:
        progress(1, 1)
    return PASSED


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    planted = Planted(tmp_path / "data")
    planted.plant()
    return planted


def run(planted: Planted, *arguments: str, verify_logs: VerifyKept = passing) -> Result:
    top = typer.Typer()
    top.add_typer(make_app(verify_logs))
    environment = {"KEYTRAIL_DATA": str(planted.data), "COLUMNS": "200"}
    return CliRunner().invoke(top, ["report", *arguments], env=environment)


def told(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_json_has_a_stable_shape(planted: Planted, command: tuple[str, ...]) -> None:
    result = run(planted, *command, "--json", "-")
    assert (result.exit_code, result.stderr) == (0, "")
    document = told(result)
    assert list(document) == [
        *("report", "format", "title", "keytrail_version", "made_at", "instance", "asked", "interval", "coverage"),
        *("verification", "damaged_count", "damaged", "records", "limits", "tables"),
    ]
    assert (document["report"], document["format"], document["instance"]) == (command[0], 1, INSTANCE)
    assert list(document["interval"]) == ["since", "until"]
    assert [list(one) for one in document["coverage"]] == [["log", "first", "last", "remark"]]
    assert document["verification"]["state"] == "passed"
    assert list(document["verification"]) == ["state", "text", "logs", "fault_count", "faults", "acknowledged"]
    assert list(document["verification"]["logs"][0]) == [
        *("log", "records", "sealed", "unsealed", "passed", "failed", "not-checked", "steps")
    ]
    assert (document["damaged_count"], document["damaged"]) == (0, [])
    assert document["records"].keys() == {"keytrail", "cloudtrail"}
    for table in document["tables"]:
        assert list(table) == [
            *("id", "title", "answers", "note", "columns", "sign_off", "sql", "parameters", "row_count", "extent", "rows")
        ]
        names = [column["name"] for column in table["columns"]]
        assert all(list(column) == ["name", "heading", "kind"] for column in table["columns"])
        assert all(row.keys() == set(names) for row in table["rows"])
        assert table["answers"].endswith("?")
    assert len({table["id"] for table in document["tables"]}) == len(document["tables"])
    assert str(planted.data) not in result.stdout


def test_without_a_place_there_is_a_summary(planted: Planted) -> None:
    result = run(planted, "incident", *IN_JANUARY, "--access-key", "ASIASAM", "--access-key", "ASIATIM")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Incident from 2026-01-10 00:00:00Z, before 2026-02-01 00:00:00Z"
    assert "log w0: covers the interval's beginning; goes on after it" in lines
    assert any(line.split() == ["3", "The", "calls"] for line in lines)
    assert "--html FILE writes the report" in result.stderr


def test_files_are_written_whole_and_replaced(planted: Planted, tmp_path: Path) -> None:
    html, data = tmp_path / "report.html", tmp_path / "report.json"
    html.write_text("old")
    result = run(planted, "quarterly", "--quarter", "2026Q1", "--html", str(html), "--json", str(data))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert html.read_text("utf-8").endswith("</html>\n")
    assert json.loads(data.read_bytes())["report"] == "quarterly"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "report.html", "report.json"]


def test_html_on_standard_output(planted: Planted) -> None:
    result = run(planted, "key-usage", "--key", "alias/a", "--html", "-")
    assert result.exit_code == 0
    assert result.stdout.startswith("<!doctype html>")
    assert "alias/a, arn" not in result.stdout  # what was asked, not what it was looked up as
    assert "<dt>Asked for: key</dt><dd>alias/a</dd>" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("quarterly", "--quarter", "2026Q9"), "not a quarter"),
        (("quarterly", "--quarter", "2026Q1", "--since", "7d"), "either --quarter"),
        (("quarterly", "--until", "2026-01-01"), "--until without --since"),
        (("incident", *IN_JANUARY), "name what it is about"),
        (("incident", *IN_JANUARY, "--source", "10.0.0.0/99"), "not a source"),
        (("incident", *IN_JANUARY, "--fingerprint", "12"), "not a fingerprint"),
        (("key-usage", "--key", ""), "not a key"),
        (("key-usage", "--until", "2025-01-01"), "the interval is empty"),
        (("access-review", "--since", "soon"), "not a time"),
        (("access-review", "--since", "2026-01-02", "--until", "2026-01-01"), "the interval is empty"),
        (("key-usage", "--html", "-", "--json", "-"), "the same place"),
        (("key-usage", "--html", "/dev/null"), "is not a file"),
        (("key-usage", "--html", "/nowhere/report.html"), "there is no folder"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(planted: Planted, arguments: tuple[str, ...], reason: str) -> None:
    result = run(planted, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_incident_has_a_beginning(planted: Planted) -> None:
    assert run(planted, "incident", "--caller", "bob").exit_code == 2


def test_a_report_is_never_written_over_evidence(planted: Planted) -> None:
    before = planted.log.segment.read_bytes()
    for place in (planted.log.segment, planted.data / "new.html", planted.data / "log" / ".." / "keytrail.json"):
        result = run(planted, "key-usage", "--html", str(place))
        assert result.exit_code == 2
        assert "is not written into the data folder" in result.stderr
    assert planted.log.segment.read_bytes() == before
    assert not (planted.data / "new.html").exists()


def test_the_default_quarter_is_the_last_one_that_is_over(planted: Planted) -> None:
    before = last_quarter(datetime.now(UTC))
    document = told(run(planted, "quarterly", "--json", "-"))
    after = last_quarter(datetime.now(UTC))
    assert document["interval"]["until"] in (time_text(before.until), time_text(after.until))
    assert document["interval"]["since"] in (time_text(before.since), time_text(after.since))


def test_without_verification_it_says_so_loudly(planted: Planted) -> None:
    def never(*_: object) -> Report:
        raise AssertionError

    result = run(planted, "quarterly", "--quarter", "2026Q1", "--no-verify", "--html", "-", verify_logs=never)
    assert result.exit_code == 0
    assert "WARNING: NOT VERIFIED: this report was made with --no-verify." in result.stderr
    assert result.stdout.count("NOT VERIFIED: this report was made with --no-verify.") == 2


def test_a_failed_verification_is_a_finding(planted: Planted) -> None:
    result = run(planted, "quarterly", "--quarter", "2026Q1", "--json", "-", verify_logs=lambda *_: FAILED)
    assert result.exit_code == 1
    assert "WARNING: VERIFICATION FAILED" in result.stderr
    verification = told(result)["verification"]
    assert (verification["state"], verification["fault_count"]) == ("failed", 1)
    assert verification["faults"] == ["w0/0.jsonl line 7: changed"]
    assert verification["logs"][0]["failed"] == 1


def test_what_was_acknowledged_is_told(planted: Planted, tmp_path: Path) -> None:
    given: list[Sequence[Path]] = []

    def explained(data: Path, progress: Progress | None, acknowledged: Sequence[Path]) -> Report:
        given.append(acknowledged)
        one = Acknowledged(
            Fault(13, "w0", "0.jsonl", 7, "silent for 2 h", "w0:6:x"), "ann (host:7)", "2026-01-02", f"moved {SCRIPT}"
        )
        return Report((replace(PASSED.logs[0], acknowledged=(one,)),))

    arguments = ("quarterly", "--quarter", "2026Q1", "--acknowledged", "kept", "--acknowledged", "too")
    verification = told(run(planted, *arguments, "--json", "-", verify_logs=explained))["verification"]
    assert given == [[Path("kept"), Path("too")]]
    assert verification["state"] == "passed" and verification["text"].endswith("Faults that somebody has explained: 1.")
    assert verification["acknowledged"] == [
        f"w0/0.jsonl line 7: silent for 2 h (step 13), acknowledged by ann (host:7) at 2026-01-02: moved {SCRIPT}"
    ]
    html = run(planted, *arguments, "--html", "-", verify_logs=explained).stdout
    assert "acknowledged by ann (host:7) at 2026-01-02: moved" in html and SCRIPT not in html


def test_what_cannot_be_verified_is_said_not_to_be(planted: Planted) -> None:
    def broken(*_: object) -> Report:
        raise DamagedLog("0.jsonl", 3, "unreadable")

    result = run(planted, "key-usage", "--json", "-", verify_logs=broken)
    assert result.exit_code == 1
    assert told(result)["verification"]["state"] == "impossible"
    assert "unreadable" in told(result)["verification"]["text"]
    (planted.data / "keytrail.json").unlink()
    result = run(planted, "key-usage", "--json", "-", verify_logs=lambda data, progress, _: verify(data, progress=progress))
    assert result.exit_code == 1
    assert told(result)["instance"] is None
    assert told(result)["verification"]["state"] == "impossible"
    assert str(planted.data) not in result.stdout


def test_damage_is_named_and_is_a_finding(planted: Planted) -> None:
    planted.log.raw(b"{\n")
    result = run(planted, "key-usage", "--json", "-")
    assert result.exit_code == 1
    named = f"log w0, {planted.log.segment.name}, line 23: not JSON"
    assert named in result.stderr
    assert told(result)["damaged"] == [named]
    assert told(result)["damaged_count"] == 1


def test_an_unknown_key_is_said_to_be_unknown(planted: Planted) -> None:
    result = run(planted, "key-usage", "--key", "alias/none")
    assert result.exit_code == 0
    assert "no call in the logs names the key alias/none" in result.stdout


def test_no_record_commands_a_terminal(planted: Planted) -> None:
    planted.plant_hostile()
    for command in (*COMMANDS, ("key-usage", "--key", BREAKOUT), ("key-usage", *IN_JANUARY, "--json", "-")):
        result = run(planted, *command)
        assert result.exit_code == 0
        for text in (result.stdout, result.stderr):
            assert "\x1b" not in text
            assert "\u202e" not in text


def test_a_folder_without_logs(tmp_path: Path) -> None:
    result = CliRunner().invoke(make_app(passing), ["key-usage", "--data", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no logs in")


def test_an_instance_without_a_call(tmp_path: Path) -> None:
    instance = Instance.create(tmp_path, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z")
    instance.save()
    result = CliRunner().invoke(make_app(passing), ["key-usage", "--json", "-", "--data", str(tmp_path)])
    assert result.exit_code == 0
    assert [one["remark"] for one in told(result)["coverage"]] == ["the log holds no record that can be read"]


def test_it_stands_on_the_real_verification(tmp_path: Path) -> None:
    """With a log that is signed for; and after one of its lines was changed."""
    instance = Instance.create(tmp_path, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z")
    create_key(instance)
    instance.save()
    record = {
        **{name: "x" for name in ("eventVersion", "awsRegion", "eventID", "eventType", "eventCategory", "sourceIPAddress")},
        "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::111122223333:user/alice"},
        "eventTime": "2026-01-12T00:00:00Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": "Decrypt",
        "requestParameters": None,
        "responseElements": None,
        "resources": [{"ARN": KEY_A}],
        "additionalEventData": {"keytrail": {"log": "admin", "sequence": 0, "time": "2026-01-12T00:00:00.000000Z"}},
    }
    segment = instance.log_folder("admin") / f"{0:020d}.jsonl"
    line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    segment.write_bytes(line)
    (segment.parent / "mark").write_bytes(Mark(1, 0, len(line), 0).encode())
    origin, checkpoints = instance.origin("admin"), instance.checkpoint_folder("admin")
    assert LogSealer(instance.log_folder("admin"), checkpoints, origin, load_key(instance.sealer_key)).seal() is not None
    app = make_app(lambda data, progress, _: verify(data, progress=progress))
    arguments = ["key-usage", "--data", str(tmp_path), "--json", "-"]
    honest = told(CliRunner().invoke(app, arguments))
    segment.write_bytes(line.replace(b"alice", b"mally"))
    forged = CliRunner().invoke(app, arguments)
    assert honest["verification"]["logs"][0]["sealed"] == 1
    assert (honest["verification"]["state"], honest["verification"]["faults"]) == ("passed", [])
    assert forged.exit_code == 1
    assert told(forged)["verification"]["state"] == "failed"
    assert any("line 1" in fault for fault in told(forged)["verification"]["faults"])
