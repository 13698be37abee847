"""The sealer: what it signs, what it refuses to sign, and that a crash between any two of its steps does no harm."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from audit import durable
from audit.checkpoint import Checkpoint, VerifierKey, open_checkpoint, sign, split_notes
from audit.companion import Status
from audit.errors import CheckpointInvalid, LogIncident
from audit.instance import Instance
from audit.levels import LevelFiles
from audit.log import Mark
from audit.merkle import leaf_hash, root_of
from audit.sealing import log_sealer, process
from audit.sealing.keys import create_key, load_key, verifier_keys
from audit.sealing.log_sealer import LogSealer
from audit.sealing.process import Sealer, seal_once
from audit.segments import segment_name
from audit.tiles import WIDTH, root
from tests.audit.forge import Forge, line


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge.create(tmp_path)


def open_sealer(forge: Forge, key: Ed25519PrivateKey | None = None) -> LogSealer:
    return LogSealer(forge.folder, forge.checkpoints, forge.instance.origin(forge.log), key or forge.key)


def leaves(forge: Forge, size: int) -> list[bytes]:
    """By definition, from the segments."""
    data = b"".join(path.read_bytes() for path in sorted(forge.folder.glob("*.jsonl")))
    return [leaf_hash(text) for text in data.split(b"\n")[:size]]


def history(forge: Forge) -> list[Checkpoint]:
    text = (forge.checkpoints / "history").read_text("utf-8")
    return [open_checkpoint(note, forge.verifier) for note in split_notes(text)]


def require_sound(forge: Forge, sizes: list[int]) -> None:
    """The invariant: the history has these sizes, each with the root of its lines; everything derived agrees with it."""
    notes = history(forge)
    assert [note.size for note in notes] == sizes
    assert [note.root for note in notes] == [root_of(leaves(forge, size)) for size in sizes]
    assert open_checkpoint(forge.latest, forge.verifier) == notes[-1]
    assert (forge.checkpoints / "leaves").read_bytes() == b"".join(leaves(forge, sizes[-1]))
    levels = LevelFiles(forge.checkpoints)
    assert levels.count(1) == sizes[-1] // WIDTH and root(levels.read, sizes[-1]) == notes[-1].root


# --- what it signs


def test_each_step_signs_for_what_came_since(forge: Forge) -> None:
    sealing = open_sealer(forge)
    assert sealing.seal() is None, "an empty log is not signed for"
    for count in (1, 6, 13, 30, 1):
        forge.grow(count)
        checkpoint = sealing.seal()
        assert checkpoint is not None and checkpoint.size == forge.records == sealing.signed_size
        assert sealing.seal() is None
    require_sound(forge, [1, 7, 20, 50, 51])


def test_a_sealer_that_starts_anew_goes_on_where_the_last_one_was(forge: Forge) -> None:
    for size in (1, 9, 10, 11, 20, 37):
        forge.grow(size - forge.records)
        assert open_sealer(forge).seal() is not None
        assert open_sealer(forge).seal() is None
    require_sound(forge, [1, 9, 10, 11, 20, 37])


def test_only_what_the_mark_says_is_durable_is_signed_for(forge: Forge) -> None:
    forge.grow(12)
    (forge.folder / "mark").write_bytes(Mark(8, 0, len(b"".join(forge.lines(0)[:8])), 0).encode())
    sealing = open_sealer(forge)
    assert sealing.seal() is not None
    require_sound(forge, [8])
    (forge.folder / "mark").write_bytes(b"damaged")
    assert sealing.seal() is None
    forge.grow(1)
    assert sealing.seal() is not None
    require_sound(forge, [8, 13])


@pytest.mark.parametrize("chunk", [1, 7, 100, 101, 4096])
def test_chunks_may_end_anywhere(forge: Forge, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(log_sealer, "_CHUNK_BYTES", chunk)
    sealing = open_sealer(forge)
    for count in (3, 25):
        forge.grow(count)
        sealing.seal()
    require_sound(forge, [3, 28])


def test_the_levels_above_the_leaves_are_there_before_a_checkpoint_needs_them(forge: Forge) -> None:
    sealing = open_sealer(forge)
    for count in (255, 1, 300):
        forge.grow(count)
        sealing.seal()
    require_sound(forge, [255, 256, 556])
    for name, damaged in (("hashes-1", bytes(64)), ("leaves", b""), ("hashes-1", None), ("leaves", None)):
        path = forge.checkpoints / name
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        open_sealer(forge)
        require_sound(forge, [255, 256, 556])


def test_what_is_taken_away_while_it_runs_is_made_anew(forge: Forge) -> None:
    sealing = open_sealer(forge)
    forge.grow(300)
    sealing.seal()
    for names in (("leaves",), ("hashes-1",), ("leaves", "hashes-1")):
        for name in names:
            (forge.checkpoints / name).unlink()
        forge.grow(1)
        sealing.seal()
    require_sound(forge, [300, 301, 302, 303])


# --- what it refuses


def test_a_log_that_lost_signed_records_is_refused(forge: Forge) -> None:
    forge.grow(15)
    forge.seal()
    before = (forge.checkpoints / "history").read_bytes()
    forge.write(1, forge.lines(1)[:4])
    (forge.folder / "mark").write_bytes(Mark(14, 10, forge.segment(1).stat().st_size, 0).encode())
    with pytest.raises(LogIncident, match="14 records by its mark, but 15 were signed for"):
        open_sealer(forge).seal()
    forge.segment(1).unlink()
    with pytest.raises(LogIncident, match="15 were signed for"):
        open_sealer(forge).seal()
    assert (forge.checkpoints / "history").read_bytes() == before


def test_a_mark_that_a_power_cut_took_back_is_no_incident(forge: Forge) -> None:
    forge.grow(15)
    forge.seal()
    (forge.folder / "mark").write_bytes(Mark(3, 0, len(b"".join(forge.lines(0)[:3])), 0).encode())
    assert open_sealer(forge).seal() is None


def test_lines_that_the_mark_promises_and_that_are_not_there(forge: Forge) -> None:
    forge.grow(15)
    forge.seal()
    forge.grow(10)
    sealing = open_sealer(forge)
    forge.write(2, forge.lines(2)[:3])
    with pytest.raises(LogIncident, match="segment 23 is gone"):
        sealing.seal()
    forge.segment(2).write_bytes(b'{"torn')
    with pytest.raises(LogIncident, match="ends before record 24, which its mark says is there"):
        sealing.seal()
    forge.segment(2).unlink()
    with pytest.raises(LogIncident, match="segment 20 is gone"):
        sealing.seal()
    assert [note.size for note in history(forge)] == [15]


def test_a_log_that_vanished_while_it_was_sealed(forge: Forge) -> None:
    forge.grow(5)
    sealing = open_sealer(forge)
    sealing.seal()
    forge.folder.rename(forge.folder.with_name("elsewhere"))
    with pytest.raises(LogIncident, match="has vanished"):
        sealing.seal()


def test_other_lines_than_those_signed_for_are_refused_and_the_kept_leaves_stay(forge: Forge) -> None:
    forge.grow(15)
    forge.seal()
    forge.write(1, [text.replace(b"Encrypt", b"Decrypt") for text in forge.lines(1)])
    kept = (forge.checkpoints / "leaves").read_bytes()[:-32]  # too short, so that the segments are asked
    (forge.checkpoints / "leaves").write_bytes(kept)
    with pytest.raises(LogIncident, match="its first 15 records are not those that were signed for"):
        open_sealer(forge)
    assert (forge.checkpoints / "leaves").read_bytes() == kept
    assert not (forge.checkpoints / "leaves.new").exists()


def test_a_history_that_was_cut_or_removed_is_refused(forge: Forge) -> None:
    for _ in range(2):
        forge.grow(5)
        forge.seal()
    path = forge.checkpoints / "history"
    first = split_notes(path.read_text("utf-8"))[0]
    path.write_text(first, "utf-8")
    with pytest.raises(LogIncident, match="10 records were signed for, but the history does not say so"):
        open_sealer(forge)
    path.unlink()
    with pytest.raises(LogIncident, match="10 records were signed for"):
        open_sealer(forge)


def test_a_history_by_another_key_is_refused(forge: Forge) -> None:
    forge.grow(5)
    forge.seal()
    with pytest.raises(CheckpointInvalid, match="not signed by"):
        open_sealer(forge, Ed25519PrivateKey.generate())


def test_a_history_without_a_note_in_its_end_is_refused(forge: Forge) -> None:
    (forge.checkpoints / "history").write_bytes(b"x" * 20_000)
    with pytest.raises(CheckpointInvalid, match="does not end in signed notes"):
        open_sealer(forge)
    assert (forge.checkpoints / "history").stat().st_size == 20_000


# --- crashes


class Crash(Exception):
    """The process ends here."""


Effect = Literal["nothing", "half", "all"]


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int, effect: Effect) -> Callable[[], int]:
    """Let the operation `number` that changes a file be the last, with this effect; gives how many there were."""
    done = 0

    def breaking(operation: Callable[..., Any], halve: Callable[..., tuple[Any, ...]] | None = None) -> Callable[..., Any]:
        def operate(*arguments: Any) -> Any:  # Any: these stand for functions of every signature
            nonlocal done
            done += 1
            if done - 1 != number:
                return operation(*arguments)
            if effect == "all":
                operation(*arguments)
            elif effect == "half" and halve is not None:
                operation(*halve(*arguments))
            raise Crash

        return operate

    def half(target: int, data: bytes) -> tuple[int, bytes]:
        return target, data[: len(data) // 2]

    monkeypatch.setattr(durable, "write_all", breaking(durable.write_all, half))
    monkeypatch.setattr(os, "ftruncate", breaking(os.ftruncate))
    monkeypatch.setattr(os, "fdatasync", breaking(os.fdatasync))
    monkeypatch.setattr(durable, "sync_folder", breaking(durable.sync_folder))
    monkeypatch.setattr(Path, "write_bytes", breaking(Path.write_bytes))
    monkeypatch.setattr(Path, "rename", breaking(Path.rename))
    return lambda: done


@pytest.mark.parametrize("sealed_before", [0, 13, 250])  # from the last one on, a tile of the tree is filled
@pytest.mark.parametrize("effect", ["nothing", "half", "all"])
def test_a_crash_at_any_point_is_mended_by_the_next_start(tmp_path: Path, effect: Effect, sealed_before: int) -> None:
    total = 100
    number = 0
    while number < total:
        data = tmp_path / f"{number}"
        data.mkdir()
        instance = Instance.create(data, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z")
        create_key(instance)
        forge = Forge(instance)
        if sealed_before:
            forge.grow(sealed_before)
            forge.seal()
        forge.grow(12)
        sealing = open_sealer(forge)
        with pytest.MonkeyPatch.context() as patch:
            count = crash_at(patch, number, effect)
            try:
                sealing.seal()
                total = count()
            except Crash:
                pass
        open_sealer(forge).seal()
        before = [sealed_before] if sealed_before else []
        require_sound(forge, [*before, sealed_before + 12])
        forge.grow(12)
        open_sealer(forge).seal()
        require_sound(forge, [*before, sealed_before + 12, sealed_before + 24])
        number += 1
    assert total >= 10, "each of the steps was broken once"


def test_a_torn_last_note_is_cut_off_and_signed_for_again(forge: Forge) -> None:
    forge.grow(5)
    forge.seal()
    path = forge.checkpoints / "history"
    whole, latest = path.read_bytes(), forge.latest
    forge.grow(5)
    forge.seal()
    signed = path.read_bytes()
    for length in range(len(whole), len(signed)):
        path.write_bytes(signed[:length])
        (forge.checkpoints / "latest").write_text(latest, "utf-8")
        assert open_sealer(forge).signed_size == 5
        assert path.read_bytes() == whole
    assert open_sealer(forge).seal() is not None
    require_sound(forge, [5, 10])


def test_a_torn_first_note_is_cut_off(forge: Forge) -> None:
    forge.grow(5)
    note = sign(Checkpoint(forge.instance.origin("admin"), 5, bytes(32)), forge.key)
    (forge.checkpoints / "history").write_text(note[:-1], "utf-8")
    assert open_sealer(forge).seal() is not None
    require_sound(forge, [5])


def damage(path: Path, how: str) -> None:
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "short":
            path.write_bytes(path.read_bytes()[:-33])
        case "long":
            path.write_bytes(path.read_bytes() + bytes(100))
        case "garbage":
            path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("leaves_how", ["whole", "missing", "empty", "short", "long", "garbage"])
@pytest.mark.parametrize("frontier_how", ["whole", "missing", "empty", "short", "garbage"])
def test_what_is_derived_may_be_damaged(forge: Forge, leaves_how: str, frontier_how: str) -> None:
    forge.grow(13)
    forge.seal()
    damage(forge.checkpoints / "leaves", leaves_how)
    damage(forge.checkpoints / "frontier", frontier_how)
    forge.grow(10)
    open_sealer(forge).seal()
    if leaves_how == "garbage" and frontier_how == "whole":
        assert [note.size for note in history(forge)] == [13, 23]  # of the right length: only `verify` reads them again
        assert history(forge)[1].root == root_of(leaves(forge, 23))
    else:
        require_sound(forge, [13, 23])


@pytest.mark.parametrize(
    "state",
    [
        {"size": 13.0, "subtrees": []},
        {"size": "13", "subtrees": []},
        {"size": -13, "subtrees": ["00" * 32] * 3},
        {"size": 2**63, "subtrees": ["00" * 32]},
        {"size": 13, "subtrees": None},
        {"size": 13, "subtrees": [1, 2, 3]},
        {"size": 13, "subtrees": ["00" * 32] * 3},
        {"size": None},
        [13],
        13,
        None,
    ],
)
def test_a_frontier_that_is_json_and_no_frontier(forge: Forge, state: object) -> None:
    forge.grow(13)
    forge.seal()
    (forge.checkpoints / "frontier").write_bytes(orjson.dumps(state))
    forge.grow(10)
    open_sealer(forge).seal()
    require_sound(forge, [13, 23])


def test_a_stale_frontier_is_not_believed(forge: Forge) -> None:
    forge.grow(5)
    forge.seal()
    stale = (forge.checkpoints / "frontier").read_bytes()
    forge.grow(5)
    forge.seal()
    (forge.checkpoints / "frontier").write_bytes(stale)
    forge.grow(5)
    open_sealer(forge).seal()
    require_sound(forge, [5, 10, 15])


@pytest.mark.parametrize("latest", [None, "", "torn", "older"])
def test_latest_is_mended_at_the_start(forge: Forge, latest: str | None) -> None:
    forge.grow(5)
    forge.seal()
    older = forge.latest
    forge.grow(5)
    forge.seal()
    if latest is None:
        (forge.checkpoints / "latest").unlink()
    else:
        (forge.checkpoints / "latest").write_text(older if latest == "older" else latest, "utf-8")
    open_sealer(forge)
    require_sound(forge, [5, 10])


# --- all the logs


def test_one_log_that_cannot_be_sealed_does_not_keep_the_others_from_it(forge: Forge) -> None:
    told: list[Status] = []
    sealing = Sealer(forge.instance.data, told.append)
    forge.grow(5)
    sealing.seal_all()
    second = Forge(forge.instance.with_logs(["w0"]), "w0")  # made while the sealer runs
    second.grow(5)
    sealing.seal_all()
    require_sound(second, [5])
    assert told == [Status(ready=True)]

    forge.grow(10)
    kept = forge.segment(1).read_bytes()
    forge.segment(1).unlink()
    second.grow(1)
    sealing.seal_all()
    sealing.seal_all()
    require_sound(second, [5, 6])
    assert [note.size for note in history(forge)] == [5]
    assert len(told) == 2, "a change is told once"
    assert not told[1].ready and "INCIDENT: log admin: segment 10 is gone" in str(told[1].reason)

    forge.segment(1).write_bytes(kept)
    sealing.seal_all()
    require_sound(forge, [5, 15])
    assert told[2:] == [Status(ready=True)]


def test_after_a_failed_sync_it_starts_again_from_what_is_on_disk(forge: Forge) -> None:
    told: list[Status] = []
    sealing = Sealer(forge.instance.data, told.append)
    forge.grow(5)
    with pytest.MonkeyPatch.context() as patch:
        syncs = iter([None, OSError(5, "Input/output error")])  # `leaves`, then `history`

        def sync(fd: int) -> None:
            if error := next(syncs):
                raise error

        patch.setattr(os, "fdatasync", sync)
        sealing.seal_all()
    sealing.seal_all()
    assert [status.ready for status in told] == [False, True]
    require_sound(forge, [5])


def test_it_seals_every_two_seconds_at_once_after_a_rotation_and_at_the_end(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    sizes: list[int] = []

    def look(*_: object) -> tuple[list[int], list[int], list[int]]:
        """Stands for `select`: a record comes before each look, and the end after 20 of them."""
        nonlocal looks
        path = forge.checkpoints / "history"
        sizes.append(history(forge)[-1].size if path.exists() else 0)
        looks += 1
        forge.grow(1)
        return ([0] if looks == 20 else []), [], []

    monkeypatch.setattr(select, "select", look)
    Sealer(forge.instance.data, lambda status: None).run(0)
    # At the start, 2 s (8 looks) later, when record 10 began a segment, 2 s after that; and at the end.
    assert sizes == [0, *[1] * 8, *[9] * 2, *[11] * 8, 19]
    require_sound(forge, [1, 9, 11, 19, 20])


def test_the_process_seals_and_ends_when_its_parent_is_gone(forge: Forge) -> None:
    forge.grow(5)
    command = [sys.executable, "-m", "audit.sealing", str(forge.instance.data)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert orjson.loads(ended.stdout) == {"ready": True, "reason": None, "failed": False}
    require_sound(forge, [5])


def test_the_process_says_why_it_cannot_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert process.main(str(tmp_path)) == 3
    status = orjson.loads(capsys.readouterr().out)
    assert status["ready"] is False and "never initialised" in status["reason"]


def test_seal_once(forge: Forge) -> None:
    forge.grow(3)
    seal_once(forge.instance)
    require_sound(forge, [3])


# --- the key


def test_the_key_is_private_and_its_public_part_is_written_as_documented(forge: Forge) -> None:
    assert forge.instance.sealer_key.stat().st_mode & 0o777 == 0o600
    assert verifier_keys(forge.instance) == {"admin": forge.verifier}
    with pytest.raises(FileExistsError):
        create_key(forge.instance)


def test_what_is_not_such_a_key_is_refused_without_a_word_of_it(forge: Forge) -> None:
    elliptic = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"canary", elliptic):
        forge.instance.sealer_key.write_bytes(content)
        with pytest.raises(CheckpointInvalid) as refused:
            load_key(forge.instance.sealer_key)
        assert content.decode() not in str(refused.value)
    for text in ("canary!", "AAAA"):
        forge.instance.sealer_public_key.write_text(text)
        with pytest.raises(CheckpointInvalid) as refused:
            verifier_keys(forge.instance)
        assert text not in str(refused.value)


def test_a_key_of_another_name_is_not_the_logs_key(forge: Forge) -> None:
    forge.grow(1)
    forge.seal()
    with pytest.raises(CheckpointInvalid):
        open_checkpoint(forge.latest, VerifierKey.of("keytrail/other/admin", forge.key))
    assert (forge.folder / segment_name(0)).read_bytes() == line(0)
