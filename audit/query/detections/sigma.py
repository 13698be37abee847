"""Sigma rules for CloudTrail, as they are, to questions: pySigma reads them, its DuckDB backend writes their conditions as SQL.

`_Backend` corrects where that backend (0.1.4) and the Sigma specification part: text is compared without regard to case, and `%`,
`_` and `\\` in it are themselves; quotes in regular expressions are quoted; a field that is missing does not satisfy a condition,
so that its negation does; numbers compare with text. Its correlations leave the time span aside and are not used: ours slide.

Source: the Sigma rules specification 2.0 and correlation rules specification 2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, cast

import duckdb
import sigma.correlations as correlations
from sigma.collection import SigmaCollection
from sigma.conditions import ConditionFieldEqualsValueExpression, ConditionNOT
from sigma.conversion.state import ConversionState
from sigma.exceptions import SigmaError, SigmaRuleLocation
from sigma.processing.pipeline import ProcessingPipeline
from sigma.rule import SigmaRule
from sigma.types import SigmaCompareExpression, SigmaRegularExpression, SigmaString, SigmaTimestampPart
from sigma_backend_duckdb import DuckDBBackend  # type: ignore[import-untyped]  # it carries no types

from audit.errors import QueryError
from audit.query.detections.cloudtrail import LISTS, literal, sql_of
from audit.query.detections.findings import Severity, Unevaluated
from audit.query.detections.questions import EVENTS_WITHIN, VALUES_WITHIN, Question
from audit.query.statement import admit

_SUFFIXES = (".yml", ".yaml")
#: What stands for one value of a list while its condition is written.
_ELEMENT = "one of the values"
_WHY = "{count} events match the Sigma rule"
_OPERATORS = correlations.SigmaCorrelationConditionOperator


class NotAskable(SigmaError):
    """Why a rule cannot be asked; pySigma lets its own kind of error pass as it is."""


@dataclass(slots=True)
class Ruleset:
    """What a folder of Sigma rules comes to; `elsewhere` counts rules for other log sources."""

    questions: list[Question] = field(default_factory=list)
    unevaluated: list[Unevaluated] = field(default_factory=list)
    elsewhere: int = 0


def load(paths: Sequence[Path], database: duckdb.DuckDBPyConnection, since: datetime) -> Ruleset:
    """The rules of files and folders (`*.yml`, `*.yaml`, also below). Raises OSError, `QueryError` where a folder has none.

    Rules that cannot be asked are told as such, with the field or the feature that is missing, and take no other rule with them.
    """
    ruleset = Ruleset()
    collection = _read(paths, ruleset)
    backend = _Backend()
    conditions: dict[int, str] = {}
    correlated = []
    for rule in collection.rules:
        if not isinstance(rule, SigmaRule):
            correlated.append(rule)
        elif not _is_of_cloudtrail(rule):
            ruleset.elsewhere += 1
        else:
            try:
                conditions[id(rule)] = _condition(backend, rule, database)
            except Exception as error:  # pySigma, and rules that it was not made for, fail in many ways: the rule is named
                ruleset.unevaluated.append(_unevaluated(rule, error))
    for rule in correlated:
        try:
            rule.resolve_rule_references(collection)
            ruleset.questions.append(_correlation(rule, conditions, since))
        except Exception as error:
            ruleset.unevaluated.append(_unevaluated(rule, error))
    for rule in collection.rules:  # those that only serve a correlation are no question of their own
        if id(rule) in conditions and rule._output:
            hits = f"SELECT * FROM observed WHERE time >= $since AND ({conditions[id(rule)]})"  # noqa: S608 - see `_Backend`
            subject = {"principal": "principal", "key": "key"}
            ruleset.questions.append(Question(_id(rule), str(rule.title), _severity(rule), hits, subject, _WHY))
    return ruleset


def _read(paths: Sequence[Path], ruleset: Ruleset) -> SigmaCollection:
    collections = []
    for path in paths:
        files = sorted(filter(_is_rule, path.rglob("*"))) if path.is_dir() else [path]
        if not files:
            raise QueryError(f"no Sigma rule in {path}: no file ends in {' or '.join(_SUFFIXES)}")
        for file in files:
            content = file.read_bytes()
            try:
                collections.append(
                    SigmaCollection.from_yaml(
                        content, True, SigmaRuleLocation(file), collect_filters=True, resolve_references=False
                    )
                )
            except Exception as error:  # not YAML, or not of a rule's shape: pySigma gives errors of many kinds
                ruleset.unevaluated.append(Unevaluated("", "", str(file), f"no Sigma rule: {_reason(error)}"))
    try:
        return SigmaCollection.merge(collections, resolve_references=False)
    except SigmaError as error:  # a filter that is for none of the rules, for one
        raise QueryError(f"the Sigma rules do not go together: {_reason(error)}") from error


def _is_rule(path: Path) -> bool:
    return path.suffix in _SUFFIXES and path.is_file()  # a pipe may be called so too, and would be waited for


def _condition(backend: _Backend, rule: SigmaRule, database: duckdb.DuckDBPyConnection) -> str:
    """What an event satisfies that the rule is about, as SQL over `observed`."""
    if rule.errors:
        raise rule.errors[0]
    backend.patterns.clear()
    backend.convert_rule(rule)
    for pattern in backend.patterns:  # DuckDB's regular expressions know less than Python's: no look-around
        database.execute("SELECT regexp_matches('', ?)", [pattern])
    condition = " OR ".join(f"({one})" for one in rule.get_conversion_result())
    if not condition:
        raise NotAskable("it has no condition")
    select = f"SELECT 1 FROM observed WHERE {condition}"  # noqa: S608 - see `_Backend`
    admit(database, select, frozenset(("observed",)))
    database.execute(f"EXPLAIN {select}")
    return condition


def _correlation(rule: correlations.SigmaCorrelationRule, conditions: dict[int, str], since: datetime) -> Question:
    """A correlation as a burst. Raises `NotAskable` where it is none."""
    if rule.errors:
        raise rule.errors[0]
    kind, wanted = rule.type, rule.condition
    types = correlations.SigmaCorrelationType
    if kind not in (types.EVENT_COUNT, types.VALUE_COUNT, types.TEMPORAL):
        raise NotAskable(f"correlations of type {kind.name.lower()} are not supported: event_count, value_count, temporal are")
    if not isinstance(wanted, correlations.SigmaCorrelationCondition) or wanted.op not in (_OPERATORS.GTE, _OPERATORS.GT):
        raise NotAskable("of correlations' conditions, gte and gt are supported")
    value = "NULL"
    if kind is types.VALUE_COUNT:
        if not isinstance(wanted.fieldref, str):
            raise NotAskable("value_count is supported of one field")
        value = _field(wanted.fieldref)
    elif kind is types.TEMPORAL:
        value = "rule"
    groups = list(rule.group_by or ())
    selects = []
    for number, reference in enumerate(rule.referenced_rules):
        condition = conditions.get(id(reference.rule))
        if condition is None:
            raise NotAskable(f"the rule {reference.reference!r} that it refers to cannot be asked, or is a correlation itself")
        columns = [f"{_field(_alias(rule, reference, group))} AS group_{place}" for place, group in enumerate(groups)]
        present = "".join(f" AND {column.rpartition(' AS ')[0]} IS NOT NULL" for column in columns)
        listed = "".join(f", {column}" for column in columns)
        selects.append(
            f"SELECT *, {number} AS rule{listed} FROM observed WHERE time >= $past_from AND ({condition}){present}"  # noqa: S608
        )
    hits = f"SELECT *, {value} AS value FROM ({' UNION ALL '.join(selects)})"  # noqa: S608 - see `_Backend`
    within = timedelta(seconds=rule.timespan.seconds)
    return Question(
        _id(rule),
        str(rule.title),
        _severity(rule),
        hits,
        {group: f"group_{place}" for place, group in enumerate(groups)},
        "{count} events match the Sigma correlation; {least} within {within} are enough",
        EVENTS_WITHIN if kind is types.EVENT_COUNT else VALUES_WITHIN,
        parameters={
            "count": wanted.count + (wanted.op is _OPERATORS.GT),
            "within": within,
            "past_from": (since - within).astimezone(UTC).replace(tzinfo=None),
        },
    )


def _alias(rule: correlations.SigmaCorrelationRule, reference: correlations.SigmaRuleReference, group: str) -> str:
    """The field that `group` is called in the events of a rule that is referred to."""
    found = rule.aliases.aliases.get(group)
    return group if found is None else next((name for of, name in found.mapping.items() if of == reference), group)


def _field(name: str) -> str:
    sql = sql_of(name)
    if sql is None:
        raise NotAskable(f"field {name} is not in the events")
    return sql


class _Backend(DuckDBBackend):  # type: ignore[misc]  # it carries no types
    """Conditions over `observed`. Nothing of a rule gets into the SQL but names of `cloudtrail` and literals that are quoted."""

    re_expression: ClassVar[str] = "regexp_matches({field}, {regex})"
    field_timestamp_part_expression: ClassVar[str] = "EXTRACT({timestamp_part} FROM try_cast({field} AS TIMESTAMP))"

    def __init__(self) -> None:
        super().__init__(ProcessingPipeline())
        self.patterns: list[str] = []

    def escape_and_quote_field(self, field_name: str) -> str:
        if field_name == _ELEMENT:
            return "element"
        if field_name in LISTS:
            return f"({LISTS[field_name]})"
        return _field(field_name)

    def convert_condition_not(self, cond: ConditionNOT, state: ConversionState) -> str:
        return f"(({self.convert_condition(cond.args[0], state)}) IS NOT TRUE)"

    def convert_condition_field_eq_val(self, cond: ConditionFieldEqualsValueExpression, state: ConversionState) -> Any:
        if cond.field in LISTS and isinstance(cond.value, SigmaString | SigmaRegularExpression):
            one = super().convert_condition_field_eq_val(ConditionFieldEqualsValueExpression(_ELEMENT, cond.value), state)
            return f"(len(list_filter({LISTS[cond.field]}, lambda element: {one})) > 0)"
        return super().convert_condition_field_eq_val(cond, state)

    def convert_condition_field_eq_val_str(self, cond: ConditionFieldEqualsValueExpression, state: ConversionState) -> str:
        return self._like(cond, "ILIKE")

    def convert_condition_field_eq_val_str_case_sensitive(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> str:
        return self._like(cond, "LIKE")

    def _like(self, cond: ConditionFieldEqualsValueExpression, operator: str) -> str:
        pattern = cast(SigmaString, cond.value).convert("\\", "%", "_", "\\")  # pySigma dispatches by its type
        return f"{self.escape_and_quote_field(cond.field)} {operator} {literal(pattern)} ESCAPE '\\'"

    def convert_value_re(self, r: SigmaRegularExpression, state: ConversionState) -> str:
        self.patterns.append(str(super().convert_value_re(r, state)))
        return literal(self.patterns[-1])

    def convert_condition_field_eq_val_num(self, cond: ConditionFieldEqualsValueExpression, state: ConversionState) -> str:
        return f"try_cast({self.escape_and_quote_field(cond.field)} AS DOUBLE) = {cond.value}"

    def convert_condition_field_eq_val_bool(self, cond: ConditionFieldEqualsValueExpression, state: ConversionState) -> str:
        return f"{self.escape_and_quote_field(cond.field)} ILIKE '{str(cond.value).lower()}'"

    def convert_condition_field_compare_op_val(self, cond: ConditionFieldEqualsValueExpression, state: ConversionState) -> str:
        comparison = cast(SigmaCompareExpression, cond.value)  # pySigma dispatches by its type
        if isinstance(comparison.number, SigmaTimestampPart):
            return str(super().convert_condition_field_compare_op_val(cond, state))
        sign = self.compare_operators[comparison.op]
        return f"try_cast({self.escape_and_quote_field(cond.field)} AS DOUBLE) {sign} {comparison.number}"

    def finalize_query_default(self, rule: object, query: str, index: int, state: ConversionState) -> str:
        return query


def _is_of_cloudtrail(rule: SigmaRule) -> bool:
    source = rule.logsource
    return source.product == "aws" and source.service in (None, "cloudtrail") and source.category is None


def _id(rule: SigmaRule | correlations.SigmaCorrelationRule) -> str:
    return str(rule.id or rule.name or rule.title)


def _severity(rule: SigmaRule | correlations.SigmaCorrelationRule) -> Severity:
    """As the rule says; medium where it does not."""
    return Severity.MEDIUM if rule.level is None else Severity[rule.level.name]


def _unevaluated(rule: SigmaRule | correlations.SigmaCorrelationRule, error: Exception) -> Unevaluated:
    where = str(rule.source.path) if rule.source is not None else ""
    return Unevaluated(_id(rule), str(rule.title), where, _reason(error))


def _reason(error: Exception) -> str:
    """One line."""
    return " ".join(str(error).split()) or type(error).__name__
