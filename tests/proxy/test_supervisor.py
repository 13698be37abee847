"""What the supervisor makes of a child that does not tell what it should."""

from __future__ import annotations

import asyncio
import sys

import pytest

from proxy import supervisor
from proxy.metrics import Metrics
from proxy.supervisor import Child


@pytest.mark.parametrize("told", ["'x' * 3_000_000", "'rubbish'", "'7'"])
async def test_a_child_whose_report_cannot_be_read_is_started_anew(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_S", 0.01)
    changed = asyncio.Event()
    argv = [sys.executable, "-c", f"import sys; print({told}, flush=True); sys.stdin.read()"]
    child = Child("w0", argv, changed.set, Metrics(dict), b"")
    keeping = asyncio.create_task(child.keep())
    for _ in range(2):  # each start ends in the same way
        await asyncio.wait_for(changed.wait(), 20)
        changed.clear()
        assert not child.status.ready and child.status.reason is not None
        assert not keeping.done()
    await child.stop(keeping, 10)


async def test_a_long_report_is_read() -> None:
    changed = asyncio.Event()
    reason = "x" * 200_000
    program = (
        f"import sys; print('{{\"ready\": true, \"reason\": \"' + 'x' * {len(reason)} + '\"}}', flush=True); sys.stdin.read()"
    )
    child = Child("w0", [sys.executable, "-c", program], changed.set, Metrics(dict), b"")
    keeping = asyncio.create_task(child.keep())
    await asyncio.wait_for(changed.wait(), 20)
    assert (child.status.ready, child.status.reason) == (True, reason)
    await child.stop(keeping, 10)


async def test_a_renewed_child_ends_and_works_by_its_new_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_S", 600.0)  # what is renewed does not wait for it
    changed = asyncio.Event()
    program = 'import sys; print(\'{"ready": true, "reason": "\' + input() + \'"}\', flush=True); sys.stdin.read()'
    child = Child("shipper", [sys.executable, "-c", program], changed.set, Metrics(dict), b"first\n")
    keeping = asyncio.create_task(child.keep())
    await asyncio.wait_for(changed.wait(), 20)
    assert child.status.reason == "first"
    changed.clear()
    child.renew(b"second\n")
    told = []
    while child.status.reason != "second":
        await asyncio.wait_for(changed.wait(), 20)
        changed.clear()
        told.append((child.status.ready, child.status.reason))
    assert told == [(False, "started anew"), (True, "second")]
    await child.stop(keeping, 10)
