"""The privacy key and the subjects' keys on disk: made once, by whoever is first; and gone when they are shredded."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audit.instance import Instance
from audit.private_keys import PrivacyKey
from audit.subjects import (
    PrivacyFault,
    Subjects,
    is_private,
    key_path,
    load_privacy_key,
    make_privacy_key,
    subjects_path,
)

KEY = PrivacyKey(bytes(range(32)))
ANNA, BEN = KEY.digest("patient", "anna"), KEY.digest("patient", "ben")
NONCE = bytes(12)


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    (tmp_path / "data").mkdir()
    return Instance.create(tmp_path / "data", "111122223333", "us-east-1", "2026-01-01T00:00:00Z")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Subjects, Subjects]]:
    """Two processes' handles on one file."""
    path = tmp_path / "privacy" / "subjects.db"
    one, other = Subjects(path, KEY, os.urandom), Subjects(path, KEY, os.urandom)
    yield one, other
    one.close()
    other.close()


def test_a_key_is_made_once_and_everyone_finds_it(pair: tuple[Subjects, Subjects]) -> None:
    one, other = pair
    assert one.find(ANNA) is None
    one.make(ANNA)
    made = one.find(ANNA)
    assert made is not None
    stored = made.encrypted("note", "hello", NONCE)
    other.make(ANNA)
    found, by_id = other.find(ANNA), other.by_id(made.id)
    assert found is not None
    assert by_id is not None
    assert found.decrypted("note", stored) == by_id.decrypted("note", stored) == "hello"
    assert one.find(BEN) is None


def test_many_that_make_the_same_key_at_once_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "privacy" / "subjects.db"
    handles = [Subjects(path, KEY, os.urandom) for _ in range(6)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda one: one.make(ANNA), handles))
    keys = {key.id for one in handles if (key := one.find(ANNA)) is not None}
    assert len(keys) == 1
    for one in handles:
        one.close()


def _make(path: Path) -> None:
    subjects = Subjects(path, KEY, os.urandom)
    subjects.make(ANNA)
    os._exit(9)  # as if it was killed: nothing is closed, no record was written


def test_a_key_outlives_a_crash_before_its_first_record(tmp_path: Path) -> None:
    path = tmp_path / "privacy" / "subjects.db"
    process = multiprocessing.get_context("spawn").Process(target=_make, args=(path,))
    process.start()
    process.join(30)
    assert process.exitcode == 9
    again = Subjects(path, KEY, os.urandom)
    found = again.find(ANNA)
    again.make(ANNA)
    assert found is not None
    assert again.find(ANNA) == found
    again.close()


def test_a_shredded_key_is_in_no_file_any_more_and_a_new_one_takes_its_place(
    pair: tuple[Subjects, Subjects], tmp_path: Path
) -> None:
    one, other = pair
    one.make(ANNA)
    one.make(BEN)
    old, ben = other.find(ANNA), other.find(BEN)
    assert old is not None
    files = [path for path in (tmp_path / "privacy").iterdir() if path.suffix != ".db-shm"]
    assert any(old.id.encode() in path.read_bytes() for path in files)
    [sealed] = sqlite3.connect(tmp_path / "privacy" / "subjects.db").execute(
        "SELECT sealed FROM subjects WHERE subject = ?", (ANNA,)
    ).fetchone()  # fmt: skip
    assert one.shred(ANNA) is True
    assert one.shred(ANNA) is False
    for path in (tmp_path / "privacy").iterdir():
        content = path.read_bytes()
        assert old.id.encode() not in content, path
        assert sealed not in content, path
    assert other.find(ANNA) is None  # which had it at hand
    assert other.by_id(old.id) is None
    assert other.find(BEN) == ben
    other.make(ANNA)
    new = one.find(ANNA)
    assert new is not None
    assert new.id != old.id


def test_a_reader_that_holds_the_write_ahead_log_is_told(
    pair: tuple[Subjects, Subjects], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    one.make(ANNA)
    one._writer.execute("PRAGMA busy_timeout = 0")
    holding = sqlite3.connect(one._path)
    holding.execute("BEGIN")
    holding.execute("SELECT * FROM subjects").fetchall()
    with pytest.raises(PrivacyFault, match="shred again"):
        one.shred(ANNA)
    assert other.find(ANNA) is None
    holding.close()
    assert one.shred(ANNA) is False
    assert (one._path.with_name("subjects.db-wal")).stat().st_size == 0


def test_a_row_that_was_altered_or_swapped_does_not_open(pair: tuple[Subjects, Subjects]) -> None:
    one, other = pair
    one.make(ANNA)
    with sqlite3.connect(one._path) as raw:
        raw.execute("UPDATE subjects SET subject = ?", (BEN,))
    raw.close()
    with pytest.raises(PrivacyFault, match="was altered"):
        other.find(BEN)


def test_another_privacy_key_is_noticed(pair: tuple[Subjects, Subjects]) -> None:
    with pytest.raises(PrivacyFault, match="not of this privacy key"):
        Subjects(pair[0]._path, PrivacyKey(bytes(32)), os.urandom)


def test_a_damaged_file_is_a_fault_in_words(tmp_path: Path) -> None:
    path = tmp_path / "privacy" / "subjects.db"
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1_000)
    with pytest.raises(PrivacyFault, match="cannot be used"):
        Subjects(path, KEY, os.urandom)


# --- the privacy key


def test_the_privacy_key_is_made_once_for_its_owner_alone(instance: Instance) -> None:
    assert not is_private(instance)
    with pytest.raises(PrivacyFault, match="cannot be read"):
        load_privacy_key(instance)
    with ThreadPoolExecutor(4) as threads:
        keys = list(threads.map(lambda _: make_privacy_key(instance, os.urandom), range(4)))
    assert len({key.digest("a", "b") for key in (*keys, load_privacy_key(instance))}) == 1
    assert key_path(instance).stat().st_mode & 0o777 == 0o600
    assert is_private(instance)
    assert [path.name for path in instance.data.iterdir() if "privacy" in path.name] == ["privacy.key"]


def test_a_privacy_key_that_vanished_is_not_made_anew(instance: Instance) -> None:
    Subjects(subjects_path(instance), make_privacy_key(instance, os.urandom), os.urandom).close()
    key_path(instance).unlink()
    with pytest.raises(PrivacyFault, match="vanished"):
        make_privacy_key(instance, os.urandom)
    assert is_private(instance)


@pytest.mark.parametrize("content", [b"", b"AAAA\n", b"***"])
def test_a_privacy_key_that_is_none(instance: Instance, content: bytes) -> None:
    key_path(instance).write_bytes(content)
    with pytest.raises(PrivacyFault, match="does not hold 32 bytes"):
        load_privacy_key(instance)
