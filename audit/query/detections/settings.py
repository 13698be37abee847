"""The settings of detection: TOML files, strict: what is not known is refused by its name. config/detections.example.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, TypeVar

from audit.errors import QueryError
from audit.query.detections.contracts import Contract
from audit.query.detections.findings import Finding, Severity
from audit.query.detections.rules import BY_ID, Parameter
from audit.query.filters import glob_matches

T = TypeVar("T")
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_ACCOUNT = re.compile(r"[0-9]{12}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the settings say of one rule."""

    enabled: bool = True
    severity: Severity | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suppression:
    """Findings that are known and not told before `until`: of `rule` (None: any), of principals and keys that the globs name."""

    until: datetime
    reason: str
    rule: str | None = None
    principal: str | None = None
    key: str | None = None

    def covers(self, finding: Finding) -> bool:
        globs = ((self.principal, finding.subject.get("principal")), (self.key, finding.subject.get("key")))
        return (self.rule is None or self.rule == finding.rule) and all(
            glob is None or glob_matches(glob, value) for glob, value in globs
        )


@dataclass(frozen=True, slots=True)
class Canary:
    """A ciphertext's fingerprint, or a name of a key, that nobody has reason to use."""

    name: str
    note: str = "a canary"

    @property
    def marks(self) -> tuple[str, ...]:
        """The texts in records that mean it."""
        arn, _, short = self.name.partition(":key/")
        alias = re.fullmatch(r"arn:[^:]*:kms:[^:]*:[^:]*:(alias/.+)", self.name, re.DOTALL)
        return tuple(filter(None, (self.name, short if arn.startswith("arn:") else "", alias[1] if alias else "")))


@dataclass(frozen=True, slots=True)
class Settings:
    """All that detection can be told."""

    tunings: Mapping[str, Tuning] = field(default_factory=dict)
    trusted_accounts: tuple[str, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    canaries: tuple[Canary, ...] = ()
    contracts: tuple[Contract, ...] = ()

    def merged(self, other: Settings) -> Settings:
        """Both; of what both say of a rule, the other's. Contracts of the earlier come first."""
        return Settings(
            {**self.tunings, **other.tunings},
            self.trusted_accounts + other.trusted_accounts,
            self.suppressions + other.suppressions,
            self.canaries + other.canaries,
            self.contracts + other.contracts,
        )


def load_settings(paths: Sequence[Path]) -> Settings:
    """The settings of all files. Raises `QueryError` that names the file and the place, OSError."""
    settings = Settings()
    for path in paths:
        try:
            settings = settings.merged(parse_settings(tomllib.loads(path.read_bytes().decode())))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise QueryError(f"{path}: not TOML: {error}") from error
        except QueryError as error:
            raise QueryError(f"{path}: {error}") from error
    return settings


def parse_settings(document: Mapping[str, Any]) -> Settings:
    """Settings from what TOML gives. Raises `QueryError` that names the place."""
    _only("the file", document, "trusted_accounts", "rules", "suppress", "canary", "contract")
    trusted = _texts("trusted_accounts", document.get("trusted_accounts", []))
    for account in trusted:
        if not _ACCOUNT.fullmatch(account):
            raise QueryError(f"trusted_accounts: {account!r} is no account; accepted: 12 digits")
    rules = _typed("rules", document.get("rules", {}), dict)
    for id in rules:
        if id not in BY_ID:
            raise QueryError(f"rules: there is no rule {id!r}; known: {', '.join(BY_ID)}")
    return Settings(
        {id: _tuning(id, _typed(f"rules.{id}", table, dict)) for id, table in rules.items()},
        trusted,
        _each("suppress", document, _suppression),
        _each("canary", document, _canary),
        _each("contract", document, _contract),
    )


def parse_duration(where: str, value: object) -> timedelta:
    """``45s``, ``5m``, ``24h``, ``90d``, ``2w``. Raises `QueryError`."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", value.strip(), re.ASCII) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise QueryError(f"{where}: not a duration: {value!r}; accepted: 45s, 5m, 24h, 90d, 2w")
    return timedelta(seconds=int(found[1]) * _UNITS_S[found[2]])


def parse_severity(where: str, value: object) -> Severity:
    """One of Sigma's. Raises `QueryError`."""
    known = {severity.word: severity for severity in Severity}
    if not isinstance(value, str) or value not in known:
        raise QueryError(f"{where}: not a severity: {value!r}; accepted: {', '.join(known)}")
    return known[value]


def _tuning(id: str, table: Mapping[str, Any]) -> Tuning:
    where, rule = f"rules.{id}", BY_ID[id]
    _only(where, table, "enabled", "severity", *rule.parameters)
    parameters: dict[str, Parameter] = {}
    for name, default in rule.parameters.items():
        if name not in table:
            continue
        value = table[name]
        if isinstance(default, timedelta):
            parameters[name] = parse_duration(f"{where}.{name}", value)
        elif isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31:
            parameters[name] = value
        else:
            raise QueryError(f"{where}.{name}: {value!r} is no number above 0")
    severity = parse_severity(f"{where}.severity", table["severity"]) if "severity" in table else None
    return Tuning(_typed(f"{where}.enabled", table.get("enabled", True), bool), severity, parameters)


def _suppression(where: str, table: Mapping[str, Any]) -> Suppression:
    _only(where, table, "rule", "principal", "key", "until", "reason")
    globs = {name: _typed(f"{where}.{name}", table[name], str) for name in ("rule", "principal", "key") if name in table}
    if not globs:
        raise QueryError(f"{where}: says of nothing what it suppresses; accepted: rule, principal, key")
    if "rule" in globs and globs["rule"].startswith("KT") and globs["rule"] not in BY_ID:
        raise QueryError(f"{where}.rule: there is no rule {globs['rule']!r}")
    for name in ("until", "reason"):
        if not table.get(name):
            raise QueryError(f"{where}: `{name}` is missing")
    return Suppression(_moment(f"{where}.until", table["until"]), _typed(f"{where}.reason", table["reason"], str), **globs)


def _canary(where: str, table: Mapping[str, Any]) -> Canary:
    _only(where, table, "fingerprint", "key", "note")
    names = [_typed(f"{where}.{kind}", table[kind], str) for kind in ("fingerprint", "key") if kind in table]
    if len(names) != 1 or not names[0]:
        raise QueryError(f"{where}: has to have one of `fingerprint` and `key`")
    name = names[0].lower() if "fingerprint" in table else names[0]
    if "fingerprint" in table and not _FINGERPRINT.fullmatch(name):
        raise QueryError(f"{where}.fingerprint: {names[0]!r} is none; accepted: 64 hex digits")
    return Canary(name, _typed(f"{where}.note", table.get("note", "a canary"), str))


def _contract(where: str, table: Mapping[str, Any]) -> Contract:
    _only(where, table, "key", "required", "allowed", "values")
    if not table.get("key"):
        raise QueryError(f"{where}: `key` is missing")
    values = _typed(f"{where}.values", table.get("values", {}), dict)
    return Contract(
        _typed(f"{where}.key", table["key"], str),
        _texts(f"{where}.required", table.get("required", [])),
        _texts(f"{where}.allowed", table["allowed"]) if "allowed" in table else None,
        {name: _typed(f"{where}.values.{name}", pattern, str) for name, pattern in values.items()},
    )


def _each(name: str, document: Mapping[str, Any], parse: Callable[[str, Mapping[str, Any]], T]) -> tuple[T, ...]:
    tables = _typed(name, document.get(name, []), list)
    return tuple(parse(f"{name} {number}", _typed(f"{name} {number}", table, dict)) for number, table in enumerate(tables, 1))


def _only(where: str, table: Mapping[str, Any], *known: str) -> None:
    for name in table:
        if name not in known:
            raise QueryError(f"{where}: {name!r} is not known; accepted: {', '.join(known)}")


def _typed(where: str, value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise QueryError(f"{where}: {value!r} is no {kind.__name__}")
    return value


def _texts(where: str, value: object) -> tuple[str, ...]:
    return tuple(_typed(where, text, str) for text in _typed(where, value, list))


def _moment(where: str, value: object) -> datetime:
    """A date of TOML is its first moment; a time without a zone is UTC."""
    match value:
        case datetime():
            return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        case date():
            return datetime.combine(value, time(), UTC)
        case _:
            raise QueryError(f"{where}: {value!r} is no date; accepted: 2026-12-31, without quotes")
