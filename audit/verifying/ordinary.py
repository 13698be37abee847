"""Runs of ordinary lines, read in half the time: what most of a log is, and what no step has to look at one by one. Pure.

A line is ordinary where it is the record that comes next, of this log, with all that CloudTrail requires; the outcome of a call
that had no intent, and changed nothing; its time within a window, its call short. Only that is read of it, by msgspec,
which checks the form of all JSON, and makes objects of what is asked for alone. It does not look at the UTF-8 of what it passes
over, so ordinary lines are ASCII. Whatever is not ordinary is read by `audit.verifying.records`: its verdict counts, and a test
holds this one to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

SLOW_US = 1_000_000  # of a call that took longer, the moment is not about the time of its arrival
RUN = 512  # lines that are looked at together, at most


class _Extension(msgspec.Struct, gc=False):
    log: str
    sequence: Any  # as an int it would take 5.0 too
    time: str
    phase: Literal["outcome"]
    latencyMicros: int = 0
    intent: Any = None


class _Additional(msgspec.Struct, gc=False):
    keytrail: _Extension


class _Record(msgspec.Struct, gc=False):
    """What CloudTrail requires. Where few values are usual they stand here: no object is made of them."""

    eventVersion: Literal["1.11"]
    userIdentity: msgspec.Raw
    eventTime: msgspec.Raw
    eventSource: Literal["kms.amazonaws.com", "sts.amazonaws.com"]
    eventName: msgspec.Raw
    awsRegion: msgspec.Raw
    sourceIPAddress: msgspec.Raw
    requestParameters: msgspec.Raw
    responseElements: None
    additionalEventData: _Additional
    eventID: msgspec.Raw
    eventType: Literal["AwsApiCall"]
    eventCategory: Literal["Management"]


_decode = msgspec.json.Decoder(_Record).decode


@dataclass(frozen=True, slots=True)
class Window:
    """What is ordinary: the times of records, and how many at most."""

    earliest: str
    latest: str
    count: int


def ordinary_run(
    lines: Sequence[bytes | memoryview], start: int, log: str, number: int, window: Window, *, is_ascii: bool
) -> tuple[int, str]:
    """How many of `lines`, from place `start` on, are ordinary, of which the first would be record `number`; and their latest
    time. `is_ascii`: all of them are."""
    count, newest, earliest, latest = 0, "", window.earliest, window.latest
    try:
        for text in lines[start : start + window.count]:
            if not is_ascii and not bytes(text).isascii():
                break
            extension = _decode(text).additionalEventData.keytrail
            sequence, time = extension.sequence, extension.time
            if (
                sequence != number + count
                or type(sequence) is not int
                or extension.log != log
                or extension.intent is not None
                or not earliest <= time <= latest
                or extension.latencyMicros >= SLOW_US
            ):
                break
            if time > newest:
                newest = time
            count += 1
    except (msgspec.DecodeError, RecursionError):
        pass  # this line is for the other way to read
    return count, newest
