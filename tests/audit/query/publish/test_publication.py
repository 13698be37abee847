"""What is in the table is what is in the index: after merges, faults, other publishers, and whatever else was done to either."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.manifest import ManifestContent
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from audit.instance import Instance
from audit.query.index.compact import Compactor
from audit.query.index.layout import Manifest, index_folder
from audit.query.publish import publication, table
from audit.query.publish.catalogue import FileCatalogue
from audit.query.publish.place import Place
from audit.query.publish.publication import Publication, Published
from audit.query.publish.storage import PublishFault, place_of
from audit.query.publish.table import PublishedLog, expired_snapshots, held_files, named_objects
from tests.audit.query.builder import LogBuilder, at
from tests.audit.query.publish.memory import MemoryStore

DAY_S = 86_400
PLACE = Place("lake", "audit/host-1")
NAME = ("keytrail", "published")
KEEP = timedelta(hours=24)


@dataclass
class Lake:
    """A data folder with the log w0, and the bucket that it is published to."""

    data: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    instance: str = "0123456789abcdef"
    log: LogBuilder = field(init=False)

    def __post_init__(self) -> None:
        self.data.mkdir(exist_ok=True)
        self.log = LogBuilder(self.data)
        Instance(self.data, self.instance, "111122223333", "eu-central-1", "2026-01-01T00:00:00Z", ("w0",)).save()

    def grow(self, records: int = 3, days: int = 2, fanout: int = 2) -> None:
        """A segment of so many records on each of the first days, indexed, and merged with what there is."""
        for day in range(days):
            for _ in range(records):
                self.log.add(day * DAY_S + self.log.sequence, user="bob", context={"tenant": "acme"}, blobs_in=["one"])
        self.log.rotate()
        with Compactor(self.data, fanout=fanout) as compactor:
            compactor.run()

    def publish(self, now: datetime | None = None, keep: timedelta = KEEP) -> Published:
        return self.publication(keep).run(now or datetime.now(UTC))

    def publication(self, keep: timedelta = KEEP) -> Publication:
        def open_catalogue() -> FileCatalogue:
            return FileCatalogue(PLACE.location, self.store)

        return Publication(Instance.load(self.data), PLACE, self.store, open_catalogue, NAME, keep=keep)

    @property
    def table(self) -> Table:
        return FileCatalogue(PLACE.location, self.store).load_table(NAME)

    @property
    def files(self) -> set[Path]:
        manifest = Manifest.load(index_folder(self.data))
        return {day.path(index_folder(self.data)) for log in manifest.logs.values() for day in log.days}

    def records(self) -> list[int]:
        """Those of the newest snapshot, once it is known of every snapshot that all that it names is there."""
        for snapshot in self.table.snapshots():
            held = self._records_of(snapshot.snapshot_id)
            assert held == list(range(len(held))), "a record is missing, or there twice"
        newest = self.table.current_snapshot()
        return self._records_of(newest.snapshot_id) if newest is not None else []

    def _records_of(self, snapshot: int) -> list[int]:
        rows = self.table.scan(selected_fields=("record",), snapshot_id=snapshot).to_arrow()
        return sorted(rows["record"].to_pylist())

    def total(self) -> int:
        """How many records the table has, once it is known that all that it names is there."""
        assert {place_of(location)[1] for location in named_objects(self.table)} <= self.store.content.keys()
        return sum(file.record_count for file in held_files(self.table).values())

    def is_tidy(self) -> bool:
        """Whether every object is one that the table names."""
        named = {place_of(location)[1] for location in named_objects(self.table)}
        assert named <= self.store.content.keys()
        others = {PLACE.key("keytrail.json"), PLACE.key("events/metadata/version-hint.text")}
        return self.store.content.keys() - named == others


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "data")
    lake.grow()
    return lake


# --- what is in the table


def test_it_holds_what_the_index_has(lake: Lake) -> None:
    told = lake.publish()
    assert lake.records() == list(range(6))
    assert (told.added_files, told.removed_files, told.uploaded_files) == (2, 0, 2)
    assert told.logs == (PublishedLog("w0", 6, 6, at(DAY_S + 5)),)
    rows = lake.table.scan(row_filter="user_name == 'bob' and time >= '2026-01-03T00:00:00'").to_arrow().to_pylist()
    assert [row["record"] for row in rows] == [3, 4, 5]
    assert dict(rows[0]["context"]) == {"tenant": "acme"}
    assert (rows[0]["time"].isoformat(), rows[0]["keys"], rows[0]["log"]) == ("2026-01-03T00:00:03", [rows[0]["keys"][0]], "w0")


def test_a_filter_on_time_reads_the_files_of_those_days_alone(lake: Lake) -> None:
    lake.publish()
    (planned,) = lake.table.scan(row_filter="time >= '2026-01-03T00:00:00'").plan_files()
    assert "/day=2026-01-03/" in planned.file.file_path


def test_it_says_what_it_is(lake: Lake) -> None:
    lake.publish()
    properties = lake.table.properties
    assert (properties["keytrail.instance"], "No evidence" in properties["comment"]) == (lake.instance, True)
    assert lake.table.schema().find_field("fingerprints_in").doc == "SHA-256 of the ciphertexts in the request"
    marker = orjson.loads(lake.store.content["audit/host-1/keytrail.json"])
    assert (marker["instance"], "no evidence" in marker["what"]) == (lake.instance, True)
    assert lake.store.content["audit/host-1/events/metadata/version-hint.text"] == b"2"


def test_merged_files_are_replaced_in_one_snapshot(lake: Lake) -> None:
    lake.publish()
    lake.grow()
    told = lake.publish()
    assert (told.added_files, told.removed_files, told.logs[0].records) == (2, 2, 12)
    assert lake.records() == list(range(12))
    assert len(lake.table.snapshots()) == 2
    assert len(lake.files) == 2


def test_what_was_published_is_not_touched_again(lake: Lake) -> None:
    before = lake.publish()
    writes = lake.store.writes
    again = lake.publish()
    assert (again.snapshot, again.uploaded_files, again.added_files, lake.store.writes) == (before.snapshot, 0, 0, writes)


def test_files_that_were_made_anew_replace_those_of_the_same_names(lake: Lake) -> None:
    lake.publish()
    for path in lake.files:
        pq.write_table(pq.read_table(path, partitioning=None), path, compression="none")
    told = lake.publish()
    assert (told.added_files, told.removed_files) == (2, 2)
    assert lake.records() == list(range(6))


def test_a_column_that_came_with_a_newer_index_comes_to_the_table(lake: Lake) -> None:
    lake.publish()
    for path in lake.files:
        rows = pq.read_table(path, partitioning=None)
        pq.write_table(rows.append_column("novel", pc.cast(rows["record"], "string")), path)
    lake.publish()
    assert sorted(lake.table.scan().to_arrow()["novel"].to_pylist()) == list("012345")


def test_what_somebody_took_out_of_the_table_comes_back(lake: Lake) -> None:
    lake.publish()
    taken = next(iter(held_files(lake.table).values()))
    with lake.table.transaction() as transaction, transaction.update_snapshot().overwrite() as overwrite:
        overwrite.delete_data_file(taken)
    assert lake.table.scan().count() == 3
    lake.publish()
    assert lake.table.scan().count() == 6


def test_rows_that_somebody_deleted_are_not_published_over(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.publish()
    lake.grow()
    deletes = lambda snapshot, io: [SimpleNamespace(content=ManifestContent.DELETES)]  # noqa: E731
    monkeypatch.setattr(Snapshot, "manifests", deletes)
    with pytest.raises(PublishFault, match="somebody deleted rows of the table"):
        lake.publish()
    monkeypatch.undo()
    assert lake.records() == list(range(6))


def test_many_manifests_become_two(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MANY_MANIFESTS", 3)
    counts = []
    for _ in range(5):
        lake.grow(records=1, days=1, fanout=100)
        lake.publish()
        snapshot = lake.table.current_snapshot()
        assert snapshot is not None
        counts.append(len(snapshot.manifests(lake.table.io)))
        assert snapshot.summary is not None
        assert snapshot.summary["total-records"] == str(len(lake.records()))
    assert max(counts) <= 4
    assert counts[-1] < 5


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 4), st.booleans()), min_size=1, max_size=5))
def test_whatever_is_merged_between_no_snapshot_lacks_a_record_or_has_one_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int, bool]]
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake") / "data")
    for records, days, fanout, is_published in steps:
        lake.grow(records, days, fanout)
        if is_published:
            assert lake.publish().logs[0].records == len(lake.records()) == lake.log.sequence
    lake.publish()
    assert len(lake.records()) == lake.log.sequence


# --- what was replaced


def test_what_was_replaced_is_kept_for_its_readers_and_then_deleted(lake: Lake) -> None:
    lake.publish()
    old = {file.file.file_path for file in lake.table.scan().plan_files()}
    lake.grow()
    assert lake.publish().deleted_objects == 0
    assert len(lake.table.snapshots()) == 2
    later = lake.publish(datetime.now(UTC) + KEEP + timedelta(hours=1))
    assert (len(lake.table.snapshots()), later.added_files) == (1, 0)
    assert later.deleted_objects == len(old) + 2, "the data, and a manifest and a list of the snapshot"
    assert not {place_of(location)[1] for location in old} & lake.store.content.keys()
    assert lake.records() == list(range(12))
    assert lake.is_tidy()


def test_a_snapshot_s_age_counts_from_when_it_was_replaced(lake: Lake) -> None:
    lake.publish()
    lake.grow()
    lake.publish()
    first, second = sorted(lake.table.snapshots(), key=lambda one: one.timestamp_ms)
    replaced = datetime.fromtimestamp(second.timestamp_ms / 1000, UTC)
    assert expired_snapshots(lake.table, replaced + KEEP - timedelta(seconds=1), KEEP) == []
    assert expired_snapshots(lake.table, replaced + KEEP, KEEP) == [first]


def test_objects_of_others_below_the_table_stay(lake: Lake) -> None:
    lake.publish()
    lake.store.put("audit/host-1/events/notes.txt", b"")
    lake.publish(datetime.now(UTC) + KEEP * 2)
    assert "audit/host-1/events/notes.txt" in lake.store.content


def test_that_nothing_can_be_deleted_is_told_and_no_failure(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(keys: object) -> None:
        raise PublishFault("AccessDenied")

    monkeypatch.setattr(lake.store, "delete", refuse)
    assert lake.publish().left == "AccessDenied"
    assert lake.records() == list(range(6))


# --- faults


@pytest.mark.parametrize("is_done_first", [False, True], ids=["request lost", "answer lost"])
def test_wherever_s3_goes_away_no_snapshot_is_broken_and_the_next_run_completes(lake: Lake, is_done_first: bool) -> None:
    lake.publish()
    lake.grow()
    content, modified = dict(lake.store.content), dict(lake.store.modified)
    faults, number = 0, 1
    while True:
        lake.store = MemoryStore(dict(content), dict(modified), fails_at=number, is_done_first=is_done_first)
        try:
            lake.publish()
        except PublishFault as error:
            assert "S3 went away" in str(error)
            faults += 1
        happened = lake.store.requests >= number
        lake.store.fails_at = None
        assert lake.total() in {6, 12}
        lake.publish(datetime.now(UTC) + KEEP * 2)
        assert lake.total() == 12
        assert lake.is_tidy()
        if not happened:
            break
        number += 1
    assert number > faults > 10
    assert lake.records() == list(range(12))


def test_a_first_run_that_ended_anywhere_is_completed(tmp_path: Path) -> None:
    number, is_broken = 1, True
    lake = Lake(tmp_path / "data")
    lake.grow()
    while is_broken:
        lake.store = MemoryStore(fails_at=number)
        try:
            lake.publish()
            is_broken = lake.store.requests >= number
        except PublishFault:
            pass
        lake.store.fails_at = None
        lake.publish()
        assert lake.total() == 6
        number += 1
    assert number > 10


def test_a_file_that_is_merged_away_while_it_is_uploaded_is_asked_for_anew(lake: Lake) -> None:
    def merged(key: str) -> None:
        if key.endswith(".parquet"):
            lake.store.before = lambda key: None
            before = lake.files
            lake.grow()
            for path in before - lake.files:
                path.unlink(missing_ok=True)

    lake.store.before = merged
    assert lake.publish().logs[0].records == 12
    assert lake.records() == list(range(12))


def test_of_two_that_publish_at_once_one_begins_again(lake: Lake, tmp_path: Path) -> None:
    lake.publish()
    lake.grow()

    def other_is_first(key: str) -> None:
        if key.endswith("v3.metadata.json"):
            lake.store.before = lambda key: None
            os.unlink(index_folder(lake.data) / "publish.lock")  # as if it were a copy of the folder, on another host
            lake.publish()

    lake.store.before = other_is_first
    told = lake.publish()
    assert (told.added_files, told.logs[0].records) == (0, 12)
    assert lake.records() == list(range(12))


def test_whoever_never_comes_first_gives_up(lake: Lake) -> None:
    lake.publish()
    lake.grow()

    def others(key: str) -> None:
        if key.endswith(".metadata.json"):
            lake.store.content.setdefault(key, lake.store.content["audit/host-1/events/metadata/v2.metadata.json"])
            lake.store.modified.setdefault(key, datetime.now(UTC))

    lake.store.before = others
    with pytest.raises(PublishFault, match=r"given up after 5 tries: .*was written by another"):
        lake.publish()


def test_one_process_publishes_at_a_time(lake: Lake) -> None:
    with (index_folder(lake.data) / "publish.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PublishFault, match="another process publishes"):
            lake.publish()
    lake.publish()


def test_a_version_hint_that_was_left_behind_is_set_right(lake: Lake) -> None:
    lake.publish()
    lake.store.content["audit/host-1/events/metadata/version-hint.text"] = b"1"
    lake.publish()
    assert lake.store.content["audit/host-1/events/metadata/version-hint.text"] == b"2"


# --- what is refused, and changes nothing


def test_each_instance_has_a_prefix_of_its_own(lake: Lake, tmp_path: Path) -> None:
    lake.publish()
    before = dict(lake.store.content)
    other = Lake(tmp_path / "other", lake.store, "fedcba9876543210")
    other.grow()
    with pytest.raises(PublishFault, match="of the keytrail instance 0123456789abcdef; this is fedcba9876543210"):
        other.publish()
    del lake.store.content["audit/host-1/keytrail.json"]
    lake.store.put("audit/host-1/keytrail.json", orjson.dumps({"format": 1, "instance": "fedcba9876543210"}))
    with pytest.raises(PublishFault, match=r"the table keytrail\.published is of the keytrail instance 0123456789abcdef"):
        other.publish()
    lake.store.content["audit/host-1/keytrail.json"] = before["audit/host-1/keytrail.json"]
    assert lake.records() == list(range(6))


@pytest.mark.parametrize("marker", [b"rubbish", b"[]", b'{"format": 2, "instance": "0123456789abcdef"}', b"{}"])
def test_a_prefix_whose_owner_is_not_known_is_left_alone(lake: Lake, marker: bytes) -> None:
    lake.store.put("audit/host-1/keytrail.json", marker)
    with pytest.raises(PublishFault, match="not known to be of this keytrail instance"):
        lake.publish()
    assert len(lake.store.content) == 1


def test_a_prefix_with_other_things_in_it_is_left_alone(lake: Lake) -> None:
    lake.store.put("audit/host-1/events/family/photo.parquet", b"")
    with pytest.raises(PublishFault, match="has objects already"):
        lake.publish()
    assert len(lake.store.content) == 1


def test_an_index_with_fewer_records_than_the_table_is_not_published(lake: Lake) -> None:
    lake.grow()
    lake.publish()
    manifest = Manifest.load(index_folder(lake.data))
    manifest.logs["w0"].days = manifest.logs["w0"].days[1:]
    manifest.save(index_folder(lake.data))
    with pytest.raises(
        PublishFault, match=r"the table has 12 records of the log w0, up to 12, and the index 6: nothing was changed"
    ):
        lake.publish()
    assert lake.records() == list(range(12))


def test_without_an_index_there_is_nothing_to_publish(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "data")
    with pytest.raises(PublishFault, match="no events yet"):
        lake.publish()
    assert lake.store.content == {}


def test_a_file_of_the_index_that_is_none_is_named(lake: Lake) -> None:
    path = min(lake.files)
    for rubbish in (b"", b"rubbish", b"\xff\xff\xff\xffPAR1"):
        path.write_bytes(rubbish)
        with pytest.raises(PublishFault, match="is no Parquet file"):
            lake.publish()


def test_footers_tell_files_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, value in zip(paths, (1, 1, 2), strict=True):
        pq.write_table(pq.read_table(tmp_path / "a") if path.name == "b" else _one_column(value), path)
    first, same, other = (publication._fingerprint(path) for path in paths)
    assert first == same != other
    assert len(first) == 16


def _one_column(value: int) -> pa.Table:
    return pa.table({"value": [value]})
