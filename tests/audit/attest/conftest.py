"""The instance that is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.attest.builder import House
from tests.audit.query.builder import KEY_B


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Two workers and `admin`; some calls, and a checkpoint over each log."""
    house = House(tmp_path, "w1")
    house.add(0, "Init", log="admin", user="root", key=None)
    house.add(10, blobs_in=["one"], context={"tenant": "acme"})
    house.add(20, "GenerateDataKey", blobs_out=["two"], log="w1", user="bob")
    house.add(30, "DisableKey", phase="intent", key=KEY_B)
    house.add(40, "Decrypt", blobs_in=["three"], error="AccessDenied", user="eve", log="w1")
    house.add(50, "DisableKey", phase="unknown", key=KEY_B)
    house.seal()
    return house
