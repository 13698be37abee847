"""S3, as evidence is read from it: URLs, the objects under them, and what goes wrong. Nothing is written here.

A key is any text: ``//``, ``..`` and line ends in it are names like others, and are never resolved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import botocore.exceptions
from botocore.config import Config

from audit.errors import AuditError, QueryError

SCHEME = "s3://"


@dataclass(frozen=True, slots=True)
class Listed:
    """An object, as a listing tells it."""

    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a listing, in the order of keys' UTF-8; `has_next` where more follow."""

    objects: tuple[Listed, ...]
    has_next: bool


def is_url(text: str) -> bool:
    return text.lower().startswith(SCHEME)


def split(url: str) -> tuple[str, str]:
    """The bucket, and the key or prefix, which may be empty. Raises `QueryError` where there is no bucket."""
    bucket, _, prefix = url[len(SCHEME) :].partition("/")
    if not bucket:
        raise QueryError(f"not a place in S3: {url!r}; accepted: s3://BUCKET/KEY, s3://BUCKET/PREFIX/, s3://BUCKET")
    return bucket, prefix


def connect(endpoint_url: str | None, config: Config | None = None) -> Any:  # Any: boto3 makes its clients at run time
    """A client with the credentials that boto3 finds now: its default session would keep those that it found first.

    `endpoint_url` is that of an S3 which is not AWS's.
    """
    import boto3  # here: it takes long to import, and most artefacts are files

    return boto3.Session().client("s3", endpoint_url=endpoint_url, config=config)


def pages(client: Any, bucket: str, prefix: str) -> Iterator[Page]:
    """The listing of all keys that begin with `prefix`, asked for page by page. Raises boto's errors: see `failures`."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        found = tuple(Listed(entry["Key"], entry["Size"]) for entry in page.get("Contents", ()))
        yield Page(found, bool(page.get("IsTruncated")))


@contextmanager
def failures(name: str, unavailable: type[AuditError]) -> Iterator[None]:
    """Tells whatever S3 and boto answer to a request for `name` as `unavailable`."""
    try:
        yield
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, ValueError) as error:
        raise unavailable(f"{name}: {error}") from error  # ValueError: an endpoint that is no URL
