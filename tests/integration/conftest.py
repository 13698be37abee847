"""A running keytrail for the tests: `keytrail init` and `keytrail serve` as processes, on ports that the kernel chose."""

from __future__ import annotations

import base64
import configparser
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.config
import pytest

from proxy.sigv4 import sign

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

REGION = "us-east-1"
JSON_1_1 = b"application/x-amz-json-1.1"
LIMIT_S = 20.0
_ANNOUNCED = re.compile(
    r"answers KMS calls at (\S+); health at (\S+)/health/ready\n"
    r"(?:With TLS at (\S+)\n)?(?:As a forward proxy \(HTTPS_PROXY\) at (\S+)\n)?Next"
)


def wait_until(reached: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Poll a condition of other processes."""
    deadline = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        threading.Event().wait(0.01)


def plain_environment() -> dict[str, str]:
    """That of the tests, without a word to keytrail or to an SDK of AWS."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("KEYTRAIL_", "AWS_"))}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(frozen=True)
class Reply:
    """An HTTP answer. `code` is the error's, if it is one."""

    status: int
    request_id: str
    body: bytes = field(repr=False)

    @property
    def code(self) -> str | None:
        document = json.loads(self.body)
        return document.get("__type") if isinstance(document, dict) else None


@dataclass
class Server:
    """`keytrail serve` on the data folder `data`. Its processes are stopped by their ids."""

    data: Path
    settings: dict[str, str] = field(default_factory=dict)
    url: str = ""
    admin_url: str = ""
    tls_url: str = ""
    forward_url: str = ""
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def outputs(self) -> list[Path]:
        """What the processes wrote on standard output and standard error."""
        return sorted(self.data.parent.glob(f"{self.data.name}-output-*"))

    @property
    def environment(self) -> dict[str, str]:
        """What its commands are run with."""
        return plain_environment() | {"KEYTRAIL_DATA": str(self.data), **self.settings}

    def spawn(self) -> None:
        """Start it, and wait for nothing."""
        self.starts += 1
        defaults = {
            "KEYTRAIL_LISTEN": "127.0.0.1:0",
            "KEYTRAIL_ADMIN_LISTEN": "127.0.0.1:0",
            "KEYTRAIL_HEARTBEAT_S": "0",  # tests count records; those of heartbeats set it
        }
        with self._output("out").open("wb") as out, self._output("err").open("wb") as err:
            self._process = subprocess.Popen(
                [keytrail_command(), "serve"],
                stdout=out,
                stderr=err,
                env=defaults | self.environment,
                cwd=self.data.parent,
            )

    def start(self) -> Server:
        """Start it, and wait until it has told its URL: it is ready then."""
        self.spawn()
        announced = None
        deadline = time.monotonic() + LIMIT_S
        while announced is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill_all()
                raise AssertionError(f"it did not start: {self._output('err').read_text()}")
            threading.Event().wait(0.02)
            announced = _ANNOUNCED.search(self._output("out").read_text())
        self.url, self.admin_url, self.tls_url, self.forward_url = announced.groups(default="")
        return self

    def _output(self, name: str) -> Path:
        return self.data.parent / f"{self.data.name}-output-{self.starts}.{name}"

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def children(self) -> dict[str, int]:
        """The process ids of its children: `worker` (the first), `sealer`, `indexer`."""
        found: dict[str, int] = {}
        for pid in self._child_pids():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            for name, module in (
                ("worker", b"proxy.worker"),
                ("sealer", b"audit.sealing"),
                ("indexer", b"audit.query.index.follow"),
                ("delivery", b"audit.delivery"),
                ("trail", b"proxy.cloudtrail"),
            ):
                if module in command:
                    found.setdefault(name, pid)
        return found

    def _child_pids(self) -> list[int]:
        """Of all its children, the further workers among them."""
        return [int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def demo_key_id(self) -> str:
        """The id of the key that alias/demo names."""
        key_id: str = json.loads(self.post("DescribeKey", {"KeyId": "alias/demo"}).body)["KeyMetadata"]["KeyId"]
        return key_id

    def kill_all(self) -> None:
        """SIGKILL to each of its processes."""
        pids: list[int] = []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)  # so that it has no more children than these
            pids = [self.process.pid, *self._child_pids()]
        for pid in pids:
            with suppress(ProcessLookupError):  # it had ended, and is waited for no more
                os.kill(pid, signal.SIGKILL)
        self.process.wait(LIMIT_S)
        wait_until(lambda: not any(map(is_running, pids)), "every process is gone")

    # --- asking it

    def credentials(self, profile: str = "default") -> tuple[str, str]:
        """The access key id and the secret access key of a caller; `default` is the first."""
        file = configparser.RawConfigParser()
        file.read_string((self.data / "credentials").read_text())
        return file[profile]["aws_access_key_id"], file[profile]["aws_secret_access_key"]

    def client(self, **config: Any) -> KMSClient:  # Any: settings of botocore
        """A boto3 client that tries once."""
        access_key_id, secret_access_key = self.credentials()
        return boto3.client(
            "kms",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            config=botocore.config.Config(retries={"total_max_attempts": 1}, **config),
        )

    def connect(self) -> http.client.HTTPConnection:
        address = urlsplit(self.url)
        assert address.hostname is not None
        return http.client.HTTPConnection(address.hostname, address.port, timeout=LIMIT_S)

    def signed_headers(
        self, target: bytes, body: bytes, content_type: bytes = b"application/x-amz-json-1.1"
    ) -> dict[bytes, bytes]:
        """The headers of a request, signed by the first caller."""
        access_key_id, secret_access_key = self.credentials()
        headers = [
            (b"host", urlsplit(self.url).netloc.encode()),
            (b"content-type", content_type),
            (b"x-amz-target", target),
            (b"x-amz-date", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ").encode()),
        ]
        authorization = sign(
            b"POST",
            b"/",
            headers,
            body,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            region=REGION,
        )
        return dict([*headers, (b"authorization", authorization)])

    def post(
        self,
        operation: str,
        parameters: object,
        connection: http.client.HTTPConnection | None = None,
        content_type: bytes = JSON_1_1,
    ) -> Reply:
        """Make a signed call; `parameters` are JSON, or a body as it is. Raises OSError and http.client's errors."""
        body = parameters if isinstance(parameters, bytes) else json.dumps(parameters).encode()
        headers = self.signed_headers(b"TrentService." + operation.encode("latin-1"), body, content_type)
        used = connection or self.connect()
        try:
            used.request("POST", "/", body, {name.decode(): value.decode("latin-1") for name, value in headers.items()})
            response = used.getresponse()
            return Reply(response.status, response.headers["x-amzn-RequestId"], response.read())
        finally:
            if connection is None:
                used.close()

    def health(self) -> tuple[int, dict[str, Any]]:  # Any: JSON
        """Status and body of /health/ready."""
        try:
            with urllib.request.urlopen(f"{self.admin_url}/health/ready", timeout=LIMIT_S) as response:  # noqa: S310 - http
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def is_ready(self) -> bool:
        return self.health()[0] == 200

    def metrics(self) -> dict[str, float]:
        """The values of /metrics that have no labels."""
        with urllib.request.urlopen(f"{self.admin_url}/metrics", timeout=LIMIT_S) as response:  # noqa: S310 - http
            lines = [line.split() for line in response.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines if "{" not in name}

    # --- what it wrote

    def segments(self, log: str = "w0") -> list[Path]:
        return sorted((self.data / "log" / log).glob("*.jsonl"))

    def records(self, log: str = "w0") -> list[dict[str, Any]]:  # Any: JSON
        """Every record, parsed; fails unless they are numbered densely."""
        found = [json.loads(line) for path in self.segments(log) for line in path.read_bytes().split(b"\n")[:-1]]
        assert [keytrail(line)["sequence"] for line in found] == list(range(len(found)))
        return found

    def count_records(self, log: str = "w0") -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.segments(log))


def keytrail(record: dict[str, Any]) -> dict[str, Any]:
    """keytrail's own part of a record."""
    extension: dict[str, Any] = record["additionalEventData"]["keytrail"]
    return extension


def keytrail_command() -> str:
    return str(Path(sys.executable).with_name("keytrail"))


def forms(secret: bytes) -> list[bytes]:
    """What a secret looks like when it has leaked: raw, base64, hex."""
    encoded = base64.b64encode(secret)
    return [secret, encoded, base64.urlsafe_b64encode(secret), secret.hex().encode(), secret.hex().upper().encode()]


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as `keytrail init` makes it. Copy it: it is everyone's."""
    data = tmp_path_factory.mktemp("initialised") / "data"
    subprocess.run(
        [keytrail_command(), "init", "--data", str(data)],
        check=True,
        env=plain_environment(),
        cwd=data.parent,
        stdout=subprocess.DEVNULL,
    )
    return data


@pytest.fixture(scope="module")
def server(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server, the module's own."""
    data = tmp_path_factory.mktemp("server") / "data"
    shutil.copytree(initialised, data)
    running = Server(data).start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def own_server(initialised: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that is not started yet, for a test that breaks it; its processes are killed behind the test."""
    data = tmp_path / "data"
    shutil.copytree(initialised, data)
    one = Server(data, {"KEYTRAIL_DRAIN_TIMEOUT_S": "3"})
    yield one
    if one.starts:
        one.kill_all()
