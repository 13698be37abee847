"""Honest logs, their lines written without the code that writes them in production, and the means to tamper with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import VerifierKey
from audit.instance import Instance
from audit.log import Mark
from audit.report import Report
from audit.sealing.keys import create_key, load_key
from audit.sealing.log_sealer import LogSealer
from audit.segments import segment_name
from audit.verify import verify

SEGMENT = 10  # records in each


def line(sequence: int, log: str = "admin", *, phase: str = "outcome", intent: str = "", word: str = "") -> bytes:
    extension = {"log": log, "sequence": sequence, "phase": phase}
    if intent:
        extension["intent"] = intent
    record = {
        "eventVersion": "1.11",
        "userIdentity": {"type": "IAMUser"},
        "eventTime": "2026-01-02T03:04:05Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": word or "Encrypt",
        "awsRegion": "eu-central-1",
        "sourceIPAddress": "192.0.2.1",
        "requestParameters": None,
        "responseElements": None,
        "additionalEventData": {"keytrail": extension},
        "eventID": f"e{sequence}",
        "eventType": "AwsApiCall",
        "eventCategory": "Management",
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


@dataclass
class Forge:
    """An honest instance with one log, and the means to tamper with it."""

    instance: Instance
    log: str = "admin"
    records: int = 0

    @classmethod
    def create(cls, data: Path) -> Forge:
        """A new instance in `data`, its key with it, and no record yet."""
        instance = Instance.create(data, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z")
        create_key(instance)
        instance.save()
        return cls(instance)

    @property
    def folder(self) -> Path:
        return self.instance.log_folder(self.log)

    @property
    def checkpoints(self) -> Path:
        return self.instance.checkpoint_folder(self.log)

    @property
    def witnessed(self) -> Path:
        self.instance.make_witnessed_folder(self.log)
        return self.instance.witnessed_folder(self.log)

    @property
    def key(self) -> Ed25519PrivateKey:
        return load_key(self.instance.sealer_key)

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey.of(self.instance.origin(self.log), self.key)

    @property
    def latest(self) -> str:
        return (self.checkpoints / "latest").read_text("utf-8")

    def segment(self, number: int) -> Path:
        return self.folder / segment_name(number * SEGMENT)

    def append(self, *lines: bytes) -> None:
        """Write as the proxy does: segments of ten records, then the mark."""
        for text in lines:
            with self.segment(self.records // SEGMENT).open("ab") as file:
                file.write(text)
            self.records += 1
        last = self.segment((self.records - 1) // SEGMENT)
        segment = int(last.name[:20])
        (self.folder / "mark").write_bytes(Mark(self.records, segment, last.stat().st_size, 0).encode())

    def seal(self) -> None:
        origin = self.instance.origin(self.log)
        assert LogSealer(self.folder, self.checkpoints, origin, self.key).seal() is not None

    def grow(self, count: int) -> None:
        self.append(*(line(self.records + offset, self.log) for offset in range(count)))

    def lines(self, number: int) -> list[bytes]:
        return self.segment(number).read_bytes().splitlines(keepends=True)

    def write(self, number: int, lines: list[bytes]) -> None:
        self.segment(number).write_bytes(b"".join(lines))

    def verify(self, *saved: str) -> Report:
        return verify(self.instance.data, saved=saved)
