"""An empty log, and the disk that it is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.commit import LogPlace
from audit.segments import create_log
from tests.audit.commit.log_folder import Disk


@pytest.fixture
def place(tmp_path: Path) -> LogPlace:
    create_log(tmp_path / "w0")
    (tmp_path / "checkpoints").mkdir()
    return LogPlace(tmp_path / "w0", tmp_path / "checkpoints", "us-east-1", "111122223333")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)
