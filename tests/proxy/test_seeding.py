"""Keys from a file: the same in every store, told without their secrets, and never over others."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from audit.instance import ADMIN_LOG, Instance
from proxy.authorization import PolicyAuthoriser
from proxy.backends.local.backend import LocalBackend
from proxy.cli import app
from proxy.domain import Principal
from proxy.errors import SetupError
from proxy.host import initialise
from proxy.opening import open_store
from proxy.permissions import Permissions
from proxy.seeding import Seeded, seed
from proxy.settings import Settings
from tests.docs.repository import ROOT
from tests.proxy.local.policies import document, statement
from tests.proxy.local.world import REGION, call

#: The account itself, which the default key policy lets do everything.
ROOT_USER = Principal("Root", "arn:aws:iam::111122223333:root", "111122223333", "AKIAIOSFODNN7EXAMPLE", "111122223333")
ID = "11111111-2222-4333-8444-555555555555"
MATERIAL = base64.b64encode(bytes(range(100, 132))).decode()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data")


@pytest.fixture
def instance(settings: Settings) -> Instance:
    return initialise(settings)


def write(tmp_path: Path, *keys: dict[str, Any]) -> Path:  # Any: JSON
    path = tmp_path / "seed.json"
    path.write_text(json.dumps({"keys": list(keys)}))
    return path


def key(**members: object) -> dict[str, Any]:
    return {"id": ID, "material": MATERIAL, **members}


def rows(instance: Instance, settings: Settings) -> list[tuple[str, str]]:
    store = open_store(instance, settings)
    try:
        return sorted((entry.kind, entry.id) for entry in store.changes_since(0, ("key", "alias")).entries)
    finally:
        store.close()


def ask(instance: Instance, settings: Settings, operation: str, **parameters: object) -> Any:  # Any: members of an answer
    store = open_store(instance, settings)
    backend = LocalBackend(store, time.time, os.urandom, PolicyAuthoriser(Permissions(store), time.time))
    try:
        return asyncio.run(backend.call(call(operation, REGION, ROOT_USER, **parameters))).members
    finally:
        backend.close()
        store.close()


def test_a_seeded_key_works_and_its_ciphertexts_are_read_in_another_store(tmp_path: Path) -> None:
    path = write(tmp_path, key(aliases=["alias/seeded"], description="d", tags={"a": "b"}))
    folders = [(initialise(settings), settings) for settings in (Settings(data=tmp_path / name) for name in ("one", "two"))]
    for instance, settings in folders:
        assert seed(instance, settings, path) == Seeded(1, 0)
        described = ask(instance, settings, "DescribeKey", KeyId="alias/seeded")["KeyMetadata"]
        assert (described["KeyId"], described["Description"], described["KeyState"]) == (ID, "d", "Enabled")
    blob = ask(*folders[0], "Encrypt", KeyId=ID, Plaintext=b"x", EncryptionContext={"a": "b"})["CiphertextBlob"]
    assert ask(*folders[1], "Decrypt", CiphertextBlob=blob, EncryptionContext={"a": "b"})["Plaintext"] == b"x"


def test_seeding_again_changes_nothing_and_makes_only_what_is_lacking(
    instance: Instance, settings: Settings, tmp_path: Path
) -> None:
    assert seed(instance, settings, write(tmp_path, key())) == Seeded(1, 0)
    assert seed(instance, settings, write(tmp_path, key())) == Seeded(0, 1)
    assert seed(instance, settings, write(tmp_path, key(aliases=["alias/more"]))) == Seeded(1, 0)
    assert ("alias", f"alias/more@{instance.account_id}") in rows(instance, settings)
    ask(instance, settings, "DisableKey", KeyId=ID)
    assert seed(instance, settings, write(tmp_path, key(aliases=["alias/more"]))) == Seeded(0, 1)
    assert ask(instance, settings, "DescribeKey", KeyId=ID)["KeyMetadata"]["KeyState"] == "Disabled"


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"material": base64.b64encode(bytes(32)).decode()}, "another material"),
        ({"description": "other"}, "another description"),
        ({"tags": {"a": "c"}}, "another tags"),
        ({"policy": document(statement(principal="*"))}, "another policy"),
        ({"aliases": ["alias/demo"]}, "alias alias/demo is there, of another key"),
    ],
)
def test_other_content_is_refused_and_nothing_is_made(
    instance: Instance, settings: Settings, tmp_path: Path, members: dict[str, object], told: str
) -> None:
    seed(instance, settings, write(tmp_path, key()))
    before = rows(instance, settings)
    new = {"id": ID.replace("1", "9"), "material": MATERIAL}
    with pytest.raises(SetupError, match=told):
        seed(instance, settings, write(tmp_path, new, key(**members)))
    assert rows(instance, settings) == before


CANARY = "CANARY" * 7 + "="


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"keys": []}, "keys: List should have at least 1 item"),
        ({"keys": [{"id": ID}]}, "keys.0.material: Field required"),
        ({"keys": [key(id="key-1", material=CANARY)]}, "keys.0.id: String should match pattern"),
        ({"keys": [key(material=base64.b64encode(b"short").decode())]}, "keys.0.material: it is no material of a key of SYM"),
        ({"keys": [key(material="!" + CANARY)]}, "neither base64 nor hex"),
        ({"keys": [key(material="hex:" + CANARY)]}, "neither base64 nor hex"),
        ({"keys": [key(material=CANARY, spec="AES")]}, "AES is no key spec"),
        ({"keys": [key(material=CANARY, usage="SIGN_VERIFY")]}, "a key of SYMMETRIC_DEFAULT is for ENCRYPT_DECRYPT"),
        ({"keys": [key(spec="RSA_2048")]}, "no material of a key of RSA_2048"),
        ({"keys": [key(aliases=["demo"])]}, "'demo' is no name of an alias"),
        ({"keys": [key(policy="{}")]}, "keys.0.policy: The policy is malformed: there is no Statement"),
        ({"keys": [key(aliases=["alias/aws/x"])]}, "is no name of an alias"),
        ({"keys": [key(secret=CANARY)]}, "keys.0.secret: Extra inputs are not permitted"),
        ({"keys": [key(), key()]}, f"{ID} is there twice"),
        ({"keys": [key()], "more": CANARY}, "more: Extra inputs"),
        (CANARY, "Input should be"),
    ],
)
def test_a_file_is_read_strictly_and_its_secrets_are_not_told(
    instance: Instance, settings: Settings, tmp_path: Path, document: object, told: str
) -> None:
    path = tmp_path / "seed.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SetupError) as refusal:
        seed(instance, settings, path)
    assert told in str(refusal.value)
    assert "CANARY" not in str(refusal.value)
    assert [kind for kind, _ in rows(instance, settings)] == ["alias", "key"]


@pytest.mark.parametrize(("name", "content"), [("s.toml", f"keys = [ {CANARY}"), ("s.json", '{"keys": "' + CANARY)])
def test_a_file_that_is_no_toml_or_json_is_not_quoted(
    instance: Instance, settings: Settings, tmp_path: Path, name: str, content: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(SetupError, match=f"is no {name[2:].upper()}") as refusal:
        seed(instance, settings, path)
    assert "CANARY" not in str(refusal.value)


def test_a_pair_of_a_file_signs_and_verifies(instance: Instance, settings: Settings, tmp_path: Path) -> None:
    der = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    seed(instance, settings, write(tmp_path, key(material="hex:" + der.hex(), spec="ECC_NIST_P256", usage="SIGN_VERIFY")))
    asked: dict[str, object] = {"KeyId": ID, "Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    signature = ask(instance, settings, "Sign", **asked)["Signature"]
    assert ask(instance, settings, "Verify", Signature=signature, **asked)["SignatureValid"]


def test_the_public_example_is_made_by_the_command_and_is_on_record_without_its_material(instance: Instance) -> None:
    example = str(ROOT / "config" / "seed.example.toml")
    for told in ("2 of 2 keys were made", "0 of 2 keys were made"):
        result = CliRunner().invoke(app, ["seed", example, "--data", str(instance.data)])
        assert (result.exit_code, told in result.output) == (0, True), result.output
    secret = bytes(range(32))
    contents = [path.read_bytes() for path in instance.data.rglob("*") if path.is_file()]
    assert not any(form in one for one in contents for form in (secret, secret.hex().encode(), base64.b64encode(secret)))
    segment = sorted(instance.log_folder(ADMIN_LOG).glob("*.jsonl"))[-1]
    records = [json.loads(line) for line in segment.read_bytes().splitlines()]
    seeded = [one for one in records if one["eventName"] == "SeedKey" and "intent" in one["additionalEventData"]["keytrail"]]
    assert [[resource["ARN"] for resource in one["resources"]] for one in seeded] == [
        [f"arn:aws:kms:us-east-1:111122223333:key/{ID}", "arn:aws:kms:us-east-1:111122223333:alias/tests"],
        ["arn:aws:kms:eu-central-1:444455556666:key/11111111-2222-4333-8444-666666666666"],
    ]


def test_a_seeded_key_is_as_old_as_the_keys_clock_says(tmp_path: Path, instance: Instance, settings: Settings) -> None:
    clock = tmp_path / "clock"
    clock.write_text("2030-01-01T00:00Z")
    before = settings.model_copy(update={"clock": clock})
    assert seed(instance, before, write(tmp_path, key())) == Seeded(1, 0)
    made = ask(instance, settings, "DescribeKey", KeyId=ID)["KeyMetadata"]["CreationDate"]
    assert 0 <= made - datetime(2030, 1, 1, tzinfo=UTC).timestamp() < 600
    clock.write_text("soon")
    with pytest.raises(SetupError, match="clock"):
        seed(instance, before, write(tmp_path, key()))
