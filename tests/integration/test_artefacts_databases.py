"""Keys in databases, as real clients put them there through a running keytrail; `keytrail trace` names who unwrapped them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aws_encryption_sdk
import boto3
import bson
import pytest
from aws_cryptographic_material_providers.keystore import KeyStore  # type: ignore[import-untyped] # It carries no types.
from aws_cryptographic_material_providers.keystore.config import KeyStoreConfig  # type: ignore[import-untyped] # The same.
from aws_cryptographic_material_providers.keystore.models import (  # type: ignore[import-untyped] # The same.
    CreateKeyInput,
    CreateKeyStoreInput,
    KMSConfigurationKmsKeyArn,
)
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders  # type: ignore[import-untyped] # The same.
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig  # type: ignore[import-untyped] # The same.
from aws_cryptographic_material_providers.mpl.models import (  # type: ignore[import-untyped] # The same.
    CreateAwsKmsHierarchicalKeyringInput,
)
from bson import json_util
from dynamodb_encryption_sdk.encrypted.client import EncryptedClient  # type: ignore[import-untyped] # The same.
from dynamodb_encryption_sdk.material_providers.aws_kms import (  # type: ignore[import-untyped] # The same.
    AwsKmsCryptographicMaterialsProvider,
)
from pymongo import MongoClient
from pymongo.encryption_options import AutoEncryptionOpts
from pymongo.synchronous.encryption import _EncryptionIO
from pymongocrypt.mongocrypt import MongoCryptOptions  # type: ignore[import-untyped] # The same.
from pymongocrypt.synchronous.explicit_encrypter import ExplicitEncrypter  # type: ignore[import-untyped] # The same.

from tests.audit.query.artifacts.test_envelopes import V2_PREFIX, part
from tests.integration.components.certificates import CertificateAuthority
from tests.integration.conftest import REGION, Server, keytrail_command
from tests.integration.test_artefacts import CONTEXT, client_of, traced, unwrapped_by

READER = "arn:aws:iam::111122223333:user/reader"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(initialised: Path, tmp_path_factory: pytest.TempPathFactory, authority: CertificateAuthority) -> Iterator[Server]:
    """A running server, also with TLS, and with a second caller."""
    data = tmp_path_factory.mktemp("server") / "data"
    shutil.copytree(initialised, data)
    subprocess.run([keytrail_command(), "caller", "add", READER, "--data", str(data)], check=True, capture_output=True)
    leaf = authority.server("127.0.0.1")
    settings = {"TLS_LISTEN": "127.0.0.1:0", "TLS_CERTIFICATE": str(leaf.chain), "TLS_KEY": str(leaf.key)}
    running = Server(data, {f"KEYTRAIL_{name}": value for name, value in settings.items()}).start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def key_arn(server: Server) -> str:
    return server.client().describe_key(KeyId="alias/demo")["KeyMetadata"]["Arn"]


def kms_of(server: Server, credentials: tuple[str, str]) -> Any:  # boto3's clients have no type of their own
    access_key_id, secret_access_key = credentials
    return boto3.client(
        "kms",
        endpoint_url=server.url,
        region_name=REGION,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
    )


def exported(items: list[dict[str, Any]]) -> str:  # Any: DynamoDB's values
    """Items in DynamoDB's JSON, as the aws CLI prints them."""
    return json.dumps({"Items": items}, default=lambda binary: base64.b64encode(binary).decode())


def test_items_of_the_dynamodb_encryption_client(server: Server, aws: str, key_arn: str, tmp_path: Path) -> None:
    dynamodb = client_of(aws, "dynamodb")
    dynamodb.create_table(
        TableName="patients",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )

    def encrypting(credentials: tuple[str, str]) -> Any:  # It has no types.
        kms = kms_of(server, credentials)
        return EncryptedClient(dynamodb, AwsKmsCryptographicMaterialsProvider(key_arn, regional_clients={REGION: kms}))

    writing, reading = encrypting(server.credentials()), encrypting(server.credentials("reader"))
    for number in ("1", "2"):
        writing.put_item(TableName="patients", Item={"id": {"S": number}, "diagnosis": {"S": "in confidence"}})
    opened = reading.get_item(TableName="patients", Key={"id": {"S": "2"}})["Item"]
    assert opened["diagnosis"] == {"S": "in confidence"}
    items = sorted(dynamodb.scan(TableName="patients")["Items"], key=lambda item: item["id"]["S"])
    assert b"confidence" not in items[0]["diagnosis"]["B"]
    dump = tmp_path / "scan.json"
    dump.write_text(exported(items))
    one, two = traced(server, dump)
    assert [unwrapped_by(key) for key in (one, two)] == [(0, []), (1, ["user/reader"])]
    made = [entry for entry in two["story"]["entries"] if entry["step"] == "made"]
    assert made[0]["caller"].endswith("user/demo") and two["context"].items() <= made[0]["context"]["encryptionContext"].items()


class KeyVault(_EncryptionIO):
    """pymongo's own I/O, which speaks to KMS as it does for every application; the collection is a dict, not a server's."""

    def __init__(self, documents: dict[bytes, bytes], options: AutoEncryptionOpts) -> None:
        unused: MongoClient[dict[str, Any]] = MongoClient(connect=False)
        super().__init__(None, unused["keyvault"]["keys"], None, options)
        unused.close()
        self.documents = documents

    def insert_data_key(self, data_key: bytes) -> bson.Binary:
        name = bson.decode(data_key)["_id"]
        self.documents[bytes(name)] = bytes(data_key)
        return bson.Binary(name, 4)

    def fetch_keys(self, filter: bytes) -> Iterator[bytes]:  # type: ignore[override] # Its own is a generator that is sent nothing.
        yield from self.documents.values()


def test_a_key_vault_of_mongodb(server: Server, key_arn: str, tmp_path: Path, authority: CertificateAuthority) -> None:
    documents: dict[bytes, bytes] = {}
    place = urlsplit(server.tls_url).netloc

    def encrypter(credentials: tuple[str, str]) -> Any:  # It has no types.
        providers: Mapping[str, Any] = {"aws": {"accessKeyId": credentials[0], "secretAccessKey": credentials[1]}}
        options = AutoEncryptionOpts(providers, "keyvault.keys", kms_tls_options={"aws": {"tlsCAFile": str(authority.bundle)}})
        return ExplicitEncrypter(KeyVault(documents, options), MongoCryptOptions(providers, bypass_encryption=True))

    writing, reading = encrypter(server.credentials()), encrypter(server.credentials("reader"))
    name = writing.create_data_key("aws", {"region": REGION, "key": key_arn, "endpoint": place})
    dump = tmp_path / "keys.bson"
    dump.write_bytes(b"".join(documents.values()))
    (before,) = traced(server, dump)
    assert (before["key"], unwrapped_by(before)) == (key_arn, (0, []))
    value = bson.encode({"v": "in confidence"})
    sealed = writing.encrypt(value, "AEAD_AES_256_CBC_HMAC_SHA_512-Random", key_id=bytes(name))
    assert b"confidence" not in sealed and reading.decrypt(sealed) == value
    writing.close()
    reading.close()
    (after,) = traced(server, dump)
    assert unwrapped_by(after) == (2, ["user/demo", "user/reader"])
    export = tmp_path / "keys.json"
    export.write_text("\n".join(json_util.dumps(bson.decode(document)) for document in documents.values()))
    (exported,) = traced(server, export)
    for told in (after, exported):
        del told["story"]["coverage"]  # to which each question adds: it is on record itself
    assert exported == after


def test_branch_keys_of_a_hierarchical_keyring(server: Server, aws: str, key_arn: str, tmp_path: Path) -> None:
    dynamodb = client_of(aws, "dynamodb")

    def key_store(credentials: tuple[str, str]) -> Any:  # It has no types.
        return KeyStore(
            KeyStoreConfig(
                ddb_table_name="branch-keys",
                logical_key_store_name="branch-keys",
                kms_configuration=KMSConfigurationKmsKeyArn(key_arn),
                ddb_client=dynamodb,
                kms_client=kms_of(server, credentials),
            )
        )

    def keyring(credentials: tuple[str, str]) -> Any:  # It has no types.
        providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
        wanted = CreateAwsKmsHierarchicalKeyringInput(key_store=key_store(credentials), branch_key_id="tenant-1", ttl_seconds=600)
        return providers.create_aws_kms_hierarchical_keyring(wanted)

    admin = key_store(server.credentials())
    admin.create_key_store(CreateKeyStoreInput())
    admin.create_key(CreateKeyInput(branch_key_identifier="tenant-1", encryption_context=CONTEXT))
    client = aws_encryption_sdk.EncryptionSDKClient()
    sealed, _ = client.encrypt(source=b"in confidence", keyring=keyring(server.credentials()), encryption_context=CONTEXT)
    opened, _ = client.decrypt(source=sealed, keyring=keyring(server.credentials("reader")))
    assert opened == b"in confidence"

    message = tmp_path / "message"
    message.write_bytes(sealed)
    (key,) = traced(server, message, code=1)  # No story is told of it.
    assert key["fingerprint"] is None and "trace that item" in key["note"]
    table = tmp_path / "table.json"
    table.write_text(exported(dynamodb.scan(TableName="branch-keys")["Items"]))
    beacon, active, version = traced(server, table)
    assert [told["context"]["type"].split(":")[:2] for told in (beacon, active, version)] == [
        ["beacon", "ACTIVE"],
        ["branch", "ACTIVE"],
        ["branch", "version"],
    ]
    # What wrapped the message's key is the version; the writer asks for the active one, which is the same key re-encrypted.
    assert f"'tenant-1' and type {version['context']['type']}:" in key["note"]
    assert unwrapped_by(beacon) == (0, [])
    assert unwrapped_by(active) == unwrapped_by(version) == (2, ["user/demo", "user/reader"])
    entries = {entry["event"] + entry["caller"].rpartition("/")[2]: entry for entry in version["story"]["entries"]}
    assert entries["Decryptreader"]["blobs_in"] == [version["fingerprint"]]
    assert entries["Decryptdemo"]["blobs_in"] == [active["fingerprint"]]
    for told, entry in ((version, "Decryptreader"), (active, "Decryptdemo")):
        assert entries[entry]["context"]["encryptionContext"] == told["context"] | {"tablename": "branch-keys"}


def test_a_secret_of_kubernetes(server: Server, key_arn: str, tmp_path: Path) -> None:
    """What the API server stores is made by hand; the seed is wrapped and unwrapped as aws-encryption-provider does."""
    plugin, other = kms_of(server, server.credentials()), kms_of(server, server.credentials("reader"))
    blob = plugin.encrypt(KeyId=key_arn, Plaintext=bytes(range(32)))["CiphertextBlob"]
    secret = tmp_path / "secret"
    secret.write_bytes(V2_PREFIX + part(1, bytes(99)) + part(2, key_arn.encode()) + part(3, b"1" + blob) + part(5, 1))
    (before,) = traced(server, secret)
    assert (before["key"], unwrapped_by(before)) == (key_arn, (0, []))
    other.decrypt(CiphertextBlob=blob)
    (key,) = traced(server, secret)
    assert (key["format"], unwrapped_by(key)) == ("Kubernetes KMS v2", (1, ["user/reader"]))
