"""`keytrail serve`: the supervisor of the workers, and of their companions (`proxy.companions`).

N workers, each with a log of its own, listen on the same ports (SO_REUSEPORT); what is to be done with what they write, the
companions do. Each child is a process with two pipes: on standard output it reports its status and its counts, a JSON line each;
on standard input it gets its plan, which may hold a secret and so is no argument. At SIGHUP a worker gets a new one there, and a
companion whose plan changed is started anew. When that pipe ends, the child finishes what it has under way and ends too, so that
no child outlives a supervisor that was killed. What dies is started anew, after a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import orjson
import prometheus_client
from aiohttp import web

from audit.errors import AuditError
from audit.instance import Instance
from proxy.admin_areas import only_areas
from proxy.companions import COMPANIONS, Ends
from proxy.errors import ProxyError, SetupError
from proxy.metrics import Metrics, as_tally
from proxy.sealer_watch import SealerWatch
from proxy.separation import separate
from proxy.settings import Settings, host_and_port
from proxy.trail_route import add_trail_route
from proxy.tree_routes import add_tree_routes
from proxy.worker_plan import LISTENERS, Status, WorkerPlan

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_GRACE_S = 5.0
_WATCH_INTERVAL_S = 2.0
_MAX_REPORT_BYTES = 1 << 20  # the longest line that a child may tell
#: What a SIGHUP does not change, since it stands for more than the calls to come.
_FIXED = frozenset(
    [
        "data",
        "listen",
        "admin_listen",
        "tls_listen",
        "forward_listen",
        "workers",
        "region",
        "account_id",
        "backend",
        "master_key",
        "keystore_url",
        "keystore_stale_after_s",
        "segment_max_bytes",
        "segment_max_age_s",
        "index",
        "witness_policy",
        "timestamp_urls",
        "delivery",
        "cloudtrail_api",
        "ship_otlp",
        "ship_syslog",
        "ship_nats",
        "proxy_protocol",
        "sealer",
        "sealer_user",
    ]
)


class Child:
    """A process that is kept running until `stop`. `status` is what it last said of itself; `plan`, a line, is told to it at its
    start."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        changed: Callable[[], None],
        metrics: Metrics,
        plan: bytes,
    ) -> None:
        self.name = name
        self.status = Status(ready=False, reason="starting")
        self.plan = plan
        self._argv = argv
        self._changed = changed
        self._metrics = metrics
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._is_ending = False  # it was told to end, and is to be started anew

    async def keep(self) -> None:
        """Run the process, and again when it dies, until `stop`."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                process_group=0,  # Ctrl-C is for this process; a session of its own would give the indexer an equal share
                limit=_MAX_REPORT_BYTES,
            )
            self._process, self._is_ending = process, False
            self._write(self.plan)
            if self._stopping.is_set():
                self._end(process)
            try:
                await self._follow(process)
            except (ValueError, TypeError):  # no report of ours: nobody would read its pipe any more, so it cannot stay
                _log.exception("%s told what is no report; it is killed", self.name)
                process.kill()
            code = await process.wait()
            self._metrics.ended(self.name)
            if self._stopping.is_set() or self.status.failed:
                return
            if self._is_ending:
                self._tell(Status(ready=False, reason="started anew"))
                continue
            reason = f"it ended with exit code {code}" if self.status.ready else self.status.reason
            self._tell(Status(ready=False, reason=reason))
            _log.error("%s: %s (exit code %s); it is started anew in %s s", self.name, reason, code, pause_s)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def replan(self, plan: bytes) -> None:
        """Have the process, and those after it, work by `plan` from now on."""
        self.plan = plan
        if self._process is not None and not self._stopping.is_set():
            self._write(plan)

    def renew(self, plan: bytes) -> None:
        """Have a process that takes no second plan work by `plan` from now on: it is told to end, and started anew."""
        self.plan = plan
        if self._process is not None and not self._stopping.is_set():
            self._is_ending = True
            self._end(self._process)

    async def stop(self, running: asyncio.Task[None], limit_s: float) -> None:
        """Let the process finish, for `limit_s` at most; `running` is the task of `keep`."""
        self._stopping.set()
        if self._process is not None:
            self._end(self._process)
            if not (await asyncio.wait([running], timeout=limit_s))[0]:
                _log.error("%s did not end within %s s; it is killed", self.name, limit_s)
                self._process.kill()
        await running

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe, as asked for
        async for line in process.stdout:
            told = orjson.loads(line)
            if isinstance(told, list):
                self._metrics.tell(self.name, as_tally(told))
            else:
                self._tell(Status(**told))

    def _tell(self, status: Status) -> None:
        self.status = status
        self._changed()

    def _write(self, plan: bytes) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(plan)

    @staticmethod
    def _end(process: asyncio.subprocess.Process) -> None:
        if process.stdin is not None:
            process.stdin.close()


class Supervisor:
    """Runs an instance. `announce` is told, once, when every worker is ready: the URL of each listener, by its setting's name.

    `reread` gives the settings anew, at SIGHUP. Made inside a running event loop. `syncing=False` is for the benchmark that tells
    what durability costs.
    """

    def __init__(
        self,
        settings: Settings,
        announce: Callable[[Mapping[str, str]], None],
        *,
        reread: Callable[[], Settings] | None = None,
        syncing: bool = True,
    ) -> None:
        self._settings = settings
        self._announce = announce
        self._reread = reread
        self._changed = asyncio.Event()
        self._stopping = False
        self._reserved = {name: _reserve(address) for name in LISTENERS if (address := getattr(settings, name))}
        self._metrics = Metrics(lambda: {name: ready for name, (ready, _) in self._told().items()})
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self._metrics)
        ports = {name: sock.getsockname()[1] for name, sock in self._reserved.items()}
        self._plans = [WorkerPlan(settings, f"w{number}", ports, syncing) for number in range(settings.workers)]
        self._workers = [self._child(plan.log, (sys.executable, "-m", "proxy.worker"), plan.encode()) for plan in self._plans]
        self._companions = {
            row: self._child(row.name, row.command(settings), row.encode_plan(settings))
            for row in COMPANIONS
            if row.is_wanted(settings)
        }
        self._apart = SealerWatch(lambda: Instance.load(settings.data), time.monotonic) if settings.sealer == "apart" else None

    def _child(self, name: str, command: Sequence[str], plan: bytes) -> Child:
        return Child(name, command, self._changed.set, self._metrics, plan)

    @property
    def _children(self) -> tuple[Child, ...]:
        return (*self._workers, *self._companions.values())

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises `LogIncident`, `NoInstance`, `SetupError`, OSError where it cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        instance = Instance.load(self._settings.data)
        lock = _hold(instance)
        instance.require_logs()
        logs = [*(child.name for child in self._workers), *(row.log for row in self._companions if row.log is not None)]
        instance = instance.with_logs(logs)
        if self._settings.sealer == "here" and os.geteuid() == 0 and self._settings.sealer_user:
            separate(instance, self._settings)
        admin, admin_url = await self._start_admin()
        running = {child: asyncio.create_task(child.keep()) for child in self._children}
        watching = asyncio.create_task(self._watch_sealer())
        try:
            await self._until(lambda: all(child.status.ready for child in self._workers))
            if not self._stopping:
                urls = {name: _url(sock.getsockname(), tls=name == "tls_listen") for name, sock in self._reserved.items()}
                self._announce({**urls, "admin_listen": admin_url})
            await self._until(lambda: False)
        finally:
            watching.cancel()
            limit_s = self._settings.drain_timeout_s + _GRACE_S
            for turn in Ends:
                ending = [child for row, child in self._companions.items() if row.ends is turn]
                if turn is Ends.WITH_THE_WORKERS:
                    ending += self._workers
                await asyncio.gather(*(child.stop(running[child], limit_s) for child in ending))
            await admin.cleanup()
            for sock in self._reserved.values():
                sock.close()
            os.close(lock)

    def _stop(self) -> None:
        self._stopping = True
        self._changed.set()

    def _reload(self) -> None:
        """Read the settings again, and have the workers work by them; where they are not as they must be, nothing changes."""
        if self._reread is None:
            return
        try:
            wanted = self._reread()
        except ProxyError as error:
            _log.error("SIGHUP: nothing was changed: %s", error)
            return
        fixed = {name: getattr(self._settings, name) for name in _FIXED}
        for name in sorted(name for name in _FIXED if getattr(wanted, name) != fixed[name]):
            _log.warning("SIGHUP: `%s` takes effect at the next start", name)
        self._settings = wanted.model_copy(update=fixed)
        for worker, plan in zip(self._workers, self._plans, strict=True):
            worker.replan(replace(plan, settings=self._settings).encode())
        for row, companion in self._companions.items():
            if (renewed := row.encode_plan(self._settings)) != companion.plan:
                companion.renew(renewed)
        _log.info("SIGHUP: the settings were read again")

    async def _until(self, reached: Callable[[], bool]) -> None:
        """Wait until `reached`, or until it is time to stop. Raises `SetupError` where a child gives up."""
        while not self._stopping and not reached():
            for child in self._children:
                if child.status.failed:
                    raise SetupError(f"{child.name} cannot start: {child.status.reason}")
            await self._changed.wait()
            self._changed.clear()

    def _told(self) -> dict[str, tuple[bool, str | None]]:
        """Whether each process is ready, and why not: as it says itself, and as is seen of a sealer that somebody else runs."""
        told = {child.name: (child.status.ready, child.status.reason) for child in self._children}
        if self._apart is not None:
            status = self._apart.status()
            told["sealer"] = status.ready, status.reason
        return told

    async def _watch_sealer(self) -> None:
        """Look after a sealer that somebody else runs."""
        while self._apart is not None:
            try:
                self._apart.look()
            except (AuditError, OSError) as error:
                _log.warning("the sealer cannot be looked after: %s", error)
            await asyncio.sleep(_WATCH_INTERVAL_S)

    async def _start_admin(self) -> tuple[web.AppRunner, str]:
        app = web.Application(middlewares=[only_areas(lambda: self._settings.admin_remote)])
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._ready)
        app.router.add_get("/metrics", self._show_metrics)
        add_tree_routes(app, self._settings.data, lambda: self._settings.tlog_entries)
        add_trail_route(app, lambda: self._settings)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        host, port = host_and_port(self._settings.admin_listen)
        await web.TCPSite(runner, host, port).start()
        return runner, _url(runner.addresses[0])

    async def _show_metrics(self, _: web.Request) -> web.Response:
        text = prometheus_client.generate_latest(self._registry)
        return web.Response(body=text, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def _ready(self, _: web.Request) -> web.Response:
        """Ready when every worker is: one that is not answers 503 to whoever reaches it."""
        ready = not self._stopping and all(child.status.ready for child in self._workers)
        children = {name: {"ready": ready, "reason": reason} for name, (ready, reason) in self._told().items()}
        body = {"status": "ready" if ready else "not ready", "processes": children}
        return web.json_response(body, status=200 if ready else 503)


def _hold(instance: Instance) -> int:
    """Hold the instance for this process alone. Raises `SetupError` where another serves it."""
    try:
        return instance.hold()
    except BlockingIOError as error:
        raise SetupError(f"another `keytrail serve` runs on {instance.data}") from error


def _url(address: tuple[object, ...], *, tls: bool = False) -> str:
    """The URL of a socket's address."""
    host, port = str(address[0]), address[1]
    return f"http{'s' * tls}://{f'[{host}]' if ':' in host else host}:{port}"


def _reserve(address: str) -> socket.socket:
    """Bind `address` without listening, so that the port is known, and held, while workers come and go.

    Raises `SetupError` where it cannot be had. The workers share it (SO_REUSEPORT), and so could another instance: therefore it
    is first bound without sharing.
    """
    host, port = host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
        reserved = socket.socket(family, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        raise SetupError(f"cannot listen on {address}: {error.strerror}") from error
    return reserved
