"""Heartbeats: written when nothing else was, and never in the way of a call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from audit.commit import Receipt
from audit.errors import CommitFailed
from audit.record import AuditRecord
from proxy.heartbeat import Heartbeat
from proxy.recording import Recorder


@dataclass
class World:
    """A log that keeps what it is given, and a clock that each sleep moves on; it ends after `looks` of them."""

    looks: int
    interval_s: float = 60.0
    now_us: int = 1_000_000_000
    told: list[AuditRecord] = field(default_factory=list)
    calls: set[int] = field(default_factory=set)  # looks before which a call is recorded
    changes: dict[int, float] = field(default_factory=dict)  # intervals, from a look on
    faults: int = 0  # commits that fail
    others: int = 0
    slept: list[float] = field(default_factory=list)

    @property
    def records(self) -> int:
        return len(self.told) + self.others

    def commit(self, record: AuditRecord) -> asyncio.Future[Receipt]:
        if self.faults:
            self.faults -= 1
            raise CommitFailed("w0", "poisoned")
        self.told.append(record)
        future = asyncio.get_running_loop().create_future()
        future.set_result(Receipt("w0", self.records - 1, bytes(32)))
        return future

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) > self.looks:
            raise asyncio.CancelledError
        self.now_us += int(seconds * 1_000_000)
        self.others += len(self.slept) in self.calls
        self.interval_s = self.changes.get(len(self.slept), self.interval_s)

    def events(self) -> list[tuple[str, int]]:
        return [(record.event_name, record.time_us // 1_000_000) for record in self.told]


def make(world: World, monkeypatch: pytest.MonkeyPatch, latest: Path = Path("/nowhere")) -> Heartbeat:
    monkeypatch.setattr(asyncio, "sleep", world.sleep)
    ids = iter(range(10**6))
    recorder = Recorder("111122223333", "eu-central-1", "local", "clear", lambda: f"id-{next(ids)}")
    return Heartbeat(world, recorder, latest, lambda: world.now_us, lambda: world.interval_s)


async def beat(one: Heartbeat) -> None:
    with pytest.raises(asyncio.CancelledError):
        await one.beat()


async def test_one_a_minute_while_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(looks=185)
    await beat(make(world, monkeypatch))
    assert world.events() == [("Heartbeat", 1_060), ("Heartbeat", 1_121), ("Heartbeat", 1_182)]
    assert set(world.slept) == {1.0}


async def test_none_while_calls_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(looks=150, calls={30, 80, 130})
    await beat(make(world, monkeypatch))
    assert world.told == []
    world = World(looks=150, calls={30})
    await beat(make(world, monkeypatch))
    assert world.events() == [("Heartbeat", 1_090)]


async def test_none_where_there_is_no_interval_and_one_again_when_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(looks=200, interval_s=0)
    one = make(world, monkeypatch)
    await one.start()
    await beat(one)
    await one.stop()
    assert world.told == []
    world.interval_s, world.looks = 60.0, 401
    await beat(one)
    assert [name for name, _ in world.events()] == ["Heartbeat"] * 3


async def test_a_changed_interval_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(looks=200, faults=1, changes={20: 0.0, 40: 30.0})
    await beat(make(world, monkeypatch))
    told = [
        (at, (one.service_event_details or {})["intervalSeconds"])
        for one, (_, at) in zip(world.told, world.events(), strict=True)
    ]
    assert told[:2] == [(1_021, 0.0), (1_040, 30.0)], "the first one's commit failed at 1,020"
    assert [interval for _, interval in told[2:]] == [30.0] * (len(told) - 2) and len(told) > 4


async def test_a_short_interval_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(looks=40, interval_s=1.0)
    await beat(make(world, monkeypatch))
    assert len(world.told) == 8 and set(world.slept) == {0.25}, "after four looks without one, and the one that sees it"


async def test_a_clock_that_is_set_back_delays_none_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(looks=61)
    one = make(world, monkeypatch)
    running = asyncio.ensure_future(beat(one))
    world.now_us -= 3_600_000_000
    await running
    assert [name for name, _ in world.events()] == ["Heartbeat"]


async def test_a_log_that_takes_none_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(looks=64, faults=3)
    await beat(make(world, monkeypatch))
    assert world.events() == [("Heartbeat", 1_063)]
    world = World(looks=0, faults=2)
    one = make(world, monkeypatch)
    await one.stop()
    with pytest.raises(CommitFailed):
        await one.start()


async def test_they_tell_the_interval_and_how_much_is_signed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    latest = tmp_path / "latest"
    world = World(looks=61)
    one = make(world, monkeypatch, latest)
    await one.start()
    latest.write_bytes(b"keytrail/x/w0\n17\nAAAA\n\n...")
    await beat(one)
    latest.write_bytes(b"torn")
    await one.stop()
    assert [(record.event_name, record.service_event_details) for record in world.told] == [
        ("StartServing", {"intervalSeconds": 60.0, "checkpointSize": 0}),
        ("Heartbeat", {"intervalSeconds": 60.0, "checkpointSize": 17}),
        ("StopServing", {"intervalSeconds": 60.0, "checkpointSize": 0}),
    ]
    assert {(record.event_source, record.event_type) for record in world.told} == {("keytrail", "AwsServiceEvent")}
