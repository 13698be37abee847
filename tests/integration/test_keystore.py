"""The key store's commands beside a running server: a copy, another master key, keys from a file; and what is refused then."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.docs.repository import ROOT
from tests.integration.conftest import LIMIT_S, Server, keytrail_command, plain_environment, wait_until
from tests.integration.test_faults import Load, kill_worker, require_recorded

SEEDED = "11111111-2222-4333-8444-555555555555"


def run(server: Server, *arguments: str) -> tuple[int, str]:
    argv = [keytrail_command(), *arguments, "--data", str(server.data)]
    done = subprocess.run(argv, env=plain_environment(), cwd=server.data.parent, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_master_key_is_changed_while_calls_go_on_and_workers_come_and_go(own_server: Server, tmp_path: Path) -> None:
    own_server.start()
    old = (own_server.data / "master.key").read_bytes()
    copy = tmp_path / "copy"
    with Load(own_server).running() as load:
        load.wait_for(20)
        assert run(own_server, "keystore", "backup", str(copy))[0] == 0
        code, told = run(own_server, "keystore", "rewrap")
        assert code == 0, told
        load.wait_for(20)  # by a worker that was there before
        kill_worker(own_server)
        wait_until(own_server.is_ready, "a new worker is ready", 3 * LIMIT_S)
        load.wait_for(20)  # by one that opened the store with the new key
        assert run(own_server, "seed", str(ROOT / "config" / "seed.example.toml"))[0] == 0
        described = own_server.post("DescribeKey", {"KeyId": SEEDED})
        assert json.loads(described.body)["KeyMetadata"]["KeyState"] == "Enabled"
        code, told = run(own_server, "keystore", "restore", str(copy), "--replace", "--even-newer")
        assert (code, "being served" in told) == (3, True), told
    assert (own_server.data / "master.key").read_bytes() != old
    assert own_server.stop() == 0
    require_recorded(own_server, load.replies)
    assert {reply.code for reply in load.replies} == {None}
    code, told = run(own_server, "keystore", "check")
    assert code == 0, told


def test_a_server_with_another_master_key_does_not_start_and_overwrites_nothing(own_server: Server) -> None:
    key, before = own_server.data / "master.key", (own_server.data / "keystore.db").read_bytes()
    right = key.read_bytes()
    for wrong, told in ((b"A" * 43 + b"=", "does not open"), (b"c2hvcnQ=", "does not hold 32 bytes"), (None, "cannot be read")):
        key.unlink(missing_ok=True)
        if wrong is not None:
            key.write_bytes(wrong)
        own_server.spawn()
        assert own_server.process.wait(3 * LIMIT_S) == 3
        assert told in own_server.outputs[-2].read_text()
    assert (own_server.data / "keystore.db").read_bytes() == before
    key.write_bytes(right)
    own_server.start()
    assert own_server.post("DescribeKey", {"KeyId": "alias/demo"}).status == 200
    assert own_server.stop() == 0
