"""Reads the wrapped keys of each object of a place: several at a time where they are far away, told in the order of the listing.

An object that cannot be read, or is damaged, is told with its fault and stops no other; a listing that breaks off stops all,
for then nobody knows what is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import IO

from audit import s3
from audit.errors import AuditError
from audit.query.artifacts.artifact import Artifact
from audit.query.artifacts.recognise import Contents
from audit.query.artifacts.recognise import read as recognise
from audit.query.artifacts.sources import find_artifacts

_S3_READERS = 8
_AHEAD = 4  # objects that are read or wait for their turn, for each reader
#: What is fetched at once: small objects whole, of others their beginning, which most formats are known by.
_SMALL_BYTES, _HEAD_BYTES = 1 << 20, 64 << 10


def crawl(place: str, standard_input: IO[bytes], endpoint_url: str | None = None) -> Iterator[Contents]:
    """The wrapped keys (without their blobs) of each object at `place`, which is as `find_artifacts` takes it.

    Raises `QueryError`, `ArtifactUnavailable`, OSError where the place itself cannot be listed. `endpoint_url` is S3's.
    """
    pool = ThreadPoolExecutor(_S3_READERS if s3.is_url(place) else 1, thread_name_prefix="inventory")
    under_way: deque[Future[Contents]] = deque()
    try:
        for artifact in find_artifacts(place, standard_input, endpoint_url):
            under_way.append(pool.submit(examine, artifact))
            if len(under_way) > _AHEAD * _S3_READERS:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def examine(artifact: Artifact) -> Contents:
    """What is in the object; its fault, where it cannot be read. Raises nothing that the object is at fault for."""
    try:
        contents = recognise(_Buffered(artifact))
    except (OSError, AuditError) as error:
        return Contents(artifact.name, (), f"it cannot be read: {error}")
    except Exception as error:  # whatever an object makes its reader do, the others are told
        return Contents(artifact.name, (), f"its reader failed: {type(error).__name__}")
    return replace(contents, keys=tuple(replace(key, blob=b"") for key in contents.keys))


@dataclass(slots=True)
class _Buffered:
    """An artifact whose beginning is fetched once, however many readers ask for it."""

    inner: Artifact
    _head: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def size_bytes(self) -> int:
        return self.inner.size_bytes

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.inner.metadata

    @property
    def instruction_file(self) -> Artifact | None:
        found: Artifact | None = getattr(self.inner, "instruction_file", None)
        return found

    def read(self, offset: int, length: int) -> bytes:
        held_bytes = self.size_bytes if self.size_bytes <= _SMALL_BYTES else _HEAD_BYTES
        if not 0 <= offset <= offset + length <= held_bytes:
            return self.inner.read(offset, length)
        if self._head is None:
            self._head = self.inner.read(0, held_bytes)
        return self._head[offset : offset + length]
