"""The index beside a running keytrail."""

from __future__ import annotations

import shutil
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from audit.query.engine import search
from audit.query.filters import Filter
from audit.query.index.follow import is_behind
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


def processes(server: Server) -> dict[str, object]:
    """What `/health/ready` says of each process."""
    at = urlsplit(server.admin_url)
    connection = HTTPConnection(at.hostname or "", at.port or 0, timeout=10)
    connection.request("GET", "/health/ready")
    told: dict[str, object] = orjson.loads(connection.getresponse().read())["processes"]
    connection.close()
    return told
