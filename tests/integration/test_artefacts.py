"""Artefacts as real tools make them, through a running keytrail; then `keytrail trace` names who unwrapped their keys."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aws_encryption_sdk
import boto3
import credstash  # type: ignore[import-untyped] # It carries no types.
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from aws_encryption_sdk.key_providers.kms import KMSMasterKey
from s3_encryption import S3EncryptionClient, S3EncryptionClientConfig  # type: ignore[import-untyped] # The same.
from s3_encryption.materials.kms_keyring import KmsKeyring  # type: ignore[import-untyped] # The same.
from tink import aead  # type: ignore[import-untyped] # It carries no types.
from typer.testing import CliRunner

from audit import cli
from tests.integration.components.seaweedfs import SeaweedFS, seaweedfs
from tests.integration.conftest import LIMIT_S, Server, keytrail_command

CONTEXT = {"tenant": "acme"}


def traced(server: Server, artefact: Path, code: int = 0) -> list[dict[str, Any]]:  # Any: JSON
    """What `keytrail trace` tells of each key in the artefact; it exits with `code`."""
    done = CliRunner().invoke(cli.app, ["trace", "--json", "--data", str(server.data), str(artefact)])
    assert done.exit_code == code, done.stderr
    (told,) = json.loads(done.stdout)
    assert told["fault"] is None
    keys: list[dict[str, Any]] = told["keys"]
    return keys


def unwrapped_by(key: dict[str, Any]) -> tuple[int, list[str]]:
    """How often, and by whom: the name in its ARN."""
    count = key["story"]["counts"].get("unwrapped", {"times": 0, "callers": []})
    return count["times"], [caller.rpartition(":")[2] for caller in count["callers"]]


@pytest.fixture
def key_arn(server: Server) -> str:
    return server.client().describe_key(KeyId="alias/demo")["KeyMetadata"]["Arn"]


def test_a_message_of_the_encryption_sdk(server: Server, key_arn: str, tmp_path: Path) -> None:
    client = aws_encryption_sdk.EncryptionSDKClient()
    provider = KMSMasterKey(key_id=key_arn, client=server.client())
    sealed, _ = client.encrypt(source=b"in confidence", key_provider=provider, encryption_context=CONTEXT)
    artefact = tmp_path / "message"
    artefact.write_bytes(sealed)
    (before,) = traced(server, artefact)
    assert unwrapped_by(before) == (0, [])
    opened, _ = client.decrypt(source=sealed, key_provider=provider)
    assert opened == b"in confidence"
    (key,) = traced(server, artefact)
    assert (key["key"], key["context"]["tenant"]) == (key_arn, "acme")
    assert unwrapped_by(key) == (1, ["user/demo"])
    assert key["story"]["counts"]["made"]["times"] == 1


class Kms(pe.KmsClient):  # type: ignore[misc] # pyarrow has no types.
    """pyarrow's key tools on AWS KMS, as their documentation shows it."""

    def __init__(self, client: Any) -> None:
        super().__init__()
        self._client = client

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        sealed = self._client.encrypt(KeyId=master_key_identifier, Plaintext=key_bytes, EncryptionContext=CONTEXT)
        return base64.b64encode(sealed["CiphertextBlob"]).decode()

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        blob = base64.b64decode(wrapped_key)
        plaintext: bytes = self._client.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]
        return plaintext


@pytest.mark.parametrize("double_wrapping", [False, True])
@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_an_encrypted_parquet_file(
    server: Server, key_arn: str, tmp_path: Path, double_wrapping: bool, plaintext_footer: bool
) -> None:
    path = tmp_path / "table.parquet"
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    factory, connection = pe.CryptoFactory(lambda _: Kms(server.client())), pe.KmsConnectionConfig()
    how = pe.EncryptionConfiguration(
        key_arn,
        column_keys={"alias/demo": ["a"]},
        double_wrapping=double_wrapping,
        plaintext_footer=plaintext_footer,
    )
    properties = factory.file_encryption_properties(connection, how, str(path))
    with pq.ParquetWriter(str(path), table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    opening = factory.file_decryption_properties(connection, pe.DecryptionConfiguration(), str(path))
    assert pq.ParquetFile(str(path), decryption_properties=opening).read() == table
    keys = [key for key in traced(server, path) if key["fingerprint"] is not None]
    assert key_arn in [key["key"] for key in keys]
    assert all(unwrapped_by(key)[1] == ["user/demo"] for key in keys)


def test_blobs_somewhere_in_a_state_file(server: Server, tmp_path: Path) -> None:
    client = server.client()
    blobs = [client.generate_data_key(KeyId="alias/demo", KeySpec="AES_256")["CiphertextBlob"] for _ in range(3)]
    client.decrypt(CiphertextBlob=blobs[1])
    state = tmp_path / "state"
    state.write_text(json.dumps({"outputs": [{"value": base64.b64encode(blob).decode()} for blob in blobs]}, indent=1))
    assert [unwrapped_by(key) for key in traced(server, state)] == [(0, []), (1, ["user/demo"]), (0, [])]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("yaml", "password: hunter2\nlist:\n  - a\n  - b\n"),
        ("json", '{"password": "hunter2"}'),
        ("env", "PASSWORD=hunter2\n"),
        ("ini", "[database]\npassword = hunter2\n"),
        ("bin", "hunter2"),
    ],
)
def test_a_file_of_sops(server: Server, key_arn: str, tmp_path: Path, suffix: str, content: str) -> None:
    clear, sealed = tmp_path / f"clear.{suffix}", tmp_path / f"sealed.{suffix}"
    clear.write_text(content)
    access_key_id, secret_access_key = server.credentials()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": access_key_id,
        "AWS_SECRET_ACCESS_KEY": secret_access_key,
    }

    def sops(*argv: str) -> str:
        program = str(Path(sys.executable).with_name("sops"))
        return subprocess.run([program, *argv], env=environment, check=True, capture_output=True, text=True).stdout

    sealed.write_text(sops("encrypt", "--kms", key_arn, "--encryption-context", "tenant:acme", str(clear)))
    (before,) = traced(server, sealed)
    assert (before["key"], before["context"], unwrapped_by(before)) == (key_arn, CONTEXT, (0, []))
    assert "hunter2" in sops("decrypt", str(sealed))
    assert unwrapped_by(traced(server, sealed)[0]) == (1, ["user/demo"])


def test_a_secret_under_a_tink_envelope(server: Server, key_arn: str, tmp_path: Path) -> None:
    aead.register()
    remote = KmsAead(server.client(), key_arn)
    envelope = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, remote)
    artefact = tmp_path / "secret"
    artefact.write_bytes(envelope.encrypt(b"in confidence", b"associated"))
    assert envelope.decrypt(artefact.read_bytes(), b"associated") == b"in confidence"
    (key,) = traced(server, artefact)
    assert (key["format"], unwrapped_by(key)) == ("Tink KmsEnvelopeAead", (1, ["user/demo"]))


class KmsAead(aead.Aead):  # type: ignore[misc] # Tink carries no types.
    """Tink's remote key, as its integration with AWS KMS makes it: Tink's own ships no client that takes an endpoint."""

    def __init__(self, client: Any, key_arn: str) -> None:
        self._client = client
        self._key_arn = key_arn

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        blob: bytes = self._client.encrypt(KeyId=self._key_arn, Plaintext=plaintext)["CiphertextBlob"]
        return blob

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        plaintext: bytes = self._client.decrypt(CiphertextBlob=ciphertext)["Plaintext"]
        return plaintext


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """S3, a real one."""
    with seaweedfs(tmp_path_factory.mktemp("weed")) as running:
        yield running


def client_of(aws: str, service: str) -> Any:  # boto3's clients have no type of their own
    return boto3.client(service, endpoint_url=aws, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")  # type: ignore[call-overload] # The service is any.


def traced_s3(server: Server, storage: SeaweedFS, url: str) -> dict[str, list[dict[str, Any]]]:  # Any: JSON
    """What `keytrail trace` tells of each key, by artefact."""
    argv = [keytrail_command(), "trace", "--json", "--data", str(server.data), "--s3-endpoint", storage.url, url]
    done = subprocess.run(argv, env={**os.environ, **storage.environment}, capture_output=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr.decode()
    return {told["artefact"]: told["keys"] for told in json.loads(done.stdout)}


def test_objects_of_the_s3_encryption_client(server: Server, storage: SeaweedFS, key_arn: str) -> None:
    s3 = storage.client()
    s3.create_bucket(Bucket="secrets")
    sealing = S3EncryptionClient(storage.client(), S3EncryptionClientConfig(KmsKeyring(server.client(), key_arn)))
    for name in ("in/one", "in/two"):
        sealing.put_object(Bucket="secrets", Key=name, Body=b"in confidence", EncryptionContext=CONTEXT)
    assert sealing.get_object(Bucket="secrets", Key="in/two", EncryptionContext=CONTEXT)["Body"].read() == b"in confidence"
    told = traced_s3(server, storage, "s3://secrets/in/")
    (one,), (two,) = told["s3://secrets/in/one"], told["s3://secrets/in/two"]
    assert len(told) == 2 and one["context"]["tenant"] == "acme"
    assert [unwrapped_by(key) for key in (one, two)] == [(0, []), (1, ["user/demo"])]


def test_an_object_whose_key_is_in_an_instruction_file(server: Server, storage: SeaweedFS, key_arn: str) -> None:
    """The client for Python only reads such files; so what it wrote is put where clients for other languages put it."""
    s3 = storage.client()
    s3.create_bucket(Bucket="instructed")
    client = S3EncryptionClient(storage.client(), S3EncryptionClientConfig(KmsKeyring(server.client(), key_arn)))
    client.put_object(Bucket="instructed", Key="in/a", Body=b"in confidence", EncryptionContext=CONTEXT)
    written = s3.get_object(Bucket="instructed", Key="in/a")
    with_object = {name: written["Metadata"][name] for name in ("x-amz-c", "x-amz-d", "x-amz-i")}
    instruction = json.dumps({name: value for name, value in written["Metadata"].items() if name not in with_object})
    s3.put_object(Bucket="instructed", Key="in/a", Body=written["Body"].read(), Metadata=with_object)
    s3.put_object(Bucket="instructed", Key="in/a.instruction", Body=instruction, Metadata={"x-amz-crypto-instr-file": ""})
    assert client.get_object(Bucket="instructed", Key="in/a", EncryptionContext=CONTEXT)["Body"].read() == b"in confidence"
    for url in ("s3://instructed/in/a", "s3://instructed/in/"):
        told = traced_s3(server, storage, url)
        (key,) = told["s3://instructed/in/a"]
        assert len(told) == 1 and key["where"].startswith("instruction file")
        assert (key["context"]["tenant"], unwrapped_by(key)) == ("acme", (1, ["user/demo"]))


def test_items_of_credstash(server: Server, aws: str, key_arn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access_key_id, secret_access_key = server.credentials()
    for name, value in (
        ("AWS_ENDPOINT_URL_KMS", server.url),
        ("AWS_ENDPOINT_URL_DYNAMODB", aws),
        ("AWS_ACCESS_KEY_ID", access_key_id),
        ("AWS_SECRET_ACCESS_KEY", secret_access_key),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    client_of(aws, "dynamodb").create_table(
        TableName="credential-store",
        KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}, {"AttributeName": "version", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("name", "version")],
        BillingMode="PAY_PER_REQUEST",
    )
    credstash.putSecret("db.password", "hunter2", kms_key=key_arn, region="us-east-1", context=CONTEXT)
    assert credstash.getSecret("db.password", region="us-east-1", context=CONTEXT) == "hunter2"
    items = client_of(aws, "dynamodb").scan(TableName="credential-store")["Items"]
    dump = tmp_path / "scan.json"
    dump.write_text(json.dumps({"Items": items}, default=lambda binary: base64.b64encode(binary).decode()))  # as the aws CLI does
    (key,) = traced(server, dump)
    assert (key["context"], unwrapped_by(key)) == (None, (1, ["user/demo"]))
