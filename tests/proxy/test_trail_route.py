"""Handing over: a request reaches the process as it came, with its client's address; whatever goes wrong ends in an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy import trail_route
from proxy.cloudtrail.place import bind, folder_of
from proxy.settings import Settings
from proxy.trail_route import add_trail_route

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def asking(data: Path, **settings: object) -> AsyncIterator[Client]:
    app = web.Application()
    chosen = Settings(data=data, cloudtrail_api=True, max_body_bytes=1_024).model_copy(update=settings)
    add_trail_route(app, lambda: chosen)
    async with TestClient(TestServer(app)) as client:
        yield client


@asynccontextmanager
async def answering(data: Path, answer: Answer) -> AsyncIterator[list[bytes]]:
    """Somebody at the socket; what arrived there."""
    arrived: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        arrived.append(head + await reader.readexactly(size))
        await answer(arrived[-1], writer)
        writer.close()

    with bind(folder_of(data)) as sock:
        server = await asyncio.start_unix_server(take, sock=sock)
        yield arrived
        server.close()


async def say_yes(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 400 Bad Request\r\nx-amzn-RequestId: r-1\r\nx-keytrail-receipt: k 1 h\r\nServer: inside\r\n"
        b"Content-Type: application/x-amz-json-1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    )


async def refusal(client: Client, status: int, body: bytes = b"{}") -> str:
    response = await client.post("/", data=body)
    assert response.status == status
    return str(json.loads(await response.read())["__type"])


async def test_a_request_is_handed_over_as_it_came(tmp_path: Path) -> None:
    async with answering(tmp_path, say_yes) as arrived, asking(tmp_path) as client:
        headers = {"X-Amz-Target": "CloudTrail.X", "Authorization": "AWS4 x", "X-Keytrail-Peer": "203.0.113.9", "TE": "trailers"}
        response = await client.post("/?a=%20b", data=b'{"a": 1}', headers=headers)
        assert (response.status, await response.read()) == (400, b"{}")
        assert response.headers["x-amzn-RequestId"] == "r-1" and response.headers["x-keytrail-receipt"] == "k 1 h"
        assert response.headers["Content-Type"] == "application/x-amz-json-1.1" and "inside" not in response.headers.values()
        (told,) = arrived
        head, _, body = told.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[:2] == [b"POST /?a=%20b HTTP/1.1", b"x-keytrail-peer: 127.0.0.1"] and body == b'{"a": 1}'
        assert {b"X-Amz-Target: CloudTrail.X", b"Authorization: AWS4 x", b"Content-Length: 8", b"Connection: close"} <= set(lines)
        assert b"203.0.113.9" not in told and b"trailers" not in told


async def test_a_body_that_is_too_large_is_cut_where_that_shows(tmp_path: Path) -> None:
    async with answering(tmp_path, say_yes) as arrived, asking(tmp_path) as client:
        await client.post("/", data=b"x" * 5_000)
        assert b"Content-Length: 1025\r\n" in arrived[0]


async def test_where_nobody_answers_it_is_unavailable(tmp_path: Path) -> None:
    async with asking(tmp_path) as client:
        assert await refusal(client, 503) == "ServiceUnavailable"
        with bind(folder_of(tmp_path)):
            pass  # a socket that a dead process left
        assert await refusal(client, 503) == "ServiceUnavailable"


async def test_what_is_no_answer_makes_it_unavailable(tmp_path: Path) -> None:
    async def rubbish(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n")

    async def half(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}")

    async def nothing(_: bytes, writer: asyncio.StreamWriter) -> None: ...

    for answer in (rubbish, half, nothing):
        async with answering(tmp_path, answer), asking(tmp_path) as client:
            assert await refusal(client, 503) == "ServiceUnavailable"


async def test_a_process_that_hangs_and_a_client_that_is_slow_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = asyncio.Event()

    async def hang(_: bytes, writer: asyncio.StreamWriter) -> None:
        await hanging.wait()

    async def drip() -> AsyncIterator[bytes]:
        yield b"{"
        await hanging.wait()

    monkeypatch.setattr(trail_route, "_ANSWER_S", 0.05)
    async with answering(tmp_path, hang) as arrived:
        async with asking(tmp_path) as client:
            assert await refusal(client, 408) == "RequestTimeout"
        async with asking(tmp_path, request_timeout_s=0.05) as client:
            response = await client.post("/", data=drip())
            assert response.status == 408
            hanging.set()
        assert len(arrived) == 1


async def test_more_than_can_be_held_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail_route, "_AT_ONCE", 1)
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def wait(head: bytes, writer: asyncio.StreamWriter) -> None:
        under_way.set()
        await go_on.wait()
        await say_yes(head, writer)

    async with answering(tmp_path, wait), asking(tmp_path) as client:
        first = asyncio.create_task(client.post("/", data=b"{}"))
        await under_way.wait()
        assert await refusal(client, 503) == "ServiceUnavailable"
        go_on.set()
        assert (await first).status == 400
        assert (await client.post("/", data=b"{}")).status == 400


async def test_without_the_setting_it_is_not_there(tmp_path: Path) -> None:
    async with asking(tmp_path, cloudtrail_api=False) as client:
        assert await refusal(client, 404) == "UnknownOperationException"


async def test_a_path_longer_than_a_sockets_is_no_hindrance(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    async with answering(deep, say_yes), asking(deep) as client:
        assert (await client.post("/", data=b"{}")).status == 400
    assert (deep / "trail" / "socket").stat().st_mode & 0o777 == 0o600
