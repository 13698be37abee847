"""The change from one key policy to the next, line by line."""

from __future__ import annotations

import difflib
import json


def policy_diff(before: str | None, after: str | None) -> str:
    """A unified diff, without file names; of the policies with one member a line, members sorted, where they are JSON."""
    lines = difflib.unified_diff(_lines(before), _lines(after), n=2, lineterm="")
    return "\n".join(list(lines)[2:]) or "no change"


def _lines(policy: str | None) -> list[str]:
    if policy is None:
        return []
    try:
        return json.dumps(json.loads(policy), indent=2, sort_keys=True, ensure_ascii=False).splitlines()
    except (ValueError, RecursionError):
        return policy.splitlines()
