"""The process that answers CloudTrail's API, beside the workers: `python -m proxy.cloudtrail DATA`, a companion of `serve`.

It has a log of its own, `trail`, and listens on a Unix socket in the data folder (`proxy.cloudtrail.place`), to which the admin
listener hands what is for it. It keeps to the settings that it was started with. Searches are modest; the rest is not, so that
who may not ask is told so at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from audit import durable
from audit.commit import AuditLog
from audit.companion import Plan, Reporter, Status
from audit.delivery.layout import Place
from audit.delivery.opening import Delivery
from audit.errors import AuditError
from audit.instance import Instance
from proxy.assembly import client_of_headers, guardrails_of, log_place, make_ids
from proxy.backends.local.keys import ALIAS, alias_of, alias_row
from proxy.callers import Callers
from proxy.clock import clock_of
from proxy.cloudtrail.dialect import CloudTrailDialect
from proxy.cloudtrail.page_token import KEY_BYTES
from proxy.cloudtrail.permission import Permission
from proxy.cloudtrail.place import LOG, PEER, bind, folder_of
from proxy.cloudtrail.service import CloudTrailService, Delivered, FindAlias
from proxy.domain import KmsCall, Origin, RawRequest, RawResponse
from proxy.errors import KmsError, ProxyError
from proxy.heartbeat import Heartbeat
from proxy.kms.arn import key_arn, parse_key_ref
from proxy.listeners.reverse import Limits, Listener, Walk
from proxy.log_health import watch
from proxy.opening import open_store
from proxy.permissions import Permissions
from proxy.pipeline import Authorise, Pipeline
from proxy.recording import Recorder
from proxy.sealed_store import SealedStore
from proxy.settings import Settings
from proxy.sigv4 import Verifier

_CALLS_AT_ONCE = 16  # more are refused as throttled: each may wait for a search


def main(data: str, plan: Plan) -> int:
    """The companion: standard input ends when it should."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s trail %(levelname)s %(message)s")
    reporter = Reporter()
    try:
        asyncio.run(_serve(Path(data), plan, reporter))
    except (AuditError, ProxyError, OSError) as error:  # the supervisor tries again: calls to KMS go on meanwhile
        reporter(Status(ready=False, reason=str(error)))
        return 3
    return 0


async def _serve(data: Path, plan: Plan, report: Reporter) -> None:
    settings, loop = Settings(**plan["settings"]), asyncio.get_running_loop()
    instance = Instance.load(data)
    store = open_store(instance, settings)
    log = AuditLog(log_place(instance, settings, LOG), loop)
    folder = folder_of(data)
    service = CloudTrailService(
        data,
        Place(instance.account_id, instance.region),
        _delivered(instance, plan["delivery"]),
        _aliases(store),
        token_key(folder),
    )
    recorder = make_recorder(settings, instance, service.name)
    pipeline = make_pipeline(settings, instance, store, log, service, recorder)
    latest = instance.checkpoint_folder(LOG) / "latest"
    heartbeat = Heartbeat(log, recorder, latest, now_us, lambda: settings.heartbeat_s)
    listener = Listener(
        from_admin(pipeline.walk), Limits(settings.max_body_bytes, settings.request_timeout_s, settings.idle_timeout_s)
    )
    with bind(folder) as sock:  # whoever has the log is the only one to listen
        server = await loop.create_unix_server(listener, sock=sock)
        await heartbeat.start()
        stop = asyncio.Event()
        loop.add_reader(0, lambda: stop.set() if not os.read(0, 1) else None)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        report(Status(ready=True))
        watching = [
            loop.create_task(watch(log, store, lambda fault: report(Status(fault is None, fault)))),
            loop.create_task(heartbeat.beat()),
        ]
        await stop.wait()
        loop.remove_reader(0)
        for task in watching:
            task.cancel()
        server.close()
        await listener.drain(settings.drain_timeout_s)
    service.close()
    await heartbeat.stop()
    await log.close()
    store.close()


def make_pipeline(
    settings: Settings, instance: Instance, store: SealedStore, log: AuditLog, service: CloudTrailService, recorder: Recorder
) -> Pipeline:
    """The walk of a call to CloudTrail. Raises SetupError for guardrails that cannot be read."""
    clock = clock_of(settings.clock)
    callers = Callers(store, clock, os.urandom)
    return Pipeline(
        verifier=Verifier(
            callers.find,
            service="cloudtrail",
            clock_us=None if settings.clock is None else lambda: int(clock() * 1_000_000),
        ),
        dialect=CloudTrailDialect.load(),
        backend=service,
        recorder=recorder,
        log=log,
        origin=instance.origin(log.name),
        now_us=now_us,
        new_id=make_ids(os.urandom),
        authorise=_authorise(guardrails_of(settings, instance.account_id), Permission(Permissions(store))),
        client_of=client_of_headers(settings),
        calls_at_once=_CALLS_AT_ONCE,
    )


def make_recorder(settings: Settings, instance: Instance, backend: str) -> Recorder:
    return Recorder(
        instance.account_id,
        instance.region,
        backend,
        settings.grant_tokens,
        make_ids(os.urandom),
        event_source="cloudtrail.amazonaws.com",
        resource_type="AWS::CloudTrail::Trail",
        has_accounts=True,
    )


def now_us() -> int:
    return time.time_ns() // 1_000


def _authorise(guardrails: Authorise | None, permission: Permission) -> Authorise:
    def authorise(call: KmsCall, source_ip: str) -> None:
        if guardrails is not None:
            guardrails(call, source_ip)
        permission.check(call, source_ip)

    return authorise


def from_admin(walk: Walk) -> Walk:
    """`walk`, of requests that the admin listener hands over: it says first whose they are."""

    async def walk_from(raw: RawRequest) -> RawResponse:
        told = [value for name, value in raw.headers if name == PEER]
        peer = told[0].decode("latin-1") if told else "unknown"
        headers = tuple((name, value) for name, value in raw.headers if name != PEER)
        return await walk(replace(raw, headers=headers, origin=Origin(peer)))

    return walk_from


def token_key(folder: Path) -> bytes:
    """The key of NextTokens, made where there is none: without it, those that were given out are refused. Raises OSError."""
    path = folder / "token.key"
    if not path.exists():
        durable.replace(path, secrets.token_bytes(KEY_BYTES))
    return path.read_bytes()


def _delivered(instance: Instance, plan: dict[str, Any] | None) -> Delivered | None:  # Any: JSON
    if plan is None:
        return None
    delivery = Delivery.of(plan)
    return Delivered(delivery.open_trail(instance), delivery.address.text)


def _aliases(store: SealedStore) -> FindAlias:
    def find_alias(account_id: str, region: str, name: str) -> str | None:
        try:
            ref = parse_key_ref(name, region)
        except KmsError:
            return None
        owner = ref.account_id or account_id
        entry = store.find(ALIAS, region, alias_row(owner, ref.name)) if ref.is_alias else None
        return None if entry is None else key_arn(region, owner, alias_of(entry).key_id)

    return find_alias
