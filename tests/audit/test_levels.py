"""The levels of the tree as files: they follow the leaves, and what is missing or wrong is made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.errors import TreeDamaged
from audit.levels import LevelFiles
from audit.merkle import HASH_BYTES, leaf_hash, root_of
from audit.tiles import WIDTH, hashes_in, root

SIZE = 70_000
LEAVES = [leaf_hash(b"%d" % number) for number in range(SIZE)]


@pytest.fixture(scope="module")
def roots() -> dict[int, bytes]:
    return {size: root_of(LEAVES[:size]) for size in (SIZE, WIDTH * WIDTH, 600)}


@pytest.fixture
def levels(tmp_path: Path) -> LevelFiles:
    (tmp_path / "leaves").write_bytes(b"".join(LEAVES))
    return LevelFiles(tmp_path)


def test_they_have_what_the_tree_has(levels: LevelFiles, roots: dict[int, bytes]) -> None:
    for size in (1, 255, 256, 600, 65_535, 65_536, SIZE):
        levels.extend(size)
        assert [levels.count(level) for level in (1, 2, 3)] == [hashes_in(level, size) for level in (1, 2, 3)]
    assert levels.read(1, 3, 1) == root_of(LEAVES[3 * WIDTH : 4 * WIDTH])
    assert levels.read(2, 0, 1) == roots[WIDTH * WIDTH]
    assert root(levels.read, SIZE) == roots[SIZE]


def test_growing_step_by_step_gives_the_same(levels: LevelFiles, tmp_path: Path) -> None:
    levels.extend(SIZE)
    at_once = {path.name: path.read_bytes() for path in tmp_path.glob("hashes-*")}
    levels.remove()
    for size in [*range(0, 66_000, 7_777), SIZE, SIZE]:
        levels.extend(size)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("hashes-*")} == at_once
    assert set(at_once) == {"hashes-1", "hashes-2"}


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("place", [0, -1])
def test_what_is_wrong_is_made_anew(levels: LevelFiles, roots: dict[int, bytes], level: int, place: int) -> None:
    levels.extend(SIZE)
    path = levels.path(level)
    right = path.read_bytes()
    path.write_bytes(right[:place] + bytes([right[place] ^ 1]) + (right[place + 1 :] if place >= 0 else b""))
    assert path.read_bytes() != right
    assert levels.mend(SIZE, roots[SIZE])
    assert path.read_bytes() == right


@pytest.mark.parametrize("names", [("hashes-1",), ("hashes-2",), ("hashes-1", "hashes-2")])
def test_what_is_missing_is_made_anew(
    levels: LevelFiles, roots: dict[int, bytes], tmp_path: Path, names: tuple[str, ...]
) -> None:
    levels.extend(SIZE)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    assert levels.mend(SIZE, roots[SIZE])
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_a_torn_hash_is_written_over(levels: LevelFiles, roots: dict[int, bytes]) -> None:
    levels.extend(SIZE)
    right = levels.path(1).read_bytes()
    for cut in (1, HASH_BYTES, 100 * HASH_BYTES + 7):
        levels.path(1).write_bytes(right[:-cut])
        levels.extend(SIZE)
        assert levels.path(1).read_bytes() == right
    levels.path(1).write_bytes(right + bytes(5 * HASH_BYTES))  # of a step that was not signed
    assert levels.mend(SIZE, roots[SIZE]) and levels.path(1).read_bytes() == right


def test_leaves_that_are_not_those_of_the_root_are_told(levels: LevelFiles, roots: dict[int, bytes], tmp_path: Path) -> None:
    leaves = bytearray((tmp_path / "leaves").read_bytes())
    leaves[599 * HASH_BYTES] ^= 1
    (tmp_path / "leaves").write_bytes(leaves)
    assert not levels.mend(600, roots[600])
    assert levels.mend(599, root_of(LEAVES[:599]))


def test_what_is_not_there_is_an_error_that_names_it(levels: LevelFiles, tmp_path: Path) -> None:
    levels.extend(600)
    with pytest.raises(TreeDamaged, match=r"hashes-1: hash 2 is missing; it is derived"):
        levels.read(1, 1, 2)
    with pytest.raises(TreeDamaged, match="hashes-2: it is missing"):
        levels.read(2, 0, 1)
    (tmp_path / "leaves").unlink()
    levels.remove()
    with pytest.raises(TreeDamaged, match="leaves: it is missing"):
        levels.extend(600)
