"""Node's ``@aws-sdk/client-kms``, as a user of `node/` has it."""

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


class NodeClient:
    """Runs ``roundtrip.mjs``. Skips the test where Node or its SDK is not installed."""

    def __init__(self) -> None:
        self._program = require_program("node")
        if not (_NODE / "node_modules" / "@aws-sdk" / "client-kms").is_dir():
            missing("Node's @aws-sdk/client-kms")

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
