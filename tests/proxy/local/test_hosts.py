"""Two hosts on one key store of a PostgreSQL server: what time does is done once, and what one changes the other goes by."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.record import AuditRecord
from proxy.sealed_store import StoreFailed
from proxy.store_server import ServerDatabase
from tests.integration.components.postgresql import PostgreSQL
from tests.integration.conftest import wait_until
from tests.proxy.engines import ServerEngine, meet
from tests.proxy.local.test_maintenance import DAY_S, INTENT, Log, Worker
from tests.proxy.local.world import World

Hosts = tuple[World, World]


@pytest.fixture
def hosts(postgresql: PostgreSQL, tmp_path: Path) -> Iterator[Hosts]:
    """With one clock, and each with a lock for maintenance of its own."""
    engine = ServerEngine(postgresql)
    engine.make()
    one = World(tmp_path / "one", store=engine.open())
    other = World(tmp_path / "other", one.clock, store=engine.open())
    yield one, other
    one.close()
    other.close()


def test_what_is_due_is_done_once_where_both_hosts_are_at_it(hosts: Hosts) -> None:
    one, other = hosts
    gone, rotated = one.new_key(), one.new_key()
    one("ScheduleKeyDeletion", KeyId=gone, PendingWindowInDays=7)
    one("EnableKeyRotation", KeyId=rotated, RotationPeriodInDays=90)
    meet(other.store, one.store)
    one.clock.now_s += 91 * DAY_S
    both = threading.Barrier(2)

    def together(record: AuditRecord) -> None:
        if record.phase is INTENT:
            both.wait(20)

    workers = [Worker(world, Log(on_commit=together)) for world in hosts]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [entry for worker in workers for entry in worker.log.told if entry[1] is not INTENT]
    assert sorted((event, error) for event, _, error in told if error is None) == [("DeleteKey", None), ("RotateKey", None)]
    assert [error for _, _, error in told if error is not None] == ["KMSInvalidStateException"] * 2
    meet(one.store, other.store)
    meet(other.store, one.store)
    for world in hosts:
        assert [key["KeyId"] for key in world("ListKeys")["Keys"]] == [rotated]
        assert len(world("ListKeyRotations", KeyId=rotated)["Rotations"]) == 1


def test_a_change_is_answered_though_it_has_not_come_back_and_the_next_call_is_refused_until_then(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = hosts[0]
    key = one.new_key()
    database = one.store._database
    assert isinstance(database, ServerDatabase)
    monkeypatch.setattr(database, "publish", database._copy.owe)
    with database._fetching:  # nothing comes in meanwhile
        assert one("DisableKey", KeyId=key) == {}
        refusal = one.refused("Encrypt", KeyId=key, Plaintext=b"x")
        assert (refusal.code, refusal.status) == ("KMSInternalException", 500)
    wait_until(lambda: is_back(one), "the thread has it")
    assert one.refused("Encrypt", KeyId=key, Plaintext=b"x").code == "DisabledException"


def is_back(world: World) -> bool:
    try:
        return world.store.published > 0
    except StoreFailed:
        return False
