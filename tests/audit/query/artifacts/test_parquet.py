from __future__ import annotations

import base64
import functools
import json
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.query.artifacts import parquet
from audit.query.artifacts.artifact import MAX_PIECE_BYTES, DamagedArtifact, WrappedKey
from audit.query.artifacts.parquet import FORMAT, read_parquet, read_parquet_key_material
from tests.audit.query.artifacts.blobs import KEY_ARN, local_blob
from tests.audit.query.artifacts.memory import MemoryArtifact

COLUMN_KEY = "alias/columns"  # pyarrow splits the keys of columns at colons: no ARN can stand there.
TABLE = pa.table({"a": [1, 2, 3, 4], "b": [{"c": n} for n in range(4)], "clear": ["x", "y", "z", "w"]})


class FakeKms(pe.KmsClient):  # type: ignore[misc] # pyarrow has no types.
    """Wraps as a client for AWS KMS does: the blob in base64."""

    def __init__(self, wrapped: list[bytes]) -> None:
        super().__init__()
        self.wrapped = wrapped

    def wrap_key(self, key: bytes, master_key: str) -> bytes:
        blob = local_blob(len(self.wrapped), plaintext=key)
        self.wrapped.append(blob)
        return base64.b64encode(blob)

    def unwrap_key(self, wrapped: bytes, master_key: str) -> bytes:
        raise NotImplementedError


def write(path: Path, *, plaintext_footer: bool, double_wrapping: bool, internal: bool = True) -> list[bytes]:
    """Writes an encrypted file with the real library; gives the blobs that KMS made for it."""
    wrapped: list[bytes] = []
    factory = pe.CryptoFactory(lambda _: FakeKms(wrapped))
    configuration = pe.EncryptionConfiguration(
        KEY_ARN,
        column_keys={COLUMN_KEY: ["a", "b.c"]},
        plaintext_footer=plaintext_footer,
        double_wrapping=double_wrapping,
        internal_key_material=internal,
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration, str(path))
    with pq.ParquetWriter(str(path), TABLE.schema, encryption_properties=properties) as writer:
        writer.write_table(TABLE, row_group_size=2)
    return wrapped


@functools.cache
def content(tmp: Path, plaintext_footer: bool, double_wrapping: bool = False) -> tuple[bytes, list[bytes]]:
    path = tmp / f"{plaintext_footer}{double_wrapping}.parquet"
    blobs = write(path, plaintext_footer=plaintext_footer, double_wrapping=double_wrapping)
    return path.read_bytes(), blobs


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parquet")


def read(file: bytes) -> list[WrappedKey] | None:
    return read_parquet(MemoryArtifact(file))


def test_a_plaintext_footer_gives_the_footers_key_and_each_columns(tmp: Path) -> None:
    file, blobs = content(tmp, True)
    keys = read(file) or []
    assert {(key.where, key.key) for key in keys} == {("footer", KEY_ARN), ("column a", COLUMN_KEY), ("column b.c", COLUMN_KEY)}
    assert sorted(key.blob for key in keys) == sorted(blobs)
    assert {(key.format, key.note, key.context) for key in keys} == {(FORMAT, None, None)}
    assert all(key.fingerprint == sha256(key.blob).hexdigest() for key in keys)


def test_an_encrypted_footer_gives_its_own_key_and_says_that_it_hides_the_columns(tmp: Path) -> None:
    file, blobs = content(tmp, False)
    [key] = read(file) or []
    assert (key.where, key.key) == ("footer", KEY_ARN)
    assert key.blob in blobs
    assert "encrypted footer" in (key.note or "")


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_of_keys_that_are_wrapped_twice_the_one_that_kms_wrapped_is_given(tmp: Path, plaintext_footer: bool) -> None:
    file, blobs = content(tmp, plaintext_footer, True)
    keys = read(file) or []
    assert len(keys) == (3 if plaintext_footer else 1)
    assert {key.blob for key in keys} <= set(blobs)
    assert len(blobs) == 2
    assert all((key.note or "").startswith("wrapped twice") for key in keys)


def test_key_material_outside_the_file_is_pointed_at_and_read_there(tmp: Path) -> None:
    blobs = write(tmp / "outside.parquet", plaintext_footer=False, double_wrapping=False, internal=False)
    [key] = read((tmp / "outside.parquet").read_bytes()) or []
    assert (key.fingerprint, "_KEY_MATERIAL_FOR_" in (key.note or "")) == ("", True)
    material = (tmp / "_KEY_MATERIAL_FOR_outside.parquet.json").read_bytes()
    keys = read_parquet_key_material(MemoryArtifact(material)) or []
    assert sorted(key.blob for key in keys) == sorted(blobs)
    assert {key.where for key in keys} == {"key material footerKey", "key material columnKey0", "key material columnKey1"}


@pytest.mark.parametrize("material", [b"", b"{", b"[]", b"{}", b'{"a": "PKMT1', b'{"a": 1, "b": "PKMT1"}', b'{"kind": "other"}'])
def test_another_json_document_is_no_key_material(material: bytes) -> None:
    assert read_parquet_key_material(MemoryArtifact(material)) is None


def test_a_parquet_file_without_encryption_is_none_of_these() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    assert read(sink.getvalue().to_pybytes()) is None


@pytest.mark.parametrize("file", [b"", b"PAR1", b"PARE1234", b"ORC" + bytes(100), bytes(100)])
def test_what_is_no_parquet_file_is_not_read_as_one(file: bytes) -> None:
    assert read(file) is None


def with_footer(footer: bytes, magic: bytes = b"PARE", length: int | None = None) -> bytes:
    return magic + b"data" + footer + (len(footer) if length is None else length).to_bytes(4, "little") + magic


def varint(value: int) -> bytes:
    return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80,)) + varint(value >> 7)


def crypto_metadata(key_metadata: bytes) -> bytes:
    """FileCryptoMetaData with the algorithm AES_GCM_V1, then what stands for the encrypted footer."""
    return b"\x1c\x1c\0\0\x18" + varint(len(key_metadata)) + key_metadata + b"\0" + b"encrypted"


def material(**changed: object) -> bytes:
    fields: dict[str, object] = {
        "keyMaterialType": "PKMT1",
        "internalStorage": True,
        "isFooterKey": True,
        "masterKeyID": KEY_ARN,
        "wrappedDEK": base64.b64encode(local_blob()).decode(),
        "doubleWrapping": False,
    }
    return json.dumps(fields | changed).encode()


@pytest.mark.parametrize(
    ("key_metadata", "told"),
    [
        (b"", "application's own format"),
        (b"\x01\x02 own", "application's own format"),
        (material(keyMaterialType="PKMT2"), "application's own format"),
        (b"[" * 50_000, "application's own format"),
        (material(wrappedDEK="vault:v1:abcd"), "not base64"),
        (material(wrappedDEK=""), "not base64"),
    ],
)
def test_key_metadata_without_a_kms_blob_is_told_without_a_fingerprint(key_metadata: bytes, told: str) -> None:
    [key] = read(with_footer(crypto_metadata(key_metadata))) or []
    assert (key.fingerprint, key.blob) == ("", b"")
    assert told in (key.note or "")


def test_an_encrypted_footer_without_key_metadata_is_told_too() -> None:
    [key] = read(with_footer(b"\x1c\x1c\0\0\0encrypted")) or []
    assert key.fingerprint == ""


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (with_footer(crypto_metadata(material()))[:-1], "does not end as one"),
        (with_footer(crypto_metadata(material()), length=1 << 31), "2147483648 bytes long"),
        (with_footer(crypto_metadata(material(wrappedDEK=None))), "no wrapped key"),
        (with_footer(crypto_metadata(material(doubleWrapping=True))), "no wrapped key"),
        (with_footer(b"\x1c\x1c\0\0\x18" + varint(1 << 40) + b"x"), "a value of 1099511627776 bytes"),
        (with_footer(b"\x1c" * 100), "deeper than 32"),
        (with_footer(b"\x19\xfc" + varint(1 << 60)), "list of 1152921504606846976 elements"),
        (with_footer(b"\x1b" + varint(1 << 50) + b"\x88"), "list of 1125899906842624 elements"),
        (with_footer(b"\x16" + b"\xff" * 20), "more than 64 bits"),
        (with_footer(b"\x1f"), "unknown type 15"),
        (with_footer(b""), "ends within a value"),
        (with_footer(b"\x19" * 50), "deeper than 32|elements|ends within"),
    ],
)
def test_a_file_whose_fields_lie_is_damaged(file: bytes, reason: str) -> None:
    with pytest.raises(DamagedArtifact, match=reason):
        read(file)


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_a_file_that_is_cut_off_anywhere_is_none_or_damaged(tmp: Path, plaintext_footer: bool) -> None:
    file, _ = content(tmp, plaintext_footer)
    for size_bytes in range(len(file)):
        try:
            assert read(file[:size_bytes]) is None
        except DamagedArtifact as damaged:
            assert size_bytes >= 12, damaged


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_a_footer_that_is_cut_off_anywhere_is_damaged_or_gives_fewer_keys(tmp: Path, plaintext_footer: bool) -> None:
    file, blobs = content(tmp, plaintext_footer)
    footer = file[-8 - int.from_bytes(file[-8:-4], "little") : -8]
    for size_bytes in range(0, len(footer), 3):
        try:
            keys = read(with_footer(footer[:size_bytes], file[:4])) or []
        except DamagedArtifact:
            continue
        assert {key.blob for key in keys if key.blob} <= set(blobs)


def test_of_a_file_of_many_gigabytes_only_the_ends_are_read() -> None:
    artifact = TailArtifact(with_footer(crypto_metadata(material())), claimed_bytes=10**13)
    [key] = read_parquet(artifact) or []
    assert key.blob == local_blob()
    assert artifact.read_bytes < 10_000


class TailArtifact(MemoryArtifact):
    """Its content lies at its end; before it are zero bytes, and the magic."""

    def read(self, offset: int, length: int) -> bytes:
        if offset < 4:
            return super().read(offset, length)
        begin = offset - (self.size_bytes - len(self.content))
        self.reads.append((offset, length))
        return self.content[max(begin, 0) : begin + length]


def test_a_footer_of_gigabytes_is_refused_without_reading_it() -> None:
    tail = (1 << 31).to_bytes(4, "little") + b"PAR1"
    artifact = TailArtifact(b"PAR1" + tail, claimed_bytes=10**13)
    with pytest.raises(DamagedArtifact, match=f"more than the {MAX_PIECE_BYTES}"):
        read_parquet(artifact)
    assert artifact.read_bytes < 1_000


def test_a_footer_of_very_many_values_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_MAX_VALUES", 1_000)
    for footer in (b"\x11" * 2_000, b"\x19\xf3" + varint(2_000) + bytes(3_000)):
        with pytest.raises(DamagedArtifact, match="over 1000 values"):
            read(with_footer(footer))


@given(st.data())
def test_a_file_with_any_bytes_of_its_footer_changed_is_read_or_damaged(tmp: Path, data: st.DataObject) -> None:
    file = bytearray(content(tmp, data.draw(st.booleans()))[0])
    footer_bytes = int.from_bytes(file[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        file[-1 - data.draw(st.integers(0, footer_bytes + 7))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(file))
    except DamagedArtifact as damaged:
        assert damaged.format == FORMAT


@given(st.binary(max_size=300), st.sampled_from([b"PAR1", b"PARE"]))
def test_whatever_the_footer_is_the_reader_answers(footer: bytes, magic: bytes) -> None:
    for file in (with_footer(footer, magic), with_footer(footer + b"PKMT1", magic), footer):
        try:
            read(file)
            read_parquet_key_material(MemoryArtifact(b"{" + file))
        except DamagedArtifact as damaged:
            assert damaged.format == FORMAT
