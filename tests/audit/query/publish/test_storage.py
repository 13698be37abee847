"""The fake bucket and S3 do the same: moto here, SeaweedFS in tests/integration/test_publish.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from audit.query.publish.storage import NoObject, ObjectIO, PublishFault, S3Store, Store, connect, place_of
from tests.audit.query.publish.memory import MemoryStore


def check_conformance(store: Store, folder: Path) -> None:
    """What `Store` promises."""
    with pytest.raises(NoObject):
        store.read("a/none")
    store.put("a/one", b"1")
    store.put("a/one", b"2")
    assert store.read("a/one") == b"2"
    assert store.put_new("a/new", b"3")
    assert store.put_new("a/new", b"3"), "an answer that was lost"
    assert not store.put_new("a/new", b"4")
    assert store.read("a/new") == b"3"
    file = folder / "file"
    file.write_bytes(bytes(range(256)) * 1000)
    store.upload("a/day=2026-01-02/file", file)
    assert store.read("a/day=2026-01-02/file") == file.read_bytes()
    with pytest.raises(FileNotFoundError):
        store.upload("a/gone", folder / "gone")
    store.put("b/other", b"")
    assert {one.key: one.size_bytes for one in store.objects("a/")} == {"a/one": 1, "a/new": 1, "a/day=2026-01-02/file": 256_000}
    store.delete(["a/one", "a/never"])
    store.delete([])
    assert [one.key for one in store.objects("a/")] == ["a/day=2026-01-02/file", "a/new"]


@pytest.fixture
def bucket(aws_credentials: None) -> Iterator[S3Store]:
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="lake")
        yield S3Store("lake", connect(None))


def test_the_fake(tmp_path: Path) -> None:
    check_conformance(MemoryStore(), tmp_path)


def test_s3(bucket: S3Store, tmp_path: Path) -> None:
    check_conformance(bucket, tmp_path)


def test_what_s3_refuses_is_said(bucket: S3Store) -> None:
    with pytest.raises(PublishFault, match=r"s3://nowhere/key: .*NoSuchBucket"):
        S3Store("nowhere", connect(None)).read("key")
    with pytest.raises(PublishFault, match="Invalid endpoint"):
        connect("no url")


def test_files_of_pyiceberg_are_there_when_they_are_whole_and_not_before() -> None:
    store = MemoryStore()
    files = ObjectIO(open_bucket=lambda bucket: {"lake": store}[bucket])
    output = files.new_output("s3://lake/a/b")
    with output.create() as stream:
        stream.write(b"whole")
        assert not output.exists()
    assert (output.exists(), len(output), store.content) == (True, 5, {"a/b": b"whole"})
    with pytest.raises(FileExistsError), output.create() as stream:
        stream.write(b"another")
    with pytest.raises(ZeroDivisionError), output.create(overwrite=True) as stream:
        stream.write(b"ha")
        raise ZeroDivisionError
    with files.new_input("s3a://lake/a/b").open() as read:
        assert read.read() == b"whole"
    files.delete("s3://lake/a/b")
    with pytest.raises(FileNotFoundError):
        files.new_input("s3://lake/a/b").open()


@pytest.mark.parametrize("location", ["/a/b", "s3://lake", "s3:///a", "http://lake/a", ""])
def test_what_is_no_place_in_s3(location: str) -> None:
    with pytest.raises(PublishFault, match="not a place in S3"):
        place_of(location)
