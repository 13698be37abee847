"""Ordinary lines are read in another way than the rest (`audit.verifying.ordinary`): never with another verdict."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.canonical import encode
from audit.instance import Instance
from audit.report import Report
from audit.sealing.keys import create_key
from audit.verify import verify
from audit.verifying import lines as reading
from audit.verifying.ordinary import SLOW_US, Window, ordinary_run
from audit.verifying.records import read_line, require_all
from bench.history import History
from tests.audit.forge import Forge
from tests.audit.verifying.verdicts import faults

EVER = Window("", "\x7f", 512)
LINES = [encode(record, "w0", number)[:-1] for number, record in enumerate(History(64, seed=7))]


def is_ordinary(text: bytes, number: int, window: Window = EVER) -> bool:
    """What one line is said to be; it may be behind others, or in a chunk with others."""
    alone = ordinary_run([text], 0, "w0", number, window, is_ascii=text.isascii())
    assert alone == ordinary_run([b"{}", text, b""], 1, "w0", number, window, is_ascii=False)
    assert alone[0] in (0, 1)
    return alone[0] == 1


def is_ordinary_by_records(text: bytes, number: int, window: Window = EVER) -> bool:
    """The same by the reading whose verdict counts: what no step has anything to do with."""
    line = read_line(text)
    try:
        require_all(line.record)
    except KeyError:
        return False
    latency_us = line.extension.get("latencyMicros", 0)
    is_slow = type(latency_us) is int and latency_us >= SLOW_US
    is_in_place = (line.log, line.sequence) == ("w0", number)
    is_in_window = window.earliest <= line.time <= window.latest
    is_call = line.extension.get("phase") != "intent" and line.extension.get("intent") is None
    return is_in_place and is_in_window and is_call and not is_slow and line.record["eventSource"] != "keytrail"


def test_what_a_proxy_writes_is_ordinary() -> None:
    ordinary = [is_ordinary(text, number) for number, text in enumerate(LINES)]
    assert all(ordinary)
    count, newest = ordinary_run(LINES, 0, "w0", 0, EVER, is_ascii=True)
    assert (count, newest) == (64, max(read_line(text).time for text in LINES))


#: What may stand for a value: other JSON, and what is none.
ODD_VALUES = st.sampled_from(
    [
        *(
            b"1e999",
            b"-1e400",
            b"1e5",
            b"01",
            b"1.",
            b"NaN",
            b"-Infinity",
            b"tru",
            b"null",
            b"true",
            b"[1,]",
            b'{"a":1,}',
            b"5.0",
        ),
        *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u00e9"', b'"\\x"', b'"\x01"', b'"\t"', '"é"'.encode(), b'"\xff"', b'""', b"{}"),
        *(b"[" * 300 + b"]" * 300, b"123456789012345678901234567890", b"-0", b'"a" "b"', b"", b"1 2", b'{"x":1,"x":2}'),
        *(b'{"keytrail":{}}', b'{"keytrail":{"log":"w0","sequence":3,"time":"2026","phase":"outcome"}}', b'"intent"', b"-1"),
    ]
)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # Any: JSON, and its keys and places
    """Where the values are in a document."""
    found = [prefix] if prefix else []
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found += paths(inner, (*prefix, key))
    return found


@st.composite
def tampered(draw: st.DrawFn) -> tuple[bytes, int]:
    """A line in which a value, a key or some bytes are others, and the number that it should have."""
    number = draw(st.integers(0, len(LINES) - 1))
    text = LINES[number]
    kind = draw(st.sampled_from(["value", "remove", "again", "bytes", "cut", "space"]))
    document = orjson.loads(text)
    place = draw(st.sampled_from(paths(document)))
    target = document
    for key in place[:-1]:
        target = target[key]
    match kind:
        case "value":
            target[place[-1]] = "\x00PLACE\x00"
            marked = json.dumps(document, separators=(",", ":")).encode()
            text = marked.replace(b'"\\u0000PLACE\\u0000"', draw(ODD_VALUES))
        case "remove":
            del target[place[-1]]
            text = orjson.dumps(document)
        case "again":  # a key that is there twice: the last counts
            key = orjson.dumps(str(place[-1]))
            text = text[:-1] + b"," + key + b":" + draw(ODD_VALUES) + b"}"
        case "bytes":
            start = draw(st.integers(0, len(text) - 1))
            text = text[:start] + draw(st.binary(min_size=1, max_size=3)).replace(b"\n", b"") + text[start + 1 :]
        case "cut":
            text = text[: draw(st.integers(0, len(text)))]
        case "space":
            start = draw(st.integers(0, len(text)))
            text = (
                text[:start] + draw(st.sampled_from([b" ", b"\t", b"\r", b"\x0c", b"\xc2\xa0", b"\xef\xbb\xbf"])) + text[start:]
            )
    return text, number


@settings(max_examples=1_500, deadline=None)
@given(tampered())
def test_no_line_is_ordinary_that_is_not_by_the_other_reading(case: tuple[bytes, int]) -> None:
    text, number = case
    if is_ordinary(text, number):
        assert is_ordinary_by_records(text, number)


@pytest.mark.parametrize("value", [b"1e999", b"-1e400"])
def test_a_number_beyond_all_doubles_is_json(value: bytes) -> None:
    text = LINES[3].replace(b'"attempts":1', b'"attempts":' + value)
    assert text != LINES[3] and is_ordinary(text, 3) and is_ordinary_by_records(text, 3)


@pytest.mark.parametrize("value", [b'"\\ud800"', b"NaN", b'"\xff"', b"Infinity"])
def test_what_is_no_json_is_none(value: bytes) -> None:
    text = LINES[3].replace(b'"attempts":1', b'"attempts":' + value)
    assert not is_ordinary(text, 3) and read_line(text).log is None


@pytest.mark.parametrize(
    ("window", "ordinary"),
    [
        (Window("", "\x7f", 1), True),
        (Window("2026-01-0", "2026-06", 1), True),
        (Window("2027", "\x7f", 1), False),
        (Window("", "2025", 1), False),
        (Window("\x7f", "\x7f", 1), False),
    ],
)
def test_the_window(window: Window, ordinary: bool) -> None:
    assert is_ordinary(LINES[3], 3, window) is ordinary is is_ordinary_by_records(LINES[3], 3, window)


# --- the whole


def verified(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> tuple[Report, Report]:
    """The report, and the one of a reading that takes no line for an ordinary one."""
    moment = 1_800_000_000_000_000
    fast = verify(forge.instance.data, now_us=lambda: moment, max_age_s=60)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "ordinary_run", lambda *_, **__: (0, ""))
        return fast, verify(forge.instance.data, now_us=lambda: moment, max_age_s=60)


@pytest.mark.parametrize("seed", range(12))
def test_a_tampered_log_has_the_same_report_by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    instance = Instance.create(tmp_path, "111122223333", "us-east-1", "2026-01-02T03:04:05Z").with_logs(["w0"])
    create_key(instance)
    forge = Forge(instance, "w0")
    for sealed in (7, 20, 26, 50):
        forge.append(*(text + b"\n" for text in LINES[forge.records : sealed]))
        forge.seal()
    forge.append(*(text + b"\n" for text in LINES[50:]))
    fast, slow = verified(forge, monkeypatch)
    assert fast == slow and {fault.step for fault in fast.faults} == {14}, "an honest log, an old one"
    for _ in range(chance.randint(1, 3)):
        number = chance.randrange(6)
        lines = forge.lines(number)
        at = chance.randrange(len(lines))
        match chance.randrange(5):
            case 0:
                lines[at] = lines[at].replace(b"tenant", b"Tenant")
            case 1:
                del lines[at]
            case 2:
                lines[at], lines[at - 1] = lines[at - 1], lines[at]
            case 3:
                lines.insert(at, lines[at - 1])
            case 4:
                lines[at] = lines[at][: len(lines[at]) // 2] + b"\n"
        forge.write(number, lines)
    fast, slow = verified(forge, monkeypatch)
    assert fast == slow
    assert faults(fast, 5) or faults(fast, 3) or faults(fast, 9)
