"""Artefacts that are made to cost as much as they can, each read here in one process; `test_hostile` bounds that process.

    python -m tests.audit.query.artifacts.hostile

prints for each its name and what it cost in seconds of CPU.
"""

from __future__ import annotations

import base64
import gzip
import time
from collections.abc import Iterator

from audit.query.artifacts import recognise
from tests.audit.query.artifacts.memory import MemoryArtifact

SIZE_BYTES = 16 << 20

_MAC = b"ENC[AES256_GCM,data:a]"
_VAULT = b"\x03masterKey\0\x05\0\0\0\0\x05keyMaterial\0\1\0\0\0\0a"
_EDK = b"\0\7aws-kms\0\3arn\x03\x20" + bytes(800)
_SPACED = bytes.maketrans(b"A", b"!")


def _filled(pattern: bytes, size_bytes: int = SIZE_BYTES // 4) -> bytes:
    return pattern * (size_bytes // len(pattern))


def _bson(body: bytes) -> bytes:
    return (len(body) + 5).to_bytes(4, "little") + body + b"\0"


def _parquet(footer: bytes) -> bytes:
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def artefacts() -> Iterator[tuple[str, bytes]]:
    for pattern in (b"{", b"[", b"[],", b"{},", b'{"":0},', b'"a",', b"1.5,"):
        yield f"item of {pattern!r}", b'{"branch-key-id":[' + _filled(pattern, SIZE_BYTES - 1_000).rstrip(b",") + b"]}"
    yield "key vault of b'{},'", b'{"masterKey":1,"keyMaterial":[' + _filled(b"{},", SIZE_BYTES - 1_000)[:-1] + b"]}"
    yield "items", b"[" + _filled(b'{"hmac":{}},', SIZE_BYTES - 1_000)[:-1] + b"]"
    yield "lines", _filled(b'{"hmac":1}\n')
    yield "blank lines", b"{}\n" + _filled(b'"hmac"' + b"\n" * 60)
    yield "packed lines", gzip.compress(_filled(b'{"hmac":1}\n') * 4, 1)
    yield "bomb", gzip.compress(bytes(4 * SIZE_BYTES))
    yield "SOPS, JSON", b'{"sops":"' + _MAC + b'","a":[' + _filled(b"[],", SIZE_BYTES - 1_000)[:-1] + b"]}"
    yield "SOPS, line ends", b"a: " + _MAC + b"\nsops:\n" + _filled(b"\n")
    yield "SOPS, dashes", b"a: " + _MAC + b"\nsops:\n" + _filled(b"- ")
    yield "SOPS, a quoted line", b"a: " + _MAC + b'\nsops:\n "' + _filled(b"\\a")
    yield "SOPS, blocks", b"a: " + _MAC + b"\n" + _filled(b"sops:\n")
    yield "SOPS, sections", b"a=" + _MAC + b"\n" + _filled(b"[sops]\n", SIZE_BYTES - 1_000)
    yield "SOPS, section", b"a=" + _MAC + b"\n[sops]\n" + _filled(b"a=\n")
    yield "SOPS, dotenv", b"a=" + _MAC + b"\n" + _filled(b"sops_a=\n")
    yield "BSON, documents", _filled(_bson(b""))
    yield "BSON, key vault", _filled(_bson(_VAULT))
    yield "BSON, elements", _bson(_VAULT + b"".join(b"\x0a%x\0" % number for number in range(400_000)))
    message = b"\x02\x04\x78" + bytes(32) + b"\0\0" + (10_000).to_bytes(2, "big") + _EDK * 10_000
    yield "message", message
    yield "message, spaced", base64.b64encode(message).translate(_SPACED).replace(b"!", b"A ")[:SIZE_BYTES]
    yield "blobs in base64", _filled(b"AQICAH")
    yield "blobs in hex", _filled(b"0102020078")
    yield "blobs", _filled(bytes.fromhex("0102020078"))
    many = b"\xc0\xc3\x93\x07"  # 15,000,000
    yield "Parquet, values", _parquet(b"\x19\xf8" + many + bytes(SIZE_BYTES - 1_000) + b"PKMT1")
    columns = b"\x49\x1c\x19\xfc\xc0\x96\xb1\x01"  # one row group of 2,900,800 columns
    yield "Parquet, columns", _parquet(columns + _filled(b"\x8c\x2c\0\0\0") + b"PKMT1")
    yield "Parquet, key material", b"{" + b",".join(b'"%d":"PKMT1"' % number for number in range(400_000)) + b"}"
    yield "instruction file", b'{"x-amz-3":' + b"[]," * (80 << 10)


if __name__ == "__main__":
    for name, content in artefacts():
        begin_s = time.process_time()
        contents = recognise.read(MemoryArtifact(content))
        assert len(contents.keys) <= 10_002
        print(f"{time.process_time() - begin_s:.2f} {name}")
