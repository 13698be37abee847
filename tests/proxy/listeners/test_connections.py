"""Connections that are slow, idle, or gone, and the drain: none stays for good, and none harms another."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from proxy.domain import RawRequest, RawResponse
from proxy.listeners.reverse import Limits
from tests.proxy.listeners.cases import CHUNKED
from tests.proxy.listeners.front import BODY_LIMIT, LIMIT_S, LIMITS, OK, listening, post, require_aws_form, until
from tests.proxy.listeners.loops import Run


@pytest.mark.parametrize(
    "sent", [b"P", post()[:20], post(b"abc")[:-1], CHUNKED + b"5\r\na"], ids=["one byte", "head", "body", "chunk"]
)
def test_a_request_that_is_too_slow_is_told_so(run: Run, sent: bytes) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post())
            await client.reply()
            await client.send(sent)
            # until the bytes have arrived, the connection is idle, and nothing is late
            await until(lambda: any(connection._phase.value for connection in world.listener.connections))
            world.expire(LIMITS.request_s - 1)
            assert len(world.walk.requests) == 1
            world.expire(LIMITS.request_s)
            reply = await client.reply()
            assert (reply.status, require_aws_form(reply)) == (408, "RequestTimeoutException")
            world.expire(2 * LIMITS.request_s)  # it lingers, but not for good
            assert await client.is_closed()

    run(scenario())


def test_an_idle_connection_is_closed_without_a_word(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            fresh, used = await world.connect(), await world.connect()
            await used.send(post())
            await used.reply()
            world.expire(LIMITS.idle_s - 1)
            assert len(world.listener.connections) == 2
            world.expire(LIMITS.idle_s)
            assert await fresh.is_closed() and await used.is_closed()
            assert len(world.walk.requests) == 1

    run(scenario())


def test_a_call_under_way_is_never_expired(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(post())
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            world.expire(1_000)
            world.walk.gate.set()
            assert (await client.reply()).status == 200

    run(scenario())


def test_the_sweeper_runs_by_itself() -> None:
    async def scenario() -> None:
        async with listening(Limits(BODY_LIMIT, request_s=0.01, idle_s=0.01)) as world:
            idle, slow = await world.connect(), await world.connect()
            await slow.send(b"POST")
            assert (await slow.reply()).status == 408
            assert await idle.is_closed()

    uvloop.run(scenario())


def test_a_client_that_reads_nothing_does_not_stay_for_good(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            await client.send(post())
            client.reader._transport.pause_reading()  # type: ignore[attr-defined] # its answers are to pile up
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            (connection,) = world.listener.connections
            for end in (connection._transport, client.writer):
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 4_096)
            client.writer.write(post(b"1") * 10_000)
            await until(lambda: not connection._writable)
            before = len(world.walk.requests)
            await until(lambda: not connection.is_busy)
            assert len(world.walk.requests) <= before + 1, "calls go on, whose answers nobody reads"
            world.expire(LIMITS.idle_s)
            await world.all_gone()

    run(scenario())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_goes_away_cancels_nothing_and_harms_nobody(run: Run, reset: bool) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            gone, other = await world.connect(), await world.connect()
            await gone.send(post(b"gone"))
            await other.send(post(b"other"))
            await world.walk.until(lambda: len(world.walk.requests) == 2)
            if reset:
                gone.reset()
            else:
                gone.writer.close()
            await until(lambda: not reset or len(world.listener.connections) == 1)
            world.walk.gate.set()
            assert (await other.reply()).body == OK
            await world.walk.until(lambda: world.walk.finished == 2)

    run(scenario())


def test_a_walk_that_breaks_its_promise_closes_the_connection_and_no_other(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(raw: RawRequest) -> RawResponse:
        raise RuntimeError("no answer")

    async def scenario() -> None:
        async with listening() as world:
            good, bad = await world.connect(), await world.connect()
            await good.send(post())
            await good.reply()
            working, world.listener.walk = world.listener.walk, broken
            await bad.send(post())
            assert await bad.is_closed()
            world.listener.walk = working
            await good.send(post())
            assert (await good.reply()).status == 200

    run(scenario())
    assert "no answer" in caplog.text


# --- drain


def test_drain_finishes_what_is_under_way_and_closes_the_rest(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            idle, half, busy = [await world.connect() for _ in range(3)]
            await half.send(post()[:10])
            await busy.send(post(b"1") + post(b"2"))
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            draining = asyncio.create_task(world.listener.drain(LIMIT_S))
            assert await idle.is_closed() and await half.is_closed()
            assert not draining.done()
            world.walk.gate.set()
            reply = await busy.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await busy.is_closed()
            assert await draining
            assert len(world.walk.requests) == 1, "a call was begun that nobody would wait for"

    run(scenario())


def test_drain_waits_for_the_call_of_a_client_that_has_gone(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(post())
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            client.reset()
            await world.all_gone()
            draining = asyncio.create_task(world.listener.drain(LIMIT_S))
            await asyncio.sleep(0)
            assert not draining.done()
            world.walk.gate.set()
            assert await draining
            assert world.walk.finished == 1

    run(scenario())


def test_drain_gives_up_after_its_limit(run: Run) -> None:
    async def scenario() -> None:
        async with listening() as world:
            world.walk.gate.clear()
            client = await world.connect()
            await client.send(post())
            await world.walk.until(lambda: len(world.walk.requests) == 1)
            assert not await world.listener.drain(0.01)
            assert await client.is_closed()

    run(scenario())
