"""A log on a real folder: records for it, what stands in it afterwards, and a disk that fails when told to."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from audit.commit import AuditLog, LogPlace, Receipt
from audit.errors import CommitFailed
from audit.merkle import leaf_hash
from audit.record import AuditRecord, Phase, UserIdentity
from audit.segments import list_segments

LIMIT_S = 20.0


def is_healthy(log: AuditLog) -> bool:
    return log.fault is None


def record(
    name: str,
    *,
    phase: Phase = Phase.OUTCOME,
    event_id: str = "e",
    intent_id: str | None = None,
    size: int = 0,
    time_us: int = 1_767_323_045_000_006,
) -> AuditRecord:
    return AuditRecord(
        time_us=time_us,
        event_id=event_id,
        event_name=name,
        identity=UserIdentity("IAMUser"),
        aws_region="us-east-1",
        source_ip="192.0.2.1",
        phase=phase,
        intent_id=intent_id,
        request_parameters={"description": "x" * size} if size else None,
    )


@asynccontextmanager
async def opened(place: LogPlace) -> AsyncIterator[AuditLog]:
    log = AuditLog(place, asyncio.get_running_loop())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield log
    finally:
        await log.close()


async def failures(futures: list[asyncio.Future[Receipt]]) -> list[str]:
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(result, CommitFailed) for result in results), results
    return [str(result) for result in results]


def lines(place: LogPlace) -> list[dict[str, Any]]:  # Any: JSON
    """Every record, parsed; fails unless they are numbered densely and segments are named by their first."""
    found: list[dict[str, Any]] = []
    for segment in list_segments(place.folder):
        assert segment.first_index == len(found)
        data = segment.path.read_bytes()
        assert not data or data.endswith(b"\n")
        found += [orjson.loads(line) for line in data.splitlines()]
    assert [line["additionalEventData"]["keytrail"]["sequence"] for line in found] == list(range(len(found)))
    return found


def leaves(place: LogPlace) -> list[bytes]:
    """The leaf hash of each line in the log, in order."""
    data = b"".join(segment.path.read_bytes() for segment in list_segments(place.folder))
    return [leaf_hash(line) for line in data.split(b"\n")[:-1]]


def names(place: LogPlace) -> list[str]:
    return [line["eventName"] for line in lines(place)]


class Disk:
    """`os` as `audit.segments` sees it: counts fdatasync, and can hold it, or make it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.fails = False
        self.free = threading.Event()
        self.free.set()
        real = os.fdatasync

        def fdatasync(fd: int) -> None:
            self.syncs += 1
            self.free.wait(LIMIT_S)
            if self.fails:
                raise OSError(5, "Input/output error")
            real(fd)

        monkeypatch.setattr(os, "fdatasync", fdatasync)
