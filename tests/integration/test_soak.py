"""Calls while AWS goes away and comes back: `python -m bench.soak`, with fewer of them."""

from __future__ import annotations

import os
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from bench.soak import soak


def two_ports() -> int:
    """A port that is free, and the next too, below those that the kernel gives to whoever connects."""
    first: int = 20_000 + os.getpid() % 6_000 * 2
    ports: list[int] = [*range(first, 32_000, 2), *range(20_000, first, 2)]
    for port in ports:
        with ExitStack() as held:
            try:
                for number in (port, port + 1):
                    held.enter_context(socket.create_server(("127.0.0.1", number)))
            except OSError:
                continue
            return port
    raise AssertionError("no two ports are free")


def test_every_answer_has_its_record_while_aws_is_stopped_and_started(tmp_path: Path) -> None:
    seen = soak(tmp_path, 3_000, 2, two_ports())
    assert seen.faults == []
    statuses = Counter(one.status for one in seen.given)
    assert statuses.total() == 3_000
    assert statuses[500] > 0 and statuses[200] > 0, "AWS was never away, or always"
