"""The index beside a running keytrail."""

from __future__ import annotations

import os
import shutil
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from audit.query.engine import search
from audit.query.filters import Filter
from audit.query.index.follow import is_behind
from tests.conftest import EAGER
from tests.integration.conftest import Server, wait_until


@pytest.fixture
def small_segments(initialised: Path, tmp_path: Path) -> Server:
    data = tmp_path / "data"
    shutil.copytree(initialised, data)
    return Server(data, {"KEYTRAIL_SEGMENT_MAX_BYTES": "8192"})


def test_closed_segments_are_indexed_while_calls_go_on(small_segments: Server) -> None:
    server = small_segments.start()
    try:
        connection = server.connect()
        for number in range(40):
            context = {"object": str(number)}
            made = server.post(
                "GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256", "EncryptionContext": context}, connection
            )
            assert made.status == 200
        connection.close()
        wait_until(lambda: (server.data / "index" / "manifest.json").exists() and not is_behind(server.data), "it is indexed")
        with search(server.data, [Filter(context=(("object", "3"),))]) as result:
            (found,) = result.records()
            assert found.record["requestParameters"]["encryptionContext"] == {"object": "3"}
            assert result.scanned_bytes < sum(path.stat().st_size for path in (server.data / "log").glob("*/*.jsonl")) / 2
        assert processes(server)["indexer"] == {"ready": True, "reason": None}
    finally:
        assert server.stop() == 0


def test_it_can_be_turned_off(small_segments: Server) -> None:
    small_segments.settings["KEYTRAIL_INDEX"] = "false"
    server = small_segments.start()
    try:
        assert "indexer" not in processes(server)
    finally:
        assert server.stop() == 0
    assert not (server.data / "index").exists()


def test_the_indexer_waits_for_the_workers(small_segments: Server) -> None:
    """It is of idle policy, and of their session: Linux's autogroups give each session its share, whatever the policies in it."""
    small_segments.settings["PYTHONPATH"] = os.environ["PYTHONPATH"].replace(EAGER, "")
    server = small_segments.start()
    try:
        supervisor, children = server.process.pid, server.children()
        wait_until(lambda: os.sched_getscheduler(children["indexer"]) == os.SCHED_IDLE, "it has begun")
        assert os.sched_getscheduler(children["worker"]) == os.sched_getscheduler(children["sealer"]) == os.SCHED_OTHER
        assert {os.getsid(pid) for pid in children.values()} == {os.getsid(supervisor)}
        assert os.getpgid(supervisor) not in {os.getpgid(pid) for pid in children.values()}  # whose Ctrl-C is its alone
    finally:
        assert server.stop() == 0


def processes(server: Server) -> dict[str, object]:
    """What `/health/ready` says of each process."""
    at = urlsplit(server.admin_url)
    connection = HTTPConnection(at.hostname or "", at.port or 0, timeout=10)
    connection.request("GET", "/health/ready")
    told: dict[str, object] = orjson.loads(connection.getresponse().read())["processes"]
    connection.close()
    return told
