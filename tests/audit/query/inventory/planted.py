"""Logs and objects with known answers for the inventory's tests."""

from __future__ import annotations

from typing import Any

import orjson

from audit.query.artifacts.artifact import WrappedKey
from audit.query.artifacts.bare import FORMAT
from audit.query.artifacts.recognise import Contents
from tests.audit.query.builder import LogBuilder, at, fingerprint, placed, record


def add(log: LogBuilder, seconds: float, event: str, *, materials: dict[str, str] | None = None, **changes: Any) -> None:
    """A record as `LogBuilder.add` makes it, with ids of key material: keyMaterialId, sourceKeyMaterialId, …"""
    content = record(event, **changes)
    content["additionalEventData"] = {**(materials or {}), **content["additionalEventData"]}
    log.raw(orjson.dumps(placed(content, log.name, log.sequence, at(seconds))) + b"\n")


def key_event(
    log: LogBuilder, seconds: float, event: str, key: str, response: dict[str, Any] | None = None, **changes: Any
) -> None:
    told = {"responseElements": {"keyId": key, **(response or {})}}
    log.add(seconds, event, user="admin", key=key, readOnly=False, **told, **changes)


def stored(name: str, *blobs: str, key: str | None = None, format: str = FORMAT) -> Contents:
    """An object whose data keys are `blobs`, by the names that the log's records have them."""
    keys = tuple(WrappedKey(fingerprint(blob), format, f"key {number}", key) for number, blob in enumerate(blobs))
    return Contents(name, keys)
