"""What a sink is: where messages go, and what it may say to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from audit.errors import AuditError
from audit.shipping.messages import Message


class SinkFault(AuditError):
    """The sink did not take the batch, and says nothing against its records: it is down, slow, closed to us, or not set up.

    `pause_s` is how long it wants to be left alone, where it says so.
    """

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class BatchRefused(AuditError):
    """The sink took nothing of the batch because of what is in it. Sent again as it is, it would be refused again."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The sink has the batch, durably as far as it can tell, but for `refused`: places in the batch, and why.

    `unnamed` of it were refused too, and the sink does not say which; `why` is what it said.
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    unnamed: int = 0
    why: str = ""


class Sink(Protocol):
    """For use inside one event loop, by one task. After a `SinkFault` it is closed, and another is opened."""

    async def send(self, batch: Sequence[Message]) -> Taken:
        """Returns when the sink has said that it has the batch. Raises `SinkFault`, `BatchRefused`."""

    async def close(self) -> None:
        """Let go of what is open. Raises nothing."""
