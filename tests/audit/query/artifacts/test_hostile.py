"""What hostile artefacts cost: all of them together are read in bounded memory, and in bounded time."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from audit.query.artifacts import documents
from audit.query.artifacts.artifact import DamagedArtifact
from audit.query.artifacts.documents import MAX_STRUCTURE, BrokenJson, parse_json
from audit.query.artifacts.dynamodb import read_dynamodb
from tests.audit.query.artifacts.memory import MemoryArtifact

MEMORY_BYTES = 640 << 20
CPU_S = 60


def test_hostile_artefacts_are_read_in_bounded_memory_and_time() -> None:
    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))

    argv = [sys.executable, "-m", "tests.audit.query.artifacts.hostile"]
    done = subprocess.run(argv, preexec_fn=bound, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [line.partition(" ") for line in done.stdout.splitlines()]
    assert len(told) == 33
    assert max(float(cost_s) for cost_s, _, _ in told) < 10


def test_json_of_more_structure_than_any_honest_one_has_is_refused_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DamagedArtifact, match=f"more than {MAX_STRUCTURE} brackets, commas and colons"):
        read_dynamodb(MemoryArtifact(b'{"branch-key-id":[' + b"[]," * 2_000_000 + b"0]}"))
    monkeypatch.setattr(documents, "MAX_STRUCTURE", 4)
    assert parse_json(b'{"a":[1,2]}') == {"a": [1, 2]}
    with pytest.raises(BrokenJson, match="not read"):
        parse_json(b'{"a":[1,2,3]}')
