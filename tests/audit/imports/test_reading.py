"""What is read of AWS's files: which events, what is named as damaged, what memory it takes, and S3."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.response import StreamingBody
from moto import mock_aws

from audit.imports import reading
from audit.imports.kept import statuses
from audit.imports.reading import How
from audit.query.imported import imported_folder
from audit.reconcile import cloudtrail
from audit.reconcile.files import CloudTrailUnavailable
from tests.audit.fixtures.reconcile import World, packed
from tests.audit.imports import imported, rows
from tests.audit.query.builder import LogBuilder


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Ten calls in two files."""
    LogBuilder(tmp_path / "data")
    world = World(tmp_path / "data", tmp_path / "trail")
    for number in range(10):
        world.event(number * 60)
    world.deliver()
    return world


def folder_of(world: World) -> Path:
    return next(world.trail.rglob("*.gz")).parent


# --- which events -----------------------------------------------------------------------------------------------------


def test_only_calls_of_kms_unless_all_are_asked_for(world: World) -> None:
    world.other_service(5)
    world.event(6, eventSource="s3.amazonaws.com", eventName="GetObject", eventCategory="Data")
    world.event(7, eventCategory="Insight")
    world.event(8, eventCategory="NetworkActivity")
    world.deliver()
    report = imported(world.data, world.trail)
    assert (report.added, report.left_out, report.faults) == (10, 4, 0)
    report = imported(world.data, world.trail, how=How(all_sources=True))
    assert (report.added, report.known, report.left_out) == (2, 10, 2)
    assert sorted({row["event_source"] for row in rows(world.data)}) == ["kms.amazonaws.com", "s3.amazonaws.com"]
    for how in (How(), How(all_sources=True)):  # a file of which all is there has what is of KMS too
        report = imported(world.data, world.trail, how=how)
        assert report.known_files == report.files


def test_digests_are_no_events(world: World) -> None:
    digest = world.trail / "AWSLogs/111122223333/CloudTrail-Digest/eu-central-1/2026/01/02/digest.json.gz"
    digest.parent.mkdir(parents=True)
    digest.write_bytes(gzip.compress(b"{}"))
    assert (imported(world.data, world.trail).faults, len(rows(world.data))) == (0, 10)


def test_nothing_to_import_is_an_error(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for where in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(CloudTrailUnavailable):
            imported(world.data, where)
    assert statuses(world.data) == []


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason", "taken"),
    [
        (b"", "no CloudTrail log file", 0),
        (b"\x1f\x8b broken", "broken gzip", 0),
        (b'{"Records":[', "cut off behind event 0", 0),
        (packed([{"eventSource": "kms.amazonaws.com"}]), "event 1: no eventTime", 0),
        (packed([{"a": 1}]), "event 1: no eventSource", 0),
        (packed([7]), "event 1 is no object", 0),
    ],
)
def test_a_damaged_file_is_named_each_time_and_the_rest_is_imported(
    world: World, content: bytes, reason: str, taken: int
) -> None:
    path = folder_of(world) / "0-broken.json.gz"
    path.write_bytes(content)
    for added in (10, 0):
        report = imported(world.data, world.trail)
        assert (report.added, report.faults) == (added + taken, 1)
        assert report.told[0].startswith(f"{path}: ") and reason in report.told[0]
        [status] = statuses(world.data)
        assert (list(status.damaged), status.files, status.events) == ([str(path)], 2, 10)
    path.write_bytes(packed([world.event(700)]))
    assert imported(world.data, world.trail).faults == 0
    assert statuses(world.data)[0].damaged == {}


def test_events_before_the_damage_are_kept_and_not_doubled(world: World) -> None:
    events = [world.event(700 + number) for number in range(4)]
    path, whole = folder_of(world) / "0-cut.json", json.dumps({"Records": events})
    path.write_text(whole[: whole.index(events[2]["eventID"])])
    report = imported(world.data, world.trail)
    assert (report.added, report.faults) == (12, 1)
    path.write_text(whole)
    report = imported(world.data, world.trail)
    assert (report.added, report.known, report.faults) == (2, 2, 0)


def test_one_id_for_two_events_is_named(world: World) -> None:
    event = world.event(700)
    other = {**event, "eventName": "Encrypt"}
    (folder_of(world) / "9.json.gz").write_bytes(packed([event, event, other]))
    report = imported(world.data, world.trail)
    assert (report.added, report.known, report.faults) == (11, 2, 1)
    assert event["eventID"] in report.told[0]
    assert [row["event_name"] for row in rows(world.data) if row["event_id"] == event["eventID"]] == ["Decrypt"]
    assert list(statuses(world.data)[0].damaged) == [f"event {event['eventID']}"]


def test_faults_are_counted_and_only_so_many_are_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_TOLD", 5)
    (folder_of(world) / "9.json.gz").write_bytes(packed([{}] * 20))
    report = imported(world.data, world.trail)
    assert (report.added, report.faults, len(report.told)) == (10, 20, 5)


@pytest.mark.parametrize(
    ("begin", "more", "end", "most_bytes"),
    [
        (b'{"Records":[{"eventSource":"', b"x" * (1 << 20), b'"}]}', 32 << 20),
        (b'{"Records":[', b" " * (1 << 20), b"]}", 32 << 20),
        (b'{"Records":[{}', b",{}" * (1 << 18), b"]}", 1 << 17),
    ],
)
def test_memory_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch, begin: bytes, more: bytes, end: bytes, most_bytes: int
) -> None:
    """A small file that unpacks to 128 MiB: one event, blanks, events without end."""
    monkeypatch.setattr(cloudtrail, "_BLOCK_BYTES", min(1 << 20, most_bytes // 2))
    monkeypatch.setattr(cloudtrail, "MAX_FILE_BYTES", most_bytes)
    monkeypatch.setattr(cloudtrail, "MAX_EVENT_CHARS", 4 << 20)
    packed_file = io.BytesIO()
    with gzip.GzipFile(fileobj=packed_file, mode="wb", compresslevel=1) as file:
        file.write(begin)
        for _ in range(128):
            file.write(more)
        file.write(end)
    (folder_of(world) / "0-bomb.json.gz").write_bytes(packed_file.getvalue())
    monkeypatch.setattr(reading, "MAX_TOLD", 5)
    tracemalloc.start()
    try:
        report = imported(world.data, world.trail)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.added == 10
    assert report.faults
    assert peak < 48 << 20


# --- S3 ---------------------------------------------------------------------------------------------------------------


def upload(world: World, client: Any, bucket: str) -> None:
    client.create_bucket(Bucket=bucket)
    for path in sorted(world.trail.rglob("*.gz")):
        client.put_object(Bucket=bucket, Key=f"logs/{path.relative_to(world.trail)}", Body=path.read_bytes())


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    reads = 0
    read = StreamingBody.read

    def counted(body: StreamingBody, amt: int | None = None) -> Any:
        nonlocal reads
        reads += 1
        return read(body, amt)

    monkeypatch.setattr(StreamingBody, "read", counted)
    return lambda: reads


@mock_aws
def test_objects_are_fetched_once(world: World, aws_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("s3")
    upload(world, client, "trail")
    assert imported(world.data, "s3://trail/logs/").added == 10
    reads = count_reads(monkeypatch)
    again = imported(world.data, "s3://trail/logs/")
    assert (again.known_files, again.added, reads()) == (2, 0, 0)
    reread = imported(world.data, "s3://trail/logs/", how=How(reread=True))
    assert (reread.known_files, reread.known, reread.added) == (0, 10, 0)
    client.put_object(Bucket="trail", Key="logs/new.json.gz", Body=packed([world.event(900)]))
    assert imported(world.data, "s3://trail/logs/").added == 1
    local = imported(world.data, world.trail)  # the same bytes, by their SHA-256
    assert (local.known_files, local.added) == (2, 0)


def test_an_endpoint_of_ones_own(world: World, aws_credentials: None, aws: str) -> None:
    upload(world, boto3.client("s3", endpoint_url=aws), "trail-imported")
    assert imported(world.data, "s3://trail-imported/logs", how=How(endpoint_url=aws)).added == 10


@mock_aws
def test_what_was_read_before_a_connection_failed_is_kept(
    world: World, aws_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(world, boto3.client("s3"), "trail")
    read, opened = StreamingBody.read, list[StreamingBody]()  # kept, so that none is taken for another

    def fail_the_second(body: StreamingBody, amt: int | None = None) -> Any:
        if not any(body is one for one in opened):
            opened.append(body)
        if len(opened) > 1:
            raise ReadTimeoutError(endpoint_url="s3")
        return read(body, amt)

    with monkeypatch.context() as patch:
        patch.setattr(StreamingBody, "read", fail_the_second)
        with pytest.raises(CloudTrailUnavailable, match="Read timeout"):
            imported(world.data, "s3://trail/logs/")
    assert len(rows(world.data)) == 5
    report = imported(world.data, "s3://trail/logs/")
    assert (report.added, report.known_files) == (5, 1)


@mock_aws
def test_a_bucket_that_is_not_there(world: World, aws_credentials: None) -> None:
    with pytest.raises(CloudTrailUnavailable, match="NoSuchBucket"):
        imported(world.data, "s3://nothing/logs")


def test_files_are_for_their_owner_alone(world: World) -> None:
    imported(world.data, world.trail)
    for path in imported_folder(world.data).rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
