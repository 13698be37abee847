"""The sealed store in a SQLite file: what lies in the folder, files of version 1, and files that are no store."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import SealBroken, SetupError
from proxy.sealed_store import SealedStore, Secret
from proxy.sealing import MasterKey, Row
from proxy.store_database import INSERT
from proxy.store_file import MIGRATIONS
from tests.proxy.engines import INSTANCE, KEY

SECRET = b"CANARY-this-must-not-be-on-disk!"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keystore.db"


@pytest.fixture
def store(path: Path) -> Iterator[SealedStore]:
    one = SealedStore.create(path, KEY, INSTANCE)
    yield one
    one.close()


def put(store: SealedStore, name: str, secret: bytes = SECRET, note: str = "") -> None:
    with store.change() as tx:
        tx.put("key", "eu", name, {"note": note}, Secret(secret))


def edit(path: Path, sql: str, *arguments: object) -> None:
    """Another hand on the file."""
    connection = sqlite3.connect(path)
    connection.execute(sql, arguments)
    connection.commit()
    connection.close()


def test_secrets_are_on_no_disk(store: SealedStore, path: Path) -> None:
    put(store, "k")
    for file in path.parent.iterdir():
        assert SECRET not in file.read_bytes()


def test_an_alien_file_is_refused_and_left(path: Path) -> None:
    alien = b"not a database at all, but long enough" * 40
    path.write_bytes(alien)
    with pytest.raises(SetupError):
        SealedStore.at(path, KEY)
    assert path.read_bytes() == alien


def test_another_master_key_leaves_the_file_as_it_is(store: SealedStore, path: Path) -> None:
    put(store, "k")
    store.close()
    before = path.read_bytes()
    with pytest.raises(SealBroken, match="master key does not open"):
        SealedStore.at(path, b"\1" * 32)
    assert path.read_bytes() == before


def test_the_files_are_the_owners_alone(store: SealedStore, path: Path) -> None:
    put(store, "k")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert {"keystore.db", "keystore.db-wal", "keystore.generation"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def make_version_1(path: Path, names: tuple[str, ...]) -> None:
    """A store as version 1 wrote it: its rows are sealed under the master key itself."""
    seal = MasterKey(KEY).seal_of_version_1(INSTANCE, "")
    check = seal._cipher("check").encrypt(bytes(12), b"", b"")
    meta = {"schema": b"1", "instance": INSTANCE.encode(), "generation": b"7", "pruned": b"0", "check": bytes(12) + check}
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode = WAL;" + MIGRATIONS[0])
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    rows = [seal.close(Row("key", "eu", name, "", number, 0, b'{"note":""}', b""), SECRET) for number, name in enumerate(names)]
    connection.executemany(INSERT, rows)
    connection.commit()
    connection.close()


def test_a_store_of_version_1_is_sealed_anew_under_a_store_key(path: Path) -> None:
    make_version_1(path, ("a", "b"))
    before = path.read_bytes()
    with pytest.raises(SealBroken, match="master key does not open"):
        SealedStore.at(path, b"\1" * 32)
    assert path.read_bytes() == before
    for _ in range(2):  # the second time there is nothing to do
        again = SealedStore.at(path, KEY)
        entries = again.changes_since(0, ("key",)).entries
        assert [(entry.id, entry.generation, entry.secret.reveal()) for entry in entries] == [("a", 0, SECRET), ("b", 1, SECRET)]
        assert (again.generation, again.master_keys()) == (7, (MasterKey(KEY).id,))
        again.close()
    with sqlite3.connect(path) as connection:
        row = Row._make(
            connection.execute("SELECT kind, region, id, parent, generation, deleted, body, sealed FROM entries").fetchone()
        )
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == (b"2",)
    connection.close()
    with pytest.raises(SealBroken):
        MasterKey(KEY).seal_of_version_1(INSTANCE, "").open(row)  # who has the old master key has no row any more


def test_two_processes_may_bring_a_store_up_to_date_at_once(path: Path) -> None:
    make_version_1(path, tuple(map(str, range(200))))
    command = "import sys; from pathlib import Path; from proxy.sealed_store import SealedStore as S;" + (
        "s = S.at(Path(sys.argv[1]), bytes(range(32))); print(len([e.secret for e in s.changes_since(0, ('key',)).entries]))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", command, str(path)], env={**os.environ, "PYTHONPATH": "."}, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == [b"200\n", b"200\n"]


def test_a_store_of_version_1_with_a_row_that_does_not_open_stays_as_it_is(path: Path) -> None:
    make_version_1(path, ("a", "b"))
    edit(path, "UPDATE entries SET parent = 'x' WHERE id = 'b'")
    with pytest.raises(SealBroken, match="key b was changed by another hand"):
        SealedStore.at(path, KEY)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == (b"1",)
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'store_keys'").fetchone() == (0,)
    connection.close()


def test_a_late_publisher_hides_nothing(store: SealedStore, path: Path) -> None:
    """Two commit, 1 then 2; they publish 2 then 1. A reader that compares by `!=` has both."""
    other = SealedStore.at(path, KEY)
    seen, generation = other.published, other.changes_since(0, ("key",)).generation
    put(store, "a")
    put(store, "b")
    store._publish(store.published - 1)
    assert other.published != seen
    assert {entry.id for entry in other.changes_since(generation, ("key",)).entries} == {"a", "b"}
    other.close()
