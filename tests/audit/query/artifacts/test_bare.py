from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.query.artifacts import bare
from audit.query.artifacts.artifact import DamagedArtifact
from audit.query.artifacts.bare import blob_bytes, from_base64, is_blob, read_bare, read_carved
from tests.audit.query.artifacts.blobs import local_blob, old_blob
from tests.audit.query.artifacts.memory import MemoryArtifact

BLOB = local_blob(1)
OTHER = local_blob(2)


def fingerprint(blob: bytes) -> str:
    return sha256(blob).hexdigest()


def carved(content: bytes) -> list[tuple[str, str]]:
    return [(key.fingerprint, key.where) for key in read_carved(MemoryArtifact(content)) or []]


@pytest.mark.parametrize("size_bytes", [1, 32, 100, 127, 128, 255, 256, 1000, 4096])
def test_a_blob_tells_its_own_length_whatever_it_wraps(size_bytes: int) -> None:
    blob = local_blob(plaintext=bytes(size_bytes))
    assert blob_bytes(blob[: bare.HEAD_BYTES]) == len(blob)
    assert blob_bytes(blob + b"more") == len(blob)


def test_the_older_shape_of_aws_is_one_too() -> None:
    assert is_blob(old_blob())


def test_a_blob_whose_two_lengths_differ_is_none() -> None:
    for at in (57, 59):  # The u32's last byte, the DER's length.
        changed = bytearray(BLOB)
        changed[at] += 1
        assert blob_bytes(bytes(changed)) is None


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (BLOB, "all of it"),
        (base64.b64encode(BLOB), "base64"),
        (base64.b64encode(BLOB).rstrip(b"=") + b"\n", "base64"),
        (base64.urlsafe_b64encode(BLOB), "base64"),
        (base64.encodebytes(BLOB).replace(b"\n", b"\r\n  "), "base64"),
        (b'"' + base64.b64encode(BLOB) + b'"\n', "base64"),
        (b"\xef\xbb\xbf" + base64.b64encode(BLOB), "base64"),
        (BLOB.hex().encode(), "hex"),
        (b"\\x" + BLOB.hex().upper().encode() + b"\n", "hex"),
        (BLOB.hex(" ").encode(), "hex"),
    ],
)
def test_a_blob_alone_is_read_however_it_is_written(content: bytes, where: str) -> None:
    keys = read_bare(MemoryArtifact(content))
    assert keys is not None
    assert [(key.fingerprint, key.where, key.blob) for key in keys] == [(fingerprint(BLOB), where, BLOB)]


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"a" * 64, b"AQICAHhh", BLOB + b"data", bytes(70_000), b"\x01\x02\x02\x00\x78"]
)
def test_what_is_no_blob_alone_is_not_read_as_one(content: bytes) -> None:
    assert read_bare(MemoryArtifact(content)) is None


@pytest.mark.parametrize("write", [bytes, base64.b64encode, lambda blob: blob.hex().encode()], ids=["raw", "base64", "hex"])
def test_a_blob_that_is_cut_off_anywhere_is_never_read_as_one(write: Callable[[bytes], bytes]) -> None:
    written = write(BLOB)
    refused = 0
    for size_bytes in range(len(written.rstrip(b"="))):
        try:
            assert read_bare(MemoryArtifact(written[:size_bytes])) is None
        except DamagedArtifact as damaged:
            assert damaged.format == bare.FORMAT
            refused += 1
    assert refused > len(written) // 4


def test_blobs_are_carved_out_of_bytes_with_their_exact_ends() -> None:
    content = b"\0\xff" * 10 + BLOB + OTHER + b"tail" + old_blob()
    places = [(BLOB, 20), (OTHER, 20 + len(BLOB)), (old_blob(), 24 + 2 * len(BLOB))]
    assert carved(content) == [(fingerprint(blob), f"byte {offset}") for blob, offset in places]


@pytest.mark.parametrize("before", [b"", b"x", b"xy", b"xyz", b"\n\xd8\x01"])
@pytest.mark.parametrize("after", [b"", b"z", b"zz"])
@pytest.mark.parametrize("blob", [BLOB, old_blob()])
def test_a_blob_is_carved_out_of_base64_wherever_in_it_it_begins(before: bytes, after: bytes, blob: bytes) -> None:
    text = base64.b64encode(before + blob + after)
    for written in (
        text,
        text.replace(b"+", b"-").replace(b"/", b"_"),
        b"\n    ".join(text[at : at + 61] for at in range(0, 400, 61)),
    ):
        assert carved(b"key: " + written + b"\n") == [(fingerprint(blob), f"byte {5 + len(before) // 3 * 4}, in base64")]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"k": base64.encodebytes(BLOB).decode()}),
        json.dumps({"k": base64.b64encode(BLOB).decode()}).replace("/", "\\/").replace("+", "\\u002b").replace("=", "\\u003d"),
        f"https://host/?k={base64.b64encode(BLOB).decode()}&x=1".replace("+", "%2B").replace("=", "%3D"),
        f"export KEY={base64.b64encode(BLOB).decode()} OTHER=1",
        f"<enc>{base64.urlsafe_b64encode(BLOB).decode()}</enc>",
        f"(X'{BLOB.hex()}');",
        f"\\\\x{BLOB.hex()}\t1",
    ],
)
def test_a_blob_is_carved_out_of_the_texts_that_hold_one(text: str) -> None:
    assert [found for found, _ in carved(text.encode())] == [fingerprint(BLOB)]


def test_a_blob_that_is_there_many_times_is_told_once() -> None:
    assert carved((base64.b64encode(BLOB) + b"\n") * 3 + BLOB) == [(fingerprint(BLOB), "byte 0, in base64")]


def test_a_blob_that_is_cut_off_has_no_fingerprint_and_says_so() -> None:
    for content in (BLOB[:-1], base64.b64encode(BLOB[:-3]) + b" text", BLOB[:100].hex().encode() + b"!"):
        [key] = read_carved(MemoryArtifact(b"-" + content)) or []
        assert (key.fingerprint, key.blob) == ("", b"")
        assert key.note is not None
        assert f"{len(BLOB)} bytes long" in key.note


def test_bytes_that_only_begin_like_a_blob_have_no_fingerprint() -> None:
    [key] = read_carved(MemoryArtifact(b"...\x01\x02\x03\x00\x78" + bytes(500))) or []
    assert (key.fingerprint, key.where) == ("", "byte 3")
    assert "its end cannot be known" in (key.note or "")


def test_text_that_begins_like_a_blob_and_has_another_shape_ends_where_the_text_ends() -> None:
    unknown = bytes.fromhex("0102030078") + bytes(range(100, 200))
    for written in (base64.b64encode(unknown), unknown.hex().encode()):
        [key] = read_carved(MemoryArtifact(b'{"k": "' + written + b'"}')) or []
        assert key.blob == unknown
        assert "its shape is not a known one" in (key.note or "")


@pytest.mark.parametrize("text", [b"AQICAHhh...", b"enc: AQIDAHh\n", b"xAQICAHh" + b"A" * 300, b"", b"nothing", b"0102020078"])
def test_an_example_in_prose_is_no_blob(text: bytes) -> None:
    assert read_carved(MemoryArtifact(text)) is None


def test_blobs_are_found_across_the_pieces_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "_PIECE_BYTES", 64)
    monkeypatch.setattr(bare, "_OVERLAP_BYTES", 2 * len(BLOB))
    for shift in range(130):
        content = bytes(shift) + BLOB + bytes(70) + base64.b64encode(b"a" + OTHER)
        assert [found for found, _ in carved(content)] == [fingerprint(BLOB), fingerprint(OTHER)]


def test_what_was_not_searched_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "MAX_CARVED_BYTES", 1000)
    keys = read_carved(MemoryArtifact(BLOB + bytes(900), claimed_bytes=10**12)) or []
    assert [(key.fingerprint, key.where) for key in keys] == [(fingerprint(BLOB), "byte 0"), ("", "from byte 1000 on")]
    assert (keys[1].note or "").startswith("not searched")


def test_a_file_full_of_false_beginnings_is_given_up_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "_MAX_TRIED", 100)
    keys = read_carved(MemoryArtifact(b"AQICAHhh " * 1000)) or []
    assert [(key.fingerprint, key.where) for key in keys] == [("", "from byte 900 on")]


def test_no_more_is_read_at_once_than_a_piece() -> None:
    artifact = MemoryArtifact(BLOB, claimed_bytes=10 << 20)
    read_carved(artifact)
    assert max(length for _, length in artifact.reads) < 5 << 20
    assert read_bare(artifact) is None


def test_the_base64_that_is_read_is_strict() -> None:
    assert from_base64(b"AQ_-\n") == from_base64(b"AQ/+") == b"\x01\x0f\xfe"
    for wrong in (b"A", b"AQ*=", b"AA==AA==", b"\xff"):
        assert from_base64(wrong) is None


FRAGMENTS = st.sampled_from(
    [
        b"\x01\x02\x02\x00\x78",
        b"AQICAH",
        b"hh",
        b"0102020078",
        b"ECAgB4",
        b"BAgIAe",
        b"\\n",
        BLOB[:60],
        BLOB,
        base64.b64encode(BLOB)[:90],
    ]
)


@given(st.lists(st.one_of(st.binary(max_size=12), FRAGMENTS), max_size=8))
def test_whatever_the_bytes_are_the_readers_answer(parts: list[bytes]) -> None:
    content = b"".join(parts)
    for key in read_carved(MemoryArtifact(content)) or []:
        assert (key.fingerprint == "") == (key.blob == b"")
        assert key.fingerprint or key.note
    try:
        keys = read_bare(MemoryArtifact(content))
    except DamagedArtifact:
        return
    assert keys is None or all(is_blob(key.blob) for key in keys)
