"""All readers on real samples of every format that were changed anywhere: there is an answer, soon, that can be written."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import bson
import orjson
from bson import json_util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.query.artifacts import recognise
from audit.query.artifacts.artifact import DamagedArtifact
from audit.query.artifacts.recognise import FORMATS, Contents
from tests.audit.query.artifacts.blobs import local_blob, old_blob
from tests.audit.query.artifacts.memory import MemoryArtifact
from tests.audit.query.artifacts.test_csfle import vaulted
from tests.audit.query.artifacts.test_dynamodb import CHANGE, EXPORT, ITEMS
from tests.audit.query.artifacts.test_encryption_sdk import small_message
from tests.audit.query.artifacts.test_envelopes import V1, V2, tinks
from tests.audit.query.artifacts.test_parquet import content
from tests.audit.query.artifacts.test_s3_encryption import V2 as V2_METADATA
from tests.audit.query.artifacts.test_s3_encryption import V3
from tests.audit.query.artifacts.test_sops import DOTENV, GROUPS_DOTENV, GROUPS_YAML, INI, JSON, OLD_YAML, YAML


@functools.cache
def samples() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        parquet = [content(Path(folder), plaintext_footer)[0] for plaintext_footer in (False, True)]
    return (
        *parquet,
        local_blob(),
        base64.b64encode(local_blob()),
        old_blob().hex().encode(),
        b"\0".join([local_blob(), base64.encodebytes(local_blob(1)), local_blob(2).hex().encode()]),
        small_message(),
        base64.b64encode(small_message()),
        tinks(),
        V1,
        V2,
        vaulted() * 2,
        json_util.dumps([bson.decode(vaulted())] * 2).encode(),
        json.dumps({"Items": ITEMS}).encode(),
        json.dumps({"Records": [{"dynamodb": CHANGE}]}).encode(),
        EXPORT,
        gzip.compress(EXPORT),
        gzip.compress(vaulted() * 3),
        json.dumps(V3).encode(),
        *(text.encode() for text in (YAML, JSON, DOTENV, INI, GROUPS_YAML, GROUPS_DOTENV, OLD_YAML)),
    )


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A sample in which some things were overwritten, cut out, put in, or doubled."""
    sample = bytearray(draw(st.sampled_from(samples())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(sample)))
        size_bytes = draw(st.integers(0, 12) | st.integers(0, len(sample)))
        match draw(st.integers(0, 4)):
            case 0:
                piece = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
                sample[at : at + len(piece)] = piece
            case 1:
                del sample[at : at + size_bytes]
            case 2:
                sample[at:at] = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
            case 3:
                sample[at:at] = sample[at : at + size_bytes]
            case _:
                del sample[at:]
    return bytes(sample)


#: What formats mean something by: lengths, brackets, quotes, escapes, half of a character.
PIECES = (
    *(b"\xff" * size for size in (1, 2, 4, 8)),
    *(b"\0" * size for size in (1, 2, 4, 8)),
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    *(sign.encode() for sign in "{}[]\"':,=&*|>-#`;\n"),
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\x1b[31m",
    b"\xef\xbb\xbf",
    b"null",
    b"1e999",
    b"[" * 2_000,
)


def check(contents: Contents) -> None:
    """It can be told, and no key is told that is none."""
    orjson.dumps([contents.name, contents.fault, *((k.where, k.format, k.key, k.context, k.note) for k in contents.keys)])
    for key in contents.keys:
        assert (key.fingerprint == "") == (key.blob == b"")
        assert key.fingerprint or key.note
        assert not key.blob or sha256(key.blob).hexdigest() == key.fingerprint


@settings(max_examples=400, deadline=timedelta(seconds=2), suppress_health_check=[HealthCheck.too_slow])
@given(changed())
def test_whatever_was_changed_there_is_an_answer(content: bytes) -> None:
    check(recognise.read(MemoryArtifact(content)))


@settings(max_examples=150, deadline=timedelta(seconds=2), suppress_health_check=[HealthCheck.too_slow])
@given(
    changed(),
    st.dictionaries(st.sampled_from(sorted(V2_METADATA | V3)), st.text(max_size=9) | st.sampled_from(sorted(V3.values()))),
)
def test_each_reader_raises_nothing_but_that_it_is_damaged(content: bytes, metadata: dict[str, str]) -> None:
    for reader in FORMATS:
        try:
            keys = reader(MemoryArtifact(content, metadata=metadata))
        except DamagedArtifact as damaged:
            keys = list(damaged.keys)
        check(Contents("memory", tuple(keys or ())))


def test_each_sample_gives_its_keys_as_long_as_nothing_is_changed() -> None:
    for sample in samples():
        contents = recognise.read(MemoryArtifact(sample))
        assert contents.fault is None
        assert contents.fingerprints
