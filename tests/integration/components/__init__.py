"""The real components that keytrail stands between: moto for KMS and STS, Squid, Node's AWS SDK, Go's sumdb packages, a
stub that verifies SigV4.

Each is a process of its own, on ports of loopback that nobody else has, with everything it writes in a folder of the test. What
is not installed makes a test skip, with a reason that says what to run; with ``TEST_SERVERS=required`` it fails.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
_INSTALL = "run tests/integration/components/install.sh as root"


def missing(what: str) -> None:
    """Skip the test that needs `what`, or fail it where the servers are required."""
    reason = f"{what} is not installed: {_INSTALL}"
    if os.environ.get("TEST_SERVERS") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_program(name: str) -> str:
    """The path of the program `name`; servers are looked for in the system's folders too."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        missing(name)
    assert found is not None
    return found
