"""Artefacts as real tools make them, through a running keytrail; then `keytrail trace` names who unwrapped their keys."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import aws_encryption_sdk
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from aws_encryption_sdk.key_providers.kms import KMSMasterKey

from tests.integration.conftest import LIMIT_S, Server, keytrail_command

DEMO = "arn:aws:iam::000000000000:user/demo"
CONTEXT = {"tenant": "acme"}


def traced(server: Server, artefact: Path) -> list[dict[str, Any]]:  # Any: JSON
    """What `keytrail trace` tells of each key in the artefact."""
    argv = [keytrail_command(), "trace", "--json", "--data", str(server.data), str(artefact)]
    done = subprocess.run(argv, capture_output=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr.decode()
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
