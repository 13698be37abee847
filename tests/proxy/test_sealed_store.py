"""The sealed store, on each database: what is in it, who sees which change when, and what a wrong key or another hand meets."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from proxy import store_file, store_server, transaction
from proxy.errors import SealBroken, SetupError
from proxy.sealed_store import SealedStore, Secret
from tests.proxy.engines import INSTANCE, KEY, Engine, FileEngine, ServerEngine, meet

SECRET = b"CANARY-this-must-not-be-on-disk!"


@pytest.fixture
def store(engine: Engine) -> Iterator[SealedStore]:
    engine.make()
    one = engine.open()
    yield one
    one.close()


@pytest.fixture
def other(store: SealedStore, engine: Engine) -> Iterator[SealedStore]:
    """Another process's handle on the same."""
    with closing(engine.open()) as one:
        yield one


def put(store: SealedStore, name: str, secret: bytes = SECRET, note: str = "") -> None:
    with store.change() as tx:
        tx.put("key", "eu", name, {"note": note}, Secret(secret))


def test_a_row_comes_back_whole_from_another_handle(store: SealedStore, other: SealedStore) -> None:
    with store.change() as tx:
        tx.put("alias", "eu", "alias/a", {"n": [1, "ü"]}, Secret(SECRET), parent="k")
    meet(other, store)
    (entry,) = other.changes_since(0, ("alias",)).entries
    assert (entry.kind, entry.region, entry.id, entry.parent) == ("alias", "eu", "alias/a", "k")
    assert (entry.body, entry.secret.reveal(), entry.deleted) == ({"n": [1, "ü"]}, SECRET, False)


def test_secrets_are_sealed_and_in_no_repr(store: SealedStore, engine: Engine) -> None:
    put(store, "k")
    assert not any(SECRET in value for row in engine.execute("SELECT body, sealed FROM entries") for value in row)
    entry = store.changes_since(0, ("key",)).entries[0]
    assert entry.secret.reveal() == SECRET
    assert "CANARY" not in f"{entry!r} {entry} {entry.secret!r} {entry.secret}"
    with pytest.raises(TypeError):
        pickle.dumps(entry.secret)


def test_a_wrong_master_key_is_recognised_and_overwrites_nothing(store: SealedStore, engine: Engine) -> None:
    put(store, "k")
    before = engine.execute("SELECT * FROM meta ORDER BY name"), engine.execute("SELECT * FROM store_keys")
    with pytest.raises(SealBroken, match="master key does not open"):
        engine.open(b"\1" * 32)
    assert (engine.execute("SELECT * FROM meta ORDER BY name"), engine.execute("SELECT * FROM store_keys")) == before
    with closing(engine.open()) as again:
        assert again.changes_since(0, ("key",)).entries[0].secret.reveal() == SECRET


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_master_key_of_the_wrong_length(engine: Engine, length: int) -> None:
    with pytest.raises(SetupError, match="32 bytes"):
        engine.make(bytes(length))
    with pytest.raises(SetupError, match="no key store"):
        engine.open()


def test_a_store_is_never_made_over_another(store: SealedStore, engine: Engine) -> None:
    put(store, "k")
    with pytest.raises(SetupError, match="never overwritten"):
        engine.make()
    assert len(store.changes_since(0, ("key",)).entries) == 1


def test_no_store_and_another_instances(engine: Engine) -> None:
    for _ in range(2):  # asking makes none
        with pytest.raises(SetupError, match="no key store"):
            engine.open()
    engine.make()
    with pytest.raises(SetupError, match="belongs to instance"):
        engine.open(instance="ffffffffffffffff")
    engine.open(instance=INSTANCE).close()


def test_what_is_not_whole_is_no_store(store: SealedStore, engine: Engine) -> None:
    engine.execute("DELETE FROM meta WHERE name = 'instance'")
    with pytest.raises(SetupError, match="is not a key store of keytrail"):
        engine.open()


def test_a_newer_schema_is_refused(store: SealedStore, engine: Engine) -> None:
    newer = len(store_file.MIGRATIONS) + 1
    engine.execute("UPDATE meta SET value = ? WHERE name = 'schema'", b"%d" % newer)
    with pytest.raises(SetupError, match=f"schema version {newer}"):
        engine.open()


def test_both_databases_have_the_same_versions() -> None:
    assert len(store_file.MIGRATIONS) == len(store_server.MIGRATIONS)


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_older_schema_is_brought_up_to_date(
    store: SealedStore, engine: Engine, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    put(store, "k")
    store.close()
    byte = {FileEngine: "x'00'", ServerEngine: "decode('00', 'hex')"}[type(engine)]
    script = f"ALTER TABLE entries ADD COLUMN later TEXT; INSERT INTO meta VALUES ('new', {byte})"  # noqa: S608 - ours
    for database in (store_file.FileDatabase, store_server.ServerDatabase):
        monkeypatch.setattr(database, "migrations", (*database.migrations, script))
    opened: list[SealedStore] = []
    threads = [threading.Thread(target=lambda: opened.append(engine.open())) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == at_once
    for one in (*opened, engine.open()):  # the last time there is nothing to do
        assert one.changes_since(0, ("key",)).entries[0].secret.reveal() == SECRET
        one.close()
    assert engine.execute("SELECT value FROM meta WHERE name = 'schema'") == [(b"3",)]


@pytest.mark.parametrize(
    ("edit", "value"),
    [
        ("body = ?", b'{"note":"forged"}'),
        ("generation = generation + ?", 5),
        ("parent = ?", "x"),
        ("region = ?", "us"),
        ("kind = ?", "alias"),
        ("sealed = ?", b"\0"),
        ("sealed = (SELECT sealed FROM entries WHERE id = ?)", "b"),
    ],
)
def test_a_row_that_another_hand_changed_does_not_open(store: SealedStore, engine: Engine, edit: str, value: object) -> None:
    put(store, "a")
    put(store, "b")
    assert len(store.changes_since(0, ("key", "alias")).entries) == 2
    engine.execute(f"UPDATE entries SET {edit} WHERE id = 'a'", value)  # noqa: S608 - of the list above
    assert any("was changed by another hand" in told for told in store.damage())
    broken = 0
    with closing(engine.open()) as again:
        for entry in again.changes_since(0, ("key", "alias")).entries:
            for _ in range(2):  # it stays broken
                try:
                    assert (entry.id, entry.body) == ("b", {"note": ""})
                except SealBroken as fault:
                    broken += 1
                    assert "another hand" in str(fault)
                    with pytest.raises(SealBroken):
                        _ = entry.secret
    assert broken == 2


def test_a_row_tells_what_it_claims_before_it_is_opened(store: SealedStore, engine: Engine) -> None:
    put(store, "a", note="mine")
    engine.execute("UPDATE entries SET body = ?", b'{"note":"yours"}')
    with closing(engine.open()) as again:
        (entry,) = again.changes_since(0, ("key",)).entries
    assert entry.claimed == {"note": "yours"}
    with pytest.raises(SealBroken):
        _ = entry.body


def test_only_what_changed_is_read_again(store: SealedStore, other: SealedStore) -> None:
    for name in ("a", "b", "c"):
        put(store, name)
    first = store.changes_since(0, ("key",))
    assert (first.complete, len(first.entries)) == (True, 3)
    put(other, "b", note="new")
    with other.change() as tx:
        tx.delete("key", "eu", "c")
    meet(store, other)
    later = store.changes_since(first.generation, ("key",))
    assert not later.complete
    assert sorted((entry.id, entry.deleted, entry.secret.reveal()) for entry in later.entries) == [
        ("b", False, SECRET),
        ("c", True, b""),
    ]
    assert store.changes_since(later.generation, ("key",)).entries == ()


def test_a_tombstone_keeps_nothing_of_the_row(store: SealedStore, engine: Engine) -> None:
    put(store, "a", note="n" * 1000)
    with store.change() as tx:
        tx.delete("key", "eu", "a")
        assert tx.get("key", "eu", "a") is None
    ((body, sealed),) = engine.execute("SELECT body, sealed FROM entries")
    assert (body, len(sealed)) == (b"{}", 12 + 16)


def test_tombstones_are_bounded_and_a_reader_left_behind_gets_all_anew(
    store: SealedStore, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "MOST_TOMBSTONES", 8)
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
    ((tombstones,),) = engine.execute("SELECT count(*) FROM entries WHERE deleted = 1")
    assert tombstones <= 8


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


def test_names_are_in_the_order_of_their_bytes_and_kept_apart(store: SealedStore) -> None:
    names = ("B", "a", "Z", "ä", "A-1", "A_1", "é", "%", "?")
    with store.change() as tx:
        for name in names:
            tx.put("kind", "r", name, {"of": name}, None, "parent")
        assert [entry.id for entry in tx.children_below("kind", "r", "p")] == sorted(names)
        assert {entry.body["of"] for entry in tx.children("kind", "r", "parent")} == set(names)
        assert (tx.count_children("kind", "r", "parent"), len(tx.all("kind", "r"))) == (len(names), len(names))


def test_what_is_forgotten_is_gone_without_a_tombstone(store: SealedStore, engine: Engine) -> None:
    put(store, "a")
    put(store, "b")
    with store.change() as tx:
        assert [entry.id for entry in tx.forget("key", tx.generation - 2)] == ["a"]
        tx.put("key", "eu", "c", {})
    assert engine.execute("SELECT id FROM entries ORDER BY id") == [("b",), ("c",)]
    found = store.find("key", "eu", "b")
    assert found is not None and found.secret.reveal() == SECRET
    assert store.find("key", "eu", "a") is None


def test_every_handle_sees_the_generation_published(store: SealedStore, other: SealedStore) -> None:
    seen = other.published
    put(store, "a")
    assert store.published == seen + 1
    meet(other, store)
    put(other, "b")
    meet(store, other)
    assert store.published == seen + 2


def test_changes_of_many_are_dense_and_none_is_lost(engine: Engine, store: SealedStore) -> None:
    each, handles = 10, [engine.open() for _ in range(3)]

    def count(handle: SealedStore) -> None:
        for _ in range(each):
            with handle.change() as tx:
                found = tx.get("counter", "", "one")
                tx.put("counter", "", "one", {"n": 1 + (0 if found is None else found.body["n"])})
            (entry,) = handle.changes_since(0, ("counter",)).entries  # what one has changed oneself, one sees
            assert entry.body["n"] >= 1

    before = store.generation
    threads = [threading.Thread(target=count, args=(handle,)) for handle in handles for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.find("counter", "", "one")
    assert found is not None and found.body["n"] == 6 * each == store.generation - before
    for handle in handles:
        handle.close()


def test_another_master_key_opens_it_too_until_one_is_kept(store: SealedStore, engine: Engine) -> None:
    put(store, "k")
    new = b"\7" * 32
    store.add_master_key(new)
    with closing(engine.open(new)) as opened:
        assert len(opened.master_keys()) == 2
        opened.keep_master_key(opened.master_key_id)
        assert opened.changes_since(0, ("key",)).entries[0].secret.reveal() == SECRET
        with pytest.raises(LookupError):
            opened.keep_master_key("ffff")
    with pytest.raises(SealBroken):
        engine.open(KEY)


KILLED = """
import os, signal, sys
from pathlib import Path
from proxy.sealed_store import SealedStore, Secret
from proxy.store_server import StorePlace

place, key = sys.stdin.readline().strip(), bytes(range(32))
store = SealedStore(StorePlace(place, 10.0).open(), key) if "://" in place else SealedStore.at(Path(place), key)
store._publish = lambda generation: os.kill(os.getpid(), signal.SIGKILL)
with store.change() as tx:
    tx.put("key", "eu", "orphan", {}, Secret(b"s"))
"""


def test_what_a_process_killed_between_commit_and_publication_did_is_seen_after_the_next_start(
    store: SealedStore, engine: Engine
) -> None:
    generation = store.changes_since(0, ("key",)).generation
    place = str(engine.path) if isinstance(engine, FileEngine) else ""
    if isinstance(engine, ServerEngine):
        place = engine.server.url(engine.database)
    argv, environment = [sys.executable, "-c", KILLED], {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run(argv, env=environment, input=place.encode(), check=False)
    assert done.returncode == -signal.SIGKILL
    with closing(engine.open()) as restarted:
        restarted.announce()
        meet(store, restarted)
        assert [entry.id for entry in store.changes_since(generation, ("key",)).entries] == ["orphan"]
