"""An event of CloudTrail as a record of keytrail's shape, so that the SQL of the index makes its row. Pure.

What a member has in another shape than `STRUCTURE` says is left out, and so NULL. Of keytrail's own extension, a record made here
has the time and the log and nothing else: no event can claim to have been seen by keytrail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from audit.query.index.rows import STRUCTURE, Shape
from audit.reconcile.reading import KMS
from audit.reconcile.rules import by_aws_service, time_us

#: Any: JSON of somebody else's making; every access below asks for the type that it needs.
Json = Any

#: How CloudTrail writes a moment within responseElements; `%b` is of the C locale, which keytrail never leaves.
_MOMENTS = ("%b %d, %Y, %I:%M:%S %p", "%b %d, %Y %I:%M:%S %p")
_NARROW_BLANK = "\u202f"  # before AM and PM, in the texts of newer Java
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Categories of events that are calls; Insights and network activity are none.
_CALLS = ("Management", "Data")


class Unusable(Exception):
    """An event that cannot be imported; the text says why."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event on its way into an import.

    `text` is what stood in AWS's file, on one line; `row` is JSON as `STRUCTURE` reads it. Two events with one `identity` are the
    same; they should have the same `content`, 64 bits of SHA-256 over the row. `service` is the one of AWS's that caused it
    itself.
    """

    text: bytes
    row: bytes
    identity: str
    content: int
    service: str | None


def is_call(event: dict[str, Json], all_sources: bool) -> bool:
    """Whether `event` is asked for: a call, of KMS unless all are. Raises `Unusable` where it does not say what it is."""
    source = event.get("eventSource")
    if not isinstance(source, str):
        raise Unusable("no eventSource")
    return event.get("eventCategory", "Management") in _CALLS and (all_sources or source == KMS)


def event_of(event: dict[str, Json], written: str, log: str) -> Event:
    """`event`, which was read from the text `written`, for the import whose rows have `log`. Raises `Unusable`."""
    at = time_us(event["eventTime"]) if isinstance(event.get("eventTime"), str) else None
    if at is None:
        raise Unusable("no eventTime")
    if not isinstance(event.get("eventName"), str):
        raise Unusable("no eventName")
    if "keytrail" in _part(event, "additionalEventData"):
        raise Unusable("a record of keytrail's own, and not of AWS's")
    # No text in JSON holds the end of a line: these stand between its parts.
    text = written.replace("\r", " ").replace("\n", " ").encode()
    row = orjson.dumps(as_record(event, log, at))
    event_id = event.get("eventID")
    identity = _text(event_id) if isinstance(event_id, str) and event_id else _digest(event)
    content = int.from_bytes(hashlib.sha256(row).digest()[:8], "big")
    service = by_aws_service(event)
    return Event(text, row, identity, content, None if service is None else _text(service))


def _digest(event: dict[str, Json]) -> str:
    """The identity of an event that AWS gave none."""
    try:
        canonical = json.dumps(event, sort_keys=True, separators=(",", ":"))
    except RecursionError as error:
        raise Unusable("nested too deeply") from error
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def as_record(event: dict[str, Json], log: str, at_us: int) -> dict[str, Json]:
    """What `STRUCTURE` reads of `event`, and what the columns need besides:

    - its time, in microseconds, and its log;
    - a caller who has no ARN: AWS's service, or the account that the owner's copy of a cross-account call tells;
    - the keys that the request names by ARN, where resources are not told;
    - the date of a key's deletion in ISO 8601.
    """
    record: dict[str, Json] = _shaped(event, STRUCTURE)
    moment = _EPOCH + timedelta(microseconds=at_us)
    record["additionalEventData"] = {
        **_part(record, "additionalEventData"),
        "keytrail": {"log": log, "time": f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"},
    }
    identity = _part(record, "userIdentity")
    without_arn = {"AWSService": _part(event, "userIdentity").get("invokedBy"), "AWSAccount": identity.get("accountId")}
    caller = without_arn.get(identity.get("type", ""))
    if "arn" not in identity and isinstance(caller, str):
        record["userIdentity"] = {**identity, "arn": _text(caller)}
    arns = [resource["ARN"] for resource in record.get("resources") or () if resource and "ARN" in resource]
    record["resources"] = [{"ARN": arn} for arn in arns or _named_keys(_part(record, "requestParameters"))]
    deletion = _part(event, "responseElements").get("deletionDate")
    record["responseElements"] = {**_part(record, "responseElements"), "deletionDate": _moment(deletion)}
    return record


def _named_keys(parameters: dict[str, Json]) -> list[str]:
    named = (parameters.get(name) for name in ("keyId", "sourceKeyId", "destinationKeyId", "targetKeyId"))
    return list(dict.fromkeys(name for name in named if name and name.startswith("arn:") and ":key/" in name))


def _moment(value: Json) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # seconds since the epoch, as the API itself answers
    if not isinstance(value, str):
        return None
    for form in _MOMENTS:
        try:
            return datetime.strptime(value.replace(_NARROW_BLANK, " "), form).isoformat()
        except ValueError:
            continue
    return _text(value)


# --- shapes -----------------------------------------------------------------------------------------------------------


def _shaped(value: Json, shape: Shape | Mapping[str, Shape]) -> Json:
    """What of `value` has the shape; None where nothing has."""
    if isinstance(shape, str):
        return LEAVES[shape](value)
    if isinstance(shape, list):
        return [_shaped(one, shape[0]) for one in value] if isinstance(value, list) else None
    if not isinstance(value, dict):
        return None
    parts = ((name, _shaped(value[name], part)) for name, part in shape.items() if name in value)
    return {name: part for name, part in parts if part is not None}


def _text(value: str) -> str:
    """`value`, with what is no text (half of a surrogate pair) as escapes."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def _boolean(value: Json) -> bool | None:
    return value if isinstance(value, bool) else {"true": True, "false": False}.get(value) if isinstance(value, str) else None


def _whole_number(bits: int) -> Callable[[Json], int | None]:
    def whole_number(value: Json) -> int | None:
        is_one = isinstance(value, int) and not isinstance(value, bool) and -(1 << bits - 1) <= value < 1 << bits - 1
        return value if is_one else None

    return whole_number


def _pairs(value: Json) -> dict[str, str] | None:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        return None
    return {_text(name): _text(one) for name, one in value.items()}


#: What a value must be for a type of DuckDB's; None where it is not.
LEAVES: Mapping[str, Callable[[Json], Json]] = {
    "VARCHAR": lambda value: _text(value) if isinstance(value, str) else None,
    "BOOLEAN": _boolean,
    "INTEGER": _whole_number(32),
    "BIGINT": _whole_number(64),
    "JSON": lambda value: value,
    "MAP(VARCHAR, VARCHAR)": _pairs,
}


def _part(record: dict[str, Json], name: str) -> dict[str, Json]:
    part = record.get(name)
    return part if isinstance(part, dict) else {}
