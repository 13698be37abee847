"""Objects of the S3 Encryption Client: the wrapped key in the object's metadata, or in its instruction file. Pure.

    V1       x-amz-key: wrapped without KMS
    V2       x-amz-key-v2, x-amz-wrap-alg (``kms`` or ``kms+context``: KMS wrapped it), x-amz-matdesc: the context, as JSON
    V3       x-amz-3, x-amz-w (``12``: kms+context), x-amz-t: the context, as JSON; with x-amz-c, x-amz-d, x-amz-i

The blob is in base64. An instruction file, the object ``<key>.instruction``, holds these fields in one JSON object; of V3 only
those of the key: the others stay with the object, which so tells that it has one. Of V2 nothing stays with the object.

Source: amazon-s3-encryption-client-python 4.0, s3_encryption/metadata.py, pipelines.py, instruction_file.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from audit.query.artifacts.artifact import Artifact, DamagedArtifact, Instructed, WrappedKey
from audit.query.artifacts.bare import from_base64
from audit.query.artifacts.documents import without_bom

FORMAT = "S3 Encryption Client"

_KEY_V1, _KEY_V2, _KEY_V3 = "x-amz-key", "x-amz-key-v2", "x-amz-3"
_KEYS = (_KEY_V1, _KEY_V2, _KEY_V3)
_WRAP_V2, _WRAP_V3 = "x-amz-wrap-alg", "x-amz-w"
_CONTEXT_V2, _CONTEXT_V3 = "x-amz-matdesc", "x-amz-t"
_CONTENT_V3 = ("x-amz-c", "x-amz-d", "x-amz-i")
_INSTRUCTION_FILE = "x-amz-crypto-instr-file"
_NO_KEY_FIELDS = ("x-amz-m", "x-amz-iv", "x-amz-cek-alg", "x-amz-tag-len")
_FIELDS = frozenset((*_KEYS, *_CONTENT_V3, _WRAP_V2, _WRAP_V3, _CONTEXT_V2, _CONTEXT_V3, _INSTRUCTION_FILE, *_NO_KEY_FIELDS))
#: The KMS key in the context of ``kms``, the older way.
_KMS_KEY = "kms_cmk_id"
_KMS_CODE = "12"
MAX_INSTRUCTION_BYTES = 256 << 10
INSTRUCTION_SUFFIX = ".instruction"
_ELSEWHERE = "the wrapped key is not with this object, but in its instruction file, <its key>.instruction: trace that"


def read_s3_encryption(artifact: Artifact) -> list[WrappedKey] | None:
    """The key of an object, or of an instruction file; none where another than KMS wrapped it.

    That of an object whose key is in an instruction file is read there, where the artefact comes with it; else it has neither
    fingerprint nor blob: its note tells.
    """
    metadata = artifact.metadata
    if has_key(metadata):
        return _keys(metadata, "metadata")
    if isinstance(artifact, Instructed) and (beside := artifact.instruction_file) is not None:
        return _in_instruction_file(beside)
    if all(name in metadata for name in _CONTENT_V3):
        return [WrappedKey("", FORMAT, "metadata", note=_ELSEWHERE)]
    return _in_instruction_file(artifact)


def has_key(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata of an object has its wrapped key."""
    return any(name in metadata for name in _KEYS)


def is_instruction_file(artifact: Artifact) -> bool:
    """Whether it is one, damaged or not."""
    try:
        return _in_instruction_file(artifact) is not None
    except DamagedArtifact:
        return True


def _in_instruction_file(artifact: Artifact) -> list[WrappedKey] | None:
    told = _INSTRUCTION_FILE in artifact.metadata
    if artifact.size_bytes > MAX_INSTRUCTION_BYTES:
        if told:
            raise DamagedArtifact(FORMAT, f"{artifact.size_bytes} bytes: no instruction file is so long")
        return None
    content = without_bom(artifact.read(0, artifact.size_bytes))
    if not told and (not content.lstrip().startswith(b"{") or b'"x-amz-' not in content):
        return None
    try:
        fields = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        if told or content.lstrip()[1:].lstrip().startswith(b'"x-amz-'):
            raise DamagedArtifact(FORMAT, f"its instruction file is JSON that is broken at byte {error.pos}") from error
        return None
    if not isinstance(fields, dict) or not any(name in fields for name in _KEYS) or not _FIELDS.issuperset(fields):
        if told:
            raise DamagedArtifact(FORMAT, "its instruction file has no wrapped key, or other fields")
        return None
    return _keys(fields, "instruction file")


def _keys(fields: Mapping[str, object], place: str) -> list[WrappedKey]:
    names = [name for name in _KEYS if name in fields]
    if len(names) > 1:
        raise DamagedArtifact(FORMAT, f"it has keys of more than one version: {', '.join(names)}")
    if names == [_KEY_V1]:
        return []
    wrap, context_name = (_WRAP_V2, _CONTEXT_V2) if names == [_KEY_V2] else (_WRAP_V3, _CONTEXT_V3)
    algorithm = fields.get(wrap)
    if not isinstance(algorithm, str):
        raise DamagedArtifact(FORMAT, f"it has {names[0]} and no {wrap}")
    if algorithm not in (("kms", "kms+context") if wrap == _WRAP_V2 else (_KMS_CODE,)):
        return []
    wrapped = fields[names[0]]
    blob = from_base64(wrapped.encode(errors="replace")) if isinstance(wrapped, str) and len(wrapped) % 4 == 0 else None
    if blob is None:
        raise DamagedArtifact(FORMAT, f"{names[0]} is not base64")
    context = _context(fields.get(context_name), context_name)
    key = context.get(_KMS_KEY) if algorithm == "kms" and context is not None else None
    return [WrappedKey.of(blob, FORMAT, f"{place}, {names[0]}", key=key, context=context)]


def _context(value: object, name: str) -> dict[str, str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise DamagedArtifact(FORMAT, f"{name} is not JSON") from error
    if not isinstance(value, dict) or not all(isinstance(part, str) for part in value.values()):
        raise DamagedArtifact(FORMAT, f"{name} is no map of strings")
    return value
