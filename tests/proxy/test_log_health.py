"""What is told of a key store that fails: once when it begins, and how much it was when it is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.errors import KmsError
from proxy.log_health import FailuresTold, failures_of
from proxy.sealed_store import Failures, StoreFailed
from tests.proxy.local.conftest import world as world
from tests.proxy.local.world import REGION, World, call


@contextmanager
def full(world: World) -> Iterator[None]:
    """Its database may not grow, as on a disk that is full."""
    database = world.store._database
    connection = database._writer  # type: ignore[attr-defined]  # of the file
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    yield
    connection.execute("PRAGMA max_page_count = 1000000")


def create_key(world: World) -> None:
    asyncio.run(world.backend.call(call("CreateKey", REGION, world.caller, Description="d" * 8_000)))


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.message) for one in caplog.records]


def test_a_full_store_is_told_of_once_however_many_calls_it_refuses(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    changes, readings = failures_of(world.store)
    key = world.new_key()
    with full(world):
        for number in range(30):
            with pytest.raises(KmsError) as refused:
                create_key(world)
            assert (refused.value.code, refused.value.status) == ("KMSInternalException", 500)
            changes.look(number / 10)
        assert world("DescribeKey", KeyId=key)["KeyMetadata"]["KeyId"] == key  # what changes nothing is answered
        changes.look(60.0)
        assert told(caplog) == [("ERROR", "the key store takes no changes: the key store failed: database or disk is full")]
    create_key(world)
    changes.look(61.0)
    readings.look(61.0)
    assert told(caplog)[1:] == [("INFO", "the key store takes changes again; 30 failed")]


def test_what_fails_now_and_then_is_one_trouble(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    failures = Failures()
    teller = FailuresTold(failures, "it fails", "it works again")
    for second in range(20):
        with pytest.raises(StoreFailed), failures.noted():
            raise StoreFailed(f"fault {second}")
        teller.look(float(second))
        with failures.noted():
            pass
        teller.look(second + 0.5)
    teller.look(23.9)
    assert told(caplog) == [("ERROR", "it fails: fault 0")]
    teller.look(24.0)
    teller.look(30.0)
    assert told(caplog)[1:] == [("INFO", "it works again; 20 failed")]
    failures.note(StoreFailed("another"))
    teller.look(31.0)
    assert told(caplog)[2:] == [("ERROR", "it fails: another")]
    teller.look(1_000.0)
    assert len(told(caplog)) == 3, "nothing has succeeded since"
