"""How far a log has come at a sink, read from the data folder: for whoever asks while another process ships, or none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from audit.errors import AuditError
from audit.following import LogFollower
from audit.shipping.messages import message_of


@dataclass(frozen=True, slots=True)
class LogStanding:
    """`shipped` of `durable` records of `log`; the first that is not is `lag_s` seconds old, where it can be read."""

    log: str
    shipped: int
    durable: int
    lag_s: int = 0
    fault: str | None = None


def standing_of(log: str, folder: Path, shipped: int, now_s: float) -> LogStanding:
    """Raises OSError."""
    follower = LogFollower(folder, shipped)
    durable = follower.durable()
    if shipped >= durable:
        return LogStanding(log, shipped, durable)
    try:
        (line,) = follower.read(1)
        lag_s = max(0, int(now_s - message_of(line, "cloudtrail").time_us / 1_000_000))
    except (AuditError, ValueError) as error:
        return LogStanding(log, shipped, durable, fault=str(error))
    return LogStanding(log, shipped, durable, lag_s)
