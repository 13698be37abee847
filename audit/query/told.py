"""What is told of an artefact: each data key in it, with its story; and what cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from audit.query.artifacts.artifact import WrappedKey
from audit.query.artifacts.bare import FORMAT
from audit.query.artifacts.recognise import UNKNOWN, Contents
from audit.query.render import plain, short_caller
from audit.query.standing import Standing
from audit.query.timeline import write_story
from audit.query.trace import Story


@dataclass(frozen=True, slots=True)
class Told:
    """An artefact, the story of each CiphertextBlob in it, and who can unwrap it now where that is known; by fingerprint."""

    contents: Contents
    stories: dict[str, Story]
    standings: dict[str, Standing] = field(default_factory=dict)

    @property
    def lone(self) -> Story | None:
        """The one story, where the artefact is a CiphertextBlob and nothing more."""
        is_lone = len(self.contents.keys) == 1 and self.contents.keys[0].format in (FORMAT, UNKNOWN)
        return next(iter(self.stories.values())) if is_lone and len(self.stories) == 1 else None

    def lone_json(self) -> dict[str, Any] | None:
        """The one story, with its standing, as JSON."""
        if self.lone is None:
            return None
        standing = self.standings.get(self.lone.fingerprint)
        return {**self.lone.to_json(), "can_unwrap_now": standing.to_json() if standing else None}

    @property
    def is_known(self) -> bool:
        """Whether the logs know every key in it, and there is one."""
        return self.contents.fault is None and bool(self.stories) and all(story.is_found for story in self.stories.values())

    def to_json(self) -> dict[str, Any]:
        keys = [
            {
                "where": key.where,
                "format": key.format,
                "fingerprint": key.fingerprint or None,
                "key": key.key,
                "context": key.context if key.context is None else dict(key.context),
                "note": key.note,
                "story": self.stories[key.fingerprint].to_json() if key.fingerprint else None,
                "can_unwrap_now": standing.to_json() if (standing := self.standings.get(key.fingerprint)) else None,
            }
            for key in self.contents.keys
        ]
        return {"artefact": self.contents.name, "fault": self.contents.fault, "keys": keys}


def tell(contents: Contents, story_of: Callable[[str], Story], standing_of: Callable[[Story], Standing | None]) -> Told:
    """Ask for the story and the standing of each data key in `contents`, once."""
    stories = {fingerprint: story_of(fingerprint) for fingerprint in contents.fingerprints}
    standings = {fingerprint: found for fingerprint, story in stories.items() if (found := standing_of(story)) is not None}
    return Told(contents, stories, standings)


def write_told(told: Told, console: Console) -> None:
    """The whole of it; of a lone CiphertextBlob its story alone."""
    if told.lone is not None:
        write_story(told.lone, console)
        _write_standing(told.standings.get(told.lone.fingerprint), console)
        return
    contents = told.contents
    _say(console, f"artefact   {contents.name}: {_count(contents)}")
    if contents.fault is not None:
        _say(console, f"FAULT      {contents.fault}")
    written: set[str] = set()
    for key in contents.keys:
        console.print()
        _write_key(key, console)
        if key.fingerprint in written:
            _say(console, f"ciphertext {key.fingerprint}, as above")
        elif key.fingerprint:
            written.add(key.fingerprint)
            write_story(told.stories[key.fingerprint], console)
            _write_standing(told.standings.get(key.fingerprint), console)
    console.print()


def _write_key(key: WrappedKey, console: Console) -> None:
    _say(console, f"{'data key' if key.fingerprint else 'no blob':8}   {key.format}, {key.where}")
    if key.key is not None:
        _say(console, f"under      {key.key}")
    if key.context is not None:
        _say(console, "context    " + (" ".join(f"{name}={value}" for name, value in key.context.items()) or "empty"))
    if key.note is not None:
        _say(console, f"note       {key.note}")


def _write_standing(standing: Standing | None, console: Console) -> None:
    if standing is None:
        return
    if standing.reason is not None:
        _say(console, f"can unwrap it now: {standing.reason}")
        return
    names = [short_caller(arn) for arn in standing.can] + [
        f"{short_caller(arn)} (depends on {', '.join(standing.depends_on)})" for arn in standing.may
    ]
    guardrails = f"the guardrails in {standing.guardrails}" if standing.guardrails else "no guardrails (none are set here)"
    _say(console, f"can unwrap it now: {', '.join(names)}; by callers, key and {guardrails}, with this context")


def _count(contents: Contents) -> str:
    """What has no fingerprint is no KMS blob, or tells of something that was not read."""
    if not contents.keys:
        return "no data key was found in it"
    blobs = sum(bool(key.fingerprint) for key in contents.keys)
    noted = f", {len(contents.keys) - blobs} more to be noted" if blobs < len(contents.keys) else ""
    return f"{blobs or 'no'} data {'key' if blobs == 1 else 'keys'}{noted}"


def _say(console: Console, text: str) -> None:
    console.print(plain(text), soft_wrap=not console.is_terminal)
