"""Spark, as far as it can be had on loopback: Sail, an engine of its own that speaks Spark Connect, and Spark's own client."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.integration.components import FOLDER, missing

_FOLDER = FOLDER / "spark"
_PYTHON = _FOLDER / ".venv" / "bin" / "python"
_LIMIT_S = 120


class Spark:
    """Runs ``runner.py``. Skips the test where its environment is not installed, or not from this lock."""

    def __init__(self) -> None:
        installed = _FOLDER / ".venv" / ".installed"
        if not installed.exists() or installed.read_bytes() != (_FOLDER / "requirements.txt").read_bytes():
            missing("Spark's client with Sail")

    def ask(
        self,
        folder: Path,
        environment: Mapping[str, str],
        location: str,
        views: Sequence[str],
        questions: Sequence[tuple[str, Mapping[str, object]]],
    ) -> list[list[list[Any]]]:  # Any: JSON
        """The rows of each of the `questions` (SQL with `:name`, parameters) about the Iceberg table at `location`."""
        asked = {
            "location": location,
            "views": list(views),
            "questions": [(text, {name: _told(value) for name, value in given.items()}) for text, given in questions],
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON", "KEYTRAIL_"))}
        answered = subprocess.run(
            [_PYTHON, _FOLDER / "runner.py"],
            input=json.dumps(asked).encode(),
            capture_output=True,
            cwd=folder,
            env={**kept, "RUST_LOG": "warn", **environment},
            timeout=_LIMIT_S,
        )
        assert answered.returncode == 0, answered.stderr.decode()[-3000:]
        answers: list[list[list[Any]]] = json.loads(answered.stdout)
        return answers


def _told(value: object) -> object:
    return {"moment": value.isoformat()} if isinstance(value, datetime) else value
