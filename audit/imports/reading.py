"""CloudTrail's files read into an import: those that it does not have yet; what cannot be read is told, and the rest goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from audit import s3
from audit.imports.rows import Unusable, event_of, is_call
from audit.imports.store import CONFLICT, Import, Source
from audit.query.engine import Progress
from audit.reconcile.cloudtrail import DamagedFile, Readable, read_written
from audit.reconcile.files import CloudTrailUnavailable, FileUnreadable, LogFile, Wanted, find_files

_BLOCK_BYTES = 1 << 20
#: Faults that are told; more are counted.
MAX_TOLD = 1_000


@dataclass(slots=True)
class Report:
    """What an import came to, in numbers of files and of events. `told` is the first `MAX_TOLD` of `faults`.

    `known_files` were read by an earlier run; `added` events are new and `known` ones were there; `left_out` are other services'.
    """

    files: int = 0
    known_files: int = 0
    added: int = 0
    known: int = 0
    left_out: int = 0
    faults: int = 0
    told: list[str] = field(default_factory=list)

    def fault(self, place: str, reason: str) -> None:
        self.faults += 1
        if len(self.told) < MAX_TOLD:
            self.told.append(f"{place}: {reason}")


@dataclass(frozen=True, slots=True)
class How:
    """`all_sources`: events of every service, and not of KMS alone; `reread`: objects of S3 too that were read already, which are
    otherwise known by name and size, since CloudTrail never changes one."""

    all_sources: bool = False
    reread: bool = False
    endpoint_url: str | None = None


def import_files(store: Import, where: str, how: How = How(), progress: Progress | None = None) -> Report:
    """Add to `store` what the files at `where` have, a path or ``s3://BUCKET/PREFIX``. Durable when this returns.

    Raises `QueryError` where `where` is none, `CloudTrailUnavailable` (what was read until then is durable), OSError.
    """
    report = Report()
    try:
        files = list(find_files(where, Wanted(), how.endpoint_url))
        if not files:
            raise CloudTrailUnavailable(f"{where}: no CloudTrail log file there")
        _read_files(files, s3.is_url(where), store, how, report, progress)
    except CloudTrailUnavailable:
        store.commit()
        raise
    store.commit()
    report.added, report.known = store.added, store.known
    for name in store.conflicts:
        report.fault(name, CONFLICT)
    return report


def _read_files(
    files: Collection[LogFile], are_objects: bool, store: Import, how: How, report: Report, progress: Progress | None
) -> None:
    total, done = sum(file.size_bytes for file in files), 0
    for file in files:
        report.files += 1
        source = Source("", file.size_bytes, file.name, how.all_sources)
        try:
            if not are_objects:
                source = replace(source, sha256=_sha256(file))
            if store.has(source) and not (are_objects and how.reread):
                report.known_files += 1
            else:
                _read_file(file, source, store, report)
        except (FileUnreadable, DamagedFile) as error:
            report.fault(file.name, str(error))
            store.mark_damaged(file.name, str(error))
        done += file.size_bytes
        if progress:
            progress(done, total)


def _read_file(file: LogFile, source: Source, store: Import, report: Report) -> None:
    """The events of `file`; it is done with if all of them could be taken."""
    first_fault = None
    with file.open() as stream:
        hashed = _Hashed(stream)
        for number, (event, written) in enumerate(read_written(hashed), 1):
            try:
                if is_call(event, source.all_sources):
                    store.add(event_of(event, written, store.log))
                else:
                    report.left_out += 1
            except Unusable as error:
                first_fault = first_fault or f"event {number}: {error}"
                report.fault(file.name, f"event {number}: {error}")
        sha256 = hashed.hexdigest()
    if first_fault is None:
        store.finish(replace(source, sha256=sha256))
    else:
        store.mark_damaged(file.name, first_fault)


class _Hashed:
    """A file, and the SHA-256 of what was read of it."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        block = self._file.read(size)
        self._hash.update(block)
        return block

    def hexdigest(self) -> str:
        """Of the whole file: what is left of it is read."""
        while self.read(_BLOCK_BYTES):
            pass
        return self._hash.hexdigest()


def _sha256(file: LogFile) -> str:
    with file.open() as stream:
        return _Hashed(stream).hexdigest()
