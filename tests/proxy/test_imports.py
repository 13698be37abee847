"""What commands and processes import: nobody waits for what another one needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: Packages that take long to import. Each is needed by some commands, and by no other.
HEAVY = frozenset(
    {
        "aiohttp",
        "boto3",
        "botocore",
        "cryptography",
        "duckdb",
        "jinja2",
        "prometheus_client",
        "pyarrow",
        "pyiceberg",
        "rich",
        "sigma",
    }
)
_COMMAND = "import sys; sys.argv = ['keytrail', *{words!r}]; from proxy.cli import main; main()"
_MODULE = "import {module}"


def imported(program: str) -> set[str]:
    """Those of `HEAVY` that a process has imported when it ends."""
    ending = f"import atexit, json, sys\natexit.register(lambda: print(json.dumps(sorted({set(HEAVY)!r} & set(sys.modules)))))\n"
    done = subprocess.run([sys.executable, "-c", ending + program], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--version"], set()),
        (["env", "--data", "nowhere"], set()),
        (["query", "--data", "nowhere"], {"botocore", "duckdb", "pyarrow", "rich"}),
        (["verify", "--data", "nowhere"], {"botocore", "cryptography", "duckdb", "pyarrow", "rich"}),
        (
            ["explain", "--caller", "c", "--action", "a", "--data", "nowhere"],
            {"botocore", "cryptography", "duckdb", "pyarrow", "rich"},
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_imports_what_it_needs(words: list[str], expected: set[str]) -> None:
    assert imported(_COMMAND.format(words=words)) <= expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("proxy.commands.serve", {"aiohttp", "cryptography", "prometheus_client"}),
        ("proxy.worker", {"botocore", "cryptography", "prometheus_client"}),
        ("audit.sealing.process", {"cryptography"}),
        ("audit.query.index.follow", set()),
    ],
)
def test_a_process_imports_what_it_needs(module: str, expected: set[str]) -> None:
    assert imported(_MODULE.format(module=module)) <= expected
