"""Which values of a question occur in no record of the logs, of whatever time: that a mistyped one is absent is no news."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from audit.query.filters import Filter
from audit.query.sql import Question
from audit.record import Phase


class Unseen:
    """The values of a question that were in no line so far. Once one was found it costs nothing more."""

    def __init__(self, question: Filter) -> None:
        self._lacking = {name: (alone, Question.of([alone])) for name, alone in _alone(question)}

    @property
    def names(self) -> tuple[str, ...]:
        """Each as people say it, such as ``event Decrypt``."""
        return tuple(self._lacking)

    def look(self, data: bytes, lines: Sequence[bytes]) -> None:
        """Look for what is lacking in `lines`, which are those of `data`."""
        for name, (alone, sieve) in list(self._lacking.items()):
            if sieve.may_be_in(data) and any(sieve.may_be_in(line) and _matches(alone, line) for line in lines):
                del self._lacking[name]


def _alone(asked: Filter) -> Iterator[tuple[str, Filter]]:
    phases = frozenset(Phase)
    for fingerprint in asked.fingerprints:
        yield f"fingerprint {fingerprint}", Filter(fingerprints=(fingerprint,), phases=phases)
    if asked.key is not None:
        yield f"key {asked.key.text}", Filter(key=asked.key, phases=phases)
    if asked.caller is not None:
        yield f"caller {asked.caller}", Filter(caller=asked.caller, phases=phases)
    if asked.access_key is not None:
        yield f"access key {asked.access_key}", Filter(access_key=asked.access_key, phases=phases)
    for name, value in asked.context:
        yield f"context {name}={value}", Filter(context=((name, value),), phases=phases, digests=asked.digests)
    for event in asked.events:
        yield f"event {event}", Filter(events=(event,), phases=phases)
    if asked.error not in (None, "any", "none"):
        yield f"error {asked.error}", Filter(error=asked.error, phases=phases)


def _matches(alone: Filter, line: bytes) -> bool:
    try:
        return alone.matches(orjson.loads(line))
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):  # no record: the judge names it
        return False
