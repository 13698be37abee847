"""The locks: complete, pinned by hash, from no named place, and in step with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import audit
from tests.docs.repository import tracked_files

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]
TEST = [*RUNTIME, *PYPROJECT["project"]["optional-dependencies"]["test"]]


@dataclass(frozen=True, slots=True)
class Pin:
    name: str
    version: str
    hashes: tuple[str, ...]


def read_lock(name: str) -> list[Pin]:
    """The pins of a lock. Every line is a pin, one of its hashes, or a comment; nothing else is let through."""
    lines = (line.rstrip("\\ ") for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#"))
    pins: list[Pin] = []
    for line in lines:
        if hash_line := re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})", line):
            pins[-1] = Pin(pins[-1].name, pins[-1].version, (*pins[-1].hashes, hash_line[1]))
        else:
            pin = re.fullmatch(r"([a-z0-9.-]+)==([a-z0-9.+!]+)( ; .+)?", line)
            assert pin, f"{name}: neither a pin nor a hash: {line!r}"
            pins.append(Pin(pin[1], pin[2], ()))
    return pins


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_pin_has_hashes_and_no_place(name: str) -> None:
    without = [pin.name for pin in read_lock(name) if not pin.hashes]
    assert not without, f"{name}: no hash for {without}"
    assert "://" not in (ROOT / name).read_text(), f"{name} names a URL"


@pytest.mark.parametrize(("name", "wanted"), [("requirements.lock", RUNTIME), ("requirements-dev.lock", TEST)])
def test_a_lock_satisfies_pyproject(name: str, wanted: list[str]) -> None:
    pins = read_lock(name)
    for requirement in map(Requirement, wanted):
        pinned = [pin.version for pin in pins if pin.name == canonicalize_name(requirement.name)]
        assert pinned, f"{name} lacks {requirement}: run `make lock`"
        assert all(version in requirement.specifier for version in pinned), f"{name}: {pinned} is not {requirement}"


def test_the_two_locks_agree() -> None:
    """`make demo` and `make test` share one environment."""
    assert set(read_lock("requirements.lock")) <= set(read_lock("requirements-dev.lock")), "run `make lock`"


def test_no_folder_of_tests_shadows_a_package() -> None:
    folders = {path.parent for path in tracked_files() if path.suffix == ".py" and path.is_relative_to(ROOT / "tests")}
    assert folders
    bare = sorted(str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file())
    assert not bare, f"no __init__.py in {bare}"
    assert Path(audit.__file__).parent == ROOT / "audit"
