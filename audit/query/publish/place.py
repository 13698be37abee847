"""Where the table lies, and where it is known. No import of pyiceberg, which takes half a second, stands here or in `command`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    """Where the table lies: `prefix` of the bucket, without a slash at its end."""

    bucket: str
    prefix: str

    def key(self, path: str) -> str:
        return f"{self.prefix}/{path}"

    @property
    def location(self) -> str:
        return self.url(self.key("events"))

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A catalogue of pyiceberg: by the name that it has in .pyiceberg.yaml or the environment, and by properties. With neither,
    the table is known beside its data."""

    name: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_beside_the_data(self) -> bool:
        return self.name is None and not self.properties
