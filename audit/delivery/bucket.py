"""S3 as a `Destination`: AWS's, or another's at an endpoint of its own. boto3 finds the credentials.

An object is written where there is none of its key (``If-None-Match: *``). With `retention`, each is locked (S3 Object
Lock) for that long from its writing; a bucket without Object Lock refuses that, and the fault says so. A bucket's default
retention holds by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import botocore.exceptions
from boto3.exceptions import Boto3Error
from botocore.config import Config

from audit import s3
from audit.delivery.destination import LONGEST_BYTES, AlreadyThere, DestinationFault, Stored

#: Nobody waits for these but delivery itself; it tries again by its own rules, so that it can be told to end in between.
_CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 1})
_NO_OBJECT = frozenset({"NoSuchKey", "404"})
_REFUSED = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
_NO_LOCK = "the bucket has no Object Lock, which delivery_retention_days needs"
#: What S3 says, in words that tell what to do.
_ADVICE = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "these credentials may not do that: delivery needs s3:PutObject and s3:GetObject, with retention "
    "s3:PutObjectRetention and s3:GetBucketObjectLockConfiguration too",
    "InvalidAccessKeyId": "S3 does not know this access key",
    "SignatureDoesNotMatch": "the secret access key is not that of the access key",
    "InvalidRequest": "S3 refuses the request; with delivery_retention_days, the bucket must have Object Lock",
    "ObjectLockConfigurationNotFoundError": _NO_LOCK,
}


@dataclass(frozen=True, slots=True)
class Retention:
    """How long, and how strictly, an object is locked."""

    days: int
    mode: Literal["GOVERNANCE", "COMPLIANCE"]


class BucketDestination:
    """The bucket `bucket`, by `client` (boto3's)."""

    def __init__(self, bucket: str, client: Any, retention: Retention | None = None) -> None:  # Any: made at run time
        self._bucket = bucket
        self._client = client
        self._retention = retention
        self._can_lock = retention is None  # or it is not known yet

    def put(self, key: str, data: bytes, metadata: Mapping[str, str]) -> None:
        locked: dict[str, Any] = {}
        if self._retention is not None:
            until = datetime.now(UTC) + timedelta(days=self._retention.days)
            locked = {"ObjectLockMode": self._retention.mode, "ObjectLockRetainUntilDate": until}
        with self._failures(key):
            self._require_lock()
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                Metadata=dict(metadata),
                ContentType="application/gzip",
                ChecksumAlgorithm="SHA256",
                IfNoneMatch="*",
                **locked,
            )

    def get(self, key: str) -> Stored | None:
        try:
            with self._failures(key):
                found = self._client.get_object(Bucket=self._bucket, Key=key)
                with closing(found["Body"]) as body:
                    return Stored(body.read(LONGEST_BYTES + 1), found["Metadata"])
        except _NoObject:
            return None

    def keys(self, prefix: str) -> Iterator[str]:
        with self._failures(prefix):
            for page in s3.pages(self._client, self._bucket, prefix):
                yield from (listed.key for listed in page.objects)

    def _require_lock(self) -> None:
        """That the bucket locks what it is asked to: an S3 may ignore the request where it does not. Asked once."""
        if not self._can_lock:
            found = self._client.get_object_lock_configuration(Bucket=self._bucket)["ObjectLockConfiguration"]
            if found.get("ObjectLockEnabled") != "Enabled":
                raise DestinationFault(f"{s3.SCHEME}{self._bucket}: {_NO_LOCK}")
            self._can_lock = True

    @contextmanager
    def _failures(self, key: str) -> Iterator[None]:
        """What boto raises, in our words."""
        name = f"{s3.SCHEME}{self._bucket}/{key}"
        try:
            yield
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            kind = _NoObject if code in _NO_OBJECT else AlreadyThere if code in _REFUSED else DestinationFault
            advice = f"{code}: {_ADVICE[code]}" if code in _ADVICE else _one_line(error)
            raise kind(f"{name}: {advice}") from error
        except (botocore.exceptions.BotoCoreError, Boto3Error) as error:
            raise DestinationFault(f"{name}: {_one_line(error)}") from error


class _NoObject(DestinationFault):
    """There is no such object."""


def open_bucket(bucket: str, endpoint_url: str | None, retention: Retention | None) -> BucketDestination:
    """Nothing is asked of S3 yet. Raises `DestinationFault`."""
    try:
        return BucketDestination(bucket, s3.connect(endpoint_url, _CONFIG), retention)
    except (botocore.exceptions.BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise DestinationFault(f"S3 cannot be used: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:500]
