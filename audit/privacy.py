"""How the values of encryption contexts stand in records: in clear, or in a form that only who holds `privacy.key` can use. Pure.
The keys themselves: `audit.private_keys`.

`Rules` say by a context key's name which form its values take; names are compared without regard to case, as IAM does, and are
never private themselves. The forms:

- hmac: ``hmac-sha256:<64 hex>``, HMAC-SHA256 over the name (in small letters, its length in four bytes before it) and the value.
  Who holds the key and knows the value finds it again; equal values look equal.
- encrypted: ``aes-256-gcm:<key id, 16 hex>:<base64 of 12 bytes nonce ‖ ciphertext ‖ 16 bytes tag>`` under a key of its own for
  each subject, the name bound to it. Equal values look different. Without the subject's key it is noise for good.
- withheld: ``[withheld]``: of a value that was to be encrypted, and no key for that was at hand.

A caller can send any of these texts. What tells a private value is not its text but the record's ``privateContext``, which is
ours alone to write: by name, which of the forms the values of that name have in this record.

Source: RFC 2104, NIST SP 800-38D (a random nonce: at most 2^32 values under one subject's key); docs/log-format.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import orjson

WITHHELD = "[withheld]"
SHREDDED = "[shredded]"
HMAC_PREFIX = "hmac-sha256:"
ENCRYPTED = re.compile(r"aes-256-gcm:([0-9a-f]{16}):([A-Za-z0-9+/]+={0,2})")
_WORD = re.compile(r"(?P<name>.+)=(?P<form>clear|hmac|encrypted:(?P<subject>.+))", re.DOTALL)
_CONDITION = "kms:encryptioncontext:"


class Form(Enum):
    """How a value stands in a record; the words of ``privateContext``, which never says `clear`."""

    CLEAR = "clear"
    HMAC = "hmac"
    ENCRYPTED = "encrypted"
    WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class Rule:
    """The form of a name's values; where encrypted, `subject` is the name whose value says under whose key."""

    form: Form
    subject: str = ""


_CLEAR = Rule(Form.CLEAR)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rule of each name (in small letters), and that of all others."""

    named: Mapping[str, Rule] = field(default_factory=dict)
    others: Rule = _CLEAR

    @classmethod
    def parse(cls, words: Iterable[str]) -> Rules:
        """From ``NAME=clear``, ``NAME=hmac``, ``NAME=encrypted:SUBJECT``; ``*`` is every other name. Raises ValueError."""
        named: dict[str, Rule] = {}
        for word in words:
            parts = _WORD.fullmatch(word)
            if parts is None:
                raise ValueError(f"{word!r} is none of NAME=clear, NAME=hmac, NAME=encrypted:SUBJECT")
            subject = (parts["subject"] or "").lower()
            name, form = parts["name"].lower(), Form.ENCRYPTED if subject else Form(parts["form"])
            if name in named:
                raise ValueError(f"{parts['name']!r} stands there twice")
            named[name] = Rule(form, subject)
        others = named.pop("*", _CLEAR)
        rules = cls(named, others)
        for rule in (*named.values(), others):
            if rule.subject and rules.of(rule.subject).form is not Form.HMAC:
                raise ValueError(f"{rule.subject!r} is a subject, so it needs {rule.subject}=hmac")
        return rules

    def of(self, name: str) -> Rule:
        return self.named.get(name.lower(), self.others)

    @property
    def are_all_clear(self) -> bool:
        return all(rule.form is Form.CLEAR for rule in (*self.named.values(), self.others))

    @property
    def encrypts(self) -> bool:
        return any(rule.form is Form.ENCRYPTED for rule in (*self.named.values(), self.others))


def key_id_of(stored: str) -> str | None:
    """The id of the subject's key that `stored` names; None where it is no value in the form encrypted."""
    parts = ENCRYPTED.fullmatch(stored)
    return None if parts is None else parts[1]


def private_policy(text: str, stored: Callable[[str, str], str]) -> str:
    """A policy document in which the values of conditions on encryption contexts (``kms:EncryptionContext:NAME``) are as
    `stored` (name, value) says. What is no JSON object, or nested too deeply, is withheld whole."""
    try:
        document: Any = orjson.loads(text)  # Any: JSON of a caller's making
    except orjson.JSONDecodeError:
        return WITHHELD
    if not isinstance(document, dict):
        return WITHHELD
    if _CONDITION.partition(":")[2] not in text.lower() and "\\" not in text:
        return text  # it has no such condition, nor one that is spelt with escapes
    try:
        return orjson.dumps(_with_private_conditions(document, stored)).decode()
    except (RecursionError, orjson.JSONEncodeError):
        return WITHHELD


def _with_private_conditions(value: Any, stored: Callable[[str, str], str]) -> Any:
    if isinstance(value, list):
        return [_with_private_conditions(item, stored) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _stored_all(item, name[len(_CONDITION) :], stored)
        if name.lower().startswith(_CONDITION)
        else _with_private_conditions(item, stored)
        for name, item in value.items()
    }


def _stored_all(value: Any, name: str, stored: Callable[[str, str], str]) -> Any:
    if isinstance(value, list):
        return [_stored_all(item, name, stored) for item in value]
    return stored(name, value if isinstance(value, str) else orjson.dumps(value).decode())
