"""One honest instance for all attacks of a process, and a copy of it for each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.honest import Honest, serve_honestly
from tests.attacks.root import Root
from tests.integration.conftest import initialised

__all__ = ["honest", "initialised", "root"]


@pytest.fixture(scope="session")
def honest(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Honest]:
    """The instance that served. Nobody changes it."""
    with serve_honestly(initialised, tmp_path_factory.mktemp("honest")) as made:
        yield made


@pytest.fixture
def root(honest: Honest, tmp_path: Path) -> Root:
    """Root on a copy of it."""
    shutil.copytree(honest.data, tmp_path / "data")
    return Root(tmp_path / "data")
