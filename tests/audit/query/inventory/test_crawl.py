from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import boto3
import pytest

from audit.errors import QueryError
from audit.query.artifacts.recognise import Contents
from audit.query.artifacts.recognise import read as recognise
from audit.query.artifacts.sources import ArtifactUnavailable
from audit.query.inventory import crawl as crawled
from audit.query.inventory.crawl import examine
from tests.audit.query.artifacts.blobs import local_blob
from tests.audit.query.artifacts.memory import MemoryArtifact

BLOB = local_blob(1)
CUT = local_blob(2)[:-1]


def crawl(place: object, endpoint_url: str | None = None) -> list[Contents]:
    return list(crawled.crawl(str(place), io.BytesIO(), endpoint_url))


def test_a_tree_is_told_in_order_with_its_faults(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, content in (("a", BLOB), ("b/damaged", CUT), ("b/text", b""), ("c", BLOB)):
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    found = [(one.name.removeprefix(f"{tmp_path}/"), len(one.keys), one.fault is not None) for one in crawl(tmp_path)]
    assert sorted(found) == [("a", 1, False), ("b/damaged", 0, True), ("b/text", 0, False), ("c", 1, False), ("pipe", 0, True)]
    assert [one.name for one in crawl(tmp_path)] == [one.name for one in crawl(tmp_path)]
    (one,) = crawl(tmp_path / "a")
    assert (len(one.keys), one.keys[0].blob) == (1, b"")


def test_what_cannot_be_read_is_told_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(BLOB)

    def failing(artifact: Any) -> Contents:
        if artifact.name.endswith("a"):
            raise RecursionError
        if artifact.name.endswith("b"):
            raise PermissionError(13, "Permission denied")
        return recognise(artifact)

    monkeypatch.setattr(crawled, "recognise", failing)
    faults = [one.fault for one in crawl(tmp_path)]
    assert faults == ["its reader failed: RecursionError", "it cannot be read: [Errno 13] Permission denied", None]


@pytest.mark.parametrize(("place", "error"), [("nowhere", FileNotFoundError), ("/dev/null", QueryError), ("s3://", QueryError)])
def test_a_place_that_is_none(place: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        crawl(place)


@pytest.mark.parametrize("size", [10, 70_000, 3 << 20])
def test_the_beginning_is_fetched_once(size: int) -> None:
    artifact = MemoryArtifact(b"\n".join([b"plain text"] * (size // 11 + 1))[:size])
    contents = examine(artifact)
    assert [key.fingerprint for key in contents.keys] == [key.fingerprint for key in recognise(artifact).keys]
    artifact.reads.clear()
    examine(artifact)
    assert len([offset for offset, length in artifact.reads if offset + length <= 64 << 10]) <= 1
    assert size > 1 << 20 or len(artifact.reads) == 1


def test_a_bucket(aws_credentials: None, aws: str) -> None:
    s3: Any = boto3.client("s3", endpoint_url=aws)  # Any: boto3 makes its clients at run time
    s3.create_bucket(Bucket="crawled")
    names = [f"in/{number:02}" for number in range(40)]
    for name in [*names, "in/cut", "other"]:
        s3.put_object(Bucket="crawled", Key=name, Body=CUT if name == "in/cut" else BLOB)
    found = crawl("s3://crawled/in/", aws)
    assert [one.name.removeprefix("s3://crawled/") for one in found] == [*names, "in/cut"]
    assert [len(one.keys) for one in found] == [1] * 40 + [0]
    assert found[-1].fault is not None
    assert len(crawl("s3://crawled", aws)) == 42
    assert [one.name for one in crawl("s3://crawled/other", aws)] == ["s3://crawled/other"]
    metadata = {"x-amz-c": "115", "x-amz-d": "d", "x-amz-i": "i"}
    s3.put_object(Bucket="crawled", Key="v3/a", Body=b"sealed", Metadata=metadata)
    s3.put_object(
        Bucket="crawled",
        Key="v3/a.instruction",
        Body=b'{"x-amz-3": "%s", "x-amz-w": "12", "x-amz-t": "{}"}' % base64.b64encode(BLOB),
    )
    (one,) = crawl("s3://crawled/v3/", aws)
    assert (one.name, one.keys[0].fingerprint) == ("s3://crawled/v3/a", found[0].keys[0].fingerprint)
    with pytest.raises(ArtifactUnavailable):
        crawl("s3://no-such-bucket/", aws)
