from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.paginate import Paginator
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws

from audit import s3
from audit.errors import QueryError
from audit.query.artifacts import recognise
from audit.query.artifacts.artifact import MAX_PIECE_BYTES
from audit.query.artifacts.sources import ArtifactUnavailable, find_artifacts, is_place
from tests.audit.query.artifacts.test_s3_encryption import BLOB, CONTEXT, V2, V3, V3_CONTENT

NOTHING = io.BytesIO()


def test_a_folder_is_walked_in_order_and_what_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "three").write_bytes(b"333")
    (tmp_path / "b" / "two").write_bytes(b"22")
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "b" / "link").symlink_to("two")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        found = list(find_artifacts(str(tmp_path), NOTHING))
    assert [(one.name.removeprefix(f"{tmp_path}/"), getattr(one, "reason", one.size_bytes)) for one in found] == [
        ("a", 1),
        ("link", "a symbolic link, which is not followed"),
        ("pipe", "a named pipe, which is not opened"),
        ("socket", "a socket, which is not opened"),
        ("b/link", "a symbolic link, which is not followed"),
        ("b/two", 2),
        ("b/c/three", 3),
    ]
    assert found[5].read(1, 10) == b"2"
    with pytest.raises(ArtifactUnavailable, match="named pipe"):
        found[2].read(0, 1)


def test_of_many_links_some_are_named_and_the_others_counted(tmp_path: Path) -> None:
    for number in range(1_000):
        (tmp_path / f"{number:03}").symlink_to("/etc/passwd")
    *named, rest = find_artifacts(str(tmp_path), NOTHING)
    assert [one.name for one in named] == [str(tmp_path / f"{number:03}") for number in range(10)]
    assert rest.name == f"990 more symbolic links below {tmp_path}"


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (found,) = find_artifacts(str(tmp_path), NOTHING)
    (tmp_path / "a").unlink()
    os.mkfifo(tmp_path / "a")
    with pytest.raises(OSError, match="Illegal seek"):
        found.read(0, 1)


def test_a_folder_that_cannot_be_read_is_named_and_its_neighbours_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"1")
    listing = Path.iterdir

    def denied(self: Path) -> Iterator[Path]:
        if self.name == "b":
            raise PermissionError(13, "Permission denied", str(self))
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", denied)
    one, two, three = find_artifacts(str(tmp_path), NOTHING)
    assert [one.name, two.name, three.name] == [str(tmp_path / "a/file"), str(tmp_path / "b"), str(tmp_path / "c/file")]
    with pytest.raises(ArtifactUnavailable, match="Permission denied"):
        two.read(0, 1)
    with pytest.raises(PermissionError):
        list(find_artifacts(str(tmp_path / "b"), NOTHING))


def test_a_name_that_is_not_utf_8_can_be_written(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"1")
    (found,) = find_artifacts(str(tmp_path), NOTHING)
    assert (found.name, found.read(0, 1)) == (f"{tmp_path}/\\xff", b"1")
    found.name.encode()


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
def bucket(aws_credentials: None) -> Iterator[Any]:
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
    with pytest.raises(QueryError, match="not a place in S3"):
        list(find_artifacts("s3://", NOTHING))


# --- keys of S3 are any text


@pytest.fixture(scope="module")
def over_http(aws: str) -> Iterator[str]:
    """S3 behind a socket, so that keys pass through URLs; the URL. The credentials stay, as Hypothesis wants it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        yield aws


ODD_KEYS = ["/", "//a", "a//b", "..", "a/../b", "a/./b", "b", "é/ü 😀", "a b+c%20", "a?b#c&d", "tab\t", "'\"<>&", "~"]


def test_each_odd_key_is_read_as_itself(over_http: str) -> None:
    client = boto3.client("s3", endpoint_url=over_http)
    client.create_bucket(Bucket="odd")
    for key in ODD_KEYS:
        client.put_object(Bucket="odd", Key=key, Body=key.encode(), Metadata={"x-amz-iv": str(ODD_KEYS.index(key))})
    found = list(find_artifacts("s3://odd", NOTHING, over_http))
    told = {one.name: (one.read(0, 100), one.metadata["x-amz-iv"]) for one in found}
    assert told == {f"s3://odd/{key}": (key.encode(), str(number)) for number, key in enumerate(ODD_KEYS)}
    assert [one.name for one in found] == [f"s3://odd/{key}" for key in sorted(ODD_KEYS)]


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=9))
def test_whatever_the_key_is_it_is_read_as_itself(over_http: str, key: str) -> None:
    client = boto3.client("s3", endpoint_url=over_http)
    client.create_bucket(Bucket="any")
    client.put_object(Bucket="any", Key=key, Body=key.encode())
    try:
        (found,) = find_artifacts("s3://any", NOTHING, over_http)
        assert (found.name, found.read(0, 100)) == (f"s3://any/{key}", key.encode())
    finally:
        client.delete_object(Bucket="any", Key=key)


def test_markers_of_folders_are_left_out_and_empty_objects_are_not(bucket: Any) -> None:
    for key, body in (("in/", b""), ("in/below/", b""), ("in/empty", b""), ("in/full/", b"1")):
        bucket.put_object(Bucket="data", Key=key, Body=body)
    assert [one.name for one in find_artifacts("s3://data/in/", NOTHING)] == ["s3://data/in/empty", "s3://data/in/full/"]


def test_an_object_that_is_not_given_does_not_keep_the_others_back(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("a", "b", "c"):
        bucket.put_object(Bucket="data", Key=key, Body=b"1")
    listing = s3.pages

    def raced(client: Any, bucket_name: str, prefix: str) -> Iterator[s3.Page]:
        for page in listing(client, bucket_name, prefix):
            bucket.delete_object(Bucket="data", Key="b")
            yield page

    monkeypatch.setattr(s3, "pages", raced)
    one, two, three = find_artifacts("s3://data", NOTHING)
    assert (one.read(0, 1), three.read(0, 1), two.name) == (b"1", b"1", "s3://data/b")
    with pytest.raises(ArtifactUnavailable, match="404"):
        two.read(0, 1)


# --- instruction files


INSTRUCTION = json.dumps(V3).encode()


@pytest.mark.parametrize("metadata", [{}, V3_CONTENT])
@pytest.mark.parametrize("page_size", [1, 2, 1_000])
def test_an_object_comes_with_its_instruction_file_and_that_not_once_more(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str], page_size: int
) -> None:
    contents = {"in/a": b"sealed", "in/a-b": b"other", "in/a.instruction": INSTRUCTION, "in/z": b"more"}
    for key, body in contents.items():
        bucket.put_object(Bucket="data", Key=key, Body=body, Metadata=metadata if key == "in/a" else {})
    paginate = Paginator.paginate
    monkeypatch.setattr(
        Paginator, "paginate", lambda self, **asked: paginate(self, **asked, PaginationConfig={"PageSize": page_size})
    )
    found = list(find_artifacts("s3://data/in/", NOTHING))
    assert [one.name for one in found] == ["s3://data/in/a", "s3://data/in/a-b", "s3://data/in/z"]
    contents_of = [recognise.read(one) for one in (found[0], *find_artifacts("s3://data/in/a", NOTHING))]
    for one in contents_of:
        (key_found,) = one.keys
        assert (one.name, key_found.blob, key_found.where) == ("s3://data/in/a", BLOB, "instruction file, x-amz-3")
        assert key_found.context == CONTEXT
    (alone,) = find_artifacts("s3://data/in/a.instruction", NOTHING)
    assert recognise.read(alone).keys == contents_of[0].keys


def test_an_object_with_a_key_of_its_own_and_its_instruction_file_are_two_artefacts(bucket: Any) -> None:
    bucket.put_object(Bucket="data", Key="a", Body=b"sealed", Metadata=V2)
    bucket.put_object(Bucket="data", Key="a.instruction", Body=INSTRUCTION)
    one, two = map(recognise.read, find_artifacts("s3://data", NOTHING))
    assert [key.where for contents in (one, two) for key in contents.keys] == [
        "metadata, x-amz-key-v2",
        "instruction file, x-amz-3",
    ]


@pytest.mark.parametrize("content", [b"{}", b"how to open the box", b"", bytes(300 << 10)])
def test_what_is_only_called_an_instruction_file_is_an_artefact_like_others(bucket: Any, content: bytes) -> None:
    bucket.put_object(Bucket="data", Key="a", Body=b"1")
    bucket.put_object(Bucket="data", Key="a.instruction", Body=content)
    assert [one.name for one in find_artifacts("s3://data", NOTHING)] == ["s3://data/a", "s3://data/a.instruction"]


def test_an_instruction_file_that_is_damaged_is_the_objects_fault(bucket: Any) -> None:
    bucket.put_object(Bucket="data", Key="a", Body=b"1")
    bucket.put_object(Bucket="data", Key="a.instruction", Body=INSTRUCTION[:-9])
    (found,) = find_artifacts("s3://data", NOTHING)
    assert "instruction file is JSON that is broken" in (recognise.read(found).fault or "")


def test_an_instruction_file_that_is_not_given_is_said_with_the_object(bucket: Any) -> None:
    bucket.put_object(Bucket="data", Key="a", Body=b"1")
    bucket.put_object(Bucket="data", Key="a.instruction", Body=INSTRUCTION, StorageClass="GLACIER")
    one, two = find_artifacts("s3://data", NOTHING)
    assert two.name == "s3://data/a.instruction"
    with pytest.raises(ArtifactUnavailable, match=r"a\.instruction: .*InvalidObjectState"):
        recognise.read(one)
