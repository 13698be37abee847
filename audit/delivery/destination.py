"""Where delivered files go: `Destination`, and a folder as one. S3 is in `bucket`, which takes boto3 with it.

A folder stands for a bucket: `FOLDER/KEY`. What S3 keeps as an object's metadata lies beside it, as `KEY.metadata.json`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson

from audit import durable
from audit.errors import AuditError, QueryError

SCHEME = "s3://"
#: More than any object of ours has. Whoever may write the destination may put longer ones there.
LONGEST_BYTES = 256 << 20
_METADATA = ".metadata.json"
_LONGEST_METADATA_BYTES = 1 << 16
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=-]+(/[A-Za-z0-9!_.*'()=-]+)*")


class DestinationFault(AuditError):
    """The destination cannot take files, or not now. What was delivered before stays, and delivery goes on from there."""


class AlreadyThere(DestinationFault):
    """There is an object under that key."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it is at the destination."""

    data: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)


class Destination(Protocol):
    """A place for objects. Every method raises `DestinationFault` where it cannot be done."""

    def put(self, key: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Write an object, never over another: raises `AlreadyThere`. It is durable, and all can read it, when this returns.
        Where it raises anything else, the object may be there, whole, or not."""

    def get(self, key: str) -> Stored | None:
        """The object `key`; None where there is none. Of one that is longer than `LONGEST_BYTES`, some bytes more than these."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that begin with `prefix`, in the order of their characters."""


@dataclass(frozen=True, slots=True)
class Address:
    """A destination as it is written: ``s3://BUCKET/PREFIX``, or a folder's path. `bucket` of a folder is its name."""

    text: str
    bucket: str
    prefix: str
    folder: Path | None


def parse_address(text: str) -> Address:
    """Raises `QueryError`."""
    if not text.lower().startswith(SCHEME):
        folder = Path(text).absolute()
        return Address(str(folder), folder.name, "", folder)
    bucket, _, prefix = text[len(SCHEME) :].partition("/")
    prefix = prefix.strip("/")
    if not bucket or (prefix and not _PREFIX.fullmatch(prefix)) or ".." in prefix.split("/"):
        raise QueryError(f"no place to deliver to: {text!r}; accepted: s3://BUCKET, s3://BUCKET/PREFIX, the path of a folder")
    return Address(f"{SCHEME}{bucket}/{prefix}".rstrip("/"), bucket, prefix, None)


class FolderDestination:
    """The folder `folder`, which must be there: one that has gone may be a disk that is not mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, data: bytes, metadata: Mapping[str, str]) -> None:
        try:
            self._require()
            path = self._folder / key
            self._make(path.parent)
            if path.exists():
                raise AlreadyThere(f"{path} is there already")
            if metadata:  # first: an object that is there is there with its metadata
                durable.replace(path.with_name(path.name + _METADATA), orjson.dumps(dict(metadata)), mode=0o644)
            temporary = path.with_name(f".{path.name}.new")
            temporary.unlink(missing_ok=True)
            durable.create(temporary, data, mode=0o644)
            os.rename(temporary, path)
            durable.sync_folder(path.parent)
        except OSError as error:
            raise DestinationFault(f"{error.filename or self._folder}: {error.strerror}") from error

    def get(self, key: str) -> Stored | None:
        path = self._folder / key
        try:
            self._require()
            data = _beginning(path, LONGEST_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DestinationFault(f"{path}: {error.strerror}") from error
        return Stored(data, self._metadata(path))

    def keys(self, prefix: str) -> Iterator[str]:
        self._require()
        found = []
        for folder, _, names in os.walk(self._folder, onerror=_raise):
            for name in names:
                key = Path(folder, name).relative_to(self._folder).as_posix()
                if key.startswith(prefix) and not name.endswith(_METADATA) and not name.startswith("."):
                    found.append(key)
        yield from sorted(found)

    def _metadata(self, path: Path) -> Mapping[str, str]:
        try:
            found = orjson.loads(_beginning(path.with_name(path.name + _METADATA), _LONGEST_METADATA_BYTES))
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}
        except OSError as error:
            raise DestinationFault(f"{path}: {error.strerror}") from error
        return found if isinstance(found, dict) else {}

    def _make(self, folder: Path) -> None:
        """Make `folder` and what is above it, each durable."""
        if not folder.is_dir():
            self._make(folder.parent)
            durable.create_folder(folder, mode=0o755)

    def _require(self) -> None:
        if not self._folder.is_dir():
            raise DestinationFault(f"{self._folder} is no folder: make it, or see whether it is mounted")


def _beginning(path: Path, size: int) -> bytes:
    """A file, or `size` bytes of it and one more."""
    with path.open("rb") as file:
        return file.read(size + 1)


def _raise(error: OSError) -> None:
    raise DestinationFault(f"{error.filename}: {error.strerror}") from error
