"""What a reader of artefacts gets, and what it gives: `Artifact` and `WrappedKey`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol, TypeAlias, runtime_checkable

from audit.errors import QueryError

#: The most that a reader takes into memory of one artefact, however large that is.
MAX_PIECE_BYTES = 16 << 20
#: No CiphertextBlob is longer: KMS returns at most 6,144 bytes.
MAX_BLOB_BYTES = 65_536
#: The most keys that are told of one artefact.
MAX_KEYS = 10_000
#: So many faults of one artefact are told; the others are counted.
_MAX_FAULTS = 5


class DamagedArtifact(QueryError):
    """It is of the format that it seems to be, and broken: cut off, or its length fields lie. `format` names it.

    `keys` are those that could be read all the same.
    """

    def __init__(self, format: str, reason: str, keys: Sequence[WrappedKey] = ()) -> None:
        super().__init__(f"damaged {format}: {reason}")
        self.format = format
        self.reason = reason
        self.keys = tuple(keys)


class Artifact(Protocol):
    """Something that is stored: a file, an S3 object, what came by standard input."""

    @property
    def name(self) -> str:
        """As the user knows it: a path, an ``s3://`` URI, ``-``."""
        ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """S3's user metadata: names in lower case, without ``x-amz-meta-``. Empty for files."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, fewer where it ends before. Raises OSError; ValueError for a length that is negative
        or above `MAX_PIECE_BYTES`."""
        ...


@runtime_checkable
class Instructed(Protocol):
    """An artefact that may have an instruction file of the S3 Encryption Client beside it."""

    @property
    def instruction_file(self) -> Artifact | None:
        """It, and not the artefact, has the wrapped key; None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key in an artefact, as KMS wrapped it.

    `where` is the place within the artefact, in the format's own words (``EDK 2 of 3``, ``sops.kms[0]``). `key` is the KMS key
    as the artefact names it, `context` the encryption context that it keeps: None where the format keeps none. `note` is what a
    reader of the answer must know, such as that the key is wrapped twice. `is_not_alone`: means other than KMS, which are not
    among the artefact's keys, open the same data.
    """

    fingerprint: str
    format: str
    where: str
    key: str | None = None
    context: Mapping[str, str] | None = None
    note: str | None = None
    blob: bytes = field(default=b"", repr=False, compare=False)
    is_not_alone: bool = False

    @classmethod
    def of(
        cls,
        blob: bytes,
        format: str,
        where: str,
        *,
        key: str | None = None,
        context: Mapping[str, str] | None = None,
        note: str | None = None,
        is_not_alone: bool = False,
    ) -> WrappedKey:
        """The key whose CiphertextBlob is `blob`. Raises `DamagedArtifact` for one that is empty, or longer than any of KMS's."""
        if not 0 < len(blob) <= MAX_BLOB_BYTES:
            raise DamagedArtifact(format, f"{where} has a wrapped key of {len(blob)} bytes")
        return cls(sha256(blob).hexdigest(), format, where, key, context, note, blob, is_not_alone)


@dataclass(slots=True)
class Gathered:
    """The keys of an artefact that has many things of one kind, of which one that is damaged does not keep the others back.

    `is_known` tells that there was one of the reader's format at all.
    """

    is_known: bool = False
    keys: list[WrappedKey] = field(default_factory=list)
    _faults: list[str] = field(default_factory=list)
    _faulty_format: str = ""
    _more_faults: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.keys) >= MAX_KEYS

    def add(self, keys: Sequence[WrappedKey]) -> None:
        self.is_known = True
        self.keys += keys

    def add_fault(self, format: str, reason: str) -> None:
        self.is_known = True
        self._faulty_format = self._faulty_format or format
        if len(self._faults) < _MAX_FAULTS:
            self._faults.append(reason)
        else:
            self._more_faults += 1

    def end(self, format: str, where: str) -> None:
        """Tells that nothing was read from `where` on, since there are keys enough."""
        note = f"not read: {len(self.keys)} keys were found before it, enough for one artefact"
        self.keys.append(WrappedKey("", format, where, note=note))

    def told(self) -> list[WrappedKey] | None:
        """What a `Reader` gives. Raises `DamagedArtifact` with the keys, where something was damaged."""
        if self._faults:
            more = [f"and {self._more_faults} more"] if self._more_faults else []
            raise DamagedArtifact(self._faulty_format, "; ".join([*self._faults, *more]), self.keys)
        return self.keys if self.is_known else None


#: Gives the keys of an artefact; None where it is not of the reader's format. Raises DamagedArtifact, OSError.
Reader: TypeAlias = Callable[[Artifact], "list[WrappedKey] | None"]
