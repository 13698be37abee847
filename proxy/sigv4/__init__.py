"""AWS Signature Version 4 by hand: a request's canonical form and signing it (`canonical`), verifying a caller's (`verify`)."""

from proxy.sigv4.canonical import SigningKeys, sign
from proxy.sigv4.verify import HOST_SIGNED, AuthenticationFailed, Caller, Claimed, SeenSignatures, Verified, Verifier

__all__ = [
    "HOST_SIGNED",
    "AuthenticationFailed",
    "Caller",
    "Claimed",
    "SeenSignatures",
    "SigningKeys",
    "Verified",
    "Verifier",
    "sign",
]
