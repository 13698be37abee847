"""Tiles: the levels against their definition, the proofs against RFC 6962's recursion, and names as C2SP writes them."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.merkle import HASH_BYTES, extends, includes, leaf_hash, node_hash, root_of
from audit.tiles import WIDTH, TileName, consistency_proof, hashes_in, inclusion_proof, root, tile_roots
from tests.audit.trees import consistency_by_definition, inclusion_by_definition, leaves_of, levels_of

SMALL = range(1, 40)
#: Around where tiles of level 0 and 1 are full.
LARGE = [255, 256, 257, 511, 512, 513, 700, 65_535, 65_536, 65_537, 70_000]


@pytest.mark.parametrize("size", SMALL)
def test_all_proofs_of_small_trees(size: int) -> None:
    leaves, levels = leaves_of(size), levels_of(size)
    assert root(levels, size) == root_of(leaves)
    for index in range(size):
        assert inclusion_proof(levels, index, size) == inclusion_by_definition(leaves, index)
        assert consistency_proof(levels, index + 1, size) == consistency_by_definition(leaves, index + 1)


@pytest.mark.parametrize("size", LARGE)
def test_proofs_across_tiles(size: int) -> None:
    leaves, levels = leaves_of(size), levels_of(size)
    whole = root_of(leaves)
    assert root(levels, size) == whole
    chance = random.Random(size)
    for index in {0, size - 1, size // 2, min(255, size - 1), min(256, size - 1), *(chance.randrange(size) for _ in range(5))}:
        assert includes(leaves[index], index, size, inclusion_proof(levels, index, size), whole)
        proof = consistency_proof(levels, index + 1, size)
        assert extends(index + 1, root_of(leaves[: index + 1]), size, whole, proof)
        assert not extends(index + 1, root_of([*leaves[:index], leaf_hash(b"x")]), size, whole, proof)


def test_a_proof_takes_few_looks() -> None:
    size, seen = 10_000_000, []

    def levels(level: int, first: int, count: int) -> bytes:
        assert first + count <= hashes_in(level, size) and count <= WIDTH // 2
        seen.append(count)
        return bytes(HASH_BYTES) * count

    inclusion_proof(levels, 4_321_987, size)
    assert len(seen) <= 40 and sum(seen) <= 4 * WIDTH


def test_what_has_no_proof_is_refused() -> None:
    levels = levels_of(5)
    for index in (-1, 5):
        with pytest.raises(IndexError):
            inclusion_proof(levels, index, 5)
    for old_size in (0, 6):
        with pytest.raises(ValueError, match="no tree of"):
            consistency_proof(levels, old_size, 5)
    assert root(levels, 0) == sha256(b"").digest()


def test_the_roots_of_tiles() -> None:
    leaves = leaves_of(2 * WIDTH)
    assert tile_roots(b"".join(leaves)) == root_of(leaves[:WIDTH]) + root_of(leaves[WIDTH:])
    assert node_hash(*(root_of(leaves[at : at + WIDTH]) for at in (0, WIDTH))) == root_of(leaves)


# --- names


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (TileName(0, 0), "0/000"),
        (TileName(1, 1_234_067), "1/x001/x234/067"),  # the specification's own
        (TileName(0, 273, 112), "0/273.p/112"),
        (TileName(None, 1_000, 1), "entries/x001/000.p/1"),
        (TileName(63, 999_999), "63/x999/999"),
    ],
)
def test_names(name: TileName, path: str) -> None:
    assert name.path == path
    assert TileName.parse(path) == name


@given(st.none() | st.integers(0, 63), st.integers(0, 10**18 - 1), st.integers(1, WIDTH))
def test_every_name_is_read_as_it_was_written(level: int | None, index: int, width: int) -> None:
    name = TileName(level, index, width)
    assert TileName.parse(name.path) == name


@pytest.mark.parametrize(
    "path",
    [
        *("", "0", "0/", "0/0", "0/00", "0/0000", "00/000", "64/000", "-1/000", "x/000", "entry/000"),
        *("0/x000/000", "0/001/000", "0/x001/x000", "0/000.p/0", "0/000.p/256", "0/000.p/01", "0/000.p", "0/000.p/1000"),
        *("0/000/", "/0/000", "0//000", "0/../000", "0/٠٠٠", "0/x001/000\n", "0/" + "x999/" * 6 + "999"),
    ],
)
def test_what_is_no_name(path: str) -> None:
    assert TileName.parse(path) is None


@pytest.mark.parametrize(
    ("level", "full", "partial"), [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
)  # the specification's tree of 70,000 leaves
def test_the_tiles_of_a_tree(level: int, full: int, partial: int) -> None:
    size = 70_000
    assert divmod(hashes_in(level, size), WIDTH) == (full, partial)
    assert TileName(level, full, partial).is_in(size) and not TileName(level, full, partial + 1).is_in(size)
    assert not TileName(level, full).is_in(size) and (not full or TileName(level, full - 1).is_in(size))
