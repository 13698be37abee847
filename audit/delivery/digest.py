"""CloudTrail's digests: what stands in one, and what is signed. Pure.

A digest names the log files that were delivered in its interval, with their hashes, and the digest before it, with its hash
and its signature. All hashes are of uncompressed bytes. The signature is RSA PKCS#1 v1.5 with SHA-256, in the object's
metadata.

Source: AWS CloudTrail User Guide, "CloudTrail digest file structure" and "Custom implementations of CloudTrail log file
integrity validation".
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from hashlib import sha256

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from audit.delivery.layout import Place, Trail, timestamp

SIGNATURE, ALGORITHM = "signature", "signature-algorithm"
SHA256_WITH_RSA = "SHA256withRSA"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """`der` is PKCS #1, as CloudTrail gives it out; `since` is when it was first used, seconds since the epoch."""

    der: bytes
    since: int

    @property
    def fingerprint(self) -> str:
        """Its name in digests: 32 hex digits. Tools compare it, and compute nothing from it."""
        return sha256(self.der).hexdigest()[:32]

    def verifies(self, signature: str, text: bytes) -> bool:
        """Whether `signature` (hex) is this key's over `text`."""
        key = load_der_public_key(self.der)
        if not isinstance(key, RSAPublicKey):
            return False
        try:
            key.verify(binascii.unhexlify(signature), text, PKCS1v15(), SHA256())
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log file that was delivered: its key, the SHA-256 (hex) of its uncompressed bytes, its oldest and newest eventTime."""

    key: str
    sha256: str
    oldest: str
    newest: str


@dataclass(frozen=True, slots=True)
class Previous:
    """The digest before: its key, the SHA-256 of its uncompressed bytes and its signature, in hex."""

    key: str
    sha256: str
    signature: str


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest that is to be signed: of `place`, over the time from `start` to `end`. `previous`: None for the first."""

    place: Place
    start: int
    end: int
    files: tuple[LogFile, ...]
    previous: Previous | None

    def document(self, trail: Trail, fingerprint: str) -> bytes:
        """The digest's uncompressed bytes; `fingerprint` names the key that signs it."""
        files = [
            {
                "s3Bucket": trail.bucket,
                "s3Object": one.key,
                "hashValue": one.sha256,
                "hashAlgorithm": "SHA-256",
                "newestEventTime": one.newest,
                "oldestEventTime": one.oldest,
            }
            for one in self.files
        ]
        previous = self.previous
        return orjson.dumps(
            {
                "awsAccountId": self.place.account_id,
                "digestStartTime": timestamp(self.start),
                "digestEndTime": timestamp(self.end),
                "digestS3Bucket": trail.bucket,
                "digestS3Object": trail.digest_key(self.place, self.end),
                "digestPublicKeyFingerprint": fingerprint,
                "digestSignatureAlgorithm": SHA256_WITH_RSA,
                "newestEventTime": max((one.newest for one in self.files), default=None),
                "oldestEventTime": min((one.oldest for one in self.files), default=None),
                "previousDigestS3Bucket": None if previous is None else trail.bucket,
                "previousDigestS3Object": None if previous is None else previous.key,
                "previousDigestHashValue": None if previous is None else previous.sha256,
                "previousDigestHashAlgorithm": None if previous is None else "SHA-256",
                "previousDigestSignature": None if previous is None else previous.signature,
                "logFiles": files,
            }
        )


def text_to_sign(document: bytes, end: str, bucket: str, key: str, previous_signature: str | None) -> bytes:
    """What is signed for the digest `document`. `end` is its digestEndTime, as it stands there."""
    return "\n".join([end, f"{bucket}/{key}", sha256(document).hexdigest(), previous_signature or "null"]).encode()
