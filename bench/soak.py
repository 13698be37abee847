"""Forwarded calls while the upstream is stopped and started: `python -m bench.soak [--calls 100000] [--restarts 10]`.

keytrail signs anew and sends on to a stub of AWS over TLS, which keeps a journal; the stub is killed and started again between
the calls. At the end the clients' answers, the log and the journal are compared, and what the worker holds (descriptors, tasks)
is compared with what it held at the beginning. Prints what it saw, and exits with 1 where anything does not fit.
"""

from __future__ import annotations

import argparse
import asyncio
import configparser
import json
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.servers import Server, keytrail
from proxy.sigv4 import SigningKeys, sign
from tests.integration.components.certificates import CertificateAuthority
from tests.integration.components.stub import Credential, JournalEntry, StubUpstream, stub_upstream

CLIENTS = 16
REGION = "us-east-1"
_HOST = f"kms.{REGION}.amazonaws.com"
_AWS = ("AKIAUPSTREAM", "upstream-secret")
#: What is called in turn: two that change nothing, and one that does.
_CALLS = (
    ("Decrypt", b'{"CiphertextBlob": "AAAA"}'),
    ("GenerateDataKey", b'{"KeyId": "alias/demo", "KeySpec": "AES_256", "EncryptionContext": {"tenant": "acme"}}'),
    ("TagResource", b'{"KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab", "Tags": [{"TagKey": "a", "TagValue": "b"}]}'),
)
_SETTLE_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Given:
    """An answer that a client got."""

    request_id: str
    operation: str
    status: int


@dataclass(slots=True)
class Soak:
    """What was seen: `faults` is empty where everything fits."""

    given: list[Given]
    records: list[dict[str, Any]] = field(repr=False)  # Any: JSON
    journal: list[JournalEntry] = field(repr=False)
    held: list[dict[str, float]]  # what the worker should hold, and what it held at the end
    faults: list[str] = field(default_factory=list)

    def compare(self) -> None:
        """Every answer has its record and every record its call; what the upstream did is in a record, or was said to be lost."""
        outcomes = [one for one in self.records if _keytrail(one)["phase"] != "intent" and one["eventSource"] != "keytrail"]
        intents = {record["eventID"] for record in self.records if _keytrail(record)["phase"] == "intent"}
        answers = {one.request_id: one for one in self.given}
        recorded = Counter(record["requestID"] for record in outcomes)
        self._expect(len(answers) == len(self.given), "two answers have one request id")
        self._expect(set(recorded) == set(answers), f"{len(set(answers) ^ set(recorded))} answers and records without each other")
        self._expect(max(recorded.values(), default=0) <= 1, "a call has two outcomes")
        lost = 0
        for record in outcomes:
            part, one = _keytrail(record), answers.get(record["requestID"])
            fits = one is not None and one.operation == record["eventName"] and (one.status == 200) is ("errorCode" not in record)
            self._expect(fits, f"{record['requestID']}: the record says another thing than the answer")
            self._expect("upstream" in part, f"{record['requestID']}: no word of the upstream")
            lost += len(part.get("upstream", {}).get("failures", ()))
        named = {_keytrail(record).get("intent") for record in outcomes} - {None}
        self._expect(named == intents, f"{len(named ^ intents)} intents and outcomes without each other")
        unheard = [entry for entry in self.journal if entry.request_id not in answers]
        self._expect(len(unheard) <= lost, f"{len(unheard)} calls that AWS did, and only {lost} attempts that got no answer")
        unknown = sum(_keytrail(record).get("effect") == "unknown" for record in outcomes)
        changed = sum(entry.operation == "TagResource" for entry in unheard)
        self._expect(changed <= unknown, f"{changed} changes that nobody was told of, and {unknown} that are said to be unknown")
        before, after = self.held
        self._expect(after == before, f"the worker should hold {before}, and holds {after}")

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.faults.append(otherwise)


def soak(folder: Path, calls: int, restarts: int, port: int = 5760) -> Soak:
    """Run it, with everything in `folder`, and compare. keytrail has `port`, and the next for its metrics."""
    authority = CertificateAuthority(folder)
    certificate = authority.server(_HOST, "127.0.0.1")
    with (
        stub_upstream(folder, certificate, {_AWS[0]: Credential(_AWS[1])}) as upstream,
        _keytrail_before(upstream, authority, folder, port) as server,
    ):
        while not (first := _held(server))["keytrail_tasks"]:  # the worker tells its counts once a second
            time.sleep(0.1)
        held = [first]
        clients = _Clients(server, _credentials(folder, server))
        asyncio.run(clients.run(upstream, calls, restarts))
        # Idle connections upstream are closed after 20 s.
        deadline = time.monotonic() + _SETTLE_LIMIT_S
        while (now := _held(server)) != first and time.monotonic() < deadline:
            time.sleep(0.5)
        held.append(now)
        journal = upstream.journal
    records = [
        json.loads(line)
        for segment in sorted((folder / f"data-{server.port}" / "log" / "w0").glob("*.jsonl"))
        for line in segment.read_bytes().splitlines()
    ]
    seen = Soak(clients.given, records, journal, held)
    seen.compare()
    return seen


class _Clients:
    """Clients that call in turn, each on a connection of its own."""

    def __init__(self, server: Server, credentials: tuple[str, str]) -> None:
        self.given: list[Given] = []
        self._server = server
        self._credentials = credentials
        self._keys = SigningKeys()
        self._left = 0
        self._every = 1
        self._reached = asyncio.Event()  # the next restart is due

    async def run(self, upstream: StubUpstream, calls: int, restarts: int) -> None:
        """Make `calls`, while the upstream is stopped and started `restarts` times."""
        self._left = calls
        self._every = calls // (restarts + 1)
        clients = asyncio.gather(*(self._call_on() for _ in range(CLIENTS)))
        for _ in range(restarts):
            await self._reached.wait()
            self._reached.clear()
            await asyncio.to_thread(upstream.stop)
            await asyncio.sleep(0.2)  # long enough for calls that find nobody there
            await asyncio.to_thread(upstream.start)
        await clients

    async def _call_on(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        while self._left > 0:
            self._left -= 1
            operation, body = _CALLS[self._left % len(_CALLS)]
            writer.write(self._request(operation, body))
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().partition(b": ")[::2] for line in head.split(b"\r\n")[1:-2])
            await reader.readexactly(int(fields[b"content-length"]))
            self.given.append(Given(fields[b"x-amzn-requestid"].decode(), operation, int(head.split(b" ", 2)[1])))
            if len(self.given) % self._every == 0:
                self._reached.set()
        writer.close()
        await writer.wait_closed()

    def _request(self, operation: str, body: bytes) -> bytes:
        access_key_id, secret_access_key = self._credentials
        headers = [
            (b"host", b"127.0.0.1:%d" % self._server.port),
            (b"content-type", b"application/x-amz-json-1.1"),
            (b"x-amz-target", b"TrentService." + operation.encode()),
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
            keys=self._keys,
        )
        lines = [b"%b: %b" % header for header in [*headers, (b"authorization", authorization)]]
        return b"POST / HTTP/1.1\r\n%b\r\ncontent-length: %d\r\n\r\n%b" % (b"\r\n".join(lines), len(body), body)


@contextmanager
def _keytrail_before(upstream: StubUpstream, authority: CertificateAuthority, folder: Path, port: int) -> Iterator[Server]:
    further = {
        "KEYTRAIL_BACKEND": "aws",
        "KEYTRAIL_AWS_HOSTS": f"{_HOST}=127.0.0.1:{upstream.port}",
        "KEYTRAIL_AWS_CA_BUNDLE": str(authority.bundle),
        "AWS_ACCESS_KEY_ID": _AWS[0],
        "AWS_SECRET_ACCESS_KEY": _AWS[1],
    }
    with keytrail(port, folder, further=further) as server:
        yield server


def _credentials(folder: Path, server: Server) -> tuple[str, str]:
    file = configparser.RawConfigParser()
    file.read(folder / f"data-{server.port}" / "credentials")
    return file["default"]["aws_access_key_id"], file["default"]["aws_secret_access_key"]


def _held(server: Server) -> dict[str, float]:
    """Tasks, descriptors and connections of the worker, by its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port + 1}/metrics", timeout=10) as response:
        lines = [line.split() for line in response.read().decode().splitlines() if not line.startswith("#")]
    wanted = ("keytrail_tasks", "keytrail_descriptors", "keytrail_connections", "keytrail_calls_under_way")
    return {name: float(value) for name, value in lines if name in wanted}


def _keytrail(record: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = record["additionalEventData"]["keytrail"]
    return part


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--restarts", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        seen = soak(Path(name), options.calls, options.restarts)
    for (operation, status), count in sorted(Counter((one.operation, one.status) for one in seen.given).items()):
        print(f"{operation:16} {status}  {count:8,}")
    unknown = sum(_keytrail(record).get("effect") == "unknown" for record in seen.records)
    twice = sum(_keytrail(record).get("upstream", {}).get("attempts", 1) > 1 for record in seen.records)
    print(f"{len(seen.records):,} records, {unknown} of unknown effect, {twice} tried twice")
    print(f"{len(seen.journal):,} calls that the upstream saw")
    print(f"should hold {seen.held[0]}, holds {seen.held[1]}")
    print("\n".join(seen.faults) or "everything fits")
    return 1 if seen.faults else 0


if __name__ == "__main__":
    sys.exit(main())
