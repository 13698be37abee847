"""Both sides put side by side, and judged.

By request id, ours being `upstream.requestId`:

1. Copies with one eventID are one event; so are the two that a cross-account call makes, which share a sharedEventID.
2. Several records or several different events with one request id are a `duplicate`.
3. A record with an event is compared (`rules`), and is a `mismatch` where they disagree.
4. A record alone is `unconfirmed`, unless the call failed (AWS logs only some of those); the files do not cover its time, account
   and region; or it is younger than `grace` before AWS's newest event there, since CloudTrail delivers late.
5. An event alone is a `bypass`, unless AWS's services caused it themselves; it is outside the interval (`since`, else our first
   record, to `until`, else our last); or a record accounts for it: one of an attempt whose answer was lost, and that agrees with
   it in everything else, or ReplicateKey, of which CreateKey in the other region is the second half.

Every record and every event is counted in exactly one place, so that what was not compared is seen.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from audit.private_keys import PrivacyKey
from audit.query.engine import Progress, search
from audit.query.filters import Filter, Record, extension
from audit.query.lines import Damage
from audit.query.private import digesting_key
from audit.query.scan import Coverage
from audit.reconcile.files import CloudTrailUnavailable, Wanted, find_files
from audit.reconcile.findings import Finding, Kind, Report
from audit.reconcile.reading import REPLICATED, Coverages, read_files, read_ours
from audit.reconcile.rules import MAX_APART_US, by_aws_service, caller_name, compare, keys_of, time_us
from audit.reconcile.tables import Row, Tables
from audit.record import Phase
from audit.subjects import PrivacyFault

DEFAULT_GRACE = timedelta(minutes=30)
#: Both sides are read so much beyond `since` and `until`, so that no pair is torn at the edge.
_AROUND = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SERVICES = 100


@dataclass(frozen=True, slots=True)
class Terms:
    """How to judge. `grace` is what AWS is given to deliver; `session_names` says that the names of role sessions at AWS are
    those of our callers (`rules`)."""

    grace: timedelta = DEFAULT_GRACE
    session_names: bool = False


def reconcile(
    data: Path,
    where: str,
    wanted: Wanted,
    terms: Terms = Terms(),
    *,
    endpoint_url: str | None = None,
    of_log: Progress | None = None,
    of_files: Progress | None = None,
) -> tuple[Report, list[Damage]]:
    """Compare the logs in the data folder with CloudTrail's files at `where`, a path or ``s3://BUCKET/PREFIX``; also tells what
    of our log was damaged. Safe while the logs are written.

    Raises `QueryError`, `CloudTrailUnavailable` (also where there is no file to compare with), OSError.
    """
    files = list(find_files(where, wanted, endpoint_url))
    if not files:
        raise CloudTrailUnavailable(f"{where}: no CloudTrail log file there that is asked for")
    asked = Filter(
        since=wanted.since and _shifted(wanted.since, -_AROUND),
        until=wanted.until and _shifted(wanted.until, _AROUND),
        phases=frozenset(Phase),
    )
    report = Report()
    with Tables() as tables:
        with search(data, [asked], progress=of_log) as ours:
            read_ours(ours, tables)
            damaged, interval = ours.damaged, _interval(ours.coverage, wanted)
        covered = read_files(files, wanted, tables, report, of_files)
        tables.put_together()
        _Judge(tables, report, covered, wanted, interval, terms, _privacy_key(data, report)).judge()
    report.interval = None if interval is None else (_text_of(interval[0]), _text_of(interval[1]))
    report.coverage = [(*place, _text_of(one.oldest), _text_of(one.newest)) for place, one in sorted(covered.items())]
    report.findings.sort(key=lambda finding: (finding.time, finding.request_id))
    return report, damaged


def _privacy_key(data: Path, report: Report) -> PrivacyKey | None:
    """With which private values are compared; that there should be one, and is not, is noted."""
    try:
        return digesting_key(data)
    except PrivacyFault as error:
        report.notes.append(f"private values of encryption contexts are not compared: {error}")
        return None


def _interval(logs: tuple[Coverage, ...], wanted: Wanted) -> tuple[int, int] | None:
    """From when to when calls had to pass the proxy; None where nobody can say."""
    firsts = [at for log in logs if log.first and (at := time_us(log.first)) is not None]
    lasts = [at for log in logs if log.last and (at := time_us(log.last)) is not None]
    start = _us(wanted.since) if wanted.since else min(firsts, default=None)
    end = _us(wanted.until) if wanted.until else max(lasts, default=None)
    return None if start is None or end is None else (start, end)


@dataclass(slots=True)
class _Reason:
    """Why AWS may have further events like `record`: from `at` on, as many as `room` says."""

    at: int
    room: int
    record: Record


class _Further:
    """Events that AWS may have besides those that records name. Asked in the order of time; holds only what is within reach."""

    def __init__(self, tables: Tables, session_names: bool, privacy: PrivacyKey | None) -> None:
        self._coming = tables.further()
        self._next = next(self._coming, None)
        self._near: dict[tuple[object, object], deque[_Reason]] = defaultdict(deque)
        self._session_names = session_names
        self._privacy = privacy

    def accounts_for(self, at: int, event: Record) -> bool:
        """Whether there is a reason for `event`; it is used up then."""
        while self._next is not None and self._next[0] <= at + MAX_APART_US:
            begun, room, why, record = self._next
            record = _second_half(record) if why == REPLICATED else record
            self._near[_place(record)].append(_Reason(begun, room, record))
            self._next = next(self._coming, None)
        near = self._near[_place(event)]
        while near and (near[0].at < at - MAX_APART_US or not near[0].room):
            near.popleft()
        for reason in near:
            if reason.room and self._agrees(reason.record, event):
                reason.room -= 1
                return True
        return False

    def _agrees(self, record: Record, event: Record) -> bool:
        """In everything but what came of the call, and its request id, which the record does not know."""
        differences = compare(record, event, session_names=self._session_names, privacy=self._privacy)
        return all(one.field in ("error", "requestId") for one in differences)


def _place(record: Record) -> tuple[object, object]:
    return record.get("eventName"), record.get("awsRegion")


def _second_half(record: Record) -> Record:
    """The event of CreateKey that ReplicateKey makes in the other region."""
    region = str((record.get("requestParameters") or {}).get("replicaRegion"))
    arns = [entry["ARN"].replace(f":{record.get('awsRegion')}:", f":{region}:", 1) for entry in record["resources"]]
    resources = [{"ARN": arn} for arn in arns]
    changed = {"eventName": "CreateKey", "awsRegion": region, "resources": resources, "requestParameters": None}
    return {**record, **changed, "responseElements": {}}


class _Judge:
    """Steps 2 to 5. Times are microseconds since the epoch."""

    def __init__(
        self,
        tables: Tables,
        report: Report,
        covered: Coverages,
        wanted: Wanted,
        interval: tuple[int, int] | None,
        terms: Terms,
        privacy: PrivacyKey | None,
    ) -> None:
        self._tables = tables
        self._report = report
        self._covered = covered
        self._since = _us(wanted.since) if wanted.since else None
        self._until = _us(wanted.until) if wanted.until else None
        self._interval = interval
        self._grace_us = terms.grace // timedelta(microseconds=1)
        self._session_names = terms.session_names
        self._privacy = privacy

    def judge(self) -> None:
        counts = self._report.counts
        counts.unanswered = sum(self._is_asked(at) for at in self._tables.unanswered())
        for request_id, ours, aws in self._tables.side_by_side():
            if not self._is_asked(ours.at):
                continue
            counts.records += ours.copies
            counts.aws_events += aws.copies if aws else 0
            if ours.copies > 1 or (aws and aws.copies > 1):
                self._several(request_id, ours, aws)
            elif aws:
                self._both(request_id, ours, aws)
            else:
                self._record_alone(request_id, ours)
        further = _Further(self._tables, self._session_names, self._privacy)
        for request_id, event in self._tables.events_alone():
            counts.aws_events += 1
            self._event_alone(request_id, event, further)
        self._note_what_came_after_the_log()
        self._note_what_the_trail_leaves_out()

    def _is_asked(self, at: int) -> bool:
        return (self._since is None or at >= self._since) and (self._until is None or at < self._until)

    def _several(self, request_id: str, ours: Row, aws: Row | None) -> None:
        records, events = self._tables.copies(request_id)
        event_ids = tuple(str(row.record.get("eventID", "")) for row in events)
        finding = replace(
            _finding(Kind.DUPLICATE, request_id, ours.record),
            places=tuple(row.source for row in records),
            event_ids=event_ids,
            files=tuple(dict.fromkeys(row.source for row in events)),
            detail=f"records of ours: {ours.copies}, events of AWS's: {aws.copies if aws else 0}",
        )
        self._report.add(finding)

    def _both(self, request_id: str, ours: Row, aws: Row) -> None:
        record, event = ours.record, aws.record
        differences = compare(record, event, session_names=self._session_names, apart_us=aws.at - ours.at, privacy=self._privacy)
        if not differences:
            self._report.counts.agreed += 1
            return
        finding = _finding(Kind.MISMATCH, request_id, record)
        self._report.add(
            replace(
                finding,
                differences=differences,
                places=(ours.source,),
                event_ids=(str(event.get("eventID", "")),),
                files=(aws.source,),
            )
        )

    def _record_alone(self, request_id: str, row: Row) -> None:
        record, counts = row.record, self._report.counts
        if record.get("errorCode"):
            counts.failed += 1
            return
        region = str(record.get("awsRegion", ""))
        there = [self._covered[account, region] for account in _accounts(record) if (account, region) in self._covered]
        there = [one for one in there if one.oldest <= row.at]
        late = [one for one in there if row.at <= one.newest - self._grace_us]
        if not there:
            counts.outside_aws_files += 1
        elif not late:
            counts.pending += 1
        else:
            writes, reads = late[0].unconfirmed
            late[0].unconfirmed = (writes, reads + 1) if record.get("readOnly") else (writes + 1, reads)
            self._report.add(replace(_finding(Kind.UNCONFIRMED, request_id, record), places=(row.source,)))

    def _event_alone(self, request_id: str, row: Row, further: _Further) -> None:
        event, counts = row.record, self._report.counts
        if service := by_aws_service(event):
            counts.by_aws_services += 1
            services = self._report.services
            name = service if service in services or len(services) < _MAX_SERVICES else "others"
            services[name] = services.get(name, 0) + 1
        elif self._interval is not None and self._until is None and row.at > self._interval[1]:
            counts.after_log += 1
        elif self._interval is None or not self._interval[0] <= row.at <= self._interval[1] or not self._is_asked(row.at):
            counts.outside_interval += 1
        elif further.accounts_for(row.at, event):
            counts.explained += 1
        else:
            finding = _finding(Kind.BYPASS, request_id, event)
            self._report.add(replace(finding, event_ids=(str(event.get("eventID", "")),), files=(row.source,)))

    def _note_what_came_after_the_log(self) -> None:
        if self._report.counts.after_log and self._interval is not None:
            self._report.notes.append(
                f"{self._report.counts.after_log} calls came after our newest record, at {_text_of(self._interval[1])}: has the "
                "traffic left the proxy? --until TIME judges them as bypasses; with the time of that record, they are left out."
            )

    def _note_what_the_trail_leaves_out(self) -> None:
        for (account, region), one in sorted(self._covered.items()):
            writes, reads = one.unconfirmed
            if one.others and not one.reads + one.writes and writes + reads:
                self._report.notes.append(
                    f"{account} {region}: no client's call of KMS is in AWS's files, though they hold {one.others} events of "
                    "other services. The trail seems to leave KMS out: ExcludeManagementEventSources, or an advanced selector."
                )
            elif one.writes and not one.reads and reads:
                self._report.notes.append(
                    f"{account} {region}: of KMS, AWS's files hold changes only, and no reads such as Decrypt. The trail "
                    "seems to log writes only: ReadWriteType, or an advanced event selector on readOnly."
                )


def _accounts(record: Record) -> list[str]:
    """The accounts whose trails have the event of `record`: the keys' owners', else the caller's and keytrail's own."""
    owners = [key.split(":")[4] for key in keys_of(record) if key.startswith("arn:") and key.count(":") >= 5]
    others = [record["userIdentity"].get("accountId"), record.get("recipientAccountId")]
    return list(dict.fromkeys(account for account in owners or others if account))


def _finding(kind: Kind, request_id: str, record: Record) -> Finding:
    return Finding(
        kind,
        time=str(extension(record).get("time") or record.get("eventTime", "")),
        operation=str(record.get("eventName", "")),
        account=str(record.get("recipientAccountId", "")),
        region=str(record.get("awsRegion", "")),
        keys=keys_of(record),
        caller=caller_name(record),
        request_id=request_id,
    )


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _text_of(at: int) -> str:
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shifted(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment
