"""`make demo`, as far as it is ours: it tells the story of a data key and proves it, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.repository import ROOT
from tests.integration.conftest import plain_environment

STORY = [
    "Alice encrypts a file",
    "The contract, in confidence.",
    "with another tenant's context: refused, InvalidCiphertextException",
    "while the key is disabled: refused, DisabledException",
    "by user/demo: GenerateDataKey under",
    "context document=contract-7 tenant=acme",
    "unwrapped  1 time by 1 caller",
    "refused    2 times by 1 caller",
    "Decrypt by assumed-role/claims-reader/bob from 127.0.0.1",
    "InvalidCiphertextException",
    "DisableKey by user/demo",
    "DisabledException",
    "every line is a record of this log, numbered densely",
    "Verified.",
]


def test_the_demo_tells_its_story_and_leaves_nothing(tmp_path: Path) -> None:
    temporary, home = tmp_path / "temporary", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    environment = plain_environment() | {"TMPDIR": str(temporary), "HOME": str(home), "NO_PROXY": "127.0.0.1"}
    before = set(ROOT.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    position = 0
    for part in STORY:
        assert part in done.stdout[position:], f"{part!r} is not in\n{done.stdout[position:]}"
        position = done.stdout.index(part, position) + len(part)
    assert list(temporary.iterdir()) == []
    assert list(home.iterdir()) == []
    assert {path.name for path in set(ROOT.iterdir()) - before} <= {".pytest_cache"}
    assert processes_with(f"TMPDIR={temporary}") == []


def processes_with(variable: str) -> list[str]:
    """The command lines of the processes that have `variable` in their environment, as every child of the demo has."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended, or is somebody else's
    return found
