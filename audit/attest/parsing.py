"""Reading a statement back, strictly: every field there, of its type, and nothing else. Pure. Format: docs/attestation.md."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson

from audit.attest.envelope import AttestationInvalid
from audit.attest.statement import (
    BASIS,
    MAX_NAMED,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    VERSION,
    Excepted,
    Extension,
    LogFacts,
    SetBack,
    Statement,
)
from audit.errors import AuditError
from audit.merkle import HASH_BYTES
from audit.query.filters import Filter, KeyName
from audit.query.times import time_text
from audit.record import Phase

T = TypeVar("T")
Json = Any  # JSON that nobody has looked at yet
_MAX_COUNT = (1 << 53) - 1  # beyond, RFC 8785 has no whole numbers
_MAX_LOGS = 10_000
_INSTANCE = re.compile(r"[0-9a-f]{16}")
_LOG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def parse(payload: bytes) -> Statement:
    """The statement in `payload`. Raises `AttestationInvalid` where it is not exactly the encoding of one, in this version."""
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise AttestationInvalid("its payload is not JSON") from error
    try:
        statement = _statement(document)
        encoded, made_anew = statement.encode(), statement.document()
    except AttestationInvalid:
        raise
    except (AuditError, ValueError, TypeError, OverflowError) as error:
        raise AttestationInvalid(f"what it says is not possible: {error}") from error
    if encoded != payload:
        anew = orjson.loads(orjson.dumps(made_anew))
        wrong = [name for name, value in anew["predicate"].items() if document["predicate"][name] != value]
        wrong += ["subject"] if anew["subject"] != document["subject"] else []
        raise AttestationInvalid(
            f"what it says of {', '.join(wrong)} does not follow from its facts" if wrong else "it is not canonical JSON"
        )
    return statement


def _statement(document: Json) -> Statement:
    whole = _fields(document, "the payload", "_type", "subject", "predicateType", "predicate")
    if (whole["_type"], whole["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise AttestationInvalid("it is not a statement of absence")
    version = whole["predicate"].get("version") if isinstance(whole["predicate"], dict) else None
    if version != VERSION or type(version) is not int:
        raise AttestationInvalid(f"it is of version {version!s:.20}, this reads version {VERSION}")
    names = ("version", "instance", "made", "question", "covered", "recordedUntil", "settledUntil", "complete", "logs", "basis")
    predicate = _fields(whole["predicate"], "the predicate", *names)
    if predicate["basis"] != BASIS:
        raise AttestationInvalid("its basis is not that of this version")
    logs = tuple(_each(predicate["logs"], _log, _MAX_LOGS))
    if len({log.log for log in logs}) != len(logs):
        raise AttestationInvalid("a log stands in it twice")
    if _INSTANCE.fullmatch(_text(predicate["instance"])) is None:
        raise AttestationInvalid("its instance is none")
    return Statement(predicate["instance"], _moment(predicate["made"]), _question(predicate["question"]), logs)


def _question(value: Json) -> Filter:
    names = ("from", "to", "fingerprints", "key", "caller", "accessKey", "context", "events", "error", "phases")
    has_digests = isinstance(value, dict) and "digests" in value
    asked = _fields(value, "the question", *names, *(["digests"] if has_digests else []))
    context, digests = tuple(_each(asked["context"], _pair)), tuple(_each(asked["digests"], _text)) if has_digests else ()
    if has_digests and len(digests) != len(context):
        raise AttestationInvalid("its digests are not one for each pair of its encryption context")
    key = _optional(asked["key"], _text)
    return Filter(
        since=_optional(asked["from"], _moment),
        until=_optional(asked["to"], _moment),
        fingerprints=tuple(_each(asked["fingerprints"], _text)),
        key=None if key is None else KeyName.parse(key),
        caller=_optional(asked["caller"], _text),
        access_key=_optional(asked["accessKey"], _text),
        context=context,
        digests=dict(zip(context, digests, strict=False)),
        events=tuple(_each(asked["events"], _text)),
        error=_optional(asked["error"], _text),
        phases=frozenset(Phase(phase) for phase in _each(asked["phases"], _text)),
    )


def _log(value: Json) -> LogFacts:
    names = ("records", "inInterval", "first", "newest", "unsealed", "torn", "excepted", "setBack", "extends")
    log = _fields(value, "a log", "log", "checkpoint", *names)
    unsealed = _fields(log["unsealed"], "unsealed", "records", "oldest")
    torn = _fields(log["torn"], "torn", "bytes", "asideFiles", "asideBytes")
    if _LOG.fullmatch(_text(log["log"])) is None:
        raise AttestationInvalid("the name of a log is none")
    return LogFacts(
        log=log["log"],
        note=_optional(log["checkpoint"], _text),
        records=_count(log["records"]),
        in_interval=_count(log["inInterval"]),
        first=_optional(log["first"], _time),
        newest=_optional(log["newest"], _time),
        unsealed=_count(unsealed["records"]),
        unsealed_oldest=_optional(unsealed["oldest"], _time),
        torn_bytes=_count(torn["bytes"]),
        aside_files=_count(torn["asideFiles"]),
        aside_bytes=_count(torn["asideBytes"]),
        excepted=tuple(_each(log["excepted"], _excepted, MAX_NAMED)),
        set_back=tuple(_each(log["setBack"], _set_back, MAX_NAMED)),
        extends=tuple(_each(log["extends"], _extension, MAX_NAMED)),
    )


def _excepted(value: Json) -> Excepted:
    one = _fields(value, "an exception", "record", "segment", "line", "reason")
    return Excepted(_count(one["record"]), _text(one["segment"]), _count(one["line"]), _text(one["reason"]))


def _set_back(value: Json) -> SetBack:
    one = _fields(value, "a clock set back", "record", "time", "before")
    return SetBack(_count(one["record"]), _time(one["time"]), _time(one["before"]))


def _extension(value: Json) -> Extension:
    one = _fields(value, "an extension", "checkpoint", "proof")
    return Extension(_text(one["checkpoint"]), tuple(_each(one["proof"], _hash, 128)))


def _pair(value: Json) -> tuple[str, str]:
    key, value_ = _each(value, _text, 2) if isinstance(value, list) and len(value) == 2 else ("", "")
    if not key:
        raise AttestationInvalid("a pair of its encryption context is none")
    return key, value_


def _hash(value: Json) -> bytes:
    try:
        node = base64.b64decode(_text(value), validate=True)
    except binascii.Error as error:
        raise AttestationInvalid("a hash in it is not base64") from error
    if len(node) != HASH_BYTES:
        raise AttestationInvalid(f"a hash in it has {len(node)} bytes")
    return node


def _fields(value: Json, what: str, *names: str) -> dict[str, Json]:
    if not isinstance(value, dict) or value.keys() != {*names}:
        raise AttestationInvalid(f"{what} should have {', '.join(names)}, and nothing else")
    return value


def _each(value: Json, parse_one: Callable[[Json], T], most: int = MAX_NAMED) -> list[T]:
    if not isinstance(value, list) or len(value) > most:
        raise AttestationInvalid(f"it has something else where a list of at most {most} should be")
    return [parse_one(one) for one in value]


def _optional(value: Json, parse_one: Callable[[Json], T]) -> T | None:
    return None if value is None else parse_one(value)


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise AttestationInvalid("it has something else where text should be")
    return value


def _count(value: Json) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise AttestationInvalid("it has something else where a count should be")
    return value


def _moment(value: Json) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(value)).astimezone(UTC)
        if time_text(moment) == value:
            return moment
    except (ValueError, OverflowError):
        pass
    raise AttestationInvalid("it has something else where a time should be")


def _time(value: Json) -> str:
    return time_text(_moment(value))
