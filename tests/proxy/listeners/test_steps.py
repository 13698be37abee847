"""Calls of one turn of the loop take each step together, and a fault in one stops no other."""

from __future__ import annotations

import asyncio

from proxy.domain import RawRequest, RawResponse
from proxy.listeners.reverse import Listener
from tests.proxy.listeners.front import LIMITS, OK, post, until
from tests.proxy.listeners.loops import Run


class _Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self, *, is_broken: bool = False) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.is_broken = is_broken

    def write(self, data: object) -> None:
        if self.is_broken:
            raise RuntimeError("this wire is broken")
        assert isinstance(data, bytes)
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def test_calls_take_each_step_together_and_one_that_breaks_off_stops_no_other(run: Run) -> None:
    async def scenario() -> None:
        steps: list[str] = []
        broken: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context["exception"]))

        async def walk(raw: RawRequest) -> RawResponse:
            who = raw.body.decode()
            steps.append(f"{who}1")
            await asyncio.sleep(0)  # yields None
            steps.append(f"{who}2")
            if who == "b":
                raise RuntimeError("a fault of ours")
            await asyncio.sleep(0)
            steps.append(f"{who}3")
            return RawResponse(200, OK, who)

        listener = Listener(walk, LIMITS)
        wires = [_Wire() for _ in "abc"]
        for who, wire in zip("abc", wires, strict=True):
            connection = listener()
            connection.connection_made(wire)
            connection.data_received(post(who.encode()))
        assert steps == []
        await until(lambda: listener.busy == 0)
        assert steps == ["a1", "b1", "c1", "a2", "b2", "c2", "a3", "c3"]
        assert [wire.written.startswith(b"HTTP/1.1 200") for wire in wires] == [True, False, True]
        assert [wire.closed for wire in wires] == [False, True, False]
        assert [str(error) for error in broken] == ["a fault of ours"]
        await listener.drain(0)

    run(scenario())


def test_a_fault_while_one_is_answered_keeps_no_other_waiting(run: Run) -> None:
    async def scenario() -> None:
        broken: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(str(context["exception"])))

        async def walk(raw: RawRequest) -> RawResponse:
            await asyncio.sleep(0)  # yields None
            return RawResponse(200, OK, "id")

        listener = Listener(walk, LIMITS)
        wires = [_Wire(is_broken=True), _Wire(), _Wire()]
        connections = [listener() for _ in wires]
        for connection, wire in zip(connections, wires, strict=True):
            connection.connection_made(wire)
            connection.data_received(post())
        await until(lambda: listener.busy == 0)
        connections[2].data_received(post())
        await until(lambda: listener.busy == 0)
        assert [wire.written.count(b"HTTP/1.1 200") for wire in wires] == [0, 1, 2]
        assert broken == ["this wire is broken"]
        await listener.drain(0)

    run(scenario())
