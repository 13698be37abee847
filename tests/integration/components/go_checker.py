"""Go's sumdb packages (`note`, `tlog`), which know nothing of keytrail, as a checker of checkpoints, proofs and tiles.

The program in `go/checktlog` is built once for each state of its source, and kept beside it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tests.integration.components import FOLDER, missing, require_program

_SOURCE = FOLDER / "go" / "checktlog" / "main.go"
_PACKAGES = Path("/usr/share/gocode")  # where Debian has them
_BUILD_LIMIT_S, _LIMIT_S = 300, 60


class GoChecker:
    """Runs ``checktlog`` for the verifier key `key`. Skips the test where Go or its packages are not installed."""

    def __init__(self, key: str) -> None:
        self._program = _built()
        self._key = key

    def check(self, what: str, *arguments: Path | str | int) -> subprocess.CompletedProcess[str]:
        """Check a `checkpoint`, an `inclusion`, a `consistency` or `tiles`: exit code 0 where it holds, 1 where it does not."""
        argv = [str(self._program), what, self._key, *map(str, arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S)
        assert done.returncode in (0, 1), done.stderr
        return done


def _built() -> Path:
    go = require_program("go")
    if not (_PACKAGES / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        missing("golang-golang-x-mod-dev")
    folder = FOLDER / "go" / ".built"
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    program = folder / f"checktlog-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        made = folder / f"new-{os.getpid()}"
        environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(_PACKAGES), "GOFLAGS": "", "CGO_ENABLED": "0"}
        argv = [go, "build", "-o", str(made), str(_SOURCE)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=_BUILD_LIMIT_S)
        assert done.returncode == 0, done.stderr
        made.rename(program)
    return program
