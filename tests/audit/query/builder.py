"""Logs for tests, written as docs/log-format.md says, without the code that writes them in production."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

START = datetime(2026, 1, 2, tzinfo=UTC)
KEY_A = "arn:aws:kms:eu-central-1:111122223333:key/aaaaaaaa-1111-2222-3333-444455556666"
KEY_B = "arn:aws:kms:eu-central-1:111122223333:key/bbbbbbbb-1111-2222-3333-444455556666"


def fingerprint(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def record(event: str = "Decrypt", **changes: Any) -> dict[str, Any]:
    """A record without its place. `changes`: user, key (ARN or None), context, blobs_in, blobs_out, error, phase, effect,
    allowed_by (a list, as recorded), private (forms of names), and any top-level name."""
    user = changes.pop("user", "alice")
    key = changes.pop("key", KEY_A)
    extension: dict[str, Any] = {"phase": changes.pop("phase", "outcome")}
    for name, blobs in (
        ("fingerprintsIn", changes.pop("blobs_in", ())),
        ("fingerprintsOut", changes.pop("blobs_out", ())),
    ):
        if blobs:
            extension[name] = [fingerprint(blob) for blob in blobs]
    for name, member in (
        ("effect", changes.pop("effect", None)),
        ("allowedBy", changes.pop("allowed_by", None)),
        ("privateContext", changes.pop("private", None)),
    ):
        if member is not None:
            extension[name] = member
    extension |= {"identityProof": "signature-verified", "backend": "local", "topology": "endpoint"}
    error = changes.pop("error", None)
    if error:
        extension["wireError"] = changes.pop("wire_error", error)
    context = changes.pop("context", None)
    return {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser",
            "arn": f"arn:aws:iam::111122223333:user/{user}",
            "accountId": "111122223333",
            "accessKeyId": f"AKIA{user.upper()}",
            "userName": user,
        },
        "eventSource": "kms.amazonaws.com",
        "eventName": event,
        "awsRegion": "eu-central-1",
        "sourceIPAddress": "10.0.0.7",
        "userAgent": "Boto3/1.44",
        **({"errorCode": error} if error else {}),
        "requestParameters": {"encryptionContext": context} if context else {},
        "responseElements": None,
        "additionalEventData": {"keytrail": extension},
        "requestID": "00000000-0000-0000-0000-000000000001",
        "eventID": "00000000-0000-0000-0000-000000000002",
        "readOnly": True,
        "resources": [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": key}] if key else [],
        "eventType": "AwsApiCall",
        **changes,
    }


def placed(content: dict[str, Any], log: str, sequence: int, time: datetime) -> dict[str, Any]:
    """`content` with its place and time."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    extension = {"log": log, "sequence": sequence, "time": text, **content["additionalEventData"]["keytrail"]}
    additional = {**content["additionalEventData"], "keytrail": extension}
    return {**content, "eventTime": text[:19] + "Z", "additionalEventData": additional}


@dataclass
class LogBuilder:
    """Writes the log `name` of the data folder, line by line; `lines` are all lines written, without the newline."""

    data: Path
    name: str = "w0"
    sequence: int = 0
    lines: list[bytes] = field(default_factory=list)
    segment: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rotate()

    @property
    def folder(self) -> Path:
        return self.data / "log" / self.name

    def rotate(self) -> None:
        self.segment = self.folder / f"{self.sequence:020d}.jsonl"
        self.segment.touch()

    def add(self, seconds: float, event: str = "Decrypt", **changes: Any) -> bytes:
        """Append a record whose call arrived `seconds` after `START`; returns its line."""
        line = orjson.dumps(placed(record(event, **changes), self.name, self.sequence, at(seconds)))
        self.raw(line + b"\n")
        return line

    def raw(self, data: bytes) -> None:
        """Append bytes as they are; each line of them counts as a record."""
        with self.segment.open("ab") as file:
            file.write(data)
        self.sequence += data.count(b"\n")
        self.lines += data.split(b"\n")[:-1]
