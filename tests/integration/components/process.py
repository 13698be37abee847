"""A server as a process: started, awaited by a line that it writes, stopped by its id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

START_LIMIT_S = 30.0
STOP_LIMIT_S = 15.0


class NotStarted(Exception):
    """It ended, or said nothing within the limit. The message holds the end of what it wrote."""


class ServerProcess:
    """`argv`, running in `folder`, as `user` where root may choose one. Its output is appended to `output`."""

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        output: Path,
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self._output = output
        self._before = output.stat().st_size if output.exists() else 0
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KEYTRAIL_", "MOTO_"))}
        if os.geteuid() != 0:
            user = None
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                argv,
                cwd=folder,  # entered before the user is changed: the folders above it may be closed to that user
                stdin=stdin,
                stdout=file,
                stderr=file,
                env={**kept, **(environment or {})},
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def wait_for(self, pattern: str, file: Path | None = None) -> re.Match[str]:
        """The first match in what was written to `file`, or to its output, since the start. Raises NotStarted, and it is gone."""
        searched, skipped = (self._output, self._before) if file is None else (file, 0)
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            ended = self._process.poll() is not None
            written = searched.read_bytes()[skipped:].decode(errors="replace") if searched.exists() else ""
            if (found := re.search(pattern, written)) is not None and not ended:
                return found
            if ended or time.monotonic() > deadline:
                self.kill()
                how = f"ended with {self._process.returncode}" if ended else f"not within {START_LIMIT_S} s: {pattern}"
                raise NotStarted(f"{self._process.args!r}: {how}\n{written[-2000:]}")
            threading.Event().wait(0.01)

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """SIGTERM, or another signal; SIGKILL where that does not end it in time. Returns when it is gone."""
        if self._process.poll() is None:
            self._process.send_signal(by)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """SIGKILL. Returns when it is gone."""
        self._process.kill()
        self._process.wait(STOP_LIMIT_S)
        if self._process.stdin is not None:
            self._process.stdin.close()
