"""The leaf hashes that the sealer kept, in step 5: they tell which lines differ, and excuse none."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.checkpoint import Checkpoint
from audit.merkle import HASH_BYTES, leaf_hash, root_of
from audit.verifying.comparison import Comparison, Target
from audit.verifying.faults import Faults
from audit.verifying.titles import HISTORY

SIZE = 1_000  # more leaves than are read ahead
HONEST = [leaf_hash(b"record %d" % number) for number in range(SIZE)]
ALTERED = [*HONEST[:500], leaf_hash(b"another"), *HONEST[501:]]


def compared(leaves: Path, *, by_runs: bool, meanwhile: bytes | None = None) -> list[str]:
    """What is found of a log whose record 500 is another; `leaves` becomes `meanwhile` before its last record is read."""
    target = Target(Checkpoint("log.example/1", SIZE, root_of(HONEST)), HISTORY, "checkpoint 0")
    faults = Faults("w0")
    with Comparison(iter((target,)), leaves, faults) as tree:
        if by_runs:
            tree.take_run(ALTERED[:-1])
        else:
            for leaf in ALTERED[:-1]:
                tree.take(leaf)
        if meanwhile is not None:
            with leaves.open("r+b") as file:
                file.write(meanwhile)
        tree.take(ALTERED[-1])
        tree.finish()
        assert tree.sealed == 0 or faults.count(HISTORY)
    return [fault.reason for fault in faults.listed()]


@pytest.mark.parametrize("by_runs", [False, True])
def test_the_record_that_differs_is_named(tmp_path: Path, by_runs: bool) -> None:
    leaves = tmp_path / "leaves"
    leaves.write_bytes(b"".join(HONEST))
    found = compared(leaves, by_runs=by_runs)
    assert found[0] == "record 500 is not the one that checkpoint 0 was signed for"


@pytest.mark.parametrize("by_runs", [False, True])
def test_leaves_that_are_changed_while_it_reads_excuse_nothing(tmp_path: Path, by_runs: bool) -> None:
    """While the lines go by they are those of the altered log, and those that were signed for when the root is asked for."""
    leaves = tmp_path / "leaves"
    leaves.write_bytes(b"".join(ALTERED))
    assert leaves.stat().st_size == SIZE * HASH_BYTES
    found = compared(leaves, by_runs=by_runs, meanwhile=b"".join(HONEST))
    assert found == ["the lines do not have the root of checkpoint 0: they differ between records 0 and 999, up to here"]
