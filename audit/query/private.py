"""Private values of encryption contexts, for who asks: a value as it is searched for, and what is shown of it.

Who may read `privacy.key` finds a value in the form hmac by the value itself. Of encrypted ones a record tells the subject, in
the form hmac: that there were calls is found by the subject. Their text is shown where it was asked for (`reveal`), and that is
on record; of a subject whose key was shredded it is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from audit.instance import Instance, NoInstance
from audit.privacy import SHREDDED, WITHHELD, key_id_of
from audit.private_keys import PrivacyKey, SubjectKey
from audit.query.filters import CONTEXTS, Filter, parse_pair, private_names
from audit.query.lines import Found
from audit.query.terminal import note
from audit.query.trace import Story
from audit.subjects import PrivacyFault, Subjects, is_private, load_privacy_key, subjects_path

_CONSTRAINTS = ("encryptionContextEquals", "encryptionContextSubset")


def digesting_key(data: Path) -> PrivacyKey | None:
    """The privacy key of a data folder; None where nothing in it was ever private. Raises `PrivacyFault`."""
    try:
        instance = Instance.load(data)
    except NoInstance:  # a log without its instance is asked too
        return None
    return load_privacy_key(instance) if is_private(instance) else None


def with_digests(wanted: Filter, data: Path) -> Filter:
    """`wanted`, finding private values as well, as far as whoever asks may read the key; where not, that is said."""
    if not wanted.context:
        return wanted
    try:
        key = digesting_key(data)
    except PrivacyFault as error:
        note(f"private values are not searched: {error}")
        return wanted
    return wanted if key is None else replace(wanted, digests={pair: key.digest(*pair) for pair in wanted.context})


def on_record(pairs: Iterable[str], data: Path) -> tuple[list[str], dict[str, str]]:
    """The pairs ``KEY=VALUE`` of a question as they are recorded, and which forms that are: where anything in the data folder was
    ever private, all are."""
    try:
        key, is_withheld = digesting_key(data), False
    except PrivacyFault:
        key, is_withheld = None, True
    told, forms = [], {}
    for text in pairs:
        name, divider, _ = text.partition("=")
        if key is not None and divider and name:
            told.append(f"{name}={key.digest(*parse_pair(text))}")
            forms[name] = "hmac"
        elif key is None and not is_withheld:
            told.append(text)
        else:
            told.append(f"{name}={WITHHELD}" if divider else WITHHELD)
            forms[name if divider else "*"] = "withheld"
    return told, forms


class Revealer:
    """Shows encrypted values as they were. A context manager. Raises `PrivacyFault` where the keys cannot be read."""

    def __init__(self, data: Path) -> None:
        instance = Instance.load(data)
        path = subjects_path(instance)
        if not path.exists():
            raise PrivacyFault(f"{path} is not there: nothing encrypted can be read")
        self._subjects = Subjects(path, load_privacy_key(instance), os.urandom)
        self._keys: dict[str, SubjectKey | None] = {}

    def revealed(self, found: Iterable[Found]) -> Iterator[Found]:
        """`found` with encrypted values in clear, or as ``[shredded]``; the lines are not those of the log then."""
        for one in found:
            record = one.record
            names = private_names(record)
            yield one if not names else replace(one, line=orjson.dumps(self._shown(record, names)))

    def story(self, told: Story) -> Story:
        """`told` with encrypted values of its contexts in the same way."""
        entries = tuple(
            replace(entry, context={place: self._context(pairs, entry.private_context) for place, pairs in entry.context.items()})
            for entry in told.entries
        )
        return replace(told, entries=entries)

    def _shown(self, record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:  # Any: JSON of a record
        parameters = dict(record.get("requestParameters") or {})
        for name in CONTEXTS:
            self._show(parameters, name, names)
        if isinstance(constraints := parameters.get("constraints"), dict):
            parameters["constraints"] = dict(constraints)
            for name in _CONSTRAINTS:
                self._show(parameters["constraints"], name, names)
        return {**record, "requestParameters": parameters}

    def _show(self, holder: dict[str, Any], place: str, names: Mapping[str, str]) -> None:
        if isinstance(context := holder.get(place), dict):
            holder[place] = self._context(context, names)

    def _context(self, context: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        return {name: self._value(name, value) if name in names else value for name, value in context.items()}

    def _value(self, name: str, value: Any) -> Any:
        id = key_id_of(value) if isinstance(value, str) else None
        if id is None:
            return value
        if id not in self._keys:
            self._keys[id] = self._subjects.by_id(id)
        key = self._keys[id]
        if key is None:
            return SHREDDED
        told = key.decrypted(name, value)
        return value if told is None else told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._subjects.close()
