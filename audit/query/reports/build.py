"""From the log to a report: each question asked once, and a head that says what the answers stand on.

The views are opened without bounds, as questions such as *first ever* look behind the interval; every statement has its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

import duckdb

from audit.errors import AuditError
from audit.instance import Instance, NoInstance
from audit.query.engine import Progress
from audit.query.events import open_events
from audit.query.lines import Damage
from audit.query.reports import access_review, incident, key_usage, quarterly
from audit.query.reports.interval import Interval
from audit.query.reports.policy_diff import policy_diff
from audit.query.reports.questions import PIECES, Column, Kind, Question, fill, parameter_names
from audit.query.reports.scope import Asked, Parameters, Scope, of_calls, of_keys
from audit.query.scan import Coverage
from audit.query.statement import limited
from audit.query.times import time_text
from audit.report import Report as Verified
from audit.report import Verdict

#: Of the JSON document.
FORMAT = 1
DEFAULT_ROWS = 500
_NAMED = 50  # places of damage, and faults of a verification; the rest is counted
_BATCH_ROWS = 10_000
_HOURLY = timedelta(days=31)
_NOTHING = timedelta(days=1)  # an interval for a log without a record

#: Verifies the logs of a data folder. Raises `AuditError`, OSError.
VerifyLogs: TypeAlias = Callable[[Path, Progress | None], Verified]
#: A row: column → value, as DuckDB gives it.
Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReportKind:
    """A report: its name in commands and in JSON, and its tables. `is_signed`: it ends with lines to be signed."""

    name: str
    title: str
    about: str
    questions: tuple[Question, ...]
    scope_of: Callable[[Asked, duckdb.DuckDBPyConnection], Scope]
    is_signed: bool = False


KEY_USAGE = ReportKind("key-usage", "Key usage", "Who used which key, how and from where.", key_usage.QUESTIONS, of_keys)
ACCESS_REVIEW = ReportKind(
    "access-review", "Access review", "What each principal touched.", access_review.QUESTIONS, of_calls, is_signed=True
)
QUARTERLY = ReportKind(
    "quarterly",
    "Quarterly attestation",
    "Keys, their users, and the audit log itself, for SOC 2 (CC6) and PCI DSS (3.6, 3.7, 10).",
    quarterly.QUESTIONS,
    of_calls,
    is_signed=True,
)
INCIDENT = ReportKind("incident", "Incident", "What was done, and what it reached.", incident.QUESTIONS, of_calls)


class State(Enum):
    """Of the verification of the logs beneath a report."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_ASKED = "not-asked"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Verification:
    """`report` is there where the logs were verified, else `reason` says why not."""

    state: State
    reason: str = ""
    report: Verified | None = None

    @property
    def text(self) -> str:
        match self.state:
            case State.PASSED:
                found = "The logs were verified, and nothing was found that contradicts them."
                count = len(self.report.acknowledged) if self.report else 0
                return f"{found} Faults that somebody has explained: {count}." if count else found
            case State.FAILED:
                return "VERIFICATION FAILED: the logs are not as they should be, and this report stands on them."
            case State.NOT_ASKED:
                return "NOT VERIFIED: this report was made with --no-verify. Nobody looked whether the logs were changed."
            case State.IMPOSSIBLE:
                return f"NOT VERIFIED: {self.reason}."

    def to_json(self) -> dict[str, Any]:
        logs = self.report.logs if self.report else ()
        faults = self.report.faults if self.report else ()
        return {
            "state": self.state.value,
            "text": self.text,
            "logs": [
                {
                    "log": log.log,
                    "records": log.records,
                    "sealed": log.sealed,
                    "unsealed": log.unsealed,
                    **{verdict.value: sum(step.verdict is verdict for step in log.steps) for verdict in Verdict},
                    "steps": [asdict(step) | {"verdict": step.verdict.value} for step in log.steps],
                }
                for log in logs
            ],
            "fault_count": len(faults),
            "faults": [str(fault) for fault in faults[:_NAMED]],
            "acknowledged": [str(one) for one in self.report.acknowledged] if self.report else [],
        }


@dataclass(frozen=True, slots=True)
class Table:
    """An answer: `rows` are the first of `row_count`. `statement` and `parameters` are what was run, to the letter."""

    question: Question
    statement: str
    parameters: Parameters
    row_count: int
    rows: tuple[Row, ...]

    @property
    def is_cut(self) -> bool:
        return len(self.rows) < self.row_count

    @property
    def extent(self) -> str:
        """How much of the answer is here: ``12 rows``, or ``the first 500 of 1,234 rows``."""
        rows = f"{self.row_count:,} {'row' if self.row_count == 1 else 'rows'}"
        return f"the first {len(self.rows):,} of {rows}" if self.is_cut else rows

    def to_json(self) -> dict[str, Any]:
        question = self.question
        return {
            "id": question.id,
            "title": question.title,
            "answers": question.answers,
            "note": question.note,
            "columns": [
                {"name": column.name, "heading": column.heading, "kind": column.kind.value} for column in question.columns
            ],
            "sign_off": list(question.sign_off),
            "sql": self.statement,
            "parameters": self.parameters,
            "row_count": self.row_count,
            "extent": self.extent,
            "rows": [{name: _plain(value) for name, value in row.items()} for row in self.rows],
        }


@dataclass(frozen=True, slots=True)
class Document:
    """A report. `records` counts the calls' records of the interval by origin; `instance` is None where the folder has none."""

    kind: ReportKind
    made_at: datetime
    version: str
    instance: str | None
    asked: Asked
    interval: Interval
    coverage: tuple[Coverage, ...]
    verification: Verification
    damaged: tuple[Damage, ...]
    records: Mapping[str, int]
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    index_fault: str | None

    @property
    def named_damage(self) -> tuple[str, ...]:
        """The first places of damage; `damaged` has all."""
        return tuple(map(str, self.damaged[:_NAMED]))

    @property
    def limits(self) -> tuple[str, ...]:
        """What the log cannot say, and what else must be known to read the report."""
        return (*self.notes, *_LIMITS)

    def to_json(self) -> bytes:
        """ASCII: nothing that was recorded can command a terminal."""
        document = {
            "report": self.kind.name,
            "format": FORMAT,
            "title": self.kind.title,
            "keytrail_version": self.version,
            "made_at": time_text(self.made_at),
            "instance": self.instance,
            "asked": self.asked.to_json(),
            "interval": {"since": time_text(self.interval.since), "until": time_text(self.interval.until)},
            "coverage": [
                {"log": one.log, "first": one.first, "last": one.last, "remark": coverage_remark(one, self.interval)}
                for one in self.coverage
            ],
            "verification": self.verification.to_json(),
            "damaged_count": len(self.damaged),
            "damaged": list(self.named_damage),
            "records": dict(self.records),
            "limits": list(self.limits),
            "tables": [table.to_json() for table in self.tables],
        }
        return json.dumps(document, indent=2).encode() + b"\n"


_FROM_INDEX = (
    "Rows were read from the index, as far as it has them. The verification is of the logs and not of the index: whoever can "
    "write that can change rows here. Made with --no-index, a report is read from the logs alone."
)
_LIMITS = (
    "Calls that did not pass keytrail are not in its logs. `keytrail reconcile` compares them with AWS's CloudTrail.",
    "A data key that was unwrapped is not data that was read; and who keeps an unwrapped key needs no further call to use it.",
    "Times are those of the host's clock. Records that are not yet under a signed checkpoint can still be cut off by root.",
    "Verification here uses the public key and the checkpoints of the data folder. Against one that was kept elsewhere, verify "
    "with `keytrail verify --checkpoint`.",
)


def build(
    kind: ReportKind,
    data: Path,
    asked: Asked,
    since: datetime | None,
    until: datetime,
    *,
    made_at: datetime,
    version: str,
    verify_logs: VerifyLogs | None,
    max_rows: int = DEFAULT_ROWS,
    use_index: bool = True,
    reading: Progress | None = None,
    verifying: Progress | None = None,
) -> Document:
    """Ask all questions of `kind` of the data folder.

    From `since` on (None: from the oldest record on), before `until`. Without `verify_logs` nothing is verified, and the document
    says so. Raises `QueryError`, OSError.
    """
    only_sound = verify_logs is not None  # nobody signs for rows that rotted beneath logs that are whole
    with (
        open_events(data, use_index=use_index, only_sound=only_sound, progress=reading) as events,
        limited(events.database, None, events.require_sound),
    ):
        covered = Interval(since or _oldest(events.coverage) or until - _NOTHING, until)
        scope = kind.scope_of(asked, events.database)
        parameters: Parameters = {
            "since": _sql_moment(covered.since),
            "until": _sql_moment(covered.until),
            "step": "hour" if covered.until - covered.since <= _HOURLY else "day",
            **scope.parameters,
        }
        tables = tuple(answer(events.database, question, scope, parameters, max_rows) for question in kind.questions)
        records = _records(events.database, parameters)
    notes = list(scope.notes)
    if events.indexed:
        notes.append(_FROM_INDEX)
    if covered.until > made_at:
        notes.append(f"The interval was not over when this report was made, at {time_text(made_at)}.")
    return Document(
        kind=kind,
        made_at=made_at,
        version=version,
        instance=_instance(data),
        asked=asked,
        interval=covered,
        coverage=events.coverage,
        verification=_verification(data, verify_logs, verifying),
        damaged=events.damaged,
        records=records,
        notes=tuple(notes),
        tables=tables,
        index_fault=events.index_fault,
    )


def answer(database: duckdb.DuckDBPyConnection, question: Question, scope: Scope, parameters: Parameters, max_rows: int) -> Table:
    """Run the statement of `question`; all rows are counted, and `max_rows` of them kept. Raises duckdb.Error."""
    statement = question.statement(scope.pieces)
    bound = {name: parameters[name] for name in sorted(parameter_names(statement))}
    rows: list[Row] = []
    count = 0
    for batch in database.execute(statement, bound).to_arrow_reader(_BATCH_ROWS):
        room = batch.num_rows if question.is_whole else max_rows - len(rows)
        rows += batch.slice(0, room).to_pylist()
        count += batch.num_rows
    return Table(question, statement, bound, count, tuple(_with_made(row, question.columns) for row in rows))


def coverage_remark(coverage: Coverage, interval: Interval) -> str:
    """How far the log reaches over the interval."""
    if coverage.first is None or coverage.last is None:
        return "the log holds no record that can be read"
    since, until = time_text(interval.since), time_text(interval.until)
    if coverage.last < since or coverage.first >= until:
        return "the log has no record of the interval"
    begins = "begins within the interval" if coverage.first > since else "covers the interval's beginning"
    ends = "its last record is from before the interval's end" if coverage.last < until else "goes on after it"
    return f"{begins}; {ends}"


def _with_made(row: Row, columns: Sequence[Column]) -> Row:
    made = {column.name: policy_diff(row["policy_before"], row["policy"]) for column in columns if column.kind is Kind.DIFF}
    return row | made


def _oldest(coverage: Sequence[Coverage]) -> datetime | None:
    return min((datetime.fromisoformat(one.first) for one in coverage if one.first is not None), default=None)


def _records(database: duckdb.DuckDBPyConnection, parameters: Parameters) -> dict[str, int]:
    within = "time >= $since::TIMESTAMP AND time < $until::TIMESTAMP"
    counted = fill(f"SELECT origin, count(*) FROM calls WHERE {within} AND NOT {{own}} GROUP BY origin", PIECES)  # noqa: S608 - constants
    counts = dict(database.execute(counted, {name: parameters[name] for name in ("since", "until")}).fetchall())
    return {origin: counts.get(origin, 0) for origin in ("keytrail", "cloudtrail")}


def _verification(data: Path, verify_logs: VerifyLogs | None, progress: Progress | None) -> Verification:
    if verify_logs is None:
        return Verification(State.NOT_ASKED)
    try:
        report = verify_logs(data, progress)
    except NoInstance:
        return Verification(
            State.IMPOSSIBLE, "the data folder has no keytrail.json that can be read, so nothing is known to verify with"
        )
    except AuditError as error:
        return Verification(State.IMPOSSIBLE, str(error))
    return Verification(State.PASSED if report.passed else State.FAILED, report=report)


def _instance(data: Path) -> str | None:
    try:
        return Instance.load(data).id
    except NoInstance:
        return None


def _sql_moment(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")


def _plain(value: object) -> object:
    match value:
        case datetime():
            return time_text(value.replace(tzinfo=UTC))
        case date():
            return value.isoformat()
        case _:
            return value
