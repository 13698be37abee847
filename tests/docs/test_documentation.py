"""What the documents say is there, and what is there is in the documents."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import SecretStr

import audit
from proxy.settings import Settings
from tests.docs.repository import ROOT, anchors, markdown_files, read_required, relative_links, tracked_files

# In pieces, so that this file does not hold what it forbids.
REGISTRY_HOSTS = (".".join(("pypi", "org")), ".".join(("pythonhosted", "org")), ".".join(("registry", "npmjs", "org")))
MACHINE_PATHS = tuple("/" + path for path in ("work/main", "work/shared", "work/.library", "opt/pypi", "opt/wheels", "root/"))


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("KEYTRAIL_"):
            monkeypatch.delenv(name)


def test_the_settings_file_shows_every_setting_with_its_default() -> None:
    shown = tomllib.loads(read_required("config/keytrail.toml"))
    assert set(shown) == set(Settings.model_fields), "config/keytrail.toml and proxy.settings.Settings differ"
    assert Settings(**shown) == Settings(), "config/keytrail.toml shows a value that is not the default"


def test_the_table_of_settings_has_each_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `?([^|`]+?)`? \|", read_required("docs/settings.md"), re.MULTILINE)
    shown = {name: (variable, value) for name, variable, value in rows}
    assert shown == {name: (f"KEYTRAIL_{name.upper()}", _written(field.default)) for name, field in Settings.model_fields.items()}


def _written(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple) and default:
        return ",".join(default)
    return "none" if default in (None, "", (), SecretStr("")) else str(default)


def test_every_command_is_in_the_readme() -> None:
    from proxy.cli import app  # Here, so that a command line that cannot be imported fails this test alone.

    readme = re.sub(r"\s+", " ", read_required("README.md"))
    commands = ["keytrail " + " ".join(words) for words in _commands(typer.main.get_command(app))]
    assert commands, "proxy.cli.app has no command"
    missing = [command for command in commands if not re.search(rf"{re.escape(command)}\b", readme)]
    assert not missing, f"commands that README.md does not mention: {missing}"


def _commands(command: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command below `command` (Any: typer's own click has no public type)."""
    for name, below in getattr(command, "commands", {}).items():
        if below.hidden:
            continue
        if hasattr(below, "commands"):
            yield from _commands(below, (*above, name))
        else:
            yield (*above, name)


def test_the_changelog_has_this_version_and_its_date() -> None:
    version = tomllib.loads(read_required("pyproject.toml"))["project"]["version"]
    heading = re.search(rf"^## \[?{re.escape(version)}\]?\b.*?(\d{{4}}-\d\d-\d\d)", read_required("CHANGELOG.md"), re.MULTILINE)
    assert heading, f"CHANGELOG.md has no heading like `## [{version}] - YYYY-MM-DD`"
    date.fromisoformat(heading[1])


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {forbidden}"
        for path in tracked_files()
        for forbidden in (*REGISTRY_HOSTS, *MACHINE_PATHS)
        if forbidden.encode() in path.read_bytes()
    ]
    assert not found, "\n".join(found)


def test_links_in_the_documents_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in markdown_files()
        for target in relative_links(path.read_text())
        if not _resolves(path, target)
    ]
    assert not broken, "\n".join(broken)


def _resolves(path: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    linked = path.parent / name if name else path
    if not linked.exists():
        return False
    return not anchor or linked.suffix != ".md" or anchor in anchors(linked.read_text())


def test_every_guarantee_has_its_module_and_its_test() -> None:
    guarantees = re.findall(r"^(\d+)\. .+ — (\S+\.py) — (\S+)$", audit.__doc__ or "", re.MULTILINE)
    assert [int(number) for number, _, _ in guarantees] == [1, 2, 3, 4, 5], (
        "audit/__init__.py: five lines `1. … — module — tests`"
    )
    for number, module, test in guarantees:
        assert module.startswith("audit/") and (ROOT / module).is_file(), f"guarantee {number}: {module} is missing"
        files = [test] if test.endswith(".py") else [str(path) for path in sorted((ROOT / test).glob("test_*.py"))]
        assert files and all("def test_" in read_required(file) for file in files), f"guarantee {number}: {test} has no test"
