"""One checkpoint to one witness: honest ones, and all that others may answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.cosignature import Cosignature, WitnessKey, cosign, open_cosignatures
from audit.witnessing import submission
from audit.witnessing.protocol import AddCheckpoint
from audit.witnessing.submission import OtherSize, SubmissionFailed, SubmissionRefused, open_session, submit
from tests.audit.witnessing.history import History
from tests.audit.witnessing.liars import Speaker, answering, hang, listening, never_end, never_end_head, response
from tests.audit.witnessing.served import NOW_S, Served

LOG = History()
KEY = Ed25519PrivateKey.from_private_bytes(bytes([9] * 32))
WITNESS = WitnessKey.of("witness.example/9", KEY)
REQUEST = AddCheckpoint(0, (), LOG.note(5))
TEXT = LOG.checkpoint(5).text()


def line(text: str = TEXT, key: Ed25519PrivateKey = KEY, name: str = WITNESS.name, time_s: float = NOW_S) -> bytes:
    return cosign(text, name, key, int(time_s)).encode()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path / "witness", [LOG.verifier])
    await served.start()
    yield served
    await served.stop()


@pytest.mark.parametrize("slash", ["", "/"])
async def test_an_honest_witness(served: Served, session: aiohttp.ClientSession, slash: str) -> None:
    key = served.memory.public_key
    cosignature = await submit(session, served.url + slash, key, REQUEST, NOW_S)
    assert isinstance(cosignature, Cosignature)
    assert open_cosignatures(LOG.note(5) + cosignature.line, [key]) == [cosignature]
    assert await submit(session, served.url, key, REQUEST, NOW_S) == OtherSize(5)
    with pytest.raises(SubmissionRefused, match="422"):
        forked = AddCheckpoint(5, History(forked=2).proof(5, 7), History(forked=2).note(7))
        await submit(session, served.url, key, forked, NOW_S)


async def test_a_cosignature_among_those_of_others(session: aiohttp.ClientSession) -> None:
    body = line(key=Ed25519PrivateKey.generate(), name="stranger.example") + line(time_s=NOW_S - 5) + line()
    async with listening(answering(response(200, body))) as url:
        cosignature = await submit(session, url, WITNESS, REQUEST, NOW_S)
    assert isinstance(cosignature, Cosignature) and cosignature.time_s == NOW_S


@pytest.mark.parametrize(
    ("speak", "reason"),
    [
        (answering(b"rubbish\r\n\r\n"), "cannot be reached"),
        (answering(b""), "cannot be reached"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), "cannot be reached"),
        (answering(response(200, b"")), "not made of signature lines"),
        (answering(response(200, b"rubbish\n")), "not made of signature lines"),
        (answering(response(200, b"\xff\xfe")), "no cosignature"),
        (answering(response(200, line()[:-20] + b"\n")), "no cosignature"),
        (answering(response(200, line().rstrip(b"\n"))), "no cosignature"),
        (answering(response(200, line(key=Ed25519PrivateKey.generate()))), "no cosignature by its key"),
        (answering(response(200, line(LOG.checkpoint(6).text()))), "is not genuine"),
        (answering(response(200, b"a new text\n\n" + line(TEXT + "\na new text\n"))), "not made of signature lines"),
        (answering(response(200, line() + b"\n" + line())), "not made of signature lines"),
        (answering(response(200, line(time_s=NOW_S + 1_000))), "its clock is 1000 s ahead"),
        (answering(response(409, b"")), "it answers 409"),
        (answering(response(409, b"many\n")), "it answers 409"),
        (answering(response(403, b"no key \x1b[31mred\n")), r"it answers 403: 'no key .x1b\[31mred'"),
        (answering(response(302, b"").replace(b"Content-Type", b"Location: http://127.0.0.1:1/\r\nX")), "it answers 302"),
        (answering(response(500, b"\xff" * 1_000)), "it answers 500"),
        (answering(response(200, line()).replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type")), ""),
        (never_end, "longer than 65536 bytes"),
        (never_end_head, "cannot be reached"),
    ],
)
async def test_what_is_no_cosignature(session: aiohttp.ClientSession, speak: Speaker, reason: str) -> None:
    async with listening(speak) as url:
        if not reason:  # nothing is decompressed: the line is taken as it is
            assert isinstance(await submit(session, url, WITNESS, REQUEST, NOW_S), Cosignature)
            return
        with pytest.raises(SubmissionFailed, match=reason):
            await submit(session, url, WITNESS, REQUEST, NOW_S)


@pytest.mark.parametrize("speak", [hang, answering(b"HTTP/1.1 200 OK\r\n", then_hangs=True)])
async def test_a_witness_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch, speak: Speaker) -> None:
    monkeypatch.setattr(submission, "_TOTAL_S", 0.2)
    async with open_session() as session, listening(speak) as url:
        with pytest.raises(SubmissionFailed, match="did not answer in time"):
            await submit(session, url, WITNESS, REQUEST, NOW_S)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "rubbish", "http://", "ftp://127.0.0.1/", "http://no such host/"])
async def test_a_witness_that_is_not_there(session: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(SubmissionFailed, match="cannot be reached"):
        await submit(session, url, WITNESS, REQUEST, NOW_S)
