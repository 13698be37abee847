"""The sealed store: what is in the file, who sees which change when, and what a wrong key or another hand meets."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy import sealed_store, store_file
from proxy.errors import SealBroken, SetupError
from proxy.sealed_store import SealedStore, Secret
from proxy.sealing import MasterKey, Row
from proxy.store_file import INSERT, MIGRATIONS

KEY = bytes(range(32))
INSTANCE = "0123456789abcdef"
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


def test_a_row_comes_back_whole_from_another_handle(store: SealedStore, path: Path) -> None:
    with store.change() as tx:
        tx.put("alias", "eu", "alias/a", {"n": [1, "ü"]}, Secret(SECRET), parent="k")
    other = SealedStore(path, KEY, INSTANCE)
    (entry,) = other.changes_since(0, ("alias",)).entries
    assert (entry.kind, entry.region, entry.id, entry.parent) == ("alias", "eu", "alias/a", "k")
    assert (entry.body, entry.secret.reveal(), entry.deleted) == ({"n": [1, "ü"]}, SECRET, False)
    other.close()


def test_secrets_are_on_no_disk_and_in_no_repr(store: SealedStore, path: Path) -> None:
    put(store, "k")
    for file in path.parent.iterdir():
        assert SECRET not in file.read_bytes()
    entry = store.changes_since(0, ("key",)).entries[0]
    assert entry.secret.reveal() == SECRET
    assert "CANARY" not in f"{entry!r} {entry} {entry.secret!r} {entry.secret}"
    with pytest.raises(TypeError):
        pickle.dumps(entry.secret)


def test_the_files_are_the_owners_alone(store: SealedStore, path: Path) -> None:
    put(store, "k")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert {"keystore.db", "keystore.db-wal", "keystore.generation"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_a_wrong_master_key_is_recognised_and_overwrites_nothing(store: SealedStore, path: Path) -> None:
    put(store, "k")
    store.close()
    before = path.read_bytes()
    with pytest.raises(SealBroken, match="master key does not open"):
        SealedStore(path, b"\1" * 32)
    assert path.read_bytes() == before
    again = SealedStore(path, KEY)
    assert again.changes_since(0, ("key",)).entries[0].secret.reveal() == SECRET
    again.close()


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_master_key_of_the_wrong_length(path: Path, length: int) -> None:
    with pytest.raises(SetupError, match="32 bytes"):
        SealedStore.create(path, bytes(length), INSTANCE)
    assert not path.exists()


def test_a_store_is_never_made_over_another(store: SealedStore, path: Path) -> None:
    put(store, "k")
    with pytest.raises(SetupError, match="never overwritten"):
        SealedStore.create(path, KEY, INSTANCE)
    assert len(store.changes_since(0, ("key",)).entries) == 1


def test_no_store_an_alien_file_and_another_instance(path: Path) -> None:
    with pytest.raises(SetupError, match="no key store"):
        SealedStore(path, KEY)
    assert not path.exists()
    path.write_bytes(b"not a database at all, but long enough" * 40)
    with pytest.raises(SetupError):
        SealedStore(path, KEY)
    path.unlink()
    SealedStore.create(path, KEY, INSTANCE).close()
    with pytest.raises(SetupError, match="belongs to instance"):
        SealedStore(path, KEY, "ffffffffffffffff")


def test_a_newer_schema_is_refused(store: SealedStore, path: Path) -> None:
    store.close()
    edit(path, "UPDATE meta SET value = ? WHERE name = 'schema'", b"%d" % (len(MIGRATIONS) + 1))
    with pytest.raises(SetupError, match=f"schema version {len(MIGRATIONS) + 1}"):
        SealedStore(path, KEY)


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
        SealedStore(path, b"\1" * 32)
    assert path.read_bytes() == before
    for _ in range(2):  # the second time there is nothing to do
        again = SealedStore(path, KEY)
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
        "s = S(Path(sys.argv[1]), bytes(range(32))); print(len([e.secret for e in s.changes_since(0, ('key',)).entries]))"
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
        SealedStore(path, KEY)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == (b"1",)
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'store_keys'").fetchone() == (0,)
    connection.close()


def test_an_older_schema_is_brought_up_to_date(store: SealedStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k")
    store.close()
    script = "ALTER TABLE entries ADD COLUMN later TEXT; INSERT INTO meta VALUES ('new', x'00')"
    for module, name in ((store_file, "MIGRATIONS"), (sealed_store, "MIGRATIONS")):
        monkeypatch.setattr(module, name, (*MIGRATIONS, script))
    for _ in range(2):  # the second time there is nothing to do
        again = SealedStore(path, KEY)
        assert again.changes_since(0, ("key",)).entries[0].secret.reveal() == SECRET
        again.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == (b"3",)
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET body = '{\"note\":\"forged\"}' WHERE id = 'a'",
        "UPDATE entries SET generation = generation + 5 WHERE id = 'a'",
        "UPDATE entries SET parent = 'x' WHERE id = 'a'",
        "UPDATE entries SET region = 'us' WHERE id = 'a'",
        "UPDATE entries SET kind = 'alias' WHERE id = 'a'",
        "UPDATE entries SET sealed = x'00' WHERE id = 'a'",
        "UPDATE entries SET sealed = (SELECT sealed FROM entries WHERE id = 'b') WHERE id = 'a'",
    ],
)
def test_a_row_that_another_hand_changed_does_not_open(store: SealedStore, path: Path, sql: str) -> None:
    put(store, "a")
    put(store, "b")
    assert len(store.changes_since(0, ("key", "alias")).entries) == 2
    edit(path, sql.replace("body = '", "body = CAST('").replace("}' WHERE", "}' AS BLOB) WHERE"))
    assert any("was changed by another hand" in told for told in store.damage())
    broken = 0
    for entry in store.changes_since(0, ("key", "alias")).entries:
        for _ in range(2):  # it stays broken
            try:
                assert (entry.id, entry.body) == ("b", {"note": ""})
            except SealBroken as fault:
                broken += 1
                assert "another hand" in str(fault)
                with pytest.raises(SealBroken):
                    _ = entry.secret
    assert broken == 2


def test_a_row_tells_what_it_claims_before_it_is_opened(store: SealedStore, path: Path) -> None:
    put(store, "a", note="mine")
    edit(path, "UPDATE entries SET body = CAST(replace(CAST(body AS TEXT), 'mine', 'yours') AS BLOB)")
    (entry,) = store.changes_since(0, ("key",)).entries
    assert entry.claimed == {"note": "yours"}
    with pytest.raises(SealBroken):
        _ = entry.body


def test_only_what_changed_is_read_again(store: SealedStore, path: Path) -> None:
    for name in ("a", "b", "c"):
        put(store, name)
    first = store.changes_since(0, ("key",))
    assert (first.complete, len(first.entries)) == (True, 3)
    other = SealedStore(path, KEY)
    put(other, "b", note="new")
    with other.change() as tx:
        tx.delete("key", "eu", "c")
    later = store.changes_since(first.generation, ("key",))
    assert not later.complete
    assert sorted((entry.id, entry.deleted, entry.secret.reveal()) for entry in later.entries) == [
        ("b", False, SECRET),
        ("c", True, b""),
    ]
    assert store.changes_since(later.generation, ("key",)).entries == ()
    other.close()


def test_a_tombstone_keeps_nothing_of_the_row(store: SealedStore, path: Path) -> None:
    put(store, "a", note="n" * 1000)
    with store.change() as tx:
        tx.delete("key", "eu", "a")
        assert tx.get("key", "eu", "a") is None
    with sqlite3.connect(path) as connection:
        body, sealed = connection.execute("SELECT body, sealed FROM entries").fetchone()
    connection.close()
    assert (body, len(sealed)) == (b"{}", 12 + 16)


def test_tombstones_are_bounded_and_a_reader_left_behind_gets_all_anew(
    store: SealedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed_store, "MOST_TOMBSTONES", 8)
    put(store, "stays")
    put(store, "k0")
    behind = store.changes_since(0, ("key",)).generation
    for number in range(30):
        put(store, f"k{number + 1}")
        with store.change() as tx:
            tx.delete("key", "eu", f"k{number}")
    recent = store.changes_since(0, ("key",)).generation - 1
    assert {entry.id for entry in store.changes_since(recent, ("key",)).entries} == {"k29"}
    caught_up = store.changes_since(behind, ("key",))
    assert caught_up.complete
    assert {entry.id for entry in caught_up.entries} == {"stays", "k30"}
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("SELECT count(*) FROM entries WHERE deleted = 1").fetchone()[0] <= 8
    connection.close()


def test_a_change_that_fails_or_writes_nothing_leaves_no_trace(store: SealedStore) -> None:
    put(store, "a")
    before = (store.published, store.changes_since(0, ("key",)))
    with pytest.raises(ZeroDivisionError), store.change() as tx:
        tx.put("key", "eu", "b", {})
        raise ZeroDivisionError
    with store.change() as tx:
        assert tx.get("key", "eu", "a") is not None
    assert store.published == before[0]
    assert [entry.id for entry in store.changes_since(0, ("key",)).entries] == ["a"]
    put(store, "c")  # and the store still takes changes
    assert store.published == before[0] + 1


def test_rows_are_found_by_what_their_parents_begin_with(store: SealedStore) -> None:
    with store.change() as tx:
        for name, parent in (
            ("1", "a x 1"),
            ("2", "a x 2"),
            ("3", "a y \U0010ffff"),
            ("4", "ab x 1"),
            ("5", "a"),
            ("6", ""),
            ("7", "b"),
        ):
            tx.put("kind", "r", name, {}, None, parent)
            tx.put("kind", "other region", name, {}, None, parent)
        tx.put("other kind", "r", "8", {}, None, "a x 1")
        tx.put("kind", "r", "9", {}, None, "a x 9")
        tx.delete("kind", "r", "9")
        for prefix, names in (("a ", "123"), ("a x ", "12"), ("a x 1", "1"), ("a", "12345"), ("c", ""), ("a z", "")):
            found = tx.children_below("kind", "r", prefix)
            assert "".join(entry.id for entry in found) == names
            assert tx.count_children_below("kind", "r", prefix) == len(names)


def test_every_handle_sees_the_generation_published(store: SealedStore, path: Path) -> None:
    other = SealedStore(path, KEY)
    seen = other.published
    put(store, "a")
    assert other.published == store.published == seen + 1
    put(other, "b")
    assert store.published == seen + 2
    other.close()


def test_a_late_publisher_hides_nothing(store: SealedStore, path: Path) -> None:
    """Two commit, 1 then 2; they publish 2 then 1. A reader that compares by `!=` has both."""
    other = SealedStore(path, KEY)
    seen, generation = other.published, other.changes_since(0, ("key",)).generation
    put(store, "a")
    put(store, "b")
    store._publish(store.published - 1)
    assert other.published != seen
    assert {entry.id for entry in other.changes_since(generation, ("key",)).entries} == {"a", "b"}
    other.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from proxy.sealed_store import SealedStore, Secret

store = SealedStore(Path(sys.argv[1]), bytes(range(32)))
store._publish = lambda generation: os.kill(os.getpid(), signal.SIGKILL)
with store.change() as tx:
    tx.put("key", "eu", "orphan", {}, Secret(b"s"))
"""


def test_what_a_process_killed_between_commit_and_publication_did_is_seen_after_the_next_start(
    store: SealedStore, path: Path
) -> None:
    seen, generation = store.published, store.changes_since(0, ("key",)).generation
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], env={**os.environ, "PYTHONPATH": "."}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.published == seen  # committed, and nobody was told
    restarted = SealedStore(path, KEY)
    restarted.announce()
    assert store.published != seen
    assert [entry.id for entry in store.changes_since(generation, ("key",)).entries] == ["orphan"]
    restarted.close()
