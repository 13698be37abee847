"""Who searched the audit log: each command that asks it leaves a record in the log `admin` first.

Only where `serve` runs on the data folder: there the record is sealed like any other. A copy of the folder, at an analyst's, is
evidence that nobody writes to. Who may read the files can read them without this command, and leaves no record here.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from audit.commit import EffectOf, Known
from audit.errors import AuditError, QueryError
from audit.host_events import commit_host_event
from audit.instance import Instance, NoInstance
from audit.query.artifacts.sources import is_place
from audit.query.blob import fingerprint_of_text
from audit.query.modesty import be_modest
from audit.query.terminal import errors, note
from audit.record import AuditRecord, JsonValue

EVENT = "SearchLog"
_MAX_QUESTION_BYTES = 4_096
_BEGINNING = 1_024  # characters of a longer one
#: Options that say how an answer is printed, and not what is asked; and those that a password may stand in.
_NOT_RECORDED = {
    *("ctx", "data", "json", "csv", "format", "html", "no_index", "time_limit", "columns", "explain_", "out"),
    *("s3_endpoint", "catalog_uri", "catalog_property"),
}
_USER_IN_URL = re.compile(r"//[^/@\s]*@")


#: What is known of the effect of an intent in the log of an instance; as `audit.commit.EffectOf`.
EffectIn: TypeAlias = Callable[[Instance, AuditRecord], Known | None]


def on_record(name: str, command: Callable[..., None], effect_in: EffectIn | None = None) -> Callable[..., None]:
    """The command `name`, which takes the data folder as `data`, with its record before it; from then on it is modest.
    `effect_in` tells of commands whose outcome was lost, where this one finds them in the log."""

    @functools.wraps(command)
    def recorded(*arguments: Any, **options: Any) -> None:
        if options.get("statement") == "-":  # what comes by standard input is the question, and is on record with it
            options["statement"] = sys.stdin.read()
        must = bool(options.get("reveal"))
        with errors():
            if record_search(options["data"], name, options, must=must, effect_in=effect_in):
                be_modest()
        command(*arguments, **options)

    return recorded


def record_search(
    data: Path, command: str, options: Mapping[str, Any], *, must: bool = False, effect_in: EffectIn | None = None
) -> bool:
    """Record that `command` is about to search the logs of `data`, if `serve` runs there; durable when this returns. Whether it
    does.

    Where that is not possible, it is said on standard error, and the search goes on. With `must` it is recorded in any case, and
    what keeps it from being so is raised: AuditError, OSError.
    """
    is_served = False
    try:
        instance = Instance.load(data)
        is_served = instance.is_served
        if is_served or must:
            _commit(instance, command, options, None if effect_in is None else partial(effect_in, instance))
    except NoInstance:
        pass  # what the command itself will say something about
    except (AuditError, OSError) as error:
        if must:
            raise
        note(f"this search is not on record: {error}")
    return is_served


def _commit(instance: Instance, command: str, options: Mapping[str, Any], effect_of: EffectOf | None) -> None:
    forms: Mapping[str, str] = {}
    if isinstance(pairs := options.get("context"), list):
        from audit.query import private  # here: it needs ciphers, which most questions do not

        told, forms = private.on_record(pairs, instance.data)
        options = {**options, "context": told}
    commit_host_event(instance, EVENT, {"command": command, "question": _question(options)}, forms or None, effect_of)


def _question(options: Mapping[str, Any]) -> JsonValue:
    asked = {
        name: _artefact(value) if name == "artifact" else _value(value)
        for name, value in options.items()
        if name not in _NOT_RECORDED and value not in (None, False, [], ())
    }
    text = orjson.dumps(asked)
    if len(text) <= _MAX_QUESTION_BYTES:
        return asked
    beginning = text.decode()[:_BEGINNING]
    return {"omitted": True, "originalSize": len(text), "beginning": beginning, "sha256": hashlib.sha256(text).hexdigest()}


def _artefact(value: object) -> JsonValue:
    """A place as it is named; of anything else the fingerprint alone: it may be a ciphertext, or a key that was pasted here."""
    if is_place(str(value)):
        return _value(value)
    try:
        return fingerprint_of_text(str(value))
    except (QueryError, UnicodeError):
        return "neither a place nor a ciphertext"


def _value(value: object) -> JsonValue:
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return _USER_IN_URL.sub("//…@", text) if "://" in text else text
