"""CloudTrail's files: the layout, what is broken in them, and S3."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.response import StreamingBody
from moto import mock_aws

from audit.reconcile import cloudtrail
from audit.reconcile.cloudtrail import DamagedFile, read_events
from audit.reconcile.files import CloudTrailUnavailable, Wanted, find_files
from audit.reconcile.findings import Kind, Report
from audit.reconcile.judge import reconcile
from tests.audit.fixtures.reconcile import ACCOUNT, REGION, World, packed
from tests.audit.query.builder import at

DAY = f"AWSLogs/{ACCOUNT}/CloudTrail/{REGION}/2026/01/02"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "data", tmp_path / "trail")
    for number in range(10):
        world.call(number * 60)
    world.deliver()
    return world


def judged(world: World, where: str | None = None) -> Report:
    return reconcile(world.data, where or str(world.trail), Wanted())[0]


# --- what is in a file ---------------------------------------------------------------------------------------------------


def read(content: bytes) -> tuple[list[dict[str, Any]], str]:
    """The events, and what is wrong."""
    found = []
    try:
        for event in read_events(io.BytesIO(content)):
            found.append(event)
    except DamagedFile as error:
        return found, str(error)
    return found, ""


EVENTS = [{"n": 1, "text": "}],é😀\\"}, {"n": 2, "deep": {"a": [1, {"b": []}]}}, {"n": 3}]


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: gzip.compress(data[:30]) + gzip.compress(data[30:])])
def test_events_are_read_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None, pack: Any) -> None:
    monkeypatch.setattr(cloudtrail, "_BLOCK_BYTES", block)
    for events in (EVENTS, EVENTS[:1], []):
        text = json.dumps({"Records": events}, indent=indent, ensure_ascii=False)
        assert read(pack(text.encode())) == (events, "")


@pytest.mark.parametrize(
    ("content", "number", "reason"),
    [
        (b"", 0, "no CloudTrail log file"),
        (b"\x00" * 10_000, 0, "no CloudTrail log file"),
        (b'{"digestStartTime":"x"}', 0, "no CloudTrail log file"),
        (b"[]", 0, "no CloudTrail log file"),
        (b'{"Records":[{"n":1}', 1, "cut off behind event 1"),
        (b'{"Records":[{"n":1},', 1, "cut off behind event 1"),
        (b'{"Records":[{"n":1},{"n":', 1, "event 2 is no JSON, or is cut off"),
        (b'{"Records":[{"n":1},7]}', 1, "event 2 is no object"),
        (b'{"Records":[{"n":1}{"n":2}]}', 1, "no JSON behind event 1"),
        (b'{"Records":[{"n":1}]', 1, "the events are followed by something else"),
        (b'{"Records":[{"n":1}]} {"Records":[]}', 1, "the end is followed by something else"),
        (b'{"Records":[' + b'{"a":' * 100_000, 0, "event 1 is nested too deeply"),
        (b'{"Records":[{"n":' + b"9" * 5_000 + b"}]}", 0, "event 1 is no JSON"),
        (b'{"Records":[{"n":"\xff"}]}', 0, "not UTF-8"),
        (packed([{"n": 1}])[:-9], 0, "broken gzip: it is cut off"),
        (packed([{"n": 1}])[:-8] + b"\0" * 8, 0, "broken gzip: CRC check failed"),
        (b"\x1f\x8b" + b"\0" * 50, 0, "broken gzip"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\xff" * 50, 0, "broken gzip"),
    ],
)
def test_what_is_broken_is_told_and_what_came_before_is_kept(content: bytes, number: int, reason: str) -> None:
    events, told = read(content)
    assert len(events) <= number
    assert reason in told


def test_events_and_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudtrail, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(cloudtrail, "MAX_EVENT_CHARS", 1_000)
    assert "too long" in read(b'{"Records":[{"n":"' + b"x" * 5_000 + b'"}]}')[1]
    monkeypatch.setattr(cloudtrail, "MAX_FILE_BYTES", 1_000)
    assert "larger than" in read(gzip.compress(b'{"Records":[' + b" " * 100_000))[1]


# --- the rest goes on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"\x1f\x8b broken", "broken gzip"),
        (b"no JSON", "no CloudTrail log file"),
        (json.dumps({"Records": [{"eventSource": "kms.amazonaws.com", "recipientAccountId": ACCOUNT}]}).encode(), "no eventTime"),
        (packed([{"eventSource": "kms.amazonaws.com", "eventTime": "2026-01-02T00:00:00Z"}]), "event 1: no eventName"),
        (
            packed([{"eventSource": "kms.amazonaws.com", "eventTime": "2026-01-02T00:00:00Z", "eventName": "Decrypt"}]),
            "event 1: no requestID",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_a_finding_and_the_rest_goes_on(world: World, content: bytes, detail: str) -> None:
    path = world.trail / DAY / "broken.json.gz"
    path.write_bytes(content)
    report = judged(world)
    [found] = report.findings
    assert (found.kind, found.files) == (Kind.UNREADABLE, (str(path),))
    assert detail in found.detail
    assert report.counts.agreed == 10


def test_events_of_any_shape_are_taken(world: World) -> None:
    shapes: list[Any] = [None, 7, "text", [], {}, [None], {"a": {"b": 1}}, "\ud800", "\0", float("nan")]
    events = []
    for name in (
        "userIdentity",
        "requestParameters",
        "resources",
        "additionalEventData",
        "sharedEventID",
        "readOnly",
        "eventType",
    ):
        for shape in shapes:
            events.append({**world.event(30), name: shape})
    events += [{**world.event(30), "requestParameters": {"encryptionContext": shape}} for shape in shapes]
    events += [{**world.event(30), "requestID": f"{shape}-id"} for shape in shapes]
    (world.trail / DAY / "odd.json").write_text(json.dumps({"Records": events}))
    report = judged(world)
    assert report.counts.agreed == 10
    assert report.totals[Kind.BYPASS] + report.counts.by_aws_services == len(events)
    json.dumps(report.to_json())


def test_network_activity_and_insights_are_no_calls(world: World) -> None:
    for category in ("NetworkActivity", "Insight"):
        world.event(30, eventCategory=category)
    world.deliver()
    report = judged(world)
    assert (report.findings, report.counts.aws_events) == ([], 10)


# --- where files lie -----------------------------------------------------------------------------------------------------


def test_what_is_no_log_file_is_left_out(world: World) -> None:
    for name in (
        f"AWSLogs/{ACCOUNT}/CloudTrail-Digest/{REGION}/2026/01/02/{ACCOUNT}_CloudTrail-Digest_x.json.gz",
        f"AWSLogs/{ACCOUNT}/CloudTrail-Insight/{REGION}/2026/01/02/a.json.gz",
        f"flat/{ACCOUNT}_CloudTrail-Digest_{REGION}_trail_20260102T000000Z.json.gz",
        "readme.txt",
    ):
        path = world.trail / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no log file")
    report = judged(world)
    assert (report.findings, report.files) == ([], 2)


@pytest.mark.parametrize("prefix", ["", "CloudTrail-Prod/", "AWSLogs/o-abc123/"])
def test_any_layout_is_read(world: World, tmp_path: Path, prefix: str) -> None:
    inside = DAY.removeprefix("AWSLogs/") if prefix.startswith("AWSLogs") else DAY
    (tmp_path / "other" / prefix / inside).parent.mkdir(parents=True)
    (world.trail / DAY).rename(tmp_path / "other" / prefix / inside)
    assert judged(world, str(tmp_path / "other")).counts.agreed == 10


@pytest.mark.parametrize(
    ("wanted", "days"),
    [
        (Wanted(), ["2026/01/02", "2026/01/10", "2026/13/45"]),
        (Wanted(since=at(5 * 86_400)), ["2026/01/10", "2026/13/45"]),
        (Wanted(until=at(5 * 86_400)), ["2026/01/02", "2026/13/45"]),
        (Wanted(accounts=("999988887777",)), ["2026/13/45"]),
        (Wanted(regions=(REGION,)), ["2026/01/02", "2026/01/10", "2026/13/45"]),
    ],
)
def test_files_of_other_days_are_not_read(tmp_path: Path, wanted: Wanted, days: list[str]) -> None:
    for day in ("2026/01/02", "2026/01/10", "2026/13/45"):
        folder = tmp_path / "AWSLogs" / ACCOUNT / "CloudTrail" / REGION / day
        folder.mkdir(parents=True)
        (folder / "a.json.gz").touch()
    assert [file.name[-20:-10] for file in find_files(str(tmp_path), wanted)] == days


def test_a_single_file_is_enough(world: World) -> None:
    path = sorted((world.trail / DAY).iterdir())[0]
    assert judged(world, str(path)).counts.agreed == 5


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_nothing_to_compare_with_is_no_agreement(world: World, tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CloudTrailUnavailable, match=r"no such file|no CloudTrail log file"):
        judged(world, str(tmp_path / "empty" / where))


# --- S3 --------------------------------------------------------------------------------------------------------------------


def upload(world: World, client: Any, bucket: str) -> None:
    client.create_bucket(Bucket=bucket)
    for path in world.trail.rglob("*.gz"):
        client.put_object(Bucket=bucket, Key=f"logs/{path.relative_to(world.trail)}", Body=path.read_bytes())
    client.put_object(Bucket=bucket, Key=f"elsewhere/{DAY}/broken.json.gz", Body=b"")


@mock_aws
def test_a_bucket(world: World, aws_credentials: None) -> None:
    upload(world, boto3.client("s3"), "trail")
    report = judged(world, "s3://trail/logs/")
    assert (report.findings, report.counts.agreed, report.files) == ([], 10, 2)
    [found] = judged(world, "s3://trail").findings
    assert (found.kind, found.files) == (Kind.UNREADABLE, (f"s3://trail/elsewhere/{DAY}/broken.json.gz",))


def test_an_endpoint_of_ones_own(world: World, aws_credentials: None, aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(world, boto3.client("s3", endpoint_url=aws), "trail-endpoint")
    where = "s3://trail-endpoint/logs"
    assert reconcile(world.data, where, Wanted(), endpoint_url=aws)[0].counts.agreed == 10
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", aws)
    assert judged(world, where).counts.agreed == 10


@mock_aws
def test_a_bucket_that_is_not_there(world: World, aws_credentials: None) -> None:
    with pytest.raises(CloudTrailUnavailable, match="NoSuchBucket"):
        judged(world, "s3://nothing/logs")


@mock_aws
def test_a_connection_that_fails_is_no_finding(world: World, aws_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(world, boto3.client("s3"), "trail")

    def fail(body: StreamingBody, amt: int | None = None) -> bytes:
        raise ReadTimeoutError(endpoint_url="s3")

    monkeypatch.setattr(StreamingBody, "read", fail)
    with pytest.raises(CloudTrailUnavailable, match="Read timeout"):
        judged(world, "s3://trail/logs")


@mock_aws
def test_an_object_that_is_not_given_is_a_finding(world: World, aws_credentials: None) -> None:
    client = boto3.client("s3")
    upload(world, client, "trail")
    key = f"logs/{DAY}/archived.json.gz"
    client.put_object(Bucket="trail", Key=key, Body=b"", StorageClass="GLACIER")
    [found] = judged(world, "s3://trail/logs").findings
    assert (found.kind, found.files) == (Kind.UNREADABLE, (f"s3://trail/{key}",))
    assert "InvalidObjectState" in found.detail
