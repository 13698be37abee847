"""Where artefacts come from: files, folders, standard input, S3. The I/O of `audit.query.artifacts`.

Links in folders are not followed, and what is neither file nor folder is not opened, so that a tree cannot lead elsewhere, nor
hang.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import boto3
import botocore.exceptions

from audit.errors import AuditError, QueryError
from audit.query.artifacts.artifact import MAX_PIECE_BYTES, Artifact

_S3 = "s3://"
_MAX_INPUT_BYTES = 64 << 20
_NO_METADATA: Mapping[str, str] = {}


class ArtifactUnavailable(AuditError):
    """It is not there, or cannot be read now."""


@dataclass(frozen=True, slots=True)
class FileArtifact:
    """A file. It is opened for each read, so that a tree of any size takes one descriptor."""

    path: Path
    size_bytes: int
    metadata: Mapping[str, str] = field(default_factory=lambda: _NO_METADATA)

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self, offset: int, length: int) -> bytes:
        _require_piece(length)
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)


@dataclass(frozen=True, slots=True)
class InputArtifact:
    """What came by standard input, or in some other way; it lies in memory."""

    content: bytes = field(repr=False)
    name: str = "-"
    metadata: Mapping[str, str] = field(default_factory=lambda: _NO_METADATA)

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        _require_piece(length)
        return self.content[offset : offset + length]


@dataclass(frozen=True, slots=True)
class S3Artifact:
    """An object in S3; each read is a request for that range."""

    client: Any = field(repr=False)  # Any: boto3 makes its clients at run time
    bucket: str
    key: str
    size_bytes: int
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"{_S3}{self.bucket}/{self.key}"

    def read(self, offset: int, length: int) -> bytes:
        _require_piece(length)
        length = min(length, self.size_bytes - offset)
        if length <= 0:
            return b""
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.key, Range=f"bytes={offset}-{offset + length - 1}")
            content: bytes = answer["Body"].read(length)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise ArtifactUnavailable(f"{self.name}: {error}") from error
        return content


def is_place(name: str) -> bool:
    """Whether `name` is a file, a folder, an object in S3, or standard input."""
    return name == "-" or name.lower().startswith(_S3) or os.path.lexists(name)


def find_artifacts(name: str, standard_input: IO[bytes], endpoint_url: str | None = None) -> Iterator[Artifact]:
    """The artefacts at `name`: a path, ``-``, or ``s3://BUCKET/KEY-OR-PREFIX``; of a folder and a prefix all, in order of names.

    Raises `ArtifactUnavailable`, `QueryError`, OSError. `endpoint_url` is S3's.
    """
    if name == "-":
        content = standard_input.read(_MAX_INPUT_BYTES + 1)
        if len(content) > _MAX_INPUT_BYTES:
            raise QueryError(f"more than {_MAX_INPUT_BYTES >> 20} MiB came by standard input; give the file's name instead")
        yield InputArtifact(content)
    elif name.lower().startswith(_S3):
        yield from _objects(name, endpoint_url)
    else:
        yield from _files(Path(name))


def _files(root: Path) -> Iterator[Artifact]:
    mode = root.stat().st_mode
    if stat.S_ISREG(mode):
        yield FileArtifact(root, root.stat().st_size)
        return
    if not stat.S_ISDIR(mode):
        raise QueryError(f"{root} is neither a file nor a folder")
    for folder, folders, names in os.walk(root, onerror=_raise):
        folders.sort()
        for path in (Path(folder, entry) for entry in sorted(names)):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield FileArtifact(path, status.st_size)


def _objects(url: str, endpoint_url: str | None) -> Iterator[Artifact]:
    bucket, _, prefix = url[len(_S3) :].partition("/")
    if not bucket:
        raise QueryError(f"not an object: {url!r}; accepted: s3://BUCKET/KEY, s3://BUCKET/PREFIX/, s3://BUCKET")
    try:
        client: Any = boto3.client("s3", endpoint_url=endpoint_url)  # Any: boto3 makes its clients at run time
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                if entry["Key"] == prefix or not prefix or prefix.endswith("/"):
                    yield _object(client, bucket, entry["Key"])
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, ValueError) as error:
        raise ArtifactUnavailable(f"{url}: {error}") from error  # ValueError: an endpoint that is no URL


def _object(client: Any, bucket: str, key: str) -> S3Artifact:
    head = client.head_object(Bucket=bucket, Key=key)
    metadata = {name.lower(): value for name, value in head.get("Metadata", {}).items()}
    return S3Artifact(client, bucket, key, head["ContentLength"], metadata)


def _require_piece(length: int) -> None:
    if not 0 <= length <= MAX_PIECE_BYTES:
        raise ValueError(f"a read of {length} bytes")


def _raise(error: OSError) -> None:
    raise error
