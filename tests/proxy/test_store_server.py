"""The sealed store on a PostgreSQL server that fails: killed, cut off, silent, put back; and what it tells then."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import closing

import pytest

from proxy import store_server
from proxy.errors import SetupError
from proxy.sealed_store import SealedStore, Secret, StoreFailed
from proxy.sealing import MasterKey
from proxy.store_database import StoreUnreachable
from proxy.store_server import StorePlace
from tests.integration.components.postgresql import PostgreSQL
from tests.integration.conftest import wait_until
from tests.proxy.between import Between
from tests.proxy.engines import INSTANCE, KEY, ServerEngine

COMMIT = b"NOTIFY keytrail; COMMIT"


@pytest.fixture
def between(postgresql: PostgreSQL) -> Iterator[Between]:
    with closing(Between(postgresql.port)) as one:
        yield one


@pytest.fixture
def engine(postgresql: PostgreSQL, between: Between) -> ServerEngine:
    one = ServerEngine(postgresql, stale_after_s=2.0, port=between.port)
    one.make()
    return one


@pytest.fixture
def store(engine: ServerEngine) -> Iterator[SealedStore]:
    with closing(engine.open()) as one:
        yield one


def put(store: SealedStore, name: str) -> None:
    with store.change() as tx:
        tx.put("key", "eu", name, {}, Secret(b"s"))


def ids(store: SealedStore) -> list[str]:
    return sorted(entry.id for entry in store.changes_since(0, ("key",)).entries)


def is_usable(store: SealedStore) -> bool:
    try:
        return store.published >= 0
    except StoreFailed:
        return False


def fault_of(store: SealedStore) -> str:
    return store.fault or ""


# --- a change


def test_a_change_whose_commit_did_not_arrive_was_not_made(store: SealedStore, between: Between) -> None:
    put(store, "a")
    between.cut_at(COMMIT, delivered=False)
    with pytest.raises(StoreFailed, match="nothing was changed") as caught:
        put(store, "b")
    assert (caught.value.outcome_unknown, between.cuts) == (False, 1)
    put(store, "c")
    assert ids(store) == ["a", "c"]


def test_a_change_whose_commit_was_done_and_not_answered_was_made(store: SealedStore, between: Between) -> None:
    put(store, "a")
    between.cut_at(COMMIT, delivered=True)
    put(store, "b")
    assert between.cuts == 1
    assert ids(store) == ["a", "b"]


@pytest.mark.parametrize("delivered", [False, True])
def test_where_that_cannot_be_asked_the_outcome_is_unknown(
    store: SealedStore, between: Between, monkeypatch: pytest.MonkeyPatch, delivered: bool
) -> None:
    monkeypatch.setattr(store_server, "_OUTCOME_PAUSE_S", 0.01)
    put(store, "a")
    before = store.generation
    between.cut_at(COMMIT, delivered=delivered, then_refuse=True)
    with pytest.raises(StoreFailed, match="cannot be told") as caught:
        put(store, "b")
    assert caught.value.outcome_unknown
    between.refuses = False
    wait_until(lambda: is_usable(store), "the thread is back")
    assert store.generation == before + delivered
    put(store, "c")
    assert ids(store) == ["a", *(["b"] if delivered else []), "c"]


def test_where_others_went_on_too_far_the_outcome_is_unknown(
    store: SealedStore, between: Between, engine: ServerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_server, "_COMMITS_KEPT", 4)
    between.cut_at(COMMIT, delivered=True)
    database = store._database
    assert isinstance(database, store_server.ServerDatabase)
    asked = database._was_committed

    def others_first(token: str, generation: int) -> bool:
        with closing(engine.open()) as other:
            for number in range(8):
                put(other, str(number))
        return asked(token, generation)

    monkeypatch.setattr(database, "_was_committed", others_first)
    with pytest.raises(StoreFailed, match="others went on too far") as caught:
        put(store, "b")
    assert caught.value.outcome_unknown


def test_a_server_killed_within_a_change_undoes_it_and_is_found_again(store: SealedStore, postgresql: PostgreSQL) -> None:
    put(store, "a")
    with pytest.raises(StoreFailed) as caught, store.change() as tx:
        tx.put("key", "eu", "b", {})
        postgresql.kill()
        postgresql.start()
    assert not caught.value.outcome_unknown
    put(store, "c")
    assert ids(store) == ["a", "c"]
    wait_until(lambda: is_usable(store), "the thread is back")


def test_a_server_started_anew_between_two_changes_is_not_noticed(store: SealedStore, postgresql: PostgreSQL) -> None:
    put(store, "a")
    postgresql.kill()
    postgresql.start()
    put(store, "b")
    assert ids(store) == ["a", "b"]


def test_a_refused_change_keeps_the_session(store: SealedStore, engine: ServerEngine) -> None:
    put(store, "a")
    database = store._database
    assert isinstance(database, store_server.ServerDatabase)
    session = database._connection
    with pytest.raises(ZeroDivisionError), store.change() as tx:
        tx.put("key", "eu", "b", {})
        raise ZeroDivisionError
    put(store, "c")
    assert database._connection is session
    assert engine.execute("SELECT id FROM entries ORDER BY id") == [("a",), ("c",)]


def test_what_another_holds_for_too_long_is_given_up(store: SealedStore, engine: ServerEngine) -> None:
    put(store, "a")
    with closing(engine.open()) as other, other.change() as tx:
        database = store._database
        assert isinstance(database, store_server.ServerDatabase) and database._connection is not None
        database._connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(StoreFailed, match="lock timeout"):
            put(store, "b")
        tx.put("key", "eu", "c", {})
    wait_until(lambda: ids(store) == ["a", "c"], "the other's change is here")


# --- following


def test_what_is_not_heard_of_is_not_gone_by_until_it_is_heard_of_again(
    store: SealedStore, postgresql: PostgreSQL, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "a")
    postgresql.freeze()
    try:
        wait_until(lambda: not is_usable(store), "the copy is too old")
        assert "has not been heard of for 2 s" in fault_of(store)
    finally:
        postgresql.thaw()
    wait_until(lambda: is_usable(store), "it is heard of again")
    assert fault_of(store) == ""
    assert ids(store) == ["a"]


def test_a_server_that_is_gone_is_told_and_looked_for(
    store: SealedStore, between: Between, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "a")
    between.refuse()
    wait_until(lambda: not is_usable(store), "the copy is too old")
    assert "cannot be reached" in fault_of(store)
    with pytest.raises(StoreUnreachable):
        put(store, "b")
    between.refuses = False
    wait_until(lambda: is_usable(store), "it is heard of again")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1 and "is not followed" in told[0]  # once, however often it was tried


def test_a_change_without_a_notification_is_found_all_the_same(store: SealedStore, engine: ServerEngine) -> None:
    put(store, "a")
    before = store.published
    engine.execute("UPDATE meta SET value = ? WHERE name = 'generation'", b"%d" % (before + 1))
    wait_until(lambda: store.published == before + 1, "it was asked for")


def test_a_store_that_was_put_back_is_refused(store: SealedStore, engine: ServerEngine) -> None:
    put(store, "a")
    put(store, "b")
    engine.execute("UPDATE meta SET value = '1' WHERE name = 'generation'")
    wait_until(lambda: not is_usable(store), "it is noticed")
    assert "went back from generation 2 to 1" in fault_of(store)
    with closing(engine.open()) as anew:
        assert is_usable(anew)


def test_a_reader_far_behind_is_given_everything(
    store: SealedStore, engine: ServerEngine, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.transaction.MOST_TOMBSTONES", 4)
    put(store, "stays")
    put(store, "goes")
    direct = ServerEngine.__new__(ServerEngine)
    direct.place = StorePlace(engine.server.url(engine.database), 10.0)
    between.refuse()
    with closing(direct.open()) as other:
        for name in ("goes", *map(str, range(12))):
            put(other, name)
            with other.change() as tx:
                tx.delete("key", "eu", name)
        put(other, "new")
        between.refuses = False
        wait_until(lambda: is_usable(store) and store.published == other.published, "it has caught up")
    assert ids(store) == ["new", "stays"]


def test_rows_that_no_call_looks_up_are_not_copied(store: SealedStore, engine: ServerEngine) -> None:
    with store.change() as tx:
        tx.put("effect", "", "one", {"n": 1})
    assert store.changes_since(0, ("effect",)).entries == ()
    found = store.find("effect", "", "one")
    assert found is not None and found.body == {"n": 1}
    assert store.count_rows() == {"effect": 1}


# --- what it tells


def told_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))


def test_the_password_is_in_no_error(postgresql: PostgreSQL) -> None:
    password = postgresql.password
    urls = {
        f"postgresql://keytrail:{password}@127.0.0.1:{postgresql.port}/nowhere": "does not exist",
        f"postgresql://keytrail:{password}x@127.0.0.1:{postgresql.port}/postgres": "authentication failed",
        f"postgresql://keytrail:{password}@127.0.0.1:1/postgres": "refused",
        f"postgresql://keytrail:{password}@127.0.0.1:x/postgres": "",
        f"postgresql://keytrail:{password}@[127.0.0.1/postgres": "not a URL",
        f"postgresql://keytrail:{password}@127.0.0.1/postgres?no={password}": "not a URL",
    }
    for url, words in urls.items():
        with pytest.raises((StoreFailed, SetupError)) as caught:
            StorePlace(url, 10.0).is_made()
        told = told_of(caught.value)
        assert words in told and password not in told, words


def test_a_database_that_is_empty_or_of_another_encoding_is_told(postgresql: PostgreSQL) -> None:
    engine = ServerEngine(postgresql)
    with pytest.raises(SetupError, match="there is no key store in postgresql:"):
        engine.open()
    postgresql.execute("postgres", "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    with pytest.raises(SetupError, match="must be UTF8"):
        StorePlace(postgresql.url("latin"), 10.0).make(MasterKey(KEY), INSTANCE)


def test_the_password_may_be_in_libpqs_own_file(
    postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path_factory.mktemp("pass") / "pgpass"
    file.write_text(f"127.0.0.1:{postgresql.port}:*:keytrail:{postgresql.password}\n")
    file.chmod(0o600)
    url = postgresql.url(postgresql.new_database(), password=False)
    with pytest.raises(StoreUnreachable, match="password"):
        StorePlace(url, 10.0).is_made()
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert not StorePlace(url, 10.0).is_made()
