"""Calls while AWS goes away and comes back: `python -m bench.soak`, with fewer of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.soak import soak
from tests.integration.components.ports import free_ports


def test_every_answer_has_its_record_while_aws_is_stopped_and_started(tmp_path: Path) -> None:
    seen = soak(tmp_path, 3_000, 2, free_ports(2)[0])
    assert seen.faults == []
    statuses = Counter(one.status for one in seen.given)
    assert statuses.total() == 3_000
    assert statuses[500] > 0 and statuses[200] > 0, "AWS was never away, or always"
