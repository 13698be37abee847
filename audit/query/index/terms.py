"""The words by which records are found: those of a record, and those that a question asks for. Pure.

A term is (KIND, VALUE); of a pair of an encryption context (``c``, KEY, VALUE). A record has, for every condition of every
question that it answers, one of that condition's terms; that is what lets the index leave out all others. It may have them and
not answer: the line itself decides (`Filter.matches`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from audit.query.filters import Filter, KeyName, Record, contexts, extension, fingerprints, named_keys

#: Its kind, and what is asked for.
Term: TypeAlias = tuple[str, ...]

ANY_ERROR: Term = ("d", "")


@dataclass(frozen=True, slots=True)
class Condition:
    """A record that answers has at least one of `terms`."""

    terms: frozenset[Term]


def conditions(one: Filter) -> list[Condition]:
    """What all records that answer `one` have, the rarest first by what is usual. Empty where no term is of use."""
    found: list[set[Term]] = [
        {("r", text) for text in one.ids} | {("e", text) for text in one.ids},
        {("f", text) for text in one.fingerprints},
        *({_pair(key, value)} for key, value in one.context),
        _of_error(one.error),
        _of_key(one.key) if one.key is not None else set(),
        {("n", event) for event in one.events} if not any("*" in event for event in one.events) else set(),
        {("a", one.access_key)} if one.access_key is not None else set(),
        _of_caller(one.caller) if one.caller is not None else set(),
        {("i", one.source)} if one.source is not None and "/" not in one.source else set(),
    ]
    return [Condition(frozenset(terms)) for terms in found if terms]


def terms(record: Record) -> set[Term]:
    """The terms of `record`. `rows.POSTINGS` says the same in SQL."""
    return set(_terms(record))


def _terms(record: Record) -> Iterator[Term]:
    for kind, name in (("r", "requestID"), ("e", "eventID"), ("n", "eventName"), ("i", "sourceIPAddress"), ("d", "errorCode")):
        yield from _term(kind, record.get(name))
    if isinstance(record.get("errorCode"), str):
        yield ANY_ERROR
    yield from _term("d", extension(record).get("wireError"))
    identity = record.get("userIdentity")
    if isinstance(identity, Mapping):
        yield from _term("a", identity.get("accessKeyId"))
        yield from _term("u", identity.get("userName"))
        yield from _term("u", arn := identity.get("arn"))
        if isinstance(arn, str):
            yield ("s", _last_part(arn))
    for fingerprint in fingerprints(record):
        yield ("f", fingerprint)
    for name in named_keys(record):
        yield ("k", name)
        yield ("k", _last_part(name))
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


def _of_key(key: KeyName) -> set[Term]:
    """Its text; the last part of the names that end in its suffix; and its short form."""
    found: set[Term] = {("k", key.text)}
    if key.suffix is not None:
        last = key.suffix.removeprefix(":")
        if ":" in last:  # such names are found by no last part
            return set()
        found.add(("k", last))
    if key.short is not None:
        found.add(("k", key.short))
    return found


def _of_caller(caller: str) -> set[Term]:
    if "*" not in caller:
        return {("u", caller)}
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
