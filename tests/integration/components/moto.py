"""moto_server over TLS: AWS KMS and STS, as far as they can be had on loopback.

It speaks HTTP/1.1 but ends every connection with its answer (``Connection: close``): no connection is ever used twice. TLS
handshakes are made by the thread that accepts: a connection that stays silent keeps all others waiting. Signatures are not
verified; whatever the access key, the account is 123456789012. What it stored is gone when it stops.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.components.certificates import CertificateAuthority
from tests.integration.components.ports import free_ports
from tests.integration.components.process import ServerProcess

REGION = "us-east-1"
KMS, STS = f"kms.{REGION}.amazonaws.com", f"sts.{REGION}.amazonaws.com"
_numbers = itertools.count()


class MotoServer:
    """One moto_server, under a leaf of `authority` for the real names of KMS and STS in us-east-1, localhost and 127.0.0.1."""

    def __init__(self, folder: Path, authority: CertificateAuthority) -> None:
        self._folder = folder
        self._certificate = authority.server(KMS, STS, "sts.amazonaws.com", "localhost", "127.0.0.1")
        self._output = folder / f"moto-{next(_numbers)}.log"
        self._process: ServerProcess | None = None
        #: The same at every start: clients that go on trying must not be given it meanwhile.
        (self.port,) = free_ports(1)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, for the first time or again on the same port. Returns when it listens."""
        argv = [
            *(str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(self.port)),
            *("-c", str(self._certificate.chain), "-k", str(self._certificate.key)),
        ]
        self._process = ServerProcess(argv, self._folder, self._output, environment={"PYTHONUNBUFFERED": "1"})
        self.port = int(self._process.wait_for(r"Running on https://127\.0\.0\.1:(\d+)")[1])

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    @property
    def requests(self) -> list[str]:
        """The request lines that it has answered so far, of every start."""
        lines = self._output.read_text().splitlines()
        return [line.split('"')[1] for line in lines if line.count('"') >= 2 and " HTTP/1." in line]


@contextmanager
def moto_server(folder: Path, authority: CertificateAuthority) -> Iterator[MotoServer]:
    """A running MotoServer, stopped at the end."""
    server = MotoServer(folder, authority)
    server.start()
    try:
        yield server
    finally:
        server.stop()
