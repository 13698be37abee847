"""SeaweedFS: an S3 of its own making, with an Iceberg REST catalogue, all of it in one process on loopback.

It tells its makers of itself unless it is told not to: it is. It takes a quarter of a minute to end by itself, so that it is
killed; what it answered for is on its disk by then.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from tests.integration.components.ports import free_ports
from tests.integration.components.process import ServerProcess
from tests.integration.conftest import wait_until

REGION = "us-east-1"
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")
_numbers = itertools.count()


class SeaweedFS:
    """One server with its data in `folder`. Its user may do everything; with `reader_key_id` one may read only, and so may
    whoever has one of the access keys `readers`."""

    access_key_id = "AKIASEAWEED"
    reader_key_id = "AKIASEAWEEDREADER"
    secret_access_key = "canary-secret-of-the-seaweed"

    def __init__(self, folder: Path, readers: Mapping[str, str] = MappingProxyType({})) -> None:
        self._folder = folder / f"seaweedfs-{next(_numbers)}"
        self._folder.mkdir()
        self._program = str(Path(sys.executable).with_name("weed"))
        names = [*_PORTS, *(f"{name}.grpc" for name in _PORTS), "s3.port.iceberg"]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._process: ServerProcess | None = None
        user = {"accessKey": self.access_key_id, "secretKey": self.secret_access_key}
        identity = {"name": "tests", "credentials": [user], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
        keys = {self.reader_key_id: self.secret_access_key, **readers}
        reading = [{"accessKey": key, "secretKey": secret} for key, secret in keys.items()]
        reader = {"name": "reader", "credentials": reading, "actions": ["Read", "List"]}
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity, reader]}))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports['s3.port']}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def catalogue_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port.iceberg']}"

    @property
    def environment(self) -> dict[str, str]:
        """Its credentials, as the AWS SDKs read them."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self, service: str = "s3", **config: Any) -> Any:  # Any: boto3 makes its clients at run time
        return boto3.client(  # type: ignore[call-overload]  # a service by its name
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(retries={"total_max_attempts": 1}, **config),
        )

    def start(self) -> None:
        """Start it, for the first time or again, on the same ports and data. Returns when it answers."""
        options = {
            "dir": self._folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "master.electionTimeout": "500ms",  # which it sits out when it is started again
            "master.heartbeatInterval": "50ms",
            "volume.max": 40,
            "filer": "true",
            "s3": "true",
            "s3.config": self._folder / "s3.json",
            "s3.port.lance": 0,
            **self._ports,
        }
        self._process = ServerProcess(
            [self._program, "server", *(f"-{name}={value}" for name, value in options.items())],
            self._folder,
            self._folder / "output.log",
            environment={"TMPDIR": str(self._folder)},
        )
        self._process.wait_for("Start Iceberg REST Catalog Server")
        self._process.wait_for("added volume server")  # until then S3 answers, and keeps whoever writes waiting
        wait_until(self._answers, "SeaweedFS answers")

    def kill(self) -> None:
        """SIGKILL; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        for port in self._ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - where it makes them, whatever it is told
                left.unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            self.client(connect_timeout=1, read_timeout=5).list_buckets()
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            return False
        return True


@contextmanager
def seaweedfs(folder: Path, readers: Mapping[str, str] = MappingProxyType({})) -> Iterator[SeaweedFS]:
    """A running SeaweedFS, gone at the end."""
    server = SeaweedFS(folder, readers)
    try:
        server.start()
        yield server
    finally:
        server.kill()
