"""A line as a record: where it says that it stands, and whether it has what every record has. Pure."""

from __future__ import annotations

import json
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

#: What CloudTrail requires of every record, with our extension.
REQUIRED = (
    *("eventVersion", "userIdentity", "eventTime", "eventSource", "eventName", "awsRegion", "sourceIPAddress"),
    *("requestParameters", "responseElements", "additionalEventData", "eventID", "eventType", "eventCategory"),
)
require_all = itemgetter(*REQUIRED)  # KeyError where one is lacking: the cheapest way to ask, once a line


class Line(NamedTuple):
    """What a line says: its log and number, and the record with its extension. `log` is None where it is no record.

    Any: JSON that nobody has looked at yet.
    """

    log: str | None
    sequence: int
    record: dict[str, Any]
    extension: dict[str, Any]

    @property
    def time(self) -> str:
        return str(self.extension.get("time", ""))


def _parse(text: bytes) -> Any:
    """JSON by RFC 8259, which knows no largest number: orjson does, and refuses such a line. Raises ValueError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        document = json.loads(text.decode(), parse_constant=_refuse)
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no character
        return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def read_line(text: bytes) -> Line:
    """Read a line, without its newline."""
    try:
        record = _parse(text)
        extension = record["additionalEventData"]["keytrail"]
        log, sequence = extension["log"], extension["sequence"]
        if isinstance(log, str) and type(sequence) is int and sequence >= 0:
            return Line(log, sequence, record, extension)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return Line(None, -1, {}, {})
