"""CiphertextBlobs without a format around them: one alone in a file, and those that are carved out of any file. Pure.

AWS does not document its CiphertextBlob. Each that was seen has one of two shapes, the second in its early years; the local
backend of keytrail makes the first:

    01 02 xx 00 78 ‖ key material's id (32) ‖ 01 ‖ nonce (16) ‖ u32 length ‖ DER of that length
    01 01 xx 00 78 ‖ key material's id (32) ‖ u32 length ‖ DER of that length

where xx is 01, 02 or 03, and the DER a PKCS #7 EncryptedData (RFC 2315 §13). So a blob tells where it ends, and the two lengths
(the u32 and the DER's own) check each other. Rules kept:

- A blob whose end cannot be known is told, and has no fingerprint: a fingerprint of the wrong bytes would never be found, and
  an answer "never unwrapped" would be false.
- One of another shape, in base64 or hex, is taken to end where its text ends, and the note says so.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from operator import itemgetter

from audit.query.artifacts.artifact import MAX_KEYS, Artifact, DamagedArtifact, WrappedKey

FORMAT = "CiphertextBlob"
CARVED = "carved CiphertextBlob"
#: From this many bytes of a blob on, `blob_bytes` can tell its length.
HEAD_BYTES = 96
#: As long as KMS makes them.
MOST_BLOB_BYTES = 6_144
#: How far a file is searched.
MAX_CARVED_BYTES = 1 << 30

_EPOCHS = tuple(bytes.fromhex(head + "0078") for head in ("010202", "010203", "010201", "010101", "010102", "010103"))
_MATERIAL_ID_BYTES = 32
_NONCE_BYTES = 16
_ENCRYPTED_DATA = bytes.fromhex("06092a864886f70d010706")

_LEAST_BLOB_BYTES = 64  # Less is an example in prose ("AQICAHh…"), or what is left of a blob.
_MAX_TRIED = 10 * MAX_KEYS  # So that a file full of false beginnings takes no hours.
_PIECE_BYTES = 4 << 20
_OVERLAP_BYTES = 64 << 10  # More than a blob takes in base64 or hex with white space.
_WRAPPING_BYTES = 64
#: A file that is one blob in text is no longer than this.
_MAX_TEXT_BYTES = 64 << 10

_BASE64_CHARS = re.compile(rb"[A-Za-z0-9+/_-]+")
_WHITE_SPACE = b" \t\n\r\x0b\f"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_HEX = re.compile(rb"(?:0x|\\x)?([0-9a-fA-F\s]+)")
#: What JSON and URLs write instead of characters of base64, or between them.
_ESCAPES = ((b"\\n", b""), (b"\\r", b""), (b"\\/", b"/"), (b"\\u002b", b"+"), (b"%2B", b"+"), (b"%2F", b"/"))


def blob_bytes(head: bytes) -> int | None:
    """How long the blob is that begins `head`; None where none does. `head` holds `HEAD_BYTES` of it, or all that there is."""
    if not head.startswith(_EPOCHS):
        return None
    at = len(_EPOCHS[0]) + _MATERIAL_ID_BYTES
    if head[1] == 2:
        if head[at : at + 1] != b"\x01":
            return None
        at += 1 + _NONCE_BYTES
    der_bytes = int.from_bytes(head[at : at + 4], "big")
    der = head[at + 4 :]
    length = at + 4 + der_bytes
    return length if length <= MOST_BLOB_BYTES and _is_encrypted_data(der, der_bytes) else None


def _is_encrypted_data(der: bytes, size_bytes: int) -> bool:
    if len(der) < 2 or der[0] != 0x30:
        return False
    content_at = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
    content_bytes = der[1] if der[1] < 0x80 else int.from_bytes(der[2:content_at], "big")
    return content_at + content_bytes == size_bytes and der.startswith(_ENCRYPTED_DATA, content_at)


def is_blob(content: bytes) -> bool:
    """Whether `content` is one whole blob, and nothing else."""
    return blob_bytes(content[:HEAD_BYTES]) == len(content)


def from_base64(text: bytes) -> bytes | None:
    """What `text` means as base64, of either alphabet, with white space in it, padded or not; None where it is none."""
    packed = text.translate(_TO_STANDARD, _WHITE_SPACE).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error:
        return None


def _base64_run(text: bytes) -> bytes:
    """The base64 at the beginning of `text`, without what breaks it into lines."""
    for escape, meant in _ESCAPES:
        text = text.replace(escape, meant)
    found = _BASE64_CHARS.match(text.translate(None, _WHITE_SPACE))
    return found[0] if found else b""


def from_base64_prefix(text: bytes) -> bytes:
    """What the base64 at the beginning of `text` means, as far as it goes, in quotes or not; nothing where none is there."""
    run = _base64_run(text.lstrip(b"\xef\xbb\xbf \t\r\n\"'"))
    return from_base64(run[: len(run) - (len(run) % 4 == 1)]) or b""


def read_bare(artifact: Artifact) -> list[WrappedKey] | None:
    """The blob that is all of the artefact: raw, in base64 or in hex, in quotes or not."""
    if artifact.size_bytes > _MAX_TEXT_BYTES:
        return None
    content = artifact.read(0, artifact.size_bytes)
    text = content.strip().removeprefix(b"\xef\xbb\xbf").strip(b"\"'")
    hexadecimal = _HEX.fullmatch(text)
    readings = (
        ("all of it", content),
        ("base64", from_base64(text)),
        ("hex", _from_hex(hexadecimal[1]) if hexadecimal else None),
    )
    for where, blob in readings:
        if blob and is_blob(blob):
            return [WrappedKey.of(blob, FORMAT, where)]
    for where, blob in readings:
        if blob and blob.startswith(_EPOCHS):
            _refuse_cut(blob, where)
    return None


def _refuse_cut(blob: bytes, where: str) -> None:
    length = blob_bytes(blob[:HEAD_BYTES])
    if length is not None and length > len(blob):
        raise DamagedArtifact(FORMAT, f"{where}: it is {length} bytes long, and {len(blob)} are there")


def _from_hex(digits: bytes) -> bytes | None:
    try:
        return bytes.fromhex(digits.decode())
    except ValueError:
        return None


class _Writing(Enum):
    """How a blob is written. For base64: how many bytes come before the blob in the first group of three."""

    RAW = "raw"
    HEX = "hex"
    BASE64 = 0
    BASE64_BEHIND_ONE = 1
    BASE64_BEHIND_TWO = 2


@dataclass(frozen=True, slots=True)
class _Beginning:
    """The bytes to look for, and how far before them the writing begins."""

    sought: bytes
    writing: _Writing
    lead_bytes: int


def _beginnings() -> Iterator[_Beginning]:
    """In base64 what stands before the blob changes the characters of its first bits, what follows those of its last: only those
    between are fixed."""
    for epoch in _EPOCHS:
        yield _Beginning(epoch, _Writing.RAW, 0)
        yield _Beginning(epoch.hex().encode(), _Writing.HEX, 0)
        yield _Beginning(base64.b64encode(epoch)[:6], _Writing.BASE64, 0)
        yield _Beginning(base64.b64encode(b"\0" + epoch)[2:8], _Writing.BASE64_BEHIND_ONE, 2)
        yield _Beginning(base64.b64encode(b"\0\0" + epoch)[3:9], _Writing.BASE64_BEHIND_TWO, 3)


_BEGINNINGS = tuple(_beginnings())
_RUNS = {_Writing.HEX: re.compile(rb"[0-9a-fA-F]+"), _Writing.BASE64: _BASE64_CHARS}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one seems to begin: `at` in a piece of the artefact that lies at `piece_at`."""

    piece: bytes
    piece_at: int
    at: int
    writing: _Writing

    @property
    def offset(self) -> int:
        return self.piece_at + self.at


def read_carved(artifact: Artifact) -> list[WrappedKey] | None:
    """The blobs anywhere in the artefact: raw, in base64, in hex; each once, at its first place. None where there are none.

    A key without fingerprint and blob tells of a place where one begins whose end cannot be known, or of what was not searched:
    at most the first `MAX_CARVED_BYTES` are, for at most `MAX_KEYS`.
    """
    keys: dict[str, WrappedKey] = {}
    not_searched: tuple[int, str] | None = None
    if artifact.size_bytes > MAX_CARVED_BYTES:
        not_searched = (MAX_CARVED_BYTES, f"at most {MAX_CARVED_BYTES} bytes of a file are searched")
    for tried, place in enumerate(_places(artifact)):
        if len(keys) == MAX_KEYS or tried == _MAX_TRIED:
            not_searched = (place.offset, f"{len(keys)} keys were found at {tried} places before it, enough for one artefact")
            break
        if (found := _carved(place)) is not None:
            keys.setdefault(found.fingerprint or found.where, found)
    told = list(keys.values())
    if not_searched is not None:
        told.append(WrappedKey("", CARVED, f"from byte {not_searched[0]} on", note=f"not searched: {not_searched[1]}"))
    return told or None


def _places(artifact: Artifact) -> Iterator[_Place]:
    """In order. The pieces overlap; each place is given with the piece in whose first `_PIECE_BYTES` it lies."""
    size_bytes = min(artifact.size_bytes, MAX_CARVED_BYTES)
    for piece_at in range(0, size_bytes, _PIECE_BYTES):
        piece = artifact.read(piece_at, min(_PIECE_BYTES + _OVERLAP_BYTES, artifact.size_bytes - piece_at))
        found: list[tuple[int, _Writing]] = []
        for beginning in _BEGINNINGS:
            at = piece.find(beginning.sought)
            while 0 <= at < _PIECE_BYTES + beginning.lead_bytes:
                if at >= beginning.lead_bytes:
                    found.append((at - beginning.lead_bytes, beginning.writing))
                at = piece.find(beginning.sought, at + 1)
        for at, writing in sorted(found, key=itemgetter(0)):
            yield _Place(piece, piece_at, at, writing)


def _carved(place: _Place) -> WrappedKey | None:
    """The blob there; without fingerprint where its end cannot be known; None where it is too little to be one."""
    length = blob_bytes(_decoded(place, HEAD_BYTES))
    if length is None:
        return _carved_by_its_text(place)
    blob = _decoded(place, length)
    if len(blob) < length:
        return _without_end(place, f"it is {length} bytes long, and {len(blob)} are there")
    return WrappedKey.of(blob, CARVED, _where(place))


def _carved_by_its_text(place: _Place) -> WrappedKey | None:
    """One whose shape is not a known one: as long as the text that writes it, where that begins with it."""
    if place.writing is _Writing.RAW:
        return _without_end(place, "its shape is not a known one: if it is a blob, give it alone")
    run = _RUNS.get(place.writing)
    if run is None or (place.at and run.match(place.piece, place.at - 1, place.at)):
        return None
    text = run.match(place.piece, place.at, place.at + 2 * MOST_BLOB_BYTES)
    read = _from_hex if place.writing is _Writing.HEX else from_base64
    blob = read(text[0]) if text else None
    if blob is None or len(blob) < _LEAST_BLOB_BYTES:
        return None
    return WrappedKey.of(blob, CARVED, _where(place), note="its shape is not a known one: taken to be as long as its text")


def _without_end(place: _Place, reason: str) -> WrappedKey:
    return WrappedKey("", CARVED, _where(place), note=f"begins like a CiphertextBlob, its end cannot be known: {reason}")


def _where(place: _Place) -> str:
    written = {_Writing.RAW: "", _Writing.HEX: ", in hex"}.get(place.writing, ", in base64")
    return f"byte {place.offset}{written}"


def _decoded(place: _Place, size_bytes: int) -> bytes:
    """Up to `size_bytes` of what is written there: fewer where the writing ends before."""
    piece, at = place.piece, place.at
    if place.writing is _Writing.RAW:
        return piece[at : at + size_bytes]
    if place.writing is _Writing.HEX:
        digits = _RUNS[_Writing.HEX].match(piece, at, at + 2 * size_bytes)
        return bytes.fromhex(digits[0][: len(digits[0]) // 2 * 2].decode()) if digits else b""
    before: int = place.writing.value
    chars = -(-(before + size_bytes) // 3) * 4
    return from_base64_prefix(piece[at : at + 2 * chars + _WRAPPING_BYTES])[before : before + size_bytes]
