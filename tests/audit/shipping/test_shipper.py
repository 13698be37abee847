"""Shipping to one sink: every record once, in order, whatever the sink says, and wherever a crash comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from audit.ocsf import encode_event
from audit.shipping import feed as feeds
from audit.shipping.cursor import CursorFile, CursorInvalid, Refused, State
from audit.shipping.messages import Message
from audit.shipping.process import ship, status_of
from audit.shipping.sink import SinkFault
from tests.audit.shipping.fakes import NOON, FakeSink, Turns, World, ship_all


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "data")


def poison(*sequences: int) -> Callable[[Message], str | None]:
    return lambda message: f"no {message.sequence}" if message.sequence in sequences else None


async def test_each_record_once_in_order_and_in_the_logs_own_bytes(world: World) -> None:
    world.add_log("w0")
    world.add(25)
    world.add(1_100, "w0")
    shipper = world.open()
    await ship_all(shipper)
    world.add(3)
    await ship_all(shipper)
    for log, count in (("admin", 28), ("w0", 1_100)):
        assert [place for place in world.sink.places if place[0] == log] == [(log, number) for number in range(count)]
        assert [one.body for batch in world.sink.batches for one in batch if one.log == log] == world.lines(log)
    assert world.saved() == {"admin": 28, "w0": 1_100}
    assert max(map(len, world.sink.batches)) == feeds.MOST_RECORDS
    assert shipper.lag() == (0, None)


async def test_a_log_that_is_made_later_is_shipped_too(world: World) -> None:
    world.add(1)
    shipper = world.open()
    await ship_all(shipper)
    world.add_log("w0")
    world.add(2, "w0")
    await ship_all(shipper)
    assert world.sink.places == [("admin", 0), ("w0", 0), ("w0", 1)]


async def test_the_other_form(world: World) -> None:
    world.add(3)
    await ship_all(world.open("ocsf"))
    assert [one.body for one in world.sink.batches[0]] == [encode_event(line) for line in world.lines()]


async def test_a_batch_is_bounded_in_bytes(world: World) -> None:
    world.add(60, userAgent="x" * 40_000)
    await ship_all(world.open())
    assert len(world.sink.places) == 60
    assert all(sum(len(one.body) for one in batch) <= 1 << 20 for batch in world.sink.batches)


async def test_after_a_crash_before_the_cursor_is_saved_it_is_sent_again_and_nothing_is_left_out(world: World) -> None:
    world.add(5)

    class Crash(BaseException):
        pass

    class Crashing(CursorFile):
        def save(self, state: State) -> None:
            raise Crash

    cursor = Crashing(world.data / "shipping", world.target.name, world.target.address)
    shipper = world.open()
    shipper._cursor = cursor
    with pytest.raises(Crash):
        await ship_all(shipper)
    assert world.saved() == {}
    await ship_all(world.open())
    assert world.sink.places == [("admin", number) for number in range(5)] * 2
    await ship_all(world.open())
    assert len(world.sink.places) == 10, "only after the crash"


async def test_a_log_that_was_put_back_is_an_incident_until_it_has_grown_again(world: World) -> None:
    world.add_log("w0")
    world.add(10)
    world.add(5, "w0")
    await ship_all(world.open())
    forge = world.forges["admin"]
    for path in (*forge.folder.glob("*.jsonl"), forge.folder / "mark"):
        path.unlink()
    forge.records = 0
    world.add(4)
    world.add(2, "w0")
    route = world.route()
    assert await route.step() > 0
    assert not status_of([route]).ready
    assert route.shipper.incidents["admin"].endswith("it has 4 records, and 10 of it were shipped: it was put back")
    assert world.sink.places[-2:] == [("w0", 5), ("w0", 6)], "the other log goes on"
    world.add(8)
    await ship_all(route.shipper)
    assert status_of([route]).ready and world.sink.places[-2:] == [("admin", 10), ("admin", 11)]


async def test_a_sink_that_was_away_for_an_hour_gets_everything(world: World) -> None:
    world.add(3)
    world.sink.fault = SinkFault("connection refused")
    route = world.route()
    told = []

    def hour() -> bool:
        told.append(status_of([route]))
        if len(told) == 10:
            world.add(700)
        if world.now >= NOON + 3_600:
            world.sink.fault = None
        return world.now >= NOON + 3_660

    turns = Turns(world, hour)
    await route.run(turns)
    pauses = [pause for pause in turns.waits if pause]
    assert pauses[:8] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert len(pauses) < 200, "it is not asked all the time"
    assert told[3].reason == (
        "otlp http://collector.test/v1/logs: connection refused; 3 records wait, since 2026-01-02T00:00:00Z"
    )
    assert not told[3].ready and told[-1].ready
    assert world.sink.places == [("admin", number) for number in range(703)]
    assert len(turns.waits) - len(pauses) > 0 and world.saved() == {"admin": 703}


async def test_a_sink_may_say_how_long_it_wants_to_be_left_alone(world: World) -> None:
    world.add(1)
    world.sink.fault = SinkFault("HTTP 429", pause_s=30)
    assert await world.route().step() == 30
    world.sink.fault = SinkFault("HTTP 429", pause_s=1e9)
    assert await world.route().step() == 60


async def test_what_comes_in_small_numbers_is_left_to_gather(world: World) -> None:
    """A batch for each record would cost the calls more than the records do."""
    world.add(600)
    route = world.route()
    assert await route.step() == 0.0
    for _ in range(3):
        assert await route.step() > 0.0
        world.add(5)
    assert list(map(len, world.sink.batches)) == [512, 88, 5, 5]


async def test_after_a_fault_another_sink_is_opened(world: World) -> None:
    world.add(1)
    shipper = world.open()
    world.sink.fault = SinkFault("gone")
    with pytest.raises(SinkFault):
        await shipper.step()
    world.sink.fault = None
    await ship_all(shipper)
    assert (world.sink.opened, world.sink.closed) == (2, 1)


async def test_what_a_library_raises_unexpectedly_is_a_fault_and_its_text_is_not_told(world: World) -> None:
    world.add(1)

    class Odd(FakeSink):
        async def send(self, batch: object) -> object:  # type: ignore[override]  # it never gets there
            raise ValueError("canary-secret")

    with pytest.raises(SinkFault, match=r"^unexpected: ValueError$"):
        await world.open(open_sink=Odd().open).step()


@pytest.mark.parametrize("names_refused", [False, True])
@pytest.mark.parametrize("refused", [(0,), (3,), (3, 4), (0, 500, 899), (511, 512)])
async def test_a_record_that_is_refused_is_set_aside_with_its_place_and_the_others_go_on(
    world: World, refused: tuple[int, ...], names_refused: bool
) -> None:
    world.add(900)
    world.sink.names_refused = names_refused
    world.sink.refuses = poison(*refused)
    shipper = world.open()
    await ship_all(shipper)
    if 899 in refused and not names_refused:
        assert (shipper.suspected, world.saved()) == (1, {"admin": 899})
    world.add(1)
    await ship_all(shipper)
    assert world.sink.places == [("admin", number) for number in range(901) if number not in refused]
    assert world.set_aside() == [
        {
            "log": "admin",
            "sequence": number,
            "reason": f"no {number}",
            "time": "2026-01-02T12:00:00.000000Z",
            "event_id": f"admin-{number}",
            "count": 1,
        }
        for number in refused
    ]
    assert world.saved() == {"admin": 901} and shipper.refused == len(refused) and shipper.suspected == 0


async def test_a_sink_that_refuses_everything_gets_everything_once_it_takes_records(world: World) -> None:
    world.add(100)
    world.sink.refuses = lambda message: "bad schema"
    route = world.route()
    while await route.step() == 0.0:
        pass
    assert route.fault == "it refuses every record: bad schema"
    assert world.set_aside() == [] and world.saved() == {"admin": 0}
    world.sink.refuses = lambda message: None
    await ship_all(route.shipper)
    assert world.sink.places == [("admin", number) for number in range(100)]
    assert world.set_aside() == []


async def test_a_last_record_that_is_refused_waits_for_the_next_and_is_told(world: World) -> None:
    world.add(3)
    world.sink.refuses = poison(2)
    route = world.route()
    await ship_all(route.shipper)
    status = status_of([route])
    assert status.ready and "1 records were refused, and are set aside when the next one is taken" in str(status.reason)
    assert route.shipper.lag()[0] == 1
    await ship_all(world.open())
    assert world.set_aside() == [], "a start later it is tried again"


async def test_what_a_sink_refuses_without_saying_which_is_told_with_its_range(world: World) -> None:
    world.add(10)
    world.sink.unnamed = 2
    shipper = world.open()
    await ship_all(shipper)
    (told,) = world.set_aside()
    assert (told["sequence"], told["last"], told["count"], told["reason"]) == (0, 9, 2, "quota")
    assert shipper.refused == 2 and world.saved() == {"admin": 10}


async def test_a_line_that_is_no_record_is_set_aside_and_the_others_go_on(world: World) -> None:
    world.add(3)
    world.forges["admin"].append(b'{"no":"record"}\n')
    world.forges["admin"].append(b"\n")
    world.add(2)
    await ship_all(world.open())
    assert [number for _, number in world.sink.places] == [0, 1, 2, 5, 6]
    assert [one["sequence"] for one in world.set_aside()] == [3, 4]
    assert world.saved() == {"admin": 7}


async def test_a_log_with_an_incident_does_not_hold_the_others(world: World) -> None:
    world.add_log("w0")
    world.add(15)
    world.add(2, "w0")
    world.forges["admin"].segment(0).unlink()
    route = world.route()
    await ship_all(route.shipper)
    assert world.sink.places == [("w0", 0), ("w0", 1)]
    status = status_of([route])
    assert not status.ready and "INCIDENT: log admin: the segment with record 0 is gone" in str(status.reason)


async def test_nothing_that_is_not_durable_is_shipped(world: World) -> None:
    world.add(2)
    with world.forges["admin"].segment(0).open("ab") as file:
        file.write(world.lines()[0] + b"\n")
    await ship_all(world.open())
    assert len(world.sink.places) == 2


async def test_the_cursor_is_saved_once_a_second_while_batches_follow_each_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MOST_RECORDS", 1)
    saves: list[State] = []
    monkeypatch.setattr(CursorFile, "save", lambda self, state: saves.append(state))
    world.add(10)
    shipper = world.open()
    for _ in range(10):
        await shipper.step()
        world.now += 0.25
    assert [state.next["admin"] for state in saves] == [1, 5, 9]
    await shipper.close()
    assert saves[-1].next == {"admin": 10}


async def test_memory_is_bounded_while_a_sink_is_away(world: World) -> None:
    world.add(5_000)
    world.sink.fault = SinkFault("gone")
    shipper = world.open()
    with pytest.raises(SinkFault):
        await shipper.step()
    (feed,) = (shipper._feeds or {}).values()
    assert len(feed._pending) == feeds.MOST_RECORDS
    assert shipper.lag() == (5_000, 1_767_312_000_000_000)


async def test_what_nobody_foresaw_ends_the_process_and_not_one_sink_in_silence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(1)
    route = world.route()

    async def broken() -> bool:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(route.shipper, "step", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        await ship([route, world.route()], asyncio.Event(), lambda _: None, lambda _: None)


def test_counts(world: World) -> None:
    assert world.route().counts() == [
        ["shipping_lag_records", world.target.name, 0],
        ["shipping_lag_seconds", world.target.name, 0],
        ["shipping_refused", world.target.name, 0],
    ]


async def test_counts_of_what_waits(world: World) -> None:
    world.add(2)
    world.sink.fault = SinkFault("gone")
    route = world.route()
    await route.step()
    assert [count[2] for count in route.counts()] == [2, 43_200, 0]


# --- the cursor's files


def test_a_state_is_read_as_it_was_saved(world: World) -> None:
    assert world.cursor.load() == State({})
    world.cursor.save(State({"admin": 3, "w0": 0}))
    assert world.cursor.load() == State({"admin": 3, "w0": 0})


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"format":2,"next":{}}', b'{"format":1,"next":{"w0":-1}}', b'{"format":1,"next":{"w0":"1"}}']
)
async def test_a_damaged_state_is_told_and_nothing_is_shipped_by_it(world: World, text: bytes) -> None:
    world.add(1)
    world.cursor.save(State({"admin": 0}))
    (world.data / "shipping" / world.target.name / "state").write_bytes(text)
    with pytest.raises(CursorInvalid):
        await world.open().step()
    assert world.sink.places == []


def test_refusals_are_kept_once_and_a_torn_line_is_left(world: World) -> None:
    one, two = Refused("w0", 1, "r", "t"), Refused("w0", 2, "r", "t")
    world.cursor.set_aside([one])
    path = world.data / "shipping" / world.target.name / "refused"
    path.write_bytes(path.read_bytes() + b'{"log":"w0","sequ')
    world.cursor.set_aside([one, two])
    assert world.cursor.refused() == 2
    assert path.read_bytes().count(b'"sequence":1') == 1


def test_the_state_says_whose_it_is(world: World) -> None:
    world.cursor.save(State({"admin": 1}))
    document = orjson.loads((world.data / "shipping" / world.target.name / "state").read_bytes())
    assert document == {"format": 1, "address": "http://collector.test/v1/logs", "next": {"admin": 1}}
