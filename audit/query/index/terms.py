"""The words by which records are found: those of a record, and those that a question asks for. Pure.

A term is (KIND, VALUE); of a pair of an encryption context (``c``, KEY, VALUE). A record has, for every condition of every
question that it answers, one of that condition's terms; that is what lets the index leave out all others. It may have them and
not answer: the line itself decides (`Filter.matches`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from audit.query.filters import Filter, KeyName, Record, contexts, extension, fingerprints, named_keys

#: Its kind, and what is asked for.
Term: TypeAlias = tuple[str, ...]

ANY_ERROR: Term = ("d", "")

#: What most calls are: no term of them would leave much out.
COMMON_EVENTS = (
    "Decrypt",
    "DescribeKey",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "ReEncrypt",
    "Sign",
    "Verify",
    "VerifyMac",
)
#: What happens to a key in its life: a question for these of one key has a term of its own.
LIFE_EVENTS = (
    "CancelKeyDeletion",
    "CreateAlias",
    "CreateGrant",
    "CreateKey",
    "DeleteAlias",
    "DeleteExpiredKeyMaterial",
    "DeleteImportedKeyMaterial",
    "DeleteKey",
    "DisableKey",
    "DisableKeyRotation",
    "EnableKey",
    "EnableKeyRotation",
    "ImportKeyMaterial",
    "PutKeyPolicy",
    "ReplicateKey",
    "RetireGrant",
    "RevokeGrant",
    "RotateKey",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "TagResource",
    "UntagResource",
    "UpdateAlias",
    "UpdateKeyDescription",
    "UpdatePrimaryRegion",
)


@dataclass(frozen=True, slots=True)
class Condition:
    """A record that answers has at least one of `terms`."""

    terms: frozenset[Term]


def conditions(one: Filter) -> list[Condition]:
    """What all records that answer `one` have, the rarest first by what is usual. Empty where no term is of use."""
    found: list[set[Term]] = [
        {("r", text) for text in one.ids},
        {("f", text) for text in one.fingerprints},
        *(
            {_pair(key, stored) for stored in (value, one.digests.get((key, value))) if stored is not None}
            for key, value in one.context
        ),
        _of_life(one.key, one.events) if one.key is not None else set(),
        _of_error(one.error),
        _of_key("k", one.key) if one.key is not None else set(),
        _of_events(one.events),
        {("a", one.access_key)} if one.access_key is not None else set(),
        _of_caller(one.caller) if one.caller is not None else set(),
        {("i", one.source)} if one.source is not None and "/" not in one.source else set(),
    ]
    return [Condition(frozenset(terms)) for terms in found if terms]


def terms(record: Record) -> set[Term]:
    """The terms of `record`. `rows.POSTINGS` says the same in SQL."""
    return set(_terms(record))


def _terms(record: Record) -> Iterator[Term]:
    for kind, name in (("r", "requestID"), ("r", "eventID"), ("i", "sourceIPAddress"), ("d", "errorCode")):
        yield from _term(kind, record.get(name))
    event = record.get("eventName")
    if event not in COMMON_EVENTS:
        yield from _term("n", event)
    if isinstance(record.get("errorCode"), str):
        yield ANY_ERROR
    yield from _term("d", extension(record).get("wireError"))
    identity = record.get("userIdentity")
    if isinstance(identity, Mapping):
        yield from _term("a", identity.get("accessKeyId"))
        yield from _term("u", identity.get("userName"))
        if isinstance(arn := identity.get("arn"), str):
            yield ("s", _last_part(arn))
    for fingerprint in fingerprints(record):
        yield ("f", fingerprint)
    for name in named_keys(record):
        yield ("k", _last_part(name))
        if event in LIFE_EVENTS:
            yield ("l", _last_part(name))
    for context in contexts(record).values():
        for key, value in context.items():
            if isinstance(value, str):
                yield _pair(key, value)


def _term(kind: str, value: object) -> Iterator[Term]:
    if isinstance(value, str):
        yield (kind, value)


def _pair(key: str, value: str) -> Term:
    return ("c", key, value)


def _last_part(name: str) -> str:
    return name.rpartition(":")[2]


def _of_key(kind: str, key: KeyName) -> set[Term]:
    """The last parts of the names that it may have."""
    names = (name for name in (key.text, key.suffix, key.short) if name is not None)
    return {(kind, _last_part(name)) for name in names}


def _of_life(key: KeyName, events: Collection[str]) -> set[Term]:
    return _of_key("l", key) if events and set(events) <= set(LIFE_EVENTS) else set()


def _of_events(events: Collection[str]) -> set[Term]:
    is_of_use = not any("*" in event or event in COMMON_EVENTS for event in events)
    return {("n", event) for event in events} if is_of_use else set()


def _of_caller(caller: str) -> set[Term]:
    """An ARN or a user name; or, behind ``*:``, the last part of an ARN."""
    if "*" not in caller:
        return {("u", caller), ("s", _last_part(caller))}
    last = caller.removeprefix("*:")
    return {("s", last)} if last != caller and "*" not in last and ":" not in last else set()


def _of_error(error: str | None) -> set[Term]:
    match error:
        case None | "none":
            return set()
        case "any":
            return {ANY_ERROR}
        case code:
            return {("d", code)}
