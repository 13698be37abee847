"""`make demo`: the main job, whole, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demo_tells_the_story_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYTRAIL_"))}
    demo = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env=environment | {"TMPDIR": str(tmp_path), "DEMO_MARK": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for told in (
        "made       ",
        "unwrapped  1 time by 1 caller",
        "refused    2 times by 1 caller",
        "assumed-role/claims-reader/bob",
        "InvalidCiphertextException",
        "DisabledException",
        "tenant=acme",
        "Verified.",
    ):
        assert told in demo.stdout, told
    assert list(tmp_path.iterdir()) == []
    marked = f"DEMO_MARK={tmp_path}".encode()
    assert [pid for pid in running() if marked in environ_of(pid)] == []


def running() -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdigit()]


def environ_of(pid: Path) -> bytes:
    try:
        return (pid / "environ").read_bytes()
    except OSError:
        return b""
