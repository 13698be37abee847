"""`keytrail serve` as a whole: several workers on one port, changes without a restart, and why it does not start."""

from __future__ import annotations

import configparser
import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import orjson
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.integration.conftest import LIMIT_S, REGION, Reply, Server, keytrail, keytrail_command, plain_environment, wait_until

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

CONNECTIONS = 12
DATA_KEY = {"KeyId": "alias/demo", "KeySpec": "AES_256"}


def run_keytrail(folder: Path, *argv: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command of keytrail in `folder`; its ports, if it had any, are free ones."""
    environment = plain_environment() | {"KEYTRAIL_LISTEN": "127.0.0.1:0", "KEYTRAIL_ADMIN_LISTEN": "127.0.0.1:0"} | settings
    return subprocess.run(
        [keytrail_command(), *argv], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Its one line on standard error."""
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("keytrail: ")
    return line


# --- several workers


@pytest.fixture(scope="module")
def two_workers(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("two") / "data"
    shutil.copytree(initialised, data)
    running = Server(data, {"KEYTRAIL_WORKERS": "2"}).start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def connections(two_workers: Server) -> Iterator[list[HTTPConnection]]:
    """Connections that are open, and between them end at both workers."""
    opened: list[HTTPConnection] = []
    while len(opened) < CONNECTIONS or min(served(two_workers)) == 0:
        assert len(opened) < 10 * CONNECTIONS, "the kernel gave one worker everything"
        opened.append(two_workers.connect())
        assert two_workers.post("ListKeys", {}, opened[-1]).status == 200
    yield opened
    for one in opened:
        one.close()


def served(server: Server) -> list[int]:
    return [server.count_records(log) for log in ("w0", "w1")]


def test_what_one_worker_changes_all_see_at_the_next_call(two_workers: Server, connections: list[HTTPConnection]) -> None:
    key_id = two_workers.demo_key_id()

    def everywhere() -> set[tuple[int, str | None]]:
        replies: list[Reply] = [two_workers.post("GenerateDataKey", DATA_KEY, one) for one in connections]
        return {(reply.status, reply.code if reply.status != 200 else None) for reply in replies}

    for changing in connections[:4]:
        assert two_workers.post("DisableKey", {"KeyId": key_id}, changing).status == 200
        assert everywhere() == {(400, "DisabledException")}
        assert two_workers.post("EnableKey", {"KeyId": key_id}, changing).status == 200
        assert everywhere() == {(200, None)}
    assert min(served(two_workers)) > 4


def test_query_and_verify_answer_for_both_logs(two_workers: Server, connections: list[HTTPConnection]) -> None:
    for one in connections:
        assert two_workers.post("GenerateDataKey", DATA_KEY | {"EncryptionContext": {"tenant": "both"}}, one).status == 200
    done = run_keytrail(two_workers.data.parent, "query", "--data", "data", "--context", "tenant=both", "--format", "json")
    found = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(connections)
    assert {keytrail(record)["log"] for record in found} == {"w0", "w1"}
    assert found == sorted(found, key=lambda record: keytrail(record)["time"])
    verified = run_keytrail(two_workers.data.parent, "verify", "--data", "data")
    assert verified.returncode == 0, verified.stdout
    for log in ("admin", "w0", "w1"):
        assert f"Log {log}: " in verified.stdout


# --- callers, without a restart


def client(server: Server, profile: str) -> KMSClient:
    """A boto3 client with the credentials that are in `profile` now."""
    file = configparser.RawConfigParser()
    file.read_string((server.data / "credentials").read_text())
    return boto3.client(
        "kms",
        endpoint_url=server.url,
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}),
        aws_access_key_id=file[profile]["aws_access_key_id"],
        aws_secret_access_key=file[profile]["aws_secret_access_key"],
        aws_session_token=file.get(profile, "aws_session_token", fallback=None),
    )


def error_code(kms: KMSClient) -> str | None:
    """How a call of `kms` is refused, or None."""
    try:
        kms.describe_key(KeyId="alias/demo")
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


@pytest.mark.parametrize(
    ("arn", "type"),
    [("arn:aws:iam::111122223333:user/alice", "IAMUser"), ("arn:aws:sts::111122223333:assumed-role/reader/bob", "AssumedRole")],
)
def test_a_caller_is_added_disabled_enabled_and_rotated_without_a_restart(server: Server, arn: str, type: str) -> None:
    def caller(*argv: str) -> str:
        done = run_keytrail(server.data.parent, "caller", *argv, "--data", str(server.data))
        assert done.returncode == 0, done.stderr
        return done.stdout

    name = arn.rpartition("/")[2]
    access_key_id = caller("add", arn).partition(":")[0]
    with contextlib.closing(client(server, name)) as kms:
        assert error_code(kms) is None
        caller("disable", access_key_id)
        assert error_code(kms) == "UnrecognizedClientException"
        caller("enable", access_key_id)
        assert error_code(kms) is None
        caller("rotate", access_key_id)
        assert error_code(kms) == "UnrecognizedClientException"
    with contextlib.closing(client(server, name)) as kms:
        assert error_code(kms) is None
    listed = [line for line in caller("list").splitlines() if arn in line]
    assert [("disabled" in line, access_key_id in line) for line in listed] == [(True, True), (False, False)]

    calls = [record for record in server.records() if record["userIdentity"].get("accessKeyId") == access_key_id]
    assert {record["userIdentity"].get("arn") for record in calls if "errorCode" not in record} == {arn}
    assert {record["userIdentity"].get("type") for record in calls if "errorCode" not in record} == {type}
    changes = [record["eventName"] for record in server.records("admin") if keytrail(record)["phase"] == "outcome"]
    assert changes[-4:] == ["AddCaller", "DisableCaller", "EnableCaller", "RotateCaller"]


# --- why it does not start


def test_serve_before_init_says_to_run_init(tmp_path: Path) -> None:
    assert "run `keytrail init" in refusal(run_keytrail(tmp_path, "serve"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vanished", ["log/w0", "log/admin", "log"])
def test_serve_refuses_where_a_log_has_vanished(own_server: Server, vanished: str) -> None:
    own_server.start()
    assert own_server.stop() == 0
    shutil.rmtree(own_server.data / vanished)
    line = refusal(run_keytrail(own_server.data.parent, "serve", "--data", str(own_server.data)))
    assert "INCIDENT" in line
    assert "has vanished" in line
    assert not (own_server.data / vanished).exists()


def test_an_unknown_setting_is_named_with_the_nearest_known_one(initialised: Path, tmp_path: Path) -> None:
    line = refusal(run_keytrail(tmp_path, "serve", "--data", str(initialised), KEYTRAIL_LISTN="127.0.0.1:0"))
    assert "`KEYTRAIL_LISTN`" in line
    assert "nearest known one is `KEYTRAIL_LISTEN`" in line
    (tmp_path / "bad.toml").write_text("workrs = 2\n")
    line = refusal(run_keytrail(tmp_path, "serve", "--data", str(initialised), "--config", "bad.toml"))
    assert "bad.toml" in line
    assert "`workrs`" in line
    assert "nearest known one is `workers`" in line


@pytest.mark.parametrize(
    ("setting", "value"),
    [("WORKERS", "0"), ("WORKERS", "two"), ("GRANT_TOKENS", "secret"), ("LISTEN", "nowhere"), ("REGION", "")],
)
def test_a_setting_that_cannot_be_is_named(initialised: Path, tmp_path: Path, setting: str, value: str) -> None:
    done = run_keytrail(tmp_path, "serve", "--data", str(initialised), **{f"KEYTRAIL_{setting}": value})
    assert f"`{setting.lower()}`" in refusal(done)


@pytest.mark.parametrize(
    "setting",
    [
        "LISTEN",
        "ADMIN_LISTEN",
    ],
)
def test_a_port_in_use_is_named(initialised: Path, tmp_path: Path, setting: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(initialised, data)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refusal(run_keytrail(tmp_path, "serve", "--data", str(data), **{f"KEYTRAIL_{setting}": f"127.0.0.1:{port}"}))
    assert "address already in use" in line.lower()
    assert str(port) in line


def test_a_port_that_no_port_can_be_is_refused(initialised: Path, tmp_path: Path) -> None:
    line = refusal(run_keytrail(tmp_path, "serve", "--data", str(initialised), KEYTRAIL_LISTEN="127.0.0.1:65536"))
    assert "`listen`" in line and "no such port" in line


def test_two_instances_do_not_share_a_port(server: Server, initialised: Path, tmp_path: Path) -> None:
    """The workers of one share theirs by SO_REUSEPORT; those of another must not get a part of the calls."""
    data = tmp_path / "data"
    shutil.copytree(initialised, data)
    other = Server(data, {"KEYTRAIL_LISTEN": urlsplit(server.url).netloc})
    other.spawn()
    try:
        wait_until(lambda: other.process.poll() is not None or b"answers" in other.outputs[-1].read_bytes(), "it serves or ends")
        assert other.process.poll() == 3, "two instances answer at one address"
    finally:
        other.kill_all()


def test_one_data_folder_is_served_once(server: Server) -> None:
    line = refusal(run_keytrail(server.data.parent, "serve", "--data", str(server.data)))
    assert "another `keytrail serve` runs on" in line
    health: dict[str, Any] = server.health()[1]  # Any: JSON
    assert health["status"] == "ready"
