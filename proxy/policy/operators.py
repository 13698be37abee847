"""The condition operators, as a table, and how a condition holds.

A condition has an operator, a condition key, and values of the policy, of which one must match. The rules, by IAM's guide:

| the request's values | plain | …IfExists | ForAllValues: | ForAnyValue: |
|---|---|---|---|---|
| none | false; true where negated | true | true | false |
| one | matches | matches | matches | matches |
| several | – (see below) | – | each matches | any matches |

A negated operator matches where none of the policy's values does. ForAnyValue is false without values even with IfExists. To
ForAllValues and ForAnyValue an empty text counts as no value. `Null` asks whether there is a value at all.

Beyond the guide: several values for a plain operator (an encryption context with ``tenant`` and ``Tenant``) match where all of
them do, and may match where some do. A policy variable without a value: AWS says that it "might cause the entire statement to be
invalid"; here that value may match. What *may* match counts against the caller.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import ipaddress
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from functools import lru_cache
from typing import TypeAlias

from proxy.policy.patterns import MAYBE, NO, YES, Glob, LookUp, PatternError, Text, matcher


class Kind(Enum):
    """What the values of a condition key are."""

    TEXT = "String"
    ARN = "ARN"
    NUMBER = "Numeric"
    DATE = "Date"
    EPOCH = "Date or Numeric"
    BOOL = "Bool"
    ADDRESS = "IP address"


class Quantifier(Enum):
    ALL = "ForAllValues"
    ANY = "ForAnyValue"


#: Whether a value of the request matches one value of the policy.
Test: TypeAlias = Callable[[str, LookUp], int]
#: Reads a value of the policy: its text, and whether it may have variables. Raises PatternError.
Prepare: TypeAlias = Callable[[str, bool], Test]


@dataclass(frozen=True, slots=True)
class Operator:
    """A row of the table. `kinds`: which values it compares; `variables`: whether its values may have policy variables."""

    name: str
    negated: bool
    kinds: frozenset[Kind]
    variables: bool
    prepare: Prepare


@dataclass(frozen=True, slots=True)
class Condition:
    """``{operator: {key: values}}``, as written. `operator` is None for Null; `matches` is for one value of a request."""

    name: str
    operator: Operator | None
    quantifier: Quantifier | None
    if_exists: bool
    key: str
    values: tuple[str, ...]
    matches: Test

    def holds(self, look_up: LookUp) -> int:
        """Whether the condition is met by a request: NO, MAYBE or YES."""
        found = look_up(self.key)
        if found is None:
            return MAYBE
        if self.operator is None:
            return max(YES if (not found) == (value == "true") else NO for value in self.values)
        if self.quantifier is not None:
            results = [self.matches(value, look_up) for value in found if value]
            if self.quantifier is Quantifier.ALL:
                return min(results, default=YES)
            return max(results, default=NO)
        if not found:
            return YES if self.if_exists or self.operator.negated else NO
        if len(found) == 1:
            return self.matches(found[0], look_up)
        results = [self.matches(value, look_up) for value in found]
        return results[0] if min(results) == max(results) else MAYBE


_NAME = re.compile(r"(?:(ForAllValues|ForAnyValue):)?([A-Za-z]+?)(IfExists)?")


def read_condition(name: str, key: str, values: tuple[str, ...], *, variables: bool) -> Condition:
    """The condition of an operator's name, a condition key, and values. Raises PatternError, which says what is wrong."""
    found = _NAME.fullmatch(name)
    quantifier = Quantifier(found[1]) if found is not None and found[1] else None
    if found is None or (found[2] not in OPERATORS and found[2] != "Null"):
        raise PatternError(f"there is no condition operator {name!r}")
    if found[2] == "Null":
        if quantifier is not None or found[3]:
            raise PatternError("Null takes neither ForAllValues, nor ForAnyValue, nor IfExists")
        values = tuple(value.lower() for value in values)
        if not {"true", "false"}.issuperset(values):
            raise PatternError("the value of Null is true or false")
        return Condition(name, None, None, False, key, values, _joined((), negated=False))
    row = OPERATORS[found[2]]
    if not row.variables and variables and any("${" in value for value in values):
        raise PatternError(f"{name} takes no policy variables")
    tests = tuple(row.prepare(value, variables and row.variables) for value in values)
    return Condition(name, row, quantifier, found[3] is not None, key, values, _joined(tests, negated=row.negated))


def _joined(tests: tuple[Test, ...], *, negated: bool) -> Test:
    """Whether a value matches one of `tests`; where `negated`, none of them."""
    if len(tests) == 1 and not negated:
        return tests[0]

    def test(value: str, look_up: LookUp) -> int:
        best = NO
        for one in tests:
            result = one(value, look_up)
            if result > best:
                best = result
                if best == YES:
                    break
        return YES - best if negated else best

    return test


# --- The values of a policy, made ready ---------------------------------------------------------------------------------


def _prepare_text(wildcards: bool, make: Callable[[Glob], Callable[[str], object]]) -> Prepare:
    """`make` gives the check of a value, which is true of it or not."""

    def prepare(source: str, variables: bool) -> Test:
        text = Text.parse(source, variables=variables, wildcards=wildcards)
        if text.fixed is not None:
            check = make(text.fixed)
            return lambda value, _: YES if check(value) else NO

        def test(value: str, look_up: LookUp) -> int:
            resolved = text.resolve(look_up)
            return MAYBE if resolved is None else YES if make(resolved)(value) else NO

        return test

    return prepare


def _is(glob: Glob) -> Callable[[str], object]:
    return "".join(map(str, glob)).__eq__


def _is_ignoring_case(glob: Glob) -> Callable[[str], object]:
    wanted = "".join(map(str, glob)).lower()
    return lambda value: value.lower() == wanted


def _is_like(glob: Glob) -> Callable[[str], object]:
    return matcher(glob).fullmatch


def _prepare_arn(source: str, variables: bool) -> Test:
    """ARNs are compared part by part, so that no wildcard reaches over a colon, but in the last part."""
    parts = source.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn":
        raise PatternError(f"{source!r} is no ARN: it needs six parts between colons")
    if any("${" in part for part in parts[:5]) and variables:
        raise PatternError(f"{source!r}: a policy variable may stand behind the fifth colon only")
    tests = [_prepare_text(True, _is_like)(part, variables) for part in parts]

    def test(value: str, look_up: LookUp) -> int:
        found = value.split(":", 5)
        if len(found) != 6:
            return NO
        return min(one(part, look_up) for one, part in zip(tests, found, strict=True))

    return test


_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _prepare_number(compare: Callable[[float, float], bool]) -> Prepare:
    def prepare(source: str, variables: bool) -> Test:
        wanted = _number(source)
        if wanted is None:
            raise PatternError(f"{source!r} is no number")

        def test(value: str, look_up: LookUp) -> int:
            found = _number(value)
            return YES if found is not None and compare(found, wanted) else NO

        return test

    return prepare


_DATE = re.compile(
    r"(?P<year>[0-9]{4})(?:-(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2})"
    r"(?:T(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?)?"
    r"(?:Z|(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})))?)?)?"
)


@lru_cache(maxsize=256)
def date_us(text: str) -> int | None:
    """A date as of W3C's note (four digits are a year) or seconds since the epoch, in microseconds; None for no date."""
    found = _DATE.fullmatch(text)
    if found is None:
        number = _number(text)
        return None if number is None else round(number * 1_000_000)
    given = {name: int(value or 0) for name, value in found.groupdict().items() if name != "sign" and name != "fraction"}
    offset = timedelta(hours=given["hours"], minutes=given["minutes"])
    try:
        zone = UTC if not offset else timezone(-offset if found["sign"] == "-" else offset)
        day, month = given["day"] or 1, given["month"] or 1
        at = datetime(given["year"], month, day, given["hour"], given["minute"], given["second"], tzinfo=zone)
        return calendar.timegm(at.utctimetuple()) * 1_000_000 + int((found["fraction"] or "0").ljust(6, "0")[:6])
    except (ValueError, OverflowError):
        return None


def _prepare_date(compare: Callable[[float, float], bool]) -> Prepare:
    def prepare(source: str, variables: bool) -> Test:
        wanted = date_us(source)
        if wanted is None:
            raise PatternError(f"{source!r} is no date: 2026-01-31T08:30:00Z, or seconds since the epoch")

        def test(value: str, look_up: LookUp) -> int:
            found = date_us(value)
            return YES if found is not None and compare(found, wanted) else NO

        return test

    return prepare


def _prepare_bool(source: str, variables: bool) -> Test:
    wanted = source.lower()
    if wanted not in ("true", "false"):
        raise PatternError(f"{source!r} is neither true nor false")
    return lambda value, _: YES if value.lower() == wanted else NO


def _prepare_binary(source: str, variables: bool) -> Test:
    try:
        wanted = base64.b64decode(source, validate=True)
    except (binascii.Error, ValueError):
        raise PatternError(f"{source!r} is not base64") from None
    return lambda value, _: YES if value.encode("utf-8", "surrogatepass") == wanted else NO


Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=4_096)
def _address(text: str) -> Address | None:
    """An address without its zone; an IPv4 address that is written as IPv6 is an IPv4 address."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _prepare_network(source: str, variables: bool) -> Test:
    try:
        network = ipaddress.ip_network(source)
    except ValueError:
        raise PatternError(
            f"{source!r} is no address and no network (such as 10.0.0.0/8, with no bits behind the prefix)"
        ) from None

    def test(value: str, look_up: LookUp) -> int:
        found = _address(value)
        return YES if found is not None and found.version == network.version and found in network else NO

    return test


_ANYTHING = frozenset(Kind)
_ARNS = frozenset({Kind.ARN})
_NUMBERS = frozenset({Kind.NUMBER, Kind.EPOCH})
_DATES = frozenset({Kind.DATE, Kind.EPOCH})


def _rows() -> list[Operator]:
    made: list[Operator] = []

    def add(name: str, negated: str | None, kinds: frozenset[Kind], variables: bool, prepare: Prepare) -> None:
        made.append(Operator(name, False, kinds, variables, prepare))
        if negated is not None:
            made.append(Operator(negated, True, kinds, variables, prepare))

    add("StringEquals", "StringNotEquals", _ANYTHING, True, _prepare_text(False, _is))
    add("StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", _ANYTHING, True, _prepare_text(False, _is_ignoring_case))
    add("StringLike", "StringNotLike", _ANYTHING, True, _prepare_text(True, _is_like))
    add("ArnEquals", "ArnNotEquals", _ARNS, True, _prepare_arn)  # as ArnLike, says the guide
    add("ArnLike", "ArnNotLike", _ARNS, True, _prepare_arn)
    for family, kinds, prepare in (("Numeric", _NUMBERS, _prepare_number), ("Date", _DATES, _prepare_date)):
        add(f"{family}Equals", f"{family}NotEquals", kinds, False, prepare(operator.eq))
        add(f"{family}LessThan", None, kinds, False, prepare(operator.lt))
        add(f"{family}LessThanEquals", None, kinds, False, prepare(operator.le))
        add(f"{family}GreaterThan", None, kinds, False, prepare(operator.gt))
        add(f"{family}GreaterThanEquals", None, kinds, False, prepare(operator.ge))
    # The guide says of Bool both that it takes variables and that it does not: here it does not.
    add("Bool", None, frozenset({Kind.BOOL}), False, _prepare_bool)
    add("BinaryEquals", None, frozenset({Kind.TEXT}), False, _prepare_binary)
    add("IpAddress", "NotIpAddress", frozenset({Kind.ADDRESS}), False, _prepare_network)
    return made


OPERATORS: dict[str, Operator] = {row.name: row for row in _rows()}
