"""Which format an artefact is of, and the data keys in it: each reader of `FORMATS` is asked in turn. Pure.

What is under gzip is unpacked first. The first that knows its format is believed, also where it finds the artefact damaged. What
is of no known format is searched for blobs; and where it is small and none is found, it is taken for a CiphertextBlob itself,
which may be of another KMS's shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from audit.query.artifacts.artifact import (
    MAX_BLOB_BYTES,
    MAX_PIECE_BYTES,
    Artifact,
    DamagedArtifact,
    Instructed,
    Reader,
    WrappedKey,
)
from audit.query.artifacts.bare import FORMAT, from_base64, read_bare, read_carved
from audit.query.artifacts.csfle import read_csfle
from audit.query.artifacts.dynamodb import read_dynamodb
from audit.query.artifacts.encryption_sdk import read_encryption_sdk
from audit.query.artifacts.envelopes import read_kubernetes, read_tink
from audit.query.artifacts.packed import is_packed, unpack
from audit.query.artifacts.parquet import read_parquet, read_parquet_key_material
from audit.query.artifacts.s3_encryption import read_s3_encryption
from audit.query.artifacts.sops import read_sops

#: In the order in which they are asked: those that begin with a mark of their own first, what is searched for anywhere last.
FORMATS: Sequence[Reader] = (
    read_bare,
    read_encryption_sdk,
    read_parquet,
    read_parquet_key_material,
    read_s3_encryption,
    read_sops,
    read_dynamodb,
    read_csfle,
    read_kubernetes,
    read_tink,
    read_carved,
)

#: As much of an artefact is read once for all readers.
_BEGIN_BYTES = 64 << 10

UNKNOWN = "unknown"
GZIP = "gzip"
_NOT_UNPACKED = f"broken, or more than {MAX_PIECE_BYTES >> 20} MiB when unpacked: only searched for JSON lines, and for BSON"


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found in the artefact `name`. `keys` without a fingerprint are no KMS blobs: their notes say what they are.

    `fault` says what is wrong with it: its format is known and it is damaged, or it cannot be read. `keys` are then those that
    could be read all the same.
    """

    name: str
    keys: tuple[WrappedKey, ...]
    fault: str | None = None

    @property
    def fingerprints(self) -> list[str]:
        """Of the CiphertextBlobs in it, each once."""
        return list(dict.fromkeys(key.fingerprint for key in self.keys if key.fingerprint))


def lone_contents(name: str, fingerprint: str) -> Contents:
    """A CiphertextBlob of which only the fingerprint is known."""
    return Contents(name, (WrappedKey(fingerprint, FORMAT, "as given"),))


@dataclass(frozen=True, slots=True)
class _Begun:
    """An artefact whose beginning was read: each reader asks for it, and it may lie behind a network."""

    artifact: Artifact
    begin: bytes = field(repr=False)

    @property
    def name(self) -> str:
        return self.artifact.name

    @property
    def size_bytes(self) -> int:
        return self.artifact.size_bytes

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.artifact.metadata

    @property
    def instruction_file(self) -> Artifact | None:
        return self.artifact.instruction_file if isinstance(self.artifact, Instructed) else None

    def read(self, offset: int, length: int) -> bytes:
        is_begin = len(self.begin) == self.size_bytes or offset + length <= len(self.begin)
        return self.begin[offset : offset + length] if is_begin else self.artifact.read(offset, length)


def read(artifact: Artifact) -> Contents:
    """The data keys in `artifact`. Raises what reading it does: OSError, or an error of its source's."""
    artifact = _Begun(artifact, artifact.read(0, min(artifact.size_bytes, _BEGIN_BYTES)))
    unpacked = unpack(artifact)
    try:
        for reader in FORMATS:
            keys = reader(unpacked or artifact)
            if keys is not None:
                return Contents(artifact.name, tuple(keys))
    except DamagedArtifact as error:
        return Contents(artifact.name, error.keys, str(error))
    if unpacked is None and is_packed(artifact):
        return Contents(artifact.name, (WrappedKey("", GZIP, "all of it", note=_NOT_UNPACKED),))
    if unpacked is None and 0 < artifact.size_bytes <= MAX_BLOB_BYTES:
        content = artifact.read(0, artifact.size_bytes)
        where, decoded = ("base64", from_base64(content)) if content.strip() else ("", b"")
        if not decoded:
            where, decoded = "all of it", content
        note = "of no format that is known; taken for a CiphertextBlob"
        return Contents(artifact.name, (WrappedKey.of(decoded, UNKNOWN, where, note=note),))
    return Contents(artifact.name, ())
