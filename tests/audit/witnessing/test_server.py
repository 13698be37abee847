"""The witness's front: real sockets, and senders that are slow, large, many, or rude."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from audit.cosignature import open_cosignatures
from audit.witnessing import server as server_module
from audit.witnessing.protocol import MAX_BODY_BYTES
from audit.witnessing.witness import Answer
from tests.audit.witnessing.history import History
from tests.audit.witnessing.served import Served

LOG = History()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path / "witness", [LOG.verifier])
    await served.start()
    yield served
    await served.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(session: aiohttp.ClientSession, url: str, body: bytes) -> tuple[int, str, bytes]:
    async with session.post(f"{url}/add-checkpoint", data=body) as response:
        return response.status, response.headers["Content-Type"], await response.read()


async def connect(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that is known to be kept."""
    connection = await asyncio.open_connection(served.host, served.port)
    await ask_idly(*connection)
    return connection


async def ask_idly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A request that changes nothing."""
    writer.write(b"GET /add-checkpoint HTTP/1.1\r\nHost: w\r\n\r\n")
    async with asyncio.timeout(20):
        assert (await reader.readuntil(b"is a POST\n")).startswith(b"HTTP/1.1 405 ")


async def read_all(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(20):
        return await reader.read()


async def test_answers_come_by_http(served: Served, session: aiohttp.ClientSession) -> None:
    status, _, body = await ask(session, served.url, LOG.request(0, 10))
    assert (status, body.startswith("— witness.example/1 ".encode()), body.endswith(b"\n")) == (200, True, True)
    assert await ask(session, served.url, LOG.request(9, 12)) == (409, "text/x.tlog.size", b"10\n")
    assert (await ask(session, served.url, History(forked=3).request(10, 12)))[0] == 422
    assert (await ask(session, served.url, History("other.example").request(0, 12)))[0] == 404
    assert (await ask(session, served.url, b""))[0] == 400


async def test_there_is_nothing_else(served: Served, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{served.url}/add-checkpoint") as response:
        assert response.status == 405
    async with session.post(f"{served.url}/add-entry", data=b"x") as response:
        assert response.status == 404


async def test_auditors_get_the_newest_checkpoint(served: Served, session: aiohttp.ClientSession) -> None:
    path = f"{served.url}/{sha256(LOG.origin.encode()).hexdigest()}/checkpoint"
    async with session.get(path) as response:
        assert response.status == 404
    await ask(session, served.url, LOG.request(0, 10))
    async with session.get(path) as response:
        assert response.status == 200
        note = await response.text()
    assert note.startswith(LOG.note(10)), "with the log's signature"
    assert [one.time_s for one in open_cosignatures(note, [served.memory.public_key])] == [1_800_000_000]
    for other in ("0" * 64, "../witness.json", sha256(b"other").hexdigest().upper()):
        async with session.get(f"{served.url}/{other}/checkpoint") as response:
            assert response.status == 404


async def test_a_connection_is_kept(served: Served) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        for size in range(1, 6):
            assert (await ask(session, served.url, LOG.request(size - 1, size)))[0] == 200
        assert len(served.server._http.connections) == 1


async def test_a_large_request_is_refused(served: Served, session: aiohttp.ClientSession) -> None:
    status, _, _ = await ask(session, served.url, b"old 0\n\n" + b"x" * MAX_BODY_BYTES)
    assert status == 413
    reader, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n")
    answer = asyncio.create_task(read_all(reader))
    try:
        for _ in range(1_000):  # it never ends by itself
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
            if answer.done():
                break
    except ConnectionError:
        pass
    assert (await asyncio.gather(answer, return_exceptions=True))[0] is not None
    assert (await ask(session, served.url, LOG.request(0, 1)))[0] == 200
    writer.close()


async def test_a_slow_body_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_BODY_S", 0.05)
    reader, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 100\r\n\r\nold ")
    assert (await read_all(reader)).startswith(b"HTTP/1.1 408 ")
    writer.close()


@pytest.mark.parametrize("head", [b"", b"POST /add-check", b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nX-More"])
async def test_a_head_that_does_not_come_is_given_up(served: Served, head: bytes) -> None:
    kept_reader, kept = await connect(served)  # so that the other one is known to be connected
    reader, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(head)
    await ask_idly(kept_reader, kept)
    served.server.close_idle(1_000.0)
    served.server.close_idle(1_075.0)
    await ask_idly(kept_reader, kept)
    served.server.close_idle(1_076.0)
    assert await read_all(reader) == b""
    await ask_idly(kept_reader, kept)
    writer.close()
    kept.close()


async def test_a_request_under_way_is_not_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way = asyncio.Event()
    answer = served.server._answer

    async def tell(request: web.BaseRequest) -> Answer:
        under_way.set()
        return await answer(request)

    monkeypatch.setattr(served.server, "_answer", tell)
    reader, writer = await asyncio.open_connection(served.host, served.port)
    body = LOG.request(0, 3)
    writer.write(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
    await asyncio.wait_for(under_way.wait(), 20)
    for now_s in (1_000.0, 2_000.0):
        served.server.close_idle(now_s)
    writer.write(body)
    assert (await read_all(reader)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_too_many_connections_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_MAX_CONNECTIONS", 3)
    kept = [await connect(served) for _ in range(3)]
    reader, writer = await asyncio.open_connection(served.host, served.port)
    assert await read_all(reader) == b""
    writer.close()
    for one in kept:
        await ask_idly(*one)
        one[1].close()


async def test_many_at_once(served: Served, session: aiohttp.ClientSession) -> None:
    assert (await ask(session, served.url, LOG.request(0, 5)))[0] == 200
    forked = History(forked=3)
    bodies = [log.request(5, size) for size in range(6, 26) for log in (LOG, forked)]
    answers = await asyncio.gather(*(ask(session, served.url, body) for body in bodies))
    statuses = [status for status, _, _ in answers]
    assert statuses.count(200) == 1 and set(statuses) <= {200, 409, 422}
    assert served.memory.latest(LOG.origin).size > 5


async def test_what_cannot_be_stored_is_not_cosigned(
    served: Served, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(served.memory, "remember", fail)
        status, _, body = await ask(session, served.url, LOG.request(0, 5))
    assert (status, body) == (500, b"the checkpoint could not be stored\n")
    assert (await ask(session, served.url, LOG.request(0, 5)))[0] == 200
