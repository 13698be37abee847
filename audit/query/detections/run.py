"""All rules, asked of the events of a data folder: the tables that they stand on, what they find, what is suppressed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from audit.query.detections.contracts import WITH_CONTEXT, load_contracts
from audit.query.detections.findings import Finding, Severity, Unevaluated
from audit.query.detections.lookups import family_of, network_of
from audit.query.detections.policies import opened_to
from audit.query.detections.questions import Question, ask
from audit.query.detections.rules import DERIVED, RULES, VIEWS, Need, Rule
from audit.query.detections.settings import Settings, Suppression, Tuning
from audit.query.times import time_text

#: Tables of what Python tells of a column's values: name → column, the answer's name and type, what answers.
_LOOKUPS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "networks": ("source_ip", "network VARCHAR", network_of),
    "agents": ("user_agent", "agent VARCHAR", family_of),
    "policies": ("policy", "opened_to VARCHAR[]", opened_to),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What detection found, in order; what it could not ask; which suppressions held how many findings back; and what a reader
    has to know (`notes`). `below` findings are graver than nothing, and less grave than was asked for."""

    findings: tuple[Finding, ...]
    unevaluated: tuple[Unevaluated, ...]
    suppressed: tuple[tuple[Suppression, int], ...]
    notes: tuple[str, ...]
    below: int


def prepare(database: duckdb.DuckDBPyConnection) -> None:
    """Make the views that rules select from. An imported event of a call that has a record here is left out."""
    columns = ", ".join(f"{sql} AS {name}" for name, sql in DERIVED.items())
    calls = "SELECT * FROM calls"
    if database.execute("SELECT 1 FROM calls WHERE origin <> 'keytrail' LIMIT 1").fetchall():
        database.execute("""
            CREATE TABLE bypasses AS SELECT * FROM calls WHERE origin <> 'keytrail' AND (request_id IS NULL OR request_id NOT IN
                (SELECT request_id FROM events WHERE origin = 'keytrail' AND request_id IS NOT NULL))""")
        calls = "SELECT * FROM calls WHERE origin = 'keytrail' UNION ALL SELECT * FROM bypasses"
    database.execute(f"CREATE VIEW observed AS SELECT *, {columns} FROM ({calls})")  # noqa: S608 - of constants
    for name, select in {**VIEWS, "with_context": WITH_CONTEXT}.items():
        database.execute(f"CREATE VIEW {name} AS {select}")
    for name, (column, typed, answer) in _LOOKUPS.items():
        values = [
            value
            for (value,) in database.execute(
                f"SELECT DISTINCT {column} FROM observed WHERE {column} IS NOT NULL ORDER BY 1"  # noqa: S608 - of constants
            ).fetchall()
        ]
        database.execute(f"CREATE TABLE {name} ({column} VARCHAR, {typed})")
        _fill(database, name, ((value, answer(value)) for value in values))


def _fill(database: duckdb.DuckDBPyConnection, table: str, rows: Iterable[Sequence[Any]]) -> None:
    listed = list(rows)
    if listed:
        names = [f"c{number}" for number in range(len(listed[0]))]
        database.register("filling", pa.table([pa.array(column) for column in zip(*listed, strict=True)], names=names))
        database.execute(f"INSERT INTO {table} SELECT * FROM filling")  # noqa: S608 - a name of ours
        database.unregister("filling")


def detect(
    database: duckdb.DuckDBPyConnection,
    settings: Settings,
    since: datetime,
    baseline: timedelta,
    *,
    now: datetime,
    least: Severity = Severity.LOW,
    evidence: int = 10,
    more: Sequence[Question] = (),
    unevaluated: Sequence[Unevaluated] = (),
) -> Outcome:
    """Ask the built-in rules and `more` of a database that `prepare` made ready, whose events begin `baseline` before `since`.

    Raises `QueryError` for a contract that cannot be checked, duckdb.Error.
    """
    if settings.contracts:
        load_contracts(database, settings.contracts, since)
    if settings.canaries:
        marks = dict.fromkeys((mark, canary.name, canary.note) for canary in settings.canaries for mark in canary.marks)
        database.execute("CREATE TABLE canaries (mark VARCHAR, canary VARCHAR, note VARCHAR)")
        _fill(database, "canaries", marks)
    notes, has_baseline = _baseline(database, since, baseline)
    missing = {
        Need.BASELINE: not has_baseline,
        Need.CONTRACTS: not settings.contracts,
        Need.CANARIES: not settings.canaries,
    }
    rules = [rule for rule in RULES if settings.tunings.get(rule.id, Tuning()).enabled]
    asked = [rule for rule in rules if rule.needs is None or not missing[rule.needs]]
    if skipped := [rule.id for rule in rules if rule.needs is Need.BASELINE and not has_baseline]:
        notes.append(f"not asked, for want of a baseline: {', '.join(skipped)}")
    questions = [*(question_of(rule, settings, since) for rule in asked), *more]
    found = sorted((one for question in questions for one in ask(database, question, since, evidence)), key=lambda one: one.order)
    expired = [one for one in settings.suppressions if one.until <= now]
    notes += [f"a suppression has expired on {time_text(one.until)[:10]}: {one.reason}" for one in expired]
    told, held = _suppress(found, [one for one in settings.suppressions if one.until > now])
    shown = tuple(one for one in told if one.severity >= least)
    return Outcome(shown, tuple(unevaluated), tuple(held), tuple(notes), len(told) - len(shown))


def question_of(rule: Rule, settings: Settings, since: datetime) -> Question:
    """`rule` as the settings tune it."""
    tuning = settings.tunings.get(rule.id, Tuning())
    parameters = {**rule.parameters, **tuning.parameters}
    within = parameters.get("within")
    past_from = since - within if isinstance(within, timedelta) else since
    return Question(
        rule.id,
        rule.title,
        rule.severity if tuning.severity is None else tuning.severity,
        rule.hits,
        rule.subject,
        rule.why,
        rule.burst,
        rule.numbers,
        rule.having,
        {
            **parameters,
            "past_from": past_from.astimezone(UTC).replace(tzinfo=None),
            "trusted": list(settings.trusted_accounts),
        },
    )


def _baseline(database: duckdb.DuckDBPyConnection, since: datetime, baseline: timedelta) -> tuple[list[str], bool]:
    """What to say of the time before `since`, and whether there is any."""
    [(oldest,)] = database.execute("SELECT min(time) FROM observed").fetchall()
    if oldest is None or oldest.replace(tzinfo=UTC) >= since:
        return ["there is no event before --since that could tell what is usual"], False
    begin = oldest.replace(tzinfo=UTC)
    if begin - (since - baseline) > max(baseline / 10, timedelta(hours=1)):
        return [f"the first event of the baseline is of {time_text(begin)[:10]}: what was usual before is not known"], True
    return [], True


def _suppress(
    found: Iterable[Finding], suppressions: Sequence[Suppression]
) -> tuple[list[Finding], list[tuple[Suppression, int]]]:
    told, held = list[Finding](), dict.fromkeys(range(len(suppressions)), 0)
    for finding in found:
        number = next((number for number, one in enumerate(suppressions) if one.covers(finding)), None)
        if number is None:
            told.append(finding)
        else:
            held[number] += 1
    return told, [(suppressions[number], count) for number, count in held.items() if count]
