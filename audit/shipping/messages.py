"""A record as it is shipped: its body in the form that is wanted, and what sinks need to know of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson

from audit.canonical import time_us
from audit.ocsf import NoRecord, Severity, event_of, severity_of

Form = Literal["cloudtrail", "ocsf"]


@dataclass(frozen=True, slots=True)
class Message:
    """A record of `log`. In the form `cloudtrail` `body` is the log's line, byte for byte, of which the leaf hash is made."""

    log: str
    sequence: int
    event_id: str
    event_name: str
    time_us: int
    severity: Severity
    body: bytes


def message_of(line: bytes, form: Form) -> Message:
    """The record in `line` as a message. Raises `NoRecord`."""
    try:
        record = orjson.loads(line)
        extension = record["additionalEventData"]["keytrail"]
        return Message(
            log=_text(extension["log"]),
            sequence=int(extension["sequence"]),
            event_id=_text(record["eventID"]),
            event_name=_text(record["eventName"]),
            time_us=time_us(extension["time"]),
            severity=severity_of(record, extension),
            body=line if form == "cloudtrail" else orjson.dumps(event_of(record)),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise NoRecord(f"no record of a keytrail log: {type(error).__name__}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
