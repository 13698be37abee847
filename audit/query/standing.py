"""Who can have a data key unwrapped now: what `trace` tells besides the log, where somebody can say it.

The log knows who did, and not who may. Whoever runs the keys knows: the proxy's command line gives `trace` a `WhoCan` for the
embedded KMS; the evidence side alone has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from audit.query.trace import Entry, Step, Story


@dataclass(frozen=True, slots=True)
class Standing:
    """Who can unwrap under the key `key` (ARN) now. `can` and `may` are callers' ARNs; of the latter a request would have to tell
    more (`depends_on`: condition keys). `guardrails` is the folder of those that were asked; None where none are set. `reason`
    says why nobody can, or why it is not known."""

    key: str
    can: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    guardrails: str | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


#: Gives the standing of a key (ARN) for a context, in a data folder; None where it has nothing to say of such a key.
WhoCan: TypeAlias = Callable[[Path, str, Mapping[str, str]], "Standing | None"]


def wrapping(story: Story) -> tuple[str, Mapping[str, str] | None] | None:
    """The key (ARN) that the blob of `story` is wrapped under, and its context (None: it is private in the log); None where the
    log does not tell."""
    found = next((told for entry in reversed(story.entries) if (told := _told_by(entry, story.fingerprint)) is not None), None)
    return found if found is not None and found[0].startswith("arn:") else None


def _told_by(entry: Entry, fingerprint: str) -> tuple[str, Mapping[str, str] | None] | None:
    if entry.step not in (Step.MADE, Step.UNWRAPPED, Step.REENCRYPTED) or not entry.keys:
        return None
    is_made = fingerprint in entry.blobs_out
    if not is_made and fingerprint not in entry.blobs_in:
        return None
    name = ("destination" if is_made else "source") if entry.step is Step.REENCRYPTED else ""
    context = entry.context.get(f"{name}EncryptionContext" if name else "encryptionContext", {})
    is_private = not entry.private_context.keys().isdisjoint(context) or "*" in entry.private_context
    return entry.keys[-1] if is_made else entry.keys[0], None if is_private else context
