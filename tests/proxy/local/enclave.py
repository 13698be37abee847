"""A Nitro system for tests: its root, its certificates, and enclaves that make attestation documents; each rule can be broken.

Documents are written by cbor2, not by the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any  # values of a document: whatever CBOR can say

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA224, SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tests.proxy.local.world import START_S

PCRS = {index: bytes([index]) * 48 for index in (0, 1, 2, 3, 4, 8)}
MODULE_ID = "i-123456789abcde123-enc123456789abcde12"
NOW = datetime.fromtimestamp(START_S, UTC)


@dataclass(frozen=True)
class Wish:
    """How a certificate is to be."""

    name: str
    is_ca: bool = True
    path_length: int | None = None
    has_constraints: bool = True
    constraints_critical: bool = True
    signs_certificates: bool = True
    signs: bool = False
    has_usage: bool = True
    start: datetime = NOW - timedelta(hours=1)
    end: datetime = NOW + timedelta(hours=3)
    hash: SHA384 | SHA224 = field(default_factory=SHA384)
    unknown_critical: bool = False
    curve: ec.EllipticCurve = field(default_factory=ec.SECP384R1)


class Holder:
    """A certificate with its key."""

    def __init__(self, wish: Wish, issuer: Holder | None = None) -> None:
        self.wish = wish
        self.key = ec.generate_private_key(wish.curve)
        self.certificate = _certificate(wish, self.key.public_key(), issuer or self)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(wish: Wish, key: CertificatePublicKeyTypes, issuer: Holder) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(wish.name))
        .issuer_name(_name(issuer.wish.name))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(wish.start)
        .not_valid_after(wish.end)
    )
    if wish.has_constraints:
        builder = builder.add_extension(x509.BasicConstraints(wish.is_ca, wish.path_length), wish.constraints_critical)
    if wish.has_usage:
        usage = x509.KeyUsage(wish.signs, False, False, False, False, wish.signs_certificates, False, False, False)
        builder = builder.add_extension(usage, True)
    if wish.unknown_critical:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
    return builder.sign(issuer.key, wish.hash)


def leaf(**wish: Any) -> Wish:
    return Wish(**{"name": "enclave", "is_ca": False, "signs": True, "signs_certificates": False, **wish})


class Nitro:
    """A root, an intermediate of a region and one of an instance, and the certificate that signs documents; at the time `now`."""

    def __init__(
        self, root: Wish | None = None, middle: Wish | None = None, last: Wish | None = None, now: datetime = NOW
    ) -> None:
        valid: dict[str, Any] = {"start": now - timedelta(hours=1), "end": now + timedelta(hours=3)}
        self.root = Holder(root or Wish("aws.nitro-enclaves", start=valid["start"], end=now + timedelta(days=365)))
        self.region = Holder(middle or Wish("region", **valid), self.root)
        self.instance = Holder(Wish("instance", path_length=0, **valid), self.region)
        self.signer = Holder(last or leaf(**valid), self.instance)

    @property
    def cabundle(self) -> list[bytes]:
        return [self.root.der, self.region.der, self.instance.der]

    def fields(self, public_key: bytes | None, **changed: Any) -> dict[str, Any]:
        """A document's fields; one that is changed to `...` is left out."""
        usual = {
            "module_id": MODULE_ID,
            "digest": "SHA384",
            "timestamp": int(START_S * 1000),
            "pcrs": PCRS,
            "certificate": self.signer.der,
            "cabundle": self.cabundle,
            "public_key": public_key,
            "user_data": None,
            "nonce": None,
        }
        return {name: value for name, value in (usual | changed).items() if value is not ...}

    def sign(
        self,
        payload: bytes,
        *,
        protected: bytes | None = None,
        unprotected: Mapping[Any, Any] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        hash: SHA256 | None = None,
        tagged: bool = False,
        spoil: Callable[[list[Any]], object] = lambda parts: None,
    ) -> bytes:
        protected = cbor2.dumps({1: -35}) if protected is None else protected
        signer = key or self.signer.key
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        r, s = decode_dss_signature(signer.sign(signed, ec.ECDSA(hash or SHA384())))
        parts = [protected, dict(unprotected or {}), payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")]
        spoil(parts)
        return cbor2.dumps(cbor2.CBORTag(18, parts) if tagged else parts)

    def document(self, public_key: bytes | None, **changed: Any) -> bytes:
        return self.sign(cbor2.dumps(self.fields(public_key, **changed)))


class Enclave:
    """Has a key pair of its own, and asks its Nitro system for documents."""

    def __init__(self, nitro: Nitro, bits: int = 2048) -> None:
        self.nitro = nitro
        self.key = rsa.generate_private_key(65537, bits)
        self.public_key = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def recipient(self, **changed: Any) -> dict[str, Any]:
        document = self.nitro.document(self.public_key, **changed)
        return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
