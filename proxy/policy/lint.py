"""What is wrong with what a document says, though its form is right: it would not do what its author thinks. Pure.

Errors keep a document from being loaded: a condition that the proxy cannot decide, or that can never be met. Warnings do not.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from proxy.policy import keys
from proxy.policy.access import ALIAS_OPERATIONS, ALL_ACTIONS, KEY_MAY_BE_UNKNOWN, ON_TRAILS, STS_ACTIONS
from proxy.policy.document import Document, Finding, Severity, Statement, action_glob_matches, read
from proxy.policy.keys import ConditionKey
from proxy.policy.operators import Condition, Kind, Quantifier
from proxy.policy.patterns import NO, UNKNOWN_PART, Glob, Text, Wild, compare

#: Any key, and any alias.
_KEY, _ALIAS = (f"arn:{UNKNOWN_PART}:kms:{UNKNOWN_PART}:{UNKNOWN_PART}:{kind}/{UNKNOWN_PART}" for kind in ("key", "alias"))
_ALIAS_ACTIONS = frozenset(f"kms:{name}" for name in ALIAS_OPERATIONS)
#: Roles with paths of up to four names: what is not known has no slash in it.
_ROLES = [f"arn:{UNKNOWN_PART}:iam::{UNKNOWN_PART}:role/{'/'.join(UNKNOWN_PART * names)}" for names in range(1, 6)]
_TRAIL = f"arn:{UNKNOWN_PART}:cloudtrail:{UNKNOWN_PART}:{UNKNOWN_PART}:trail/{UNKNOWN_PART}"
#: What a check says: its severity, and its words.
_Said = Iterator[tuple[Severity, str]]


def check(name: str, content: bytes) -> list[Finding]:
    """Everything that is wrong with the document `content`, errors first."""
    document, findings = read(name, content)
    return findings if document is None else check_document(document)


def check_document(document: Document) -> list[Finding]:
    """What is wrong with what `document` says, errors first."""
    findings = [
        Finding(severity, document.name, statement.label, message)
        for statement in document.statements
        for severity, message in _check(document, statement)
    ]
    return sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR)


def _check(document: Document, statement: Statement) -> _Said:
    about = frozenset(action for action in ALL_ACTIONS if statement.is_about(action))
    yield from _check_actions(statement)
    yield from _check_resources(statement, about)
    for text in statement.resources:
        yield from _check_variables(text)
    for condition in statement.conditions:
        yield from _check_condition(statement, condition, about)
        for value in condition.values:
            if condition.operator is not None and condition.operator.variables and document.version == "2012-10-17":
                yield from _check_variables(Text.parse(value, variables=True, wildcards=True))
    if document.version != "2012-10-17" and "${" in _sources(statement):
        yield Severity.WARNING, 'without "Version": "2012-10-17" a policy variable is plain text'


def _check_actions(statement: Statement) -> _Said:
    for glob in statement.actions:
        if any(action_glob_matches(glob, action) for action in ALL_ACTIONS):
            continue
        if glob.lower() == "kms:reencrypt":
            yield Severity.WARNING, f"{glob!r} is no action: ReEncrypt is kms:ReEncryptFrom and kms:ReEncryptTo"
            continue
        if glob.lower() == "sts:getcalleridentity":
            yield Severity.WARNING, f"{glob!r} is decided by no policy: as in IAM, every caller may always ask who it is"
            continue
        near = difflib.get_close_matches(glob, ALL_ACTIONS, n=1)
        yield (
            Severity.WARNING,
            f"{glob!r} is no action of KMS, STS or CloudTrail that is known" + (f"; the nearest is {near[0]}" if near else ""),
        )


def _check_resources(statement: Statement, about: frozenset[str]) -> _Said:
    keys_named = [text for text in statement.resources if compare(_loose(text), _KEY) != NO]
    for text in statement.resources:
        if text in keys_named:
            continue
        if about & STS_ACTIONS and any(compare(_loose(text), role) != NO for role in _ROLES):
            continue
        if about & ON_TRAILS and compare(_loose(text), _TRAIL) != NO:
            continue
        if compare(_loose(text), _ALIAS) == NO:
            yield (
                Severity.WARNING,
                f"{text.source!r} is no key and no alias of KMS, no role for an action of STS, no trail for one of CloudTrail",
            )
        elif not about & _ALIAS_ACTIONS:
            yield (
                Severity.WARNING,
                f"{text.source!r} is an alias, and none of the actions is on aliases: as in IAM, calls by an alias are on the"
                " key; the condition key kms:RequestAlias is about the alias",
            )
    narrow = [text.source for text in keys_named if not text.source.endswith((":key/*", ":*", ":key*")) and text.source != "*"]
    unsure = sorted(about & KEY_MAY_BE_UNKNOWN)
    if narrow and unsure:
        effect = "denied" if statement.denies else "not allowed"
        yield (
            Severity.WARNING,
            f"before a call the proxy does not know which key an alias, or a ciphertext without KeyId, is of: such calls of"
            f" {_some(unsure)} are {effect} where that decides: {narrow[0]!r}",
        )


def _check_condition(statement: Statement, condition: Condition, about: frozenset[str]) -> _Said:
    where = f"{condition.name}, {condition.key}"
    found = keys.find(condition.key)
    if found is None:
        yield Severity.ERROR, f"{where}: {_why_not(condition.key)}"
        return
    row, _ = found
    if unknown := sorted(about & row.unknown_for):
        yield (
            Severity.ERROR,
            f"{where}: of a key that exists the proxy does not know it, as it would need to for {_some(unknown)};"
            " it is known for kms:CreateKey alone",
        )
    if row.actions is not None and about and not about & row.actions:
        yield Severity.WARNING, f"{where}: no call that the statement is about has this key"
    if condition.operator is not None and row.kind not in condition.operator.kinds:
        yield Severity.ERROR, f"{where}: {condition.operator.name} does not compare values of the kind {row.kind.value}"
    yield from _check_quantifier(where, condition, row)
    if row.name == "aws:PrincipalArn" and row.kind is Kind.ARN:
        for value in condition.values:
            path = value.partition(":role/")[2]
            if "/" in path.replace("${", ""):
                yield (
                    Severity.ERROR,
                    f"{where}: {value!r}: a session's ARN does not tell its role's path, so this matches no session:"
                    f" write …:role/{path.rpartition('/')[2]}",
                )


def _check_quantifier(where: str, condition: Condition, row: ConditionKey) -> _Said:
    if row.multi and condition.quantifier is None and condition.operator is not None:
        yield Severity.ERROR, f"{where}: this key has several values: it needs ForAllValues: or ForAnyValue:"
    if not row.multi and condition.quantifier is Quantifier.ALL:
        yield Severity.ERROR, f"{where}: ForAllValues is met by requests without this single-valued key; KMS refuses it too"
    if not row.multi and condition.quantifier is Quantifier.ANY:
        yield Severity.WARNING, f"{where}: this key has one value, and needs no ForAnyValue"
    if condition.if_exists and condition.quantifier is Quantifier.ANY:
        yield Severity.WARNING, f"{where}: with ForAnyValue, IfExists has no effect"


def _check_variables(text: Text) -> _Said:
    for variable in text.variables:
        found = keys.find(variable.key)
        if found is None:
            yield Severity.ERROR, f"${{{variable.key}}}: {_why_not(variable.key)}"
        elif found[0].multi:
            yield Severity.ERROR, f"${{{variable.key}}}: a key with several values cannot be a policy variable"
        elif found[0].unknown_for:
            yield Severity.ERROR, f"${{{variable.key}}}: of a key that exists the proxy does not know it"


def _why_not(name: str) -> str:
    if keys.is_unsupported(name):
        return "UNSUPPORTED: AWS has this condition key, and nothing in a request tells it to the proxy before the call"
    near = difflib.get_close_matches(name, keys.KNOWN_NAMES, n=1)
    return "there is no such condition key" + (f"; the nearest is {near[0]}" if near else "")


def _loose(text: Text) -> Glob:
    """The text with any text in place of its variables."""
    return tuple(part if isinstance(part, str | Wild) else Wild.ANY for part in text.parts)


def _sources(statement: Statement) -> str:
    texts = [text.source for text in statement.resources]
    return " ".join([*texts, *(value for condition in statement.conditions for value in condition.values)])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
