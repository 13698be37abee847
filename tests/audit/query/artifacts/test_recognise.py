from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.query.artifacts.encryption_sdk import FORMAT_V2
from audit.query.artifacts.recognise import read
from audit.query.artifacts.sources import FileArtifact
from tests.audit.query.artifacts.blobs import KEY_ARN, local_blob
from tests.audit.query.artifacts.memory import MemoryArtifact
from tests.audit.query.artifacts.test_encryption_sdk import small_message
from tests.audit.query.builder import LogBuilder
from tests.audit.query.test_commands import run

OTHER_KMS = bytes(range(200)) * 2  # of a KMS whose blobs have another shape


@pytest.mark.parametrize("content", [OTHER_KMS, base64.b64encode(OTHER_KMS), base64.encodebytes(OTHER_KMS)])
def test_a_small_file_of_no_known_format_is_taken_for_a_ciphertext_and_the_note_says_so(content: bytes) -> None:
    contents = read(MemoryArtifact(content))
    assert contents.fingerprints == [hashlib.sha256(OTHER_KMS).hexdigest()]
    assert contents.keys[0].note is not None and "no format that is known" in contents.keys[0].note


@pytest.mark.parametrize("content", [b"", bytes(100_000)])
def test_what_can_be_no_ciphertext_has_no_key(content: bytes) -> None:
    contents = read(MemoryArtifact(content))
    assert (contents.keys, contents.fault) == ((), None)


def test_a_damaged_artefact_says_what_is_wrong() -> None:
    contents = read(MemoryArtifact(small_message()[:100]))
    assert contents.keys == ()
    assert contents.fault is not None and contents.fault.startswith(f"damaged {FORMAT_V2}: ")


@given(st.binary(max_size=2_000))
def test_whatever_the_bytes_are_there_is_an_answer(content: bytes) -> None:
    contents = read(MemoryArtifact(content))
    assert contents.fault is None or contents.keys == ()


@pytest.mark.parametrize("content", [b"a readme", base64.b64encode(local_blob(0)), bytes(60_000)])
def test_a_small_artefact_is_read_once_for_all_readers(content: bytes) -> None:
    artifact = MemoryArtifact(content)
    read(artifact)
    assert artifact.reads == [(0, len(content))]


def test_a_large_artefact_is_read_as_it_is() -> None:
    content = bytes(100_000) + base64.b64encode(local_blob(0)) + bytes(100_000)
    assert read(MemoryArtifact(content)).keys[0].where == "byte 100000, in base64"


# --- through the command


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    """Bob unwrapped the first of the blobs, and nobody the second."""
    log = LogBuilder(tmp_path / "data")
    for blob, event, user, side in (
        (local_blob(0), "GenerateDataKey", "alice", "fingerprintsOut"),
        (local_blob(0), "Decrypt", "bob", "fingerprintsIn"),
        (local_blob(1), "GenerateDataKey", "alice", "fingerprintsOut"),
    ):
        extension = {"keytrail": {"phase": "outcome", side: [hashlib.sha256(blob).hexdigest()]}}
        log.add(log.sequence, event, user=user, key=KEY_ARN, additionalEventData=extension)
    return log


def dump(tmp_path: Path, *blobs: bytes) -> Path:
    """A file that has them in base64 somewhere in it."""
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"resources": [{"secret": base64.b64encode(blob).decode()} for blob in blobs]}))
    return path


def test_each_key_of_an_artefact_has_its_story(tmp_path: Path, log: LogBuilder) -> None:
    told = run(log, "trace", str(dump(tmp_path, local_blob(0), local_blob(1))))
    assert told.exit_code == 0, told.stderr
    assert "2 data keys" in told.stdout
    assert "unwrapped  1 time by 1 caller" in told.stdout
    assert "Decrypt by user/bob" in told.stdout
    assert "unwrapped  never in these logs" in told.stdout


def test_a_folder_is_told_file_by_file_and_what_is_damaged_is_named(tmp_path: Path, log: LogBuilder) -> None:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "a.key").write_bytes(local_blob(0))
    (folder / "below" / "b.message").write_bytes(small_message()[:100])
    (folder / "c.link").symlink_to(folder)
    told = run(log, "trace", "--json", str(folder))
    assert told.exit_code == 1
    first, link, last = json.loads(told.stdout)
    assert (first["artefact"], first["keys"][0]["story"]["counts"]["unwrapped"]["times"]) == (str(folder / "a.key"), 1)
    assert (link["artefact"], link["keys"]) == (str(folder / "c.link"), [])
    assert link["fault"] == "it cannot be read: a symbolic link, which is not followed"
    assert last["keys"] == [] and "damaged" in last["fault"]


def test_an_item_that_is_damaged_is_named_and_the_others_have_their_stories(tmp_path: Path, log: LogBuilder) -> None:
    dump = tmp_path / "scan.json"
    items = [
        {"key": {"S": text}, "contents": {"S": ""}, "hmac": {"S": ""}} for text in ("*", base64.b64encode(local_blob(0)).decode())
    ]
    dump.write_text(json.dumps({"Items": items}))
    told = run(log, "trace", "--json", str(dump))
    (contents,) = json.loads(told.stdout)
    assert told.exit_code == 1
    assert contents["fault"].startswith("damaged credstash: item 1: ")
    assert [(key["where"], key["story"]["found"]) for key in contents["keys"]] == [("item 2", True)]
    written = run(log, "trace", str(dump)).stdout
    assert "FAULT      damaged credstash: item 1" in written and "Decrypt by user/bob" in written


def test_a_file_that_cannot_be_read_does_not_keep_the_others_of_its_folder_back(
    tmp_path: Path, log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(local_blob(0))
    (folder / "b").write_bytes(local_blob(0))
    reading = FileArtifact.read

    def broken(self: FileArtifact, offset: int, length: int) -> bytes:
        if self.path.name == "a":
            raise PermissionError(13, "Permission denied", str(self.path))
        return reading(self, offset, length)

    monkeypatch.setattr(FileArtifact, "read", broken)
    told = run(log, "trace", "--json", str(folder))
    first, second = json.loads(told.stdout)
    assert told.exit_code == 1
    assert "Permission denied" in first["fault"] and second["keys"][0]["story"]["found"]
    assert run(log, "trace", str(folder / "a")).exit_code == 3


def test_a_key_that_the_logs_do_not_know_is_a_finding(tmp_path: Path, log: LogBuilder) -> None:
    told = run(log, "trace", str(dump(tmp_path, local_blob(0), local_blob(7))))
    assert told.exit_code == 1
    assert "NOT FOUND" in told.stdout


def test_what_was_not_read_is_told_and_counted_as_no_data_key(tmp_path: Path, log: LogBuilder) -> None:
    broken = tmp_path / "broken.gz"
    broken.write_bytes(b"\x1f\x8b\x08 and no more")
    told = run(log, "trace", str(broken))
    assert told.exit_code == 1
    assert "broken.gz: no data keys, 1 more to be noted" in told.stdout
    assert "no blob    gzip, all of it" in told.stdout and "data key " not in told.stdout


def test_by_standard_input(log: LogBuilder) -> None:
    assert "Decrypt by user/bob" in run(log, "trace", "-", stdin=b"KEY=" + base64.b64encode(local_blob(0)) + b"\n").stdout


def test_a_folder_with_nothing_in_it_is_no_answer(tmp_path: Path, log: LogBuilder) -> None:
    (tmp_path / "empty").mkdir()
    told = run(log, "trace", str(tmp_path / "empty"))
    assert (told.exit_code, "nothing in" in told.stderr) == (2, True)


def test_without_the_index_a_place_that_it_hides_is_found(tmp_path: Path, log: LogBuilder) -> None:
    from tests.audit.query.test_index import compacted, rewrite

    log.rotate()
    log.add(9)
    compacted(log.data)
    (postings,) = (log.data / "index" / "postings").glob("*.parquet")
    rewrite(postings, "SELECT * FROM file WHERE record <> 1")
    blob = base64.b64encode(local_blob(0)).decode()
    assert "unwrapped  never" in run(log, "trace", blob).stdout
    assert "Decrypt by user/bob" in run(log, "trace", "--no-index", blob).stdout
    fingerprint = hashlib.sha256(local_blob(0)).hexdigest()
    asked = [run(log, "query", "--fingerprint", fingerprint, *more).stdout for more in ((), ("--no-index",))]
    assert ["bob" in answer for answer in asked] == [False, True]
