"""What CloudTrail's LookupEvents asks for, of records of a log, and how it tells them. Pure.

Looked up is what CloudTrail would have, and what keytrail recorded of itself besides: the outcome of each call, and what no call
did. Intents are not: each has its outcome.

All attributes must hold (AWS takes one). ResourceName is any name of the key: ARN, id, alias, alias ARN; a record has the key's
ARN, and what the caller wrote. Times are compared as CloudTrail tells them, in whole seconds; both ends belong to the interval.

Source: AWS CloudTrail API reference, LookupEvents; docs/log-format.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from audit.query.filters import DEFAULT_PHASES, Filter, KeyName, Record, extension, resource_arns
from audit.query.times import time_text
from audit.record import Phase

_PHASES = frozenset(phase.value for phase in DEFAULT_PHASES)
_YES_OR_NO = {"true": True, "false": False}


class BadAttribute(ValueError):
    """An attribute's value is none that it can have."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """A question. `holds` are its attributes as conditions; `is_there` says whether a record is of the account and the region
    that are asked for."""

    since: datetime | None
    until: datetime | None
    holds: tuple[Callable[[Record], bool], ...]
    is_there: Callable[[Record], bool]
    texts: tuple[bytes, ...]
    terms: tuple[tuple[Filter, ...], ...]

    @classmethod
    def of(
        cls,
        attributes: Sequence[tuple[str, str]],
        start: float | None,
        end: float | None,
        is_there: Callable[[Record], bool],
        also: Mapping[str, str],
    ) -> Lookup:
        """`attributes` are pairs of CloudTrail's names and values; times are seconds since the epoch. `also`: the ARN of the key
        that a ResourceName, an alias, stands for. Raises `BadAttribute`."""
        since = None if start is None else _moment(math.ceil(start))
        until = None if end is None else _moment(math.floor(end) + 1)
        names = {value: _names_of(value, also) for key, value in attributes if key == "ResourceName"}
        holds = tuple(_condition(key, value, names.get(value, ())) for key, value in attributes)
        texts = tuple(text.encode() for key, value in attributes if (text := _text_of(key, value, names.get(value, ()))))
        terms = tuple(found for key, value in attributes if (found := _terms(key, value, names.get(value, ()), since, until)))
        return cls(since, until, holds, is_there, texts, terms)

    def matches(self, record: Record) -> bool:
        facts = extension(record)
        time = str(facts.get("time"))
        return (
            facts.get("phase", Phase.OUTCOME.value) in _PHASES
            and (self.since is None or time >= time_text(self.since))
            and (self.until is None or time < time_text(self.until))
            and all(holds(record) for holds in self.holds)
            and self.is_there(record)
        )


def event_of(record: Record, line: bytes) -> dict[str, Any]:
    """An entry of LookupEvents' answer: `record`, which stands in the log as `line`."""
    told = {
        "EventId": _text(record, "eventID"),
        "EventName": _text(record, "eventName"),
        "ReadOnly": _read_only(record),
        "AccessKeyId": _text(_identity(record), "accessKeyId"),
        "EventTime": datetime.fromisoformat(str(record["eventTime"])).timestamp(),
        "EventSource": _text(record, "eventSource"),
        "Username": user_name(record),
        "Resources": [
            {"ResourceType": str(one.get("type")), "ResourceName": str(one.get("ARN"))} for one in record.get("resources") or ()
        ],
        "CloudTrailEvent": line.decode(),
    }
    return {name: value for name, value in told.items() if value is not None}


def user_name(record: Record) -> str | None:
    """CloudTrail's Username: of a user its name, of a role's session the session's."""
    identity = _identity(record)
    if (name := _text(identity, "userName")) is not None:
        return name
    arn = _text(identity, "arn") or ""
    if ":assumed-role/" in arn:
        return arn.rpartition("/")[2]
    return "root" if identity.get("type") == "Root" else None


def _condition(key: str, value: str, names: Sequence[KeyName]) -> Callable[[Record], bool]:
    match key:
        case "EventId":
            return lambda record: record.get("eventID") == value
        case "EventName":
            return lambda record: record.get("eventName") == value
        case "EventSource":
            return lambda record: record.get("eventSource") == value
        case "AccessKeyId":
            return lambda record: _identity(record).get("accessKeyId") == value
        case "Username":
            return lambda record: user_name(record) == value
        case "ReadOnly":
            if value.lower() not in _YES_OR_NO:
                raise BadAttribute("ReadOnly is true or false")
            return lambda record: record.get("readOnly") is _YES_OR_NO[value.lower()]
        case "ResourceType":
            return lambda record: any(one.get("type") == value for one in record.get("resources") or ())
        case "ResourceName":
            return lambda record: value in resource_arns(record) or any(name.matches(record) for name in names)
    raise BadAttribute(f"{key} is no attribute")


def _names_of(value: str, also: Mapping[str, str]) -> tuple[KeyName, ...]:
    return tuple(KeyName.parse(name) for name in (value, also.get(value)) if name)


def _text_of(key: str, value: str, names: Sequence[KeyName]) -> str:
    """What stands in every line for which the attribute holds; "" where nothing certain does."""
    match key:
        case "ResourceName":
            return (names[0].short or value) if len(names) == 1 else ""
        case "ReadOnly":
            return f'"readOnly":{value.lower()}'
        case "Username" if value == "root":
            return ""
        case _:
            return value


def _terms(key: str, value: str, names: Sequence[KeyName], since: datetime | None, until: datetime | None) -> tuple[Filter, ...]:
    """What the index can be asked for; of several, any. None where it has no term for that."""
    of_interval = partial(Filter, since=since, until=until)
    match key:
        case "EventId":
            return (of_interval(ids=(value,)),)
        case "ResourceName":
            return tuple(of_interval(key=name) for name in names)
        case "AccessKeyId":
            return (of_interval(access_key=value),)
        case "EventName":
            return (of_interval(events=(value,)),)
    return ()


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC) if seconds < _LAST else _END


_END = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
_LAST = int(_END.timestamp())


def _identity(record: Record) -> Record:
    identity = record.get("userIdentity")
    return identity if isinstance(identity, Mapping) else {}


def _read_only(record: Record) -> str | None:
    value = record.get("readOnly")
    return None if value is None else str(value).lower()


def _text(record: Record, name: str) -> str | None:
    value = record.get(name)
    return value if isinstance(value, str) else None
