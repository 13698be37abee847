"""Attacks on time: a silence, and a clock that was set back."""

from __future__ import annotations

import orjson

from audit.canonical import time_us, timestamp
from tests.attacks.honest import Honest
from tests.attacks.root import Record, Root, assert_caught, assert_passes


def quiet(root: Root) -> list[int]:
    """The numbers of the heartbeats at the end, when nothing was called."""
    records = root.records()
    last = max(root.calls())
    return [number for number in range(last + 1, len(records)) if records[number]["eventName"] == "Heartbeat"]


def without(lines: list[bytes], numbers: list[int]) -> list[bytes]:
    return [line for number, line in enumerate(lines) if number not in numbers]


def test_a_silence_hidden_by_removing_heartbeats(honest: Honest, root: Root) -> None:
    """Whatever was recorded in those seconds is gone, heartbeats and all, and the rest renumbered and signed anew."""
    root.replace(without(root.lines(), quiet(root)))
    root.sign_anew()
    assert_caught(root.data, 13)


def test_a_silence_with_its_heartbeats_kept(honest: Honest, root: Root) -> None:
    """Who leaves the heartbeats, or makes some up, makes no silence: only what others have of the log tells."""
    hidden = [number for number in root.calls() if number >= honest.saved_size][2:]
    root.replace(without(root.lines(), hidden))
    root.sign_anew()
    assert_passes(root.data, *honest.keys, "--checkpoint", str(honest.saved))
    assert_caught(root.data, 10, "--receipts", str(honest.receipts))
    assert_caught(root.data, 11, "--policy", str(honest.policy))


def set_back(record: Record, us: int) -> bytes:
    """The record, as it had been with the clock set back."""
    extension = record["additionalEventData"]["keytrail"]
    extension["time"] = timestamp(time_us(extension["time"]) - us)
    record["eventTime"] = extension["time"][:19] + "Z"
    return orjson.dumps(record)


def test_a_clock_set_back(honest: Honest, root: Root) -> None:
    records = root.records()
    root.replace([set_back(record, 3_600_000_000 * (number >= honest.saved_size)) for number, record in enumerate(records)])
    root.sign_anew()
    assert_caught(root.data, 13)
    beats = [number for number, record in enumerate(root.records()) if record["eventSource"] == "keytrail"]
    root.replace(without(root.lines(), beats))
    root.sign_anew()
    assert_passes(root.data, *honest.keys)


def test_a_clock_set_back_a_little(honest: Honest, root: Root) -> None:
    """Within the five minutes that SigV4 leaves to clocks, a time says nothing; the order of the records does."""
    records = root.records()
    root.replace([set_back(record, 240_000_000 * (number >= honest.saved_size)) for number, record in enumerate(records)])
    root.sign_anew()
    assert_passes(root.data, *honest.keys, "--checkpoint", str(honest.saved))
