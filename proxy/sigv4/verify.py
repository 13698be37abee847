"""Verifying a caller's request. Pure.

The checks stand in AWS's order: parse, skew, scope, key, signature. Rules kept: the canonical headers are strictly those that the
client lists; the host, the target and the date must be among them, and the session token where there is one (an unsigned target
would let someone swap the operation); the body is always hashed; the signature that we computed goes into no message.

What a client signs alike all day (key, scope, header names) is read once; only claims whose signature held are kept, so a stranger
can neither fill nor flush that memory.

Messages as recorded from AWS; what AWS leaves open is said where it is decided.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple, Protocol

from proxy.domain import Principal, RawRequest
from proxy.errors import KmsError
from proxy.sigv4.canonical import ALGORITHM, SignedHeaders, SigningKeys, canonical_request, gather_headers, string_to_sign

MAX_SKEW_MIN = 5
_SKEW_US = MAX_SKEW_MIN * 60 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_KNOWN_CLAIMS = 512

_PARAMETERS = (b"Credential", b"Signature", b"SignedHeaders")  # in the order in which AWS names them
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and "
    "signing method. Consult the service documentation for details."
)
#: IAM: 16–128 of \w; emulators' users write "test". A secret put in its place (40 characters, mixed case) must not match:
#: what matches is recorded as the claimed identity.
_ACCESS_KEY_ID = re.compile(rb"\w{1,32}|[A-Z0-9_]{33,128}", re.ASCII)
#: us-east-1, us-gov-west-1, cn-north-1, us-iso-east-1, eusc-de-east-1; RegionType of the service model, bounded.
_REGION = re.compile(rb"(?=.{1,32}\Z)(?:[a-z]{2,}-){2,3}[0-9]{1,2}")
_BASIC_TIME = re.compile(rb"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_HTTP_TIME = re.compile(  # RFC 9110 §5.6.7; botocore writes -0000 for GMT
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) (?:GMT|[+-]0000)"
)
_MONTHS = {m.encode(): n for n, m in enumerate(re.findall("...", "JanFebMarAprMayJunJulAugSepOctNovDec"), 1)}
#: Headers that decide what is done, and for whom: said twice, they could mean one thing here and another elsewhere.
_ONCE = frozenset(
    b"authorization content-type date host x-amz-content-sha256 x-amz-date x-amz-security-token x-amz-target".split()
)


class AuthenticationFailed(KmsError):
    """Who is calling could not be established. The claims are what the request said, where it can be a key id and a region."""

    def __init__(self, code: str, message: str, claimed_access_key_id: str | None, claimed_region: str | None) -> None:
        super().__init__(code, message)
        self.claimed_access_key_id = claimed_access_key_id
        self.claimed_region = claimed_region


class Caller(Protocol):
    """What is known of a caller. One whose credentials end also has `expires_us`, microseconds since the epoch."""

    @property
    def principal(self) -> Principal: ...
    @property
    def secret_access_key(self) -> str: ...
    @property
    def session_token(self) -> str | None: ...
    @property
    def enabled(self) -> bool: ...


class Verified(NamedTuple):
    """A request whose signature holds: who signed it, for which region, and the signature (lower-case hex)."""

    principal: Principal
    region: str
    signature: str


class _Claim:
    """What an Authorization header says, its signature apart; makes the refusals that name who it claimed to be.

    `access_key_id` and `region` are there where they can be what they should be. `is_sound`: algorithm and scope are as they must
    be, the scope's date apart.
    """

    __slots__ = ("access_key_id", "algorithm", "credential", "is_sound", "region", "scope", "scope_date", "signed")

    def __init__(self, parameters: bytes, service: bytes) -> None:
        self.algorithm, _, rest = parameters.partition(b" ")
        found: dict[bytes, bytes] = {}
        for part in rest.replace(b",", b" ").split():
            name, _, value = part.partition(b"=")
            found[name] = found[name] + b"," + value if name in found else value
        credential = found.get(b"Credential", b"")
        self.signed = SignedHeaders(found.get(b"SignedHeaders", b""))
        self.credential = credential.split(b"/")
        self.scope = credential.partition(b"/")[2]
        self.access_key_id = self.region = None
        self.scope_date = b""
        self.is_sound = False
        if len(self.credential) == 5:  # a secret put in the key id's place has slashes: its pieces are no claims
            key_id, self.scope_date, region, *rest_of_scope = self.credential
            self.access_key_id = key_id.decode() if _ACCESS_KEY_ID.fullmatch(key_id) else None
            self.region = region.decode() if _REGION.fullmatch(region) else None
            is_scoped = self.region is not None and rest_of_scope == [service, b"aws4_request"]
            self.is_sound = is_scoped and self.algorithm == ALGORITHM

    def refuse(self, code: str, message: str) -> AuthenticationFailed:
        return AuthenticationFailed(code, message, self.access_key_id, self.region)

    def incomplete(self, message: str) -> AuthenticationFailed:
        return self.refuse("IncompleteSignatureException", message)

    def invalid(self, message: str = _MISMATCH) -> AuthenticationFailed:
        return self.refuse("InvalidSignatureException", message)

    def unrecognized(self) -> AuthenticationFailed:
        return self.refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
