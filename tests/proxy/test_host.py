"""Commands on the host: callers of any account, and roles; none of it without a record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.cli import app
from tests.proxy.sts.world import BUILDER, trust

OTHERS = "arn:aws:iam::444455556666:user/team/bob"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `keytrail …` on a data folder; the exit code must be 0, or the one that is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEYTRAIL_CONFIG", raising=False)

    def command(*argv: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, [*argv, "--data", str(tmp_path / "data")])
        assert done.exit_code == code, done.output
        return done

    return command


def outcomes(folder: Path) -> list[dict[str, Any]]:  # Any: JSON
    """The outcomes in the log `admin`, the newest last."""
    lines = [line for path in sorted((folder / "data/log/admin").glob("*.jsonl")) for line in path.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    return [record for record in records if record["additionalEventData"]["keytrail"]["phase"] == "outcome"]


def test_a_caller_may_be_of_another_account(run: Run, tmp_path: Path) -> None:
    run("init")
    run("caller", "add", OTHERS)
    assert OTHERS in run("caller", "list").output
    assert "aws_access_key_id" in (tmp_path / "data/credentials").read_text().partition("[bob]")[2]


@pytest.mark.parametrize(
    ("region", "partition"), [("us-east-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_callers_and_roles_are_of_the_region_s_partition(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, region: str, partition: str
) -> None:
    monkeypatch.setenv("KEYTRAIL_REGION", region)
    run("init")
    assert f"arn:{partition}:iam::111122223333:user/demo" in run("caller", "list").output
    (tmp_path / "trust.json").write_text(trust("*"))
    for other in {"aws", "aws-cn", "aws-us-gov"} - {partition}:
        told = run("caller", "add", f"arn:{other}:iam::444455556666:user/bob", code=3).output
        assert f"is not of the partition {partition}, to which the region {region} belongs" in told
        run("role", "add", f"arn:{other}:iam::444455556666:role/r", "--trust", "trust.json", code=3)
    run("caller", "add", f"arn:{partition}:iam::444455556666:user/bob")
    run("caller", "add", f"arn:{partition}:sts::444455556666:assumed-role/r/run-1")
    run("role", "add", f"arn:{partition}:iam::444455556666:role/r", "--trust", "trust.json")


def test_the_life_of_a_role_is_on_record(run: Run, tmp_path: Path) -> None:
    run("init")
    (tmp_path / "trust.json").write_text(trust(OTHERS))
    assert "for 7200 s at a time" in run("role", "add", BUILDER, "--trust", "trust.json", "--max-session-s", "7200").output
    listed = json.loads(run("role", "list", "--trust").output)
    assert listed == {"role": BUILDER, "maxSessionS": 7200, "trust": json.loads(trust(OTHERS))}
    assert "there is the role" in run("role", "add", BUILDER, "--trust", "trust.json", code=3).output
    run("role", "add", BUILDER, "--trust", "trust.json", "--replace")
    run("role", "remove", BUILDER)
    assert BUILDER not in run("role", "list").output
    assert "there is no role" in run("role", "remove", BUILDER, code=3).output
    told = [
        (record["eventName"], record["requestParameters"], record.get("errorCode"))
        for record in outcomes(tmp_path)
        if "Role" in record["eventName"]
    ]
    added = {"roleArn": BUILDER, "policy": trust(OTHERS), "maxSessionDuration": 7200}
    assert told == [
        ("AddRole", added, None),
        ("AddRole", added | {"maxSessionDuration": 3600}, "InvalidRequest"),
        ("UpdateRole", added | {"maxSessionDuration": 3600}, None),
        ("RemoveRole", {"roleArn": BUILDER}, None),
        ("RemoveRole", {"roleArn": BUILDER}, "InvalidRequest"),
    ]


@pytest.mark.parametrize(
    ("arn", "policy", "seconds", "words"),
    [
        (BUILDER, "{", "3600", "the trust policy cannot be used: the policy is no JSON"),
        (BUILDER, trust("alice"), "3600", "'alice' is no principal"),
        (BUILDER, trust("*"), "3599", "from 3600 to 43200 seconds"),
        (BUILDER, trust("*"), "43201", "from 3600 to 43200 seconds"),
        (OTHERS, trust("*"), "3600", "is not the ARN of a role"),
        ("builder", trust("*"), "3600", "is not the ARN of a role"),
        (BUILDER.replace("builder", "x" * 65), trust("*"), "3600", "is not the ARN of a role"),
    ],
)
def test_what_is_no_role_is_refused(run: Run, tmp_path: Path, arn: str, policy: str, seconds: str, words: str) -> None:
    run("init")
    (tmp_path / "trust.json").write_text(policy)
    assert words in run("role", "add", arn, "--trust", "trust.json", "--max-session-s", seconds, code=3).output
    assert "AROA" not in run("role", "list").output


def test_a_trust_policy_that_is_not_there_is_told(run: Run) -> None:
    run("init")
    assert "trust.json" in run("role", "add", BUILDER, "--trust", "trust.json", code=3).output
