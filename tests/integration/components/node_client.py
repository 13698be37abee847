"""Node's ``@aws-sdk/client-kms`` and ``@aws-crypto/client-node``, as a user of `node/` has them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.components import FOLDER, missing, require_program

_NODE = FOLDER / "node"
_LIMIT_S = 60


def _require_package(name: str) -> str:
    """The path of Node, where the package is installed."""
    program = require_program("node")
    if not (_NODE / "node_modules" / name).is_dir():
        missing(f"Node's {name}")
    return program


class NodeEncryptionSdk:
    """Runs ``encryption_sdk.mjs`` with the key `key_arn`. Skips the test where Node or the package is not installed.

    `environment` is what points the SDK at a KMS, with credentials.
    """

    def __init__(self, key_arn: str, environment: Mapping[str, str]) -> None:
        self._program = _require_package("@aws-crypto/client-node")
        self._environment = {**environment, "KMS_KEY_ID": key_arn}

    def encrypt(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """A message of the AWS Encryption SDK."""
        return self._run("encrypt", plaintext, context)

    def decrypt(self, message: bytes, context: Mapping[str, str]) -> bytes:
        """The plaintext of a message, which must have at least this context."""
        return self._run("decrypt", message, context)

    def _run(self, verb: str, given: bytes, context: Mapping[str, str]) -> bytes:
        environment = {**self._environment, "CONTEXT": json.dumps(context)}
        argv = [self._program, "encryption_sdk.mjs", verb]
        done = subprocess.run(argv, cwd=_NODE, env=environment, input=given, capture_output=True, timeout=_LIMIT_S)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


class NodeClient:
    """Runs ``roundtrip.mjs``. Skips the test where Node or its SDK is not installed."""

    def __init__(self) -> None:
        self._program = _require_package("@aws-sdk/client-kms")

    def round_trip(
        self,
        url: str,
        key_id: str,
        access_key_id: str,
        secret_access_key: str,
        ca_bundle: Path | None = None,
        region: str = "us-east-1",
        environment: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:  # Any: JSON
        """What the script tells of GenerateDataKey, Decrypt, Encrypt, Decrypt and DescribeKey with `key_id` at `url`.

        ``keyIds``, ``plaintextBytes``, ``ciphertextBytes``, ``plaintextsAgree``, ``requestIds`` by operation; on an error
        ``error``, ``message``, and ``requestId`` where there was an answer.
        """
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("AWS_", "NODE_", "KEYTRAIL_"))}
        settings = {
            "KMS_KEY_ID": key_id,
            "AWS_ENDPOINT_URL_KMS": url,
            "AWS_REGION": region,
            "AWS_ACCESS_KEY_ID": access_key_id,
            "AWS_SECRET_ACCESS_KEY": secret_access_key,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_CONFIG_FILE": os.devnull,
            **({} if ca_bundle is None else {"NODE_EXTRA_CA_CERTS": str(ca_bundle)}),
            **(environment or {}),
        }
        done = subprocess.run(
            [self._program, "roundtrip.mjs"], cwd=_NODE, env={**kept, **settings}, capture_output=True, timeout=_LIMIT_S
        )
        assert done.returncode in (0, 1) and done.stdout, done.stderr.decode()
        told: dict[str, Any] = json.loads(done.stdout)
        assert ("error" in told) == (done.returncode == 1)
        return told
