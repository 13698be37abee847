"""Who searched the audit log: each command that asks it leaves a record in the log `admin` first.

Only where `serve` runs on the data folder: there the record is sealed like any other. A copy of the folder, at an analyst's, is
evidence that nobody writes to. Who may read the files can read them without this command, and leaves no record here.
"""

from __future__ import annotations

import functools
import getpass
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from audit.commit import BlockingLog, LogPlace
from audit.errors import AuditError, LogInUse, QueryError
from audit.instance import ADMIN_LOG, Instance, NoInstance
from audit.query.artifacts.sources import is_place
from audit.query.blob import fingerprint_of_text
from audit.query.modesty import be_modest
from audit.query.terminal import note
from audit.record import AuditRecord, IdentityProof, JsonValue, UserIdentity
from audit.segments import is_locked

EVENT = "SearchLog"
_MAX_QUESTION_BYTES = 4_096
_TRIES, _PAUSE_S = 20, 0.05  # while another command writes to the log
#: Options that say how an answer is printed, and not what is asked.
_MANNERS = frozenset(
    ("ctx", "data", "json", "csv", "format", "html", "no_index", "time_limit", "columns", "explain_", "out", "s3_endpoint")
)


def on_record(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """The command `name`, which takes the data folder as `data`, with its record before it; from then on it is modest."""

    @functools.wraps(command)
    def recorded(*arguments: Any, **options: Any) -> None:
        if record_search(options["data"], name, options):
            be_modest()
        command(*arguments, **options)

    return recorded


def record_search(data: Path, command: str, options: Mapping[str, Any]) -> bool:
    """Record that `command` is about to search the logs of `data`, if `serve` runs there; durable when this returns. Whether it
    does.

    Where that is not possible, it is said on standard error, and the search goes on.
    """
    is_served = False
    try:
        instance = Instance.load(data)
        is_served = is_locked(data / "serve.lock")
        if is_served:
            _commit(instance, _record(instance, command, options))
    except (NoInstance, FileNotFoundError):
        pass  # what the command itself will say something about
    except (AuditError, OSError) as error:
        note(f"this search is not on record: {error}")
    return is_served


def _commit(instance: Instance, record: AuditRecord) -> None:
    folders = instance.log_folder(ADMIN_LOG), instance.checkpoint_folder(ADMIN_LOG)
    for tries_left in reversed(range(_TRIES)):
        try:
            with BlockingLog(LogPlace(*folders, instance.region, instance.account_id)) as log:
                log.commit(record)
            return
        except LogInUse:
            if not tries_left:
                raise
            time.sleep(_PAUSE_S)


def _record(instance: Instance, command: str, options: Mapping[str, Any]) -> AuditRecord:
    return AuditRecord(
        time_us=time.time_ns() // 1_000,
        event_id=str(uuid.uuid4()),
        event_name=EVENT,
        event_source="keytrail",
        identity=UserIdentity("Unknown", f"host:{os.getuid()}", user_name=_user()),
        identity_proof=IdentityProof.HOST,
        aws_region=instance.region,
        source_ip="localhost",
        user_agent="keytrail",
        request_parameters={"command": command, "question": _question(options)},
        recipient_account_id=instance.account_id,
        topology="host",
    )


def _question(options: Mapping[str, Any]) -> JsonValue:
    asked = {
        name: _artefact(value) if name == "artifact" else _value(value)
        for name, value in options.items()
        if name not in _MANNERS and value not in (None, False, [], ())
    }
    size = len(orjson.dumps(asked))
    return asked if size <= _MAX_QUESTION_BYTES else {"omitted": True, "originalSize": size}


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
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
