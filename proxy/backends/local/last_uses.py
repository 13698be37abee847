"""Which successful cryptographic operation was the last of a key, by the records of the log.

Every committed record of such an operation is noted in memory, which costs a call next to nothing, and saved now and then: a
row for each key that was used since (`LAST_USE`), and how far each log was read (`MARK`). After a crash, what the log has
behind its mark is noted again. So an answer tells what the log tells, of this worker to the last call, of the others as of a
few seconds ago.

What it covers: uses since tracking began, by this or a later version (TrackingStartDate). What nobody reads is the end of the
log of a worker that was killed and never started again. Times are those of the records, also where a virtual clock moves the
keys'.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass

from audit.commit import Receipt
from audit.record import AuditRecord
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.keys import KEY
from proxy.sealed_store import Body

LAST_USE, MARK, TRACKING = "last-use", "last-use-mark", "last-use-tracking"
#: The service model's KeyLastUsageTrackingOperation.
TRACKED = frozenset(
    [
        "Decapsulate",
        "Decrypt",
        "DeriveSharedSecret",
        "Encapsulate",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateMac",
        "ReEncrypt",
        "Sign",
        "Verify",
        "VerifyMac",
    ]
)


@dataclass(frozen=True, slots=True)
class Use:
    """A successful operation with a key; `time_us` is microseconds since the epoch."""

    operation: str
    time_us: int
    event_id: str
    request_id: str | None

    @property
    def body(self) -> Body:
        return {name: getattr(self, name) for name in self.__slots__}


def use_of(record: AuditRecord) -> Use | None:
    """The use that a record is of, or None."""
    if record.error_code is not None or record.event_name not in TRACKED:
        return None
    return Use(record.event_name, record.time_us, record.event_id, record.request_id)


class LastUses:
    """The uses since they were saved last, by key ARN. For one event loop's thread."""

    def __init__(self) -> None:
        self._unsaved: dict[str, Use] = {}
        self._next = 0  # behind the last record that was noted
        self._safe = 0  # behind the last record that had been noted when `take` was called before: all up to it were, then
        self.catching_up: Awaitable[None] | None = None  # while what a crash left is noted again

    def note(self, record: AuditRecord, receipt: Receipt) -> None:
        """A record that is durable at `receipt`."""
        self._next = receipt.sequence + 1
        if (use := use_of(record)) is not None:
            for resource in record.resources:
                self._unsaved[resource.arn] = use

    def add(self, found: Mapping[str, Use]) -> None:
        """Uses that were found in the log, older than those that were noted since."""
        self._unsaved = {**found, **self._unsaved}

    def find(self, arn: str) -> Use | None:
        return self._unsaved.get(arn)

    def take(self) -> tuple[dict[str, Use], int]:
        """What is to be saved, and the number up to which the log's records are then: none of them need be read again."""
        taken, self._unsaved = self._unsaved, {}
        safe, self._safe = self._safe, self._next
        return taken, safe


def read(records: Iterable[AuditRecord]) -> dict[str, Use]:
    """The last use of each key, by records in their order."""
    found: dict[str, Use] = {}
    for record in records:
        if (use := use_of(record)) is not None:
            found.update((resource.arn, use) for resource in record.resources)
    return found


def begin(keys: KeysInChange, log: str, records: int, now_s: float) -> int:
    """Begin to track, where nobody has yet. Returns the number of the first record of `log`, which has so many, to be read."""
    if keys.tx.get(TRACKING, "", TRACKING) is None:
        keys.tx.put(TRACKING, "", TRACKING, {"since_s": now_s})
    mark = keys.tx.get(MARK, "", log)
    if mark is None:
        keys.tx.put(MARK, "", log, {"records": records})
        return records
    first: int = mark.body["records"]
    return first


def save(keys: KeysInChange, uses: Mapping[str, Use]) -> None:
    """Write the last uses of keys that are there; a later one that another worker wrote stays."""
    for arn, use in uses.items():
        region, _, key_id = arn.split(":", 5)[3:]
        key_id = key_id.removeprefix("key/")
        known = keys.tx.get(LAST_USE, region, key_id)
        if (known is None or known.body["time_us"] < use.time_us) and keys.tx.get(KEY, region, key_id) is not None:
            keys.tx.put(LAST_USE, region, key_id, use.body)


def mark(keys: KeysInChange, log: str, records: int) -> None:
    """Write down that the uses up to there are saved; it never goes back."""
    known = keys.tx.get(MARK, "", log)
    if known is None or known.body["records"] < records:
        keys.tx.put(MARK, "", log, {"records": records})


def saved(keys: KeysInChange, region: str, key_id: str) -> tuple[Use | None, float | None]:
    """The last use that was saved, and since when uses are tracked."""
    entry, tracking = keys.tx.get(LAST_USE, region, key_id), keys.tx.get(TRACKING, "", TRACKING)
    return None if entry is None else Use(**entry.body), None if tracking is None else tracking.body["since_s"]
