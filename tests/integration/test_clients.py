"""The clients that people have, unmodified, after `eval "$(keytrail env)"`: the aws CLI, boto3, the AWS Encryption SDK.

Whatever they do, `trace` tells the story of the blob that they got, and `query` finds it by its context.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiobotocore.session
import aws_encryption_sdk
import boto3
import pytest

from tests.integration.components.node_client import NodeEncryptionSdk
from tests.integration.conftest import REGION, Server, keytrail_command, plain_environment

DEMO = "arn:aws:iam::111122223333:user/demo"
CONTEXT = {"tenant": "acme", "object": "1"}
AES_256 = ["--key-id", "alias/demo", "--key-spec", "AES_256"]


@dataclass(frozen=True)
class Shell:
    """A shell in which `eval "$(keytrail env)"` was run. `folder` is where it stands."""

    environment: dict[str, str]
    folder: Path

    def run(self, *argv: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(argv, env=self.environment, cwd=self.folder, capture_output=True, timeout=60)

    def aws(self, operation: str, *options: str) -> dict[str, Any]:  # Any: JSON
        """The answer to `aws kms OPERATION`."""
        done = self.run(self.tool("aws"), "kms", operation, "--output", "json", *options)
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def aws_error(self, operation: str, *options: str) -> str:
        """What `aws kms OPERATION` says when it is refused."""
        done = self.run(self.tool("aws"), "kms", operation, *options)
        assert done.returncode != 0, done.stdout.decode()
        return done.stderr.decode()

    def decrypt(self, blob: str, *options: str) -> str:
        """The plaintext of `blob`, both base64, by the aws CLI."""
        (self.folder / "blob").write_bytes(base64.b64decode(blob))
        plaintext: str = self.aws("decrypt", "--ciphertext-blob", "fileb://blob", *options)["Plaintext"]
        return plaintext

    def keytrail(self, *argv: str) -> subprocess.CompletedProcess[bytes]:
        return self.run(keytrail_command(), *argv)

    def trace(self, blob: str) -> list[tuple[str, str, str, dict[str, str], str | None]]:
        """The story of `blob` (base64): step, event, caller, context, error of each entry."""
        done = self.keytrail("trace", "--json", blob)
        assert done.returncode == 0, done.stderr.decode()
        story = json.loads(done.stdout)
        assert story["fingerprint"] == fingerprint(blob)
        return [
            (entry["step"], entry["event"], entry["caller"], next(iter(entry["context"].values()), {}), entry["error"])
            for entry in story["entries"]
        ]

    def query(self, *filters: str) -> list[dict[str, Any]]:  # Any: JSON
        """The records that `keytrail query` finds."""
        done = self.keytrail("query", "--format", "json", *filters)
        assert done.returncode == 0, done.stderr.decode()
        return [json.loads(line) for line in done.stdout.splitlines()]

    @staticmethod
    def tool(name: str) -> str:
        return str(Path(sys.executable).with_name(name))


def fingerprint(blob: str) -> str:
    return hashlib.sha256(base64.b64decode(blob)).hexdigest()


@pytest.fixture(scope="module")
def shell(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("shell")
    before = plain_environment() | {
        "HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
        "KEYTRAIL_DATA": str(server.data),
        "KEYTRAIL_LISTEN": urlsplit(server.url).netloc,
        "AWS_ACCESS_KEY_ID": "AKIAOFANOTHERACCOUNT",  # would win over the credentials file
    }
    script = f'eval "$({keytrail_command()} env)" && env -0'
    done = subprocess.run(["bash", "-c", script], env=before, cwd=folder, capture_output=True, check=True)
    after = dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)
    return Shell(after, folder)


@pytest.fixture
def evaluated(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as one that was started from the shell."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in shell.environment.items():
        if name.startswith("AWS_") or name in ("HOME", "NO_PROXY"):
            monkeypatch.setenv(name, value)


def test_env_says_where_and_who_and_takes_away_what_would_contradict(shell: Shell, server: Server) -> None:
    assert shell.environment["AWS_ENDPOINT_URL_KMS"] == shell.environment["AWS_ENDPOINT_URL_STS"] == server.url
    assert shell.environment["AWS_SHARED_CREDENTIALS_FILE"] == str(server.data / "credentials")
    assert shell.environment["AWS_REGION"] == REGION
    assert "AWS_ACCESS_KEY_ID" not in shell.environment


GENERATED: list[tuple[str, list[str], int, dict[str, str]]] = [
    ("context in shorthand", [*AES_256, "--encryption-context", "tenant=acme,object=1"], 32, CONTEXT),
    ("context in JSON", [*AES_256, "--encryption-context", json.dumps(CONTEXT)], 32, CONTEXT),
    ("no context", AES_256, 32, {}),
    ("64 bytes", ["--key-id", "alias/demo", "--number-of-bytes", "64", "--encryption-context", "tenant=acme"], 64,
     {"tenant": "acme"}),
    ("JSON", ["--cli-input-json", json.dumps({"KeyId": "alias/demo", "KeySpec": "AES_128", "EncryptionContext": CONTEXT})], 16,
     CONTEXT),
]  # fmt: skip


@pytest.mark.parametrize(("options", "size", "context"), [row[1:] for row in GENERATED], ids=[row[0] for row in GENERATED])
def test_the_aws_cli_generates_and_decrypts(shell: Shell, options: Sequence[str], size: int, context: dict[str, str]) -> None:
    made = shell.aws("generate-data-key", *options)
    assert len(base64.b64decode(made["Plaintext"])) == size
    blob = made["CiphertextBlob"]
    given = ["--encryption-context", json.dumps(context)] if context else []
    assert shell.decrypt(blob, *given) == made["Plaintext"]
    assert shell.trace(blob) == [
        ("made", "GenerateDataKey", DEMO, context, None),
        ("unwrapped", "Decrypt", DEMO, context, None),
    ]
    (record,) = shell.query("--event", "GenerateDataKey", "--fingerprint", fingerprint(blob))
    assert record["requestParameters"].get("encryptionContext", {}) == context
    assert record["sourceIPAddress"] == "127.0.0.1"
    assert record["userAgent"].startswith("aws-cli/")


def test_the_aws_cli_names_a_key_in_four_forms(shell: Shell) -> None:
    arn = shell.aws("describe-key", "--key-id", "alias/demo")["KeyMetadata"]["Arn"]
    alias_arn = f"{arn.rpartition(':')[0]}:alias/demo"
    key_id = arn.rpartition("/")[2]
    for form in (arn, key_id, "alias/demo", alias_arn):
        made = shell.aws("generate-data-key-without-plaintext", "--key-id", form, "--key-spec", "AES_256")
        assert made["KeyId"] == arn
        (record,) = shell.query("--fingerprint", fingerprint(made["CiphertextBlob"]), "--key", arn)
        assert record["requestParameters"]["keyId"] == form
        assert [resource["ARN"] for resource in record["resources"]] == [arn]


def test_a_refused_attempt_is_in_the_story(shell: Shell) -> None:
    made = shell.aws("generate-data-key", *AES_256, "--encryption-context", "tenant=globex")
    blob = made["CiphertextBlob"]
    (shell.folder / "blob").write_bytes(base64.b64decode(blob))
    refusal = shell.aws_error("decrypt", "--ciphertext-blob", "fileb://blob", "--encryption-context", "tenant=acme")
    assert "(InvalidCiphertextException) when calling the Decrypt operation" in refusal
    assert shell.decrypt(blob, "--encryption-context", "tenant=globex") == made["Plaintext"]
    assert shell.trace(blob) == [
        ("made", "GenerateDataKey", DEMO, {"tenant": "globex"}, None),
        ("refused", "Decrypt", DEMO, {"tenant": "acme"}, "InvalidCiphertextException"),
        ("unwrapped", "Decrypt", DEMO, {"tenant": "globex"}, None),
    ]


def test_the_aws_cli_does_the_rest(shell: Shell) -> None:
    (shell.folder / "plain").write_bytes(b"some text")
    blob = shell.aws("encrypt", "--key-id", "alias/demo", "--plaintext", "fileb://plain")["CiphertextBlob"]
    assert base64.b64decode(shell.decrypt(blob)) == b"some text"
    (shell.folder / "blob").write_bytes(base64.b64decode(blob))
    moved = shell.aws(
        "re-encrypt", "--ciphertext-blob", "fileb://blob", "--destination-key-id", "alias/demo",
        "--destination-encryption-context", "tenant=acme",
    )["CiphertextBlob"]  # fmt: skip
    assert base64.b64decode(shell.decrypt(moved, "--encryption-context", "tenant=acme")) == b"some text"
    assert [step for step, *_ in shell.trace(blob)] == ["made", "unwrapped", "re-encrypted", "unwrapped"]
    assert len(base64.b64decode(shell.aws("generate-random", "--number-of-bytes", "16")["Plaintext"])) == 16

    key_id = shell.aws("create-key", "--description", "second", "--tags", "TagKey=team,TagValue=claims")["KeyMetadata"]["KeyId"]
    assert (
        shell.run(shell.tool("aws"), "kms", "create-alias", "--alias-name", "alias/two", "--target-key-id", key_id).returncode
        == 0
    )
    assert {"alias/demo", "alias/two"} == {alias["AliasName"] for alias in shell.aws("list-aliases")["Aliases"]}
    assert key_id in {key["KeyId"] for key in shell.aws("list-keys")["Keys"]}
    assert shell.aws("list-resource-tags", "--key-id", key_id)["Tags"] == [{"TagKey": "team", "TagValue": "claims"}]
    assert (
        shell.aws("schedule-key-deletion", "--key-id", key_id, "--pending-window-in-days", "7")["KeyState"] == "PendingDeletion"
    )
    assert "(KMSInvalidStateException)" in shell.aws_error("generate-data-key", "--key-id", "alias/two", "--key-spec", "AES_256")
    assert "(InvalidArnException)" in shell.aws_error("list-grants", "--key-id", "alias/demo")


def test_the_aws_cli_makes_uses_and_ends_grants(shell: Shell) -> None:
    key = shell.aws("describe-key", "--key-id", "alias/demo")["KeyMetadata"]["Arn"]
    grantee, operations = f"arn:aws:iam::{key.split(':')[4]}:role/app", ["Decrypt", "GenerateDataKey"]
    made = shell.aws("create-grant", "--key-id", key, "--grantee-principal", grantee, "--operations", *operations)
    [listed] = shell.aws("list-grants", "--key-id", key, "--grant-id", made["GrantId"])["Grants"]
    assert (listed["GranteePrincipal"], listed["Operations"]) == (grantee, operations)
    blob = shell.aws("generate-data-key", *AES_256, "--grant-tokens", made["GrantToken"])["CiphertextBlob"]
    assert "(InvalidGrantTokenException)" in shell.aws_error("generate-data-key", *AES_256, "--grant-tokens", "token-1")
    assert shell.run(shell.tool("aws"), "kms", "retire-grant", "--grant-token", made["GrantToken"]).returncode == 0
    assert shell.aws("list-grants", "--key-id", key, "--grant-id", made["GrantId"])["Grants"] == []
    (used,) = shell.query("--event", "GenerateDataKey", "--fingerprint", fingerprint(blob))
    assert used["requestParameters"]["grantTokens"] == [made["GrantToken"]]
    [created] = [record for record in shell.query("--event", "CreateGrant") if record.get("responseElements")]
    assert created["responseElements"] == {"grantId": made["GrantId"], "keyId": key}
    [retired] = [record for record in shell.query("--event", "RetireGrant") if record.get("responseElements")]
    assert retired["responseElements"] == {"grantId": made["GrantId"], "keyId": key}


@pytest.mark.usefixtures("evaluated")
def test_boto3(shell: Shell) -> None:
    kms = boto3.Session().client("kms")
    made = kms.generate_data_key(KeyId="alias/demo", KeySpec="AES_256", EncryptionContext={"tenant": "boto3"})
    for _ in range(2):
        again = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"tenant": "boto3"})
        assert again["Plaintext"] == made["Plaintext"]
        assert again["KeyId"] == made["KeyId"]
    kms.close()
    story = shell.trace(base64.b64encode(made["CiphertextBlob"]).decode())
    assert [entry[:2] for entry in story] == [("made", "GenerateDataKey"), *[("unwrapped", "Decrypt")] * 2]
    found = shell.query("--context", "tenant=boto3")
    assert [record["eventName"] for record in found] == ["GenerateDataKey", "Decrypt", "Decrypt"]
    assert all(record["userAgent"].startswith("Boto3/") for record in found)
    assert not shell.query("--context", "tenant=boto3", "--context", "object=1")


def test_the_aws_cli_assumes_a_role_by_its_profile(shell: Shell) -> None:
    role = "arn:aws:iam::111122223333:role/ci/builder"
    statement = {"Effect": "Allow", "Principal": {"AWS": DEMO}, "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"]}
    (shell.folder / "trust.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    added = shell.keytrail("role", "add", role, "--trust", "trust.json")
    assert added.returncode == 0, added.stderr.decode()
    config = shell.folder / "aws-config"
    config.write_text(f"[profile ci]\nrole_arn = {role}\nsource_profile = default\nrole_session_name = run-1\n")
    by_role = Shell(shell.environment | {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "ci"}, shell.folder)
    session = "arn:aws:sts::111122223333:assumed-role/builder/run-1"
    who = by_role.run(by_role.tool("aws"), "sts", "get-caller-identity", "--output", "json")
    assert json.loads(who.stdout)["Arn"] == session, who.stderr.decode()
    made = by_role.aws("generate-data-key", *AES_256, "--encryption-context", "tenant=role")
    by_role.decrypt(made["CiphertextBlob"], "--encryption-context", "tenant=role")
    assert [caller for _, _, caller, _, _ in shell.trace(made["CiphertextBlob"])] == [session] * 2
    (record,) = shell.query("--event", "GenerateDataKey", "--context", "tenant=role")
    assert record["userIdentity"]["sessionContext"]["sessionIssuer"]["arn"] == role
    asked = shell.query("--event", "AssumeRole")
    assert {(one["eventSource"], one["requestParameters"]["roleArn"]) for one in asked} == {("sts.amazonaws.com", role)}
    assert record["userIdentity"]["accessKeyId"] in {(one["responseElements"] or {}).get("accessKeyId") for one in asked}


@pytest.mark.usefixtures("evaluated")
def test_the_aws_encryption_sdk(shell: Shell) -> None:
    key = shell.aws("describe-key", "--key-id", "alias/demo")["KeyMetadata"]["Arn"]
    client = aws_encryption_sdk.EncryptionSDKClient()
    provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key])
    sealed, header = client.encrypt(source=b"in confidence", key_provider=provider, encryption_context={"tenant": "sdk"})
    opened, _ = client.decrypt(source=sealed, key_provider=provider)
    assert opened == b"in confidence"
    (data_key,) = header.encrypted_data_keys
    steps = shell.trace(base64.b64encode(data_key.encrypted_data_key).decode())
    assert [(step, caller, context["tenant"]) for step, _, caller, context, _ in steps] == [
        ("made", DEMO, "sdk"),
        ("unwrapped", DEMO, "sdk"),
    ]
    assert [record["eventName"] for record in shell.query("--context", "tenant=sdk")] == ["GenerateDataKey", "Decrypt"]


@pytest.mark.usefixtures("evaluated")
def test_the_aws_encryption_sdk_for_javascript_and_python_read_each_other(shell: Shell) -> None:
    key = shell.aws("describe-key", "--key-id", "alias/demo")["KeyMetadata"]["Arn"]
    javascript = NodeEncryptionSdk(key, shell.environment)
    python = aws_encryption_sdk.EncryptionSDKClient()
    provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key])
    message = javascript.encrypt(b"in confidence", {"tenant": "node"})
    assert javascript.decrypt(message, {"tenant": "node"}) == b"in confidence"
    opened, header = python.decrypt(source=message, key_provider=provider)
    assert (opened, header.encryption_context["tenant"]) == (b"in confidence", "node")
    message, _ = python.encrypt(source=b"in confidence", key_provider=provider, encryption_context={"tenant": "node"})
    assert javascript.decrypt(message, {"tenant": "node"}) == b"in confidence"
    (data_key,) = header.encrypted_data_keys
    steps = shell.trace(base64.b64encode(data_key.encrypted_data_key).decode())
    assert [(step, caller, context["tenant"]) for step, _, caller, context, _ in steps] == [
        ("made", DEMO, "node"),
        ("unwrapped", DEMO, "node"),
        ("unwrapped", DEMO, "node"),
    ]
    agents = {record["userAgent"].partition("/")[0] for record in shell.query("--context", "tenant=node")}
    assert {"aws-sdk-js", "Boto3"} <= agents


@pytest.mark.usefixtures("evaluated")
async def test_aiobotocore_makes_calls_at_once(shell: Shell) -> None:
    session = aiobotocore.session.get_session()
    async with session.create_client("kms") as kms:
        made = await asyncio.gather(
            *(
                kms.generate_data_key(KeyId="alias/demo", KeySpec="AES_256", EncryptionContext={"tenant": "aio", "n": str(n)})
                for n in range(10)
            )
        )
        opened = await asyncio.gather(
            *(
                kms.decrypt(CiphertextBlob=one["CiphertextBlob"], EncryptionContext={"tenant": "aio", "n": str(n)})
                for n, one in enumerate(made)
            )
        )
        with pytest.raises(kms.exceptions.InvalidCiphertextException):
            await kms.decrypt(CiphertextBlob=made[0]["CiphertextBlob"], EncryptionContext={"tenant": "aio", "n": "1"})
    assert [one["Plaintext"] for one in opened] == [one["Plaintext"] for one in made]
    async with session.create_client("sts") as sts:
        assert (await sts.get_caller_identity())["Arn"] == DEMO
    found = shell.query("--context", "tenant=aio")
    told = [(record["eventName"], record.get("errorCode")) for record in found]
    assert sorted(told, key=str) == [
        ("Decrypt", "InvalidCiphertextException"),
        *[("Decrypt", None)] * 10,
        *[("GenerateDataKey", None)] * 10,
    ]


def test_query_finds_every_call_of_a_tenant(shell: Shell) -> None:
    before = len(shell.query("--context", "tenant=initech"))
    made = shell.aws("generate-data-key", *AES_256, "--encryption-context", "tenant=initech,object=1")
    shell.decrypt(made["CiphertextBlob"], "--encryption-context", "tenant=initech,object=1")
    found = shell.query("--context", "tenant=initech", "--since", "1h", "--caller", DEMO)
    assert [record["eventName"] for record in found[before:]] == ["GenerateDataKey", "Decrypt"]
    assert shell.query("--context", "tenant=initech", "--since", "2100-01-01") == []
