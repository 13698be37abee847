"""Changes of the sealer's key: both sign, a crash between any two steps makes no second one, and verifiers follow."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit import durable
from audit.checkpoint import Checkpoint, sign, split_notes
from audit.companion import Status
from audit.errors import CheckpointInvalid
from audit.merkle import leaf_hash, root_of
from audit.report import Verdict
from audit.sealing import rotation
from audit.sealing.keys import KeyPlace, first_key, load_key, log_keys, new_key_file, read_chain, verifier_keys
from audit.sealing.process import Sealer
from audit.verify import verify
from audit.verifying.subject import Subject
from tests.audit.forge import Forge, line
from tests.audit.sealing.test_sealing import Crash
from tests.audit.verifying.verdicts import failed, faults, only

NOW = "2026-01-02T03:04:05Z"


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge.create(tmp_path)


@dataclass
class Running:
    """A sealer, and what it says."""

    forge: Forge
    place: KeyPlace | None = None

    def __post_init__(self) -> None:
        self.told: list[Status] = []
        self.sealer = Sealer(self.forge.instance.data, self.told.append, self.place, lambda: NOW)

    def grow(self, count: int = 5) -> None:
        self.forge.grow(count)
        self.sealer.seal_all()

    def rotate(self, **request: Any) -> None:  # Any: of `Request`
        number = len(read_chain(self.forge.instance).rotations) + 1
        rotation.ask(self.forge.instance, rotation.Request(number, **request))
        self.sealer.seal_all()


def test_a_rotation_is_signed_by_both_and_what_follows_by_the_new_key_alone(forge: Forge) -> None:
    running, first = Running(forge), forge.verifier
    running.grow()
    running.rotate()
    second = forge.verifier
    assert second != first and verifier_keys(forge.instance) == {"admin": second}
    assert first_key(forge.instance) == first.public_key, "sealer.pub stays the first key"
    (change,) = read_chain(forge.instance).rotations
    assert (change.number, change.time, change.old_key, change.new_key) == (1, NOW, first.public_key, second.public_key)
    assert change.last["admin"].size == 5 and change.compromised_since is None
    assert not rotation.asked(forge.instance) and not KeyPlace().next_file(forge.instance).exists()
    running.grow()
    assert running.told == [Status(ready=True)]
    assert log_keys(forge.instance, first).at(10) == second
    for trusted in (first, second):
        report = verify(forge.instance.data, [trusted])
        assert report.passed and only(report).sealed == 10, [str(fault) for fault in report.faults]
    assert verify(forge.instance.data).passed
    running.rotate()
    running.grow()
    for trusted in (first, second, forge.verifier):
        assert verify(forge.instance.data, [trusted]).passed
    assert Running(forge).told == []


def test_a_new_sealer_goes_on_with_the_new_key_and_an_idle_log_keeps_the_old_keys_note(forge: Forge) -> None:
    running = Running(forge)
    running.grow()
    running.rotate()
    again = Running(forge)
    again.sealer.seal_all()
    assert again.told == [Status(ready=True)]
    report = verify(forge.instance.data)
    assert report.passed and only(report).sealed == 5
    assert [step.verdict for step in only(report).steps if step.number == 6] == [Verdict.PASSED]


def test_a_key_that_is_changed_while_the_log_is_verified_is_no_fault(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    running, first = Running(forge), forge.verifier
    running.grow()
    real, looks = Subject.history_bytes, 0

    def look(subject: Subject) -> int:
        nonlocal looks
        looks += 1
        if looks == 2:  # between two looks at the history
            running.rotate()
            running.grow()
        return real(subject)

    monkeypatch.setattr(Subject, "history_bytes", look)
    for trusted in ([first], []):
        looks = 0
        report = verify(forge.instance.data, trusted)
        assert looks >= 2 and report.passed, [str(fault) for fault in report.faults]


def test_before_anything_was_sealed(forge: Forge) -> None:
    first = forge.verifier
    running = Running(forge)
    running.rotate()
    running.grow()
    assert verify(forge.instance.data, [first]).passed


def test_the_old_key_signs_for_nothing_beyond_its_size(forge: Forge) -> None:
    running, old, first = Running(forge), forge.key, forge.verifier
    running.grow()
    saved = forge.latest
    running.rotate()
    forge.grow(5)
    text = b"".join(forge.segment(0).read_bytes().splitlines(keepends=True))
    root = root_of([leaf_hash(one) for one in text.split(b"\n")[:10]])
    stolen = sign(Checkpoint(first.name, 10, root), old)
    with (forge.checkpoints / "history").open("a") as file:
        file.write("\n" + stolen)
    (forge.checkpoints / "latest").write_text(stolen)
    for keys in ([], [first], [forge.verifier]):
        report = verify(forge.instance.data, keys)
        assert 4 in failed(report) and "that key alone is valid for 10 records" in str(faults(report, 4)[0])
    again = Running(forge)
    again.sealer.seal_all()
    assert not again.told[0].ready, "nor does the sealer go on from it"
    assert verify(forge.instance.data, saved=[saved]).faults and not faults(verify(forge.instance.data, saved=[saved]), 7)
    assert faults(verify(forge.instance.data, saved=[stolen]), 7), "as a saved checkpoint neither"


def test_a_history_that_was_rewritten_with_a_stolen_old_key_contradicts_the_change(forge: Forge) -> None:
    running, old, first = Running(forge), forge.key, forge.verifier
    running.grow()
    running.rotate()
    forge.write(0, [line(number, word="Decrypt") for number in range(5)])
    root = root_of([leaf_hash(line(number, word="Decrypt")[:-1]) for number in range(5)])
    note = sign(Checkpoint(first.name, 5, root), old)
    for name in ("history", "latest"):
        (forge.checkpoints / name).write_text(note)
    (forge.checkpoints / "frontier").unlink()
    report = verify(forge.instance.data, [first])
    assert failed(report) == {5} and "change 1 of the sealer's key (5 records)" in str(faults(report, 5)[0])


def test_a_compromised_key_is_followed_by_nobody_who_trusts_it_alone(forge: Forge) -> None:
    running, first = Running(forge), forge.verifier
    running.grow()
    running.rotate(compromised_since="2026-01-01T00:00:00Z")
    running.grow()
    report = verify(forge.instance.data, [first])
    assert failed(report) == {4} and "in other hands since 2026-01-01T00:00:00Z" in str(faults(report, 4)[0])
    assert verify(forge.instance.data, [forge.verifier]).passed
    saved = split_notes((forge.checkpoints / "history").read_text())[0]
    assert verify(forge.instance.data, [forge.verifier], [saved]).passed, "the new key vouches for what was before"


def test_a_chain_that_was_damaged_or_put_back_is_a_fault(forge: Forge) -> None:
    running, first = Running(forge), forge.verifier
    running.grow()
    running.rotate()
    running.grow()
    chain = forge.instance.key_chain
    whole = chain.read_bytes()
    chain.write_bytes(whole.replace(b"admin 5 ", b"admin 6 "))
    report = verify(forge.instance.data, [first])
    assert "the chain of the sealer's keys" in str(faults(report, 4)[0])
    chain.unlink()
    assert 4 in failed(verify(forge.instance.data, [first]))
    (again := Running(forge)).sealer.seal_all()
    assert "is not the key of today, which sealer.pub names" in str(again.told[0].reason)
    chain.write_bytes(whole)
    forge.instance.sealer_public_key.write_text(rotation.encoded(bytes(range(32))))
    with pytest.raises(CheckpointInvalid, match="does not begin with"):
        verifier_keys(forge.instance)


def test_a_key_elsewhere_follows_and_the_old_one_is_refused_from_then_on(forge: Forge, tmp_path: Path) -> None:
    first = forge.verifier
    running = Running(forge)
    running.grow()
    other = tmp_path / "other.key"
    other.write_bytes(forge.instance.sealer_key.read_bytes())
    running.rotate(new=str(other))
    assert "names no two keys" in str(running.told[-1].reason), "the same key again is no change"
    other.write_bytes(new_key_file())
    running.sealer.seal_all()
    running.grow()
    assert running.told[-1] == Status(ready=True), "the running sealer goes on"
    assert verify(forge.instance.data, [first]).passed
    (again := Running(forge)).sealer.seal_all()
    assert "does `sealer_key` say where that is?" in str(again.told[0].reason)
    moved = Running(forge, KeyPlace(str(other)))
    moved.grow()
    assert moved.told == [Status(ready=True)] and verify(forge.instance.data, [first]).passed


def test_a_request_that_is_none_is_told_and_changes_nothing(forge: Forge) -> None:
    running = Running(forge)
    running.grow()
    path = forge.instance.key_chain.with_name("rotation")
    for content in (b"", b"[]", b'{"number": "x", "new": "", "compromised_since": null}'):
        path.write_bytes(content)
        running.sealer.seal_all()
        assert "no request of a change of the key" in str(running.told[-1].reason)
    path.unlink()
    running.grow()
    assert running.told[-1] == Status(ready=True) and not read_chain(forge.instance).rotations


def another_users(path: Path) -> None:
    """Give `path` to a user that is neither this one nor root; skips where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 65_533, -1)


@pytest.fixture
def as_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes itself for that of a user who is not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 65_532)


@pytest.mark.usefixtures("as_a_user")
def test_a_request_that_another_user_left_is_told_and_changes_nothing(forge: Forge) -> None:
    running = Running(forge)
    running.grow()
    rotation.ask(forge.instance, rotation.Request(1))
    path = forge.instance.key_chain.with_name("rotation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 0)
        another_users(path)
    running.grow()
    assert "belongs to user 65533, not to the sealer's, 65532" in str(running.told[-1].reason)
    assert not read_chain(forge.instance).rotations
    os.chown(path, 0, -1)  # root's is one
    running.sealer.seal_all()
    assert len(read_chain(forge.instance).rotations) == 1


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_request_that_is_no_file_is_told_and_holds_nothing_up(forge: Forge, tmp_path: Path, kind: str) -> None:
    running = Running(forge)
    running.grow()
    path = forge.instance.key_chain.with_name("rotation")
    if kind == "link":
        rotation.ask(forge.instance, rotation.Request(1))
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path)
    running.grow()
    assert not running.told[-1].ready and not read_chain(forge.instance).rotations


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("folder", ["checkpoints", "checkpoints/admin"])
def test_checkpoints_that_are_another_users_are_not_written(forge: Forge, folder: str) -> None:
    running = Running(forge)
    running.grow()
    before = forge.latest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 0)
        another_users(forge.instance.data / folder)
    forge.grow(5)
    anew = Running(forge)
    anew.sealer.seal_all()
    assert "belongs to user 65533" in str(anew.told[-1].reason)
    assert forge.latest == before


def test_a_change_is_made_at_once_but_one_that_fails_waits_its_turn(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    steps: list[int] = []
    running = Running(forge)
    step = running.sealer.seal_all

    def look(*_: object) -> tuple[list[int], list[int], list[int]]:
        """Stands for `select`, four times a second."""
        nonlocal looks
        looks += 1
        if looks == 10:
            rotation.ask(forge.instance, rotation.Request(1, new=str(forge.instance.data / "nothing")))
        if looks == 40:
            rotation.ask(forge.instance, rotation.Request(1))
        return ([0] if looks == 60 else []), [], []

    def seal_all() -> None:
        steps.append(looks)
        step()

    monkeypatch.setattr(select, "select", look)
    monkeypatch.setattr(running.sealer, "seal_all", seal_all)
    forge.grow(1)
    running.sealer.run(0)
    assert steps == [1, 9, 10, 18, 26, 34, 42, 50, 58, 60], "at once when it is asked, then every two seconds"
    assert [status.ready for status in running.told] == [True, False, True]
    assert len(read_chain(forge.instance).rotations) == 1


def test_where_a_log_cannot_be_sealed_the_key_stays(forge: Forge) -> None:
    running = Running(forge)
    running.grow(15)
    forge.grow(10)
    forge.segment(1).unlink()
    forge.segment(2).unlink()
    running.rotate()
    assert not running.told[-1].ready and rotation.asked(forge.instance) is not None
    assert not read_chain(forge.instance).rotations


def crash_in_files(monkeypatch: pytest.MonkeyPatch, number: int, *, done: bool) -> Callable[[], int]:
    """Let the operation `number` on files be the last, with its effect or without; gives how many there were."""
    count = 0

    def breaking(operation: Callable[..., Any]) -> Callable[..., Any]:
        def operate(*arguments: Any, **options: Any) -> Any:  # Any: these stand for functions of every signature
            nonlocal count
            count += 1
            if count - 1 != number:
                return operation(*arguments, **options)
            if done:
                operation(*arguments, **options)
            raise Crash

        return operate

    for holder, name in (
        *((durable, name) for name in ("write_all", "sync_folder")),
        *((os, name) for name in ("rename", "fsync", "fdatasync", "unlink")),
        *((Path, name) for name in ("rename", "unlink", "write_bytes")),
    ):
        monkeypatch.setattr(holder, name, breaking(getattr(holder, name)))
    return lambda: count


@pytest.mark.parametrize("done", [False, True])
def test_a_crash_between_any_two_steps_of_a_rotation(tmp_path: Path, *, done: bool) -> None:
    number, total = 0, 200
    while number < total:
        data = tmp_path / f"{number}"
        data.mkdir()
        forge = Forge.create(data)
        first = forge.verifier
        Running(forge).grow(13)
        forge.grow(4)
        rotation.ask(forge.instance, rotation.Request(1))
        crashing = Running(forge)
        with pytest.MonkeyPatch.context() as patch:
            count = crash_in_files(patch, number, done=done)
            try:
                crashing.sealer.seal_all()
                total = count()
            except Crash:
                pass
        after = Running(forge)
        after.sealer.seal_all()
        after.grow(3)
        assert after.told == [Status(ready=True)], number
        chain = read_chain(forge.instance)
        assert len(chain.rotations) == 1 and chain.rotations[0].last["admin"].size == 17
        assert load_key(forge.instance.sealer_key).public_key().public_bytes_raw() == chain.rotations[0].new_key
        assert rotation.asked(forge.instance) is None and not KeyPlace().next_file(forge.instance).exists()
        for trusted in (first, forge.verifier):
            report = verify(forge.instance.data, [trusted])
            assert report.passed and only(report).sealed == 20, [str(fault) for fault in report.faults]
        number += 1
    assert total >= 25, "each of the steps was broken once"
