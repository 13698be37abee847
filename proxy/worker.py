"""One worker process: it opens its log, listens, and answers calls until it is told to stop.

A poisoned log makes the worker not ready: it answers 503 and tries to recover its log, once a second, until that succeeds. The
supervisor learns of each change. Its end of the pipe is also how a worker notices that the supervisor is gone: it drains then.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import gc
import itertools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
import uvloop

from audit.commit import AuditLog, LogPlace
from audit.errors import AuditError, LogIncident
from audit.instance import Instance
from proxy.backends.local.backend import LocalBackend
from proxy.callers import Callers
from proxy.errors import ProxyError, SetupError
from proxy.kms.model import ServiceModel
from proxy.listeners.reverse import Limits, Listener
from proxy.pipeline import Pipeline
from proxy.recording import Recorder
from proxy.sealed_store import MASTER_KEY_BYTES, SealedStore
from proxy.settings import Settings, host_and_port
from proxy.sigv4 import Verifier

_log = logging.getLogger(__name__)
_RECOVERY_INTERVAL_S = 1.0
_HEALTH_INTERVAL_S = 0.2
_GC_THRESHOLD = 20_000  # a call leaves no cycles behind; the default would look for some every few calls


@dataclass(frozen=True, slots=True)
class Status:
    """What a worker tells the supervisor: whether it is ready, and if not, why; `failed` means that a person has to look."""

    ready: bool
    reason: str | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What a worker needs to know. `port` is the real one, also where the setting says 0."""

    settings: Settings
    log: str
    port: int
    syncing: bool = True

    def encode(self) -> str:
        """As an argument for the worker's process."""
        document = {
            "settings": self.settings.model_dump(mode="json"),
            "log": self.log,
            "port": self.port,
            "syncing": self.syncing,
        }
        return orjson.dumps(document).decode()

    @classmethod
    def decode(cls, encoded: str) -> WorkerPlan:
        document = orjson.loads(encoded)
        return cls(Settings(**document["settings"]), document["log"], document["port"], document["syncing"])


def main(encoded_plan: str) -> int:
    """The worker's process, from start to end; gives its exit code."""
    plan = WorkerPlan.decode(encoded_plan)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {plan.log} %(levelname)s %(message)s")
    try:
        uvloop.run(_serve(plan))
    except (LogIncident, ProxyError) as error:
        _report(Status(ready=False, reason=str(error), failed=True))
        return 3
    except (AuditError, OSError) as error:  # a full disk, a log that an orphan still drains into: it may be better soon
        _report(Status(ready=False, reason=str(error)))
        return 3
    return 0


def _report(status: Status) -> None:
    print(orjson.dumps(status).decode(), flush=True)


def read_master_key(instance: Instance) -> bytes:
    """The master key of `instance`, which opens its key store. Raises `SetupError`; nothing of the key is in the message."""
    try:
        key = base64.b64decode(instance.master_key.read_bytes(), validate=False)
    except (OSError, binascii.Error) as error:
        raise SetupError(f"the master key cannot be read from {instance.master_key}; nothing was changed") from error
    if len(key) != MASTER_KEY_BYTES:
        raise SetupError(f"{instance.master_key} does not hold {MASTER_KEY_BYTES} bytes in base64; nothing was changed")
    return key


def log_place(instance: Instance, settings: Settings, log: str, *, syncing: bool = True) -> LogPlace:
    """Where the log `log` of `instance` is, with the settings for its segments."""
    return LogPlace(
        instance.log_folder(log),
        instance.checkpoint_folder(log),
        instance.region,
        instance.account_id,
        settings.segment_max_bytes,
        settings.segment_max_age_s,
        syncing,
    )


async def _serve(plan: WorkerPlan) -> None:
    settings, loop = plan.settings, asyncio.get_running_loop()
    instance = Instance.load(settings.data)
    log = AuditLog(log_place(instance, settings, plan.log, syncing=plan.syncing), loop)
    store = SealedStore(instance.keystore, read_master_key(instance), instance.id)
    store.announce()
    backend = LocalBackend(store, instance.account_id, time.time, os.urandom)
    new_id = make_ids(os.urandom)
    pipeline = Pipeline(
        verifier=Verifier(Callers(store, time.time, os.urandom).find),
        model=ServiceModel.load(),
        backend=backend,
        recorder=Recorder(instance.account_id, instance.region, backend.name, settings.grant_tokens, new_id),
        log=log,
        now_us=lambda: time.time_ns() // 1_000,
        new_id=new_id,
    )
    limits = Limits(settings.max_body_bytes, settings.request_timeout_s, settings.idle_timeout_s)
    listener = Listener(pipeline.walk, limits)
    host, _ = host_and_port(settings.listen)
    server = await loop.create_server(listener, host, plan.port, reuse_port=True, backlog=1_024)

    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(0, stop.set)  # nothing is ever sent on standard input: readable means that it ended
    gc.collect()
    gc.freeze()  # what is there now stays: the collector need not look at it again
    gc.set_threshold(_GC_THRESHOLD)
    _report(Status(ready=True))
    watching = loop.create_task(_watch(log))
    await stop.wait()

    loop.remove_reader(0)
    watching.cancel()
    server.close()
    if not await listener.drain(settings.drain_timeout_s):
        _log.warning("not all calls finished within %s s", settings.drain_timeout_s)
    await log.close()
    backend.close()
    store.close()


async def _watch(log: AuditLog) -> None:
    """Report when the log is poisoned, and recover it."""
    reported: str | None = None
    while True:
        await asyncio.sleep(_HEALTH_INTERVAL_S)
        if log.fault is None:
            continue
        if log.fault != reported:
            reported = log.fault
            _log.error("not ready: %s", reported)
            _report(Status(ready=False, reason=reported))
        await asyncio.sleep(_RECOVERY_INTERVAL_S)
        try:
            await log.recover()
        except (AuditError, OSError) as error:
            if str(error) != reported:
                reported = str(error)
                _log.error("the log cannot be recovered yet: %s", error)
                _report(Status(ready=False, reason=reported))
        else:
            reported = None
            _log.info("the log is healthy again")
            _report(Status(ready=True))


def make_ids(random: Callable[[int], bytes]) -> Callable[[], str]:
    """A source of ids in the form of UUIDs (version 8): ten random bytes of this source, and a count. Unique, and no secret."""
    prefix = random(10).hex()
    head = f"{prefix[:8]}-{prefix[8:12]}-8{prefix[12:15]}-a{prefix[15:18]}-"
    count = itertools.count()
    return lambda: f"{head}{next(count):012x}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
