"""A log as months of traffic leave it, written without a proxy: `python -m bench.history FOLDER --records 5000000`.

The lines are those of `audit.canonical`, in closed segments and an open one, of one log; what they tell is made up, by a seed:
data keys that are made once and unwrapped several times, for a tenant and an object each, by some hundred callers; now and then a
refusal, and seldom an event of a key's life. The folder is a data folder for the commands that ask the log, and for no other.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audit.canonical import encode
from audit.log import Mark
from audit.record import AuditRecord, IdentityProof, Resource, Upstream, UserIdentity
from audit.segments import create_log, segment_name

LOG = "w0"
SEGMENT_BYTES = 64 << 20
_ACCOUNT = "111122223333"
_START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
_KEYS, _CALLERS, _TENANTS, _POOL = 200, 600, 5_000, 200_000


@dataclass(frozen=True, slots=True)
class _DataKey:
    fingerprint: str
    resource: Resource
    context: dict[str, str]


class History:
    """The records of such a log, in order; `days` is the time that they span."""

    def __init__(self, records: int, *, days: int = 90, seed: int = 1) -> None:
        self._records = records
        self._random = random.Random(seed)
        self._step_us = days * 86_400_000_000 // records
        hexed = self._random.randbytes
        self._keys = [Resource(f"arn:aws:kms:us-east-1:{_ACCOUNT}:key/{_uuid(hexed(16).hex())}", _ACCOUNT) for _ in range(_KEYS)]
        self._callers = [
            UserIdentity(
                "AssumedRole",
                f"AROA{number:016d}:app-{number}",
                f"arn:aws:sts::{_ACCOUNT}:assumed-role/service-{number % 40}/app-{number}",
                _ACCOUNT,
                f"ASIA{hexed(8).hex().upper()}",
            )
            for number in range(_CALLERS)
        ]
        self._made: list[_DataKey] = []

    def __iter__(self) -> Iterator[AuditRecord]:
        for number in range(self._records):
            yield self._record(number)

    def _record(self, number: int) -> AuditRecord:
        chance = self._random.random
        caller = int(chance() ** 3 * _CALLERS)  # few callers do most
        identity = self._callers[caller]
        record = AuditRecord(
            time_us=_START_US + number * self._step_us + int(chance() * self._step_us),
            event_id=f"0c3f7a52-9d14-8b6e-a7d0-{number:012x}",
            event_name="Decrypt",
            identity=identity,
            aws_region="us-east-1",
            source_ip=f"10.{caller % 4}.{caller // 250}.{caller % 250 + 1}",
            request_id=_uuid(self._random.randbytes(16).hex()),
            user_agent="Boto3/1.44.5 md/Botocore#1.44.5 ua/2.1 os/linux#6.1 md/arch#x86_64 lang/python#3.11.7",
            recipient_account_id=_ACCOUNT,
            identity_proof=IdentityProof.SIGNATURE,
            backend="aws",
            latency_us=int(900 + chance() * 4_000),
        )
        kind = chance()
        if kind < 0.0002:
            self._key_event(record)
        elif kind < 0.25 or not self._made:
            self._make(record)
        else:
            self._unwrap(record)
        record.upstream = Upstream("kms.us-east-1.amazonaws.com", 1, 400 if record.error_code else 200, record.request_id)
        return record

    def _make(self, record: AuditRecord) -> None:
        key = self._keys[int(self._random.random() ** 2 * _KEYS)]
        context = {
            "tenant": f"tenant-{int(self._random.random() ** 2 * _TENANTS)}",
            "object": record.request_id[:13] if record.request_id else "",
        }
        made = _DataKey(self._random.randbytes(32).hex(), key, context)
        record.event_name = "GenerateDataKey"
        record.request_parameters = {"keyId": key.arn, "keySpec": "AES_256", "encryptionContext": dict(context)}
        record.fingerprints_out = (made.fingerprint,)
        record.resources = (key,)
        if len(self._made) < _POOL:
            self._made.append(made)
        else:
            self._made[int(self._random.random() * _POOL)] = made

    def _unwrap(self, record: AuditRecord) -> None:
        made = self._made[int(self._random.random() * len(self._made))]
        record.request_parameters = {"encryptionAlgorithm": "SYMMETRIC_DEFAULT", "encryptionContext": dict(made.context)}
        record.fingerprints_in = (made.fingerprint,)
        record.resources = (made.resource,)
        if self._random.random() < 0.01:
            record.error_code, record.wire_error = "AccessDenied", "AccessDeniedException"
            record.error_message = f"User: {record.identity.arn} is not authorized to perform: kms:Decrypt"

    def _key_event(self, record: AuditRecord) -> None:
        key = self._random.choice(self._keys)
        record.event_name = self._random.choice(("DisableKey", "EnableKey", "PutKeyPolicy", "TagResource"))
        record.request_parameters = {"keyId": key.arn}
        record.resources = (key,)
        record.read_only = False


def write(data: Path, records: int, *, days: int = 90, seed: int = 1) -> int:
    """Make the log in the folder `data`; gives its bytes. Raises FileExistsError where there is one."""
    folder = data / "log" / LOG
    folder.parent.mkdir(parents=True, exist_ok=True)
    create_log(folder)
    written = segment_bytes = sequence = first = 0
    segment = (folder / segment_name(0)).open("wb", buffering=1 << 20)
    try:
        for record in History(records, days=days, seed=seed):
            if segment_bytes >= SEGMENT_BYTES:
                segment.close()
                segment, segment_bytes, first = (folder / segment_name(sequence)).open("wb", buffering=1 << 20), 0, sequence
            line = encode(record, LOG, sequence)
            segment_bytes += segment.write(line)
            written += len(line)
            sequence += 1
    finally:
        segment.close()
    (folder / "mark").write_bytes(Mark(sequence, first, segment_bytes, 0).encode())
    return written


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=90)
    options = parser.parse_args()
    began = time.perf_counter()
    size = write(options.folder, options.records, days=options.days)
    print(f"{options.records:,} records, {size:,} bytes, in {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
