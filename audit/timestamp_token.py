"""RFC 3161 time stamps of checkpoints: what a time-stamping authority is asked, and what its answer proves. Pure.

An authority signs the digest of what it is shown, and its own time. What it is shown here is a checkpoint's note, byte for
byte; the answer is kept as it came (DER, `TimeStampResp`), so that `openssl ts -verify` reads it too.

Source: RFC 3161, sections 2.4.1 and 2.4.2. ASN.1 and the signature are rfc3161-client's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.x509 import Certificate, load_pem_x509_certificates
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, VerificationError, VerifierBuilder, decode_timestamp_response

from audit.errors import AuditError


class TimestampInvalid(AuditError):
    """An answer is no time stamp of what was asked for, by an authority that is trusted."""


@dataclass(frozen=True, slots=True)
class Timestamp:
    """When (UTC) the authority says that it saw the checkpoint."""

    time: datetime
    serial_number: int

    def __str__(self) -> str:
        return f"{self.time:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, slots=True)
class Authorities:
    """The certificates that time stamps must lead to: of authorities, or of the CAs that certify them."""

    certificates: tuple[Certificate, ...]

    @classmethod
    def parse(cls, pem: bytes) -> Authorities:
        """Read certificates, PEM, one or several. Raises `TimestampInvalid`."""
        try:
            return cls(tuple(load_pem_x509_certificates(pem)))
        except ValueError as error:
            raise TimestampInvalid("it holds no certificates in PEM") from error

    def open(self, response: bytes, note: bytes, nonce: int | None = None) -> Timestamp:
        """The time stamp that `response` is of `note`, with `nonce` where that was just asked. Raises `TimestampInvalid`."""
        try:
            answer = decode_timestamp_response(response)
            if answer.status != 0:
                raise TimestampInvalid(f"it was not granted (status {answer.status}): {', '.join(answer.status_string)!r:.200}")
            verifier = VerifierBuilder(roots=list(self.certificates), nonce=nonce).build()
            verifier.verify_message(answer, note)
            return Timestamp(answer.tst_info.gen_time.astimezone(UTC), answer.tst_info.serial_number)
        except (VerificationError, ValueError) as error:
            raise TimestampInvalid(f"it is not genuine, or not of this checkpoint: {error}"[:300]) from error


def make_request(note: bytes) -> tuple[bytes, int | None]:
    """A request for a time stamp of `note`, DER, and its nonce. The authority is asked for its certificate too."""
    request = (
        TimestampRequestBuilder()
        .data(note)
        .hash_algorithm(HashAlgorithm.SHA256)
        .nonce(nonce=True)
        .cert_request(cert_request=True)
    )
    built = request.build()
    return built.as_bytes(), built.nonce
