"""A bucket in memory, which fails where a test wants it to: the request is lost, or its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from audit.query.publish.storage import NoObject, PublishFault, Stored


@dataclass
class MemoryStore:
    """`requests` are counted; the one numbered `fails_at` fails, after it was carried out where `is_done_first`.
    `before` is called before each that writes."""

    content: dict[str, bytes] = field(default_factory=dict)
    modified: dict[str, datetime] = field(default_factory=dict)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    requests: int = 0
    writes: int = 0
    fails_at: int | None = None
    is_done_first: bool = False
    before: Callable[[str], None] = lambda key: None

    def read(self, key: str) -> bytes:
        self._count()
        if key not in self.content:
            raise NoObject(key)
        return self.content[key]

    def put(self, key: str, body: bytes) -> None:
        self._write(key, body)

    def put_new(self, key: str, body: bytes) -> bool:
        self.before(key)
        if key in self.content:
            self._count()
            return self.content[key] == body
        self._write(key, body)
        return True

    def upload(self, key: str, path: Path) -> None:
        self._write(key, path.read_bytes())

    def objects(self, prefix: str) -> Iterator[Stored]:
        self._count()
        for key in sorted(self.content):
            if key.startswith(prefix):
                yield Stored(key, len(self.content[key]), self.modified[key])

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._count(lambda key=key: self.content.pop(key, None))  # type: ignore[misc]  # bound at once

    def _write(self, key: str, body: bytes) -> None:
        def done() -> None:
            self.content[key] = body
            self.modified[key] = self.now()
            self.writes += 1

        self.before(key)
        self._count(done)

    def _count(self, effect: Callable[[], object] = lambda: None) -> None:
        self.requests += 1
        fails = self.requests == self.fails_at
        if not fails or self.is_done_first:
            effect()
        if fails:
            raise PublishFault("S3 went away")
