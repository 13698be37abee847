"""Which records of the log are delivered, and the body of a log file. Pure.

Delivered is what CloudTrail would have: the outcome of each call to KMS or STS, answered or refused, and what the service did by
itself. Not delivered are intents, each of which has its outcome, or an `unknown` that recovery wrote in its place; and keytrail's
own events, which no service of AWS sent: tools would take them for API calls.

A record lies under the account and the region that it names. A region that nobody proved (the caller could not be authenticated)
is a stranger's word: such a record lies under the instance's own, so that a stranger makes no folders and no digests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from audit.delivery.layout import Place, seconds
from audit.errors import AuditError

_SERVICE = ".amazonaws.com"
_PHASES = frozenset({"outcome", "unknown"})
_ACCOUNT, _REGION = re.compile(r"[0-9]{12}"), re.compile(r"[a-z0-9-]{1,32}")
_UNPROVED = frozenset({"claimed", "none"})
_BEGIN, _BETWEEN, _END = b'{"Records":[', b",", b"]}"


class NoRecord(AuditError):
    """A line is not a record."""


class Delivered(NamedTuple):
    """Where a record is delivered; `time` is its eventTime, in seconds since the epoch."""

    place: Place
    time: int


def delivered(line: bytes, home: Place) -> Delivered | None:
    """Where the record in `line` is delivered by the trail of `home`; None where it is not. Raises `NoRecord`."""
    try:
        record = orjson.loads(line)
        extension = record["additionalEventData"]["keytrail"]
        if extension["phase"] not in _PHASES or not record["eventSource"].endswith(_SERVICE):
            return None
        return Delivered(place_of(record, home), seconds(record["eventTime"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NoRecord(f"no record that can be delivered: {type(error).__name__}") from error


def place_of(record: Mapping[str, Any], home: Place) -> Place:  # Any: JSON
    """Where `record` lies. Raises KeyError, TypeError, AttributeError where it is no record."""
    proof, is_by_service = (
        record["additionalEventData"]["keytrail"].get("identityProof"),
        record.get("eventType") == "AwsServiceEvent",
    )
    region = home.region if proof in _UNPROVED and not is_by_service else record["awsRegion"]
    return _place(record.get("recipientAccountId") or home.account_id, region, home)


@lru_cache(maxsize=1_024)
def _place(account_id: str, region: str, home: Place) -> Place:
    """What cannot be a folder's name is not made one, whoever wrote it."""
    return Place(account_id, region) if _ACCOUNT.fullmatch(account_id) and _REGION.fullmatch(region) else home


def body_of(lines: Sequence[bytes]) -> bytes:
    """A log file, uncompressed: the lines as they are."""
    return _BEGIN + _BETWEEN.join(lines) + _END


class Body:
    """`body_of` piece by piece, for lines that are not kept."""

    def __init__(self) -> None:
        self._before = _BEGIN

    def piece(self, line: bytes) -> bytes:
        before, self._before = self._before, _BETWEEN
        return before + line

    def end(self) -> bytes:
        return _END
