"""Texts in a policy: wildcards, policy variables, and how a pattern compares with a text of which parts are not known.

In a version 2012-10-17 document ``${aws:username}`` stands for a value of the request, ``${aws:username, 'nobody'}`` for that or
a default, and ``${*}``, ``${?}``, ``${$}`` for those characters. What a variable stands for is taken literally.

Matching costs at most (pattern × text): a wildcard never goes back over what an earlier one has matched.
Source: IAM user guide, "Variables and tags", "Using wildcards".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TypeAlias

#: Whether something applies: no, may be, yes. AND is min, OR is max, NOT is ``YES - x``.
NO, MAYBE, YES = 0, 1, 2
#: In the ARN of a resource: any text without colon and slash, which one is not known. (No ARN has this character.)
UNKNOWN_PART = "\0"


class Wild(Enum):
    """A wildcard: any text, or any one character."""

    ANY = "*"
    ONE = "?"


@dataclass(frozen=True, slots=True)
class Variable:
    """``${key}`` or ``${key, 'default'}``."""

    key: str
    default: str | None = None


#: A text with wildcards, nothing left to look up.
Glob: TypeAlias = tuple["str | Wild", ...]
#: The values of a condition key in the request: () where it has none, None where that is not known.
LookUp: TypeAlias = Callable[[str], "tuple[str, ...] | None"]

_ANYTHING: Glob = (Wild.ANY,)
_SPECIAL = {"*": "*", "?": "?", "$": "$"}
_VARIABLE = re.compile(r"\$\{(?:(?P<special>[*?$])|(?P<key>[^{}',\s]+)(?:,\s*'(?P<default>[^']*)')?)\}")
_TOKEN = re.compile(r"[*?]|[^*?]+")


class PatternError(ValueError):
    """A text of a policy that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a policy: its `source`, the parts of it, and `fixed`: the text, where nothing in it is to be looked up."""

    source: str
    parts: tuple[str | Wild | Variable, ...]
    fixed: Glob | None

    @classmethod
    def parse(cls, source: str, *, variables: bool, wildcards: bool) -> Text:
        """Read `source`. Raises PatternError for ``${`` that begins no variable."""
        parts: list[str | Wild | Variable] = []
        position = 0
        while variables and (start := source.find("${", position)) >= 0:
            found = _VARIABLE.match(source, start)
            if found is None:
                raise PatternError(f"{source[start : start + 40]!r} is no policy variable: ${{key}} or ${{key, 'default'}}")
            parts += _tokens(source[position:start], wildcards)
            special = found["special"]
            parts.append(_SPECIAL[special] if special else Variable(found["key"], found["default"]))
            position = found.end()
        parts += _tokens(source[position:], wildcards)
        fixed = tuple(part for part in parts if not isinstance(part, Variable))
        return cls(source, tuple(parts), fixed if len(fixed) == len(parts) else None)

    @property
    def variables(self) -> list[Variable]:
        return [part for part in self.parts if isinstance(part, Variable)]

    def resolve(self, look_up: LookUp) -> Glob | None:
        """The text with what its variables stand for; None where one of them has no value, or not one."""
        resolved: list[str | Wild] = []
        for part in self.parts:
            if isinstance(part, Variable):
                values = look_up(part.key)
                if values == () and part.default is not None:
                    values = (part.default,)
                if values is None or len(values) != 1:
                    return None
                resolved.append(values[0])
            else:
                resolved.append(part)
        return tuple(resolved)


def _tokens(text: str, wildcards: bool) -> list[str | Wild]:
    if not wildcards:
        return [text] if text else []
    return [Wild(token) if token in ("*", "?") else token for token in _TOKEN.findall(text)]


@lru_cache(maxsize=4_096)
def matcher(glob: Glob, one: str = ".") -> re.Pattern[str]:
    """`glob` as a regular expression for `fullmatch`; `one` is what ``?`` stands for."""
    segments = [""]
    for token in glob:
        if token is Wild.ANY:
            segments.append("")
        else:
            segments[-1] += one if token is Wild.ONE else re.escape(str(token))
    # Atomic groups: the leftmost match of each segment is as good as any, so there is nothing to go back for.
    middle = "".join(f"(?>.*?{segment})" for segment in segments[1:-1] if segment)
    pattern = segments[0] if len(segments) == 1 else f"{segments[0]}{middle}.*{segments[-1]}"
    return re.compile(pattern, re.DOTALL)


def compare(glob: Glob, arn: str) -> int:
    """Whether `glob` matches the resource `arn`, of which some parts may not be known."""
    if glob == _ANYTHING:
        return YES
    if UNKNOWN_PART in arn:
        return _compare_in_part(glob, arn)
    return YES if matcher(glob).fullmatch(arn) else NO


@lru_cache(maxsize=4_096)
def _compare_in_part(glob: Glob, arn: str) -> int:
    if matcher(glob, "[^\0]").fullmatch(arn):  # what is not known is matched by a * alone
        return YES
    return MAYBE if _can_match(glob, arn) else NO


def _can_match(glob: Glob, arn: str) -> bool:
    """Whether `glob` matches `arn` with something in its unknown parts; walks all ways at once, no place twice."""
    pattern: list[str | Wild] = [item for token in glob for item in ([token] if isinstance(token, Wild) else token)]
    seen, waiting = {(0, 0)}, [(0, 0)]
    while waiting:
        i, j = waiting.pop()
        wanted = pattern[i] if i < len(pattern) else None
        found = arn[j] if j < len(arn) else None
        if wanted is None and found is None:
            return True
        ways = []
        if wanted is Wild.ANY:
            ways.append((i + 1, j))
        if found == UNKNOWN_PART:
            ways.append((i, j + 1))
        if wanted is Wild.ANY and found is not None:
            ways.append((i, j + 1))
        elif found == UNKNOWN_PART and wanted is not None and wanted not in (":", "/"):
            ways.append((i + 1, j))
        elif wanted is not None and found is not None and (wanted is Wild.ONE or wanted == found):
            ways.append((i + 1, j + 1))
        for way in ways:
            if way not in seen:
                seen.add(way)
                waiting.append(way)
    return False
