"""The table of attacks in docs/threat-model.md has the attacks of tests/attacks/, and the steps that find them there."""

from __future__ import annotations

import ast
import re

from audit.delivery.findings import TITLES as DELIVERED
from audit.query.index.against_log import TITLES as INDEXED
from audit.verifying.titles import TITLES
from tests.docs.repository import ROOT

_ATTACKS = ROOT / "tests" / "attacks"
_BASELINE = "test_log.py::test_nothing_is_found_where_nothing_was_done"
_TEST = re.compile(r"`(test_\w+\.py::test_\w+)`")
_STEPS = re.compile(r"steps? ([0-9]+)(?: and ([0-9]+))?")


def rows() -> list[list[str]]:
    """The cells of each row of the table."""
    section = (ROOT / "docs" / "threat-model.md").read_text("utf-8").partition("## Attacks, and what finds them")[2]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def attacks() -> dict[str, ast.FunctionDef]:
    """The tests of attacks, by file and name."""
    found = {}
    for path in sorted(_ATTACKS.glob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = node
    return found


def steps_of(node: ast.FunctionDef) -> set[int]:
    """The steps that the test says an attack is caught by."""
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call) and getattr(one.func, "id", "") == "assert_caught"]
    return {
        call.args[1].value for call in calls if isinstance(call.args[1], ast.Constant) and isinstance(call.args[1].value, int)
    }


def test_each_attack_of_the_table_has_its_test_and_each_test_its_attack() -> None:
    table = [_TEST.findall(cells[-1]) for cells in rows()]
    assert all(len(found) == 1 for found in table) and len(rows()) >= 16
    named = [found[0] for found in table]
    assert sorted(named) == sorted(attacks().keys() - {_BASELINE})


def test_each_row_says_by_which_step_the_test_finds_the_attack() -> None:
    known = {*TITLES, *(kind.value for kind in DELIVERED), *INDEXED}
    for _, _, found_by, _, test in rows():
        told = {int(number) for pair in _STEPS.findall(found_by) for number in pair if number}
        assert told <= known
        shown = steps_of(attacks()[_TEST.findall(test)[0]])
        assert shown == told or (not told and not shown), (test, told, shown)
