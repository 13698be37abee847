"""An instance with real keys and checkpoints, whose logs the tests write themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.attest.make import ALL_PHASES, Finding, attest
from audit.attest.statement import Statement
from audit.checkpoint import VerifierKey
from audit.instance import Instance
from audit.log import Mark
from audit.query.filters import Filter
from audit.sealing.keys import create_key, load_key
from audit.sealing.process import seal_once
from tests.audit.query.builder import LogBuilder, at

NOW = at(3_600)


def time_at(seconds: float) -> str:
    """As a statement tells it."""
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def asked(**conditions: Any) -> Filter:
    """A question; what is absent is a caller that nobody is, unless it is said."""
    interval = {name: conditions.pop(name) for name in ("since", "until") if name in conditions}
    return Filter(**(conditions or {"caller": "nobody"}), **interval, phases=ALL_PHASES)


def facts(statement: Statement, log: str = "w0", **changes: Any) -> Statement:
    """`statement` with other facts of one of its logs."""
    return replace(statement, logs=tuple(replace(one, **changes) if one.log == log else one for one in statement.logs))


class House:
    """An instance with the logs `admin` and `w0`, and more where they are asked for."""

    def __init__(self, data: Path, *more: str) -> None:
        self.instance = Instance.create(data, "111122223333", "eu-central-1", "2026-01-02T00:00:00Z").with_logs(["w0", *more])
        create_key(self.instance)
        self.instance.save()
        self.logs = {name: LogBuilder(data, name) for name in self.instance.logs}

    @property
    def data(self) -> Path:
        return self.instance.data

    @property
    def key(self) -> Ed25519PrivateKey:
        return load_key(self.instance.sealer_key)

    @property
    def verifier(self) -> VerifierKey:
        """As `keytrail checkpoint --key` prints it for a log."""
        return VerifierKey.of(self.instance.origin("admin"), self.key)

    def add(self, seconds: float, event: str = "Decrypt", log: str = "w0", **changes: Any) -> bytes:
        return self.logs[log].add(seconds, event, eventCategory="Management", **changes)

    def seal(self) -> None:
        """Mark what was written as durable, and sign for it."""
        for log in self.logs.values():
            segment, size = int(log.segment.stem), log.segment.stat().st_size
            if log.sequence > segment:
                (log.folder / "mark").write_bytes(Mark(log.sequence, segment, size, 0).encode())
        seal_once(self.instance)

    def latest(self, log: str = "w0") -> str:
        """The newest checkpoint, as `keytrail checkpoint` prints it."""
        return (self.instance.checkpoint_folder(log) / "latest").read_text("utf-8")

    def attest(self, *saved: str, now: datetime = NOW, **conditions: Any) -> tuple[Finding, bytes]:
        return attest(self.data, asked(**conditions), now, saved)

    def edit(self, old: bytes, new: bytes, log: str = "w0") -> None:
        """Change a line behind everybody's back."""
        path = self.logs[log].segment
        before = path.read_bytes()
        assert old in before
        path.write_bytes(before.replace(old, new))
