"""Places for sealed stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proxy.engines import Engine, FileEngine, ServerEngine


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Each database in turn, empty."""
    if request.param == "sqlite":
        return FileEngine(tmp_path / "keystore.db")
    return ServerEngine(request.getfixturevalue("postgresql"))
