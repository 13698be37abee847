"""The certificates of an attestation document, from a root that is trusted to the one that signed (specification §3.2.3, §3.2.4).

The bundle is in a fixed order: the root, then each issuer's subject. Nothing is searched for or put in order. Beyond the
specification: a critical extension that is not examined here is refused (RFC 5280 §4.2), and so are weak hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding

from proxy.backends.local.attestation.document import BadDocument

T = TypeVar("T", bound=x509.ExtensionType)
_HASHES = (SHA256, SHA384, SHA512)
_EXAMINED = (x509.BasicConstraints, x509.KeyUsage)
#: What the library raises for a certificate that it cannot read, at once or when a part is asked for.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)


def signer_key(
    certificate: bytes, cabundle: Sequence[bytes], roots: Sequence[x509.Certificate], at: datetime
) -> ec.EllipticCurvePublicKey:
    """The key of the certificate that signs, a P-384 one, if a chain leads to it from one of `roots` at the time `at` (UTC).

    Raises BadDocument.
    """
    if cabundle[0] not in [root.public_bytes(Encoding.DER) for root in roots]:
        raise BadDocument("The certificates of the attestation document do not begin with a root that is trusted.")
    try:
        chain = [x509.load_der_x509_certificate(one) for one in (*cabundle, certificate)]
        for place, one in enumerate(chain):
            _check_validity(one, at)
            _check_form(one)
            if place + 1 < len(chain):
                _check_issuer(one, issuers_below=len(chain) - place - 2)
        _check_target(chain[-1])
        for issuer, subject in pairwise(chain):
            _check_issued(issuer, subject)
        key = chain[-1].public_key()
    except _UNREADABLE as error:
        raise BadDocument("A certificate of the attestation document cannot be read.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise BadDocument("The certificate that signed the attestation document has no P-384 key.")
    return key


def _check_validity(certificate: x509.Certificate, at: datetime) -> None:
    if at < certificate.not_valid_before_utc:
        raise BadDocument("A certificate of the attestation document is not valid yet.")
    if at > certificate.not_valid_after_utc:
        raise BadDocument("A certificate of the attestation document has expired.")


def _check_form(certificate: x509.Certificate) -> None:
    if certificate.version is not x509.Version.v3:
        raise BadDocument("A certificate of the attestation document is not of version 3.")
    if not isinstance(certificate.signature_hash_algorithm, _HASHES):
        raise BadDocument("A certificate of the attestation document is signed with a weak hash.")
    if any(one.critical and not isinstance(one.value, _EXAMINED) for one in certificate.extensions):
        raise BadDocument("A certificate of the attestation document has a critical extension that is not known.")


def _check_issuer(certificate: x509.Certificate, issuers_below: int) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.critical or not constraints.value.ca:
        raise BadDocument("An issuer in the attestation document is no certificate authority.")
    length = constraints.value.path_length
    if length is not None and length < issuers_below:
        raise BadDocument("The certificates of the attestation document are more than an issuer allows.")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:
        raise BadDocument("An issuer in the attestation document may not sign certificates.")


def _check_target(certificate: x509.Certificate) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and (constraints.value.ca or constraints.value.path_length is not None):
        raise BadDocument("The certificate that signed the attestation document is a certificate authority.")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.value.digital_signature:
        raise BadDocument("The certificate that signed the attestation document may not sign.")


def _check_issued(issuer: x509.Certificate, subject: x509.Certificate) -> None:
    try:
        subject.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_UNREADABLE) as error:
        raise BadDocument("The certificates of the attestation document do not follow from one another.") from error


def _extension(certificate: x509.Certificate, kind: type[T]) -> x509.Extension[T] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
