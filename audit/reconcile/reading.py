"""Both sides read into the tables: our records of calls to AWS, and AWS's events of KMS.

Ours: those that AWS answered (`upstream.requestId`), and those that may have had an effect without an answer. Intents are no
calls.
AWS's: events of every service tell what time, account and region the files cover; Insights and network activity are no calls.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from audit.query.engine import Progress, Result
from audit.query.filters import Record, extension
from audit.reconcile.cloudtrail import DamagedFile, read_events
from audit.reconcile.files import FileUnreadable, LogFile, Wanted
from audit.reconcile.findings import Finding, Kind, Report
from audit.reconcile.rules import Json, by_aws_service, reduced, time_us
from audit.reconcile.tables import Tables
from audit.record import Phase

KMS = "kms.amazonaws.com"
LOST_ANSWER = "an attempt whose answer was lost"
REPLICATED = "the second half of ReplicateKey"


@dataclass(slots=True)
class Covered:
    """What AWS's files hold of one account and region: times in microseconds, and numbers of events: of other services, and of
    clients' calls of KMS that read, and that write. `unconfirmed` are our records without an event: of writes, of reads."""

    oldest: int
    newest: int
    others: int = 0
    reads: int = 0
    writes: int = 0
    unconfirmed: tuple[int, int] = (0, 0)


#: By account and region.
Coverages = dict[tuple[str, str], Covered]


def read_ours(ours: Result, tables: Tables) -> None:
    """Add our records to the tables. Raises `DamagedLog`, OSError."""
    for found in ours.records():
        if b'"aws"' not in found.line:
            continue
        record = found.record
        facts, at = extension(record), time_us(found.time)
        if record.get("eventSource") != KMS or facts.get("backend") != "aws" or at is None:
            continue
        if facts.get("phase") == Phase.INTENT.value:
            tables.add("intents", str(record.get("eventID")), at)
        else:
            _add_call(record, at, str(found.place), tables)


def _add_call(record: Record, at: int, place: str, tables: Tables) -> None:
    facts, less = extension(record), reduced(record)
    upstream = facts.get("upstream")
    upstream = upstream if isinstance(upstream, dict) else {}
    request_id, failures = upstream.get("requestId"), len(upstream.get("failures") or ())
    if isinstance(request_id, str):
        tables.add("ours", request_id, at, place, less)
        if record.get("eventName") == "ReplicateKey" and record.get("errorCode") is None:
            tables.add("further", at, 1, REPLICATED, less)
    elif upstream or facts.get("phase") == Phase.UNKNOWN.value:
        failures = max(1, failures)
        tables.add("unanswered", at)
    if failures:
        tables.add("further", at, failures, LOST_ANSWER, less)


def read_files(
    files: Collection[LogFile], wanted: Wanted, tables: Tables, report: Report, progress: Progress | None
) -> Coverages:
    """Add AWS's events to the tables, and what cannot be read to the findings; the rest goes on.

    Returns what the files cover. Raises `CloudTrailUnavailable`, OSError.
    """
    covered: Coverages = {}
    total, done = sum(file.size_bytes for file in files), 0
    for file in files:
        try:
            with file.open() as stream:
                for number, event in enumerate(read_events(stream), 1):
                    if fault := _add_event(event, file.name, number, wanted, tables, covered):
                        report.add(_unreadable(file.name, f"event {number}: {fault}"))
        except (FileUnreadable, DamagedFile) as error:
            report.add(_unreadable(file.name, str(error)))
        report.files += 1
        done += file.size_bytes
        if progress:
            progress(done, total)
    return covered


def _add_event(event: dict[str, Json], file: str, number: int, wanted: Wanted, tables: Tables, covered: Coverages) -> str | None:
    """Returns what is wrong with the event, if anything."""
    if event.get("eventCategory", "Management") != "Management":
        return None
    less = reduced(event)
    at, is_kms = time_us(less.get("eventTime", "")), event.get("eventSource") == KMS
    account = less.get("recipientAccountId") or less["userIdentity"].get("accountId") or ""
    region = less.get("awsRegion", "")
    if at is None:
        return "no eventTime" if is_kms else None
    if not wanted.has(account, region):
        return None
    seen = covered.setdefault((account, region), Covered(at, at))
    seen.oldest, seen.newest = min(seen.oldest, at), max(seen.newest, at)
    if not is_kms:
        seen.others += 1
        return None
    if "eventName" not in less:
        return "no eventName"
    request_id = less.get("requestID")
    if by_aws_service(less) is None:
        if not request_id:
            return "no requestID"
        seen.reads += less["readOnly"]
        seen.writes += not less["readOnly"]
    shared_id = event.get("sharedEventID")
    identity = (shared_id if isinstance(shared_id, str) else "") or less.get("eventID") or f"{file}#{number}"
    is_owners_copy = less["userIdentity"].get("type") == "AWSAccount"
    tables.add("aws", request_id or f"(none) {identity}", at, identity, int(is_owners_copy), file, less)
    return None


def _unreadable(file: str, reason: str) -> Finding:
    return Finding(Kind.UNREADABLE, files=(file,), detail=reason)
