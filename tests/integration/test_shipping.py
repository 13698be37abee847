"""Shipping to real receivers over TLS: an OTLP collector stand-in, a syslog receiver, a NATS server with JetStream.

Each is slow, down for an hour, or shows another CA's certificate; the shipper is killed between a batch and its cursor. No record
is ever missing, and none is there twice but after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import orjson
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from audit.companion import Status
from audit.shipping.plan import Shipping, Target, Tls
from audit.shipping.process import Route, routes_of, ship, status_of
from audit.shipping.sink import SinkFault
from audit.shipping.syslog import SyslogSink
from tests.audit.shipping.fakes import NOON, Turns, World, ship_all
from tests.audit.shipping.test_forms import MESSAGE
from tests.integration.components.certificates import CertificateAuthority
from tests.integration.components.collector import Collector, collector
from tests.integration.components.nats import PASSWORD, Nats, nats_server
from tests.integration.components.syslog import SyslogReceiver, syslog_receiver
from tests.integration.conftest import LIMIT_S, Server, keytrail_command, wait_until

KINDS = ("otlp", "syslog", "nats")


class Receiver(Protocol):
    """What the tests ask of each of the three."""

    kind: str

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def slow_down(self) -> None: ...
    def go_on(self) -> None: ...
    async def bodies(self) -> list[bytes]: ...


class OtlpReceiver:
    kind = "otlp"

    def __init__(self, server: Collector) -> None:
        self.server = server
        self.start, self.stop = server.start, server.stop
        self.slow_down, self.go_on = server.may_answer.clear, server.may_answer.set

    @property
    def url(self) -> str:
        return self.server.url

    async def bodies(self) -> list[bytes]:
        return self.server.bodies


class TlsSyslogReceiver:
    kind = "syslog"

    def __init__(self, server: SyslogReceiver) -> None:
        self.server = server
        self.start, self.stop = server.start, server.stop
        self.slow_down, self.go_on = server.reads.clear, server.reads.set

    @property
    def url(self) -> str:
        return self.server.url

    async def bodies(self) -> list[bytes]:
        return self.server.bodies


class NatsReceiver:
    kind = "nats"

    def __init__(self, server: Nats) -> None:
        self.server = server
        self.start, self.stop = server.start, server.stop
        self.slow_down, self.go_on = server.freeze, server.thaw

    @property
    def url(self) -> str:
        return self.server.url

    async def bodies(self) -> list[bytes]:
        return await self.server.bodies()


@pytest.fixture
def ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@contextlib.asynccontextmanager
async def receiving(kind: str, folder: Path, ca: CertificateAuthority) -> AsyncIterator[Receiver]:
    certificate = ca.server("127.0.0.1")
    if kind == "otlp":
        with collector(certificate) as server:
            yield OtlpReceiver(server)
    elif kind == "syslog":
        with syslog_receiver(certificate) as receiver:
            yield TlsSyslogReceiver(receiver)
    else:
        with nats_server(folder, ca, certificate) as nats:
            await nats.make_stream()
            yield NatsReceiver(nats)


@pytest.fixture(params=KINDS)
async def receiver(request: pytest.FixtureRequest, tmp_path: Path, ca: CertificateAuthority) -> AsyncIterator[Receiver]:
    async with receiving(request.param, tmp_path, ca) as one:
        yield one


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "data")


def plan(ca: CertificateAuthority, *receivers: Receiver, **changes: str) -> dict[str, Any]:  # Any: JSON
    nothing = {**dict.fromkeys(KINDS, ""), "headers": "", "form": "cloudtrail", "certificate": None, "key": None}
    return {**nothing, "ca_bundle": str(ca.bundle), **{one.kind: one.url for one in receivers}, **changes}


def route(world: World, ca: CertificateAuthority, *receivers: Receiver, **changes: str) -> Route:
    """Of the first of `receivers`, by the world's time."""
    return routes_of(world.data, Shipping.of(plan(ca, *receivers, **changes)), lambda: world.now)[0]


def start_shipper(data: Path, plan: dict[str, Any]) -> subprocess.Popen[bytes]:
    """`python -m audit.shipping`, which ends when its input does."""
    argv = [sys.executable, "-m", "audit.shipping", str(data)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(orjson.dumps(plan) + b"\n")
    process.stdin.flush()
    return process


async def until(reached: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll a condition of other processes, while this one's tasks go on."""
    deadline = time.monotonic() + LIMIT_S
    while not await reached():
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}"
        await asyncio.to_thread(threading.Event().wait, 0.02)


def missing_and_twice(expected: list[bytes], found: list[bytes]) -> tuple[int, int]:
    counts = Counter(found)
    assert set(counts) <= set(expected), "what was never in the log"
    return len(set(expected) - set(counts)), sum(count - 1 for count in counts.values())


async def test_every_record_once_and_in_its_own_bytes(receiver: Receiver, world: World, ca: CertificateAuthority) -> None:
    world.add(700, userAgent="ünïcode")
    one = route(world, ca, receiver)
    await ship_all(one.shipper)
    world.add(1)
    await ship_all(one.shipper)
    await one.shipper.close()
    assert await receiver.bodies() == world.lines()
    assert status_of([one]) == Status(ready=True)


async def test_killed_between_a_batch_and_its_cursor(receiver: Receiver, world: World, ca: CertificateAuthority) -> None:
    """The cursor's file cannot be written, since it is a pipe that nobody reads: there the process stands when it is killed."""
    world.add(40)
    (target,) = Shipping.of(plan(ca, receiver)).targets
    folder = world.data / "shipping" / target.name
    folder.mkdir(parents=True)
    os.mkfifo(folder / "state.new")
    process = start_shipper(world.data, plan(ca, receiver))

    async def arrived() -> bool:
        return len(await receiver.bodies()) == 40

    await until(arrived, "the batch is there")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "state").exists()
    (folder / "state.new").unlink()
    world.add(40)
    process = start_shipper(world.data, plan(ca, receiver))
    await until(lambda: _has_all(receiver, world), "all is there")
    process.communicate()
    assert process.returncode == 0
    missing, twice = missing_and_twice(world.lines(), await receiver.bodies())
    assert missing == 0
    assert twice == (0 if receiver.kind == "nats" else 40), "JetStream knows a record by its id"
    assert orjson.loads((folder / "state").read_bytes())["next"] == {"admin": 80}


async def _has_all(receiver: Receiver, world: World) -> bool:
    return set(world.lines()) <= set(await receiver.bodies())


async def test_down_for_an_hour_and_back(receiver: Receiver, world: World, ca: CertificateAuthority) -> None:
    world.add(20)
    one = route(world, ca, receiver)
    await ship_all(one.shipper)
    receiver.stop()
    world.add(600)
    told: list[Status] = []

    def is_over() -> bool:
        told.append(status_of([one]))
        if world.now >= NOON + 3_600 and len(told) > 20 and not back:
            receiver.start()
            back.append(True)
        return bool(back) and one.fault is None and one.shipper.lag()[0] == 0

    back: list[bool] = []
    turns = Turns(world, is_over)
    await one.run(turns)
    await one.shipper.close()
    assert sum(turns.waits) >= 3_600 and len(turns.waits) < 250
    down = [status for status in told if not status.ready]
    assert down and all("600 records wait, since 2026-01-02T00:00:" in str(status.reason) for status in down)
    assert PASSWORD not in str(down)
    assert missing_and_twice(world.lines(), await receiver.bodies()) == (0, 0)


async def test_a_certificate_of_another_ca_is_not_trusted(
    receiver: Receiver, world: World, ca: CertificateAuthority, tmp_path: Path
) -> None:
    other = CertificateAuthority(tmp_path, "another CA")
    world.add(3)
    one = route(world, ca, receiver, ca_bundle=str(other.bundle))
    assert await one.step() > 0
    assert "certificate verify failed" in str(one.fault).lower().replace("_", " ")
    assert world.data.joinpath("shipping", one.target.name, "state").exists() is False or one.shipper.lag()[0] == 3
    assert await receiver.bodies() == []
    one = route(world, ca, receiver)
    await ship_all(one.shipper)
    await one.shipper.close()
    assert await receiver.bodies() == world.lines()


async def test_a_slow_sink_does_not_hold_the_others_and_loses_nothing(
    receiver: Receiver, world: World, ca: CertificateAuthority
) -> None:
    world.add(10)
    with collector(ca.server("127.0.0.1")) as quick, syslog_receiver(ca.server("127.0.0.1")) as other:
        swift: Receiver = TlsSyslogReceiver(other) if receiver.kind == "otlp" else OtlpReceiver(quick)
        routes = routes_of(world.data, Shipping.of(plan(ca, receiver, swift)))
        stopped = asyncio.Event()
        receiver.slow_down()
        try:
            running = asyncio.create_task(ship(routes, stopped, lambda _: None, lambda _: None))
            await until(lambda: _has_all(swift, world), "the other sink has all")
            world.add(10)
            await until(lambda: _has_all(swift, world), "and what comes later")
        finally:
            receiver.go_on()
        await until(lambda: _has_all(receiver, world), "the slow one too, in the end")
        stopped.set()
        await running
    assert missing_and_twice(world.lines(), await receiver.bodies()) == (0, 0)
    assert missing_and_twice(world.lines(), await swift.bodies()) == (0, 0)


async def test_a_process_whose_sink_hangs_ends_when_it_is_told_to(
    receiver: Receiver, world: World, ca: CertificateAuthority
) -> None:
    world.add(10)
    receiver.slow_down()
    process = start_shipper(world.data, plan(ca, receiver))
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it has told its status
        await asyncio.to_thread(process.communicate, None, LIMIT_S)
        assert process.returncode == 0
    finally:
        receiver.go_on()
        process.kill()
    process = start_shipper(world.data, plan(ca, receiver))
    await until(lambda: _has_all(receiver, world), "all is there")
    process.communicate()


# --- OTLP


@pytest.fixture
def otlp(ca: CertificateAuthority) -> Iterator[OtlpReceiver]:
    with collector(ca.server("127.0.0.1")) as server:
        yield OtlpReceiver(server)


def is_poison(record: LogRecord) -> bool:
    return "poison" in record.body.string_value


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_record_that_a_collector_refuses_is_set_aside(
    otlp: OtlpReceiver, world: World, ca: CertificateAuthority, status: int
) -> None:
    world.add(30)
    world.add(1, userAgent="poison")
    world.add(30)
    otlp.server.answer = lambda records: (status if any(map(is_poison, records)) else 200, b"")
    one = route(world, ca, otlp)
    await ship_all(one.shipper)
    await one.shipper.close()
    lines = world.lines()
    assert otlp.server.bodies == lines[:30] + lines[31:]
    (told,) = [orjson.loads(line) for line in (world.data / "shipping" / one.target.name / "refused").read_bytes().splitlines()]
    assert (told["log"], told["sequence"], told["event_id"]) == ("admin", 30, "admin-30")
    assert told["reason"].startswith(f"HTTP {status}")
    assert "1 records were refused" in str(status_of([one]).reason)


async def test_a_collector_that_rejects_some_and_does_not_say_which(
    otlp: OtlpReceiver, world: World, ca: CertificateAuthority
) -> None:
    partial = ExportLogsServiceResponse(partial_success=ExportLogsPartialSuccess(rejected_log_records=2, error_message="too old"))
    otlp.server.answer = lambda records: (200, partial.SerializeToString())
    world.add(10)
    one = route(world, ca, otlp)
    await ship_all(one.shipper)
    assert len(otlp.server.records) == 10, "it is not sent again: most of it is there"
    assert one.shipper.refused == 2
    await one.shipper.close()


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429, 500, 503])
async def test_what_a_collector_says_of_itself_loses_no_record(
    otlp: OtlpReceiver, world: World, ca: CertificateAuthority, status: int
) -> None:
    world.add(5)
    otlp.server.answer = lambda records: (status, b"")
    one = route(world, ca, otlp)
    assert await one.step() > 0
    assert f"HTTP {status}" in str(one.fault) and one.shipper.suspected == 0 == one.shipper.refused
    otlp.server.answer = lambda records: (200, b"")
    await ship_all(one.shipper)
    await one.shipper.close()
    assert otlp.server.bodies == world.lines()


async def test_a_page_that_is_no_collector_takes_no_records(otlp: OtlpReceiver, world: World, ca: CertificateAuthority) -> None:
    world.add(5)
    otlp.server.content_type = "text/html"
    one = route(world, ca, otlp)
    assert await one.step() > 0
    assert "no answer of OTLP" in str(one.fault)
    await one.shipper.close()


async def test_the_headers_go_out_and_the_path_is_that_of_logs(
    otlp: OtlpReceiver, world: World, ca: CertificateAuthority
) -> None:
    world.add(1)
    one = route(world, ca, otlp, headers="Authorization=Bearer%20canary")
    await ship_all(one.shipper)
    await one.shipper.close()
    assert otlp.server.headers["Authorization"] == "Bearer canary"
    assert otlp.server.paths == {"/v1/logs"}


# --- syslog


async def test_a_receiver_that_goes_away_unread_gets_it_again(world: World, ca: CertificateAuthority) -> None:
    world.add(200)
    with syslog_receiver(ca.server("127.0.0.1")) as server:
        server.resets = 2
        one = route(world, ca, TlsSyslogReceiver(server))
        assert await one.step() > 0 and await one.step() > 0
        assert one.fault and server.messages == []
        await ship_all(one.shipper)
        await one.shipper.close()
        assert server.bodies == world.lines() and server.faults == []


@pytest.mark.parametrize("is_tls", [True, False])
async def test_a_receiver_that_only_closes_is_believed(world: World, ca: CertificateAuthority, is_tls: bool) -> None:
    world.add(3)
    with syslog_receiver(ca.server("127.0.0.1") if is_tls else None) as server:
        server.says_goodbye = False
        one = route(world, ca, TlsSyslogReceiver(server))
        await ship_all(one.shipper)
        await one.shipper.close()
        assert server.bodies == world.lines()


@pytest.mark.parametrize("is_tls", [True, False])
async def test_a_receiver_that_closes_before_it_has_read_is_not_believed(
    world: World, ca: CertificateAuthority, is_tls: bool
) -> None:
    """A FIN alone says nothing: it may have been sent before the records arrived."""
    world.add(3)
    with syslog_receiver(ca.server("127.0.0.1") if is_tls else None) as server:
        one = route(world, ca, TlsSyslogReceiver(server))
        for _ in range(30):
            server.closes = 1
            assert await one.step() > 0
        await ship_all(one.shipper)
        await one.shipper.close()
        assert server.bodies == world.lines()


async def test_plain_tcp_that_is_reset_is_sent_again(world: World, ca: CertificateAuthority) -> None:
    world.add(3)
    with syslog_receiver() as server:
        server.resets = 1
        one = route(world, ca, TlsSyslogReceiver(server))
        assert await one.step() > 0
        await ship_all(one.shipper)
        await one.shipper.close()
        assert server.bodies == world.lines()


async def test_a_receiver_that_never_closes_is_a_fault(ca: CertificateAuthority) -> None:
    with syslog_receiver() as server:
        server.reads.clear()
        host, port = server.url.removeprefix("tcp://").split(":")
        sink = SyslogSink(host, int(port), None, "h", timeout_s=0.2)
        with pytest.raises(SinkFault, match="does not close"):
            await sink.send([MESSAGE])


@pytest.mark.parametrize("is_tls", [True, False])
async def test_a_receiver_that_talks_without_end_is_a_fault(world: World, ca: CertificateAuthority, is_tls: bool) -> None:
    with syslog_receiver(ca.server("127.0.0.1") if is_tls else None) as server:
        server.talks = True
        one = route(world, ca, TlsSyslogReceiver(server))
        context = one.target.tls.context() if is_tls else None
        sink = SyslogSink("127.0.0.1", int(server.url.rpartition(":")[2]), context, "h", timeout_s=0.5)
        with pytest.raises(SinkFault, match="does not close"):
            await asyncio.wait_for(sink.send([MESSAGE]), LIMIT_S)


async def test_a_client_certificate_is_shown(world: World, ca: CertificateAuthority) -> None:
    client = ca.client("keytrail")
    world.add(1)
    with syslog_receiver(ca.server("127.0.0.1")) as server:
        assert server._context is not None
        server._context.load_verify_locations(ca.bundle)
        server._context.verify_mode = ssl.CERT_REQUIRED
        bare = route(world, ca, TlsSyslogReceiver(server))
        for _ in range(30):
            assert await bare.step() > 0, "without one it is not taken, and not believed to be"
        assert server.messages == []
        one = route(world, ca, TlsSyslogReceiver(server), certificate=str(client.chain), key=str(client.key))
        await ship_all(one.shipper)
        assert server.bodies == world.lines()


# --- NATS


async def test_a_message_larger_than_the_stream_lets_it_be_is_set_aside(
    world: World, ca: CertificateAuthority, tmp_path: Path
) -> None:
    with nats_server(tmp_path) as server:
        await server.make_stream(max_msg_size=3_000)
        world.add(5)
        world.add(1, userAgent="x" * 3_000)
        world.add(5)
        one = route(world, ca, NatsReceiver(server))
        await ship_all(one.shipper)
        await one.shipper.close()
        lines = world.lines()
        assert sorted(await server.bodies()) == sorted(lines[:5] + lines[6:])
        (told,) = [
            orjson.loads(line) for line in (world.data / "shipping" / one.target.name / "refused").read_bytes().splitlines()
        ]
        assert told["sequence"] == 5 and "message size exceeds maximum" in told["reason"]


async def test_without_a_stream_nothing_is_taken(world: World, ca: CertificateAuthority, tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        world.add(5)
        one = route(world, ca, NatsReceiver(server))
        assert await one.step() > 0
        assert one.fault == "no stream of this server has the subject audit.kms.*"
        await server.make_stream()
        await ship_all(one.shipper)
        await one.shipper.close()
        assert await server.bodies() == world.lines()


async def test_a_password_that_is_wrong_is_told_and_not_shown(world: World, tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        world.add(1)
        target = Target("nats", server.url.replace(PASSWORD, "canary-of-a-wrong-one"), Tls())
        (one,) = routes_of(world.data, Shipping("cloudtrail", (target,)), lambda: world.now)
        assert await one.step() > 0
        assert "Authorization" in str(one.fault) and "canary" not in str(status_of([one]))


# --- beside a running keytrail


def test_beside_serve(tmp_path: Path, ca: CertificateAuthority) -> None:
    """Calls are shipped, what is behind is told, and the secret is nowhere."""
    data = tmp_path / "keytrail-data"
    subprocess.run([keytrail_command(), "init", "--data", str(data)], check=True, capture_output=True, cwd=tmp_path)
    with collector(ca.server("127.0.0.1")) as server:
        settings = {
            "SHIP_OTLP": server.url,
            "SHIP_CA_BUNDLE": str(ca.bundle),
            "SHIP_HEADERS": "x-key=canary-header",
            "SHIP_FORM": "ocsf",
        }
        environment = {f"KEYTRAIL_{name}": value for name, value in settings.items()}
        one = Server(data, environment).start()
        try:
            kms = one.client()
            kms.create_key()
            wait_until(lambda: b'"operation":"CreateKey"' in b"".join(server.bodies), "the call is shipped")
            server.stop()
            kms.create_key()
            wait_until(lambda: not _health(one)["ready"], "health tells that the sink is down")
            assert "records wait, since" in _health(one)["reason"]
            assert _lag(one) > 0
            server.start()
            wait_until(lambda: _health(one)["ready"], "and that it is back")
        finally:
            assert one.stop() == 0
        events = [orjson.loads(body) for body in server.bodies]
        assert Counter(event["metadata"]["uid"] for event in events).most_common(1)[0][1] == 1
        command = [keytrail_command(), "ship", "status", "--data", str(data)]
        shown = subprocess.run(
            command, env=os.environ | environment, check=True, capture_output=True, text=True, cwd=tmp_path
        ).stdout
        assert "log admin: " in shown and "behind" not in shown
        told = orjson.loads(
            subprocess.run(
                [*command, "--json"], env=os.environ | environment, check=True, capture_output=True, cwd=tmp_path
            ).stdout
        )
        assert all(log["shipped"] == log["durable"] > 0 for log in told[0]["logs"] if log["durable"])
        assert sum(log["shipped"] for log in told[0]["logs"]) == len(events)
        written = b"".join(path.read_bytes() for path in [*data.rglob("*"), *one.outputs] if path.is_file())
        assert b"canary-header" not in written and "canary-header" not in shown


def _lag(server: Server) -> float:
    with urllib.request.urlopen(f"{server.admin_url}/metrics", timeout=LIMIT_S) as response:  # noqa: S310 - http
        found = re.search(
            r'^keytrail_shipping_lag_records{sink="otlp-[0-9a-f]{16}"} (\S+)$', response.read().decode(), re.MULTILINE
        )
    assert found
    return float(found[1])


def _health(server: Server) -> dict[str, Any]:  # Any: JSON
    found: dict[str, Any] = server.health()[1]["processes"]["shipping"]
    return found
