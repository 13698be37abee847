"""Whether an attestation document is to be believed, and what it says.

1. It is a COSE_Sign1 structure by ES384, strictly written.
2. Its fields are those of the specification, each within its limits.
3. A chain of certificates leads from a root that is trusted to the one that signed; all are valid now.
4. The signature is that certificate's.
5. It holds an RSA key that an answer can be encrypted for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from proxy.backends.local.attestation.chain import signer_key
from proxy.backends.local.attestation.document import BadDocument, Document, Signed, read_document, read_signed
from proxy.domain import Attested

MIN_KEY_BITS = 2_048


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who may have the answer: what was measured of it, and its key, also as it stood in the document."""

    attested: Attested
    key: rsa.RSAPublicKey
    key_der: bytes


def verify(data: bytes, roots: Sequence[x509.Certificate], now_s: float) -> Recipient:
    """Raises BadDocument. `now_s` is seconds since the epoch. Takes some milliseconds."""
    signed = read_signed(data)
    document = read_document(signed.payload)
    signer = signer_key(document.certificate, document.cabundle, roots, datetime.fromtimestamp(now_s, UTC))
    _check_signature(signed, signer)
    return _recipient(document)


def _check_signature(signed: Signed, signer: ec.EllipticCurvePublicKey) -> None:
    half = len(signed.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (signed.signature[:half], signed.signature[half:]))
    try:
        signer.verify(encode_dss_signature(r, s), signed.signed_bytes, ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise BadDocument("The signature of the attestation document is not valid.") from error


def _recipient(document: Document) -> Recipient:
    if document.public_key is None:
        raise BadDocument("The attestation document has no public_key.")
    try:
        key = load_der_public_key(document.public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadDocument("The public_key of the attestation document cannot be read.") from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < MIN_KEY_BITS:
        raise BadDocument(f"The public_key of the attestation document is not an RSA key of at least {MIN_KEY_BITS} bits.")
    pcrs = {index: value.hex() for index, value in sorted(document.pcrs.items())}
    return Recipient(Attested(document.module_id, pcrs, document.is_tpm), key, document.public_key)
