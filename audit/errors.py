"""The errors of the evidence side; each carries the facts that a reader needs, in its attributes and in its text."""

from __future__ import annotations

from pathlib import Path


class AuditError(Exception):
    """Root of every error that `audit` raises."""


class CommitFailed(AuditError):
    """A record could not be made durable: nothing that depends on it may be released."""

    def __init__(self, log: str, reason: str) -> None:
        super().__init__(f"log {log}: the record is not on disk: {reason}")
        self.log = log
        self.reason = reason


class LogIncident(AuditError):
    """The log is not what it must be (missing, shorter than a signed checkpoint, replaced): a person has to look."""

    def __init__(self, log: str, reason: str) -> None:
        super().__init__(f"INCIDENT: log {log}: {reason}")
        self.log = log
        self.reason = reason


class LogInUse(AuditError):
    """Another process writes this log."""

    def __init__(self, log: str) -> None:
        super().__init__(f"log {log} is being written by another process")
        self.log = log


class DamagedLog(AuditError):
    """A line or segment of the log is not as this version writes it."""

    def __init__(self, segment: str, line: int, reason: str) -> None:
        super().__init__(f"{segment}, line {line}: {reason}")
        self.segment = segment
        self.line = line
        self.reason = reason


class RecordRejected(AuditError):
    """A record carries something that the allow-list does not know; its value is never in the message."""


class CheckpointInvalid(AuditError):
    """A signed note is malformed, not signed by the expected key, or contradicts what was signed before."""


class SigningUnavailable(AuditError):
    """The KMS that has the signing key does not sign now; it is tried again."""


class QueryError(AuditError):
    """A query cannot be answered as asked: bad filter, bad time, no log there."""


class TreeDamaged(AuditError):
    """The hashes of a log's tree, which are derived from its lines, are not all there, or not those that were signed for."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; it is derived, and the sealer makes it anew when it starts")
        self.path = path
        self.reason = reason


class ProofInvalid(AuditError):
    """A proof is malformed, or does not show what it should."""


class NotProvable(AuditError):
    """There is no such record, or no proof of it yet."""


class ReceiptInvalid(AuditError):
    """What should be a receipt is none; its place is in the message."""
