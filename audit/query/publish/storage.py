"""Objects of S3, as publishing needs them: `Store` and boto3's S3 behind it; and `ObjectIO`, the same for pyiceberg.

Whatever keytrail and pyiceberg write to S3 or read of it goes through here, with the credentials that boto3 finds.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import boto3
import botocore.exceptions
from boto3.exceptions import Boto3Error
from botocore.config import Config
from pyiceberg.io import FileIO, InputFile, OutputFile
from pyiceberg.typedef import EMPTY_DICT, Properties

from audit.errors import AuditError

_CONFIG = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard"})
_DELETED_AT_ONCE = 1_000


class PublishFault(AuditError):
    """Publishing cannot go on, or not now. What was published before stays as it is, and a later run goes on from there."""


class NoObject(PublishFault):
    """There is no such object."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object, as a listing tells it."""

    key: str
    size_bytes: int
    modified: datetime


class Store(Protocol):
    """A bucket. Every method raises `PublishFault` where S3 cannot do it; what was written can be read by all when it returns."""

    def read(self, key: str) -> bytes:
        """Raises `NoObject`."""

    def put(self, key: str, body: bytes) -> None:
        """Write an object, over one of that name."""

    def put_new(self, key: str, body: bytes) -> bool:
        """Write an object where there is none of that name; whether it is there with `body` now. One of several that try at
        once succeeds."""

    def upload(self, key: str, path: Path) -> None:
        """Write the file `path` as an object, whose bytes S3 compares with their SHA-256. Raises OSError for the file."""

    def objects(self, prefix: str) -> Iterator[Stored]:
        """All whose key begins with `prefix`."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no fault."""


class S3Store:
    """The bucket `bucket`, by a client of boto3 (`connect`)."""

    def __init__(self, bucket: str, client: Any) -> None:  # Any: boto3 makes its clients at run time
        self._bucket = bucket
        self._client = client

    def read(self, key: str) -> bytes:
        with self._failures(key):
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            return body

    def put(self, key: str, body: bytes) -> None:
        with self._failures(key):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ChecksumAlgorithm="SHA256")

    def put_new(self, key: str, body: bytes) -> bool:
        try:
            with self._failures(key):
                self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ChecksumAlgorithm="SHA256", IfNoneMatch="*")
        except _Refused:
            try:
                return self.read(key) == body  # by us, where the answer to the first try was lost
            except NoObject:
                return False
        return True

    def upload(self, key: str, path: Path) -> None:
        with self._failures(key):
            self._client.upload_file(str(path), self._bucket, key, ExtraArgs={"ChecksumAlgorithm": "SHA256"})
            size_bytes = self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        if size_bytes != path.stat().st_size:
            raise PublishFault(f"{self._name(key)} has {size_bytes} bytes, {path} has not as many")

    def objects(self, prefix: str) -> Iterator[Stored]:
        with self._failures(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield Stored(entry["Key"], entry["Size"], entry["LastModified"])

    def delete(self, keys: Iterable[str]) -> None:
        left = list(keys)
        while left:
            some, left = left[:_DELETED_AT_ONCE], left[_DELETED_AT_ONCE:]
            with self._failures(some[0]):
                objects = [{"Key": key} for key in some]
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            for error in answer.get("Errors", ()):
                raise PublishFault(f"{self._name(error.get('Key', some[0]))} was not deleted: {error.get('Code')}")

    def _name(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    @contextmanager
    def _failures(self, key: str) -> Iterator[None]:
        """What boto raises, in our words."""
        try:
            yield
        except botocore.exceptions.ClientError as error:
            kind = _KINDS.get(str(error.response.get("Error", {}).get("Code")), PublishFault)
            raise kind(f"{self._name(key)}: {one_line(error)}") from error
        except (botocore.exceptions.BotoCoreError, Boto3Error) as error:
            raise PublishFault(f"{self._name(key)}: {one_line(error)}") from error


class _Refused(PublishFault):
    """A condition of the request did not hold."""


_KINDS: Mapping[str, type[PublishFault]] = {
    "NoSuchKey": NoObject,
    "404": NoObject,
    "PreconditionFailed": _Refused,
    "ConditionalRequestConflict": _Refused,
}


def connect(endpoint_url: str | None, session: boto3.Session | None = None) -> Any:  # Any: boto3 makes its clients at run time
    """A client of S3. `endpoint_url` is that of an S3 which is not AWS's. Raises `PublishFault`."""
    try:
        return (session or boto3.Session()).client("s3", endpoint_url=endpoint_url, config=_CONFIG)
    except (botocore.exceptions.BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise PublishFault(f"S3 cannot be used: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The text of an error of others, on one line and not without an end."""
    return (" ".join(str(error).split()) or type(error).__name__)[:500]


# --- for pyiceberg


class ObjectIO(FileIO):
    """Files of pyiceberg as objects. Their locations are ``s3://BUCKET/KEY``.

    pyiceberg makes one for a table by itself (`IMPLEMENTATION`), with the credentials that its catalogue lends, if it does.
    """

    def __init__(self, properties: Properties = EMPTY_DICT, open_bucket: Callable[[str], Store] | None = None) -> None:
        super().__init__(properties)
        self._open_bucket = open_bucket or cache(self._connect)

    def new_input(self, location: str) -> ObjectInput:
        store, key = self._place(location)
        return ObjectInput(location, store, key)

    def new_output(self, location: str) -> ObjectOutput:
        store, key = self._place(location)
        return ObjectOutput(location, store, key)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        store, key = self._place(location if isinstance(location, str) else location.location)
        store.delete([key])

    def _place(self, location: str) -> tuple[Store, str]:
        bucket, key = place_of(location)
        return self._open_bucket(bucket), key

    def _connect(self, bucket: str) -> Store:
        lent = boto3.Session(
            aws_access_key_id=self.properties.get("s3.access-key-id"),
            aws_secret_access_key=self.properties.get("s3.secret-access-key"),
            aws_session_token=self.properties.get("s3.session-token"),
            region_name=self.properties.get("s3.region"),
        )
        return S3Store(bucket, connect(self.properties.get("s3.endpoint"), lent))


#: The name of `ObjectIO` as pyiceberg's property ``py-io-impl``.
IMPLEMENTATION = f"{ObjectIO.__module__}.{ObjectIO.__name__}"


def place_of(location: str) -> tuple[str, str]:
    """Bucket and key of ``s3://BUCKET/KEY``; Hadoop's ways to say s3 are taken too. Raises `PublishFault`."""
    scheme, _, rest = location.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme not in {"s3", "s3a", "s3n"} or not bucket or not key:
        raise PublishFault(f"not a place in S3: {location!r}")
    return bucket, key


class ObjectInput(InputFile):
    """An object to read; it is read whole."""

    def __init__(self, location: str, store: Store, key: str) -> None:
        super().__init__(location)
        self._store = store
        self._key = key

    def __len__(self) -> int:
        return len(self._store.read(self._key))

    def exists(self) -> bool:
        try:
            self._store.read(self._key)
        except NoObject:
            return False
        return True

    def open(self, seekable: bool = True) -> io.BytesIO:
        """Raises FileNotFoundError, as pyiceberg expects."""
        try:
            return io.BytesIO(self._store.read(self._key))
        except NoObject as error:
            raise FileNotFoundError(self.location) from error


class ObjectOutput(OutputFile):
    """An object to write; it is there, whole, when its stream is closed, or not at all."""

    def __init__(self, location: str, store: Store, key: str) -> None:
        super().__init__(location)
        self._store = store
        self._key = key

    def __len__(self) -> int:
        return len(self.to_input_file())

    def exists(self) -> bool:
        return self.to_input_file().exists()

    def to_input_file(self) -> ObjectInput:
        return ObjectInput(self.location, self._store, self._key)

    def create(self, overwrite: bool = False) -> _Body:
        return _Body(self._store, self._key, overwrite)


class _Body(io.BytesIO):
    def __init__(self, store: Store, key: str, overwrite: bool) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._overwrite = overwrite

    def close(self) -> None:
        if not self.closed:
            body = self.getvalue()
            super().close()
            if self._overwrite:
                self._store.put(self._key, body)
            elif not self._store.put_new(self._key, body):
                raise FileExistsError(self._key)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            super().close()  # what was not finished is not written
        self.close()
