"""`keytrail import`: exit codes, what is printed, and that no answer about the log changes by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from audit import cli
from audit.instance import Instance
from audit.query.imported import imported_folder
from audit.sealing.keys import create_key
from tests.audit.fixtures.reconcile import World, packed
from tests.audit.query.builder import LogBuilder, fingerprint


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "data", tmp_path / "trail")
    world.call(0)
    world.call(7_200)
    world.deliver()
    return world


def run(world: World, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments), env={"KEYTRAIL_DATA": str(world.data), "COLUMNS": "200"})


def brought(world: World, *options: str) -> Result:
    world.deliver()
    return run(world, "import", "cloudtrail", str(world.trail), "--name", "trail", *options)


def test_import_list_show_remove(world: World) -> None:
    event = world.event(60, "Encrypt")
    world.other_service(61)
    result = brought(world)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "trail: 3 events added; 1 that are no calls of KMS left out; from 1 file\n"
    again = run(world, "import", "cloudtrail", str(world.trail), "--name", "trail")
    assert (again.exit_code, again.stdout) == (0, "trail: 0 events added; from 1 file, 1 of them known already\n")

    told = run(world, "import", "list")
    assert told.exit_code == 0
    assert told.stdout.startswith(
        "trail: 3 events from 2026-01-02 00:00:00 to 2026-01-02 02:00:00, of 1 file, 0.0 MiB; not verified\n"
    )
    assert "validate-logs" in told.stderr
    [one] = json.loads(run(world, "import", "list", "--json").stdout)
    assert (one["name"], one["events"], one["verified"]) == ("trail", 3, False)

    shown = run(world, "import", "show", event["eventID"])
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, event)
    missing = run(world, "import", "show", "nowhere")
    assert (missing.exit_code, missing.stdout) == (1, "")

    asked = run(world, "sql", "--format", "csv", "SELECT origin, count(*) AS n FROM calls GROUP BY ALL ORDER BY ALL")
    assert asked.stdout.split() == ["origin,n", "cloudtrail,3", "keytrail,2"]
    assert run(world, "import", "rebuild", "trail").exit_code == 0
    assert (
        run(world, "sql", "--format", "csv", "SELECT origin, count(*) AS n FROM calls GROUP BY ALL ORDER BY ALL").stdout
        == asked.stdout
    )

    assert run(world, "import", "remove", "trail").exit_code == 0
    assert "nothing was imported" in run(world, "import", "list").stderr
    gone = run(world, "import", "remove", "trail")
    assert (gone.exit_code, gone.stderr) == (2, f"error: no import 'trail' in {world.data}; there are: none\n")
    assert run(world, "import", "rebuild", "trail").exit_code == 2


def test_damage_is_named_and_exits_1(world: World) -> None:
    world.deliver()
    path = next(world.trail.rglob("*.gz")).parent / "broken\n\x1b[31m.json.gz"
    path.write_bytes(b"nonsense")
    result = run(world, "import", "cloudtrail", str(world.trail), "--name", "trail")
    assert result.exit_code == 1
    assert result.stdout.startswith("trail: 2 events added")
    assert "WARNING: 1 fault in AWS's files" in result.stderr
    assert "broken\\x0a\\x1b[31m.json.gz: no CloudTrail log file" in result.stderr
    told = run(world, "import", "list").stdout
    assert "1 file of AWS's could not be read wholly" in told
    assert "\x1b" not in told + result.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["cloudtrail", "nowhere", "--name", "trail"], 3, "no such file or folder"),
        (["cloudtrail", "s3://", "--name", "trail"], 2, "not a place in S3"),
        (["cloudtrail", ".", "--name", "../evil"], 2, "not a name for an import"),
        (["cloudtrail", ".", "--name", "CloudTrail-Digest"], 2, "not a name for an import"),
        (["cloudtrail", "."], 2, "--name"),
        (["bypasses"], 2, "nothing was imported"),
        (["bypasses", "--since", "whenever"], 2, "whenever"),
        (["remove", ".."], 2, "not a name"),
    ],
)
def test_bad_input(world: World, arguments: list[str], code: int, words: str) -> None:
    result = run(world, "import", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_no_import_where_no_log_is(world: World, tmp_path: Path) -> None:
    result = run(world, "import", "cloudtrail", str(world.trail), "--name", "trail", "--data", str(tmp_path / "elsewhere"))
    assert result.exit_code == 2
    assert not (tmp_path / "elsewhere").exists()


def test_bypasses(world: World) -> None:
    assert brought(world).exit_code == 0
    none = run(world, "import", "bypasses")
    assert (none.exit_code, none.stdout.splitlines()[-1]) == (0, "Nothing found.")
    for seconds in (60, 61):
        world.event(seconds, userIdentity={**world.user("eve"), "arn": "arn:aws:iam::111122223333:user/eve\x1b[2J"})
    world.event(-60)
    world.event(9_000)
    world.event(62, sourceIPAddress="s3.amazonaws.com")
    brought(world)
    found = run(world, "import", "bypasses")
    assert found.exit_code == 1
    for words in ("user/eve", "AKIAEVE", "Decrypt", "2026-01-02 00:01:01", "2 calls did not pass keytrail."):
        assert words in found.stdout
    for words in ("1 call without a record from before", "has the traffic left keytrail?", "by AWS's own services"):
        assert words in found.stdout
    assert "\x1b" not in found.stdout
    document = json.loads(run(world, "import", "bypasses", "--json", "--since", "2026-01-02", "--until", "2026-01-03").stdout)
    assert (document["calls"], document["first"]) == (3, "2026-01-02T00:00:00Z")
    assert run(world, "import", "bypasses", "--since", "2026-01-02T00:10Z").exit_code == 0


def test_a_damaged_log_is_told_with_the_bypasses(world: World) -> None:
    brought(world)
    segment = next((world.data / "log" / "w0").glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes() + b"{\n")
    result = run(world, "import", "bypasses")
    assert result.exit_code == 1
    assert "damaged place in the log" in result.stderr


def test_reconcile_reads_the_raw_folder_of_an_import(world: World) -> None:
    world.event(60, userIdentity=world.user("eve"))
    brought(world)
    raw = imported_folder(world.data) / "trail" / "raw"
    result = run(world, "reconcile", str(raw), "--json")
    assert [one["kind"] for one in json.loads(result.stdout)["findings"]] == ["bypass"]


def test_no_answer_about_the_log_changes(tmp_path: Path) -> None:
    """`query`, `trace` and `verify` say the same, whatever lies among the imports; and so they do when it is deleted."""
    (tmp_path / "data").mkdir()
    instance = Instance.create(tmp_path / "data", "111122223333", "eu-central-1", "2026-01-02T03:04:05Z")
    create_key(instance)
    instance.save()
    log = LogBuilder(instance.data, "admin")
    log.add(1, "GenerateDataKey", blobs_out=["one"], requestID="shared")
    world = World(instance.data, tmp_path / "trail")
    asked = (
        ("query", "--format", "json"),
        ("query", "--format", "json", "--id", "shared"),
        ("query", "--format", "json", "--caller", "*eve*"),
        ("trace", fingerprint("one"), "--json"),
        ("verify", "--json"),
        ("checkpoint", "--key"),
    )

    def answers() -> list[tuple[int, bytes]]:
        results = [run(world, *arguments) for arguments in asked]
        return [(result.exit_code, result.stdout_bytes) for result in results]

    before = answers()
    event = world.event(1, request_id="shared", userIdentity=world.user("eve"))
    world.trail.mkdir()
    (world.trail / "a.json.gz").write_bytes(packed([event]))
    assert run(world, "import", "cloudtrail", str(world.trail), "--name", "trail").exit_code == 0
    assert "eve" in run(world, "sql", "SELECT caller FROM calls").stdout
    assert answers() == before
    for path in imported_folder(instance.data).rglob("*"):
        if path.is_file():
            path.write_bytes(b"nonsense")
    assert answers() == before
