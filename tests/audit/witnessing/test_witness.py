"""The witness: every answer of the specification, what it remembers, and what it keeps of a log that contradicts itself."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from audit import durable
from audit.checkpoint import Checkpoint, sign
from audit.cosignature import open_cosignatures
from audit.errors import CheckpointInvalid
from audit.merkle import EMPTY_ROOT
from audit.witnessing import memory as memory_module
from audit.witnessing.evidence import Evidence, EvidenceInvalid
from audit.witnessing.memory import Memory, MemoryInUse, MemoryLost, digest_of, read_evidence
from audit.witnessing.protocol import AddCheckpoint
from audit.witnessing.witness import Answer, Witness
from tests.audit.witnessing.history import OTHER_KEY, History

NOW_S = 1_800_000_000.0
LOG = History()
FORK = History(forked=5)
SECOND = History("log.example/2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Memory.create(tmp_path / "witness", "witness.example/1", "2026-01-02T03:04:05Z")
    return tmp_path / "witness"


@pytest.fixture
def memory(folder: Path) -> Iterator[Memory]:
    memory = Memory(folder)
    yield memory
    memory.close()


def made(memory: Memory, *logs: History, now_s: float = NOW_S) -> Witness:
    keys = [log.verifier for log in logs or (LOG, SECOND)]
    return Witness(memory, {key.name: [other for other in keys if other.name == key.name] for key in keys}, lambda: now_s)


def require_cosigned(memory: Memory, answer: Answer, log: History, size: int) -> None:
    assert answer.status == 200, answer.body
    found = open_cosignatures(log.note(size) + answer.body.decode(), [memory.public_key])
    assert [one.time_s for one in found] == [int(NOW_S)]
    assert memory.latest(log.origin) == log.checkpoint(size)


# --- answers


def test_each_larger_tree_is_cosigned(memory: Memory) -> None:
    witness = made(memory)
    old_size = 0
    for size in (1, 2, 3, 7, 8, 9, 64, 100):
        require_cosigned(memory, witness.add_checkpoint(LOG.request(old_size, size)), LOG, size)
        old_size = size


def test_all_pairs_of_small_sizes(folder: Path) -> None:
    for old_size in range(1, 18):
        memory = Memory(folder)
        witness = made(memory)
        require_cosigned(memory, witness.add_checkpoint(LOG.request(0, old_size)), LOG, old_size)
        for size in range(old_size, 18):
            require_cosigned(memory, witness.add_checkpoint(LOG.request(memory.latest(LOG.origin).size, size)), LOG, size)
        memory.close()
        shutil.rmtree(folder)
        Memory.create(folder, "witness.example/1", "2026-01-02T03:04:05Z")


def test_the_same_again_is_cosigned_again_with_its_time_and_nothing_is_written(memory: Memory, folder: Path) -> None:
    made(memory).add_checkpoint(LOG.request(0, 5))
    before = [(path.name, path.stat().st_mtime_ns) for path in (folder / "logs").iterdir()]
    answer = made(memory, now_s=NOW_S + 60).add_checkpoint(LOG.request(5, 5))
    found = open_cosignatures(LOG.note(5) + answer.body.decode(), [memory.public_key])
    assert (answer.status, found[0].time_s) == (200, int(NOW_S) + 60)
    assert [(path.name, path.stat().st_mtime_ns) for path in (folder / "logs").iterdir()] == before


def test_an_empty_tree_is_cosigned(memory: Memory) -> None:
    witness = made(memory)
    assert witness.add_checkpoint(AddCheckpoint(0, (), LOG.note(0)).encode()).status == 200
    require_cosigned(memory, witness.add_checkpoint(LOG.request(0, 3)), LOG, 3)


@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        (b"rubbish", 400),
        (AddCheckpoint(0, (), "no note").encode(), 400),
        (AddCheckpoint(0, (), "a\nb\nc\n\n\u2014 a YWFhYWE=\n").encode(), 400),
        (AddCheckpoint(12, (), LOG.note(11)).encode(), 400),  # the old size is beyond the checkpoint's
        (LOG.request(10, 12).replace(b"\n12\n", b"\n13\n"), 403),  # the signature is not of this text
        (History(key=OTHER_KEY).request(10, 12), 403),
        (History("log.example/3").request(0, 12), 404),
        (LOG.request(9, 12), 409),
        (LOG.request(0, 12), 409),
        (LOG.request(0, 9), 409),
        (LOG.request(9, 9), 409),  # a smaller tree
        (FORK.request(10, 10), 422),  # the same size, another root
        (FORK.request(9, 10), 409),
        (FORK.request(10, 12), 422),
        (AddCheckpoint(10, (), LOG.note(12)).encode(), 422),
        (AddCheckpoint(10, LOG.proof(9, 12), LOG.note(12)).encode(), 422),
        (AddCheckpoint(10, (*LOG.proof(10, 12), bytes(32)), LOG.note(12)).encode(), 422),
        (AddCheckpoint(10, (bytes(32),), LOG.note(10)).encode(), 422),
    ],
)
def test_what_is_refused_changes_nothing(memory: Memory, request_body: bytes, status: int) -> None:
    witness = made(memory)
    require_cosigned(memory, witness.add_checkpoint(LOG.request(0, 10)), LOG, 10)
    answer = witness.add_checkpoint(request_body)
    assert answer.status == status, answer.body
    assert memory.latest(LOG.origin) == LOG.checkpoint(10)
    if status == 409:
        assert (answer.body, answer.content_type) == (b"10\n", "text/x.tlog.size")
    require_cosigned(memory, witness.add_checkpoint(LOG.request(10, 12)), LOG, 12)


def test_a_first_checkpoint_comes_without_a_proof(memory: Memory) -> None:
    witness = made(memory)
    assert witness.add_checkpoint(AddCheckpoint(0, (bytes(32),), LOG.note(5)).encode()).status == 422
    answer = witness.add_checkpoint(LOG.request(3, 5))
    assert (answer.status, answer.body) == (409, b"0\n")
    wrong = sign(Checkpoint(LOG.origin, 0, bytes(32)), LOG.key)
    assert witness.add_checkpoint(AddCheckpoint(0, (), wrong).encode()).status == 422
    assert LOG.checkpoint(0).root == EMPTY_ROOT


def test_signatures_of_others_are_ignored_and_not_remembered(memory: Memory) -> None:
    stranger = sign(LOG.checkpoint(4), OTHER_KEY).splitlines()[-1].replace(LOG.origin, "stranger.example")
    answer = made(memory).add_checkpoint(AddCheckpoint(0, (), f"{LOG.note(4)}{stranger}\n").encode())
    require_cosigned(memory, answer, LOG, 4)
    assert "stranger" not in (memory.note(digest_of(LOG.origin)) or "stranger")


def test_of_two_signatures_by_trusted_keys_both_must_be_genuine(memory: Memory) -> None:
    renewed = History(key=OTHER_KEY)
    witness = made(memory, LOG, renewed)
    good, other = LOG.note(4), renewed.note(5).splitlines()[-1] + "\n"
    assert witness.add_checkpoint(AddCheckpoint(0, (), good + other).encode()).status == 403
    both = good + renewed.note(4).splitlines()[-1] + "\n"
    require_cosigned(memory, witness.add_checkpoint(AddCheckpoint(0, (), both).encode()), LOG, 4)


def test_a_log_may_have_two_keys(memory: Memory) -> None:
    renewed = History(key=OTHER_KEY)
    witness = made(memory, LOG, renewed)
    require_cosigned(memory, witness.add_checkpoint(LOG.request(0, 4)), LOG, 4)
    require_cosigned(memory, witness.add_checkpoint(renewed.request(4, 6)), renewed, 6)


def test_logs_are_apart(memory: Memory) -> None:
    witness = made(memory)
    require_cosigned(memory, witness.add_checkpoint(LOG.request(0, 10)), LOG, 10)
    require_cosigned(memory, witness.add_checkpoint(SECOND.request(0, 3)), SECOND, 3)
    require_cosigned(memory, witness.add_checkpoint(LOG.request(10, 11)), LOG, 11)


def test_of_many_at_once_one_history_is_cosigned(memory: Memory) -> None:
    """Two histories, from the same old size, by many at once: whatever is cosigned, is of one of them, and each size once."""
    witness = made(memory)
    witness.add_checkpoint(LOG.request(0, 5))
    bodies = [log.request(5, size) for size in range(6, 30) for log in (LOG, FORK)]
    start = threading.Barrier(8)

    def send(part: int) -> list[tuple[bytes, int]]:
        start.wait()
        return [(body, witness.add_checkpoint(body).status) for body in bodies[part::8]]

    with ThreadPoolExecutor(8) as threads:
        answers = [one for part in threads.map(send, range(8)) for one in part]
    assert {200, 409} <= {status for _, status in answers} <= {200, 409, 422}
    assert sum(status == 200 for _, status in answers) == 1, "only one was judged by what was known before it"


# --- memory


def test_a_witness_may_have_a_post_quantum_key(tmp_path: Path) -> None:
    folder = tmp_path / "witness"
    Memory.create(folder, "witness.example/pq", "2026-01-02T03:04:05Z", MLDSA44PrivateKey.generate())
    for old_size, size in ((0, 4), (4, 9)):
        memory = Memory(folder)
        require_cosigned(memory, made(memory).add_checkpoint(LOG.request(old_size, size)), LOG, size)
        memory.close()


def test_a_witness_that_starts_anew_remembers(folder: Path) -> None:
    memory = Memory(folder)
    for log, size in ((LOG, 7), (SECOND, 3)):
        assert made(memory).add_checkpoint(log.request(0, size)).status == 200
    memory.close()
    memory = Memory(folder)
    witness = made(memory)
    assert witness.add_checkpoint(FORK.request(7, 8)).status == 422
    assert witness.add_checkpoint(LOG.request(0, 8)).body == b"7\n"
    require_cosigned(memory, witness.add_checkpoint(SECOND.request(3, 4)), SECOND, 4)
    memory.close()


def test_it_is_durable_before_it_is_answered(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = made(memory)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write_all", fail)
        with pytest.raises(OSError, match="No space left"):
            witness.add_checkpoint(LOG.request(0, 5))
    assert memory.latest(LOG.origin).size == 0
    require_cosigned(memory, witness.add_checkpoint(LOG.request(0, 5)), LOG, 5)


@pytest.mark.parametrize("step", range(1, 9))
def test_a_crash_at_any_step_forgets_nothing_that_was_cosigned(folder: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Each step is a rename or a sync of the first two checkpoints of a log, of which the second crashes or not."""
    memory = Memory(folder)
    witness = made(memory)
    answered = 0
    calls = iter(range(1, 100))

    def crash_at(real: object) -> object:
        def call(*arguments: object) -> object:
            if next(calls) == step:
                raise KeyboardInterrupt
            return real(*arguments)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "fsync"):
            patched.setattr(os, name, crash_at(getattr(os, name)))
        try:
            for old_size, size in ((0, 5), (5, 9)):
                if witness.add_checkpoint(LOG.request(old_size, size)).status == 200:
                    answered = size
        except KeyboardInterrupt:
            pass
    memory.close()
    again = Memory(folder)
    assert again.latest(LOG.origin).size >= answered
    assert again.latest(LOG.origin) == LOG.checkpoint(again.latest(LOG.origin).size)
    again.close()


def test_a_second_one_is_refused(memory: Memory, folder: Path) -> None:
    with pytest.raises(MemoryInUse, match="another process serves"):
        Memory(folder)


def test_the_folder_of_another_is_not_overwritten(memory: Memory, folder: Path) -> None:
    with pytest.raises(FileExistsError, match="is not empty"):
        Memory.create(folder, "witness.example/2", "2026-01-02T03:04:05Z")


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\n"])
def test_a_name_that_no_key_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointInvalid):
        Memory.create(tmp_path / "witness", name, "2026-01-02T03:04:05Z")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("lost", ["logs/*", "logs", "witness.json", "witness.key", "lock", "."])
def test_what_lost_its_memory_does_not_start(folder: Path, lost: str) -> None:
    memory = Memory(folder)
    made(memory).add_checkpoint(LOG.request(0, 5))
    memory.close()
    for path in list(folder.glob(lost)) if lost != "." else [folder]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(MemoryLost):
        Memory(folder)


@pytest.mark.parametrize("damage", ["cut", "other", "renamed", "empty"])
def test_a_damaged_memory_does_not_start(folder: Path, damage: str) -> None:
    memory = Memory(folder)
    made(memory).add_checkpoint(LOG.request(0, 5))
    memory.close()
    (path,) = (folder / "logs").iterdir()
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-20])
        case "other":
            path.write_text(LOG.note(4))
        case "renamed":
            path.rename(path.with_name("0" * 64))
        case "empty":
            path.write_bytes(b"")
    with pytest.raises(MemoryLost, match="is not a checkpoint that this witness cosigned"):
        Memory(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format":2}', b'{"format":1,"key":7,"created":"","logs":[]}', b"\xff"])
def test_a_damaged_registry_does_not_start(folder: Path, content: bytes) -> None:
    (folder / "witness.json").write_bytes(content)
    with pytest.raises(MemoryLost):
        Memory(folder)


def test_another_key_does_not_start(folder: Path, tmp_path: Path) -> None:
    Memory.create(tmp_path / "other", "witness.example/1", "2026-01-02T03:04:05Z")
    shutil.copy(tmp_path / "other" / "witness.key", folder / "witness.key")
    with pytest.raises(MemoryLost, match="is not the key"):
        Memory(folder)


def test_the_key_is_for_its_owner_only_and_in_no_text(memory: Memory, folder: Path) -> None:
    assert (folder / "witness.key").stat().st_mode & 0o777 == 0o600
    secret = memory.private_key.private_bytes_raw()
    assert isinstance(memory.private_key, Ed25519PrivateKey)
    for text in (repr(memory), str(memory.public_key), (folder / "witness.json").read_text()):
        assert secret.hex() not in text


# --- evidence


def evidence(folder: Path) -> list[Evidence]:
    return [Evidence.parse(data) for _, data in read_evidence(folder)]


@pytest.mark.parametrize(("old_size", "status"), [(0, 409), (3, 409), (10, 422)])
def test_a_fork_is_kept_and_proves_itself(memory: Memory, folder: Path, old_size: int, status: int) -> None:
    witness = made(memory)
    witness.add_checkpoint(LOG.request(0, 10))
    for _ in range(3):
        assert witness.add_checkpoint(FORK.request(old_size, 10)).status == status
    (kept,) = evidence(folder)
    assert kept.time == "2027-01-15T08:00:00.000000Z"
    assert kept.check() == "log.example/1 signed two different trees of 10 records: its history was forked"


def test_a_rewritten_history_is_kept(memory: Memory, folder: Path) -> None:
    witness = made(memory)
    witness.add_checkpoint(LOG.request(0, 10))
    assert witness.add_checkpoint(FORK.request(10, 20)).status == 422
    (kept,) = evidence(folder)
    assert "was not shown to begin with the 10 that it had signed before" in kept.check()


def test_what_proves_nothing_is_not_kept(memory: Memory, folder: Path) -> None:
    witness = made(memory)
    witness.add_checkpoint(LOG.request(0, 10))
    for body in (
        *(LOG.request(9, 12), LOG.request(9, 9), LOG.request(10, 12).replace(b"\n12\n", b"\n13\n")),
        History(key=OTHER_KEY).request(10, 10),
        AddCheckpoint(10, (bytes(32),), LOG.note(10)).encode(),
    ):
        assert witness.add_checkpoint(body).status in (403, 409, 422)
    assert evidence(folder) == []


def test_rubbish_does_not_crowd_out_a_fork(memory: Memory, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_MAX_EVIDENCE", 3)
    witness = made(memory)
    witness.add_checkpoint(LOG.request(0, 10))
    for size in range(11, 20):
        assert witness.add_checkpoint(AddCheckpoint(10, (bytes(32),), LOG.note(size)).encode()).status == 422
    assert witness.add_checkpoint(FORK.request(10, 10)).status == 422
    assert sorted(one.kind.value for one in evidence(folder)) == ["fork", "unproved", "unproved", "unproved"]


def test_one_log_does_not_crowd_out_evidence_of_another(memory: Memory, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_MAX_EVIDENCE", 3)
    witness = made(memory)
    forked = History(SECOND.origin, forked=5)
    witness.add_checkpoint(LOG.request(0, 10))
    witness.add_checkpoint(SECOND.request(0, 10))
    for first in range(5):  # whoever has that log's key can make any number of them
        witness.add_checkpoint(History(forked=first).request(10, 10))
    assert witness.add_checkpoint(forked.request(10, 10)).status == 422
    assert sorted(one.keys[0].name for one in evidence(folder)) == [LOG.origin] * 3 + [SECOND.origin]


def test_evidence_that_was_altered_shows_nothing(memory: Memory, folder: Path) -> None:
    witness = made(memory)
    witness.add_checkpoint(LOG.request(0, 10))
    witness.add_checkpoint(FORK.request(10, 10))
    ((path, data),) = read_evidence(folder)
    document = orjson.loads(data)
    changes: tuple[dict[str, object], ...] = (
        {"submitted": document["cosigned"]},
        {"submitted": document["submitted"].replace("\n10\n", "\n11\n")},
        {"keys": [str(History(key=OTHER_KEY).verifier)]},
        {"keys": []},
        {"proof": ["x"]},
        {"cosigned": 7},
        {"kind": "theft"},
    )
    for change in changes:
        with pytest.raises(EvidenceInvalid):
            Evidence.parse(orjson.dumps({**document, **change})).check()
    with pytest.raises(EvidenceInvalid):
        Evidence.parse(b"[]")
    assert path.name.startswith("fork-")


def test_evidence_that_cannot_be_kept_changes_nothing_of_the_answer(
    memory: Memory, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    witness = made(memory)
    witness.add_checkpoint(LOG.request(0, 10))
    shutil.rmtree(folder / "evidence")
    assert witness.add_checkpoint(FORK.request(10, 10)).status == 422
    assert "the evidence could not be kept" in caplog.text
