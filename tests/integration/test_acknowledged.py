"""README.md's recipe for a silence with an honest cause, run as it stands there, on a log that has one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from audit.instance import Instance
from audit.sealing.keys import create_key
from tests.audit.forge import Forge
from tests.audit.worker import Worker
from tests.integration.conftest import keytrail_command
from tests.integration.test_readme import Reader, recipes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With `keytrail-data` in it, whose worker was silent for two hours."""
    (tmp_path / "keytrail-data").mkdir()
    instance = Instance.create(tmp_path / "keytrail-data", "111122223333", "us-east-1", "2026-01-02T03:04:05Z").with_logs(["w0"])
    create_key(instance)
    forge = Forge(instance, "w0")
    Worker(forge).run((0, "StartServing"), (30, "Encrypt"), (7_230, "Heartbeat"), (7_240, "StopServing"))
    forge.seal()
    return tmp_path


def test_the_recipe_for_a_silence_that_somebody_can_explain(folder: Path) -> None:
    (recipe,) = recipes(elsewhere="finding")
    reader = Reader(folder, environment={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"})
    before = subprocess.run([keytrail_command(), "verify"], cwd=folder, capture_output=True, text=True, check=False)
    assert before.returncode == 1 and before.stdout.endswith("VERIFICATION FAILED.\n")
    ran = reader.run(recipe)
    assert ran is not None and ran.exit_code == 0, ran
    explained = r"acknowledged by \S+ \(host:\d+\) at 20\S+Z: The machine was moved .*: CHG-4711"
    assert re.search(rf"silent for 2 h, .* \(step 13\), {explained}\nVerified\.\n$", ran.out), ran.out
    assert re.fullmatch(r"keytrail/[0-9a-f]{16}/admin 0 \S{44}\n", (folder / "acknowledged.txt").read_text())
