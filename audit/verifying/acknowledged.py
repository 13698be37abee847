"""Findings that a person has acknowledged. Pure.

What a log's times show for good (step 13: a silence, a clock that was set back) may have an honest cause, unknown to the log.
Such a fault is a finding: it has a name, ``LOG:RECORD:ROOT``, of the record that it was found at and the root of the tree up to
that record. So a name fits one finding of one log with one past: nobody can acknowledge what was not there yet, nor make a
finding larger, or another one, under a name that is known.

An acknowledgement is a record in the log `admin`. Whoever can write the log can write one, so it counts where its receipt is
given by whoever verifies (docs/adr/0031). What it names has to be in the tree then: it is one more checkpoint (step 7).
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from dataclasses import dataclass

from audit.errors import QueryError, ReceiptInvalid
from audit.merkle import HASH_BYTES
from audit.report import Acknowledged
from audit.verifying.faults import Faults
from audit.verifying.records import read_line

EVENT = "AcknowledgeFinding"
MAX_REASON = 1_000  # characters
_FORM = re.compile(r"(?P<log>[^\s:/]{1,200}):(?P<record>0|[1-9][0-9]{0,17}):(?P<root>[A-Za-z0-9+/]{43}=)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding at `record` of `log`; `root` is the tree's over the records up to this one."""

    log: str
    record: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.log}:{self.record}:{b2a_base64(self.root, newline=False).decode()}"

    @classmethod
    def parse(cls, text: str) -> Finding:
        """Raises `QueryError`."""
        if (parts := _FORM.fullmatch(text)) is not None:
            finding = cls(parts["log"], int(parts["record"]), a2b_base64(parts["root"]))
            if len(finding.root) == HASH_BYTES and str(finding) == text:
                return finding
        raise QueryError("not a finding: it is LOG:RECORD:ROOT, as `keytrail verify` prints it")

    @property
    def size(self) -> int:
        """Of the tree that it names."""
        return self.record + 1


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Who said on record what the finding was: `by` is the host's user, `at` the time of the record."""

    finding: Finding
    by: str
    at: str
    reason: str


def read_acknowledgement(text: bytes) -> Acknowledgement:
    """The acknowledgement in a line of the log `admin`, without its newline. Raises `ReceiptInvalid` where it is none."""
    line = read_line(text)
    identity, told = line.record.get("userIdentity"), line.record.get("requestParameters")
    if (line.record.get("eventSource"), line.record.get("eventName")) != ("keytrail", EVENT):
        raise ReceiptInvalid("the record that it is of acknowledges nothing")
    try:
        finding, reason = Finding.parse(told["finding"]), told["reason"]  # type: ignore[index]  # TypeError where it is none
        by = f"{identity['userName']} ({identity['principalId']})"  # type: ignore[index]
    except (KeyError, TypeError, QueryError) as error:
        raise ReceiptInvalid("the acknowledgement that it is of is not as this version writes it") from error
    return Acknowledgement(finding, by, line.time, str(reason))


class Findings:
    """The findings of one log: those that were acknowledged are told, the others are faults."""

    def __init__(self, log: str, acknowledgements: Iterable[Acknowledgement], faults: Faults) -> None:
        self._log = log
        self._faults = faults
        self._known = {one.finding: one for one in acknowledgements}
        self._acknowledged: list[Acknowledged] = []

    def add_here(self, step: int, reason: str, record: int, root: bytes | None) -> None:
        """What was found at `record`, where the reading is; `root` is None where the tree up to there is not known."""
        finding = None if root is None else Finding(self._log, record, root)
        known = None if finding is None else self._known.get(finding)
        if known is None:
            self._faults.add_here(step, reason, "" if finding is None else str(finding))
        else:
            fault = self._faults.here(step, reason, str(finding))
            self._acknowledged.append(Acknowledged(fault, known.by, known.at, known.reason))

    @property
    def acknowledged(self) -> tuple[Acknowledged, ...]:
        return tuple(self._acknowledged)

    def told(self, step: int) -> str:
        """How many of this step were acknowledged, for its detail."""
        count = sum(one.fault.step == step for one in self._acknowledged)
        return f"; {count} acknowledged" if count else ""
