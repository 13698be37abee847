"""What detection says: `Finding`, and `Unevaluated` of a rule that could not be asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from audit.query.times import time_text


class Severity(IntEnum):
    """The severities of Sigma, in order."""

    INFORMATIONAL = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One record that a finding stands on: where it is (`log` and `record`, its index there), and its ids."""

    time: datetime
    event_id: str | None
    request_id: str | None
    origin: str
    log: str | None
    record: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "time": time_text(self.time),
            "event_id": self.event_id,
            "request_id": self.request_id,
            "origin": self.origin,
            "log": self.log,
            "record": self.record,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What `rule` found of `subject`: `count` events from `first` to `last`, the first of which are `evidence`."""

    rule: str
    title: str
    severity: Severity
    first: datetime
    last: datetime
    count: int
    subject: Mapping[str, str | None]
    why: str
    evidence: tuple[Evidence, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "finding",
            "rule": self.rule,
            "title": self.title,
            "severity": self.severity.word,
            "first": time_text(self.first),
            "last": time_text(self.last),
            "count": self.count,
            "subject": dict(self.subject),
            "why": self.why,
            "evidence": [one.to_json() for one in self.evidence],
        }

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts the gravest first, then by time; the same answer always comes in the same order."""
        subject = tuple((name, value or "") for name, value in self.subject.items())
        return (-self.severity, self.first, self.rule, subject, self.last, self.why)


@dataclass(frozen=True, slots=True)
class Unevaluated:
    """A rule that could not be asked, so that finding nothing means nothing: `where` it stands, and the reason."""

    rule: str
    title: str
    where: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": "unevaluated", "rule": self.rule, "title": self.title, "where": self.where, "reason": self.reason}
