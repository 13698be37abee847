"""The host's side of an instance, open for a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy import host
from proxy.command_line import opened_instance


@contextmanager
def opened_host(config: Path | None, data: Path | None) -> Iterator[host.Host]:
    with opened_instance(config, data) as (instance, chosen), host.Host(instance, chosen) as opened:
        yield opened
