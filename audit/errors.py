"""The errors of the evidence side; each carries the facts that a reader needs, in its attributes and in its text."""

from __future__ import annotations


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


class QueryError(AuditError):
    """A query cannot be answered as asked: bad filter, bad time, no log there."""
