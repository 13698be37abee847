"""The HTTP front on a real loopback socket, before a walk that can be held, and its clients."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.domain import RawRequest, RawResponse
from proxy.listeners.reverse import Limits, Listener

BODY_LIMIT = 4_096
LIMITS = Limits(body_bytes=BODY_LIMIT, request_s=5.0, idle_s=5.0)
LIMIT_S = 10.0  # no test waits for anything longer than this
OK = b'{"ok":true}'


@dataclass
class Walk:
    """Answers every request, with its fault where it has one; while `gate` is clear, calls stay under way."""

    requests: list[RawRequest] = field(default_factory=list)
    finished: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(self, raw: RawRequest) -> RawResponse:
        self.requests.append(raw)
        number = len(self.requests)
        async with self.changed:
            self.changed.notify_all()
        await self.gate.wait()
        self.finished += 1
        async with self.changed:
            self.changed.notify_all()
        if raw.fault is not None:
            body = json.dumps({"__type": raw.fault.code, "message": raw.fault.message}).encode()
            return RawResponse(raw.fault.status, body, f"id-{number}")
        return RawResponse(200, OK, f"id-{number}", receipt=f"log {number} leaf")

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S), self.changed:
            await self.changed.wait_for(reached)


async def until(reached: Callable[[], bool]) -> None:
    """Turn the loop until it has come about."""
    async with asyncio.timeout(LIMIT_S):
        while not reached():  # noqa: ASYNC110 - a condition inside the listener, which no event tells of
            await asyncio.sleep(0)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One client connection. Everything that waits, waits `LIMIT_S` at most."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes, *, bytewise: bool = False) -> None:
        for piece in _pieces(data) if bytewise else [data]:
            if self.writer.is_closing():
                return
            self.writer.write(piece)
            await asyncio.sleep(0)  # a turn of the loop: the other side reads

    async def reply(self, *, to_head: bool = False) -> Reply:
        """The next answer. Raises EOFError where the connection was closed instead."""
        async with asyncio.timeout(LIMIT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status_line, *lines = head.decode().split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            status = int(status_line.split(" ")[1])
            if status == 100:
                return Reply(status, headers, b"")
            body = b"" if to_head else await self.reader.readexactly(int(headers["content-length"]))
            return Reply(status, headers, body)

    async def is_closed(self) -> bool:
        """Whether the server closes, with nothing more to say."""
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self.reader.read() == b""
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        """Go away at once, without a goodbye."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def _pieces(data: bytes) -> list[bytes]:
    """Single bytes; where it is long, what is in the middle in larger pieces."""
    middle = range(500, len(data) - 500, 97)
    edges = [*range(min(500, len(data))), *middle, *range(max(500, len(data) - 500), len(data)), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


@dataclass
class World:
    listener: Listener
    walk: Walk
    port: int
    server: asyncio.Server
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients.append(client)
        return client

    async def all_gone(self) -> None:
        """Until the server holds no connection any more."""
        await until(lambda: not self.listener.connections)

    def expire(self, after_s: float) -> None:
        """What the sweeper does, as if `after_s` had gone by."""
        for connection in tuple(self.listener.connections):
            connection.expire(self.listener.loop.time() + after_s)


@asynccontextmanager
async def listening(limits: Limits = LIMITS) -> AsyncIterator[World]:
    walk = Walk()
    listener = Listener(walk, limits)
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    world = World(listener, walk, server.sockets[0].getsockname()[1], server)
    try:
        yield world
    finally:
        walk.gate.set()
        for client in world.clients:
            client.writer.transport.abort()
        server.close()
        await listener.drain(LIMIT_S)


def post(body: bytes = b"{}", *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = (b"POST / HTTP/%b" % version, b"Host: x", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def require_aws_form(reply: Reply) -> str:
    """The error code of a refusal in AWS's form."""
    document = json.loads(reply.body)
    assert reply.headers["content-type"] == "application/x-amz-json-1.1"
    assert reply.headers["x-amzn-requestid"]
    code: str = document["__type"]
    return code
