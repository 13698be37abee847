"""Which log is verified, and what an auditor asks of it beyond what its own folders say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.checkpoint import VerifierKey
from audit.instance import Instance
from audit.receipts import ClaimedReceipt
from audit.verifying.acknowledged import Acknowledgement
from audit.witnessed import Demand

if TYPE_CHECKING:  # it brings a library that only those need who have time stamps
    from audit.timestamp_token import Authorities

YOUNG_US = 10_000_000  # how long a record may wait for the first checkpoint over it: the sealer takes two seconds
SKEW_US = 300_000_000  # how far the clocks of a log's host and of whoever verifies may be apart, as for SigV4


@dataclass(frozen=True, slots=True)
class Asked:
    """Of one log: the key that is trusted (None: the data folder's), saved notes, receipts, and what its newest cosigned
    checkpoint has to fulfil; whom its time stamps have to be by; how old its newest record and checkpoint may be, in
    seconds; and which of its findings are acknowledged."""

    key: VerifierKey | None = None
    saved: tuple[str, ...] = ()
    receipts: tuple[ClaimedReceipt, ...] = ()
    demand: Demand | None = None
    authorities: Authorities | None = None
    max_age_s: float | None = None
    acknowledged: tuple[Acknowledgement, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """A log of `instance` by its name in checkpoints; `is_foreign`: no folder of this instance can be meant."""

    instance: Instance
    origin: str
    log: str
    folder: Path
    checkpoints: Path
    witnessed: Path
    is_foreign: bool
    is_listed: bool

    @classmethod
    def of(cls, instance: Instance, origin: str) -> Subject:
        name = origin.removeprefix(instance.origin(""))
        is_foreign = name == origin or "/" in name or name in {"", ".", ".."}
        return cls(
            instance,
            origin,
            origin if is_foreign else name,
            instance.log_folder(name),
            instance.checkpoint_folder(name),
            instance.witnessed_folder(name),
            is_foreign,
            name in instance.logs and not is_foreign,
        )

    @property
    def history(self) -> Path:
        return self.checkpoints / "history"

    def history_bytes(self) -> int:
        return self.history.stat().st_size if not self.is_foreign and self.history.exists() else 0
