"""The attestation document: a COSE_Sign1 structure, and in it the fields, with the limits of the specification (§3.1, §3.2.2).

Optional fields may be null, as the Nitro Security Module writes those that it was not given. A field that the specification does
not name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.backends.local.attestation.cbor import NotCbor, Value, read
from proxy.errors import ProxyError

MAX_DOCUMENT_BYTES = 16_384
MAX_FIELD_BYTES = 1_024  # of a certificate and of the public key
MAX_DATA_BYTES = 512  # of user data and nonce
_ES384 = {1: -35}
_SIGNATURE_BYTES = 96
_MANDATORY = frozenset({"module_id", "digest", "timestamp", "certificate", "cabundle"})
_OPTIONAL = {"public_key": (1, MAX_FIELD_BYTES), "user_data": (0, MAX_DATA_BYTES), "nonce": (0, MAX_DATA_BYTES)}
#: What holds the measurements: of an enclave, of an instance with a NitroTPM.
ENCLAVE_PCRS, TPM_PCRS = "pcrs", "nitrotpm_pcrs"
_PCR_BYTES = frozenset({32, 48, 64})
_PCRS = range(32)


class BadDocument(ProxyError):
    """The attestation document is not to be believed. The text says why, in words for the caller; it tells nothing secret."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A COSE_Sign1 structure by ES384, taken apart; its signature is not verified yet."""

    protected: bytes
    payload: bytes
    signature: bytes

    @property
    def signed_bytes(self) -> bytes:
        """What was signed: the Sig_structure of RFC 9052 §4.4, with nothing from outside."""
        return b"\x84\x6aSignature1" + _byte_string(self.protected) + b"\x40" + _byte_string(self.payload)


@dataclass(frozen=True, slots=True)
class Document:
    """The fields of a document; certificates and public key are DER. `is_tpm`: of an instance with a NitroTPM, not an enclave."""

    module_id: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    is_tpm: bool
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None


def read_signed(data: bytes) -> Signed:
    """The structure, tagged or not. Raises BadDocument."""
    match _read(data, "The attestation document"):
        case [bytes(protected), {**unprotected}, bytes(payload), bytes(signature)] if not unprotected:
            pass
        case _:
            raise BadDocument("The attestation document is not a COSE_Sign1 structure.")
    if _read(protected, "The protected header of the attestation document") != _ES384:
        raise BadDocument("The attestation document is not signed by ES384.")
    if len(signature) != _SIGNATURE_BYTES:
        raise BadDocument("The signature of the attestation document has a wrong length.")
    if not 1 <= len(payload) <= MAX_DOCUMENT_BYTES:
        raise BadDocument(f"The payload of the attestation document is not of 1 to {MAX_DOCUMENT_BYTES} bytes.")
    return Signed(protected, payload, signature)


def read_document(payload: bytes) -> Document:
    """The fields. Raises BadDocument where one is missing, is not known, or is not as it must be."""
    fields = _read(payload, "The payload of the attestation document")
    if not isinstance(fields, dict):
        raise BadDocument("The payload of the attestation document is not a map.")
    kinds = [name for name in (ENCLAVE_PCRS, TPM_PCRS) if name in fields]
    if len(kinds) != 1:
        raise BadDocument("The attestation document must have either pcrs or nitrotpm_pcrs.")
    for name in sorted(_MANDATORY - fields.keys()):
        raise BadDocument(f"The attestation document has no {name}.")
    if fields.keys() - _MANDATORY - _OPTIONAL.keys() - set(kinds):
        raise BadDocument("The attestation document has a field that is not known.")
    module_id, timestamp, digest = fields["module_id"], fields["timestamp"], fields["digest"]
    if not isinstance(module_id, str) or not module_id:
        raise _wrong("module_id")
    if digest != "SHA384":
        raise _wrong("digest")
    if not isinstance(timestamp, int) or not 0 < timestamp < 1 << 64:
        raise _wrong("timestamp")
    for name, (least, most) in _OPTIONAL.items():
        if (value := fields.get(name)) is not None and not (isinstance(value, bytes) and least <= len(value) <= most):
            raise _wrong(name)
    public_key = fields.get("public_key")
    return Document(
        module_id=module_id,
        timestamp_ms=timestamp,
        pcrs=_pcrs(fields[kinds[0]], kinds[0]),
        is_tpm=kinds[0] == TPM_PCRS,
        certificate=_certificate(fields["certificate"], "certificate"),
        cabundle=_cabundle(fields["cabundle"]),
        public_key=public_key if isinstance(public_key, bytes) else None,
    )


def _pcrs(value: Value, name: str) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= len(_PCRS):
        raise _wrong(name)
    pcrs = {}
    for index, measurement in value.items():
        if not isinstance(index, int) or index not in _PCRS:
            raise _wrong(name)
        if not isinstance(measurement, bytes) or len(measurement) not in _PCR_BYTES:
            raise _wrong(name)
        pcrs[index] = measurement
    return pcrs


def _cabundle(value: Value) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not value:
        raise _wrong("cabundle")
    return tuple(_certificate(one, "cabundle") for one in value)


def _certificate(value: Value, name: str) -> bytes:
    if not isinstance(value, bytes) or not 1 <= len(value) <= MAX_FIELD_BYTES:
        raise _wrong(name)
    return value


def _read(data: bytes, what: str) -> Value:
    try:
        return read(data)
    except NotCbor as error:
        raise BadDocument(f"{what} is not well-formed CBOR: {error}.") from error


def _wrong(name: str) -> BadDocument:
    return BadDocument(f"The field {name} of the attestation document is not as it must be.")


def _byte_string(value: bytes) -> bytes:
    size = len(value)
    if size < 24:
        return bytes((0x40 | size,)) + value
    if size < 1 << 8:
        return bytes((0x58, size)) + value
    return b"\x59" + size.to_bytes(2, "big") + value
