"""Where CloudTrail's files lie: a folder, one file, or a prefix of an S3 bucket; and which of them are needed.

The usual layout, ``AWSLogs/[o-ORG/]ACCOUNT/CloudTrail/REGION/YYYY/MM/DD/*.json.gz``, spares reading what lies in other accounts,
regions and days; files that do not stand in it are all read. Digests, Insights and network activity are not log files, and are
left out by their folder or by their name.

Source: AWS CloudTrail User Guide, "Finding your CloudTrail log files".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.exceptions

from audit import s3
from audit.errors import AuditError
from audit.reconcile.cloudtrail import Readable

_LAYOUT = re.compile(r"AWSLogs/(?:o-[a-z0-9]+/)?(\d{12})/CloudTrail/([a-z0-9-]+)/(\d{4})/(\d\d)/(\d\d)/")
_OTHER_FILES = re.compile(r"(?:^|[/_])CloudTrail-(?:Digest|Insight|NetworkActivity)[/_]")
#: A file lies under the day of its delivery, which may be another than that of its events; and so much more is compared.
_DAYS_AROUND = timedelta(days=2)


class CloudTrailUnavailable(AuditError):
    """The files cannot be got at: no such folder or bucket, or no permission."""


class FileUnreadable(Exception):
    """One file cannot be opened; the text says why."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file: `name` is its path, or its ``s3://`` URL. Entering what `open` gives raises `FileUnreadable` for
    this file alone, and `CloudTrailUnavailable`."""

    name: str
    size_bytes: int
    open: Callable[[], AbstractContextManager[Readable]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; nothing stands for everything. `since` and `until` are aware."""

    accounts: Collection[str] = ()
    regions: Collection[str] = ()
    since: datetime | None = None
    until: datetime | None = None

    def has(self, account: str, region: str) -> bool:
        return (not self.accounts or account in self.accounts) and (not self.regions or region in self.regions)

    def may_be_in(self, name: str) -> bool:
        """Whether the file `name` can hold events that are asked for, by where it lies."""
        if _OTHER_FILES.search(name) or not name.lower().endswith((".json", ".json.gz")):
            return False
        if (found := _LAYOUT.search(name)) is None:
            return True
        try:
            day = date(int(found[3]), int(found[4]), int(found[5]))
        except ValueError:
            return True
        return (
            self.has(found[1], found[2])
            and (self.since is None or day >= (self.since.astimezone(UTC) - _DAYS_AROUND).date())
            and (self.until is None or day <= (self.until.astimezone(UTC) + _DAYS_AROUND).date())
        )


def find_files(where: str, wanted: Wanted, endpoint_url: str | None = None) -> Iterator[LogFile]:
    """The log files at `where`, a path or ``s3://BUCKET/PREFIX``, in the order of their names.

    Raises `QueryError` where `where` is none, `CloudTrailUnavailable`, OSError. `endpoint_url` is S3's.
    """
    if s3.is_url(where):
        return _objects(where, wanted, endpoint_url)
    return _paths(Path(where), wanted)


def _paths(root: Path, wanted: Wanted) -> Iterator[LogFile]:
    if root.is_file():
        yield _path(root)
        return
    if not root.is_dir():
        raise CloudTrailUnavailable(f"no such file or folder: {root}")
    for folder, folders, names in os.walk(root, onerror=_raise):
        folders.sort()
        for path in (Path(folder, name) for name in sorted(names)):
            if wanted.may_be_in(path.as_posix()) and path.is_file():
                yield _path(path)


def _path(path: Path) -> LogFile:
    def open_path() -> AbstractContextManager[Readable]:
        try:
            return path.open("rb")
        except OSError as error:
            raise FileUnreadable(error.strerror or str(error)) from error

    return LogFile(str(path), path.stat().st_size, open_path)


def _raise(error: OSError) -> None:
    raise error


def _objects(url: str, wanted: Wanted, endpoint_url: str | None) -> Iterator[LogFile]:
    bucket, prefix = s3.split(url)
    with s3.failures(url, CloudTrailUnavailable):
        client = s3.connect(endpoint_url)
        for page in s3.pages(client, bucket, prefix):
            for listed in page.objects:
                name = f"{s3.SCHEME}{bucket}/{listed.key}"
                if wanted.may_be_in(name):
                    yield LogFile(name, listed.size_bytes, _opener(client, bucket, listed.key))


def _opener(client: Any, bucket: str, key: str) -> Callable[[], AbstractContextManager[Readable]]:
    @contextmanager
    def open_object() -> Iterator[Readable]:
        try:
            body = client.get_object(Bucket=bucket, Key=key)["Body"]
        except botocore.exceptions.ClientError as error:
            raise FileUnreadable(str(error)) from error
        except botocore.exceptions.BotoCoreError as error:
            raise CloudTrailUnavailable(f"{s3.SCHEME}{bucket}/{key}: {error}") from error
        with closing(body):
            yield _Body(body, f"{s3.SCHEME}{bucket}/{key}")

    return open_object


class _Body:
    """The body of the object `name`. A connection that fails says nothing of the object: `CloudTrailUnavailable`."""

    def __init__(self, body: Any, name: str) -> None:  # Any: botocore's
        self._body = body
        self._name = name

    def read(self, size: int, /) -> bytes:
        try:
            block: bytes = self._body.read(size)
        except botocore.exceptions.BotoCoreError as error:
            raise CloudTrailUnavailable(f"{self._name}: {error}") from error
        return block
