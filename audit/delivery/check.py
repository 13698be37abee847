"""Compares a destination with the log, exactly: what `aws cloudtrail validate-logs` does not see, too.

That tool walks the digests that it finds. It passes where the newest digests were deleted together with their logs, where a
log file lies beside them that no digest names, and where there is nothing at all. Here the log is what counts: each of its
records that is due is in one file, under its account and region, in its own bytes; whatever else is there is a finding; and
the digests are one chain for each account and region, from the first interval to the newest. The steps are 20 to 23 of
docs/verify.md.

What is due: whatever `state` says was delivered, and whatever is older than the logs' newest record by `overdue_s` (whoever
took the state away, too, does not hide it). Each file is read once, and the log is read once; in memory is a row for each
file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from audit.delivery.chains import Named, check_chains
from audit.delivery.deliverer import Log, uncompressed
from audit.delivery.destination import LONGEST_BYTES, Destination
from audit.delivery.digest import PublicKey
from audit.delivery.findings import Findings, Kind
from audit.delivery.layout import DigestKey, LogKey, Place, Trail, seconds, unique_of
from audit.delivery.records import Body, NoRecord, delivered
from audit.delivery.state import State
from audit.errors import LogIncident
from audit.report import DeliveryReport

_LINES_AT_ONCE = 256


@dataclass(slots=True)
class Found:
    """A log file at the destination: which records of `log` it says that it has, `first` to `last`, and its hash.

    `minute` is the time in its name. `is_bad`: there is a finding about it.
    """

    key: str
    place: Place
    minute: int
    sha256: str
    log: str
    first: int
    last: int
    records: int
    is_bad: bool = False


@dataclass(slots=True)
class _Cover:
    """The files of one log and place, in the order of their records, while the log goes by."""

    files: list[Found]
    number: int = 0  # of the file that comes next, or that the log is in
    hashing: Any = None  # sha256, of what this file should be
    body: Body = field(default_factory=Body)
    missing: tuple[int, int, int] | None = None  # first, last, how many


def check(
    trail: Trail,
    destination: Destination,
    logs: Mapping[str, Log],
    keys: Mapping[str, PublicKey],
    state: State | None,
    overdue_s: int = 3_600,
) -> DeliveryReport:
    """What differs. `keys` are those that may have signed digests, by their fingerprints; `state` is to be read before this.

    Raises `DestinationFault`, OSError.
    """
    findings = Findings()
    files, digests = _look(trail, destination, findings)
    covers = _covers(files, findings)
    due = max(map(_newest, logs.values()), default=0) - overdue_s
    for name, log in sorted(logs.items()):
        try:
            _compare(trail.home, name, log, covers, state, due, findings)
        except LogIncident as incident:  # what is wrong with a log, other steps of verify tell
            findings.add(Kind.MISSING, name, f"from here on nothing can be compared: {incident}")
    for (name, place), cover in covers.items():
        if name not in logs:
            for one in cover.files:
                _bad(one, findings, Kind.EXTRA, f"its records say that they are of a log {name!r} of {place}, which is not here")
    named = check_chains(trail, destination, digests, keys, state, due, findings)
    _compare_with_digests(files, named, due, findings)
    return findings.report(len(files), sum(one.records for one in files.values()), len(digests))


# --- what is there


def _look(trail: Trail, destination: Destination, findings: Findings) -> tuple[dict[str, Found], dict[str, DigestKey]]:
    """The log files, by their keys, and the keys of the digests."""
    files: dict[str, Found] = {}
    digests: dict[str, DigestKey] = {}
    for key in destination.keys(trail.root):
        match trail.parse(key):
            case LogKey() as name:
                if (found := _read_file(key, name, destination, findings)) is not None:
                    files[key] = found
            case DigestKey() as name:
                if name.home_region != trail.home.region or name.trail != trail.name:
                    findings.add(
                        Kind.EXTRA, key, f"it is a digest of a trail {name.trail} of {name.home_region}, not of {trail.arn}"
                    )
                else:
                    digests[key] = name
            case None:
                findings.add(Kind.EXTRA, key, "no file of a trail has such a name")
    return files, digests


def _read_file(key: str, name: LogKey, destination: Destination, findings: Findings) -> Found | None:
    stored = destination.get(key)
    if stored is None:
        return None  # deleted while we looked: its records are missing
    body = uncompressed(stored.data, LONGEST_BYTES)
    records = _records(body)
    if body is None or not records:
        findings.add(Kind.DIFFERENT, key, "it is no log file any more: neither gzip nor records can be read")
        return None
    (log, first), (_, last) = records[0], records[-1]
    found = Found(key, name.place, name.minute, sha256(body).hexdigest(), log, first, last, len(records))
    if unique_of(body) != name.unique:
        _bad(found, findings, Kind.DIFFERENT, "its contents are not those that its name was made of")
    return found


def _records(body: bytes | None) -> list[tuple[str, int]]:
    """Log and number of each record in a file; empty where it has none, or is none."""
    try:
        records = orjson.loads(body or b"")["Records"]
        extensions = [record["additionalEventData"]["keytrail"] for record in records]
        return [(str(one["log"]), int(one["sequence"])) for one in extensions]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return []


def _covers(files: Mapping[str, Found], findings: Findings) -> dict[tuple[str, Place], _Cover]:
    """The files of each log and place, none of which has a record that one before it has."""
    found: dict[tuple[str, Place], _Cover] = defaultdict(lambda: _Cover([]))
    for one in sorted(files.values(), key=lambda one: (one.first, one.is_bad, one.key)):
        cover = found[one.log, one.place]
        if cover.files and one.first <= cover.files[-1].last:
            _bad(
                one, findings, Kind.EXTRA, f"records {one.first} to {one.last} of log {one.log} are in {cover.files[-1].key} too"
            )
        else:
            cover.files.append(one)
    return found


# --- the log, record for record


def _compare(
    home: Place,
    name: str,
    log: Log,
    covers: dict[tuple[str, Place], _Cover],
    state: State | None,
    due: int,
    findings: Findings,
) -> None:
    """Compare the log `name` with what its files should be. What is older than `due` (seconds since the epoch) is to be there."""
    told = state.next.get(name, 0) if state is not None else 0
    for number, line in _lines(name, log, log.sealed()):
        try:
            where = delivered(line, home)
        except NoRecord as error:
            raise LogIncident(name, f"record {number}: {error}") from error
        if where is not None:
            is_due = number < told or where.time < due
            _next(name, where.place, number, line, covers[name, where.place], is_due, findings)
    for (of, place), cover in covers.items():
        if of == name:
            _tell_missing(name, place, cover, findings)
            for one in cover.files[cover.number :]:
                reason = (
                    "its records are not in the log" if cover.hashing is None else "it says that it has records beyond the log"
                )
                _bad(one, findings, Kind.EXTRA, reason)
                cover.hashing = None


def _next(log: str, place: Place, number: int, line: bytes, cover: _Cover, is_due: bool, findings: Findings) -> None:
    """The record `number` goes by, which belongs to `place`."""
    while cover.number < len(cover.files) and cover.files[cover.number].last < number:
        _pass(cover, findings)
    one = cover.files[cover.number] if cover.number < len(cover.files) else None
    if one is None or number < one.first:
        if is_due:
            first, _, count = cover.missing or (number, 0, 0)
            cover.missing = (first, number, count + 1)
        return
    _tell_missing(log, place, cover, findings)
    if cover.hashing is None:
        cover.hashing, cover.body = sha256(), Body()
    cover.hashing.update(cover.body.piece(line))
    if number == one.last:
        _pass(cover, findings)


def _pass(cover: _Cover, findings: Findings) -> None:
    """The log has gone by the file that was next."""
    one = cover.files[cover.number]
    if cover.hashing is None:
        _bad(one, findings, Kind.EXTRA, f"log {one.log} has no such records of {one.place}")
    else:
        cover.hashing.update(cover.body.end())
        if cover.hashing.hexdigest() != one.sha256:
            _bad(one, findings, Kind.DIFFERENT, f"it is not what log {one.log} has of {one.place} from {one.first} to {one.last}")
    cover.number, cover.hashing = cover.number + 1, None


def _tell_missing(log: str, place: Place, cover: _Cover, findings: Findings) -> None:
    if cover.missing is not None:
        first, last, count = cover.missing
        findings.add(Kind.MISSING, f"{place}", f"{count} records of log {log}, from {first} to {last}, are in no file")
        cover.missing = None


def _lines(name: str, log: Log, sealed: int) -> Iterator[tuple[int, bytes]]:
    number = 0
    while number < sealed:
        lines = log.read(number, min(_LINES_AT_ONCE, sealed - number))
        if not lines:
            raise LogIncident(name, f"record {number} is sealed, and cannot be read")
        yield from enumerate(lines, number)
        number += len(lines)


def _newest(log: Log) -> int:
    """The eventTime of its last sealed record, in seconds since the epoch; 0 where it has none."""
    sealed = log.sealed()
    try:
        return seconds(orjson.loads(log.read(sealed - 1, 1)[0])["eventTime"]) if sealed else 0
    except (LogIncident, KeyError, TypeError, ValueError, IndexError):
        return 0


# --- the digests' word


def _compare_with_digests(files: Mapping[str, Found], named: Named, due: int, findings: Findings) -> None:
    """Each file of an interval that has its digest is named there, with its hash; each that is named is there. What was delivered
    before `due` is of a place that has a digest."""
    for place in sorted({one.place for one in files.values() if one.minute < due} - set(named.until)):
        findings.add(Kind.CHAIN, str(place), "there is no digest")
    for key, file_hash in named.files.items():
        if key not in files:
            findings.add(Kind.MISSING, key, "a digest names it, and it is not there, or not what it was")
        elif files[key].sha256 != file_hash and not files[key].is_bad:
            _bad(files[key], findings, Kind.DIFFERENT, "it has not the hash that its digest has")
    for key, one in files.items():
        if key not in named.files and one.minute + 60 <= named.until.get(one.place, 0) and not one.is_bad:
            _bad(one, findings, Kind.EXTRA, "no digest names it, though its interval is over")


def _bad(one: Found, findings: Findings, kind: Kind, reason: str) -> None:
    """A finding about a file; the first one is told."""
    if not one.is_bad:
        findings.add(kind, one.key, reason)
    one.is_bad = True
