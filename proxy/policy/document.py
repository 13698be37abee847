"""Policy documents: from JSON to statements, strictly. Pure.

What IAM would refuse is refused here, and what it takes in more than one way: a member that stands twice, an element in other
letters, an empty list. `read` gives a finding for each fault that it meets, and a document where there was none. The elements'
grammar: IAM user guide, "Grammar of the IAM JSON policy language". There are three forms: a key policy says of each statement
whom it is about; guardrails and identity policies, as service control policies, do not.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

from proxy.policy.operators import Condition, read_condition
from proxy.policy.patterns import MAYBE, NO, YES, LookUp, PatternError, Text, compare, matcher
from proxy.policy.principals import EVERYBODY, KINDS, Principals, joined, read_principal

MAX_BYTES = 128 << 10  # IAM's own limits are below 11 KiB
VERSIONS = ("2012-10-17", "2008-10-17")
_WITH_VARIABLES = "2012-10-17"
_SID = re.compile(r"[A-Za-z0-9]{1,128}")
_FREE_SID = re.compile(r"[ -~]{1,128}")  # the console's own key policies have blanks in theirs
_ACTION = re.compile(r"\*|[A-Za-z0-9-]+:[A-Za-z0-9*?]+")
_DOCUMENT_ELEMENTS = ("Version", "Id", "Statement")
_STATEMENT_ELEMENTS = ("Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition")
_PRINCIPALS = ("Principal", "NotPrincipal")
NO_PRINCIPAL = "contains a statement with no principal"
INVALID_PRINCIPALS = "contains a statement with one or more invalid principals"


class Form(Enum):
    """What a policy document is attached to."""

    GUARDRAIL = "a guardrail"
    IDENTITY = "an identity policy"
    KEY = "a key policy"


class Severity(Enum):
    """An error: the document is not loaded. A warning: it may not do what its author thinks."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong in `file`, at a statement (its Sid or number; "" for the document). `kind`: the fault's name, where callers
    are told it in words of AWS's."""

    severity: Severity
    file: str
    statement: str
    message: str
    kind: str = ""

    def __str__(self) -> str:
        place = f"{self.file}, statement {self.statement}" if self.statement else self.file
        return f"{place}: {self.severity.value}: {self.message}"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `label` is its Sid, or its number from 1. `not_action`, `not_resource`: the lists are of what it is not.
    `principals` are a key policy's."""

    label: str
    denies: bool
    actions: tuple[str, ...]
    not_action: bool
    resources: tuple[Text, ...]
    not_resource: bool
    conditions: tuple[Condition, ...]
    principals: Principals | None = None

    def is_about(self, action: str) -> bool:
        """Whether it is about `action` (kms:Decrypt). Names of actions are not case-sensitive."""
        return any(action_glob_matches(glob, action) for glob in self.actions) is not self.not_action

    def may_be_on(self, resource: str) -> bool:
        """Whether it can be about `resource`, by what is certain: a policy variable may stand for anything."""
        if any(text.fixed is None for text in self.resources):
            return True
        return self._fits(resource, lambda _: None) != NO

    def applies(self, resource: str, look_up: LookUp) -> int:
        """Whether resource and conditions fit an action that it is about: NO, MAYBE or YES."""
        return self.conditions_hold(look_up, self._fits(resource, look_up))

    def conditions_hold(self, look_up: LookUp, result: int = YES) -> int:
        """Whether all conditions are met, as far as `result`, which is known before: NO, MAYBE or YES."""
        for condition in self.conditions:
            if result == NO:
                return NO
            holds = condition.holds(look_up)
            if holds < result:
                result = holds
        return result

    def _fits(self, resource: str, look_up: LookUp) -> int:
        best = NO
        for text in self.resources:
            glob = text.fixed or text.resolve(look_up)
            best = max(best, MAYBE if glob is None else compare(glob, resource))
            if best == YES:
                break
        return YES - best if self.not_resource else best


@dataclass(frozen=True, slots=True)
class Document:
    """A policy; `name` is its file's."""

    name: str
    version: str
    statements: tuple[Statement, ...]


def action_glob_matches(glob: str, action: str) -> bool:
    return matcher(Text.parse(glob.lower(), variables=False, wildcards=True).fixed or ()).fullmatch(action.lower()) is not None


def read(name: str, content: bytes, form: Form = Form.GUARDRAIL) -> tuple[Document | None, list[Finding]]:
    """The document in `content`, and what is wrong with its form; None where it cannot be read to the end."""
    reader = _Reader(name, form)
    document = reader.document(content)
    return (None if reader.findings else document), reader.findings


class _Reader:
    """Reads one document; goes on after a fault as far as that makes sense, so that all of them are told at once."""

    def __init__(self, name: str, form: Form) -> None:
        self.name = name
        self.form = form
        self.findings: list[Finding] = []
        self._label = ""
        self._variables = False

    def document(self, content: bytes) -> Document | None:
        parsed = self._json(content)
        if self.findings:
            return None
        if not isinstance(parsed, dict):
            self._fault(f"a policy is a JSON object, not {_kind(parsed)}")
            return None
        self._check_names(parsed, _DOCUMENT_ELEMENTS)
        version = parsed.get("Version", VERSIONS[1])
        if version not in VERSIONS:
            self._fault(f"Version is {_shown(version)}; there are {' and '.join(VERSIONS)}")
        self._variables = version == _WITH_VARIABLES
        if not isinstance(parsed.get("Id", ""), str):
            self._fault("Id must be text")
        found = parsed.get("Statement")
        if found is None:
            self._fault("there is no Statement")
            return None
        found = found if isinstance(found, list) else [found]
        if not found:
            self._fault("Statement is an empty list")
        statements = [self._statement(number, one) for number, one in enumerate(found, 1)]
        self._label = ""
        labels = [one.label for one in statements if one is not None]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            self._fault(f"Sid {label!r} stands for more than one statement")
        return Document(self.name, version, tuple(one for one in statements if one is not None)) if statements else None

    def _json(self, content: bytes) -> Any:  # Any: JSON, whatever it holds
        if len(content) > MAX_BYTES:
            self._fault(f"larger than {MAX_BYTES >> 10} KiB")
            return None
        try:
            return _decoder(self._fault).decode(content.decode())
        except UnicodeDecodeError:
            self._fault("not UTF-8")
            return None
        except json.JSONDecodeError as error:
            self._fault(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}")
            return None
        except (ValueError, RecursionError) as error:
            self._fault("not JSON: nested too deep" if isinstance(error, RecursionError) else f"not JSON: {error}")
            return None

    def _statement(self, number: int, found: Any) -> Statement | None:  # Any: JSON
        self._label = str(number)
        if not isinstance(found, dict):
            self._fault(f"a statement is a JSON object, not {_kind(found)}")
            return None
        sid = found.get("Sid")
        if isinstance(sid, str) and (_FREE_SID if self.form is Form.KEY else _SID).fullmatch(sid):
            self._label = sid
        elif sid is not None and not (sid == "" and self.form is Form.KEY):
            allowed = "printable characters, up to 128 of them," if self.form is Form.KEY else "letters and digits"
            self._fault(f"Sid is {_shown(sid)}; it may have {allowed} only")
        self._check_names(found, _STATEMENT_ELEMENTS)
        effect = found.get("Effect")
        if effect not in ("Allow", "Deny"):
            self._fault(f"Effect is {_shown(effect)}; it must be Allow or Deny")
        actions, not_action = self._one_of(found, "Action", "NotAction")
        for action in actions:
            if not _ACTION.fullmatch(action):
                self._fault(f"{action!r} is no action: kms:Decrypt, kms:Generate*, *")
        resources, not_resource = self._one_of(found, "Resource", "NotResource")
        texts = tuple(text for text in map(self._resource, resources) if text is not None)
        conditions = self._conditions(found.get("Condition", {}))
        principals = self._principals(found, effect) if self.form is Form.KEY else None
        return Statement(self._label, effect == "Deny", actions, not_action, texts, not_resource, conditions, principals)

    def _principals(self, statement: dict[str, Any], effect: Any) -> Principals:
        """Whom a key policy's statement is about."""
        negated = "NotPrincipal" in statement
        if negated and "Principal" in statement:
            self._fault("there must be one of Principal and NotPrincipal")
        elif not negated and "Principal" not in statement:
            self._fault(NO_PRINCIPAL, NO_PRINCIPAL)
        elif negated and effect != "Deny":
            self._fault("NotPrincipal goes with Deny only: an Allow would be for everybody else in the world")
        found = statement.get("NotPrincipal" if negated else "Principal", {})
        if found == EVERYBODY:
            found = {"AWS": EVERYBODY}
        if found == {} and "Principal" in statement:
            self._fault(NO_PRINCIPAL, NO_PRINCIPAL)
        if not isinstance(found, dict):
            self._fault(INVALID_PRINCIPALS, INVALID_PRINCIPALS)
            found = {}
        parts: list[Principals] = []
        for kind, names in found.items():
            for name in self._texts(f"Principal {kind}", names):
                one = read_principal(kind, name) if kind in KINDS else None
                if one is None or (negated and one.everybody):
                    self._fault(f"{INVALID_PRINCIPALS}: {kind} {name!r}", INVALID_PRINCIPALS)
                else:
                    parts.append(one)
        return joined(parts, negated=negated)

    def _one_of(self, statement: dict[str, Any], name: str, other: str) -> tuple[tuple[str, ...], bool]:
        if (name in statement) == (other in statement):
            self._fault(f"there must be one of {name} and {other}")
            return (), False
        negated = other in statement
        chosen = other if negated else name
        return self._texts(chosen, statement[chosen]), negated

    def _texts(self, what: str, value: Any) -> tuple[str, ...]:  # Any: JSON
        values = value if isinstance(value, list) else [value]
        if not values:
            self._fault(f"{what} is an empty list")
        for one in values:
            if not isinstance(one, str) or not one:
                self._fault(f"{what} must be text, not {_shown(one)}")
        return tuple(one for one in values if isinstance(one, str) and one)

    def _resource(self, source: str) -> Text | None:
        head, _, _ = source.partition("${") if self._variables else (source, "", "")
        if source != "*" and (not source.startswith("arn:") or source.count(":") < 5):
            self._fault(f"{source!r} is no resource: *, or an ARN with its six parts")
            return None
        if head != source and head.count(":") < 5:
            self._fault(f"{source!r}: a policy variable may stand behind the fifth colon only")
            return None
        try:
            return Text.parse(source, variables=self._variables, wildcards=True)
        except PatternError as error:
            self._fault(str(error))
            return None

    def _conditions(self, found: Any) -> tuple[Condition, ...]:  # Any: JSON
        if not isinstance(found, dict):
            self._fault(f"Condition must be a JSON object, not {_kind(found)}")
            return ()
        conditions = []
        for operator, keys in found.items():
            if not isinstance(keys, dict) or not keys:
                self._fault(f"{operator} must be a JSON object with condition keys, not {_shown(keys)}")
                continue
            low = [key.lower() for key in keys]
            if len(set(low)) != len(low):
                self._fault(f"{operator}: a condition key stands twice; their case does not count")
            for key, value in keys.items():
                values = self._values(f"{operator}, {key}", value)
                try:
                    conditions.append(read_condition(operator, key, values, variables=self._variables))
                except PatternError as error:
                    self._fault(f"{operator}, {key}: {error}")
        return tuple(conditions)

    def _values(self, what: str, value: Any) -> tuple[str, ...]:  # Any: JSON
        """A condition's values as texts; IAM takes booleans and numbers too."""
        values = value if isinstance(value, list) else [value]
        if not values:
            self._fault(f"{what}: an empty list of values")
        if not all(isinstance(one, str | bool | int | float) for one in values):
            self._fault(f"{what}: a value must be text, a number, true or false")
        return tuple(
            one if isinstance(one, str) else json.dumps(one) for one in values if isinstance(one, str | bool | int | float)
        )

    def _check_names(self, found: dict[str, Any], known: Collection[str]) -> None:
        for name in found:
            if name in _PRINCIPALS:
                if self.form is not Form.KEY:
                    self._fault(f"{name} has no place in {self.form.value}: use the condition key aws:PrincipalArn")
            elif name not in known:
                near = difflib.get_close_matches(name.title(), known, n=1, cutoff=0.6)
                self._fault(f"there is no element {name!r}" + (f"; the nearest is {near[0]}" if near else ""))

    def _fault(self, message: str, kind: str = "") -> None:
        self.findings.append(Finding(Severity.ERROR, self.name, self._label, message, kind))


def _decoder(fault: Any) -> json.JSONDecoder:  # Any: a function of no result
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            fault(f"stands twice in one JSON object: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
        return found

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.JSONDecoder(object_pairs_hook=members, parse_constant=constant)


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return "missing" if value is None else text if len(text) <= 60 else f"{text[:60]}…"
