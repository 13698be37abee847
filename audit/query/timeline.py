"""The story of a ciphertext for people: a summary, what it does not say, and the timeline. Safe as `audit.query.render`
is."""

from __future__ import annotations

from rich.console import Console

from audit.query.render import context_text, plain, short_caller, short_key
from audit.query.trace import Entry, Relation, Step, Story

_STYLES = {
    Step.MADE: "green",
    Step.UNWRAPPED: "bold",
    Step.REENCRYPTED: "magenta",
    Step.REFUSED: "red",
    Step.DRY_RUN: "dim",
    Step.KEY: "yellow",
}
#: What is added where the outcome does not tell whether the change was made.
_EFFECTS = {
    "made": ", its outcome was lost, and the change was made",
    "none": ", its outcome was lost, and no change was made",
    "unknown": ", and the change may or may not have been made",
}
_WIDTH = max(len(step.value) for step in Step)


def write_story(story: Story, console: Console) -> None:
    """The whole `story`: summary, caveats, timeline."""
    _say(console, f"ciphertext {story.fingerprint}")
    for line in _summary(story) if story.is_found else [_not_found(story)]:
        _say(console, line)
    console.print()
    for line in _caveats(story):
        _say(console, f"- {line}")
    if not story.entries:
        return
    console.print()
    for entry in story.entries:
        _write_entry(story, entry, console)


def _summary(story: Story) -> list[str]:
    makers = (Step.MADE, Step.REENCRYPTED)
    made = [entry for entry in story.entries if entry.step in makers and story.fingerprint in entry.blobs_out]
    first = [entry for entry in story.entries if entry.step is Step.MADE and story.fingerprint not in entry.blobs_out]
    lines = [f"made       {_making(entry)}" for entry in made]
    if not made:
        lines.append("made       not by a call in these logs")
    lines += [f"at first   {_making(entry)}" for entry in first]
    related = len(story.blobs) - 1
    if related:
        lines.append(f"related    {related} more {_plural('blob', related)} with the same plaintext, by ReEncrypt; counted here")
    for step, label in (
        (Step.UNWRAPPED, "unwrapped"),
        (Step.REENCRYPTED, "re-encr."),
        (Step.REFUSED, "refused"),
        (Step.DRY_RUN, "dry runs"),
    ):
        count = story.count(step)
        if count.times:
            callers = f"{len(count.callers)} {_plural('caller', len(count.callers))}"
            span = f"first {_moment(count.first or '')}, last {_moment(count.last or '')}"
            lines.append(f"{label:10} {count.times} {_plural('time', count.times)} by {callers}: {span}")
        elif step in (Step.UNWRAPPED, Step.REFUSED):
            lines.append(f"{label:10} never in these logs")
    return lines


def _making(entry: Entry) -> str:
    return f"{_moment(entry.time)} by {short_caller(entry.caller)}: {entry.event} under {_keys(entry)}{_context_of(entry)}"


def _not_found(story: Story) -> str:
    if story.interval is None:
        return "NOT FOUND: the logs hold no records."
    return f"NOT FOUND: no call with this ciphertext is in the logs between {story.interval[0]} and {story.interval[1]}."


def _caveats(story: Story) -> list[str]:
    lines = []
    for log in story.coverage:
        lines.append(f"log {log.log} covers {log.first} to {log.last}" if log.first else f"log {log.log} holds no records")
    lines += [
        "unwrapped is not read: it says that the key was handed out, not what was done with it",
        "a caller that keeps an unwrapped key needs no further call; calls that bypass keytrail are not in these logs",
    ]
    lines += [f"INCOMPLETE: {reason}" for reason in story.incomplete]
    lines += [f"DAMAGED, the story may lack it: {damage}" for damage in story.damaged]
    return lines


def _write_entry(story: Story, entry: Entry, console: Console) -> None:
    outcome = f": {entry.error}{_EFFECTS.get(entry.effect or '', '')}" if entry.error else _EFFECTS.get(entry.effect or "", "")
    head = plain(f"{_moment(entry.time)}  ", "dim")
    head.append_text(plain(f"{entry.step.value:{_WIDTH}}", _STYLES[entry.step]))
    head.append_text(plain(f"  {entry.event} by {short_caller(entry.caller)} from {entry.source}{outcome}"))
    console.print(head, soft_wrap=not console.is_terminal)
    indent = " " * 25
    details = [f"key {_keys(entry)}"] if entry.keys else []
    if entry.step is Step.KEY:
        details = [f"(about the key) {_keys(entry)}"]
    if entry.context:
        details.append(f"context {context_text(entry.context)}")
    if entry.allowed_by:
        details.append(f"allowed by {', '.join(dict.fromkeys(entry.allowed_by))}")
    for label, blobs in (("blob in ", entry.blobs_in), ("blob out", entry.blobs_out)):
        details += [f"{label} {_shown(blob, console)} {_relation(story, blob)}" for blob in blobs if len(story.blobs) > 1]
    details.append(str(entry.place))
    for detail in details:
        console.print(plain(indent + detail, "dim"), soft_wrap=not console.is_terminal)


def _shown(fingerprint: str, console: Console) -> str:
    """As many digits on a terminal as tell it apart; all of them where they may be looked for."""
    return f"{fingerprint[:16]}…" if console.is_terminal else fingerprint


def _relation(story: Story, blob: str) -> str:
    relation = story.blobs.get(blob)
    return (
        f"({relation.value})"
        if relation and relation is not Relation.ASKED
        else "(asked about)"
        if relation
        else "(not followed)"
    )


def _say(console: Console, text: str) -> None:
    console.print(plain(text), soft_wrap=not console.is_terminal)


def _keys(entry: Entry) -> str:
    return " → ".join(dict.fromkeys(map(short_key, entry.keys))) or "an unknown key"


def _context_of(entry: Entry) -> str:
    return f", context {context_text(entry.context)}" if entry.context else ", without a context"


def _moment(time: str) -> str:
    return time[:19].replace("T", " ") + "Z"


def _plural(noun: str, number: int) -> str:
    return noun if number == 1 else noun + "s"
