"""Verifying a caller's request. Pure.

The checks stand in AWS's order: parse, skew, scope, key, signature. Rules kept: the canonical headers are strictly those that the
client lists; the host, the target and the date must be among them, and the session token where there is one (an unsigned target
would let someone swap the operation); the body is always hashed; the signature that we computed goes into no message.

What a client's Authorization says alike all day (key, scope, header names) is read once; only what came with a signature that
holds is remembered, so a stranger can neither fill that memory nor flush it.

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
from proxy.errors import KmsError, ProxyError
from proxy.sigv4.canonical import ALGORITHM, SignedHeaders, SigningKeys, canonical_request, gather_headers, string_to_sign

MAX_SKEW_MIN = 5
_SKEW_US = MAX_SKEW_MIN * 60 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_KNOWN_CLAIMS = 512

_PARAMETERS = ("Credential", "Signature", "SignedHeaders")  # in the order in which AWS names them
_TERMINATOR = b"aws4_request"
#: What a signature must cover, besides the date and the session token. A service that finds its operation in the body, which is
#: always hashed, has no target.
KMS_SIGNED = (b"host", b"x-amz-target")
HOST_SIGNED = (b"host",)
_SIGNATURE_SIZE = 64  # hex digits
_SIGNATURE = re.compile(rb"[0-9a-f]{64}")
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

    def __init__(
        self, code: str, message: str, claimed_access_key_id: str | None, claimed_region: str | None, status: int = 400
    ) -> None:
        super().__init__(code, message, status=status)
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

    def __repr__(self) -> str:  # the signature admits to a replay
        return f"Verified({self.principal!r}, {self.region!r})"


class Claimed(NamedTuple):
    """Who says that they signed a request, for which region, and the signature (lower-case hex)."""

    access_key_id: str
    region: str
    signature: str

    def __repr__(self) -> str:
        return f"Claimed({self.access_key_id!r}, {self.region!r})"


class _Claim:
    """What an Authorization header says, its signature apart; makes the refusals that name who it claimed to be.

    `access_key_id` and `region` are there where they can be what they should be. `is_sound`: all is as it must be that does not
    hang on the rest of the request.
    """

    __slots__ = ("access_key_id", "algorithm", "credential", "is_sound", "missing", "region", "scope", "scope_date", "signed")

    def __init__(self, parameters: bytes, service: bytes, must_sign: tuple[bytes, ...] = KMS_SIGNED) -> None:
        self.algorithm, _, rest = parameters.partition(b" ")
        found: dict[bytes, bytes] = {}
        for part in rest.replace(b",", b" ").split():
            name, _, value = part.partition(b"=")
            found[name] = found[name] + b"," + value if name in found else value
        self.missing = tuple(name for name in ("Credential", "SignedHeaders") if not found.get(name.encode()))
        self.signed = SignedHeaders(found.get(b"SignedHeaders", b""))
        credential = found.get(b"Credential", b"")
        self.credential = credential.split(b"/")
        self.scope = credential.partition(b"/")[2]
        self.scope_date = b""
        self.access_key_id: str | None = None
        self.region: str | None = None
        self.is_sound = False
        if len(self.credential) == 5:  # a secret put in the key id's place has slashes: its pieces are no claims
            key_id, self.scope_date, region, claimed_service, terminator = self.credential
            self.access_key_id = key_id.decode() if _ACCESS_KEY_ID.fullmatch(key_id) else None
            self.region = region.decode() if _REGION.fullmatch(region) else None
            is_scoped = self.region is not None and (claimed_service, terminator) == (service, _TERMINATOR)
            self.is_sound = is_scoped and self.algorithm == ALGORITHM and set(must_sign).issubset(self.signed.names)

    def refuse(self, code: str, message: str) -> AuthenticationFailed:
        return AuthenticationFailed(code, message, self.access_key_id, self.region)

    def incomplete(self, message: str) -> AuthenticationFailed:
        return self.refuse("IncompleteSignatureException", message)

    def invalid(self, message: str = _MISMATCH) -> AuthenticationFailed:
        return self.refuse("InvalidSignatureException", message)

    def unrecognized(self) -> AuthenticationFailed:
        return self.refuse("UnrecognizedClientException", "The security token included in the request is invalid.")


_STRANGER = _Claim(b"", b"")  # who has claimed nothing yet


class Verifier:
    """Verifies requests to `service`. `find_caller` looks an access key id up, and must be cheap. For one thread.

    `must_sign` are the headers that a signature must cover. `clock_us` (microseconds since the epoch), if given, tells the time
    by which credentials end; the time of requests is compared with what `verify` is told.
    """

    def __init__(
        self,
        find_caller: Callable[[str], Caller | None],
        *,
        service: str = "kms",
        must_sign: tuple[bytes, ...] = KMS_SIGNED,
        clock_us: Callable[[], int] | None = None,
    ) -> None:
        self._find_caller = find_caller
        self._service = service.encode()
        self._must_sign = must_sign
        self._clock_us = clock_us
        self._keys = SigningKeys()
        self._known: dict[bytes, _Claim] = {}  # by the Authorization header without the signature's value

    def verify(self, raw: RawRequest, now_us: int) -> Verified:
        """Who signed `raw`, as of `now_us` (microseconds since the epoch). Raises `AuthenticationFailed`."""
        values, claim, signature, timestamp, is_known = self._open(raw, now_us)
        token = values.get(b"x-amz-security-token")

        try:
            caller = None if claim.access_key_id is None else self._find_caller(claim.access_key_id)  # 4 key
        except ProxyError as fault:
            told = "Who is calling could not be looked up."
            raise AuthenticationFailed("KMSInternalException", told, claim.access_key_id, claim.region, status=500) from fault
        if caller is None or not caller.enabled or claim.region is None:
            raise claim.unrecognized()

        body_sha256 = sha256(raw.body).hexdigest().encode()  # 5 signature
        if values.get(b"x-amz-content-sha256", body_sha256) != body_sha256:  # UNSIGNED-PAYLOAD and STREAMING-… too
            raise claim.invalid()
        try:
            canonical = canonical_request(raw.method, raw.target, values, claim.signed, body_sha256)
        except KeyError:  # a signed header that did not arrive
            raise claim.invalid() from None
        expected = self._keys.sign(caller.secret_access_key, claim.scope, string_to_sign(timestamp, claim.scope, canonical))
        if not compare_digest(expected.encode(), signature):
            raise claim.invalid()
        if token is not None or caller.session_token is not None:
            _check_token(claim, caller.session_token, token)
        expires_us: int | None = getattr(caller, "expires_us", None)  # getattr: most callers' credentials have no end
        if expires_us is not None and (now_us if self._clock_us is None else self._clock_us()) >= expires_us:
            raise claim.refuse("ExpiredTokenException", "The security token included in the request is expired")

        if not is_known:
            self._remember(raw, claim)
        return Verified(caller.principal, claim.region, expected)

    def read(self, raw: RawRequest) -> Claimed:
        """Who says that they signed `raw`, where somebody else will verify it; what is signed must be sound as in `verify`.

        Raises `AuthenticationFailed`.
        """
        values, claim, signature, _, _ = self._open(raw, None)
        body_sha256 = values.get(b"x-amz-content-sha256")
        if body_sha256 is not None and body_sha256 != sha256(raw.body).hexdigest().encode():
            raise claim.invalid()
        if claim.access_key_id is None or claim.region is None or not _SIGNATURE.fullmatch(signature):
            raise claim.unrecognized()
        return Claimed(claim.access_key_id, claim.region, signature.decode())

    def _open(self, raw: RawRequest, now_us: int | None) -> tuple[dict[bytes, bytes], _Claim, bytes, bytes, bool]:
        """What can be checked without a key: the headers' values, the claim, the signature, the time, and whether the claim was
        known. Without `now_us` the time is not compared with anything."""
        values = dict(raw.headers)
        if len(values) != len(raw.headers):
            _refuse_repeated(raw.headers)
            values = gather_headers(raw.headers)
        if b"?" in raw.target:
            _refuse_presigned(raw.target, values)

        header = values.get(b"authorization", b"")  # 1 parse
        date_header = b"x-amz-date" if b"x-amz-date" in values else b"date"
        date = values.get(date_header)
        known = self._known.get(header[:-_SIGNATURE_SIZE])
        if known is None or date is None:
            claim, signature, date = self._read(header, date)
        else:
            claim, signature = known, header[-_SIGNATURE_SIZE:]
        timestamp, sent_us = _parse_time(date)
        if not timestamp or (timestamp != date and date_header == b"x-amz-date"):
            told = f"Got '{_echo(date)}'. See http://en.wikipedia.org/wiki/ISO_8601"
            raise claim.incomplete(f"Date must be in ISO-8601 'basic format'. {told}")

        if now_us is not None and not -_SKEW_US <= sent_us - now_us <= _SKEW_US:  # 2 skew
            raise _skewed(claim, timestamp, sent_us, now_us)

        names = claim.signed.names  # 3 scope, and what is signed
        token = values.get(b"x-amz-security-token")
        if (
            not claim.is_sound
            or claim.scope_date != timestamp[:8]
            or date_header not in names
            or (token is not None and b"x-amz-security-token" not in names)
        ):
            raise _unsound(claim, self._must_sign, date_header, token is not None, timestamp, self._service)
        return values, claim, signature, timestamp, known is not None

    def _read(self, header: bytes, date: bytes | None) -> tuple[_Claim, bytes, bytes]:
        """An Authorization header that is not known: what it says, its signature, and `date`, which must be there."""
        if not header.startswith(b"AWS4-"):
            raise _STRANGER.refuse("MissingAuthenticationTokenException", "Request is missing Authentication Token")
        before, _, tail = header.partition(b"Signature=")
        signature, comma, after = tail.partition(b",")
        claim = _Claim(before + comma + after, self._service, self._must_sign)
        if date is None or not signature or claim.missing:
            raise _incomplete(claim, header, signature, date)
        return claim, signature.strip(), date

    def _remember(self, raw: RawRequest, claim: _Claim) -> None:
        header = dict(raw.headers).get(b"authorization", b"")
        if header.find(b"Signature=") + len(b"Signature=") + _SIGNATURE_SIZE == len(header):  # where SDKs put it, at the end
            if len(self._known) >= _MAX_KNOWN_CLAIMS:
                del self._known[next(iter(self._known))]
            self._known[header[:-_SIGNATURE_SIZE]] = claim


def _refuse_repeated(headers: Iterable[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in headers]
    for name in sorted(_ONCE):
        if names.count(name) > 1:
            raise _STRANGER.incomplete(f"Header '{name.decode()}' must not be sent more than once.")


def _refuse_presigned(target: bytes, values: Mapping[bytes, bytes]) -> None:
    if b"x-amz-" in target.partition(b"?")[2].lower():
        if b"authorization" in values:
            found_both = "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
            raise _STRANGER.invalid(found_both)
        raise _STRANGER.incomplete("Presigned URLs are not accepted. Send the signature in the Authorization header.")


def _incomplete(claim: _Claim, header: bytes, signature: bytes, date: bytes | None) -> AuthenticationFailed:
    missing = claim.missing if signature else (*claim.missing, "Signature")
    faults = "".join(f"Authorization header requires '{name}' parameter. " for name in _PARAMETERS if name in missing)
    if date is None:
        faults += "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
    digest = base64.b64encode(sha256(header).digest()).decode()
    return claim.incomplete(f"{faults}(Hashed with SHA-256 and encoded with Base64) Authorization={digest}")


@lru_cache(maxsize=64)
def _parse_time(text: bytes) -> tuple[bytes, int]:
    """A time in ISO 8601 basic format or in HTTP's, as the former and as microseconds since the epoch; b"" if it is neither."""
    numbers: list[int] = []
    if basic := _BASIC_TIME.fullmatch(text):
        numbers = [int(part) for part in basic.groups()]
    elif http := _HTTP_TIME.fullmatch(text):
        day, month, year, *clock = http.groups()
        numbers = [int(year), _MONTHS.get(month, 0), int(day), *map(int, clock)]
    try:
        year_number, month_number, day_number, hour, minute, second = numbers
        moment = datetime(year_number, month_number, day_number, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return b"", 0
    moment_us = (moment - _EPOCH) // timedelta(microseconds=1)
    return _basic_time(moment_us).encode(), moment_us


def _basic_time(moment_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=moment_us)).strftime("%Y%m%dT%H%M%SZ")


def _skewed(claim: _Claim, timestamp: bytes, sent_us: int, now_us: int) -> AuthenticationFailed:
    sent, now = timestamp.decode(), _basic_time(now_us)
    if sent_us < now_us:
        edge = _basic_time(now_us - _SKEW_US)
        return claim.invalid(f"Signature expired: {sent} is now earlier than {edge} ({now} - {MAX_SKEW_MIN} min.)")
    edge = _basic_time(now_us + _SKEW_US)
    return claim.invalid(f"Signature not yet current: {sent} is still later than {edge} ({now} + {MAX_SKEW_MIN} min.)")


def _unsound(
    claim: _Claim, must_sign: tuple[bytes, ...], date_header: bytes, has_token: bool, timestamp: bytes, service: bytes
) -> AuthenticationFailed:
    """What is wrong with what is signed, with the algorithm, or with the scope of a request for `service`."""
    for name in (must_sign[0], date_header, *must_sign[1:], *[b"x-amz-security-token"] * has_token):
        if name not in claim.signed.names:
            told = "'Host' or ':authority'" if name == b"host" else f"'{name.decode().title()}'"
            return claim.invalid(f"{told} must be a 'SignedHeader' in the AWS Authorization.")
    if claim.algorithm != ALGORITHM:
        told = _echo(claim.algorithm)
        return claim.incomplete(f"Unsupported AWS 'algorithm': '{told}' (only AWS4-HMAC-SHA256 for now). ")
    if len(claim.credential) != 5:
        # AWS adds what it got, which may be a secret: see `_Claim`.
        return claim.incomplete("Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term")
    _, date, region, claimed_service, terminator = claim.credential
    faults = ""
    if claim.region is None:
        faults += f"Credential should be scoped to a valid region, not '{_echo(region)}'. "
    if claimed_service != service:
        faults += f"Credential should be scoped to correct service: '{service.decode()}'. "
    if terminator != _TERMINATOR:
        faults += f"Credential should be scoped with a valid terminator: 'aws4_request', not '{_echo(terminator)}'. "
    if date != timestamp[:8]:
        day, whole = timestamp[:8].decode(), timestamp.decode()
        faults += "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
        faults += f"'{_echo(date)}' != '{day}', from '{whole}'."
    return claim.invalid(faults)


def _check_token(claim: _Claim, expected: str | None, sent: bytes | None) -> None:
    if expected is None or sent is None or not compare_digest(expected.encode(), sent):
        raise claim.unrecognized()


def _echo(text: bytes) -> str:
    """What a client sent, fit to be told back: at most 64 characters, printable."""
    cut = text[:64].decode("latin-1")
    return "".join(c if c.isprintable() else "?" for c in cut) + ("…" if len(text) > 64 else "")


class SeenSignatures:
    """Remembers signatures: the last `limit` for certain, and never more than twice as many. Two calls alike within one second
    have the same signature, so a repetition is a sign of a replay and no proof; 64 bits of each are enough for that."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: set[int] = set()
        self._old: set[int] = set()

    def seen(self, signature: str) -> bool:
        """Whether `signature` (hex) was here before; it is remembered from now on."""
        known = int(signature[:16], 16)
        if known in self._young:
            return True
        repeated = known in self._old
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, set()
        self._young.add(known)
        return repeated
