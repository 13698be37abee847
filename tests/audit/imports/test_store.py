"""An import is never half there and never twice: whatever the order and partition of files, and wherever it is interrupted."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.imports import store
from audit.imports.kept import raw_events, statuses
from audit.imports.store import Import, ImportInUse, remove
from audit.query.events import open_events
from audit.query.imported import ImportFault, Manifest, import_folder
from audit.reconcile.cloudtrail import read_events
from tests.audit.fixtures.reconcile import World
from tests.audit.imports import imported, rows, said, write
from tests.audit.query.builder import LogBuilder


def events_of(folder: Path, number: int) -> list[dict[str, Any]]:
    """A data folder in `folder`, and events of AWS's: calls, one of them without an eventID, one across accounts."""
    LogBuilder(folder / "data")
    world = World(folder / "data", folder / "trail")
    for seconds in range(number):
        world.event(seconds, user=f"user{seconds % 3}")
    del world.events[0]["eventID"]
    world.copy(world.events[1], eventID="copy", userIdentity={"type": "AWSAccount", "accountId": "444455556666"})
    return world.events


@pytest.fixture
def events(tmp_path: Path) -> list[dict[str, Any]]:
    return events_of(tmp_path, 9)


# --- any order --------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_any_order_and_partition_of_files_gives_the_same_rows(draw: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        events = events_of(place, 7)
        imported(place / "data", write(place / "at-once", events), "at-once")
        expected = said(place / "data")
        remove(place / "data", "at-once")
        numbers = draw.draw(
            st.permutations([*range(len(events)), *draw.draw(st.lists(st.integers(0, len(events) - 1), max_size=4))])
        )
        cuts = sorted(draw.draw(st.sets(st.integers(1, len(numbers) - 1), max_size=4)))
        files = [numbers[start:end] for start, end in zip([0, *cuts], [*cuts, len(numbers)], strict=True)]
        runs = draw.draw(st.integers(1, len(files)))
        batch = draw.draw(st.integers(1, 5))
        for run in range(runs):
            some = [[events[number] for number in file] for file in files[run::runs]]
            imported(place / "data", write(place / f"run{run}", *some), batch_events=batch, fanout=2)
        assert said(place / "data") == expected


def test_again_and_with_more(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    trail, data = tmp_path / "trail", tmp_path / "data"
    write(trail, events[:4], events[4:6])
    first = imported(data, trail)
    assert (first.added, first.known, first.files, first.known_files) == (6, 0, 2, 0)
    again = imported(data, trail)
    assert (again.added, again.known, again.files, again.known_files) == (0, 0, 2, 2)
    (trail / "0000.json.gz").rename(trail / "renamed.json.gz")
    assert imported(data, trail).known_files == 2
    (trail / "all.json").write_text(json.dumps({"Records": events}))
    more = imported(data, trail)
    assert (more.added, more.known, more.known_files) == (len(events) - 6, 6, 2)
    assert len(rows(data)) == len(events)


def test_a_file_that_changed_is_read_again(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    data, path = tmp_path / "data", tmp_path / "trail.json"
    for number in (0, 1):
        path.write_text(json.dumps({"Records": [{**events[number], "eventID": f"{number}"}]}))
        assert imported(data, path).added == 1


def test_imports_of_two_names_are_apart(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    data = tmp_path / "data"
    imported(data, write(tmp_path / "a", events), "a")
    imported(data, write(tmp_path / "b", events[:2]), "b")
    assert [(one.name, one.events) for one in statuses(data)] == [("a", len(events)), ("b", 2)]
    remove(data, "a")
    assert {row["log"] for row in rows(data)} == {"import:b"}


# --- raw events -------------------------------------------------------------------------------------------------------


def test_every_row_leads_to_its_event_as_it_came(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    data = tmp_path / "data"
    events[3]["errorMessage"] = "é😀\x7f"
    imported(data, write(tmp_path / "trail", events[:5], events[5:]), batch_events=4, fanout=2)
    for row in rows(data):
        [line] = raw_events(data, f"{row['log']}/{row['record']}")
        event = json.loads(line)
        assert (event.get("eventID"), event["requestID"]) == (row["event_id"], row["request_id"])
        assert line == json.dumps(event, separators=(",", ":")).encode()
        if row["event_id"]:
            assert list(raw_events(data, row["event_id"])) == [line]
        assert len(line) + 1 == row["size"]
    assert list(raw_events(data, "nowhere")) == list(raw_events(data, "trail/999")) == []


def test_raw_files_are_files_of_cloudtrail(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    data = tmp_path / "data"
    imported(data, write(tmp_path / "trail", events), batch_events=4)
    found = []
    for path in sorted((import_folder(data, "trail") / "raw").iterdir()):
        with path.open("rb") as file:
            found += list(read_events(file))
    assert found == events
    expected = said(data)
    imported(data, import_folder(data, "trail") / "raw", "again")
    remove(data, "trail")
    assert said(data) == expected


def test_rows_are_made_anew_of_them(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    data = tmp_path / "data"
    imported(data, write(tmp_path / "trail", events), batch_events=4, fanout=2)
    expected, before = said(data), rows(data)
    folder = import_folder(data, "trail")
    for path in (folder / "events").iterdir():
        path.write_bytes(b"no Parquet")
    with open_events(data) as opened:
        assert {damage.log for damage in opened.damaged} == {"import:trail"}
        assert opened.database.execute("SELECT count(*) FROM events").fetchall() == [(0,)]
    with Import(data, "trail") as one:
        one.rebuild()
    assert said(data) == expected
    assert sorted(map(repr, rows(data))) == sorted(map(repr, before))
    next((folder / "raw").iterdir()).write_bytes(gzip.compress(b'{"Records":[]}'))
    with Import(data, "trail") as one, pytest.raises(ImportFault, match="not as it was written"):
        one.rebuild()


def test_rows_of_another_version_are_asked_and_made_anew_by_the_next_run(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    data, folder = tmp_path / "data", import_folder(tmp_path / "data", "trail")
    imported(data, write(tmp_path / "trail", events[:5]))
    manifest = Manifest.load(folder)
    assert manifest is not None
    manifest.columns = tuple(name for name in manifest.columns if name != "region")
    manifest.save(folder)
    assert [row["region"] for row in rows(data)] == [None] * 5
    assert imported(data, write(tmp_path / "trail", events)).added == len(events) - 5
    assert {row["region"] for row in rows(data)} == {"eu-central-1"}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version":1}', b'{"version":7}', b"[1]", b'{"version":1,"parts":[[1]]}'])
def test_a_damaged_manifest_takes_nothing_else_away(tmp_path: Path, events: list[dict[str, Any]], content: bytes) -> None:
    data = tmp_path / "data"
    imported(data, write(tmp_path / "trail", events), "a")
    imported(data, tmp_path / "trail", "b")
    (import_folder(data, "b") / "manifest.json").write_bytes(content)
    with open_events(data) as opened:
        [damage] = opened.damaged
        assert (damage.log, damage.segment) == ("import:b", "manifest.json")
        assert opened.database.execute("SELECT count(*) FROM events").fetchall() == [(len(events),)]
    with pytest.raises(ImportFault, match=r"manifest\.json"):
        imported(data, tmp_path / "trail", "b")
    remove(data, "b")
    assert len(rows(data)) == len(events)


# --- crashes ----------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


@contextmanager
def effects(monkeypatch: pytest.MonkeyPatch, happen: Callable[[str, Any], None]) -> Iterator[None]:
    """`happen` is called before each effect on the file system, and may prevent it."""
    with monkeypatch.context() as patch:
        for name in ("open", "fsync", "rename", "mkdir", "unlink"):
            original = getattr(os, name)

            def effect(*arguments: Any, _name: str = name, _original: Any = original, **more: Any) -> Any:
                if not (_name == "open" and arguments[1] & os.O_ACCMODE == os.O_RDONLY):
                    happen(_name, arguments)
                return _original(*arguments, **more)

            patch.setattr(os, name, effect)
        copy = Import._copy

        def effect_of_copy(self: Import, select: str, file: Any) -> None:
            happen("copy", (file.path(self.folder),))
            copy(self, select, file)

        patch.setattr(Import, "_copy", effect_of_copy)
        yield


def test_wherever_it_is_interrupted_nothing_is_half_there_or_twice(
    tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = write(tmp_path / "trail", events[:3], events[2:5])
    imported(tmp_path / "data", trail, "whole")
    expected = said(tmp_path / "data")
    monkeypatch.setattr(store, "KEPT_S", 0)
    crashes = 0
    while True:
        data, left = tmp_path / f"data{crashes}", crashes
        LogBuilder(data)

        def happen(name: str, arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash

        try:
            with effects(monkeypatch, happen):
                imported(data, trail, batch_events=4, fanout=2)
        except Crash:
            found = said(data)
            assert len(found) == len(set(found))
            assert set(found) <= set(expected)
            report = imported(data, trail, batch_events=4, fanout=2)
            assert report.added == len(expected) - len(found)
        again = imported(data, trail)
        assert (again.added, again.known_files) == (0, 2)
        assert said(data) == expected
        folder = import_folder(data, "trail")
        manifest = Manifest.load(folder)
        assert manifest is not None
        kept = {path for part in ("raw", "events", "sources") for path in (folder / part).iterdir()}
        assert kept == set(manifest.paths(folder))
        if left >= 0:
            break
        crashes += 1
    assert crashes > 20


def test_what_a_manifest_names_was_synced_before_it(
    tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder, synced = tmp_path / "data", import_folder(tmp_path / "data", "trail"), set[Path]()
    renames = 0

    def happen(name: str, arguments: Any) -> None:
        nonlocal renames
        if name == "fsync":
            synced.add(Path(os.readlink(f"/proc/self/fd/{arguments[0]}")))
        if name in ("open", "copy"):
            synced.discard(Path(arguments[0]))
        if name == "rename" and Path(arguments[1]).name == "manifest.json":
            renames += 1
            coming = json.loads(Path(arguments[0]).read_bytes())
            assert coming["files"]
            assert {path for part in ("raw", "events", "sources") for path in (folder / part).iterdir()} <= synced
            assert {folder / "raw", folder / "events"} <= synced
            assert Path(arguments[0]) in synced

    with effects(monkeypatch, happen):
        imported(data, write(tmp_path / "trail", events[:4], events[4:]), batch_events=4, fanout=2)
    assert renames >= 4


_KILLED = """
import os, signal, sys
from pathlib import Path
from audit.imports.reading import import_files
from audit.imports.store import Import
from audit import durable
data, trail, left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sync = durable.sync_folder
def sync_or_die(folder):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(folder)
durable.sync_folder = sync_or_die
with Import(data, "trail", batch_events=2, fanout=2) as store:
    import_files(store, trail)
"""


@pytest.mark.parametrize("left", [5, 9, 16])
def test_killed(tmp_path: Path, events: list[dict[str, Any]], left: int) -> None:
    data, trail = tmp_path / "data", write(tmp_path / "trail", events[:5], events[5:])
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(data), str(trail), str(left)], check=False)
    assert ended.returncode == -signal.SIGKILL
    there = len(said(data))
    assert imported(data, trail).added == len(events) - there
    assert len(set(said(data))) == len(events)


# --- several at once --------------------------------------------------------------------------------------------------


def test_one_at_a_time(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    data = tmp_path / "data"
    with Import(data, "trail"):
        for other in ("trail", "other"):
            with pytest.raises(ImportInUse, match="another process"):
                imported(data, write(tmp_path / "trail", events), other)
        with pytest.raises(ImportInUse, match="another process"):
            remove(data, "trail")
    assert imported(data, tmp_path / "trail").added == len(events)


def test_whoever_reads_meanwhile_has_what_was_there(
    tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = tmp_path / "data", import_folder(tmp_path / "data", "trail")
    imported(data, write(tmp_path / "trail", events[:2]))
    with open_events(data) as opened:
        for number in range(2, 6):
            imported(data, write(tmp_path / "trail", events[: number + 1]), fanout=2)
        assert opened.database.execute("SELECT count(*) FROM events").fetchall() == [(2,)]
    manifest = Manifest.load(folder)
    assert manifest is not None
    assert set((folder / "events").iterdir()) > {file.path(folder) for file in manifest.files}
    monkeypatch.setattr(store, "KEPT_S", 0)
    imported(data, tmp_path / "trail")
    assert set((folder / "events").iterdir()) == {file.path(folder) for file in manifest.files}
    assert len(rows(data)) == 6


def test_a_removal_that_was_interrupted_is_a_removal(
    tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    imported(data, write(tmp_path / "trail", events))

    def fail(folder: Path) -> None:
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr("shutil.rmtree", fail)
        remove(data, "trail")
    assert rows(data) == []
    remove(data, "trail")
    assert not import_folder(data, "trail").exists()
    assert imported(data, tmp_path / "trail").added == len(events)
