"""What the sealer remembers beside its key: a data folder put back as it was is refused, and a crash is none of that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit.checkpoint import Checkpoint, sign
from audit.companion import Status
from audit.errors import CheckpointInvalid
from audit.instance import Instance
from audit.sealing.keys import KeyPlace, create_key
from audit.sealing.log_sealer import LogSealer
from audit.sealing.process import Sealer, seal_once
from audit.sealing.state import Remembered, SealerState
from tests.audit.forge import Forge, line
from tests.audit.sealing.test_sealing import Crash, Effect, crash_at, history, require_sound


@pytest.fixture
def place(tmp_path: Path) -> KeyPlace:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return KeyPlace(str(elsewhere / "signing.key"))


@pytest.fixture
def forge(tmp_path: Path, place: KeyPlace) -> Forge:
    data = tmp_path / "data"
    data.mkdir()
    return make_forge(data, place)


def make_forge(data: Path, place: KeyPlace) -> Forge:
    instance = Instance.create(data, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z")
    create_key(instance, place)
    instance.save()
    if place.key:
        instance.sealer_key.symlink_to(place.file(instance))  # for the forge's own looks; the sealer is told the place
    return Forge(instance)


def seal(forge: Forge, place: KeyPlace) -> list[Status]:
    told: list[Status] = []
    Sealer(forge.instance.data, told.append, place).seal_all()
    return told


def test_the_state_is_beside_the_key_that_is_elsewhere(forge: Forge, place: KeyPlace) -> None:
    forge.grow(5)
    assert seal(forge, place) == [Status(ready=True)]
    path = Path(place.key).with_suffix(".state")
    assert place.state_file(forge.instance) == path and path.stat().st_mode & 0o777 == 0o600
    assert SealerState(path, forge.instance.id).of("admin") == Remembered("", forge.latest)
    first = forge.latest
    forge.grow(1)
    seal(forge, place)
    assert SealerState(path, forge.instance.id).of("admin") == Remembered(first, forge.latest)
    assert KeyPlace().state_file(forge.instance) == forge.instance.data / "checkpoints" / "sealer.state"
    assert KeyPlace("awskms:alias/x").state_file(forge.instance) == forge.instance.data / "checkpoints" / "sealer.state"
    assert KeyPlace(place.key, "/x/y").state_file(forge.instance) == Path("/x/y")


def test_a_data_folder_put_back_as_it_was_is_refused(forge: Forge, place: KeyPlace, tmp_path: Path) -> None:
    forge.grow(5)
    seal(forge, place)
    shutil.copytree(forge.instance.data, tmp_path / "last-week", symlinks=True)
    forge.grow(5)
    seal(forge, place)
    forge.grow(5)
    seal(forge, place)
    shutil.rmtree(forge.instance.data)
    (tmp_path / "last-week").rename(forge.instance.data)
    back = Forge(forge.instance, records=5)
    (status,) = seal(back, place)
    assert "15 records were signed for, as the sealer's own state says, but its history ends at 5 records" in str(status.reason)
    back.append(*(line(number, word="Decrypt") for number in range(5, 20)))  # another history in its place
    (status,) = seal(back, place)
    assert not status.ready
    assert [note.size for note in history(back)] == [5]


@pytest.mark.parametrize("lost", ["history", "latest-and-history", "everything"])
def test_lost_checkpoints_are_refused(forge: Forge, place: KeyPlace, lost: str) -> None:
    for _ in range(2):
        forge.grow(5)
        seal(forge, place)
    (forge.checkpoints / "history").unlink()
    if lost != "history":
        (forge.checkpoints / "latest").unlink()
    if lost == "everything":
        shutil.rmtree(forge.checkpoints)
    (status,) = seal(forge, place)
    assert "10 records were signed for" in str(status.reason)


def test_another_note_for_the_same_size_is_refused(forge: Forge, place: KeyPlace) -> None:
    forge.grow(5)
    seal(forge, place)
    other = sign(Checkpoint(forge.instance.origin("admin"), 5, bytes(32)), forge.key)
    SealerState(place.state_file(forge.instance), forge.instance.id).remember("admin", "", other)
    (status,) = seal(forge, place)
    assert "5 records were signed for, as the sealer's own state says" in str(status.reason)


def test_what_a_crash_kept_from_the_history_does_not_stand_over_other_lines(forge: Forge, place: KeyPlace) -> None:
    """The state has the next note, the history not yet; and before the sealer started again a line was changed."""
    forge.grow(5)
    seal(forge, place)
    first = forge.latest
    forge.grow(3)
    seal(forge, place)
    before = (forge.checkpoints / "history").read_text("utf-8")
    for name in ("history", "latest"):
        (forge.checkpoints / name).write_text(first, "utf-8")
    honest = forge.lines(0)
    forge.write(0, [*honest[:6], line(6, word="Decrypt"), honest[7]])
    (status,) = seal(forge, place)
    assert "its first 8 records are not those that were signed for" in str(status.reason)
    assert (forge.checkpoints / "history").read_text("utf-8") == first
    forge.write(0, honest)
    assert seal(forge, place) == [Status(ready=True)]
    assert (forge.checkpoints / "history").read_text("utf-8") == before


def test_a_state_that_is_older_than_the_history_or_missing_begins_anew(forge: Forge, place: KeyPlace) -> None:
    path = place.state_file(forge.instance)
    forge.grow(5)
    seal(forge, place)
    older = path.read_bytes()
    forge.grow(5)
    seal(forge, place)
    for put in (older, None):
        path.unlink()
        if put is not None:
            path.write_bytes(put)
        forge.grow(1)
        assert seal(forge, place) == [Status(ready=True)]
        assert SealerState(path, forge.instance.id).of("admin") is not None
    require_sound(forge, [5, 10, 11, 12])


@pytest.mark.parametrize(
    "content", [b"", b"x", b"[]", b'{"format":2,"instance":"x","logs":{}}', b'{"format":1,"instance":"other","logs":{}}']
)
def test_what_is_no_state_of_this_instance_is_refused(forge: Forge, place: KeyPlace, content: bytes) -> None:
    forge.grow(5)
    place.state_file(forge.instance).write_bytes(content)
    with pytest.raises(CheckpointInvalid, match="state"):
        seal_once(forge.instance, place)
    (status,) = seal(forge, place)
    assert not status.ready and not (forge.checkpoints / "history").exists()


@pytest.mark.parametrize("sealed_before", [0, 13])
@pytest.mark.parametrize("effect", ["nothing", "half", "all"])
def test_a_crash_at_any_point_with_a_state_is_mended_by_the_next_start(
    tmp_path: Path, effect: Effect, sealed_before: int
) -> None:
    """Whatever was signed and remembered stands in the history at the end, as it was: nothing is signed twice differently."""
    number, total = 0, 100
    while number < total:
        data = tmp_path / f"{number}"
        data.mkdir()
        place = KeyPlace("", str(tmp_path / f"{number}.state"))
        forge = make_forge(data, place)
        if sealed_before:
            forge.grow(sealed_before)
            seal_once(forge.instance, place)
        forge.grow(12)
        state = SealerState(place.state_file(forge.instance), forge.instance.id)
        origin = forge.instance.origin("admin")
        sealing = LogSealer(forge.folder, forge.checkpoints, origin, forge.key, state=state)
        with pytest.MonkeyPatch.context() as patch:
            count = crash_at(patch, number, effect)
            try:
                sealing.seal()
                total = count()
            except Crash:
                pass
        remembered = SealerState(place.state_file(forge.instance), forge.instance.id).of("admin")
        forge.grow(1)  # what comes next must not take the place of what was signed
        seal_once(forge.instance, place)
        before = [sealed_before] if sealed_before else []
        sizes = [note.size for note in history(forge)]
        assert sizes in ([*before, sealed_before + 12, sealed_before + 13], [*before, sealed_before + 13])
        if remembered is not None:
            assert remembered.note in (forge.checkpoints / "history").read_text("utf-8")
        require_sound(forge, sizes)
        number += 1
    assert total >= 12, "each of the steps was broken once"
