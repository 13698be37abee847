"""The tree as C2SP tlog-tiles has it served: what a checkpoint covers, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.merkle import leaf_hash, root_of
from audit.served_tree import EntryTooLong, Resource, find_resource, is_of_entries
from tests.audit.forge import Forge, line

RECORDS = 600


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    made = Forge.create(tmp_path)
    made.grow(RECORDS)
    made.seal()
    return made


def given(forge: Forge, path: str) -> Resource:
    found = find_resource(forge.instance, forge.log, path)
    assert found is not None, path
    return found


def test_the_checkpoint_is_the_cosigned_one_where_there_is_one(forge: Forge) -> None:
    assert given(forge, "checkpoint") == Resource(forge.latest.encode(), is_immutable=False)
    (forge.witnessed / "cosigned").write_bytes(b"by witnesses")
    assert given(forge, "checkpoint").body == b"by witnesses"


def test_tiles(forge: Forge) -> None:
    leaves = [leaf_hash(line(number)[:-1]) for number in range(RECORDS)]
    assert given(forge, "tile/0/000") == Resource(b"".join(leaves[:256]), is_immutable=True)
    assert given(forge, "tile/0/002.p/88").body == b"".join(leaves[512:])
    assert given(forge, "tile/0/002.p/1").body == leaves[512]  # of an earlier checkpoint
    assert given(forge, "tile/1/000.p/2").body == root_of(leaves[:256]) + root_of(leaves[256:512])


def test_entries_hash_to_the_leaves_of_their_tile(forge: Forge) -> None:
    for path, count in (("000", 256), ("002.p/88", 88)):
        bundle, tile = given(forge, f"tile/entries/{path}").body, given(forge, f"tile/0/{path}").body
        entries = []
        while bundle:
            size = int.from_bytes(bundle[:2], "big")
            entries.append(bundle[2 : 2 + size])
            bundle = bundle[2 + size :]
        assert len(entries) == count
        assert b"".join(map(leaf_hash, entries)) == tile
    assert is_of_entries("tile/entries/000") and not is_of_entries("tile/0/000")


@pytest.mark.parametrize(
    "path",
    [
        *("", "tile/", "tile/0", "tile/0/002", "tile/0/002.p/89", "tile/0/003", "tile/1/000", "tile/1/000.p/3", "tile/2/000"),
        *(
            "tile/2/000.p/1",
            "tile/63/000.p/1",
            "tile/entries/002",
            "tile/entries/002.p/89",
            "0/000",
            "latest",
            "../../sealer.key",
        ),
        *("tile/0/000.p/256", "tile/0/0", "checkpoint/", "tile/entries/../0/000"),
    ],
)
def test_what_is_not_there(forge: Forge, path: str) -> None:
    assert find_resource(forge.instance, forge.log, path) is None


def test_what_no_checkpoint_covers_is_not_given(forge: Forge) -> None:
    forge.grow(1)
    assert find_resource(forge.instance, forge.log, "tile/entries/002.p/89") is None
    forge.seal()
    assert find_resource(forge.instance, forge.log, "tile/entries/002.p/89") is not None


@pytest.mark.parametrize("log", ["w0", "", "..", "admin/../admin"])
def test_logs_that_are_not_listed(forge: Forge, log: str) -> None:
    assert find_resource(forge.instance, log, "checkpoint") is None


def test_a_log_without_a_checkpoint_has_nothing(forge: Forge) -> None:
    (forge.checkpoints / "latest").unlink()
    for path in ("checkpoint", "tile/0/000"):
        assert find_resource(forge.instance, forge.log, path) is None


def test_a_record_of_an_earlier_version_may_be_too_long_for_a_bundle(forge: Forge) -> None:
    longest = 65_535 - (len(line(600, word="")) - 1) + len("Encrypt")
    forge.append(line(600, word="w" * longest), line(601, word="w" * (longest + 1)))
    forge.seal()
    assert len(given(forge, "tile/entries/002.p/89").body) > 65_535
    with pytest.raises(EntryTooLong, match="record 601 of admin has 65536 bytes; an entry bundle has room for 65535 of each"):
        find_resource(forge.instance, forge.log, "tile/entries/002.p/90")
    assert len(given(forge, "tile/0/002.p/90").body) == 90 * 32
