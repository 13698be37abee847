"""Time stamps: a real authority (`openssl ts`), others that lie, and what `verify` says of what they gave."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from audit.report import Verdict
from audit.timestamp_token import Authorities, TimestampInvalid, make_request
from audit.verify import verify
from audit.witnessing import pauses, submission
from audit.witnessing.notes import LogNotes
from audit.witnessing.stamping import Stamper
from audit.witnessing.submission import open_session
from tests.audit.forge import Forge, line
from tests.audit.verifying.verdicts import run
from tests.audit.witnessing.authority import Authority
from tests.audit.witnessing.liars import Speaker, answering, hang, listening, never_end, response
from tests.integration.components import require_program


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    require_program("openssl")
    return Authority(tmp_path_factory.mktemp("authority") / "tsa")


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    (tmp_path / "data").mkdir()
    return Forge.create(tmp_path / "data")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "FIRST_S", 0.0)


def honest(authority: Authority) -> Speaker:
    return answering(lambda body: response(200, authority.answer(body), "application/timestamp-reply"))


async def stamp(forge: Forge, url: str, authority: Authority, session: aiohttp.ClientSession, every_s: float = 0.0) -> Stamper:
    """One step, with what is known from the folder."""
    stamper = Stamper(LogNotes(forge.instance, forge.log), url, Authorities.parse(authority.ca), every_s, session)
    stamper.step()
    await stamper.finish()
    return stamper


def stamps(forge: Forge, pattern: str = "*.tsr") -> list[Path]:
    return sorted((forge.witnessed / "timestamps").glob(pattern))


# --- tokens


def test_a_time_stamp_is_of_its_note_its_nonce_and_its_authority(authority: Authority, tmp_path: Path) -> None:
    request, nonce = make_request(b"a note\n")
    answer = authority.answer(request)
    trusted = Authorities.parse(authority.ca)
    assert trusted.open(answer, b"a note\n", nonce) == trusted.open(answer, b"a note\n")
    with pytest.raises(TimestampInvalid, match="Mismatch between messages"):
        trusted.open(answer, b"another note\n")
    with pytest.raises(TimestampInvalid, match="Nonce mismatch"):
        trusted.open(answer, b"a note\n", (nonce or 0) + 1)
    other = Authorities.parse(Authority(tmp_path / "other").ca)
    with pytest.raises(TimestampInvalid, match="not genuine"):
        other.open(answer, b"a note\n")
    refused = 0
    for place in range(len(answer)):
        altered = bytearray(answer)
        altered[place] ^= 1
        try:
            assert trusted.open(bytes(altered), b"a note\n", nonce) == trusted.open(answer, b"a note\n"), "nothing that tells"
        except TimestampInvalid:
            refused += 1
    assert refused > len(answer) * 0.9, "but for what is not signed"


def test_what_is_no_certificate_is_refused() -> None:
    with pytest.raises(TimestampInvalid, match="no certificates"):
        Authorities.parse(b"rubbish")


# --- asking


async def test_checkpoints_are_stamped_and_verified(forge: Forge, authority: Authority, session: aiohttp.ClientSession) -> None:
    async with listening(honest(authority)) as url:
        await stamp(forge, url, authority, session)
        assert stamps(forge) == [], "there is nothing to stamp yet"
        for count in (3, 4):
            forge.grow(count)
            forge.seal()
            stamper = await stamp(forge, url, authority, session)
            assert stamper.fault is None and stamper.size == forge.records
        await stamp(forge, url, authority, session)
    assert [int(path.name[:20]) for path in stamps(forge)] == [3, 7], "a log that stands still is not stamped again"
    for note, token in zip(stamps(forge, "*.note"), stamps(forge), strict=True):
        assert authority.verify(token, note), "by openssl too"
    report = verify(forge.instance.data, authorities=Authorities.parse(authority.ca))
    (step,) = [step for step in report.logs[0].steps if step.number == 12]
    assert step.verdict is Verdict.PASSED and step.detail.startswith("2; by the newest, 7 records were there at 20")


async def test_it_waits_until_the_next_is_due(forge: Forge, authority: Authority, session: aiohttp.ClientSession) -> None:
    async with listening(honest(authority)) as url:
        for count in (3, 4, 5):
            forge.grow(count)
            forge.seal()
            await stamp(forge, url, authority, session, every_s=3_600)
        assert [int(path.name[:20]) for path in stamps(forge)] == [3]
        os.utime(stamps(forge)[0], (0, 0))
        await stamp(forge, url, authority, session, every_s=3_600)
    assert [int(path.name[:20]) for path in stamps(forge)] == [3, 12]


async def test_a_clock_that_was_set_back_is_not_waited_for(
    forge: Forge, authority: Authority, session: aiohttp.ClientSession
) -> None:
    async with listening(honest(authority)) as url:
        forge.grow(3)
        forge.seal()
        await stamp(forge, url, authority, session, every_s=3_600)
        year = stamps(forge)[0].stat().st_mtime + 31_536_000
        os.utime(stamps(forge)[0], (year, year))  # it was made while the clock was a year ahead
        forge.grow(4)
        forge.seal()
        await stamp(forge, url, authority, session, every_s=3_600)
    assert [int(path.name[:20]) for path in stamps(forge)] == [3, 7]


@pytest.mark.parametrize(
    ("speak", "told"),
    [
        (hang, "did not answer in time"),
        (never_end, "longer than"),
        (answering(b""), "cannot be reached"),
        (answering(response(500, b"")), "it answers 500"),
        (answering(response(200, b"")), "not genuine"),
        (answering(response(200, b"\x30\x05\x30\x03\x02\x01\x02")), "not granted (status 2)"),
    ],
)
async def test_one_that_lies_or_hangs_is_told_of(
    forge: Forge, authority: Authority, monkeypatch: pytest.MonkeyPatch, speak: Speaker, told: str
) -> None:
    monkeypatch.setattr(submission, "_TOTAL_S", 0.5)
    forge.grow(3)
    forge.seal()
    async with listening(speak) as url, open_session() as session:
        stamper = await stamp(forge, url, authority, session)
    assert stamper.fault is not None and any(one in stamper.fault for one in told.split("|"))
    assert stamps(forge) == []


async def test_an_old_answer_is_not_taken_for_a_new_one(
    forge: Forge, authority: Authority, session: aiohttp.ClientSession
) -> None:
    forge.grow(3)
    forge.seal()
    old = authority.answer(make_request(forge.latest.encode())[0])
    async with listening(answering(response(200, old))) as url:
        stamper = await stamp(forge, url, authority, session)
    assert stamper.fault is not None and "Nonce mismatch" in stamper.fault


async def test_after_a_crash_between_its_files_it_goes_on(
    forge: Forge, authority: Authority, session: aiohttp.ClientSession
) -> None:
    forge.grow(3)
    forge.seal()
    async with listening(honest(authority)) as url:
        await stamp(forge, url, authority, session)
        stamps(forge)[0].unlink()
        await stamp(forge, url, authority, session)
    assert len(stamps(forge)) == len(stamps(forge, "*.note")) == 1


# --- verifying


def reasons(forge: Forge, authority: Authority) -> list[str]:
    report = verify(forge.instance.data, authorities=Authorities.parse(authority.ca))
    assert not report.passed and {fault.step for fault in report.faults} == {12}, report.faults
    return [fault.reason for fault in report.faults]


@pytest.fixture
async def stamped(forge: Forge, authority: Authority, session: aiohttp.ClientSession) -> Forge:
    async with listening(honest(authority)) as url:
        forge.grow(8)
        forge.seal()
        await stamp(forge, url, authority, session)
    return forge


def test_without_time_stamps_verification_fails(forge: Forge, authority: Authority) -> None:
    forge.grow(3)
    forge.seal()
    assert reasons(forge, authority) == ["there is no time stamp of its 3 records"]


def test_notes_whose_time_stamps_were_deleted_are_none(stamped: Forge, authority: Authority) -> None:
    for token in stamps(stamped):
        token.unlink()
    assert len(stamps(stamped, "*.note")) == 1
    assert reasons(stamped, authority) == ["there is no time stamp of its 8 records"]


def test_one_that_is_altered_fails(stamped: Forge, authority: Authority) -> None:
    (token,) = stamps(stamped)
    token.write_bytes(token.read_bytes()[:-30])
    assert "is not genuine" in reasons(stamped, authority)[0]


def test_one_of_another_authority_fails(stamped: Forge, tmp_path: Path) -> None:
    assert "is not genuine" in reasons(stamped, Authority(tmp_path / "other"))[0]


def test_a_log_that_was_rewritten_since_fails(stamped: Forge, authority: Authority) -> None:
    lines = stamped.lines(0)
    lines[2] = line(2, stamped.log, word="Decrypt")
    stamped.write(0, lines)
    for name in ("history", "latest", "leaves", "frontier"):
        (stamped.checkpoints / name).unlink()
    stamped.grow(1)
    stamped.seal()
    assert "do not have the root of the time-stamped checkpoint of 8 records" in reasons(stamped, authority)[0]


def test_the_command(stamped: Forge, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.ca)
    result = run(stamped, "--timestamp-ca", str(tmp_path / "ca.pem"))
    assert result.exit_code == 0 and "\u2713 12. every time stamp is genuine" in result.stdout
    result = run(stamped, "--timestamp-ca", str(stamps(stamped)[0]))
    assert result.exit_code == 2 and "no certificates in PEM" in result.stderr


async def test_all_logs_are_stamped_by_the_process(
    forge: Forge, authority: Authority, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    from audit.witnessing.process import Witnessing, WitnessPlan

    forge.grow(3)
    forge.seal()
    (tmp_path / "ca.pem").write_bytes(authority.ca)
    async with listening(honest(authority)) as url, listening(hang) as mute:
        plan = WitnessPlan(timestamp_urls=(url, mute), timestamp_ca=tmp_path / "ca.pem")
        witnessing = Witnessing(forge.instance.data, plan, session)
        await witnessing.step()
        await asyncio.wait_for(witnessing.stampers["admin", url].finish(), 20)
        assert len(stamps(forge)) == 1, "the one that hangs holds the other not up"
        assert witnessing.status().ready
    await witnessing.finish()
    assert "time stamps of" in (witnessing.status().reason or "")
