"""Attacks on what is derived of the log: delivered files, and the query index."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.delivery.layout import unique_of
from audit.query.index.layout import index_folder
from tests.attacks.honest import Honest
from tests.attacks.root import Root, assert_caught, assert_passes
from tests.audit.query.test_index import rewrite


@pytest.fixture
def delivered(honest: Honest) -> Iterator[Path]:
    """The delivered files where they were delivered: an attack on them is taken back."""
    kept = honest.folder / "kept"
    shutil.copytree(honest.delivered, kept)
    yield honest.delivered
    shutil.rmtree(honest.delivered)
    kept.rename(honest.delivered)


def files(delivered: Path, kind: str) -> list[Path]:
    """Those of a kind, `CloudTrail` or `CloudTrail-Digest`, oldest first, without what lies beside them."""
    return sorted((delivered / "AWSLogs" / "111122223333" / kind).rglob("*.json.gz"), key=lambda path: path.stat().st_mtime)


def remove(path: Path) -> None:
    path.unlink()
    path.with_name(path.name + ".metadata.json").unlink(missing_ok=True)


def test_the_newest_digests_deleted_with_their_logs(honest: Honest, root: Root, delivered: Path) -> None:
    for path in (*files(delivered, "CloudTrail-Digest")[1:], *files(delivered, "CloudTrail")[2:]):
        remove(path)
    assert_caught(root.data, 20, "--delivery", str(delivered))
    shutil.rmtree(root.data / "delivery")  # what was delivered is forgotten here too
    assert_caught(root.data, 23, "--delivery", str(delivered))


def test_the_newest_digests_deleted_with_their_logs_and_the_log(honest: Honest, root: Root, delivered: Path) -> None:
    """Where the log was cut as well, and nothing remembers, the delivered files tell nothing: a receipt does."""
    for path in (*files(delivered, "CloudTrail-Digest"), *files(delivered, "CloudTrail")):
        remove(path)
    for state in (root.data / "delivery").glob("*/state"):
        state.unlink()
    root.cut(honest.saved_size)
    assert_passes(root.data, *honest.keys, "--delivery", str(delivered))
    assert_caught(root.data, 10, "--receipts", str(honest.receipts))


def test_a_forged_file_among_the_delivered(honest: Honest, root: Root, delivered: Path) -> None:
    genuine = next(path for path in files(delivered, "CloudTrail") if b'"tenant":"t' in gzip.decompress(path.read_bytes()))
    forged = gzip.decompress(genuine.read_bytes()).replace(b'"tenant":"t', b'"tenant":"u')
    stem, _, _ = genuine.name.rpartition("_")
    genuine.with_name(f"{stem}_{unique_of(forged)}.json.gz").write_bytes(gzip.compress(forged))
    assert_passes(root.data)
    assert_caught(root.data, 22, "--delivery", str(delivered))


def events(root: Root) -> list[Path]:
    return sorted((index_folder(root.data) / "events").glob("*/*.parquet"))


def test_a_query_index_that_tells_another_caller(root: Root) -> None:
    assert_passes(root.data, "--index")
    rewrite(events(root)[0], "SELECT * REPLACE ('arn:aws:iam::111122223333:user/eve' AS caller) FROM file")
    assert_passes(root.data)
    assert_caught(root.data, 30, "--index")


def test_a_query_index_that_hides_a_record(root: Root) -> None:
    number = root.calls()[1]
    for path in (index_folder(root.data) / "postings").glob("w0-*.parquet"):
        rewrite(path, f"SELECT * FROM file WHERE record <> {number}")  # noqa: S608 - a number of ours
    assert_passes(root.data)
    assert_caught(root.data, 31, "--index")
