"""AWS Signature Version 4 by hand: a request's canonical form and signing it (`canonical`), verifying a caller's (`verify`)."""

from proxy.sigv4.canonical import SigningKeys, sign
from proxy.sigv4.verify import AuthenticationFailed, Caller, Claimed, SeenSignatures, Verified, Verifier

__all__ = ["AuthenticationFailed", "Caller", "Claimed", "SeenSignatures", "SigningKeys", "Verified", "Verifier", "sign"]
