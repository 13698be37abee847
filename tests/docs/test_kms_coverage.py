"""docs/kms-coverage.md: a row for each operation of the service model, and in each cell a test that is there."""

from __future__ import annotations

import re
from functools import cache

import pytest
from botocore.session import get_session

from tests.docs.repository import ROOT

_ROW = re.compile(r"\| `(?P<operation>[A-Za-z]+)` \|(?P<cells>.*)\|")
_NAMED = re.compile(r"`(?P<file>test_[a-z0-9_]+)::(?P<test>test_[a-z0-9_]+)`")
_DEFINED = re.compile(r"^(?:async )?def (test_[a-z0-9_]+)\(", re.MULTILINE)
_NONE = "–"
_COLUMNS = ["Answers", "Refusals", "Dry run", "Access", "Any request", "Record"]
_DRY_RUN = _COLUMNS.index("Dry run")

_TEXT = (ROOT / "docs" / "kms-coverage.md").read_text()
_ROWS = {found["operation"]: [cell.strip() for cell in found["cells"].split("|")] for found in _ROW.finditer(_TEXT)}
_MODEL = get_session().get_service_model("kms")


@cache
def _tests() -> set[tuple[str, str]]:
    """The name of each file of tests, without its ending, and of each test in it."""
    found: set[tuple[str, str]] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= {(path.stem, name) for name in _DEFINED.findall(path.read_text())}
    return found


def test_each_operation_of_the_model_has_a_row() -> None:
    assert "| Operation | " + " | ".join(_COLUMNS) + " |" in _TEXT
    assert sorted(_ROWS) == sorted(_MODEL.operation_names)
    assert len(_ROW.findall(_TEXT)) == len(_ROWS)


@pytest.mark.parametrize("operation", sorted(_ROWS))
def test_each_cell_names_tests_that_are_there(operation: str) -> None:
    cells = _ROWS[operation]
    assert len(cells) == len(_COLUMNS)
    shape = _MODEL.operation_model(operation).input_shape
    has_dry_run = "DryRun" in getattr(shape, "members", {})
    tests = _tests()
    for number, cell in enumerate(cells):
        named = [(found["file"], found["test"]) for found in _NAMED.finditer(cell)]
        if number == _DRY_RUN and not has_dry_run:
            assert cell == _NONE, f"{operation} has no DryRun"
            continue
        assert named, f"{_COLUMNS[number]}: no test"
        assert set(named) <= tests, f"not there: {sorted(set(named) - tests)}"
