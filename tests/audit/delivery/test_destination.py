"""Destinations: the fake, a folder and S3 (moto here, SeaweedFS in tests/integration/test_delivery.py) do the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from audit.delivery.bucket import BucketDestination, Retention, open_bucket
from audit.delivery.destination import AlreadyThere, DestinationFault, FolderDestination, Stored, parse_address
from audit.errors import QueryError
from tests.audit.delivery.conformance import check_conformance
from tests.audit.delivery.fakes import FakeDestination


@pytest.fixture
def s3(aws_credentials: None) -> Iterator[Any]:  # Any: boto3 makes its clients at run time
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="evidence")
        yield client


def test_the_fake() -> None:
    check_conformance(FakeDestination())


def test_a_folder(tmp_path: Path) -> None:
    check_conformance(FolderDestination(tmp_path))


def test_a_bucket(s3: Any) -> None:
    check_conformance(open_bucket("evidence", None, None))


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://evidence", "evidence", ""),
        ("s3://evidence/", "evidence", ""),
        ("s3://evidence/a/b/", "evidence", "a/b"),
        ("S3://evidence/a", "evidence", "a"),
        ("/var/evidence", "evidence", ""),
        ("evidence/", "evidence", ""),
    ],
)
def test_an_address_is_read(text: str, bucket: str, prefix: str) -> None:
    address = parse_address(text)
    assert (address.bucket, address.prefix) == (bucket, prefix)
    assert parse_address(address.text) == address, "as it is kept"


@pytest.mark.parametrize("text", ["s3://", "s3:///a", "s3://b/a//c", "s3://b/a/../c", "s3://b/a b"])
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(QueryError, match="no place to deliver to"):
        parse_address(text)


def test_of_an_object_that_is_longer_than_any_of_ours_the_beginning_is_given(
    tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("destination", "bucket"):
        monkeypatch.setattr(f"audit.delivery.{module}.LONGEST_BYTES", 10)
    for one in (FolderDestination(tmp_path), open_bucket("evidence", None, None)):
        for size in (10, 11, 500_000):
            one.put(f"AWSLogs/{size}", bytes(size), {})
            assert one.get(f"AWSLogs/{size}") == Stored(bytes(min(size, 11)))


# --- a folder


def test_a_folder_that_has_gone_is_not_made(tmp_path: Path) -> None:
    destination = FolderDestination(tmp_path / "mounted")
    for ask in (lambda: destination.put("k", b"", {}), lambda: destination.get("k"), lambda: list(destination.keys(""))):
        with pytest.raises(DestinationFault, match="see whether it is mounted"):
            ask()
    assert not (tmp_path / "mounted").exists()


def test_a_crash_before_a_file_has_its_name_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    destination = FolderDestination(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", crash)
        destination.put("a/k", b"data", {})
    assert (destination.get("a/k"), list(destination.keys(""))) == (None, [])
    destination.put("a/k", b"data", {"signature": "00"})
    with pytest.raises(AlreadyThere):
        destination.put("a/k", b"other", {})
    assert list(destination.keys("")) == ["a/k"]
    assert sorted(os.listdir(tmp_path / "a")) == ["k", "k.metadata.json"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a file in the way")
    with pytest.raises(DestinationFault, match="a: "):
        FolderDestination(tmp_path).put("a/k", b"", {})


# --- S3


def test_what_s3_refuses_is_said_with_what_to_do(s3: Any) -> None:
    with pytest.raises(DestinationFault, match=r"s3://nowhere/k: NoSuchBucket: there is no such bucket"):
        open_bucket("nowhere", None, None).put("k", b"", {})
    with pytest.raises(DestinationFault, match="NoSuchBucket"):
        open_bucket("nowhere", None, None).get("k")
    with pytest.raises(DestinationFault, match="NoSuchBucket"):
        list(open_bucket("nowhere", None, None).keys(""))
    with pytest.raises(DestinationFault, match="S3 cannot be used"):
        open_bucket("evidence", "no url", None)


def test_no_credentials_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(DestinationFault, match=r"s3://evidence/k: Unable to locate credentials"):
        open_bucket("evidence", "http://127.0.0.1:9", None).put("k", b"", {})


def test_nobody_there_is_said(s3: Any) -> None:
    with (
        mock_aws(config={"core": {"passthrough": {"urls": [r"http://127\.0\.0\.1.*"]}}}),
        pytest.raises(DestinationFault, match="Could not connect"),
    ):
        open_bucket("evidence", "http://127.0.0.1:9", None).put("k", b"", {})


def test_a_bucket_that_cannot_lock_is_said_where_that_is_asked_for(s3: Any) -> None:
    destination = BucketDestination("evidence", s3, Retention(30, "GOVERNANCE"))
    for _ in range(2):
        with pytest.raises(DestinationFault, match="the bucket has no Object Lock, which delivery_retention_days needs"):
            destination.put("k", b"data", {})
    assert destination.get("k") is None


def test_an_object_is_locked_where_that_is_asked_for(s3: Any) -> None:
    s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    destination = BucketDestination("locked", s3, Retention(30, "COMPLIANCE"))
    destination.put("k", b"data", {})
    found = s3.head_object(Bucket="locked", Key="k")
    assert found["ObjectLockMode"] == "COMPLIANCE"
    left = found["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(days=29) < left < timedelta(days=31)
