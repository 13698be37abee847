"""What concerns the pool itself: which connection is used, which address, and where it must never go."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

import pytest
import uvloop

from proxy.backends.aws.pool import Pool
from proxy.backends.aws.resolver import Address
from proxy.backends.aws.transport import Endpoint, MayHaveBeenSent, NotSent, UpstreamRequest, UpstreamResponse
from tests.proxy.aws.upstream import Authority, Channel, Step, Upstream, answers, hangs, sends

REQUEST = UpstreamRequest(b"POST", b"/", ((b"host", b"kms.test"),), b"{}")
EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound to it
CLIENT = Authority().client()


class Known:
    """Names with set addresses; counts the questions."""

    def __init__(self, names: Mapping[str, Sequence[Address]]) -> None:
        self.names = names
        self.asked = 0
        self.is_closed = False

    async def resolve(self, host: str) -> Sequence[Address]:
        self.asked += 1
        return self.names[host]

    async def close(self) -> None:
        self.is_closed = True


@contextlib.asynccontextmanager
async def pool(
    names: Mapping[str, Sequence[Address]],
    *,
    connections: int = 4,
    connect_timeout_s: float = 5.0,
    idle_s: float = 20.0,
    own_addresses: Collection[tuple[str, int]] = (),
) -> AsyncIterator[Pool]:
    way = Pool(
        Known(names),
        tls=CLIENT,
        connections=connections,
        connect_timeout_s=connect_timeout_s,
        read_timeout_s=5.0,
        idle_s=idle_s,
        own_addresses=own_addresses,
    )
    try:
        yield way
    finally:
        await way.close()


def at(*upstreams: Upstream) -> list[Address]:
    return [Address("127.0.0.1", upstream.port) for upstream in upstreams]


async def send(way: Pool, host: str = "kms.test", *, fresh: bool = False, within_s: float = 10.0) -> UpstreamResponse:
    deadline = asyncio.get_running_loop().time() + within_s
    return await way.send(Endpoint(host, 80, tls=False), REQUEST, fresh=fresh, deadline=deadline)


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:  # Any: nobody's business here
    runner: Callable[[Coroutine[Any, Any, None]], None] = request.param
    return runner


# --- Addresses


async def test_every_address_is_tried() -> None:
    async with Upstream() as gone, Upstream() as here:
        await gone.stop()
        async with pool({"kms.test": [Address("::1", 1), *at(gone, here)]}) as way:
            assert (await send(way)).status == 200


async def test_an_address_that_is_silent_has_only_its_share_of_the_time() -> None:
    async with Upstream() as here:
        with _full_backlog() as silent:
            async with pool({"kms.test": [silent, *at(here)]}, connect_timeout_s=0.8) as way:
                assert (await send(way)).status == 200


async def test_the_last_failure_is_told_and_where() -> None:
    async with Upstream() as gone:
        await gone.stop()
        async with pool({"kms.test": at(gone)}) as way:
            with pytest.raises(NotSent, match=f"refused at 127.0.0.1 port {gone.port}"):
                await send(way)


def test_connecting_is_bounded(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def scenario() -> None:
        with _full_backlog() as silent:
            async with pool({"kms.test": [silent]}, connect_timeout_s=0.2) as way:
                with pytest.raises(NotSent) as caught:
                    await send(way)
                assert caught.value.timed_out

    run(scenario())


@contextlib.contextmanager
def _full_backlog() -> Any:  # Any: a context manager of an Address
    """A port that takes no more connections, and lets who asks wait."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield Address(*listening.getsockname())


async def test_no_address_at_all() -> None:
    async with pool({"kms.test": []}) as way:
        with pytest.raises(NotSent, match="no address"):
            await send(way)


@pytest.mark.parametrize("listens_at", ["127.0.0.1", EVERYWHERE])
async def test_it_never_calls_itself(listens_at: str) -> None:
    async with Upstream() as itself, pool({"kms.test": at(itself)}, own_addresses={(listens_at, itself.port)}) as way:
        with pytest.raises(NotSent, match=r"resolves to keytrail itself.*set aws_nameservers or aws_hosts"):
            await send(way)
        assert itself.opened == 0


async def test_another_port_of_this_machine_is_not_itself() -> None:
    async with Upstream() as upstream, pool({"kms.test": at(upstream)}, own_addresses={(EVERYWHERE, 1)}) as way:
        assert (await send(way)).status == 200


async def test_a_fault_of_ours_while_connecting_is_an_answer_too() -> None:
    faults: list[dict[str, Any]] = []  # Any: as asyncio has it
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with pool({}) as way:  # `Known` raises KeyError, which no resolver may
        with pytest.raises(NotSent, match="KeyError"):
            await send(way)
    assert [type(fault["exception"]) for fault in faults] == [KeyError]


async def test_the_resolver_is_closed_with_it() -> None:
    known = Known({})
    await Pool(known, tls=CLIENT, connections=1, connect_timeout_s=1.0, read_timeout_s=1.0).close()
    assert known.is_closed


async def test_no_tls_below_1_2() -> None:
    context = ssl.create_default_context()
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
    await Pool(Known({}), tls=context, connections=1, connect_timeout_s=1.0, read_timeout_s=1.0).close()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


# --- Which connection


async def test_the_one_used_last_is_used_first() -> None:
    served: list[Channel] = []

    async def note(channel: Channel) -> bool:
        served.append(channel)
        return await answers()(channel)

    async with Upstream(otherwise=note) as upstream, pool({"kms.test": at(upstream)}) as way:
        await asyncio.gather(send(way), send(way), send(way))
        assert upstream.opened == 3
        last = served[-1]
        for _ in range(3):
            await send(way)
        assert served[3:] == [last] * 3


async def test_who_waited_longest_is_served_first() -> None:
    async with Upstream() as upstream, pool({"kms.test": at(upstream)}, connections=1) as way:
        order: list[int] = []

        async def call(number: int) -> None:
            await send(way)
            order.append(number)

        await asyncio.gather(*[call(number) for number in range(20)])
        assert order == list(range(20))
        assert upstream.opened == 1


async def test_an_idle_connection_to_elsewhere_makes_room() -> None:
    async with (
        Upstream() as one,
        Upstream() as other,
        pool({"one.test": at(one), "other.test": at(other)}, connections=2) as way,
    ):
        await asyncio.gather(send(way, "one.test"), send(way, "one.test"))
        assert (one.opened, one.open) == (2, 2)
        await asyncio.gather(*[send(way, host) for host in ("other.test", "other.test", "one.test", "other.test")])
        assert one.open + other.open <= 2


async def test_busy_endpoints_share_the_limit() -> None:
    async with Upstream() as one, Upstream() as other, pool({"one.test": at(one), "other.test": at(other)}, connections=2) as way:
        hosts = ["one.test", "other.test", "one.test", "one.test", "other.test"] * 10
        responses = await asyncio.gather(*[send(way, host, fresh=number % 7 == 0) for number, host in enumerate(hosts)])
        assert [response.status for response in responses] == [200] * 50


async def test_an_idle_connection_is_closed_in_time() -> None:
    async with Upstream() as upstream, pool({"kms.test": at(upstream)}, idle_s=0.1) as way:
        await send(way)
        await upstream.until_open(0)
        await send(way)
        assert upstream.opened == 2


async def test_a_name_is_asked_for_once_a_connection() -> None:
    async with Upstream() as upstream:
        known = Known({"kms.test": at(upstream)})
        way = Pool(known, tls=CLIENT, connections=1, connect_timeout_s=5.0, read_timeout_s=5.0)
        for _ in range(5):
            await send(way)
        assert known.asked == 1
        await way.close()


def test_a_byte_that_nobody_asked_for_ends_the_connection(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def scenario() -> None:
        channels: list[Channel] = []

        async def note(channel: Channel) -> bool:
            channels.append(channel)
            return await answers()(channel)

        async with Upstream(otherwise=note) as upstream, pool({"kms.test": at(upstream)}) as way:
            await send(way)
            channels[0].writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
            await upstream.until_open(0)
            assert (await send(way)).body == b"{}"
            assert upstream.opened == 2

    run(scenario())


def test_bytes_before_any_request_are_no_answer(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Sent before the request was, they may be read before or after it is: in either case nothing is made of them."""

    async def scenario() -> None:
        async with Upstream() as upstream, pool({"kms.test": at(upstream)}) as way:
            upstream.greeting = sends(b"220 mail.test ESMTP\r\n", keep=True)
            with pytest.raises((NotSent, MayHaveBeenSent)):
                await send(way)
            upstream.greeting = None
            assert (await send(way)).status == 200

    run(scenario())


async def test_a_head_request_has_no_body() -> None:
    headers_only = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", keep=True)
    async with Upstream(None, headers_only) as upstream, pool({"kms.test": at(upstream)}) as way:
        deadline = asyncio.get_running_loop().time() + 5.0
        request = UpstreamRequest(b"HEAD", b"/", REQUEST.headers, b"")
        response = await way.send(Endpoint("kms.test", 80, tls=False), request, deadline=deadline)
        assert (response.status, response.body) == (200, b"")
        assert (await send(way)).status == 200


UNASKED: dict[str, Step] = {
    "a change of protocol": sends(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", keep=True),
    "interim answers without end": sends(*[b"HTTP/1.1 102 Processing\r\nX: " + b"a" * 1_000 + b"\r\n\r\n"] * 100, keep=True),
    "chunks of one byte without end": sends(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\na\r\n" * 100_000] * 15, keep=True
    ),
    "chunk extensions without end": sends(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", *[b"a" * 1_000_000] * 9, keep=True
    ),
    "trailers without end": sends(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", *[b"X: aaa\r\n" * 100_000] * 11, keep=True
    ),
}


@pytest.mark.parametrize("name", UNASKED)
async def test_an_answer_that_nobody_can_use(name: str) -> None:
    async with Upstream(None, UNASKED[name]) as upstream, pool({"kms.test": at(upstream)}) as way:
        with pytest.raises(MayHaveBeenSent) as caught:
            await send(way)
        assert not caught.value.timed_out
        assert (await send(way)).status == 200


async def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async with Upstream() as upstream, pool({"kms.test": at(upstream)}) as way:
        await send(way)
        with pytest.raises(NotSent) as caught:
            await send(way, within_s=0.0)
        assert caught.value.timed_out
        assert len(upstream.received) == 1


async def test_who_gives_up_while_waiting_or_connecting_takes_no_place() -> None:
    async with Upstream(None, hangs()) as upstream, pool({"kms.test": at(upstream)}, connections=1) as way:
        connecting = asyncio.create_task(send(way))
        waiting = asyncio.create_task(send(way))
        await asyncio.sleep(0)
        connecting.cancel()
        waiting.cancel()
        await asyncio.gather(connecting, waiting, return_exceptions=True)
        upstream.script.clear()
        assert (await send(way)).status == 200


async def test_what_connects_for_nobody_serves_the_next() -> None:
    """The deadline passes while the name is looked up; the place is free again."""
    gate = asyncio.Event()

    class Slow(Known):
        async def resolve(self, host: str) -> Sequence[Address]:
            await gate.wait()
            return await super().resolve(host)

    async with Upstream() as upstream:
        way = Pool(Slow({"kms.test": at(upstream)}), tls=CLIENT, connections=1, connect_timeout_s=5.0, read_timeout_s=5.0)
        with pytest.raises(NotSent) as caught:
            await send(way, within_s=0.1)
        assert caught.value.timed_out
        gate.set()
        assert (await send(way)).status == 200
        await way.close()


async def test_a_reset_while_idle_is_noticed() -> None:
    channels: list[Channel] = []

    async def note(channel: Channel) -> bool:
        channels.append(channel)
        return await answers()(channel)

    async with Upstream(otherwise=note) as upstream, pool({"kms.test": at(upstream)}) as way:
        await send(way)
        sock = channels[0].writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        channels[0].writer.transport.abort()
        await upstream.until_open(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert (await send(way)).status == 200
