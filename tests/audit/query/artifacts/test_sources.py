from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from audit.errors import QueryError
from audit.query.artifacts.artifact import MAX_PIECE_BYTES
from audit.query.artifacts.sources import ArtifactUnavailable, find_artifacts, is_place

NOTHING = io.BytesIO()


def test_a_folder_is_walked_in_order_without_following_links_or_opening_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_bytes(b"22")
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    found = list(find_artifacts(str(tmp_path), NOTHING))
    assert [(one.name, one.size_bytes) for one in found] == [(str(tmp_path / "a"), 1), (str(tmp_path / "b" / "two"), 2)]
    assert found[1].read(1, 10) == b"2"


def test_what_is_neither_file_nor_folder_is_refused_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert is_place(str(tmp_path / "pipe"))
    with pytest.raises(QueryError, match="neither a file nor a folder"):
        list(find_artifacts(str(tmp_path / "pipe"), NOTHING))


def test_standard_input_is_bounded() -> None:
    (found,) = find_artifacts("-", io.BytesIO(b"abc"))
    assert (found.name, found.read(1, 9)) == ("-", b"bc")
    with pytest.raises(QueryError, match="64 MiB"):
        list(find_artifacts("-", io.BytesIO(bytes((64 << 20) + 1))))


@pytest.mark.parametrize("length", [-1, MAX_PIECE_BYTES + 1])
def test_no_more_than_a_piece_is_read_at_once(tmp_path: Path, length: int) -> None:
    (tmp_path / "a").write_bytes(b"1")
    for found in (*find_artifacts(str(tmp_path / "a"), NOTHING), *find_artifacts("-", io.BytesIO(b"1"))):
        with pytest.raises(ValueError, match="a read of"):
            found.read(0, length)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="data")
        yield client


def test_objects_come_with_their_metadata_and_are_read_by_ranges(bucket: Any) -> None:
    bucket.put_object(Bucket="data", Key="in/one", Body=b"0123456789", Metadata={"X-Amz-Key-V2": "abc"})
    bucket.put_object(Bucket="data", Key="in/two", Body=b"")
    bucket.put_object(Bucket="data", Key="in/one.more", Body=b"-")
    one, more, two = find_artifacts("s3://data/in/", NOTHING)
    assert [one.name, more.name, two.name] == ["s3://data/in/one", "s3://data/in/one.more", "s3://data/in/two"]
    assert one.metadata == {"x-amz-key-v2": "abc"}
    assert (one.size_bytes, one.read(3, 4), one.read(8, 9), one.read(10, 1), two.read(0, 5)) == (10, b"3456", b"89", b"", b"")
    assert [found.name for found in find_artifacts("s3://data/in/one", NOTHING)] == ["s3://data/in/one"]


def test_a_bucket_that_is_not_there_is_said_to_be_so(bucket: Any) -> None:
    with pytest.raises(ArtifactUnavailable, match=r"s3://nowhere/x: .*NoSuchBucket"):
        list(find_artifacts("s3://nowhere/x", NOTHING))
    with pytest.raises(QueryError, match="not an object"):
        list(find_artifacts("s3://", NOTHING))
