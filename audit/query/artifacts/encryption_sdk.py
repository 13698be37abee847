"""Messages of the AWS Encryption SDK: the encrypted data keys (EDKs) in their header. Pure.

    version 1:  01 ‖ type 80 ‖ algorithm u16 ‖ message id (16) ‖ AAD ‖ EDKs ‖ …
    version 2:  02 ‖ algorithm u16 ‖ message id (32) ‖ AAD ‖ EDKs ‖ …
    AAD:        u16 length ‖ [u16 count ‖ (u16 length ‖ key ‖ u16 length ‖ value) …]
    EDKs:       u16 count ‖ (three times u16 length ‖ bytes: provider id, provider information, ciphertext) …

Raw, or in base64. The message may be of any length: no more is read than its header takes. The AAD is the encryption context
of the KMS call; but for keys that the message's writer kept out of it (a required encryption context).

Source: AWS Encryption SDK Developer Guide, "Message format reference"; for the hierarchical keyring the same guide, "technical
details", and aws-cryptographic-material-providers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from audit.query.artifacts.artifact import MAX_KEYS, MAX_PIECE_BYTES, Artifact, DamagedArtifact, WrappedKey
from audit.query.artifacts.bare import from_base64_prefix

FORMAT_V1 = "AWS Encryption SDK message v1"
FORMAT_V2 = "AWS Encryption SDK message v2"

_ALGORITHMS_V1 = (0x0014, 0x0046, 0x0078, 0x0114, 0x0146, 0x0178, 0x0214, 0x0346, 0x0378)
_ALGORITHMS_V2 = (0x0478, 0x0578)
_V1 = tuple(bytes((0x01, 0x80)) + algorithm.to_bytes(2, "big") for algorithm in _ALGORITHMS_V1)
_V2 = tuple(bytes((0x02,)) + algorithm.to_bytes(2, "big") for algorithm in _ALGORITHMS_V2)
_MESSAGE_ID_BYTES_V1 = 16
_MESSAGE_ID_BYTES_V2 = 32

#: Headers are a few hundred bytes, but may be longer: as much is read at first, then ever more.
_READS_BYTES = (64 << 10, 1 << 20, MAX_PIECE_BYTES)

#: In an EDK of the hierarchical keyring: salt (16), IV (12), then the branch key's version, a UUID.
_BRANCH_VERSION = slice(28, 44)


class _EndsBefore(Exception):
    """What was read ends within the header."""


@dataclass(slots=True)
class _Cursor:
    content: bytes
    at: int = 0

    def take(self, size_bytes: int) -> bytes:
        self.at += size_bytes
        if self.at > len(self.content):
            raise _EndsBefore
        return self.content[self.at - size_bytes : self.at]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def field(self) -> bytes:
        return self.take(self.u16())


def read_encryption_sdk(artifact: Artifact) -> list[WrappedKey] | None:
    """The EDKs of a message. One that KMS did not wrap has neither fingerprint nor blob: its note tells what it is."""
    head = artifact.read(0, min(artifact.size_bytes, 256))
    if head.startswith(_V1 + _V2):
        return _read(artifact, is_base64=False)
    decoded = from_base64_prefix(head)
    if decoded.startswith(_V1 + _V2):
        return _read(artifact, is_base64=True)
    return None


def _read(artifact: Artifact, *, is_base64: bool) -> list[WrappedKey]:
    format = FORMAT_V1
    for read_bytes in _READS_BYTES:
        content = artifact.read(0, min(artifact.size_bytes, read_bytes))
        message = from_base64_prefix(content) if is_base64 else content
        format = FORMAT_V1 if message.startswith(_V1) else FORMAT_V2
        try:
            return _keys(message, format)
        except _EndsBefore:
            if len(content) < read_bytes or len(message) < len(content) // 2:  # The latter: base64 that ends early.
                raise DamagedArtifact(format, f"it ends within its header: {len(message)} bytes are there") from None
    raise DamagedArtifact(format, f"its header is longer than {MAX_PIECE_BYTES} bytes")


def _keys(message: bytes, format: str) -> list[WrappedKey]:
    cursor = _Cursor(message)
    cursor.take(len(_V1[0]) + _MESSAGE_ID_BYTES_V1 if format == FORMAT_V1 else len(_V2[0]) + _MESSAGE_ID_BYTES_V2)
    context = _context(cursor.field(), format)
    count = cursor.u16()
    if not 0 < count <= MAX_KEYS:
        raise DamagedArtifact(format, f"it says that it has {count} encrypted data keys")
    keys = []
    for number in range(1, count + 1):
        provider, information, ciphertext = cursor.field(), cursor.field(), cursor.field()
        where = f"EDK {number} of {count}"
        keys.append(_key(format, where, _text(provider, format), information, ciphertext, context))
    _check_rest(cursor, format)
    return keys


def _check_rest(cursor: _Cursor, format: str) -> None:
    """What follows the EDKs has few forms; where it has none of these, the lengths before it lied."""
    if cursor.take(1) not in (b"\x01", b"\x02"):
        raise DamagedArtifact(format, "no content type follows its encrypted data keys")
    if format == FORMAT_V1 and cursor.take(5) != b"\0\0\0\0\x0c":
        raise DamagedArtifact(format, "no IV length follows its encrypted data keys")


def _context(aad: bytes, format: str) -> Mapping[str, str]:
    if not aad:
        return {}
    cursor = _Cursor(aad)
    context: dict[str, str] = {}
    try:
        for _ in range(cursor.u16()):
            key = _text(cursor.field(), format)
            if key in context:
                raise DamagedArtifact(format, "its AAD has a key twice")
            context[key] = _text(cursor.field(), format)
    except _EndsBefore:
        raise DamagedArtifact(format, "its AAD ends within a pair") from None
    if cursor.at != len(aad):
        raise DamagedArtifact(format, f"its AAD has {len(aad) - cursor.at} bytes behind the last pair")
    return context


def _text(content: bytes, format: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DamagedArtifact(format, f"its header has text that is not UTF-8: {error.reason}") from error


def _key(format: str, where: str, provider: str, information: bytes, ciphertext: bytes, context: Mapping[str, str]) -> WrappedKey:
    match provider:
        case "aws-kms":
            return WrappedKey.of(ciphertext, format, where, key=_text(information, format), context=context)
        case "aws-kms-rsa":
            note = "wrapped by the public key, without a call to KMS: KMS sees only its Decrypt, and that without a context"
            return WrappedKey.of(ciphertext, format, where, key=_text(information, format), note=note)
        case "aws-kms-hierarchy":
            note = _branch_key(_text(information, format), ciphertext)
            return WrappedKey("", format, where, context=context, note=note)
        case "aws-kms-ecdh":
            note = "no KMS blob: the wrapping key comes from a DeriveSharedSecret, which takes no blob"
            return WrappedKey("", format, where, context=context, note=note)
        case _:
            note = f"no KMS blob: wrapped by the provider {provider[:100]!r}, which calls no KMS"
            return WrappedKey("", format, where, context=context, note=note)


def _branch_key(branch_key: str, ciphertext: bytes) -> str:
    version = ciphertext[_BRANCH_VERSION]
    item = f"branch:version:{UUID(bytes=version)}" if len(version) == 16 else "branch:version:… (the EDK is too short to tell)"
    return (
        "no KMS blob: wrapped by a branch key; the KMS blob is the attribute enc of the key store's item with "
        f"branch-key-id {branch_key[:200]!r} and type {item}: trace that item"
    )
