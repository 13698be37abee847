"""Anything at all ends in answers, or in a closed connection."""

from __future__ import annotations

import asyncio
import itertools
import json

import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy.listeners.cases import CASES
from tests.proxy.listeners.front import LIMIT_S, listening

SAMPLES = [case.sent for case in CASES.values() if len(case.sent) < 600]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A request that is valid, or nearly, with some of its bytes cut out, changed, doubled, or swapped for others."""
    data = bytearray(draw(st.sampled_from(SAMPLES)) + draw(st.sampled_from([b"", *SAMPLES])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 12)))
        data[start:end] = draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"\r\n", b"\r\n\r\n", b"\0", b" ", bytes(data[start:end]) * 2]))
        )
    return bytes(data)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=300), mutated()), st.lists(st.integers(0, 600), max_size=4))
def test_anything_ends_in_an_answer_or_a_closed_connection(data: bytes, cuts: list[int]) -> None:
    async def scenario() -> None:
        async with listening() as world:
            client = await world.connect()
            edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
            for start, end in itertools.pairwise(edges):
                await client.send(data[start:end])
            client.writer.write_eof()
            async with asyncio.timeout(LIMIT_S):
                try:
                    answer = await client.reader.read()
                except ConnectionResetError:
                    return
            require_answers(answer, [raw.method == b"HEAD" and raw.fault is None for raw in world.walk.requests])

    uvloop.run(scenario())


def require_answers(received: bytes, to_head: list[bool]) -> None:
    """`received` is nothing but whole answers: 200, 100, or 4xx in AWS's form."""
    answers = iter(to_head)
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        assert end and head.startswith(b"HTTP/1.1 ")
        status = int(head[9:12])
        if status == 100:
            continue
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body, received = (b"", received) if next(answers) else (received[:length], received[length:])
        assert status == 200 or (400 <= status < 500 and json.loads(body)["__type"])
