"""`keytrail verify`: what can be proved of an instance's logs, as a numbered checklist. The numbers are those of docs/verify.md.

It only reads, while the proxy serves too: the checkpoints are taken first and the lines after them, so whatever was signed by
then must be there, and what is being written meanwhile is no fault. Memory is bounded at any size: lines, history and leaf hashes
are streamed. A step passes only where something was checked. The steps themselves are in `audit.verifying`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from audit.checkpoint import VerifierKey, claimed_checkpoint, split_notes
from audit.errors import CheckpointInvalid, LogIncident, ReceiptInvalid
from audit.finding import read_lines
from audit.instance import ADMIN_LOG, Instance
from audit.merkle import leaf_hash
from audit.receipts import ClaimedReceipt
from audit.report import Report
from audit.verifying.acknowledged import Acknowledgement, read_acknowledgement
from audit.verifying.log_check import LogCheck
from audit.verifying.subject import Asked
from audit.witnessed import Demand

if TYPE_CHECKING:  # it brings a library that only those need who have time stamps
    from audit.timestamp_token import Authorities

Progress = Callable[[int, int], None]  # bytes read, bytes to read


def _now_us() -> int:
    return time.time_ns() // 1_000


def verify(
    data: Path,
    keys: Iterable[VerifierKey] = (),
    saved: Iterable[str] = (),
    progress: Progress | None = None,
    now_us: Callable[[], int] = _now_us,
    receipts: Iterable[ClaimedReceipt] = (),
    demand: Demand | None = None,
    authorities: Authorities | None = None,
    max_age_s: float | None = None,
    acknowledged: Iterable[ClaimedReceipt] = (),
) -> Report:
    """Verify every log of the instance in `data`.

    `keys` are trusted instead of the public key in the data folder, and so are the logs' of the policy in `demand`; `saved` are
    the texts of checkpoint files kept elsewhere, with one or several notes each, of any of the logs; `receipts` are a client's,
    of any of them; `demand` is what the newest cosigned checkpoint of each has to fulfil; time stamps have to be by
    `authorities`; `max_age_s` is how old its newest record and checkpoint may be; `acknowledged` are the receipts of those
    acknowledgements that count (`audit.verifying.acknowledged`). Raises `CheckpointInvalid` where a saved file holds no
    checkpoint, `ReceiptInvalid` where a receipt in `acknowledged` is of no acknowledgement, `NoInstance`, OSError.
    """
    listed = demand.policy.logs if demand is not None else ()
    trusted = {key.name: key for key in (*(log.key for log in listed), *keys)}
    notes: dict[str, list[str]] = {}
    for text in saved:
        if not text.strip():
            raise CheckpointInvalid("a saved file holds no checkpoint")
        for note in split_notes(text):
            notes.setdefault(claimed_checkpoint(note).origin, []).append(note)
    accepted, given = tuple(acknowledged), dict[str, list[ClaimedReceipt]]()
    for receipt in (*receipts, *accepted):  # an acknowledgement that is gone, or another one now, is found by step 10
        given.setdefault(receipt.origin, []).append(receipt)
    found = {path.parent.name for pattern in ("log/*/*.jsonl", "checkpoints/*/history") for path in data.glob(pattern)}
    instance = Instance.load(data)  # after the folders were listed: a log is listed there before anything is in it
    names = (*instance.logs, ADMIN_LOG, *sorted(found))  # `init` makes `admin`: there is no instance without it
    known = _acknowledgements(instance, accepted)
    origins = dict.fromkeys((*map(instance.origin, names), *trusted, *notes, *given, *known))
    meter = _Meter(progress, sum(path.stat().st_size for path in data.glob("log/*/*.jsonl")))

    def check_of(origin: str) -> LogCheck:
        kept, collected = tuple(notes.get(origin, ())), tuple(given.get(origin, ()))
        asked = Asked(trusted.get(origin), kept, collected, demand, authorities, max_age_s, tuple(known.get(origin, ())))
        return LogCheck(instance, origin, asked, now_us())

    checks = [_run(check_of, origin, meter) for origin in origins]
    goes_on = any(check.is_fresh(now_us()) for check in checks)
    return Report(tuple(check.report(now_us(), goes_on=goes_on) for check in checks))


def _acknowledgements(instance: Instance, receipts: Iterable[ClaimedReceipt]) -> dict[str, list[Acknowledgement]]:
    """What was acknowledged, by the origins of the logs it is about. A receipt whose record is not there, or is another one,
    acknowledges nothing. Raises `ReceiptInvalid`, OSError."""
    found: dict[str, list[Acknowledgement]] = {}
    for receipt in dict.fromkeys(receipts):
        named = f"the receipt of record {receipt.sequence} of {receipt.origin}"
        if receipt.origin != instance.origin(ADMIN_LOG):
            raise ReceiptInvalid(f"{named}: acknowledgements here are in {instance.origin(ADMIN_LOG)}")
        try:
            (line,) = read_lines(instance.log_folder(ADMIN_LOG), receipt.sequence, 1)
        except LogIncident:
            continue
        if leaf_hash(line) == receipt.leaf:
            try:
                one = read_acknowledgement(line)
            except ReceiptInvalid as error:
                raise ReceiptInvalid(f"{named}: {error}") from error
            found.setdefault(instance.origin(one.finding.log), []).append(one)
    return found


def _run(check_of: Callable[[str], LogCheck], origin: str, meter: _Meter) -> LogCheck:
    check = check_of(origin)
    check.run(meter.add)
    if check.was_sealed_meanwhile():
        check = check_of(origin)
        check.run(meter.add)
    return check


class _Meter:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)
