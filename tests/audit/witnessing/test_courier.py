"""Having a log witnessed: real witnesses on real sockets, and some that lie, hang, forget, or were shown another log."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import durable
from audit.checkpoint import claimed_checkpoint, split_notes
from audit.cosignature import WitnessKey, cosign
from audit.instance import Instance
from audit.policy_file import Policy
from audit.verify import verify
from audit.witnessed import Demand
from audit.witnessing import courier as courier_module
from audit.witnessing import pauses, submission
from audit.witnessing.courier import Courier
from audit.witnessing.memory import read_evidence
from audit.witnessing.notes import LogNotes
from audit.witnessing.protocol import AddCheckpoint
from audit.witnessing.submission import open_session
from tests.audit.forge import Forge
from tests.audit.sealing.test_rotation import Running
from tests.audit.witnessing.liars import Speaker, answering, hang, listening, never_end, response
from tests.audit.witnessing.served import Served

LIAR = Ed25519PrivateKey.from_private_bytes(bytes([9] * 32))
LIAR_KEY = WitnessKey.of("liar.example", LIAR)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    (tmp_path / "data").mkdir()
    return Forge.create(tmp_path / "data")


@pytest.fixture
async def witnesses(tmp_path: Path, forge: Forge) -> AsyncIterator[list[Served]]:
    served = [Served(tmp_path / name, [forge.verifier], f"{name}.example", time.time) for name in "ab"]
    for one in served:
        await one.start()
    yield served
    for one in served:
        await one.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


def policy(*witnesses: tuple[WitnessKey, str], needed: int) -> Policy:
    lines = [f"witness {key.name} {key} {url}" for key, url in witnesses]
    group = f"group all-of-them {needed} {' '.join(key.name for key, _ in witnesses)}"
    return Policy.parse("\n".join([*lines, group, "quorum all-of-them", ""]).encode())


def known(*witnesses: Served) -> list[tuple[WitnessKey, str]]:
    return [(one.memory.public_key, one.url) for one in witnesses]


def cosigned(forge: Forge) -> str:
    return (forge.witnessed / "cosigned").read_text("utf-8")


async def once(courier: Courier) -> None:
    courier.step()
    await courier.finish()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "FIRST_S", 0.0)


async def test_each_checkpoint_is_cosigned_by_all(forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession) -> None:
    courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), needed=2), session)
    await once(courier)
    assert not (forge.witnessed / "cosigned").exists(), "there is nothing to cosign yet"
    for count in (1, 6, 13, 1):
        forge.grow(count)
        forge.seal()
        await once(courier)
        note = cosigned(forge)
        assert note.startswith(forge.latest) and len(note.splitlines()) == 5 + 2
        quorum = policy(*known(*witnesses), needed=2).judge(note)
        assert quorum.is_fulfilled and quorum.time_s == courier.cosigned_s
        assert courier.cosigned_size == forge.records
    assert (courier.grave_faults(time.time()), courier.slight_faults()) == ([], [])
    kept = split_notes((forge.witnessed / "cosignatures").read_text("utf-8"))
    assert [claimed_checkpoint(note).size for note in kept] == [1, 1, 7, 7, 20, 20, 21, 21]


async def test_a_quorum_is_enough(forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession) -> None:
    forge.grow(3)
    forge.seal()
    courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), (LIAR_KEY, "http://127.0.0.1:1"), needed=2), session)
    await once(courier)
    assert courier.cosigned_size == 3
    assert courier.grave_faults(time.time()) == []
    (fault,) = courier.slight_faults()
    assert fault.startswith("log admin: witness liar.example: it cannot be reached")


async def test_without_a_quorum_nothing_is_cosigned(
    forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession
) -> None:
    forge.grow(3)
    forge.seal()
    courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), (LIAR_KEY, "http://127.0.0.1:1"), needed=3), session)
    await once(courier)
    assert not (forge.witnessed / "cosigned").exists()
    assert courier.grave_faults(time.time()) == ["log admin: no checkpoint has been cosigned by the quorum"]
    assert len(split_notes((forge.witnessed / "cosignatures").read_text("utf-8"))) == 2, "what was given is kept"


async def test_a_log_that_stands_still_is_witnessed_anew(
    forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge.grow(3)
    forge.seal()
    for one in witnesses:
        monkeypatch.setattr(one.witness, "_now_s", lambda: time.time() - 10_000)
    courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), needed=2), session)
    await once(courier)
    first = courier.cosigned_s
    assert "the newest cosigned checkpoint is of" in courier.grave_faults(time.time())[0]
    await once(courier)
    assert courier.cosigned_s == first, "its time has not come"
    monkeypatch.setattr(courier_module, "_REFRESH_S", 0.0)
    for one in witnesses:
        monkeypatch.setattr(one.witness, "_now_s", time.time)
    await once(courier)
    assert courier.cosigned_s > first + 9_000
    assert courier.grave_faults(time.time()) == []
    assert courier.grave_faults(time.time() - 299) == []
    assert "the newest cosigned checkpoint is of" in courier.grave_faults(time.time() - 302)[0], "this clock was set back"


async def test_after_a_restart_it_goes_on(forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession) -> None:
    wanted = policy(*known(*witnesses), needed=2)
    forge.grow(3)
    forge.seal()
    await once(Courier(forge.instance, forge.log, wanted, session))
    again = Courier(forge.instance, forge.log, wanted, session)
    assert [errand.size for errand in again.errands] == [3, 3]
    assert again.cosigned_size == 3
    (forge.witnessed / "cosigned").unlink()
    with (forge.witnessed / "cosignatures").open("ab") as file:
        file.write(b"\nkeytrail/torn")
    again = Courier(forge.instance, forge.log, wanted, session)
    assert [errand.size for errand in again.errands] == [3, 3]
    forge.grow(4)
    forge.seal()
    await once(again)
    assert claimed_checkpoint(cosigned(forge)).size == 7
    kept = split_notes((forge.witnessed / "cosignatures").read_text("utf-8"))
    assert [claimed_checkpoint(note).size for note in kept] == [3, 3, 7, 7], "what was torn is cut off"
    (forge.witnessed / "cosignatures").unlink()
    (forge.witnessed / "cosigned").write_bytes(b"damaged")
    again = Courier(forge.instance, forge.log, wanted, session)  # it knows nothing: the witnesses tell their size
    await once(again)
    assert claimed_checkpoint(cosigned(forge)).size == 7


async def test_a_witness_that_restarts_remembers(
    tmp_path: Path, forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession
) -> None:
    courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), needed=2), session)
    forge.grow(3)
    forge.seal()
    await once(courier)
    port = witnesses[0].port
    await witnesses[0].stop()
    forge.grow(3)
    forge.seal()
    await once(courier)
    assert courier.cosigned_size == 3 and "cannot be reached" in courier.slight_faults()[0]
    witnesses[0] = Served(tmp_path / "a", [forge.verifier], now_s=time.time)
    witnesses[0].port = port
    await witnesses[0].start()
    await once(courier)
    assert courier.cosigned_size == 6 and courier.slight_faults() == []


def lying(make: Callable[[bytes], bytes]) -> Speaker:
    return answering(make)


def old_cosignature(body: bytes) -> bytes:
    """A genuine signature of the witness, on a smaller tree."""
    claimed = claimed_checkpoint(AddCheckpoint.parse(body).note)
    text = f"{claimed.origin}\n{claimed.size - 1}\n{'A' * 43}=\n"
    return response(200, cosign(text, LIAR_KEY.name, LIAR, int(time.time())).encode())


@pytest.mark.parametrize(
    ("speak", "told"),
    [
        (hang, "did not answer in time"),
        (never_end, "longer than"),
        (answering(b"\x00" * 10_000), "cannot be reached"),
        (answering(response(200, b"thanks\n")), "not made of signature lines"),
        (lying(old_cosignature), "is not genuine"),
        (answering(response(409, b"0\n")), "it says that it has cosigned 0 records, and refuses a proof from there"),
        (answering(response(409, b"2\n")), "it says that it has cosigned 2 records, and refuses a proof from there"),
        (lying(lambda body: response(409, b"1\n" if b"old 0\n" in body else b"0\n")), "one size after another"),
        (answering(response(503, b"busy\n")), "it answers 503: 'busy'"),
    ],
)
async def test_one_that_lies_or_hangs_harms_nobody(
    forge: Forge, witnesses: list[Served], monkeypatch: pytest.MonkeyPatch, speak: Speaker, told: str
) -> None:
    monkeypatch.setattr(submission, "_TOTAL_S", 1.0)
    forge.grow(3)
    forge.seal()
    async with listening(speak) as url, open_session() as session:
        courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), (LIAR_KEY, url), needed=2), session)
        courier.step()
        await asyncio.gather(*(errand.running for errand in courier.errands[:2] if errand.running is not None))
        assert courier.cosigned_size == 3, "nobody waits for it"
        forge.grow(2)
        forge.seal()
        courier.step()
        await asyncio.gather(*(errand.running for errand in courier.errands[:2] if errand.running is not None))
        assert courier.cosigned_size == 5
        await courier.finish()
        assert courier.grave_faults(time.time()) == []
        (fault,) = courier.slight_faults()
        assert told in fault and "liar.example" in fault
        assert "liar" not in cosigned(forge)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (10**18, "says that it has cosigned 1000000000000000000 records, and here are 3"),
        (3, "says that it has cosigned another tree of 3 records: a split view?"),  # as version 1.0 of the specification has it
    ],
)
async def test_one_that_tells_of_more_records_is_told_of(
    forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession, size: int, told: str
) -> None:
    forge.grow(3)
    forge.seal()
    async with listening(answering(response(409, f"{size}\n".encode()))) as url:
        courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), (LIAR_KEY, url), needed=2), session)
        await once(courier)
        assert courier.cosigned_size == 3
        assert told in courier.grave_faults(time.time())[0]


async def test_one_that_went_back_is_told_of_and_goes_on(
    tmp_path: Path, forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession
) -> None:
    """A witness's folder is put back as it was: it takes an old size for its newest."""
    courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), needed=2), session)
    forge.grow(3)
    forge.seal()
    await once(courier)
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    forge.grow(3)
    forge.seal()
    await once(courier)
    port = witnesses[0].port
    await witnesses[0].stop()
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "backup").rename(tmp_path / "a")
    witnesses[0] = Served(tmp_path / "a", [forge.verifier], now_s=time.time)
    witnesses[0].port = port
    await witnesses[0].start()
    forge.grow(3)
    forge.seal()
    await once(courier)
    assert courier.slight_faults() == ["log admin: witness a.example: it went back to 3 records after it had cosigned 6"]
    assert courier.cosigned_size == 9


async def test_a_log_that_was_rolled_back_is_an_incident(
    tmp_path: Path, forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession
) -> None:
    """The data folder is put back as it was: with what it kept of the witnesses' cosignatures, and without."""
    wanted = policy(*known(*witnesses), needed=2)
    forge.grow(5)
    forge.seal()
    await once(Courier(forge.instance, forge.log, wanted, session))
    shutil.copytree(forge.instance.data, tmp_path / "backup")
    forge.grow(5)
    forge.seal()
    await once(Courier(forge.instance, forge.log, wanted, session))
    newest = (forge.witnessed / "cosignatures").read_bytes()
    shutil.rmtree(forge.instance.data)
    (tmp_path / "backup").rename(forge.instance.data)

    courier = Courier(forge.instance, forge.log, wanted, session)
    await once(courier)
    for name, fault in zip("ab", courier.grave_faults(time.time())[:2], strict=True):
        assert f"INCIDENT: {name}.example says that it has cosigned 10 records, and here are 5: rolled back?" in fault

    (forge.witnessed / "cosignatures").write_bytes(newest)
    courier = Courier(forge.instance, forge.log, wanted, session)
    await once(courier)
    assert "INCIDENT: a.example cosigned 10 records, and here are 5: the log was rolled back" in courier.grave_faults(0)[0]


async def test_a_log_that_was_rewritten_is_an_incident_and_the_witness_has_the_evidence(
    tmp_path: Path, forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession
) -> None:
    """Rolled back, and grown again with other records, signed by the log's own key: as root could."""
    wanted = policy(*known(*witnesses), needed=2)
    forge.grow(5)
    forge.seal()
    shutil.copytree(forge.instance.data, tmp_path / "backup")
    forge.grow(5)
    forge.seal()
    await once(Courier(forge.instance, forge.log, wanted, session))
    shutil.rmtree(forge.instance.data)
    (tmp_path / "backup").rename(forge.instance.data)
    forge.records = 5
    other = [line.replace(b"Encrypt", b"Decrypt") for line in forge.lines(0)]
    for count, status in ((5, "another tree of 10 records"), (3, "does not accept that the 13 records here begin with the 10")):
        start = forge.records
        forge.append(*(other[0].replace(b'"sequence":0', b'"sequence":%d' % index) for index in range(start, start + count)))
        forge.seal()
        courier = Courier(forge.instance, forge.log, wanted, session)
        await once(courier)
        assert status in courier.grave_faults(time.time())[0] and "INCIDENT" in courier.grave_faults(time.time())[0]
        assert not (forge.witnessed / "cosigned").exists()
    for name in "ab":
        assert [path.name.split("-")[0] for path, _ in read_evidence(tmp_path / name)] == ["fork", "unproved"]


@pytest.mark.parametrize("index", [1, 4, 11])  # before and behind what was cosigned
async def test_damaged_hashes_accuse_nobody(
    tmp_path: Path, forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession, index: int
) -> None:
    wanted = policy(*known(*witnesses), needed=2)
    forge.grow(7)
    forge.seal()
    courier = Courier(forge.instance, forge.log, wanted, session)
    await once(courier)
    forge.grow(6)
    forge.seal()
    leaves = forge.checkpoints / "leaves"
    honest = leaves.read_bytes()
    leaves.write_bytes(honest[: 32 * index] + bytes(32) + honest[32 * (index + 1) :])
    await once(courier)
    assert courier.grave_faults(time.time()) == []
    assert all("has another root than was signed for 13 records" in fault for fault in courier.slight_faults())
    assert len(courier.slight_faults()) == 2
    assert [read_evidence(tmp_path / name) for name in "ab"] == [[], []]
    leaves.write_bytes(honest)
    await once(courier)
    assert courier.cosigned_size == 13 and courier.slight_faults() == []


async def test_a_split_view_gets_no_quorum(
    tmp_path: Path, forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession
) -> None:
    """One history is shown to one witness, another to the other: neither is cosigned by both."""
    shutil.copytree(forge.instance.data, tmp_path / "copy")
    copy = Forge(Instance.load(tmp_path / "copy"))
    forge.grow(8)
    copy.append(*(line.replace(b"Encrypt", b"Decrypt") for line in forge.lines(0)))
    for one in (forge, copy):
        one.seal()
    for one, witness in zip((forge, copy), witnesses, strict=True):
        await once(Courier(one.instance, one.log, policy(*known(witness), needed=1), session))
    for one in (forge, copy):
        courier = Courier(one.instance, one.log, policy(*known(*witnesses), needed=2), session)
        await once(courier)
        assert not courier.cosigned_s
        assert any("INCIDENT" in fault and "another tree of 8 records" in fault for fault in courier.grave_faults(time.time()))
    assert [len(read_evidence(tmp_path / name)) for name in "ab"] == [1, 1]


async def test_what_cannot_be_kept_is_told_and_tried_again(
    forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge.grow(3)
    forge.seal()
    courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), needed=2), session)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(courier._notes, "publish", fail)
        await once(courier)
    assert not courier.cosigned_s
    assert "No space left on device" in courier.slight_faults()[-1]
    forge.grow(1)
    forge.seal()
    await once(courier)
    assert courier.cosigned_size == 4 and courier.slight_faults() == []


async def test_nothing_is_published_before_what_was_given_is_durable(
    forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge.grow(3)
    forge.seal()
    courier = Courier(forge.instance, forge.log, policy(*known(*witnesses), needed=1), session)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("audit.witnessing.notes.os.fdatasync", fail)
        await once(courier)
    assert "Input/output error" in courier.slight_faults()[-1]
    assert not courier.cosigned_s and not (forge.witnessed / "cosigned").exists()
    assert (forge.witnessed / "cosignatures").exists(), "it is there, and not known to be durable"


def test_what_a_crash_tore_off_is_gone_from_what_is_kept(forge: Forge) -> None:
    forge.grow(3)
    forge.seal()
    notes, path = LogNotes(forge.instance, forge.log), forge.witnessed / "cosignatures"
    one = forge.latest + cosign(claimed_checkpoint(forge.latest).text(), LIAR_KEY.name, LIAR, 1_800_000_000)
    notes.keep(one)
    with path.open("ab") as file:
        file.write(b"\n" + forge.latest.encode()[:-30] + b"x" * 2_000)  # longer than what comes in its place
    notes.keep(one)
    assert path.read_text("utf-8") == f"{one}\n{one}"
    assert split_notes(path.read_text("utf-8")) == [one, one]


async def test_a_smaller_tree_never_takes_the_place_of_a_larger_one(
    forge: Forge, witnesses: list[Served], session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every note that is put at `cosigned`, over a run with restarts in it, is at least as new as the one before."""
    published: list[str] = []
    replace = durable.replace

    def watch(path: Path, data: bytes, mode: int = 0o600) -> None:
        if path.name == "cosigned":
            published.append(data.decode())
        replace(path, data, mode)

    monkeypatch.setattr(durable, "replace", watch)
    wanted = policy(*known(*witnesses), needed=1)
    for count in (1, 2, 3):
        forge.grow(count)
        forge.seal()
        await once(Courier(forge.instance, forge.log, wanted, session))
    sizes = [claimed_checkpoint(note).size for note in published]
    times = [wanted.judge(note).time_s or 0 for note in published]
    assert sizes == sorted(sizes) and set(sizes) == {1, 3, 6}
    assert times == sorted(times)


async def test_a_failing_witness_is_left_alone_for_longer_and_longer(
    forge: Forge, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "FIRST_S", 1.0)
    monkeypatch.setattr(pauses, "_jitter", lambda low, high: high)
    forge.grow(3)
    forge.seal()
    courier = Courier(forge.instance, forge.log, policy((LIAR_KEY, "http://127.0.0.1:1"), needed=1), session)
    (errand,) = courier.errands
    waited = []
    for _ in range(12):
        await once(courier)
        waited.append(errand.pauses.until_s - asyncio.get_running_loop().time())
        failures = errand.pauses.failures
        await once(courier)
        assert errand.pauses.failures == failures, "its time has not come"
        errand.pauses.until_s = 0.0
    expected = [min(2.0**number, 300.0) * 1.5 for number in range(12)]
    assert waited == [pytest.approx(pause, abs=1.0) for pause in expected]


async def test_a_key_that_was_changed(tmp_path: Path, forge: Forge, session: aiohttp.ClientSession) -> None:
    """The witness has to be given the new key beside the old one; then it, and `verify` by the first key, go on."""
    running, first = Running(forge), forge.verifier
    running.grow()
    witness = Served(tmp_path / "a", [first], "a.example", time.time)
    await witness.start()
    wanted = policy(*known(witness), needed=1)
    courier = Courier(forge.instance, forge.log, wanted, session)
    await once(courier)
    running.rotate()
    await once(courier)
    assert courier.cosigned_size == 5 and courier.slight_faults() == [], "what was signed last is the old key's"
    running.grow()
    await once(courier)
    assert courier.cosigned_size == 5 and "it answers 403" in courier.slight_faults()[0]
    port = witness.port
    await witness.stop()
    witness = Served(tmp_path / "a", [first, forge.verifier], now_s=time.time)
    witness.port = port
    await witness.start()
    await once(courier)
    assert courier.cosigned_size == 10 and courier.slight_faults() == []
    assert verify(forge.instance.data, [first], demand=Demand(wanted, 600)).passed
    await witness.stop()
