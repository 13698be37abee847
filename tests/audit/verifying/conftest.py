"""The logs that `verify` is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.forge import Forge


@pytest.fixture
def empty(tmp_path: Path) -> Forge:
    return Forge.create(tmp_path)


@pytest.fixture
def forge(empty: Forge) -> Forge:
    """35 records in four segments, sealed at 7, 20, 26 and 31."""
    for sealed in (7, 20, 26, 31):
        empty.grow(sealed - empty.records)
        empty.seal()
    empty.grow(4)
    return empty
