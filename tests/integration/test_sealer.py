"""The sealer for real: its key changed while it runs, a process apart, a user of its own, a key in another keytrail's KMS; and
the heartbeats of workers."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import VerifierKey
from audit.instance import Instance
from audit.report import Report
from audit.sealing.keys import new_key_file, read_chain, verifier_keys
from audit.verify import verify
from tests.integration.components.ports import free_ports
from tests.integration.conftest import LIMIT_S, Server, keytrail, keytrail_command, wait_until
from tests.integration.test_witnessing import WitnessProcess, cosigned_size, worker_key, write_policy


def command(server: Server, *words: str, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `keytrail` with the server's settings. Any: of subprocess."""
    done = subprocess.run(
        [keytrail_command(), *words], capture_output=True, text=True, check=False, env=server.environment, timeout=60, **options
    )
    assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    return done


def verified(server: Server, *keys: VerifierKey) -> Report:
    report = verify(server.data, keys)
    assert report.passed, "\n".join(map(str, report.faults))
    return report


def keys_of(server: Server) -> dict[str, VerifierKey]:
    return verifier_keys(Instance.load(server.data))


def covered(server: Server, log: str = "w0") -> int:
    latest = server.data / "checkpoints" / log / "latest"
    return int(latest.read_text().split("\n")[1]) if latest.exists() else 0


# --- its key


def test_the_key_is_changed_while_it_seals_and_the_first_key_still_verifies(own_server: Server) -> None:
    first = keys_of(own_server)["admin"].public_key
    own_server.start()
    own_server.post("ListKeys", {})
    wait_until(lambda: covered(own_server) > 0, "the first record is sealed")
    told = command(own_server, "sealer", "rotate")
    assert told.stdout == "Change 1 of the sealer's key is made; the old key is gone.\n"
    own_server.post("ListKeys", {})
    told = command(own_server, "sealer", "rotate", "--compromised", "2026-01-31T08:30:00Z")
    assert "Change 2 of the sealer's key is made" in told.stdout and "keytrail checkpoint --key" in told.stdout
    own_server.post("ListKeys", {})
    command(own_server, "sealer", "rotate", "--compromised", "yesterday", code=3)
    assert own_server.health()[1]["processes"]["sealer"] == {"ready": True, "reason": None}
    assert own_server.stop() == 0

    instance = Instance.load(own_server.data)
    verified(own_server)
    today = keys_of(own_server).values()
    verified(own_server, *today)
    report = verify(own_server.data, [VerifierKey(instance.origin("admin"), first)])
    assert not report.passed and "in other hands since 2026-01-31T08:30:00Z" in str(report.faults[0])
    printed = command(own_server, "sealer", "keys").stdout
    assert printed == instance.key_chain.read_text() and printed.count("/sealer-keys\n") == 2
    changes = [record for record in own_server.records("admin") if record["eventName"] == "RotateSealerKey"]
    assert [keytrail(record)["phase"] for record in changes] == ["intent", "outcome"] * 2
    assert changes[1]["responseElements"]["generation"] == 1 and changes[1]["requestParameters"] == {"generation": 1}
    assert changes[2]["requestParameters"]["reason"] == "compromised since 2026-01-31T08:30:00Z"
    assert keytrail(changes[0])["identityProof"] == "host-operator"


def test_the_key_is_changed_where_nothing_runs(own_server: Server) -> None:
    first = keys_of(own_server)["admin"]
    (own_server.data / "checkpoints" / "rotation").write_text(
        '{"number": 1, "new": "nothing", "compromised_since": null}'
    )  # given up
    command(own_server, "sealer", "rotate")
    assert keys_of(own_server)["admin"] != first
    verified(own_server, first)
    own_server.start()
    own_server.post("ListKeys", {})
    assert own_server.stop() == 0
    verified(own_server, first)


def test_a_change_that_cannot_be_made_is_refused_and_on_record(own_server: Server, tmp_path: Path) -> None:
    told = command(own_server, "sealer", "rotate", "--new", str(tmp_path / "nothing"), code=3)
    assert "the key was not changed" in told.stderr and "No such file" in told.stderr
    assert not read_chain(Instance.load(own_server.data)).rotations
    assert not (own_server.data / "checkpoints" / "rotation").exists()
    outcome = own_server.records("admin")[-1]
    assert (outcome["eventName"], outcome["errorCode"]) == ("RotateSealerKey", "InvalidRequest")
    command(own_server, "sealer", "rotate")


def test_an_attestation_by_a_later_key_is_verified_by_the_first(own_server: Server, tmp_path: Path) -> None:
    first = str(keys_of(own_server)["admin"])
    command(own_server, "sealer", "rotate")
    made = tmp_path / "absence.json"
    command(own_server, "attest-absence", "--caller", "user/mallory", "--out", str(made))
    changes = tmp_path / "changes.txt"
    changes.write_text(command(own_server, "sealer", "keys").stdout)
    command(own_server, "verify-attestation", str(made), "--key", first, code=1)
    command(own_server, "verify-attestation", str(made), "--key", first, "--keys", str(changes))
    command(own_server, "verify-attestation", str(made), "--key", first, "--data", str(own_server.data))


def test_a_proof_by_a_later_key_is_verified_by_the_first(own_server: Server, tmp_path: Path) -> None:
    first = str(keys_of(own_server)["admin"])
    command(own_server, "sealer", "rotate")
    own_server.start()
    assert own_server.stop() == 0  # which seals what the change left in the log
    command(own_server, "prove", "--log", "admin", "--sequence", "0", "--out", str(tmp_path))
    changes = tmp_path / "changes.txt"
    changes.write_text(command(own_server, "sealer", "keys").stdout)
    proof = str(tmp_path / "admin-0.tlog-proof")
    command(own_server, "verify-proof", proof, "--key", first, code=1)
    told = command(own_server, "verify-proof", proof, "--key", first, "--keys", str(changes))
    assert "Proved: this record is number 0 of the log" in told.stdout
    command(own_server, "sealer", "rotate", "--compromised", "now")
    changes.write_text(command(own_server, "sealer", "keys").stdout)
    told = command(own_server, "verify-proof", proof, "--key", first, "--keys", str(changes))
    assert "Proved" in told.stdout, "what was signed before is vouched for still"


# --- a process apart


@contextmanager
def sealer(server: Server, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`keytrail seal`, until the end of the block. Any: of subprocess."""
    with (server.data.parent / f"{server.data.name}-sealer.err").open("a") as log:
        process = subprocess.Popen([keytrail_command(), "seal"], env=server.environment, stderr=log, text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_S)


def test_a_sealer_apart(own_server: Server) -> None:
    own_server.settings["KEYTRAIL_SEALER"] = "apart"
    own_server.start()
    assert "sealer" not in own_server.children()
    own_server.post("ListKeys", {})
    assert own_server.health()[1]["processes"]["sealer"]["ready"]
    assert covered(own_server) == 0
    with sealer(own_server) as process:
        wait_until(lambda: covered(own_server) == own_server.count_records(), "it is sealed")
        refused = command(own_server, "seal", code=3)
        assert "another sealer runs" in refused.stderr
        command(own_server, "sealer", "rotate")
        own_server.post("ListKeys", {})
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    assert covered(own_server) == own_server.count_records(), "the last record is sealed when it ends"
    own_server.post("ListKeys", {})
    wait_until(lambda: not own_server.health()[1]["processes"]["sealer"]["ready"], "that it is gone shows", 30)
    status, body = own_server.health()
    assert status == 200, "calls are answered all the same"
    assert "no checkpoint covers records of the log w0" in body["processes"]["sealer"]["reason"]
    with sealer(own_server):
        wait_until(lambda: own_server.health()[1]["processes"]["sealer"]["ready"], "it is back")
    assert own_server.stop() == 0
    verified(own_server)


def two_users() -> tuple[pwd.struct_passwd, pwd.struct_passwd]:
    """Two users of the system, neither of them root; skips where they cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("only root can be several users")
    try:
        return pwd.getpwnam("daemon"), pwd.getpwnam("nobody")
    except KeyError as error:
        pytest.skip(f"this system lacks a user: {error}")


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user may go through; those that pytest makes are for one user alone."""
    with tempfile.TemporaryDirectory(prefix="keytrail-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@dataclass(frozen=True)
class Apart:
    """A server that one user serves and another one seals. `as_worker` and `as_signer` are for subprocess (Any: its options)."""

    server: Server
    own: Path  # the signer's
    worker: pwd.struct_passwd
    signer: pwd.struct_passwd
    as_worker: dict[str, Any]
    as_signer: dict[str, Any]


@pytest.fixture
def apart(initialised: Path, shared_folder: Path) -> Apart:
    """Not served yet."""
    worker, signer = two_users()
    server = Server(shared_folder / "served" / "data")
    shutil.copytree(initialised, server.data)
    as_worker: dict[str, Any] = {"user": worker.pw_uid, "group": worker.pw_gid, "extra_groups": []}
    interpreter_for(as_worker)
    own = shared_folder / "signer"
    own.mkdir(0o700)
    shutil.move(server.data / "sealer.key", own / "signing.key")
    for path in (server.data.parent, *server.data.rglob("*"), server.data):
        os.chown(path, worker.pw_uid, worker.pw_gid)
    os.chown(own, signer.pw_uid, signer.pw_gid)
    server.settings |= {
        "KEYTRAIL_SEALER": "apart",
        "KEYTRAIL_SEALER_USER": signer.pw_name,
        "KEYTRAIL_SEALER_KEY": str(own / "signing.key"),
    }
    command(server, "sealer", "separate")
    as_signer = {"user": signer.pw_uid, "group": signer.pw_gid, "extra_groups": [worker.pw_gid]}
    return Apart(server, own, worker, signer, as_worker, as_signer)


def test_another_user_seals_and_the_workers_user_can_neither_read_the_key_nor_write_the_history(
    apart: Apart, shared_folder: Path
) -> None:
    server, own = apart.server, apart.own
    served = start_as(server, apart.as_worker)
    try:
        with sealer(server):  # started by root, it becomes the signer
            server.post("ListKeys", {})
            wait_until(lambda: covered(server) == server.count_records(), "it is sealed")
            history = server.data / "checkpoints" / "w0" / "history"
            assert history.stat().st_uid == apart.signer.pw_uid
            for forbidden in (
                f"cat {own}/signing.key",
                f"cat {own}/signing.state",
                f"echo >> {history}",
                f"rm {history}",
                f"mv {history.parent} {history.parent}-away",
                f"mv {server.data}/checkpoints/keys {server.data}",
                f"touch {history.parent}/more",
            ):
                assert subprocess.run(["sh", "-c", forbidden], capture_output=True, check=False, **apart.as_worker).returncode, (
                    forbidden
                )
            assert subprocess.run(["cat", history], capture_output=True, check=False, **apart.as_worker).returncode == 0
            for forbidden in (f"cat {server.data}/master.key", f"ls {server.data}", f"echo >> {server.segments()[0]}"):
                assert subprocess.run(["sh", "-c", forbidden], capture_output=True, check=False, **apart.as_signer).returncode, (
                    forbidden
                )
            change_the_checkpoints(server, shared_folder / "thief.key", apart.as_worker)
            command(server, "sealer", "rotate")
            server.post("ListKeys", {})
            wait_until(lambda: covered(server) == server.count_records(), "it is sealed by the new key")
            wait_until(lambda: server.health()[1]["processes"]["sealer"]["ready"], "all is well again", 30)
        assert {path.stat().st_uid for path in (server.data / "log").rglob("*")} == {apart.worker.pw_uid}
        verified(server)
    finally:
        served.send_signal(signal.SIGTERM)
        assert served.wait(LIMIT_S) == 0


def change_the_checkpoints(server: Server, key: Path, as_worker: dict[str, Any]) -> None:
    """As the owner of the data folder, put a folder of one's own in the place of the checkpoints, the same in it, and a request
    for a key that one has: the sealer takes neither. In the end all is as it was. Any: of subprocess."""
    key.write_bytes(new_key_file())
    key.chmod(0o644)
    request = json.dumps({"number": 1, "new": str(key), "compromised_since": None})
    swap = "cp -r checkpoints copy && mv checkpoints away && chmod -R 777 copy && mv copy checkpoints"
    script = f"cd {server.data} && {swap} && printf '%s' '{request}' > checkpoints/rotation"
    subprocess.run(["sh", "-c", script], check=True, **as_worker)
    told = server.data.parent / f"{server.data.name}-sealer.err"
    before = (server.data / "checkpoints" / "w0" / "history").read_bytes()
    server.post("ListKeys", {})
    wait_until(lambda: "somebody else put it there" in told.read_text(), "the sealer says so")
    assert (server.data / "checkpoints" / "w0" / "history").read_bytes() == before
    assert not (server.data / "checkpoints" / "keys").exists()
    canary = key.with_name("canary")
    canary.write_text("root's")
    subprocess.run(["ln", "-s", canary, server.data / "checkpoints" / "rotation.new"], check=True, **as_worker)
    assert "the key was not changed" in command(server, "sealer", "rotate", code=3).stderr
    assert canary.read_text() == "root's", "root writes nothing where the worker's user has put a link"
    subprocess.run(["sh", "-c", f"cd {server.data} && rm -r checkpoints && mv away checkpoints"], check=True, **as_worker)
    wait_until(lambda: covered(server) == server.count_records(), "it goes on where it was", 30)


def test_what_another_user_signs_is_witnessed_by_the_one_who_serves(apart: Apart, tmp_path: Path) -> None:
    server = apart.server
    keys = command(server, "checkpoint", "--key").stdout + worker_key(server.data)
    witness = WitnessProcess(tmp_path / "witness", "a.example", keys).start()
    policy = server.data.parent / "policy"
    write_policy(policy, 1, witness)
    server.settings["KEYTRAIL_WITNESS_POLICY"] = str(policy)
    served = start_as(server, apart.as_worker)
    try:
        with sealer(server):
            server.post("ListKeys", {})
            wait_until(lambda: cosigned_size(server.data) == server.count_records(), "it is cosigned")
            wait_until(lambda: server.health()[1]["processes"]["witnesses"]["ready"], "that it is shows")
        theirs = [*(server.data / "witnessed").rglob("*"), server.data / "witnessed"]
        assert {path.stat().st_uid for path in theirs} == {apart.worker.pw_uid}
        assert not any(path.name.startswith("cosign") for path in (server.data / "checkpoints").rglob("*"))
        command(server, "verify", "--policy", str(policy), "--max-age", "10m")
        forbidden = f"rm -r {server.data}/witnessed"
        assert subprocess.run(["sh", "-c", forbidden], capture_output=True, check=False, **apart.as_signer).returncode
    finally:
        served.send_signal(signal.SIGTERM)
        assert served.wait(LIMIT_S) == 0
        assert witness.stop() == 0


def interpreter_for(user: dict[str, Any]) -> str:
    """A Python that `user` may run too: that of these tests, or the system's of the same version; skips where there is none."""
    for path in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with suppress(OSError):
            if subprocess.run([path, "-c", ""], check=False, cwd="/", **user).returncode == 0:
                return path
    pytest.skip("there is no Python here that another user may run")


def start_as(server: Server, user: dict[str, Any]) -> subprocess.Popen[bytes]:
    """`serve` as another user. Any: of subprocess."""
    real: Any = subprocess.Popen
    python = interpreter_for(user)

    def popen(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        options["env"] |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        started: subprocess.Popen[bytes] = real([python, "-m", "proxy.cli", *words[1:]], **options, **user)
        return started

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        server.start()
    return server.process


def test_where_root_serves_the_sealer_is_another_user(initialised: Path, shared_folder: Path) -> None:
    _, signer = two_users()
    server = Server(shared_folder / "data")
    shutil.copytree(initialised, server.data)
    own = shared_folder / "signer"
    own.mkdir(0o700)
    shutil.move(server.data / "sealer.key", own / "signing.key")
    os.chown(own, signer.pw_uid, signer.pw_gid)
    server.settings |= {"KEYTRAIL_SEALER_USER": signer.pw_name, "KEYTRAIL_SEALER_KEY": str(own / "signing.key")}
    server.start()
    try:
        assert Path(f"/proc/{server.children()['sealer']}").stat().st_uid == signer.pw_uid
        status = Path(f"/proc/{server.children()['sealer']}/status").read_text()
        assert "0" not in next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
        server.post("ListKeys", {})
        wait_until(lambda: covered(server) == server.count_records(), "it is sealed")
        command(server, "sealer", "rotate")
        server.post("ListKeys", {})
        assert server.stop() == 0
        assert covered(server) == server.count_records()
        verified(server)
        server.start()
        wait_until(lambda: server.health()[1]["processes"]["sealer"]["ready"], "it goes on")
    finally:
        server.kill_all()


# --- a key in a KMS


@pytest.mark.parametrize("spec", ["ECC_NIST_EDWARDS25519", "ECC_NIST_P256"])
def test_a_key_of_another_keytrail_signs_and_nothing_is_lost_while_that_is_down(
    initialised: Path, tmp_path: Path, spec: str
) -> None:
    holder = Server(tmp_path / "holder", {"KEYTRAIL_LISTEN": f"127.0.0.1:{free_ports(1)[0]}"})  # where it comes back to
    shutil.copytree(initialised, holder.data)
    holder.start()
    made: Any = json.loads(holder.post("CreateKey", {"KeySpec": spec, "KeyUsage": "SIGN_VERIFY"}).body)["KeyMetadata"]
    holder.client().create_alias(AliasName="alias/sealer", TargetKeyId=made["KeyId"])
    server = Server(tmp_path / "data")
    server.settings = {
        "KEYTRAIL_SEALER_KEY": "awskms:alias/sealer",
        "KEYTRAIL_SEALER_KMS_ENDPOINT": holder.url,
        "AWS_SHARED_CREDENTIALS_FILE": str(holder.data / "credentials"),
    }
    try:
        command(server, "init")
        assert not (server.data / "sealer.key").exists()
        (key,) = {key.public_key for key in keys_of(server).values()}
        assert len(key) == (32 if spec == "ECC_NIST_EDWARDS25519" else 91)
        server.start()
        server.post("ListKeys", {})
        wait_until(lambda: covered(server) == 1, "it is sealed by the other host's key")
        first = list(keys_of(server).values())
        verified(server, *first)
        command(server, "attest-absence", "--caller", "user/mallory", "--out", str(tmp_path / "absence.json"))
        command(server, "verify-attestation", str(tmp_path / "absence.json"), "--key", str(first[0]))

        assert holder.stop() == 0
        for _ in range(3):
            assert server.post("ListKeys", {}).status == 200
        wait_until(lambda: not server.health()[1]["processes"]["sealer"]["ready"], "that it cannot sign shows")
        assert "the KMS of the signing key" in server.health()[1]["processes"]["sealer"]["reason"]
        assert covered(server) == 1
        holder.start()
        wait_until(lambda: covered(server) == server.count_records(), "what came meanwhile is sealed", 60)
        wait_until(lambda: server.health()[1]["processes"]["sealer"]["ready"], "that it signs shows")
        command(server, "sealer", "rotate", "--new", str(make_key(tmp_path)))
        server.post("ListKeys", {})
        assert server.stop() == 0
        verified(server, *first)
    finally:
        for one in (server, holder):
            if one.starts:
                one.kill_all()


def test_a_key_in_the_kms_of_this_very_keytrail_is_refused(initialised: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", {"KEYTRAIL_LISTEN": f"127.0.0.1:{free_ports(1)[0]}"})
    shutil.copytree(initialised, server.data)
    server.start()
    try:
        made: Any = json.loads(server.post("CreateKey", {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}).body)
        wait_until(lambda: server.health()[1]["processes"]["sealer"]["ready"], "it seals by the key of its file")
        server.settings |= {
            "KEYTRAIL_SEALER_KEY": f"awskms:{made['KeyMetadata']['Arn']}",
            "KEYTRAIL_SEALER_KMS_ENDPOINT": server.url,
            "AWS_SHARED_CREDENTIALS_FILE": str(server.data / "credentials"),
        }
        assert server.stop() == 0
        server.start()

        def told() -> str:
            standing = server.health()[1]["processes"]["sealer"]
            return "" if standing["ready"] else standing["reason"] or ""

        wait_until(lambda: "is this very keytrail" in told(), "it is not sealed by its own KMS")
        assert server.post("ListKeys", {}).status == 200, "calls are answered all the same"
    finally:
        server.kill_all()


def make_key(folder: Path) -> Path:
    path = folder / "own.key"
    path.write_bytes(new_key_file())
    return path


# --- heartbeats


def test_workers_tell_of_their_life(own_server: Server) -> None:
    own_server.settings["KEYTRAIL_HEARTBEAT_S"] = "0.5"
    own_server.start()
    assert own_server.post("ListKeys", {}).status == 200
    wait_until(lambda: own_server.count_records() >= 5, "three heartbeats")
    assert own_server.stop() == 0
    records = own_server.records()
    names = [record["eventName"] for record in records]
    assert (names[0], names.count("ListKeys"), names[-1]) == ("StartServing", 1, "StopServing")
    names.remove("ListKeys")  # before the first heartbeat, or behind it where half a second went by until the call
    assert set(names[1:-1]) == {"Heartbeat"} and len(names) >= 5
    assert {record["eventType"] for record in records if record["eventName"] != "ListKeys"} == {"AwsServiceEvent"}
    assert all(record["serviceEventDetails"]["intervalSeconds"] == 0.5 for record in records if "serviceEventDetails" in record)
    verified(own_server)


def test_a_worker_that_was_killed_has_no_last_word(own_server: Server) -> None:
    own_server.settings["KEYTRAIL_HEARTBEAT_S"] = "60"
    own_server.start()
    own_server.post("ListKeys", {})
    os.kill(own_server.children()["worker"], signal.SIGKILL)
    wait_until(lambda: own_server.count_records() >= 3 and own_server.is_ready(), "it was started anew")
    assert own_server.stop() == 0
    names = [record["eventName"] for record in own_server.records() if record["eventName"] != "RecoverLog"]
    assert names == ["StartServing", "ListKeys", "StartServing", "StopServing"]
