"""One suite for every way to AWS: direct and through a corporate proxy, with TLS and without, on both event loops.

Each test ends with the same check: no task and no descriptor is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from proxy.backends.aws.egress import Egress
from proxy.backends.aws.pool import Pool
from proxy.backends.aws.resolver import Address, StaticResolver
from proxy.backends.aws.transport import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    Endpoint,
    MayHaveBeenSent,
    NotSent,
    Transport,
    UpstreamFailed,
    UpstreamRequest,
    UpstreamResponse,
)
from tests.proxy.aws.upstream import Authority, CorporateProxy, Step, Upstream, answers, hangs, resets, sends

NAME = "kms.test"
SECRETS = (b"AKIAEXAMPLE", b"c2VjcmV0", "s3cret")
REQUEST = UpstreamRequest(
    b"POST",
    b"/?a=%2F&b",
    (
        (b"host", NAME.encode()),
        (b"x-amz-target", b"TrentService.Decrypt"),
        (b"content-type", b"application/x-amz-json-1.1"),
        (b"authorization", b"AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260101/us-east-1/kms/aws4_request"),
        (b"x-amz-date", b"20260101T000000Z"),
    ),
    b'{"Plaintext":"c2VjcmV0"}',
)
AUTHORITY = Authority()
TRUSTED = AUTHORITY.server(NAME, "127.0.0.1")


class Nowhere:
    """Knows no name."""

    async def resolve(self, host: str) -> Sequence[Address]:
        raise NotSent(host, "the name is not known")

    async def close(self) -> None:
        pass


@dataclass
class Way:
    """A way to AWS: how its transport is made, and on which event loop."""

    kind: str
    tls: bool
    loop: Callable[[Coroutine[Any, Any, None]], None]  # Any: what a coroutine is sent is nobody's business here

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30.0):
                await scenario

        self.loop(bounded())


WAYS = {
    "pool": Way("pool", False, asyncio.run),
    "pool-tls": Way("pool", True, asyncio.run),
    "pool-uvloop": Way("pool", False, uvloop.run),
    "pool-tls-uvloop": Way("pool", True, uvloop.run),
    "egress-http": Way("http", True, asyncio.run),
    "egress-https": Way("https", True, asyncio.run),
    "egress-https-uvloop": Way("https", True, uvloop.run),
}


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@pytest.fixture(params=[name for name, way in WAYS.items() if way.tls])
def tls_way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@dataclass
class World:
    """A way, and what stands at its end."""

    upstream: Upstream
    proxy: CorporateProxy | None
    transport: Transport
    endpoint: Endpoint

    async def send(
        self, request: UpstreamRequest = REQUEST, *, host: str = NAME, fresh: bool = False, within_s: float = 10.0
    ) -> UpstreamResponse:
        endpoint = Endpoint(host, self.endpoint.port, self.endpoint.tls)
        deadline = asyncio.get_running_loop().time() + within_s
        return await self.transport.send(endpoint, request, fresh=fresh, deadline=deadline)

    async def fails(
        self, kind: type[UpstreamFailed], *, timed_out: bool = False, host: str = NAME, within_s: float = 10.0
    ) -> str:
        """A call that fails as it should, and says so without a secret; its words."""
        with pytest.raises(kind) as caught:
            await self.send(host=host, within_s=within_s)
        assert caught.value.timed_out is timed_out, caught.value
        assert caught.value.host == host
        for secret in SECRETS:
            text = secret if isinstance(secret, str) else secret.decode()
            assert text not in str(caught.value) and text not in repr(caught.value)
        return caught.value.what

    async def settled(self, open_: int = 0) -> None:
        """Wait until so many connections are open at the far end, and everyone here has noticed."""
        await self.upstream.until_open(open_)
        if self.proxy is not None:
            await self.proxy.until_open(open_)
        for _ in range(20):
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def world(
    way: Way,
    *script: Step,
    otherwise: Step | None = None,
    connections: int = 16,
    connect_timeout_s: float = 5.0,
    read_timeout_s: float = 10.0,
    server: ssl.SSLContext | None = None,
    far: bool = True,
) -> AsyncIterator[World]:
    """A world at rest; `far` is False for an upstream that is silent where TLS should begin."""
    tasks, sockets = len(asyncio.all_tasks()), _sockets()
    async with contextlib.AsyncExitStack() as stack:
        tls = (server or TRUSTED) if way.tls and far else None
        upstream = await stack.enter_async_context(Upstream(tls, *script, otherwise=otherwise))
        names = {NAME: upstream.port, "other.test": upstream.port}
        proxy: CorporateProxy | None = None
        transport: Transport
        if way.kind == "pool":
            transport = Pool(
                StaticResolver({name: f"127.0.0.1:{port}" for name, port in names.items()}, Nowhere()),
                tls=AUTHORITY.client(),
                connections=connections,
                connect_timeout_s=connect_timeout_s,
                read_timeout_s=read_timeout_s,
            )
        else:
            behind = TRUSTED if way.kind == "https" else None
            proxy = await stack.enter_async_context(CorporateProxy(names, behind, "user:s3cret/%"))
            transport = Egress(
                f"{way.kind}://user:s3cret%2F%25@127.0.0.1:{proxy.port}",
                tls=AUTHORITY.client(),
                connections=connections,
                connect_timeout_s=connect_timeout_s,
                read_timeout_s=read_timeout_s,
            )
        stack.push_async_callback(transport.close)
        yield World(upstream, proxy, transport, Endpoint(NAME, 443, way.tls))
    async with asyncio.timeout(5.0):
        while len(asyncio.all_tasks()) > tasks or _sockets() > sockets:  # noqa: ASYNC110 - the kernel tells of neither
            await asyncio.sleep(0)


def _sockets() -> int:
    """How many this process has open (libuv keeps a descriptor for /dev/null in reserve)."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sum(link.startswith("socket:") for link in links)


# --- What goes there, and what comes back


def test_the_request_arrives_as_it_was_given(way: Way) -> None:
    async def scenario() -> None:
        async with world(
            way, answers(200, b'{"KeyId":"k"}', ("x-amzn-RequestId", "  r-1  "), ("X-Twice", "a"), ("X-Twice", "b"))
        ) as w:
            response = await w.send()
            assert (response.status, response.body) == (200, b'{"KeyId":"k"}')
            assert response.headers == (
                (b"x-amzn-requestid", b"r-1"),
                (b"x-twice", b"a"),
                (b"x-twice", b"b"),
                (b"content-length", b"13"),
            )
            (received,) = w.upstream.received
            assert received.request_line == b"POST /?a=%2F&b HTTP/1.1"
            assert received.headers == [*REQUEST.headers, (b"content-length", b"24")]
            assert received.body == REQUEST.body

    way.run(scenario())


def test_a_given_content_length_is_sent_once(way: Way) -> None:
    async def scenario() -> None:
        async with world(way) as w:
            headers = (REQUEST.headers[0], (b"Content-Length", b"24"), *REQUEST.headers[1:])
            await w.send(UpstreamRequest(b"POST", b"/", headers, REQUEST.body))
            assert w.upstream.received[0].headers == [(name.lower(), value) for name, value in headers]

    way.run(scenario())


@pytest.mark.parametrize("body", [b"", b"\x00\r\n\r\n" * 100_000], ids=["empty", "large"])
def test_a_body_of_any_bytes_goes_both_ways(way: Way, body: bytes) -> None:
    async def scenario() -> None:
        async with world(way, answers(200, body)) as w:
            response = await w.send(UpstreamRequest(b"POST", b"/", ((b"host", b"kms.test"),), body))
            assert response.body == body
            assert w.upstream.received[0].body == body
            assert dict(w.upstream.received[0].headers)[b"content-length"] == str(len(body)).encode()

    way.run(scenario())


@pytest.mark.parametrize("status", [301, 400, 407, 500, 503])
def test_every_status_is_a_response(way: Way, status: int) -> None:
    async def scenario() -> None:
        async with world(way, answers(status, b"words", ("Location", "https://elsewhere.test/"))) as w:
            response = await w.send()
            assert (response.status, response.body) == (status, b"words")
            assert len(w.upstream.received) == 1

    way.run(scenario())


RESPONSES: dict[str, tuple[tuple[bytes, ...], bytes, bool]] = {
    "in chunks": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello", b"\r\n1\r\n!\r\n0\r\nX-Trailer: t\r\n\r\n"),
        b"hello!",
        True,
    ),
    "to the stream's end": ((b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo!"), b"hello!", False),
    "to the stream's end, empty": ((b"HTTP/1.1 200 OK\r\n\r\n",), b"", False),
    "without a body": ((b"HTTP/1.1 204 No Content\r\n\r\n",), b"", True),
    "behind interim ones": (
        (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        b"hi",
        True,
    ),
    "of HTTP/1.0": ((b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",), b"hi", False),
    "the last": ((b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",), b"hi", False),
    "byte by byte": (tuple(bytes([b]) for b in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), b"hi", True),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_ends_as_http_says(way: Way, name: str) -> None:
    pieces, body, reusable = RESPONSES[name]

    async def scenario() -> None:
        ends = b"to the stream" in name.encode()
        async with world(way, sends(*pieces, keep=not ends)) as w:
            response = await w.send()
            assert response.body == body
            assert b"x-trailer" not in dict(response.headers) and b"link" not in dict(response.headers)
            assert (await w.send()).status == 200
            assert w.upstream.opened == (1 if reusable else 2)

    way.run(scenario())


# --- Connections


def test_a_connection_is_used_again(way: Way) -> None:
    async def scenario() -> None:
        async with world(way) as w:
            for _ in range(5):
                await w.send()
            assert (w.upstream.opened, len(w.upstream.received)) == (1, 5)

    way.run(scenario())


def test_a_connection_that_the_peer_closed_is_not_used_again(way: Way) -> None:
    async def scenario() -> None:
        async with world(way) as w:
            for _ in range(3):
                assert (await w.send()).status == 200
                await w.upstream.drop_idle()
                await w.settled()
            assert w.upstream.opened == 3

    way.run(scenario())


def test_a_race_with_the_peers_close_is_a_failure_that_leaves_open_what_was_done(way: Way) -> None:
    async def scenario() -> None:
        async with world(way, answers(), resets()) as w:
            await w.send()
            await w.fails(MayHaveBeenSent)
            assert w.upstream.opened == 1  # it was not repeated
            assert (await w.send(fresh=True)).status == 200

    way.run(scenario())


@pytest.mark.parametrize("connections", [1, 16])
def test_a_fresh_connection_is_one_that_was_not_used(way: Way, connections: int) -> None:
    async def scenario() -> None:
        async with world(way, connections=connections) as w:
            await w.send()
            await w.send(fresh=True)
            assert w.upstream.opened == 2
            await w.send()
            assert w.upstream.opened == 2

    way.run(scenario())


def test_no_more_connections_than_allowed(way: Way) -> None:
    async def scenario() -> None:
        async with world(way, connections=8) as w:
            responses = await asyncio.gather(*[w.send() for _ in range(100)])
            assert [response.status for response in responses] == [200] * 100
            assert 1 < w.upstream.most_open <= 8
            assert w.upstream.opened <= 8

    way.run(scenario())


def test_waiting_for_a_connection_is_bounded(way: Way) -> None:
    async def scenario() -> None:
        async with world(way, hangs(), connections=1) as w:
            holding = asyncio.create_task(w.send())
            await w.upstream.until_open(1)
            what = await w.fails(NotSent, timed_out=True, within_s=0.2)
            assert what == "no connection became free in time"
            assert not holding.done()
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
            w.upstream.script.clear()
            assert (await w.send()).status == 200

    way.run(scenario())


def test_it_needs_no_task_around_it(way: Way) -> None:
    """The listener drives a call itself (docs/adr/0006)."""

    async def scenario() -> None:
        async with world(way, answers(), hangs(), resets()) as w:
            assert isinstance(await _driven(w.send()), UpstreamResponse)
            assert isinstance(await _driven(w.send(within_s=0.3)), MayHaveBeenSent)
            assert isinstance(await _driven(w.send()), MayHaveBeenSent)
            assert isinstance(await _driven(w.send()), UpstreamResponse)

    way.run(scenario())


def _driven(call: Coroutine[Any, Any, UpstreamResponse]) -> asyncio.Future[UpstreamResponse | Exception]:
    """`call` without a task: run from one future to the next by callbacks."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[UpstreamResponse | Exception] = loop.create_future()

    def go_on(_: object = None) -> None:
        try:
            assert asyncio.current_task() is None
            future = call.send(None)
        except StopIteration as end:
            ended.set_result(end.value)
        except Exception as error:
            ended.set_result(error)
        else:
            future._asyncio_future_blocking = False
            future.add_done_callback(go_on)

    loop.call_soon(go_on)
    return ended


def test_who_gives_up_leaves_no_connection(way: Way) -> None:
    async def scenario() -> None:
        async with world(way, hangs(), hangs(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")) as w:
            for number in (1, 2):
                call = asyncio.create_task(w.send())
                await w.upstream.until_open(1)
                while len(w.upstream.received) < number:  # noqa: ASYNC110 - the upstream has no event for it
                    await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await w.settled()
            assert (await w.send()).status == 200

    way.run(scenario())


def test_a_call_that_is_dropped_leaves_no_connection(way: Way) -> None:
    async def scenario() -> None:
        async with world(way, hangs()) as w:
            call = w.send()
            future = call.send(None)
            future._asyncio_future_blocking = False
            while not w.upstream.received:  # noqa: ASYNC110 - the upstream has no event for it
                await asyncio.sleep(0)
            call.close()
            await w.settled()
            assert (await w.send()).status == 200

    way.run(scenario())


def test_closing_ends_what_is_under_way(way: Way) -> None:
    async def scenario() -> None:
        async with world(way, otherwise=hangs(), connections=2) as w:
            calls = [asyncio.create_task(w.send()) for _ in range(3)]
            while len(w.upstream.received) < 2:  # noqa: ASYNC110 - the upstream has no event for it
                await asyncio.sleep(0)
            await w.transport.close()
            failures = await asyncio.gather(*calls, return_exceptions=True)
            assert sorted(type(failure).__name__ for failure in failures) == ["MayHaveBeenSent", "MayHaveBeenSent", "NotSent"]
            await w.fails(NotSent)
            await w.settled()

    way.run(scenario())


# --- Faults


def test_refused(way: Way) -> None:
    async def scenario() -> None:
        async with world(way) as w:
            await w.send()
            await w.upstream.stop()
            await w.settled()
            await w.fails(NotSent)
            async with w.upstream:  # it is there again, and so is the way
                assert (await w.send()).status == 200

    way.run(scenario())


def test_a_name_that_nobody_knows(way: Way) -> None:
    async def scenario() -> None:
        async with world(way) as w:
            await w.fails(NotSent, host="unknown.test")

    way.run(scenario())


@pytest.mark.parametrize("kind", ["another name", "another authority"])
def test_a_certificate_that_is_not_to_be_trusted(tls_way: Way, kind: str) -> None:
    async def scenario() -> None:
        async with world(tls_way, server=Authority().server(NAME) if kind == "another authority" else None) as w:
            what = await w.fails(NotSent, host=NAME if kind == "another authority" else "other.test")
            assert "certificate" in what
            assert ("other.test" in what) is (kind == "another name")
            assert w.upstream.received == []

    tls_way.run(scenario())


def test_silence_where_tls_should_begin(tls_way: Way) -> None:
    async def scenario() -> None:
        async with world(tls_way, far=False, connect_timeout_s=0.3) as w:
            w.upstream.greeting = hangs()
            await w.fails(NotSent, timed_out=True)
            await w.settled()

    tls_way.run(scenario())


def test_rubbish_where_tls_should_begin(tls_way: Way) -> None:
    async def scenario() -> None:
        async with world(tls_way, far=False) as w:
            w.upstream.greeting = sends(b"SSH-2.0-OpenSSH_9.2\r\n")
            await w.fails(NotSent)

    tls_way.run(scenario())


def test_a_reset_before_anything_is_read(way: Way) -> None:
    """Whether the request was sent by then is for the kernel to know: both answers are true."""

    async def scenario() -> None:
        async with world(way) as w:
            w.upstream.greeting = resets()
            await w.fails(UpstreamFailed)

    way.run(scenario())


BROKEN: dict[str, Step] = {
    "reset before the answer": resets(),
    "closed before the answer": sends(),
    "reset in the head": resets(b"HTTP/1.1 200 OK\r\nContent-"),
    "closed in the head": sends(b"HTTP/1.1 200 OK\r\nContent-"),
    "reset in the body": resets(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"),
    "closed in the body": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"),
    "closed in a chunk": sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"),
    "closed between chunks": sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    "not HTTP": sends(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "not text": sends(bytes(range(256)) * 4),
    "no status": sends(b"HTTP/1.1 AKIAEXAMPLE Fine\r\n\r\n"),
    "no length": sends(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", keep=True),
    "two lengths": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", keep=True),
    "length and chunks": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", keep=True),
    "no chunk": sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc2VjcmV0\r\n", keep=True),
    "a header too long": sends(b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n", keep=True),
    "too many headers": sends(b"HTTP/1.1 200 OK\r\n" + b"X: aaaaa\r\n" * 9_000 + b"Content-Length: 0\r\n\r\n", keep=True),
    "a head without end": sends(b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"a" * 1_000 + b"\r\n"] * 300, keep=True),
    "a body too long": sends(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n", *[bytes(1_000_000)] * (MAX_BODY_BYTES // 1_000_000 + 1), keep=True
    ),
    "a body without end": sends(b"HTTP/1.1 200 OK\r\n\r\n", *[bytes(1_000_000)] * (MAX_BODY_BYTES // 1_000_000 + 1), keep=True),
}


@pytest.mark.parametrize("name", BROKEN)
def test_no_answer_to_a_request_that_was_sent(way: Way, name: str) -> None:
    async def scenario() -> None:
        async with world(way, BROKEN[name]) as w:
            await w.fails(MayHaveBeenSent)
            assert len(w.upstream.received) == 1  # nobody repeated it
            assert (await w.send()).status == 200
            assert w.upstream.opened == 2

    way.run(scenario())


@pytest.mark.parametrize("bound", ["deadline", "read time-out"])
@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"], ids=len)
def test_an_upstream_that_hangs(way: Way, before: bytes, bound: str) -> None:
    async def scenario() -> None:
        async with world(way, answers(), hangs(before), read_timeout_s=0.3 if bound == "read time-out" else 10.0) as w:
            await w.send()  # so that the time is not spent on connecting
            await w.fails(MayHaveBeenSent, timed_out=True, within_s=0.3 if bound == "deadline" else 10.0)
            await w.settled()
            assert (await w.send()).status == 200

    way.run(scenario())


def test_the_read_timeout_begins_anew_with_each_byte(way: Way) -> None:
    async def slow(channel: Any) -> bool:  # Any: a step's channel; its module's name for it is not needed here
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello":
            channel.writer.write(bytes([byte]))
            await asyncio.sleep(0.03)
        return True

    async def scenario() -> None:
        async with world(way, slow, read_timeout_s=1.0) as w:  # its 43 bytes take longer than that
            assert (await w.send()).body == b"hello"

    way.run(scenario())


def test_bytes_behind_an_answer_end_the_connection(way: Way) -> None:
    two = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none" + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"

    async def scenario() -> None:
        async with world(way, sends(two, keep=True), answers(200, b"yes")) as w:
            assert (await w.send()).body == b"one"
            assert (await w.send()).body == b"yes"
            assert w.upstream.opened == 2

    way.run(scenario())


def test_a_line_break_in_the_head_is_never_sent(way: Way) -> None:
    async def scenario() -> None:
        async with world(way) as w:
            for bad in (
                UpstreamRequest(b"POST", b"/ HTTP/1.1\r\nX: y", ((b"host", b"kms.test"),), b""),
                UpstreamRequest(b"POST", b"/", ((b"host", b"kms.test"), (b"x", b"y\nz: w")), b""),
                UpstreamRequest(b"POST", b"/", ((b"host", b"kms.test"), (b"x\r", b"y")), b""),
            ):
                with pytest.raises(NotSent):
                    await w.send(bad)
            assert w.upstream.opened == 0

    way.run(scenario())
