"""What answers CloudTrail's operations: `CloudTrailService`, a `Backend`.

LookupEvents reads the logs, by the index where that helps, and without AWS's limits: any number of attributes, any age. Searches
run in a few threads that take only the processor's time that nobody else wants; one that takes long is given up with what it has
found, and a NextToken to go on. A caller sees what CloudTrail would show: the events of its own account, in the region that it
asks. The trail is the one that is delivered: the instance's account has it, while delivery is set.

Source: AWS CloudTrail API reference.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import orjson

from audit.delivery import trail as answers
from audit.delivery.keys import read_public_keys
from audit.delivery.layout import Place, Trail
from audit.delivery.opening import delivery_folder
from audit.delivery.records import place_of
from audit.delivery.state import StateFile
from audit.errors import AuditError
from audit.query.event_lookup import BadAttribute, Lookup, event_of
from audit.query.filters import Record
from audit.query.modesty import be_modest
from audit.query.newest import read_page
from proxy.cloudtrail.page_token import read_token, write_token
from proxy.domain import Answer, KeyUse, KmsCall
from proxy.errors import KmsError

T = TypeVar("T")

_log = logging.getLogger(__name__)
SEARCHES_AT_ONCE = 2
_SEARCH_S = 5.0
_MOST = 50
_TRAIL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9]|[._-](?![._-])){1,126}[A-Za-z0-9]")
_TRAIL_ARN = re.compile(r"arn:[a-z-]+:cloudtrail:[a-z0-9-]+:[0-9]{12}:trail/(?P<name>.+)")

#: The ARN of the key that an alias stands for now, of an account in a region; None where there is none.
FindAlias: TypeAlias = Callable[[str, str, str], str | None]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The trail that is delivered, and the name that its destination has in the data folder."""

    trail: Trail
    destination: str


class CloudTrailService:
    """Answers about the data folder `data`, which is of the account and region `home`. `token_key` signs NextTokens."""

    name = "local"
    forwards = False

    def __init__(
        self,
        data: Path,
        home: Place,
        delivered: Delivered | None,
        find_alias: FindAlias,
        token_key: bytes,
        search_s: float = _SEARCH_S,
    ) -> None:
        self._data = data
        self._home = home
        self._delivered = delivered
        self._find_alias = find_alias
        self._token_key = token_key
        self._search_s = search_s
        self._searches = ThreadPoolExecutor(SEARCHES_AT_ONCE, thread_name_prefix="lookup", initializer=be_modest)
        self._answers: Mapping[str, Callable[[KmsCall], Answer]] = {
            "DescribeTrails": self._describe_trails,
            "GetTrail": self._get_trail,
            "GetTrailStatus": self._get_trail_status,
            "ListPublicKeys": self._list_public_keys,
            "ListTrails": self._list_trails,
        }

    async def call(self, call: KmsCall) -> Answer:
        """Answer a call; see `Backend.call`."""
        loop = asyncio.get_running_loop()
        if call.operation.name == "LookupEvents":
            return await loop.run_in_executor(self._searches, self._lookup_events, call)
        return await asyncio.to_thread(self._answers[call.operation.name], call)

    def close(self) -> None:
        """Wait for what is under way."""
        self._searches.shutdown()

    # --- events

    def _lookup_events(self, call: KmsCall) -> Answer:
        sent = call.parameters
        start, end = sent.get("StartTime"), sent.get("EndTime")
        if start is not None and end is not None and start > end:
            raise KmsError("InvalidTimeRangeException", "The start time must be before the end time.")
        if sent.get("EventCategory") == "insight":
            return Answer({"Events": []})
        token = sent.get("NextToken")
        marks = None if token is None else read_token(self._token_key, _question(call), token)
        deadline = time.monotonic() + self._search_s
        page = read_page(
            self._data,
            self._wanted(call, start, end),
            sent.get("MaxResults", _MOST),
            lambda: time.monotonic() >= deadline,
            marks,
        )
        for damage in page.damaged:
            _log.error("a lookup passed over what it cannot read: %s", damage)
        members: dict[str, Any] = {"Events": [event_of(found.record, found.line) for found in page.found]}
        if page.marks:
            members["NextToken"] = write_token(self._token_key, _question(call), page.marks)
        return Answer(members)

    def _wanted(self, call: KmsCall, start: float | None, end: float | None) -> Lookup:
        own = Place(call.principal.account_id, call.region)
        attributes = [(one["AttributeKey"], one["AttributeValue"]) for one in call.parameters.get("LookupAttributes", ())]
        named = [value for key, value in attributes if key == "ResourceName" and "alias/" in value]
        keys = {value: self._find_alias(own.account_id, own.region, value) for value in named}

        def is_there(record: Record) -> bool:
            try:
                return place_of(record, self._home) == own
            except (KeyError, TypeError, AttributeError):
                return False

        try:
            return Lookup.of(attributes, start, end, is_there, {value: arn for value, arn in keys.items() if arn is not None})
        except BadAttribute as error:
            raise KmsError("InvalidLookupAttributesException", f"{error}.") from error

    # --- the trail

    def _describe_trails(self, call: KmsCall) -> Answer:
        names = call.parameters.get("trailNameList")
        wanted = None if not names else [_trail_name(name) for name in names]
        delivered = self._trail_of(call)
        if delivered is None or (
            wanted is not None and not any(name in (delivered.trail.name, delivered.trail.arn) for name in wanted)
        ):
            return Answer({"trailList": []})
        return Answer(answers.describe_trails(delivered.trail), _used(delivered.trail))

    def _get_trail(self, call: KmsCall) -> Answer:
        delivered = self._named(call)
        return Answer({"Trail": answers.described(delivered.trail)}, _used(delivered.trail))

    def _get_trail_status(self, call: KmsCall) -> Answer:
        delivered = self._named(call)
        journal = StateFile(delivery_folder(self._data), delivered.destination)
        state, fault, keys = _told(lambda: (journal.load(), journal.fault(), read_public_keys(delivery_folder(self._data))))
        status = answers.trail_status(
            min((key.since for key in keys.values()), default=None),
            None if state is None else state.delivered_at,
            None if state is None else state.digested_at,
            None if fault is None else (fault.time, fault.reason),
        )
        return Answer(status, _used(delivered.trail))

    def _list_trails(self, call: KmsCall) -> Answer:
        delivered = self._trail_of(call)
        return Answer({"Trails": [] if delivered is None else [answers.listed(delivered.trail)]})

    def _list_public_keys(self, call: KmsCall) -> Answer:
        now = call.received_us / 1_000_000
        end = call.parameters.get("EndTime", now)
        start = call.parameters.get("StartTime", end)
        if start > end:
            raise KmsError("InvalidTimeRangeException", "The start time must be before the end time.")
        if call.parameters.get("NextToken"):
            raise KmsError("InvalidTokenException", "The token is not one that was given out here.")
        keys = _told(lambda: read_public_keys(delivery_folder(self._data))) if self._trail_of(call) is not None else {}
        return Answer(answers.public_keys(keys.values(), start, end))

    def _trail_of(self, call: KmsCall) -> Delivered | None:
        """The trail, where it is the caller's account's."""
        return self._delivered if call.principal.account_id == self._home.account_id else None

    def _named(self, call: KmsCall) -> Delivered:
        """The trail that the call names. Raises TrailNotFoundException for any other."""
        name = _trail_name(call.parameters["Name"])
        delivered = self._trail_of(call)
        if delivered is None or name not in (delivered.trail.name, delivered.trail.arn):
            raise KmsError("TrailNotFoundException", f"Unknown trail: {name} for the user: {call.principal.account_id}")
        return delivered


def _question(call: KmsCall) -> bytes:
    """What a NextToken is good for: the same question, asked for the same account in the same region."""
    asked = {name: value for name, value in call.parameters.items() if name not in ("NextToken", "MaxResults")}
    return orjson.dumps([call.principal.account_id, call.region, asked], option=orjson.OPT_SORT_KEYS)


def _trail_name(name: str) -> str:
    """Raises KmsError for what is neither a trail's name nor its ARN."""
    if name.startswith("arn:"):
        found = _TRAIL_ARN.fullmatch(name)
        if found is None or not _TRAIL_NAME.fullmatch(found["name"]):
            raise KmsError("CloudTrailARNInvalidException", f"{name[:256]} is no ARN of a trail.")
    elif not _TRAIL_NAME.fullmatch(name):
        raise KmsError("InvalidTrailNameException", f"{name[:256]} is no name of a trail.")
    return name


def _used(trail: Trail) -> tuple[KeyUse, ...]:
    return (KeyUse(trail.arn, trail.home.account_id),)


def _told(read: Callable[[], T]) -> T:
    """What `read` reads of delivery's folder. Raises KmsError where that cannot be read."""
    try:
        return read()
    except (AuditError, OSError) as error:
        _log.error("the trail cannot be told of: %s", error)
        raise KmsError("InternalFailure", "How the trail is delivered cannot be read.", status=500) from error
