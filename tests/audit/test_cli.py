from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from audit import cli
from audit.instance import Instance

NOTE = "keytrail/0123456789abcdef/{log}\n5\nroot=\n\n\u2014 keytrail/0123456789abcdef/{log} signature=\n"


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    for log in ("admin", "w0", "w1"):
        (tmp_path / "checkpoints" / log).mkdir(parents=True)
    instance = Instance(tmp_path, "0123456789abcdef", "111122223333", "eu-central-1", "Z", ("admin", "w0", "w1"))
    instance.save()
    return instance


def run(instance: Instance, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["checkpoint", "--data", str(instance.data), *arguments])


def test_checkpoint_prints_the_newest_of_every_log_that_has_one(instance: Instance) -> None:
    for log in ("admin", "w1"):
        (instance.checkpoint_folder(log) / "latest").write_text(NOTE.format(log=log), "utf-8")
    result = run(instance)
    assert result.exit_code == 0
    assert result.stdout_bytes.decode() == NOTE.format(log="admin") + "\n" + NOTE.format(log="w1")


def test_where_nothing_was_signed_there_is_nothing_to_keep(instance: Instance) -> None:
    result = run(instance)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no checkpoint was signed yet")


def test_verifier_keys_are_made_of_the_public_key(instance: Instance) -> None:
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    instance.sealer_public_key.write_bytes(base64.b64encode(public) + b"\n")
    result = run(instance, "--key")
    assert result.exit_code == 0
    for log, line in zip(instance.logs, result.stdout.splitlines(), strict=True):
        name, key_id, key = line.split("+", 2)
        assert name == f"keytrail/0123456789abcdef/{log}"
        assert bytes.fromhex(key_id) == hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]
        assert base64.b64decode(key) == b"\x01" + public


def test_no_key_and_a_wrong_key(instance: Instance) -> None:
    assert run(instance, "--key").exit_code == 3
    for content in (b"nonsense", base64.b64encode(b"short")):
        instance.sealer_public_key.write_bytes(content)
        result = run(instance, "--key")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")


def test_a_folder_that_was_never_initialised(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["checkpoint", "--data", str(tmp_path)])
    assert result.exit_code == 3
    assert "never initialised" in result.stderr
