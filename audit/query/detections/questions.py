"""A question to the events, and the findings that its answer is: the SQL that is the same for every rule.

`hits` selects events with the columns of `observed`. Grouped, all events of one subject are one finding. In a burst, the events
of one subject are a finding where at least `$count` of them (or of their distinct `value`s) lie within `$within`: the window
slides over the events, it is no raster of time; windows whose events lie no further than `$within` apart are one burst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb

from audit.query.detections.findings import Evidence, Finding, Severity

_PLACE = ", ".join(f"'{name}': {name}" for name in ("time", "event_id", "request_id", "origin", "log", "record"))
_ORDER = "time, log, record, event_id"

#: Measures of a burst.
EVENTS_WITHIN = "count(*)"
VALUES_WITHIN = "count(DISTINCT value)"


@dataclass(frozen=True, slots=True)
class Question:
    """What a rule asks.

    `hits` is a SELECT of events; `subject`, label → SQL over them, what a finding is of. With `burst`, one of the measures, they
    are grouped by the sliding window. `numbers`, name → aggregate, are for `why`, a template of those, the subject's labels,
    `count`, `times`, `first`, `last` and the parameters (`count` is `least` there). `having` says which groups are findings.
    """

    rule: str
    title: str
    severity: Severity
    hits: str
    subject: Mapping[str, str]
    why: str
    burst: str | None = None
    numbers: Mapping[str, str] = field(default_factory=dict)
    having: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def ask(database: duckdb.DuckDBPyConnection, question: Question, since: datetime, evidence: int) -> Iterator[Finding]:
    """The findings of `question`, each with at most `evidence` records. Raises duckdb.Error."""
    sql = _sql(question)
    known = {**question.parameters, "since": since.astimezone(UTC).replace(tzinfo=None), "evidence": evidence}
    [statement] = database.extract_statements(sql)
    answer = database.execute(statement, {name: known[name] for name in statement.named_parameters})
    names = [column[0] for column in answer.description or ()]
    for row in answer.fetchall():
        yield _finding(question, dict(zip(names, row, strict=True)))


def _finding(question: Question, row: Mapping[str, Any]) -> Finding:
    subject = {label: row[f"s{number}"] for number, label in enumerate(question.subject)}
    known = {**question.parameters, "least": question.parameters.get("count"), **row, **subject}
    words = {name: _word(value) for name, value in known.items()}
    words["times"] = "once" if row["count"] == 1 else f"{row['count']} times"
    return Finding(
        question.rule,
        question.title,
        question.severity,
        row["first"].replace(tzinfo=UTC),
        row["last"].replace(tzinfo=UTC),
        row["count"],
        subject,
        question.why.format_map(words),
        tuple(Evidence(**{**one, "time": one["time"].replace(tzinfo=UTC)}) for one in row["evidence"]),
    )


def _sql(question: Question) -> str:
    subject = "".join(f"CAST({sql} AS VARCHAR) AS s{number}, " for number, sql in enumerate(question.subject.values()))
    keys = ", ".join(f"s{number}" for number in range(len(question.subject)))
    numbers = "".join(f", {sql} AS {name}" for name, sql in question.numbers.items())
    having = question.having or "true"
    found = f"WITH hits AS (SELECT *, {subject}FROM ({question.hits}))"
    if question.burst is not None:
        found += _bursts(question.burst, keys)
        having += " AND max(time) >= $since"
    groups = ", ".join(filter(None, (keys, "burst" if question.burst is not None else "")))
    return f"""{found}
        SELECT {keys + ", " if keys else ""}min(time) AS first, max(time) AS last, count(*) AS count,
               list({{{_PLACE}}} ORDER BY {_ORDER})[:$evidence]
                   AS evidence{numbers}
        FROM {"members" if question.burst is not None else "hits"}
        {f"GROUP BY {groups}" if groups else ""} HAVING count(*) > 0 AND {having}"""  # noqa: S608 - of our own tables and of Sigma's backend


def _bursts(measure: str, keys: str) -> str:
    """The table `members`: the hits that lie in a burst, with its number."""
    by = f"PARTITION BY {keys} ORDER BY time" if keys else "ORDER BY time"
    return f""",
        counted AS (SELECT *, {measure} OVER ({by} RANGE BETWEEN $within PRECEDING AND CURRENT ROW) AS reached FROM hits),
        peaks AS (SELECT *, max(reached) OVER ({by} RANGE BETWEEN CURRENT ROW AND $within FOLLOWING) AS peak FROM counted),
        apart AS (SELECT *, time - lag(time) OVER ({by}) > $within AS is_apart FROM peaks WHERE peak >= $count),
        members AS (SELECT *, count(*) FILTER (is_apart) OVER ({by} ROWS UNBOUNDED PRECEDING) AS burst FROM apart)"""  # noqa: S608 - ours


def _word(value: object) -> str:
    """A value in a sentence."""
    match value:
        case None:
            return "(not told)"
        case timedelta():
            return span_text(value)
        case datetime():
            return value.isoformat(sep=" ", timespec="seconds") + "Z"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def span_text(span: timedelta) -> str:
    """A duration as the settings take it: ``90d``, ``5m``, ``90s``."""
    seconds = round(span.total_seconds())
    return next(
        (f"{seconds // size}{unit}" for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)) if seconds % size == 0),
        f"{seconds}s",
    )
