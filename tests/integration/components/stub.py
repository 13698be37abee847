"""A stub of AWS KMS that verifies every signature, keeps a journal of what it was called, and fails as it is told."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.integration.components.certificates import Certificate
from tests.integration.components.ports import free_ports
from tests.integration.components.process import ServerProcess
from tests.integration.components.signature import Credential
from tests.integration.components.stub_server import UNCALLED, Fault

__all__ = ["Credential", "Fault", "JournalEntry", "StubUpstream", "stub_upstream"]

_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A request that arrived whole, as it arrived. `headers` are all but the Authorization and the session token."""

    request_id: str
    connection: int  # counted from 0 at each start
    operation: str
    access_key_id: str | None
    refused: str | None  # code and reason, where the signature or the body did not fit
    status: int  # of the answer that was made; a fault may have kept it back
    fault: Fault | None
    fingerprint: str | None  # SHA-256 of the ciphertext that was given or made, hexadecimal
    method: str
    target: str
    body_sha256: str
    headers: list[tuple[str, str]]

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for other, value in self.headers if other.lower() == name.lower()]


class StubUpstream:
    """A stub with its files in a folder of its own below `folder`.

    `certificate` None is plain HTTP. `credentials` are by access key id; with none, signatures are not looked at. Without
    `journal`, none is kept: for the bench.
    """

    def __init__(
        self, folder: Path, certificate: Certificate | None, credentials: Mapping[str, Credential], *, journal: bool = True
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="stub-", dir=folder))
        self._certificate = certificate
        self._credentials = credentials
        self._journal = self._folder / "journal.jsonl" if journal else None
        self._process: ServerProcess | None = None
        self._orders = 0
        #: The same at every start: clients that go on trying must not be given it meanwhile.
        (self.port,) = free_ports(1)

    @property
    def url(self) -> str:
        return f"{'http' if self._certificate is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, for the first time or again on the same port, with no fault to come. Returns when it listens."""
        argv = [sys.executable, "-m", f"{__package__}.stub_server"]
        self._process = ServerProcess(argv, _ROOT, self._folder / "output", stdin=subprocess.PIPE)
        self._tell(
            {
                "port": self.port,
                "certificate": self._certificate and [str(self._certificate.chain), str(self._certificate.key)],
                "credentials": {name: asdict(known) for name, known in self._credentials.items()},
                "journal": self._journal and str(self._journal),
            }
        )
        self.port = int(self._process.wait_for(r"listening on (\d+)\n")[1])

    def stop(self) -> None:
        """Stop it as a crash does: every connection is cut, and no call is finished."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def fail(self, *faults: Fault, operation: str | None = None) -> None:
        """The next calls fail so, one each, in this order; with `operation`, the next calls of it. Returns when it is known.

        A fault that waits, for an operation or for a connection, keeps the ones behind it waiting. Resets before a call was read
        are for every operation, and leave no line in the journal.
        """
        assert operation is None or not UNCALLED & set(faults)
        self._order(list(faults), operation)

    def recover(self) -> None:
        """Forget the faults that are still to come. Returns when it is known."""
        self._order([], None)

    @property
    def journal(self) -> list[JournalEntry]:
        """Everything that was called so far, of every start, in order."""
        assert self._journal is not None
        if not self._journal.exists():
            return []
        return [_entry(json.loads(line)) for line in self._journal.read_bytes().splitlines()]

    def _order(self, faults: list[Fault], operation: str | None) -> None:
        assert self._process is not None
        self._orders += 1
        self._tell({"faults": faults, "operation": operation, "number": self._orders})
        self._process.wait_for(rf"done {self._orders}\n")

    def _tell(self, document: dict[str, Any]) -> None:  # Any: JSON
        assert self._process is not None
        self._process.stdin.write(json.dumps(document).encode() + b"\n")
        self._process.stdin.flush()


def _entry(line: dict[str, Any]) -> JournalEntry:  # Any: JSON
    return JournalEntry(
        request_id=line["requestId"],
        connection=line["connection"],
        operation=line["operation"],
        access_key_id=line["accessKeyId"],
        refused=line["refused"],
        status=line["status"],
        fault=line["fault"] and Fault(line["fault"]),
        fingerprint=line["fingerprint"],
        method=line["method"],
        target=line["target"],
        body_sha256=line["bodySha256"],
        headers=[(name, value) for name, value in line["headers"]],
    )


@contextmanager
def stub_upstream(
    folder: Path, certificate: Certificate | None, credentials: Mapping[str, Credential], *, journal: bool = True
) -> Iterator[StubUpstream]:
    """A running StubUpstream, stopped at the end."""
    stub = StubUpstream(folder, certificate, credentials, journal=journal)
    stub.start()
    try:
        yield stub
    finally:
        stub.stop()
