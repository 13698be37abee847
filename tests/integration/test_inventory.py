"""`keytrail inventory` of what the AWS Encryption SDK sealed through a running keytrail, in a folder and in a bucket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aws_encryption_sdk
import boto3
import pytest
from typer.testing import CliRunner

from audit.query.inventory.command import app
from tests.integration.conftest import Server


def inventory(server: Server, *arguments: str) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:  # Any: JSON
    """The exit code, the objects by the last part of their names, and the summary."""
    result = CliRunner().invoke(app, ["--json", *arguments], env={"KEYTRAIL_DATA": str(server.data)})
    *objects, last = map(json.loads, result.stdout.splitlines())
    return result.exit_code, {one["object"].rpartition("/")[2]: one for one in objects}, last["summary"]


@pytest.fixture
def keys(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two KMS keys of the test's own; the SDK finds the server by the environment."""
    access_key_id, secret_access_key = server.credentials()
    for name, value in (
        ("AWS_ENDPOINT_URL_KMS", server.url),
        ("AWS_ACCESS_KEY_ID", access_key_id),
        ("AWS_SECRET_ACCESS_KEY", secret_access_key),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    first, second = (server.client().create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    return first, second


def sealed(*keys: str) -> bytes:
    provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=keys)
    message, _ = aws_encryption_sdk.EncryptionSDKClient().encrypt(source=b"in confidence", key_provider=provider)
    return bytes(message)


def open_with(key: str, message: bytes) -> None:
    provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key])
    opened, _ = aws_encryption_sdk.EncryptionSDKClient().decrypt(source=message, key_provider=provider)
    assert opened == b"in confidence"


def test_a_folder_before_and_behind_the_deletion_of_a_key(server: Server, keys: tuple[str, str], tmp_path: Path) -> None:
    kept, doomed = keys
    files = {"kept": sealed(kept), "doomed": sealed(doomed), "either": sealed(doomed, kept), "cut": sealed(kept)[:40]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    open_with(kept, files["either"])
    open_with(doomed, files["doomed"])
    code, objects, summary = inventory(server, "--key", doomed, str(tmp_path))
    assert code == 1
    assert {name: one.get("lostIfKeyIsDeleted") for name, one in objects.items()} == {
        "cut": None,  # damaged: listed, as nobody knows
        "doomed": "whole",
        "either": "none",
    }
    assert summary["objects"]["lost if the key is deleted"] == 1
    code, objects, _ = inventory(server, str(tmp_path))
    assert code == 1 and objects["cut"]["fault"] is not None
    statuses = {name: {key["key"]: key["status"] for key in one["keys"]} for name, one in objects.items()}
    assert statuses == {
        "cut": {},
        "doomed": {doomed: "unwrapped"},
        "either": {doomed: "never unwrapped", kept: "unwrapped"},
        "kept": {kept: "never unwrapped"},
    }
    assert objects["doomed"]["keys"][0]["unwrapped"]["lastBy"].endswith("user/demo")
    assert {key["material"] for one in objects.values() for key in one["keys"]} == {"newest"}

    server.client().schedule_key_deletion(KeyId=doomed, PendingWindowInDays=7)
    (tmp_path / "cut").unlink()
    code, objects, summary = inventory(server, str(tmp_path))
    assert code == 1
    assert {name: (one["lost"], one["lostOnceScheduled"]) for name, one in objects.items()} == {
        "doomed": ("none", "whole"),
        "either": ("none", "none"),
        "kept": ("none", "none"),
    }
    assert objects["doomed"]["keys"][0]["keyState"]["state"] == "scheduled for deletion"
    server.client().cancel_key_deletion(KeyId=doomed)
    code, objects, _ = inventory(server, str(tmp_path))
    assert (code, objects["doomed"]["keys"][0]["keyState"]["state"]) == (0, "disabled")


def test_a_bucket(server: Server, keys: tuple[str, str], aws: str) -> None:
    s3: Any = boto3.client("s3", endpoint_url=aws)  # Any: boto3 makes its clients at run time
    s3.create_bucket(Bucket="inventoried")
    message = sealed(keys[0])
    for name, body in (("in/a", message), ("in/b", sealed(keys[1])), ("in/notes", b"plain"), ("out/c", message)):
        s3.put_object(Bucket="inventoried", Key=name, Body=body)
    open_with(keys[0], message)
    code, objects, summary = inventory(server, "--s3-endpoint", aws, "s3://inventoried/in/")
    assert code == 0
    assert {name: one["keys"][0]["status"] for name, one in objects.items()} == {"a": "unwrapped", "b": "never unwrapped"}
    assert (summary["objects"]["crawled"], summary["objects"]["without data keys"]) == (3, 1)
    code, objects, _ = inventory(server, "--s3-endpoint", aws, "--key", keys[1], "s3://inventoried/")
    assert (code, list(objects)) == (1, ["b"])
