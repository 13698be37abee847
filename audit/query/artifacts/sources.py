"""Where artefacts come from: files, folders, standard input, S3. The I/O of `audit.query.artifacts`.

Links in folders are not followed, and what is neither file nor folder is not opened, so that a tree cannot lead elsewhere, nor
hang. What is not read is told as an `UnreadArtifact`: nothing is passed over in silence, but empty markers of folders in S3.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import botocore.exceptions

from audit import s3
from audit.errors import AuditError, QueryError
from audit.query.artifacts.artifact import MAX_PIECE_BYTES, Artifact
from audit.query.artifacts.s3_encryption import INSTRUCTION_SUFFIX, MAX_INSTRUCTION_BYTES, has_key, is_instruction_file

_MAX_INPUT_BYTES = 64 << 20
#: So many links of a tree are named; the others are counted.
_MAX_LINKS = 10
_LINK = "a symbolic link, which is not followed"
_NO_FILES = (
    (stat.S_ISLNK, _LINK),
    (stat.S_ISFIFO, "a named pipe, which is not opened"),
    (stat.S_ISSOCK, "a socket, which is not opened"),
    (stat.S_ISCHR, "a device, which is not opened"),
    (stat.S_ISBLK, "a device, which is not opened"),
)
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
        return _name_of(self.path)

    def read(self, offset: int, length: int) -> bytes:
        _require_piece(length)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)  # It may have become a pipe: nothing waits for a writer.
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)


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
class UnreadArtifact:
    """Something that is there and is not read: `reason` says why. Reading it raises `ArtifactUnavailable`."""

    name: str
    reason: str
    size_bytes: int = 0
    metadata: Mapping[str, str] = field(default_factory=lambda: _NO_METADATA)

    def read(self, offset: int, length: int) -> bytes:
        raise ArtifactUnavailable(self.reason)


@dataclass(frozen=True, slots=True)
class S3Artifact:
    """An object in S3; each read is a request for that range. `instruction_file` lies beside it, where it has one."""

    client: Any = field(repr=False)  # Any: boto3 makes its clients at run time
    bucket: str
    key: str
    size_bytes: int
    metadata: Mapping[str, str]
    instruction_file: Artifact | None = None

    @property
    def name(self) -> str:
        return f"{s3.SCHEME}{self.bucket}/{self.key}"

    def read(self, offset: int, length: int) -> bytes:
        _require_piece(length)
        length = min(length, self.size_bytes - offset)
        if length <= 0:
            return b""
        with s3.failures(self.name, ArtifactUnavailable):
            answer = self.client.get_object(Bucket=self.bucket, Key=self.key, Range=f"bytes={offset}-{offset + length - 1}")
            content: bytes = answer["Body"].read(length)
        return content


def is_place(name: str) -> bool:
    """Whether `name` is a file, a folder, an object in S3, or standard input."""
    return name == "-" or s3.is_url(name) or os.path.lexists(name)


def find_artifacts(name: str, standard_input: IO[bytes], endpoint_url: str | None = None) -> Iterator[Artifact]:
    """The artefacts at `name`: a path, ``-``, or ``s3://BUCKET/KEY-OR-PREFIX``; of a folder and a prefix all, in order of names.

    An object of the S3 Encryption Client comes with its instruction file, which is then not given once more by itself. Raises
    `ArtifactUnavailable`, `QueryError`, OSError. `endpoint_url` is S3's.
    """
    if name == "-":
        content = standard_input.read(_MAX_INPUT_BYTES + 1)
        if len(content) > _MAX_INPUT_BYTES:
            raise QueryError(f"more than {_MAX_INPUT_BYTES >> 20} MiB came by standard input; give the file's name instead")
        yield InputArtifact(content)
    elif s3.is_url(name):
        yield from _objects(name, endpoint_url)
    else:
        yield from _files(Path(name))


# --- Folders


def _files(root: Path) -> Iterator[Artifact]:
    status = root.stat()
    if stat.S_ISREG(status.st_mode):
        yield FileArtifact(root, status.st_size)
    elif stat.S_ISDIR(status.st_mode):
        yield from _tree(root)
    else:
        raise QueryError(f"{_name_of(root)} is neither a file nor a folder")


def _tree(root: Path) -> Iterator[Artifact]:
    links = 0
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            if folder == root:
                raise
            yield UnreadArtifact(_name_of(folder), error.strerror or str(error))
            continue
        below = []
        for path in paths:
            found = _look_at(path)
            if found is None:
                below.append(path)
                continue
            is_link = isinstance(found, UnreadArtifact) and found.reason == _LINK
            links += is_link
            if not is_link or links <= _MAX_LINKS:
                yield found
        pending += reversed(below)
    if links > _MAX_LINKS:
        yield UnreadArtifact(f"{links - _MAX_LINKS} more symbolic links below {_name_of(root)}", _LINK)


def _look_at(path: Path) -> Artifact | None:
    """What lies there; None for a folder."""
    try:
        status = path.lstat()
    except OSError as error:
        return UnreadArtifact(_name_of(path), error.strerror or str(error))
    if stat.S_ISREG(status.st_mode):
        return FileArtifact(path, status.st_size)
    if stat.S_ISDIR(status.st_mode):
        return None
    reasons = (reason for is_kind, reason in _NO_FILES if is_kind(status.st_mode))
    return UnreadArtifact(_name_of(path), next(reasons, "neither a file nor a folder"))


def _name_of(path: Path) -> str:
    """As text that can be written anywhere: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


# --- S3


def _objects(url: str, endpoint_url: str | None) -> Iterator[Artifact]:
    bucket, prefix = s3.split(url)
    is_one = bool(prefix) and not prefix.endswith("/")
    with s3.failures(url, ArtifactUnavailable):
        client = s3.connect(endpoint_url)
        given: set[str] = set()  # Instruction files that came with their objects, and are yet to come in the listing.
        for page in s3.pages(client, bucket, prefix):
            for listed in page.objects:
                if is_one and listed.key != prefix:
                    continue
                if listed.key in given:
                    given.remove(listed.key)
                elif not _is_marker(listed) or is_one:
                    found = _object(client, bucket, listed, page)
                    if isinstance(found, S3Artifact) and isinstance(found.instruction_file, InputArtifact):
                        given.add(listed.key + INSTRUCTION_SUFFIX)
                    yield found
            if is_one:
                return  # The key itself is the first of those that begin with it.


def _is_marker(listed: s3.Listed) -> bool:
    """Whether it only stands for a folder, as consoles make them."""
    return listed.key.endswith("/") and listed.size_bytes == 0


def _object(client: Any, bucket: str, listed: s3.Listed, page: s3.Page) -> Artifact:
    """The object, with its instruction file where it has one; what S3 does not let us see is told as not read."""
    try:
        head = client.head_object(Bucket=bucket, Key=listed.key)
    except botocore.exceptions.ClientError as error:
        return UnreadArtifact(f"{s3.SCHEME}{bucket}/{listed.key}", str(error))
    metadata = {name.lower(): value for name, value in head.get("Metadata", {}).items()}
    beside = None
    if not has_key(metadata) and (instruction := _listed(client, bucket, listed.key + INSTRUCTION_SUFFIX, page)) is not None:
        beside = _instruction_file(client, bucket, instruction)
    return S3Artifact(client, bucket, listed.key, head["ContentLength"], metadata, beside)


def _listed(client: Any, bucket: str, key: str, page: s3.Page) -> s3.Listed | None:
    """The object `key`, which is listed on `page` or behind it; None where there is none. Asks S3 where the page cannot tell."""
    objects = page.objects
    if page.has_next and key > objects[-1].key:
        objects = next(s3.pages(client, bucket, key)).objects
    return next((listed for listed in objects if listed.key == key), None)


def _instruction_file(client: Any, bucket: str, listed: s3.Listed) -> Artifact | None:
    """An instruction file, in memory; where it cannot be read, what will say so; None where it is something else."""
    artifact = S3Artifact(client, bucket, listed.key, listed.size_bytes, _NO_METADATA)
    if listed.size_bytes > MAX_INSTRUCTION_BYTES:
        return None
    try:
        content = InputArtifact(artifact.read(0, listed.size_bytes), artifact.name)
    except ArtifactUnavailable as error:
        return UnreadArtifact(artifact.name, str(error))
    return content if is_instruction_file(content) else None


def _require_piece(length: int) -> None:
    if not 0 <= length <= MAX_PIECE_BYTES:
        raise ValueError(f"a read of {length} bytes")
