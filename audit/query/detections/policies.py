"""Whom a key policy opens the key to, as far as its principals tell. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

EVERYBODY = "*"
_ACCOUNT = re.compile(r"[0-9]{12}")
#: Conditions on who calls; one of them that names somebody keeps `*` from being everybody.
_OF_CALLERS = frozenset(
    (
        "aws:principalaccount",
        "aws:principalarn",
        "aws:principalorgid",
        "aws:principalorgpaths",
        "aws:sourceaccount",
        "aws:sourcearn",
        "aws:userid",
        "kms:calleraccount",
    )
)
#: ForAllValues and …IfExists are no such: they also hold where the key is missing.
_POSITIVE = re.compile(r"(foranyvalue:)?(string(equals|like|equalsignorecase)|arn(equals|like))", re.IGNORECASE)
#: Values with wildcards that still name an account or an organisation.
_WITHIN = re.compile(r"arn:[^:]*:[^:]*:[^:]*:[0-9]{12}:.*|o-[a-z0-9]+/.*", re.DOTALL)


def opened_to(policy: str) -> list[str]:
    """The accounts that statements of `policy` allow something, and `*` for everybody; empty where it is no policy.

    Not told: who a condition on the caller lets in where the principal is `*`; services; what Deny statements take away again.
    """
    try:
        document = orjson.loads(policy)
    except orjson.JSONDecodeError:
        return []
    statements = document.get("Statement") if isinstance(document, dict) else None
    listed = statements if isinstance(statements, list) else [statements]
    return sorted({account for statement in listed if isinstance(statement, dict) for account in _allowed(statement)})


def _allowed(statement: dict[str, Any]) -> Iterator[str]:
    if statement.get("Effect") != "Allow":
        return
    limited = _is_limited(statement.get("Condition"))
    if "NotPrincipal" in statement and not limited:
        yield EVERYBODY  # all but those that are named
    principal = statement.get("Principal")
    named = principal.get("AWS") if isinstance(principal, dict) else principal
    for name in named if isinstance(named, list) else [named]:
        if name == EVERYBODY:
            if not limited:
                yield EVERYBODY
        elif isinstance(name, str):
            account = name.split(":")[4] if name.startswith("arn:") and name.count(":") >= 5 else name
            if _ACCOUNT.fullmatch(account):
                yield account


def _is_limited(condition: object) -> bool:
    """Whether `condition` holds only for callers that it names."""
    return isinstance(condition, dict) and any(
        _POSITIVE.fullmatch(str(operator))
        and isinstance(keys, dict)
        and any(str(key).lower() in _OF_CALLERS and _names_somebody(values) for key, values in keys.items())
        for operator, keys in condition.items()
    )


def _names_somebody(values: object) -> bool:
    listed = [str(value) for value in values] if isinstance(values, list) else [str(values)]
    return all(_WITHIN.fullmatch(value) or not {"*", "?"} & set(value) for value in listed)
