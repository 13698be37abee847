"""What became of KMS keys, as far as the log tells: disabled, scheduled for deletion, deleted, rotated.

The log has the calls that passed keytrail. A key that was deleted elsewhere looks as if nothing had happened to it; one whose
deletion was cancelled elsewhere is found out where it was used since, for a key that is disabled or to be deleted cannot be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from audit.query.engine import search
from audit.query.filters import Filter, KeyName, Record, resource_arns, was_done
from audit.query.inventory.uses import Snapshot, Wrapping, destination
from audit.query.lines import Found
from audit.query.times import time_text
from audit.query.trace import caller_of


class KeyState(Enum):
    """What the log says of a KMS key last."""

    UNTOLD = "no change in the log"
    ENABLED = "enabled"
    USED_SINCE = "used since it was disabled or to be deleted"  # so another call, not in the log, undid that
    DISABLED = "disabled"
    SCHEDULED = "scheduled for deletion"
    NO_MATERIAL = "imported key material deleted"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class KeyLife:
    """The state of a key, by which call, when and by whom. `deletion` is when it is deleted, or was; `doubt` names a call that
    may have changed it, or not: its outcome is not known. Times as the log writes them."""

    state: KeyState = KeyState.UNTOLD
    since: str | None = None
    caller: str | None = None
    deletion: str | None = None
    doubt: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state.value} | {
            name: getattr(self, name) for name in ("since", "caller", "deletion", "doubt") if getattr(self, name) is not None
        }


#: The state that a key is in after an event. What is not here, ImportKeyMaterial, depends on the state before.
_STATE_AFTER = {
    "EnableKey": KeyState.ENABLED,
    "DisableKey": KeyState.DISABLED,
    "ScheduleKeyDeletion": KeyState.SCHEDULED,
    "CancelKeyDeletion": KeyState.DISABLED,  # as KMS does
    "DeleteImportedKeyMaterial": KeyState.NO_MATERIAL,
    "DeleteKey": KeyState.DELETED,  # KMS's own event, where its CloudTrail was brought in
}
_CLOSED = frozenset((KeyState.DISABLED, KeyState.SCHEDULED, KeyState.NO_MATERIAL, KeyState.DELETED))
_ROTATIONS = ("RotateKeyOnDemand", "RotateKey")
_EVENTS = (*_STATE_AFTER, "ImportKeyMaterial", *_ROTATIONS)
_WRAPS = (
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "Encrypt",
    "ReEncrypt",
)
_OPENS = ("Decrypt",)
_DEFAULT_WINDOW_DAYS = 30
#: Changes of a key's state reach all of KMS within minutes: a use so soon after one says nothing against it.
_SETTLES = timedelta(minutes=15)
#: The newest use of a key's current material is looked for in ever longer intervals before the log's end.
_LOOK_BACK = (timedelta(hours=1), timedelta(days=1), timedelta(days=30), None)
_AT_ONCE = 20


class KeyRing:
    """The lives of all keys that the log of `snapshot` tells of, as they stand at `now`, and what is asked of some of them."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self._snapshot = snapshot
        self._now = time_text(now)
        self._lives: dict[str, KeyLife] = {}
        self._rotated: dict[str, str] = {}
        self._newest: dict[str, Wrapping | None] = {}
        self._resolved: dict[str, KeyLife] = {}
        for found in self._find([Filter(events=_EVENTS)]):
            self._note(found.record, found.time)

    def life(self, arn: str) -> KeyLife:
        """What became of the key. Raises `QueryError`, OSError."""
        if arn not in self._resolved:
            life = self._lives.get(arn, KeyLife())
            if life.state in _CLOSED and life.since is not None and self._is_used_after(arn, life.since):
                life = replace(life, state=KeyState.USED_SINCE)
            elif life.state is KeyState.SCHEDULED and life.deletion is not None and life.deletion <= self._now:
                life = replace(life, state=KeyState.DELETED)
            self._resolved[arn] = life
        return self._resolved[arn]

    def rotated(self, arn: str) -> str | None:
        """When the key was last rotated by a call that the log has."""
        return self._rotated.get(arn)

    def newest(self, arns: Collection[str]) -> dict[str, Wrapping]:
        """Of each of the keys the last call that wrapped something under it, and so used its current material; keys of which the
        log has none are not in it. Raises `QueryError`, OSError."""
        asked = sorted(set(arns) - self._newest.keys())
        for at in range(0, len(asked), _AT_ONCE):
            self._find_newest(asked[at : at + _AT_ONCE])
        return {arn: newest for arn in arns if (newest := self._newest[arn]) is not None}

    def _find_newest(self, arns: list[str]) -> None:
        interval = self._snapshot.interval
        missing = set(arns)
        for look_back in _LOOK_BACK if interval is not None else ():
            end = datetime.fromisoformat(interval[1]) if interval is not None else None
            since = end - look_back if end is not None and look_back is not None else None
            keys = [KeyName.parse(arn) for arn in sorted(missing)]
            filters = [Filter(key=key, events=_WRAPS, error="none", since=since) for key in keys]
            for found in self._find(filters):
                wrapping = destination(found.record, found.time)
                if wrapping.key in missing and wrapping.material is not None:
                    self._newest[wrapping.key] = wrapping  # in the order of time: the last stays
            missing -= self._newest.keys()
            if not missing:
                return
        self._newest |= dict.fromkeys(missing)

    def _is_used_after(self, arn: str, since: str) -> bool:
        """Whether the key answered a call when it could not have, had it stayed as it was left then."""
        settled = datetime.fromisoformat(since) + _SETTLES
        wanted = Filter(key=KeyName.parse(arn), events=_WRAPS + _OPENS, error="none", since=settled)
        return any(arn in resource_arns(found.record) for found in self._find([wanted]))

    def _find(self, filters: list[Filter]) -> Iterable[Found]:
        with search(self._snapshot.data, filters, use_index=self._snapshot.use_index) as result:
            self._snapshot.note_damage(result.damaged)
            self._snapshot.index_fault = self._snapshot.index_fault or result.index_fault
            yield from result.records()

    def _note(self, record: Record, time: str) -> None:
        event = str(record.get("eventName"))
        done = was_done(record)
        if done is False:
            return
        for arn in _keys(record):
            life = self._lives.get(arn, KeyLife())
            if done is None:
                self._lives[arn] = replace(life, doubt=f"{event} at {time}")
            elif event in _ROTATIONS:
                self._rotated[arn] = time
            elif event in _STATE_AFTER:
                deletion = _deletion(record, time) if event == "ScheduleKeyDeletion" else time if event == "DeleteKey" else None
                self._lives[arn] = KeyLife(_STATE_AFTER[event], time, caller_of(record), deletion)
            elif life.state is KeyState.NO_MATERIAL:
                self._lives[arn] = KeyLife(KeyState.ENABLED, time, caller_of(record))


def _keys(record: Record) -> list[str]:
    """The ARN of the key that the record is about, however it is told."""
    response, asked = record.get("responseElements"), record.get("requestParameters")
    told = [part.get("keyId") for part in (response, asked) if isinstance(part, dict)]
    names = [*resource_arns(record), *(name for name in told if isinstance(name, str))]
    return list(dict.fromkeys(name for name in names if ":key/" in name))[:1]


def _deletion(record: Record, time: str) -> str:
    """When the key is deleted: as KMS answered, or else reckoned from the window."""
    response, asked = record.get("responseElements"), record.get("requestParameters")
    parts = [part for part in (response, asked) if isinstance(part, dict)]
    for part in parts:
        told = part.get("deletionDate")
        if isinstance(told, str):
            try:
                return time_text(datetime.fromisoformat(told).replace(tzinfo=UTC))
            except ValueError:
                break
    windows = [part["pendingWindowInDays"] for part in parts if isinstance(part.get("pendingWindowInDays"), int)]
    return time_text(datetime.fromisoformat(time) + timedelta(days=windows[0] if windows else _DEFAULT_WINDOW_DAYS))
