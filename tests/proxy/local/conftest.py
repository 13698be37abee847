"""Worlds for the tests of the local backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.local.world import World
from tests.proxy.local.xks_proxy import XksWorld


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


@pytest.fixture
def xks(tmp_path: Path) -> Iterator[XksWorld]:
    """A world with an external key manager."""
    one = XksWorld(tmp_path)
    yield one
    one.close()
