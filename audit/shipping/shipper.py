"""Ships all logs to one sink, a batch at a time: sent, taken, and only then behind the cursor.

A batch that is refused for what is in it is halved until one record is left. That one is suspected, and the next are sent; when
one of them is taken, it was the record and not the sink, and the record is set aside. A sink that refuses one after another, and
takes none, is at fault itself: nothing is set aside, and all is sent again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from audit.canonical import timestamp
from audit.errors import AuditError
from audit.ocsf import NoRecord
from audit.shipping.cursor import CursorFile, Refused, State
from audit.shipping.feed import MOST_RECORDS, Feed
from audit.shipping.messages import Form, Message, message_of
from audit.shipping.sink import BatchRefused, Sink, SinkFault, Taken

_MOST_SUSPECTS = 16
_SAVE_S = 1.0  # while batches follow each other, the cursor is saved at this interval

#: The folders of the logs, by name; those made later too.
Logs = Callable[[], Mapping[str, Path]]


class Shipper:
    """`open_sink` gives a sink; after a fault it is asked for another. Times are seconds since 1970. For one task."""

    def __init__(
        self, cursor: CursorFile, open_sink: Callable[[], Sink], logs: Logs, form: Form, clock: Callable[[], float]
    ) -> None:
        self._cursor = cursor
        self._open_sink = open_sink
        self._logs = logs
        self._form = form
        self._clock = clock
        self._sink: Sink | None = None
        self._feeds: dict[str, Feed] | None = None
        self._saved: dict[str, int] = {}
        self._saved_s = float("-inf")
        self.incidents: dict[str, str] = {}  # by log: what keeps it from being shipped; the others are
        self.refused = 0

    async def step(self) -> bool:
        """Send a batch of each log that has one; whether more is known to wait. What comes in small numbers is left to gather.

        Raises `SinkFault`, `CursorInvalid`, `NoInstance`, OSError.
        """
        has_more = False
        try:
            for feed in (await self._opened()).values():
                has_more |= await self._ship(feed)
        except SinkFault:
            await self._drop_sink()
            await self.save()
            raise
        if not has_more or self._clock() - self._saved_s >= _SAVE_S:
            await self.save()
        return has_more

    async def save(self) -> None:
        """Have the cursor on disk as it is. Raises OSError."""
        found = {name: feed.cursor for name, feed in (self._feeds or {}).items()}
        if found != self._saved:
            await asyncio.to_thread(self._cursor.save, State(found))
            self._saved = found
        self._saved_s = self._clock()

    @property
    def suspected(self) -> int:
        """How many records were refused, and wait for another to be taken before they are set aside."""
        return sum(len(feed.suspects) for feed in (self._feeds or {}).values())

    async def close(self) -> None:
        """Raises OSError."""
        await self._drop_sink()
        await self.save()

    def lag(self) -> tuple[int, int | None]:
        """How many durable records the sink has not got, and the time of the first of them, where it was read.

        In microseconds since 1970. Raises OSError.
        """
        feeds = (self._feeds or {}).values()
        waiting = sum(max(0, feed.durable() - feed.cursor) for feed in feeds)
        times = [time for feed in feeds if (line := feed.first()) is not None and (time := _time_of(line)) is not None]
        return waiting, min(times, default=None) if waiting else None

    async def _opened(self) -> dict[str, Feed]:
        """A feed for each log."""
        logs = await asyncio.to_thread(self._logs)
        if self._feeds is None:
            self._saved = dict((await asyncio.to_thread(self._cursor.load)).next)
            self.refused = await asyncio.to_thread(self._cursor.refused)
            self._feeds = {}
        for name, folder in logs.items():
            if name not in self._feeds:
                self._feeds[name] = Feed(name, folder, self._saved.get(name, 0))
        return self._feeds

    async def _ship(self, feed: Feed) -> bool:
        """Send a batch of `feed`, if there is one; whether it has more. What is wrong with the log is kept for whoever asks."""
        try:
            lines = await feed.batch()
        except (AuditError, OSError) as error:
            self.incidents[feed.name] = str(error)
            return False
        self.incidents.pop(feed.name, None)
        if not lines:
            return False
        messages: list[Message] = []
        for line in lines:
            try:
                messages.append(message_of(line, self._form))
            except NoRecord as error:
                if not messages:  # it is nobody's fault but its own
                    await self._set_aside([self._refusal(feed, 0, str(error))])
                    feed.move(1)
                    return feed.has_more
                break
        await self._send(feed, messages)
        return feed.has_more

    async def _send(self, feed: Feed, messages: list[Message]) -> None:
        try:
            if self._sink is None:
                self._sink = self._open_sink()
            taken = await self._sink.send(messages)
        except BatchRefused as error:
            if len(messages) > 1:
                feed.limit = len(messages) // 2
                return
            taken = Taken({0: str(error)})
        except (AuditError, OSError):
            raise
        except Exception as error:  # of a library, which must not end the other sinks
            raise SinkFault(f"unexpected: {type(error).__name__}") from error
        feed.limit = min(feed.limit * 2, MOST_RECORDS)
        suspects = [self._refusal(feed, number, why, messages[number]) for number, why in sorted(taken.refused.items())]
        if taken.unnamed:
            await self._set_aside([self._unnamed(messages, taken)])
        feed.suspects += suspects
        feed.move(len(messages))
        if len(suspects) < len(messages):
            await self._settle()
        elif self.suspected >= _MOST_SUSPECTS:
            reason = suspects[-1].reason
            for one in (self._feeds or {}).values():
                one.go_back()
            raise SinkFault(f"it refuses every record: {reason}")

    async def _settle(self) -> None:
        """The sink has taken a record: what it refused before was refused for what it is."""
        feeds = (self._feeds or {}).values()
        if suspects := [one for feed in feeds for one in feed.suspects]:
            await self._set_aside(suspects)
            for feed in feeds:
                feed.suspects.clear()

    async def _set_aside(self, refused: list[Refused]) -> None:
        await asyncio.to_thread(self._cursor.set_aside, refused)
        self.refused += sum(one.count for one in refused)

    def _refusal(self, feed: Feed, number: int, reason: str, message: Message | None = None) -> Refused:
        event_id = message.event_id if message is not None else None
        return Refused(feed.name, feed.position + number, reason, self._now(), event_id)

    def _unnamed(self, messages: list[Message], taken: Taken) -> Refused:
        first, last = messages[0], messages[-1]
        return Refused(first.log, first.sequence, taken.why, self._now(), last=last.sequence, count=taken.unnamed)

    def _now(self) -> str:
        return timestamp(int(self._clock() * 1_000_000))

    async def _drop_sink(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.close()


def _time_of(line: bytes) -> int | None:
    try:
        return message_of(line, "cloudtrail").time_us
    except NoRecord:
        return None
