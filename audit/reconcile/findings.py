"""What a reconciliation found: the words for it, for people and as JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

#: Findings of one kind that are listed; all are counted.
MAX_LISTED = 10_000


class Kind(StrEnum):
    """The classes of finding."""

    BYPASS = "bypass"  # an event of AWS's without a record: a call that did not pass the proxy
    UNCONFIRMED = "unconfirmed"  # a record that says AWS answered, which AWS does not know: forged, or AWS's event was lost
    MISMATCH = "mismatch"  # record and event of one request id that disagree: one of them was forged or altered
    DUPLICATE = "duplicate"  # several records, or several different events, with one request id
    UNREADABLE = "unreadable"  # a CloudTrail file, or a part of it, that cannot be read


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which record and event disagree, as each of them has it; "" where it has none."""

    field: str
    ours: str
    aws: str

    def to_json(self) -> dict[str, str]:
        return {"field": self.field, "ours": self.ours, "aws": self.aws}


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `time` is ISO 8601 in UTC: ours, or AWS's where there is no record. `places` are those of our records in the
    log, `event_ids` and `files` AWS's. What is not known is "" or empty."""

    kind: Kind
    time: str = ""
    operation: str = ""
    account: str = ""
    region: str = ""
    keys: tuple[str, ...] = ()
    caller: str = ""
    request_id: str = ""
    differences: tuple[Difference, ...] = ()
    places: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name)}
        return {
            **{_camel(name): list(value) if isinstance(value, tuple) else value for name, value in told.items()},
            **({"differences": [one.to_json() for one in self.differences]} if self.differences else {}),
        }


@dataclass(slots=True)
class Counts:
    """How many there were of everything, findings aside. Events and records that are copies of each other count once."""

    aws_events: int = 0  # of KMS
    records: int = 0  # of calls that AWS answered
    agreed: int = 0  # pairs without a difference
    by_aws_services: int = 0  # events that AWS's services caused themselves: no call of a client's
    explained: int = 0  # events that a record accounts for without naming their request id
    outside_interval: int = 0  # events before or after the time in which calls had to pass the proxy
    after_log: int = 0  # … after our newest record, where no end was asked for: did the traffic leave the proxy?
    pending: int = 0  # records too young for AWS to have delivered the event for certain
    outside_aws_files: int = 0  # records of a time, account or region that the files do not cover
    failed: int = 0  # records of calls that AWS refused, of which it logs only some, without an event
    unanswered: int = 0  # records of calls that AWS was asked for and gave no request id


@dataclass(slots=True)
class Report:
    """What came of it. `interval` is what events were judged by: from, to (ISO 8601); `services` tells who caused the events of
    `counts.by_aws_services`."""

    interval: tuple[str, str] | None = None
    counts: Counts = field(default_factory=Counts)
    findings: list[Finding] = field(default_factory=list)
    totals: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    services: dict[str, int] = field(default_factory=dict)
    coverage: list[tuple[str, str, str, str]] = field(default_factory=list)  # account, region, oldest, newest event
    files: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.totals[finding.kind] += 1
        if self.totals[finding.kind] <= MAX_LISTED:
            self.findings.append(finding)

    @property
    def has_findings(self) -> bool:
        return any(self.totals.values()) or self.counts.after_log > 0

    def to_json(self) -> dict[str, Any]:
        return {
            "interval": None if self.interval is None else {"from": self.interval[0], "to": self.interval[1]},
            "files": self.files,
            "coverage": [dict(zip(("account", "region", "oldest", "newest"), one, strict=True)) for one in self.coverage],
            "counts": {_camel(name): getattr(self.counts, name) for name in Counts.__slots__},
            "byAwsServices": self.services,
            "totals": {kind.value: total for kind, total in self.totals.items()},
            "notes": self.notes,
            "findings": [finding.to_json() for finding in self.findings],
        }


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)
