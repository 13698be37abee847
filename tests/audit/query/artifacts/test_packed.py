from __future__ import annotations

import gzip
import json
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.query.artifacts import packed, recognise
from audit.query.artifacts.artifact import MAX_PIECE_BYTES
from audit.query.artifacts.packed import PIECE_BYTES, BrokenPacking, pieces, unpack
from tests.audit.query.artifacts.memory import MemoryArtifact
from tests.audit.query.artifacts.test_dynamodb import BLOB, CREDENTIAL
from tests.audit.query.artifacts.test_sops import BLOBS, YAML


def unpacked(content: bytes) -> bytes:
    return b"".join(pieces(MemoryArtifact(content)))


@given(st.lists(st.binary(max_size=2_000), min_size=1, max_size=4), st.integers(1, 99))
def test_whatever_was_packed_is_unpacked_however_small_the_pieces(members: list[bytes], piece_bytes: int) -> None:
    content = b"".join(map(gzip.compress, members))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "PIECE_BYTES", piece_bytes)
        assert unpacked(content) == unpacked(content + bytes(7)) == b"".join(members)


@given(st.binary(max_size=2_000))
def test_what_is_not_packed_comes_as_it_is(content: bytes) -> None:
    if not content.startswith(b"\x1f\x8b\x08"):
        assert unpacked(content) == content
        assert unpack(MemoryArtifact(content)) is None


def test_pieces_are_bounded_and_none_is_empty() -> None:
    content = json.dumps(list(range(1_000_000))).encode()
    assert len(content) > 2 * PIECE_BYTES
    for stored in (content, gzip.compress(content)):
        found = list(pieces(MemoryArtifact(stored)))
        assert b"".join(found) == content
        assert all(0 < len(piece) <= PIECE_BYTES for piece in found)


PACKED = gzip.compress(json.dumps(CREDENTIAL).encode())


def test_what_is_cut_off_or_broken_is_said_to_be_so() -> None:
    for size_bytes in range(3, len(PACKED)):
        with pytest.raises(BrokenPacking, match="cut off"):
            unpacked(PACKED[:size_bytes])
        assert unpack(MemoryArtifact(PACKED[:size_bytes])) is None
    for content in (PACKED[:-8] + bytes(8), PACKED[:30] + b"\xff" * 20 + PACKED[50:], PACKED + b"more"):
        with pytest.raises(BrokenPacking, match="gzip is broken"):
            unpacked(content)


def test_a_bomb_is_given_up_early() -> None:
    compressor = zlib.compressobj(9, wbits=31)
    bomb = b"".join([compressor.compress(bytes(1 << 20)) for _ in range(64)] + [compressor.flush()])
    given_bytes = 0
    with pytest.raises(BrokenPacking, match="250 times its size"):
        for piece in pieces(MemoryArtifact(bomb)):
            given_bytes += len(piece)
    assert given_bytes <= MAX_PIECE_BYTES + 2 * PIECE_BYTES
    assert unpack(MemoryArtifact(bomb)) is None
    (key,) = recognise.read(MemoryArtifact(bomb)).keys
    assert (key.fingerprint, key.format) == ("", "gzip") and "only searched" in (key.note or "")


def test_the_rest_of_what_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAX_UNPACKED_BYTES", 1_000)
    with pytest.raises(BrokenPacking, match="more than 1000 bytes"):
        unpacked(gzip.compress(bytes(range(256)) * 9))


def test_an_artefact_of_any_format_is_read_under_gzip() -> None:
    for content, blobs in (
        (YAML.encode(), BLOBS[:2]),
        (json.dumps(CREDENTIAL).encode(), [BLOB]),
        (b"A=" + BLOB.hex().encode(), [BLOB]),
    ):
        contents = recognise.read(MemoryArtifact(gzip.compress(content)))
        assert (contents.fault, [key.blob for key in contents.keys]) == (None, blobs)
    for nothing in (b"", b"a readme", bytes(300)):
        assert recognise.read(MemoryArtifact(gzip.compress(nothing))).keys == ()


def test_lines_of_any_length_together_are_read_under_gzip() -> None:
    line = json.dumps(CREDENTIAL).encode() + b"\n"
    others = (json.dumps({"other": os.urandom(1 << 19).hex()}).encode() + b"\n") * 17
    assert len(others) > MAX_PIECE_BYTES
    contents = recognise.read(MemoryArtifact(gzip.compress(line + others + line, 1)))
    assert (contents.fault, [key.blob for key in contents.keys]) == (None, [BLOB, BLOB])
