"""Worlds for the tests of the local backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.local.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path / "keystore.db")
    yield one
    one.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[World, World]]:
    """Two workers on one store, with one clock."""
    one = World(tmp_path / "keystore.db")
    other = World(tmp_path / "keystore.db", one.clock)
    yield one, other
    one.close()
    other.close()
