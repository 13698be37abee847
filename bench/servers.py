"""The servers that are compared, each started for real, pinned to one core, and stopped by its process id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

SERVER_CORE, LOAD_CORE = "0", "1"
REGION = "us-east-1"
_START_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its base URL, the credentials that it takes, and its first process."""

    name: str
    port: int
    access_key: str
    secret_key: str
    pid: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def client(self) -> Any:  # boto3's clients have no type of their own
        """A boto3 KMS client for it."""
        return boto3.client(
            "kms",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far."""
        return sum(cpu_ticks(pid) for pid in _tree(self.pid)) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> dict[int, int]:
        """Resident memory of each of its processes."""
        page = os.sysconf("SC_PAGE_SIZE")
        return {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in _tree(self.pid)}


@contextmanager
def echo(port: int, folder: Path) -> Iterator[Server]:
    """The aiohttp echo."""
    with started([sys.executable, "-m", "bench.echo", str(port)], port, folder, {}) as pid:
        yield Server("aiohttp echo", port, "AKIAECHO", "secret", pid)


@contextmanager
def moto(port: int, folder: Path) -> Iterator[Server]:
    """moto_server, with the key alias/demo."""
    argv = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with started(argv, port, folder, {}) as pid:
        server = Server("moto_server", port, "AKIAMOTO", "secret", pid)
        client = server.client()
        key_id = client.create_key()["KeyMetadata"]["KeyId"]
        client.create_alias(AliasName="alias/demo", TargetKeyId=key_id)
        yield server


@contextmanager
def keytrail(port: int, folder: Path, *, syncing: bool = True, further: Mapping[str, str] | None = None) -> Iterator[Server]:
    """keytrail with one worker; without syncing only to tell what durability costs. `further` goes into its environment."""
    command = str(Path(sys.executable).with_name("keytrail"))
    data = folder / f"data-{port}"
    environment = {
        "KEYTRAIL_DATA": str(data),
        "KEYTRAIL_LISTEN": f"127.0.0.1:{port}",
        "KEYTRAIL_ADMIN_LISTEN": f"127.0.0.1:{port + 1}",
        **(further or {}),
    }
    subprocess.run([command, "init"], env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
    lines = (data / "credentials").read_text().splitlines()
    access_key, secret_key = (line.partition(" = ")[2] for line in lines[1:3])
    argv = [command, "serve"] if syncing else [command, "serve", "--without-syncing"]
    # Asked by its admin listener: a probe of the worker's own port would be one of its descriptors for a moment.
    with started(argv, port, folder, environment, is_up=lambda: is_ready(port + 1)) as pid:
        yield Server("keytrail, durable" if syncing else "keytrail, not syncing", port, access_key, secret_key, pid)


@contextmanager
def started(
    argv: list[str],
    port: int,
    folder: Path,
    environment: Mapping[str, str],
    *,
    core: str = SERVER_CORE,
    is_up: Callable[[], bool] | None = None,
) -> Iterator[int]:
    """A process that listens on `port`, pinned to `core`; stopped by its process id. It is up when `is_up` says so, or else
    when it takes connections."""
    with (folder / f"server-{port}.log").open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", core, *argv], stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        _wait_for(is_up or (lambda: _takes_connections(port)), process)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _wait_for(is_up: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with exit code {process.returncode}")
        if is_up():
            return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} was not up within {_START_LIMIT_S} s")


def _takes_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_ready(admin_port: int) -> bool:
    """Whether the keytrail with that admin listener answers calls."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/health/ready", timeout=10) as response:
            return bool(response.status == 200)
    except OSError:  # nobody there yet, or not ready: URLError and HTTPError are OSErrors
        return False


def _tree(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            for child in (task / "children").read_text().split():
                found += _tree(int(child))
    return found


def cpu_ticks(pid: int) -> int:
    """User and system time of a process so far, in ticks of the clock (SC_CLK_TCK a second)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
