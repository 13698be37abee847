"""AWS Signature Version 4 by hand: a request's canonical form and signing it (`canonical`), verifying a caller's (`verify`)."""

from proxy.sigv4.canonical import SigningKeys, sign
from proxy.sigv4.verify import AuthenticationFailed, Caller, SeenSignatures, Verified, Verifier

__all__ = ["AuthenticationFailed", "Caller", "SeenSignatures", "SigningKeys", "Verified", "Verifier", "sign"]
