"""A sink in memory, a data folder with logs that grow, and time that passes when somebody waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from audit.instance import Instance
from audit.shipping.cursor import CursorFile
from audit.shipping.messages import Form, Message
from audit.shipping.plan import Target
from audit.shipping.process import Route, logs_of
from audit.shipping.shipper import Shipper
from audit.shipping.sink import BatchRefused, Sink, SinkFault, Taken
from tests.audit.forge import Forge
from tests.audit.query.builder import at, placed, record

NOON = 1_767_355_200.0  # 2026-01-02T12:00:00Z


@dataclass
class FakeSink:
    """A `Sink`. `refuses` says of a record why it is not taken; a batch with one is refused as a whole, or told by place."""

    batches: list[list[Message]] = field(default_factory=list)
    fault: SinkFault | None = None
    refuses: Callable[[Message], str | None] = lambda message: None
    names_refused: bool = False
    unnamed: int = 0
    opened: int = 0
    closed: int = 0

    def open(self) -> Sink:
        self.opened += 1
        return self

    async def send(self, batch: Sequence[Message]) -> Taken:
        if self.fault is not None:
            raise self.fault
        refused = {number: why for number, one in enumerate(batch) if (why := self.refuses(one)) is not None}
        if refused and not self.names_refused:
            raise BatchRefused(next(iter(refused.values())))
        self.batches.append([one for number, one in enumerate(batch) if number not in refused])
        return Taken(refused, min(self.unnamed, len(batch) - 1), "quota" if self.unnamed else "")

    async def close(self) -> None:
        self.closed += 1

    @property
    def places(self) -> list[tuple[str, int]]:
        return [(one.log, one.sequence) for batch in self.batches for one in batch]


class World:
    """A data folder whose log `admin` grows by `add`; `now` is the time."""

    def __init__(self, data: Path) -> None:
        data.mkdir(exist_ok=True)
        instance = Instance.create(data, "111122223333", "eu-central-1", "2026-01-02T00:00:00Z")
        instance.save()
        self.forges = {"admin": Forge(instance)}
        self.data = data
        self.now = NOON
        self.sink = FakeSink()
        self.target = Target("otlp", "http://collector.test/v1/logs")

    def add_log(self, name: str) -> None:
        instance = Instance.load(self.data).with_logs([name])
        self.forges[name] = Forge(instance, log=name)

    def add(self, count: int = 1, log: str = "admin", **changes: Any) -> None:  # Any: changes of a record
        forge = self.forges[log]
        lines = []
        for number in range(forge.records, forge.records + count):
            content = record(**{"eventID": f"{log}-{number}", "requestID": f"r{number}", **changes})
            lines.append(orjson.dumps(placed(content, log, number, at(number))) + b"\n")
        forge.append(*lines)

    def lines(self, log: str = "admin") -> list[bytes]:
        return b"".join(path.read_bytes() for path in sorted(self.forges[log].folder.glob("*.jsonl"))).split(b"\n")[:-1]

    @property
    def cursor(self) -> CursorFile:
        return CursorFile(self.data / "shipping", self.target.name, self.target.address)

    def saved(self) -> dict[str, int]:
        return dict(self.cursor.load().next)

    def set_aside(self) -> list[dict[str, Any]]:  # Any: JSON
        path = self.data / "shipping" / self.target.name / "refused"
        return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def open(self, form: Form = "cloudtrail", open_sink: Callable[[], Sink] | None = None) -> Shipper:
        return Shipper(self.cursor, open_sink or self.sink.open, logs_of(self.data), form, lambda: self.now)

    def route(self, open_sink: Callable[[], Sink] | None = None) -> Route:
        return Route(self.target, self.open(open_sink=open_sink), lambda: self.now, lambda: 1.0)


class Turns:
    """`Wait`, which lets time pass and ends when `is_enough`; what it was asked to wait."""

    def __init__(self, world: World, is_enough: Callable[[], bool]) -> None:
        self.waits: list[float] = []
        self._world = world
        self._is_enough = is_enough

    async def __call__(self, within_s: float) -> bool:
        self.waits.append(within_s)
        self._world.now += within_s
        return self._is_enough()


async def ship_all(shipper: Shipper) -> None:
    while await shipper.step():
        pass
