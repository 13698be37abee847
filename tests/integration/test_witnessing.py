"""Witnesses as processes: `keytrail witness serve` on one side, `keytrail serve` with a policy on the other."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from audit.checkpoint import claimed_checkpoint
from tests.audit.witnessing.authority import Authority
from tests.integration.components import require_program
from tests.integration.components.ports import free_ports
from tests.integration.conftest import LIMIT_S, Server, keytrail_command, plain_environment, wait_until
from tests.integration.test_serve import run_keytrail

DATA_KEY = {"KeyId": "alias/demo", "KeySpec": "AES_256"}


class WitnessProcess:
    """`keytrail witness serve` in a folder of its own; it has the same port at every start."""

    def __init__(self, folder: Path, name: str, keys: str, *kind: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.starts = 0
        (folder / "logs.txt").write_text(keys)
        made = run_keytrail(folder, "witness", "init", "--name", name, *kind)
        assert made.returncode == 0, made.stderr
        self.key = made.stdout.strip()

    def spawn(self) -> None:
        self.starts += 1
        command = [keytrail_command(), "witness", "serve", "--listen", self.address, "--logs", "logs.txt"]
        with self.output("out").open("wb") as out, self.output("err").open("wb") as err:
            self.process = subprocess.Popen(command, cwd=self.folder, env=plain_environment(), stdout=out, stderr=err)

    def start(self) -> WitnessProcess:
        self.spawn()
        wait_until(lambda: "listens at" in self.output("out").read_text() or self.process.poll() is not None, "it listens")
        assert self.process.poll() is None, self.output("err").read_text()
        assert f"listens at http://{self.address}" in self.output("out").read_text()
        return self

    def output(self, name: str) -> Path:
        return self.folder / f"output-{self.starts}.{name}"

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)


@pytest.fixture
def data(initialised: Path, tmp_path: Path) -> Path:
    shutil.copytree(initialised, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def witness(data: Path, tmp_path: Path) -> Iterator[Callable[[str], WitnessProcess]]:
    """Makes witnesses of this instance's logs, w0 among them before there is one."""
    admin = run_keytrail(tmp_path, "checkpoint", "--key", "--data", str(data)).stdout
    made: list[WitnessProcess] = []

    def make(name: str) -> WitnessProcess:
        kind = ["--ml-dsa-44"] if name == "b" else []
        made.append(WitnessProcess(tmp_path / name, f"{name}.example", admin + worker_key(data), *kind))
        return made[-1].start()

    yield make
    for one in made:
        one.stop()


def worker_key(data: Path) -> str:
    from audit.checkpoint import VerifierKey
    from audit.instance import Instance
    from audit.sealing.keys import verifier_keys

    instance = Instance.load(data)
    return f"{VerifierKey(instance.origin('w0'), verifier_keys(instance)['admin'].public_key)}\n"


def write_policy(path: Path, needed: int, *witnesses: WitnessProcess) -> None:
    lines = [f"witness w{number} {one.key} http://{one.address}" for number, one in enumerate(witnesses)]
    group = f"group enough {needed} {' '.join(f'w{number}' for number in range(len(witnesses)))}"
    path.write_text("\n".join([*lines, group, "quorum enough", ""]))


def cosigned_size(data: Path, log: str = "w0") -> int:
    path = data / "witnessed" / log / "cosigned"
    return claimed_checkpoint(path.read_text("utf-8")).size if path.exists() else 0


def health(server: Server) -> tuple[bool, str]:
    with urllib.request.urlopen(f"{server.admin_url}/health/ready", timeout=LIMIT_S) as answer:  # noqa: S310 - loopback
        told = json.load(answer)["processes"]["witnesses"]
    return told["ready"], told["reason"] or ""


def metrics(server: Server) -> str:
    with urllib.request.urlopen(f"{server.admin_url}/metrics", timeout=LIMIT_S) as answer:  # noqa: S310 - loopback
        text: str = answer.read().decode()
    return text


def test_serve_has_every_checkpoint_witnessed(data: Path, tmp_path: Path, witness: Callable[[str], WitnessProcess]) -> None:
    first, second = witness("a"), witness("b")
    policy = tmp_path / "policy"
    write_policy(policy, 2, first, second)
    server = Server(data, {"KEYTRAIL_WITNESS_POLICY": str(policy)}).start()
    client = server.client()
    for _ in range(5):
        client.generate_data_key(**DATA_KEY)  # type: ignore[arg-type]
    wait_until(lambda: cosigned_size(data) >= 5, "five records are cosigned")
    wait_until(lambda: health(server)[0], "it is told")
    assert re.search(r'keytrail_cosigned_timestamp_seconds\{log="w0"\} 1\.\d+e\+09', metrics(server))

    first.kill()
    client.generate_data_key(**DATA_KEY)  # type: ignore[arg-type]
    wait_until(lambda: "witness w0: it cannot be reached" in health(server)[1], "the witness that went is told of")
    write_policy(policy, 1, first, second)  # one is enough now: the file is read again
    wait_until(lambda: cosigned_size(data) >= 6, "the quorum holds without it")
    first.start()
    client.generate_data_key(**DATA_KEY)  # type: ignore[arg-type]
    assert server.stop() == 0
    history = (data / "checkpoints" / "w0" / "latest").read_text("utf-8")
    assert cosigned_size(data) == claimed_checkpoint(history).size >= 7, "the last checkpoint is submitted too"
    done = run_keytrail(tmp_path, "verify", "--data", str(data), "--policy", str(policy), "--max-age", "10m")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("\u2713 11. ") == 2

    done = run_keytrail(tmp_path, "witness", "submit", "--policy", str(policy), "--data", str(data))
    assert done.returncode == 0, done.stderr
    assert "log w0: 2 of 2 witnesses cosigned" in done.stdout


def test_a_folder_that_is_put_back_shows_in_the_status_and_in_verify(
    data: Path, tmp_path: Path, witness: Callable[[str], WitnessProcess]
) -> None:
    one = witness("a")
    policy = tmp_path / "policy"
    write_policy(policy, 1, one)
    settings = {"KEYTRAIL_WITNESS_POLICY": str(policy)}
    server = Server(data, settings).start()
    server.client().generate_data_key(**DATA_KEY)  # type: ignore[arg-type]
    assert server.stop() == 0
    shutil.copytree(data, tmp_path / "backup")
    server = Server(data, settings).start()
    for _ in range(20):
        server.client().generate_data_key(**DATA_KEY)  # type: ignore[arg-type]
    assert server.stop() == 0
    assert cosigned_size(data) >= 21
    shutil.rmtree(data)
    (tmp_path / "backup").rename(data)
    server = Server(data, settings).start()
    server.client().generate_data_key(**DATA_KEY)  # type: ignore[arg-type]
    wait_until(lambda: "INCIDENT: w0 says that it has cosigned" in health(server)[1], "the witness knows better")
    assert not health(server)[0]
    assert server.stop() == 0
    done = run_keytrail(tmp_path, "verify", "--data", str(data), "--policy", str(policy), "--max-age", "1s")
    assert done.returncode == 1 and "cosignatures are" in done.stdout
    done = run_keytrail(tmp_path, "witness", "submit", "--policy", str(policy), "--data", str(data))
    assert done.returncode == 1 and "INCIDENT" in done.stderr


def test_serve_has_checkpoints_time_stamped(data: Path, tmp_path: Path) -> None:
    require_program("openssl")
    authority = Authority(tmp_path / "tsa")
    (tmp_path / "ca.pem").write_bytes(authority.ca)

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = authority.answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{listening.server_port}/"
            settings = {"KEYTRAIL_TIMESTAMP_URLS": url, "KEYTRAIL_TIMESTAMP_CA": str(tmp_path / "ca.pem")}
            server = Server(data, settings).start()
            server.client().generate_data_key(**DATA_KEY)  # type: ignore[arg-type]
            kept = data / "witnessed"
            wait_until(lambda: len(list(kept.glob("*/timestamps/*.tsr"))) == 2, "both logs are stamped")
            assert health(server) == (True, "")
            assert server.stop() == 0
        finally:
            listening.shutdown()
            thread.join()
    done = run_keytrail(tmp_path, "verify", "--data", str(data), "--timestamp-ca", str(tmp_path / "ca.pem"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("\u2713 12. every time stamp is genuine, and of a checkpoint of this tree: 1; by the newest, ") == 2


def test_a_witness_is_one_process_and_remembers(tmp_path: Path, witness: Callable[[str], WitnessProcess]) -> None:
    one = witness("a")
    again = run_keytrail(one.folder, "witness", "serve", "--listen", "127.0.0.1:0", "--logs", "logs.txt")
    assert again.returncode == 3 and "another process serves the witness" in again.stderr
    again = run_keytrail(one.folder, "witness", "init", "--name", "other.example")
    assert again.returncode == 3 and "is not empty" in again.stderr
    one.kill()
    one.start()
    assert one.stop() == 0
    shutil.rmtree(one.folder / "keytrail-witness" / "logs")
    lost = run_keytrail(one.folder, "witness", "serve", "--listen", "127.0.0.1:0", "--logs", "logs.txt")
    assert lost.returncode == 3 and "what it remembered is lost" in lost.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["serve"], 2, "which logs?"),
        (["serve", "--log", "rubbish"], 2, "--log: not a verifier key"),
        (["serve", "--log", "KEY", "--listen", "4600"], 2, "is not HOST:PORT"),
        (["serve", "--log", "KEY", "--state", "none"], 3, "holds no witness, or what it remembered is lost"),
        (["serve", "--logs", "none"], 3, "No such file"),
        (["init", "--name", "a b"], 2, "cannot be the name of a key"),
        (["evidence", "--state", "none"], 3, "holds no witness"),
        (["submit", "--policy", "none", "--data", "none"], 3, "none was never initialised"),
    ],
)
def test_what_is_mistyped_is_told(data: Path, tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    key = worker_key(data).strip()
    done = run_keytrail(tmp_path, "witness", *(key if word == "KEY" else word for word in arguments))
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert len(done.stderr.splitlines()) == 1
