"""The Merkle tree against its recursive definition, for all small sizes and indices, and against published vectors."""

from __future__ import annotations

from hashlib import sha256

import pytest

from audit.merkle import EMPTY_ROOT, Frontier, extends, includes, leaf_hash, root_of
from tests.audit.trees import consistency_by_definition, inclusion_by_definition, leaves_of

SIZES = range(1, 20)
#: The test tree of Google's certificate-transparency implementations: eight leaves, and the root of each prefix.
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word by word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = max(2**power for power in range(10) if 2**power < len(leaves))
    return sha256(b"\x01" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()


def test_published_roots() -> None:
    leaves = [leaf_hash(leaf) for leaf in CT_LEAVES]
    assert [root_of(leaves[: size + 1]).hex() for size in range(8)] == CT_ROOTS
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", [0, *SIZES])
def test_the_frontier_has_the_root_of_the_definition_and_survives_being_stored(size: int) -> None:
    frontier = Frontier()
    for leaf in leaves_of(size):
        frontier.append(leaf)
    assert frontier.root() == by_definition(leaves_of(size))
    restored = Frontier(frontier.size, frontier.subtrees)
    restored.append(leaf_hash(b"next"))
    assert restored.root() == by_definition([*leaves_of(size), leaf_hash(b"next")])
    with pytest.raises(ValueError, match="complete subtrees"):
        Frontier(size, [*frontier.subtrees, EMPTY_ROOT])


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_is_included_and_nothing_else(size: int) -> None:
    leaves = leaves_of(size)
    root = root_of(leaves)
    for index in range(size):
        proof = inclusion_by_definition(leaves, index)
        assert includes(leaves[index], index, size, proof, root)
        assert not includes(leaf_hash(b"other"), index, size, proof, root)
        assert not includes(leaves[index], index, size, [*proof, root], root)
        for other in {*range(size), -1, size} - {index}:
            assert not includes(leaves[index], other, size, proof, root)
        for position in range(len(proof)):
            changed = [*proof[:position], sha256(proof[position]).digest(), *proof[position + 1 :]]
            assert not includes(leaves[index], index, size, changed, root)
            assert not includes(leaves[index], index, size, proof[:position], root)


@pytest.mark.parametrize("size", SIZES)
def test_every_prefix_is_consistent_and_no_other_tree(size: int) -> None:
    leaves = leaves_of(size)
    root = root_of(leaves)
    for old_size in range(1, size + 1):
        old_root = root_of(leaves[:old_size])
        proof = consistency_by_definition(leaves, old_size)
        assert extends(old_size, old_root, size, root, proof)
        assert not extends(old_size, sha256(old_root).digest(), size, root, proof)
        assert not extends(old_size, old_root, size, sha256(root).digest(), proof)
        for position in range(len(proof)):
            changed = [*proof[:position], sha256(proof[position]).digest(), *proof[position + 1 :]]
            assert not extends(old_size, old_root, size, root, changed)
