"""One worker process: it opens its log, listens, and answers calls until it is told to stop.

A poisoned log makes the worker not ready: it answers 503 and tries to recover its log, once a second, until that succeeds. The
supervisor learns of each change. Its end of the pipe is also how a worker notices that the supervisor is gone: it drains then.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import orjson
import uvloop

from audit.commit import AuditLog, records_from
from audit.errors import AuditError, LogIncident
from audit.instance import Instance
from proxy.assembly import Assembly, Parts, assemble, log_place, make_ids
from proxy.backends.local import effects
from proxy.entrances import Entrances, own_addresses
from proxy.errors import ProxyError
from proxy.heartbeat import Heartbeat
from proxy.kms.model import ServiceModel
from proxy.listeners.reverse import Limits, Listener
from proxy.log_health import watch
from proxy.metrics import Counts
from proxy.opening import is_shared, open_store
from proxy.recording import Recorder
from proxy.settings import Settings
from proxy.store_database import StoreUnreachable
from proxy.uses import UseKeeper
from proxy.worker_plan import Status, WorkerPlan

_log = logging.getLogger(__name__)
_HEALTH_INTERVAL_S = 0.2
_COUNTS_INTERVAL_S = 1.0
_MAINTENANCE_INTERVAL_S = 1.0
_GC_THRESHOLD = 20_000  # a call leaves no cycles behind; the default would look for some every few calls


class Orders:
    """What the supervisor writes on the pipe `fd`: plans, one a line; its end means that it is time to go."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._held = b""

    def first(self) -> WorkerPlan:
        """Wait for the first plan. Raises EOFError where none comes."""
        while True:
            plans = self.read()
            if plans is None:
                raise EOFError("the supervisor is gone")
            if plans:
                return plans[0]

    def read(self) -> list[WorkerPlan] | None:
        """The plans that have arrived whole, by one read; None when there will be no more."""
        arrived = os.read(self._fd, 1 << 16)
        if not arrived:
            return None
        *lines, self._held = (self._held + arrived).split(b"\n")
        return [WorkerPlan.decode(line) for line in lines]


def main() -> int:
    """The worker's process, from start to end; gives its exit code."""
    orders = Orders(sys.stdin.fileno())
    try:
        plan = orders.first()
    except EOFError:
        return 0
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {plan.log} %(levelname)s %(message)s")
    try:
        uvloop.run(_serve(plan, orders))
    except StoreUnreachable as error:
        _report(Status(ready=False, reason=str(error)))
        return 3
    except (LogIncident, ProxyError) as error:
        _report(Status(ready=False, reason=str(error), failed=True))
        return 3
    except (AuditError, OSError) as error:  # a full disk, a log that an orphan still drains into: it may be better soon
        _report(Status(ready=False, reason=str(error)))
        return 3
    return 0


def _report(told: Status | list[list[str | int]]) -> None:
    print(orjson.dumps(told).decode(), flush=True)


def _report_fault(fault: str | None) -> None:
    _report(Status(ready=fault is None, reason=fault))


async def _serve(plan: WorkerPlan, orders: Orders) -> None:
    settings, loop = plan.settings, asyncio.get_running_loop()
    gc.disable()  # until everything is there: what is loaded stays, and looking through it again and again costs seconds
    instance = Instance.load(settings.data)
    store = open_store(instance, settings)
    log = AuditLog(log_place(instance, settings, plan.log, syncing=plan.syncing), loop, partial(effects.known, store))
    store.announce()
    counts = Counts()
    own = own_addresses(settings, plan.ports)
    parts = Parts(instance, log, store, ServiceModel.load(), counts, make_ids(os.urandom), own)
    assembly = assemble(settings, parts)
    limits = Limits(settings.max_body_bytes, settings.request_timeout_s, settings.idle_timeout_s)
    listener = Listener(assembly.pipeline.walk, limits)
    entrances = Entrances(settings, plan.ports, listener)
    at_work = Work(settings, assembly, parts, listener, entrances)
    heartbeat = _heartbeat(parts, at_work)
    await heartbeat.start()
    await entrances.open()
    counts.readings += [entrances.counts, lambda: _readings(listener, loop)]

    stop, plans = asyncio.Event(), asyncio.Queue[WorkerPlan]()

    def on_order() -> None:
        arrived = orders.read()
        if arrived is None:
            loop.remove_reader(0)
            stop.set()
        for replanned in arrived or ():
            plans.put_nowait(replanned)

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the supervisor's affair, also where all of a group get it
    loop.add_reader(0, on_order)
    gc.collect()
    gc.freeze()  # what is there now stays: the collector need not look at it again
    gc.set_threshold(_GC_THRESHOLD)
    gc.enable()
    _report(Status(ready=True))
    watching = [
        loop.create_task(watch(log, store, _report_fault)),
        loop.create_task(_tell(counts)),
        loop.create_task(at_work.follow(plans)),
        loop.create_task(heartbeat.beat()),
    ]
    marked = f"{instance.id}/{plan.log}" if is_shared(settings) else plan.log  # other hosts have logs of the same name
    keeper = UseKeeper(parts.uses, store, marked, log.records, partial(records_from, instance.log_folder(plan.log)))
    beside = [loop.create_task(at_work.maintain(stop))]
    if settings.backend == "local":
        beside.append(loop.create_task(keeper.keep(stop, time.time())))
    await stop.wait()

    loop.remove_reader(0)
    for task in watching:
        task.cancel()
    drain_s = at_work.settings.drain_timeout_s
    closing = loop.create_task(entrances.close(drain_s))
    if not await listener.drain(drain_s):
        _log.warning("not all calls finished within %s s", drain_s)
    await closing
    await asyncio.gather(*beside)
    if settings.backend == "local":
        await keeper.finish()
    await at_work.close()  # before the log: who opens it next may rely on that no change is under way any more
    await heartbeat.stop()
    await log.close()
    store.close()


class Work:
    """What a worker answers calls with, now; `follow` puts something new in its place as the plans come."""

    def __init__(self, settings: Settings, assembly: Assembly, parts: Parts, listener: Listener, entrances: Entrances) -> None:
        self.settings = settings
        self._assembly = assembly
        self._parts = parts
        self._listener = listener
        self._entrances = entrances
        self._retiring: set[asyncio.Task[None]] = set()

    async def follow(self, plans: asyncio.Queue[WorkerPlan]) -> None:
        """Work by each plan that comes. Where one cannot be followed, everything stays as it was, and the log says why."""
        while True:
            settings = (await plans.get()).settings
            try:
                assembly = assemble(settings, self._parts)
                try:
                    self._entrances.reload(settings)
                except ProxyError:
                    await assembly.close()
                    raise
            except ProxyError as error:
                _log.error("the new settings cannot be followed; nothing was changed: %s", error)
                continue
            old, self._assembly, self.settings = self._assembly, assembly, settings
            self._listener.walk = assembly.pipeline.walk
            self._listener.limit(Limits(settings.max_body_bytes, settings.request_timeout_s, settings.idle_timeout_s))
            retiring = asyncio.get_running_loop().create_task(_retire(old))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
            _log.info("works by the new settings")

    async def maintain(self, stop: asyncio.Event) -> None:
        """Do what time does to keys, and forget what was shredded, until `stop`; what has begun then is finished."""
        while not stop.is_set():
            if self._assembly.privacy is not None:
                self._assembly.privacy.forget_shredded()
            if self._assembly.maintenance is not None and self._parts.store.fault is None:
                await self._assembly.maintenance.run()
            with suppress(TimeoutError):
                async with asyncio.timeout(_MAINTENANCE_INTERVAL_S):  # wait_for would make a task each time
                    await stop.wait()

    async def close(self) -> None:
        """Close what is behind the pipeline; calls have ended, or are given up."""
        for retiring in self._retiring:
            retiring.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._assembly.close()


def _heartbeat(parts: Parts, at_work: Work) -> Heartbeat:
    instance, settings = parts.instance, at_work.settings
    recorder = Recorder(instance.account_id, instance.region, settings.backend, settings.grant_tokens, parts.new_id)
    latest = instance.checkpoint_folder(parts.log.name) / "latest"
    return Heartbeat(parts.log, recorder, latest, _now_us, lambda: at_work.settings.heartbeat_s)


def _now_us() -> int:
    return time.time_ns() // 1_000


async def _retire(old: Assembly) -> None:
    """Close an assembly when what began in it has ended."""
    while old.pipeline.under_way or (old.maintenance is not None and old.maintenance.busy):  # noqa: ASYNC110 - an event would be on the way of every call, for this alone
        await asyncio.sleep(_HEALTH_INTERVAL_S)
    await old.close()


def _readings(listener: Listener, loop: asyncio.AbstractEventLoop) -> Mapping[str, int]:
    return {
        "calls_under_way": listener.busy,
        "connections": len(listener.connections),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks(loop)),
    }


async def _tell(counts: Counts) -> None:
    """Tell the supervisor what was counted, when something was."""
    told: list[list[str | int]] = []
    while True:
        if (now := counts.tally()) != told:
            told = now
            _report(told)
        await asyncio.sleep(_COUNTS_INTERVAL_S)


if __name__ == "__main__":
    sys.exit(main())
