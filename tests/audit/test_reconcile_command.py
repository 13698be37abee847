"""`keytrail reconcile`: exit codes, table, JSON; text of others is never a command to the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from audit.reconcile import command
from tests.audit.fixtures.reconcile import KEY, World

HOUR = 3_600


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "data", tmp_path / "trail")
    world.call(0)
    world.call(2 * HOUR)
    world.other_service(3 * HOUR)
    return world


def run(world: World, *arguments: str) -> Result:
    world.deliver()
    return again(world, str(world.trail), *arguments)


def again(world: World, *arguments: str) -> Result:
    top = typer.Typer()
    top.registered_commands += command.app.registered_commands
    return CliRunner().invoke(top, list(arguments), env={"KEYTRAIL_DATA": str(world.data), "COLUMNS": "240"})


def test_nothing_found(world: World) -> None:
    result = run(world)
    assert result.exit_code == 0, result.output
    assert "2  pairs that agree" in result.stdout
    assert result.stdout.endswith("Nothing found.\n")


def test_findings_as_a_table(world: World) -> None:
    world.event(HOUR, userIdentity=world.user("eve"))
    world.call(HOUR + 60, ours={"context": {"tenant": "other"}})
    world.record(HOUR + 120, request_id="forged")
    result = run(world)
    assert result.exit_code == 1
    text = "".join(result.stdout.split())
    for told in ("BYPASS", "MISMATCH", "UNCONFIRMED", "user/eve", KEY.rpartition("/")[2], "forged"):
        assert told in text
    assert 'context:ours{"tenant":"other"}↔AWS\'s{"tenant":"acme"}' in text


def test_findings_as_json(world: World) -> None:
    request_id = world.event(HOUR, userIdentity=world.user("eve"))["requestID"]
    result = run(world, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["totals"] == {"bypass": 1, "unconfirmed": 0, "mismatch": 0, "duplicate": 0, "unreadable": 0}
    assert report["counts"]["agreed"] == 2
    [finding] = report["findings"]
    assert (finding["kind"], finding["requestId"], finding["keys"]) == ("bypass", request_id, [KEY])
    assert finding["caller"] == "arn:aws:iam::111122223333:user/eve"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_text_of_others_commands_no_terminal(world: World, options: tuple[str, ...]) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e[red]"
    name = f"x{evil}"
    world.event(HOUR, name, userIdentity={**world.user("eve"), "arn": name}, request_id=name, key=f"arn:aws:kms:r:a:key/{evil}")
    world.call(HOUR, ours={"context": {evil: evil}})
    world.event(HOUR, userIdentity={"type": "AWSService", "invokedBy": evil})
    world.deliver()
    (world.trail / f"{evil}.json").write_text("rubbish")
    result = again(world, str(world.trail), *options)
    assert result.exit_code == 1, result.output
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(result.output)
    assert "[red]" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--since", "someday"), 2, "not a time"),
        (("--grace", "soon"), 2, "not a duration"),
        (("--region", "mars-1"), 3, "no CloudTrail log file there that is asked for"),
        (("--data", "nowhere"), 2, "no logs in nowhere"),
    ],
)
def test_what_cannot_be_answered(world: World, arguments: tuple[str, ...], code: int, told: str) -> None:
    result = run(world, *arguments)
    assert result.exit_code == code, result.output
    assert told in result.stderr


@pytest.mark.parametrize(("where", "code"), [("nowhere", 3), ("s3://", 2)])
def test_where_nothing_is(world: World, where: str, code: int) -> None:
    world.deliver()
    result = again(world, where)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")


def test_damage_of_our_log_is_told_and_found(world: World) -> None:
    world.deliver()
    [segment] = (world.data / "log" / "w0").iterdir()
    segment.write_bytes(b"{\n" + segment.read_bytes())
    result = again(world, str(world.trail))
    assert result.exit_code == 1
    assert "line 1: not JSON" in result.stderr


def test_the_interval_and_the_grace_are_asked_for(world: World) -> None:
    world.event(2 * HOUR + 60)
    world.record(2 * HOUR - 60, request_id="young")
    assert run(world).exit_code == 1  # young, by an hour
    after = run(world, "--grace", "2h")
    assert (after.exit_code, "has the traffic left the proxy?" in after.stdout) == (1, True)
    assert run(world, "--grace", "2h", "--until", "2026-01-02T02:00:00Z").exit_code == 0
    assert run(world, "--grace", "2h", "--until", "2026-01-02T03:00:00Z").exit_code == 1
