"""What is due of a key by the passing of time, and when. Pure.

Gone by then are: a key whose waiting period is over; imported material that has expired. Rotated is a key with automatic
rotation, while it is enabled: one that was disabled when its day came is rotated when it is enabled again. A rotation on demand
is done by the call that asks for it, and leaves the event of it to be recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush

from proxy.backends.local.keys import Key, KeyState
from proxy.errors import SealBroken
from proxy.sealed_store import Body

_log = logging.getLogger(__name__)


class Happening(Enum):
    """What time does to keys, by the name of its event."""

    DELETION = "DeleteKey"
    EXPIRY = "DeleteExpiredKeyMaterial"
    ROTATION = "RotateKey"
    ROTATED = "RotateKey, on demand"  # which was done by the call; its event is due

    @property
    def event(self) -> str:
        """The name that CloudTrail has for it."""
        return self._value_.partition(",")[0]


@dataclass(frozen=True, slots=True)
class Due:
    """A thing that is to happen to a key at `at_s`, seconds since the epoch."""

    happening: Happening
    region: str
    account_id: str
    key_id: str
    at_s: float


def due_of(key: Key) -> Due | None:
    """The first thing that is due of `key`, now or later."""
    found = _all_due(key.body, key.region)
    if not found:
        return None
    at_s, happening = min(found, key=lambda one: one[0])
    return Due(happening, key.region, key.account_id, key.id, at_s)


def first_due_s(body: Body, region: str) -> float | None:
    """When the first thing is due of a key, by its row."""
    found = _all_due(body, region)
    return min(at_s for at_s, _ in found) if found else None


def _all_due(body: Body, region: str) -> list[tuple[float, Happening]]:
    found: list[tuple[float, Happening]] = []
    if body["deletion_s"] is not None:
        found.append((body["deletion_s"], Happening.DELETION))
    if body.get("expires_s") is not None:
        found.append((body["expires_s"], Happening.EXPIRY))
    rotation = body.get("rotation")
    if rotation is not None and body["state"] == KeyState.ENABLED.value and not _is_replica(body, region):
        found.append((rotation["next_s"], Happening.ROTATION))
    if any(facts.get("rotation", {}).get("untold") for facts in body["materials"]):
        found.append((0.0, Happening.ROTATED))
    return found


def _is_replica(body: Body, region: str) -> bool:
    multi_region = body.get("multi_region")
    return multi_region is not None and multi_region["primary"] != region


class DueKeys:
    """The keys of a table by when something is due of them; to ask costs nothing where nothing is."""

    def __init__(self, find: Callable[[str, str], Key | None]) -> None:
        self._find = find
        self._heap: list[tuple[float, str, str]] = []
        self._times: dict[tuple[str, str], float] = {}  # what stands in the heap for a key, by region and id

    def put(self, region: str, key_id: str, due_s: float | None) -> None:
        name = (region, key_id)
        if due_s is None:
            self._times.pop(name, None)
        elif self._times.get(name) != due_s:
            self._times[name] = due_s
            heappush(self._heap, (due_s, region, key_id))

    def until(self, now_s: float, most: int = 100) -> list[Due]:
        """What is due by `now_s`, the first first, one thing of each key; it stays due until its row says otherwise."""
        found: list[Due] = []
        while len(found) < most and self._heap and self._heap[0][0] <= now_s:
            at_s, region, key_id = heappop(self._heap)
            if self._times.get((region, key_id)) != at_s:
                continue  # it was moved or cancelled
            del self._times[(region, key_id)]
            try:
                key = self._find(region, key_id)
            except SealBroken as fault:  # told once: what is due of the others is done all the same
                _log.error("nothing is done to a key though something is due of it: %s", fault)
                continue
            due = None if key is None else due_of(key)
            if due is not None and due.at_s <= now_s:
                found.append(due)
        for due in found:
            self._times[(due.region, due.key_id)] = due.at_s
            heappush(self._heap, (due.at_s, due.region, due.key_id))
        return found
