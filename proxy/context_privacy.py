"""What of a request is private, as it goes into its record: the one place that all of it passes through. Pure.

Encryption contexts, the constraints of grants on them, and the conditions of policies on them are put into the forms that the
rules ask for (`audit.privacy`); KMS itself, here or at AWS, sees them in clear. What an error says of them is hidden as well.
A value that is to be encrypted, and whose subject has no key at hand, is withheld: it never stands in a log in another form.

A context that is none (no map of texts), and one with so many private names that they would fill the record, is left out whole;
`marks` says so under the name ``*``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from audit.privacy import WITHHELD, Form, Rule, Rules, private_policy
from audit.private_keys import NONCE_BYTES, PrivacyKey, SubjectKey
from proxy.domain import Members

CONTEXT_MEMBERS = ("EncryptionContext", "SourceEncryptionContext", "DestinationEncryptionContext")
CONSTRAINTS = ("EncryptionContextEquals", "EncryptionContextSubset")
_OTHER_CONSTRAINTS = ("SourceArn",)  # what else the model knows; any other may be a context that was put in the wrong place
_POLICIES = ("Policy", "policy")  # of KMS, and of commands on the host
_MOST_MARKS = 100
ALL = "*"
_QUOTES_A_CONTEXT = re.compile(r"value '.*' at '[\w.]*encryptioncontext", re.IGNORECASE | re.DOTALL)
_QUOTE_WITHHELD = "[withheld: it quotes an encryption context]"


@dataclass(slots=True)
class Hidden:
    """`parameters` as they may be recorded. `marks`: the forms of private values, by name. `forms`: each by its value."""

    parameters: Members
    marks: dict[str, str] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict, repr=False)

    def text(self, told: str) -> str:
        """`told`, an error's words, without the private values of this request."""
        if not self.marks:
            return told
        if _QUOTES_A_CONTEXT.search(told):  # AWS may have cut it, or spelt it otherwise
            return _QUOTE_WITHHELD
        spelt = {
            way: stored for value, stored in self.forms.items() for way in (value, orjson.dumps(value).decode()[1:-1]) if way
        }
        ways = "|".join(map(re.escape, sorted(spelt, key=len, reverse=True)))
        return re.sub(ways, lambda found: spelt[found[0]], told) if ways else told


class ContextPrivacy:
    """Hides by `rules`. `find` gives the key of a subject, by its digest, that is at hand; `random` random bytes."""

    def __init__(
        self,
        rules: Rules,
        key: PrivacyKey,
        find: Callable[[str], SubjectKey | None],
        random: Callable[[int], bytes],
    ) -> None:
        self._rules = rules
        self._key = key
        self._find = find
        self._random = random

    def hide(self, members: Members) -> Hidden:
        """What may be recorded of `members`, a request's, be it valid or not."""
        hidden = Hidden(members)
        for name in CONTEXT_MEMBERS:
            if name in members:
                self._put(hidden, name, self._context(hidden, members[name]))
        if "Constraints" in members:
            self._put(hidden, "Constraints", self._constraints(hidden, members["Constraints"]))
        for name in _POLICIES:
            if name in members:
                policy = members[name]
                stored = partial(self._condition, hidden)
                self._put(hidden, name, private_policy(policy, stored) if isinstance(policy, str) else WITHHELD)
        if len(hidden.marks) > _MOST_MARKS:
            kept = {name: value for name, value in members.items() if name not in (*CONTEXT_MEMBERS, "Constraints", *_POLICIES)}
            return Hidden(kept, {ALL: Form.WITHHELD.value}, hidden.forms)
        return hidden

    def subjects(self, members: Members) -> Iterator[str]:
        """The digests of the subjects whose keys `hide` needs."""
        constraints = members.get("Constraints")
        inner = [constraints.get(name) for name in CONSTRAINTS] if isinstance(constraints, Mapping) else []
        for context in (*(members.get(name) for name in CONTEXT_MEMBERS), *inner):
            if isinstance(context, Mapping):
                for name in context:
                    rule = self._rules.of(name)
                    if rule.form is Form.ENCRYPTED and (subject := self._subject(rule, context)) is not None:
                        yield subject

    def _put(self, hidden: Hidden, name: str, value: Any) -> None:  # Any: JSON
        if value is not hidden.parameters[name]:
            hidden.parameters = {**hidden.parameters, name: value}

    def _context(self, hidden: Hidden, context: Any) -> Any:
        """`context` in the forms of its names; itself where all are clear."""
        if context is None:
            return None
        if not isinstance(context, Mapping):
            hidden.marks[ALL] = Form.WITHHELD.value
            hidden.forms |= dict.fromkeys(_texts(context), WITHHELD)
            return None
        told = {}
        has_private = False
        for name, value in context.items():
            rule = self._rules.of(name)
            if rule.form is Form.CLEAR:
                told[name] = value
            else:
                has_private = True
                told[name] = self._stored(hidden, name, value, rule, context)
        return told if has_private else context

    def _stored(self, hidden: Hidden, name: str, value: Any, rule: Rule, context: Mapping[str, Any]) -> str:
        is_text = type(value) is str
        text = value if is_text else orjson.dumps(value).decode()
        if rule.form is Form.HMAC:
            stored, mark = self._key.digest(name, text), "hmac"
        else:
            subject = self._subject(rule, context)
            key = None if subject is None else self._find(subject)
            if key is None:
                stored, mark = WITHHELD, "withheld"
            else:
                stored, mark = key.encrypted(name, text, self._random(NONCE_BYTES)), "encrypted"
        # of a name that stands in two contexts the mark that promises less
        hidden.marks[name] = mark if hidden.marks.get(name, mark) == mark else "withheld"
        if is_text:
            hidden.forms[value] = stored
        else:
            hidden.forms |= dict.fromkeys(_texts(value), stored)
        return stored

    def _subject(self, rule: Rule, context: Mapping[str, Any]) -> str | None:
        value = next((value for name, value in context.items() if name.lower() == rule.subject), None)
        return self._key.digest(rule.subject, value) if isinstance(value, str) else None

    def _constraints(self, hidden: Hidden, constraints: Any) -> Any:
        if not isinstance(constraints, Mapping):
            return self._context(hidden, constraints)
        told = {
            name: value if name in _OTHER_CONSTRAINTS else self._context(hidden, value if name in CONSTRAINTS else [value])
            for name, value in constraints.items()
        }
        return told if any(told[name] is not constraints[name] for name in told) else constraints

    def _condition(self, hidden: Hidden, name: str, value: str) -> str:
        """A value in a policy's condition: it has no subject, so it is never encrypted."""
        rule = self._rules.of(name)
        if rule.form is Form.CLEAR:
            return value
        return self._stored(hidden, name, value, rule, {})


def _texts(value: Any) -> Iterator[str]:
    """The texts in a piece of JSON."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(item)
