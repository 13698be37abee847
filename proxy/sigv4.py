"""AWS Signature Version 4 by hand: verifying a caller's request, and signing one. Pure.

The checks stand in AWS's order: parse, skew, scope, key, signature. Rules kept: the canonical headers are strictly those that the
client lists; the host, the target and the date must be among them, and the session token where there is one (an unsigned target
would let someone swap the operation); the body is always hashed; the signature that we computed goes into no message.

Source: AWS General Reference, "Signature Version 4"; messages as recorded from AWS. What AWS leaves open is said there.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from proxy.domain import Principal, RawRequest
from proxy.errors import KmsError

ALGORITHM = b"AWS4-HMAC-SHA256"
MAX_SKEW_MIN = 5
_SKEW_US = MAX_SKEW_MIN * 60 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_PARAMETERS = ("Credential", "Signature", "SignedHeaders")  # in the order in which AWS names them
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and "
    "signing method. Consult the service documentation for details."
)
_PLAIN_PATH = re.compile(rb"/[A-Za-z0-9\-_~]+(?:/[A-Za-z0-9\-_~]+)*/?")  # no dot, so nothing to normalise or to quote
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
        self,
        code: str,
        message: str,
        claimed_access_key_id: str | None,
        claimed_region: str | None,
    ) -> None:
        super().__init__(code, message)
        self.claimed_access_key_id = claimed_access_key_id
        self.claimed_region = claimed_region


class Caller(Protocol):
    """What is known of a caller. One whose session token ends also has `expires_us`, microseconds since the epoch."""

    @property
    def principal(self) -> Principal: ...
    @property
    def secret_access_key(self) -> str: ...
    @property
    def session_token(self) -> str | None: ...
    @property
    def enabled(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Verified:
    """A request whose signature holds: who signed it, for which region, and the signature (lower-case hex)."""

    principal: Principal
    region: str
    signature: str


# --- the canonical form, shared by verifying and signing


def canonical_path(path: bytes) -> bytes:
    """`path` as it stands in the request line, normalised (RFC 3986 §5.2.4, empty segments dropped) and quoted once more."""
    if path == b"/" or _PLAIN_PATH.fullmatch(path):
        return path
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    normal = b"/" + b"/".join(segments)
    if segments and path.endswith(b"/"):
        normal += b"/"
    return quote_from_bytes(normal, safe="/~").encode()


def canonical_query(query: bytes) -> bytes:
    """The parameters, each name and value quoted anew, sorted by name and then by value."""
    if not query:
        return b""
    pairs = []
    for parameter in query.split(b"&"):
        name, _, value = parameter.partition(b"=")
        if name or value:
            pairs.append(tuple(quote_from_bytes(unquote_to_bytes(part), safe="~") for part in (name, value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs)).encode()


def gather_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Values by lower-case name; the values of a repeated header are joined with a comma, in the order in which they stand."""
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        values[name] = values[name].strip() + b"," + value.strip() if name in values else value
    return values


def canonical_request(
    method: bytes,
    target: bytes,
    values: Mapping[bytes, bytes],
    signed: Sequence[bytes],
    body_sha256: str,
) -> bytes:
    """The canonical request over the headers `signed`, in that order. Raises KeyError for one that `values` does not have."""
    path, _, query = target.partition(b"?")
    lines = [method, canonical_path(path), canonical_query(query)]
    lines += [name + b":" + b" ".join(values[name].split()) for name in signed]
    lines += [b"", b";".join(signed), body_sha256.encode()]
    return b"\n".join(lines)


def string_to_sign(timestamp: bytes, scope: bytes, canonical: bytes) -> bytes:
    """`timestamp` is ISO 8601 basic format; `scope` is date/region/service/aws4_request."""
    return b"\n".join((ALGORITHM, timestamp, scope, sha256(canonical).hexdigest().encode()))


class SigningKeys:
    """Derived keys by credential and scope; keeps at most `limit`, the oldest going first. The secret is part of the entry, so a
    changed secret is never answered with the old one's key."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._keys: dict[tuple[str, bytes], hmac.HMAC] = {}

    def sign(self, secret_access_key: str, scope: bytes, text: bytes) -> str:
        """The signature of `text`, lower-case hex. `scope` is date/region/service/aws4_request."""
        entry = (secret_access_key, scope)
        keyed = self._keys.get(entry)
        if keyed is None:
            key = b"AWS4" + secret_access_key.encode()
            for part in scope.split(b"/"):
                key = hmac.digest(key, part, "sha256")
            if len(self._keys) >= self._limit:
                del self._keys[next(iter(self._keys))]
            keyed = self._keys[entry] = hmac.new(key, digestmod="sha256")
        signing = keyed.copy()  # a third of the time that the key's schedule takes
        signing.update(text)
        return signing.hexdigest()


def sign(
    method: bytes,
    target: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    *,
    access_key_id: str,
    secret_access_key: str,
    region: str,
    service: str = "kms",
    keys: SigningKeys | None = None,
) -> bytes:
    """The value of the Authorization header. Signs every header given: names in lower-case, `host` and `x-amz-date` among them.

    `keys` spares deriving the key anew where one signs often. Raises KeyError where `x-amz-date` is missing.
    """
    values = gather_headers(headers)
    timestamp = values[b"x-amz-date"]
    signed = sorted(values)
    scope = b"%b/%b/%b/aws4_request" % (
        timestamp[:8],
        region.encode(),
        service.encode(),
    )
    canonical = canonical_request(method, target, values, signed, sha256(body).hexdigest())
    signature = (keys or SigningKeys()).sign(secret_access_key, scope, string_to_sign(timestamp, scope, canonical))
    return b"%b Credential=%b/%b, SignedHeaders=%b, Signature=%b" % (
        ALGORITHM,
        access_key_id.encode(),
        scope,
        b";".join(signed),
        signature.encode(),
    )


# --- verifying


@dataclass(slots=True)
class _Claim:
    """What one request says of itself, as far as it was read; makes the refusals that name who it claimed to be."""

    access_key_id: str | None = None
    region: str | None = None

    def refuse(self, code: str, message: str) -> AuthenticationFailed:
        return AuthenticationFailed(code, message, self.access_key_id, self.region)

    def incomplete(self, message: str) -> AuthenticationFailed:
        return self.refuse("IncompleteSignatureException", message)

    def invalid(self, message: str = _MISMATCH) -> AuthenticationFailed:
        return self.refuse("InvalidSignatureException", message)


@dataclass(frozen=True, slots=True)
class _Authorization:
    """An Authorization header, read. `key_id` and `region` are there where they can be what they should be."""

    algorithm: bytes
    credential: tuple[bytes, ...]
    scope: bytes
    signed: tuple[bytes, ...]
    key_id: str | None
    region: str | None
    missing: tuple[str, ...]


class Verifier:
    """Verifies requests to `service`. `find_caller` looks an access key id up, and must be cheap. For one thread."""

    def __init__(self, find_caller: Callable[[str], Caller | None], *, service: str = "kms") -> None:
        self._find_caller = find_caller
        self._service = service.encode()
        self._keys = SigningKeys()
        self._parse_authorization = lru_cache(maxsize=512)(_parse_authorization)
        self._parse_time = lru_cache(maxsize=64)(_parse_time)

    def verify(self, raw: RawRequest, now_us: int) -> Verified:
        """Who signed `raw`, as of `now_us` (microseconds since the epoch). Raises `AuthenticationFailed`."""
        claim = _Claim()
        values = _read_headers(raw, claim)
        authorization, signature = self._read_authorization(values, claim)  # 1 parse
        timestamp, sent_us, date_header = self._read_date(values, claim)
        _check_skew(timestamp, sent_us, now_us, claim)  # 2 skew
        signed = authorization.signed
        _check_signed(signed, values, date_header, claim)
        if authorization.algorithm != ALGORITHM:
            told = _echo(authorization.algorithm)
            raise claim.incomplete(f"Unsupported AWS 'algorithm': '{told}' (only AWS4-HMAC-SHA256 for now). ")
        self._check_scope(authorization.credential, timestamp, claim)  # 3 scope
        caller = None if claim.access_key_id is None else self._find_caller(claim.access_key_id)  # 4 key
        if caller is None or not caller.enabled or claim.region is None:
            raise claim.refuse(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        try:
            canonical = canonical_request(
                raw.method,
                raw.target,
                values,
                signed,
                _hash_body(raw.body, values, claim),
            )
        except KeyError:  # a signed header that did not arrive
            raise claim.invalid() from None
        scope = authorization.scope
        expected = self._keys.sign(caller.secret_access_key, scope, string_to_sign(timestamp, scope, canonical))
        if not hmac.compare_digest(expected.encode(), signature):  # 5 signature
            raise claim.invalid()
        _check_token(caller, values.get(b"x-amz-security-token"), now_us, claim)
        return Verified(caller.principal, claim.region, expected)

    def _read_authorization(self, values: Mapping[bytes, bytes], claim: _Claim) -> tuple[_Authorization, bytes]:
        header = values.get(b"authorization", b"")
        if not header.startswith(b"AWS4-"):
            raise claim.refuse(
                "MissingAuthenticationTokenException",
                "Request is missing Authentication Token",
            )
        before, _, tail = header.partition(b"Signature=")
        signature, separator, after = tail.partition(b",")
        authorization = self._parse_authorization(before + separator + after)
        claim.access_key_id, claim.region = authorization.key_id, authorization.region
        missing = authorization.missing
        if missing or not signature or (b"x-amz-date" not in values and b"date" not in values):
            names = [n for n in _PARAMETERS if n in missing or (n == "Signature" and not signature)]
            faults = "".join(f"Authorization header requires '{name}' parameter. " for name in names)
            if b"x-amz-date" not in values and b"date" not in values:
                faults += "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
            digest = base64.b64encode(sha256(header).digest()).decode()
            raise claim.incomplete(f"{faults}(Hashed with SHA-256 and encoded with Base64) Authorization={digest}")
        return authorization, signature.strip()

    def _read_date(self, values: Mapping[bytes, bytes], claim: _Claim) -> tuple[bytes, int, bytes]:
        """The timestamp in basic format, the same as microseconds since the epoch, and the header that it came from."""
        name = b"x-amz-date" if b"x-amz-date" in values else b"date"
        text = values[name].strip()
        parsed = self._parse_time(text)
        if parsed is None or (name == b"x-amz-date" and parsed[0] != text):
            told = _echo(text)
            raise claim.incomplete(
                f"Date must be in ISO-8601 'basic format'. Got '{told}'. See http://en.wikipedia.org/wiki/ISO_8601"
            )
        return *parsed, name

    def _check_scope(self, credential: Sequence[bytes], timestamp: bytes, claim: _Claim) -> None:
        if len(credential) != 5:
            # AWS adds what it got, which may be a secret: see `_parse_authorization`.
            raise claim.incomplete("Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term")
        _, date, region, service, terminator = credential
        faults = ""
        if claim.region is None:
            faults += f"Credential should be scoped to a valid region, not '{_echo(region)}'. "
        if service != self._service:
            faults += f"Credential should be scoped to correct service: '{self._service.decode()}'. "
        if terminator != b"aws4_request":
            faults += f"Credential should be scoped with a valid terminator: 'aws4_request', not '{_echo(terminator)}'. "
        if date != timestamp[:8]:
            day, whole = timestamp[:8].decode(), timestamp.decode()
            faults += "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            faults += f"'{_echo(date)}' != '{day}', from '{whole}'."
        if faults:
            raise claim.invalid(faults)


def _read_headers(raw: RawRequest, claim: _Claim) -> dict[bytes, bytes]:
    values = gather_headers(raw.headers)
    if len(values) != len(raw.headers):
        names = [name for name, _ in raw.headers]
        for name in sorted(_ONCE):
            if names.count(name) > 1:
                raise claim.incomplete(f"Header '{name.decode()}' must not be sent more than once.")
    if b"?" in raw.target and b"x-amz-" in raw.target.partition(b"?")[2].lower():
        if b"authorization" in values:
            raise claim.invalid("Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header.")
        raise claim.incomplete("Presigned URLs are not accepted. Send the signature in the Authorization header.")
    return values


def _parse_authorization(header: bytes) -> _Authorization:
    """The header without its signature's value: what remains is the same for every request that a client signs in a day."""
    algorithm, _, rest = header.partition(b" ")
    found: dict[bytes, bytes] = {}
    for part in rest.replace(b",", b" ").split():
        name, _, value = part.partition(b"=")
        found[name] = found[name] + b"," + value if name in found else value
    credential = found.get(b"Credential", b"").split(b"/")
    signed = found.get(b"SignedHeaders", b"")
    whole = len(credential) == 5  # a secret put in the key id's place has slashes: its pieces are no claims
    key_id = credential[0].decode() if whole and _ACCESS_KEY_ID.fullmatch(credential[0]) else None
    region = credential[2].decode() if whole and _REGION.fullmatch(credential[2]) else None
    missing = tuple(name for name in ("Credential", "SignedHeaders") if not found.get(name.encode()))
    scope = b"/".join(credential[1:])
    return _Authorization(algorithm, tuple(credential), scope, tuple(signed.split(b";")), key_id, region, missing)


def _parse_time(text: bytes) -> tuple[bytes, int] | None:
    """A time in ISO 8601 basic format or in HTTP's, as the former and as microseconds since the epoch; None if it is neither."""
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
        return None
    moment_us = (moment - _EPOCH) // timedelta(microseconds=1)
    return _basic_time(moment_us).encode(), moment_us


def _check_skew(timestamp: bytes, sent_us: int, now_us: int, claim: _Claim) -> None:
    if abs(sent_us - now_us) <= _SKEW_US:
        return
    sent, now = timestamp.decode(), _basic_time(now_us)
    if sent_us < now_us:
        edge = _basic_time(now_us - _SKEW_US)
        raise claim.invalid(f"Signature expired: {sent} is now earlier than {edge} ({now} - {MAX_SKEW_MIN} min.)")
    edge = _basic_time(now_us + _SKEW_US)
    raise claim.invalid(f"Signature not yet current: {sent} is still later than {edge} ({now} + {MAX_SKEW_MIN} min.)")


def _check_signed(
    signed: Sequence[bytes],
    values: Mapping[bytes, bytes],
    date_header: bytes,
    claim: _Claim,
) -> None:
    if b"host" not in signed:
        raise claim.invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
    required = [date_header, b"x-amz-target"]
    if b"x-amz-security-token" in values:
        required.append(b"x-amz-security-token")
    for name in required:
        if name not in signed:
            title = name.decode().title()
            raise claim.invalid(f"'{title}' must be a 'SignedHeader' in the AWS Authorization.")


def _hash_body(body: bytes, values: Mapping[bytes, bytes], claim: _Claim) -> str:
    """The body's SHA-256. A header that says another, UNSIGNED-PAYLOAD or STREAMING-… is refused: KMS has no such requests."""
    digest = sha256(body).hexdigest()
    sent = values.get(b"x-amz-content-sha256")
    if sent is not None and sent != digest.encode():
        raise claim.invalid()
    return digest


def _check_token(caller: Caller, sent: bytes | None, now_us: int, claim: _Claim) -> None:
    token = caller.session_token
    if token is None and sent is None:
        return
    if token is None or sent is None or not hmac.compare_digest(token.encode(), sent):
        raise claim.refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
    expires_us: int | None = getattr(caller, "expires_us", None)  # getattr: not every session's end is known here
    if expires_us is not None and now_us >= expires_us:
        raise claim.refuse("ExpiredTokenException", "The security token included in the request is expired")


def _basic_time(moment_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=moment_us)).strftime("%Y%m%dT%H%M%SZ")


def _echo(text: bytes) -> str:
    """What a client sent, fit to be told back: at most 64 characters, printable."""
    cut = text[:64].decode("latin-1")
    return "".join(c if c.isprintable() else "?" for c in cut) + ("…" if len(text) > 64 else "")


class SeenSignatures:
    """Remembers signatures: the last `limit` for certain, and never more than twice as many. Two calls alike within one second
    have the same signature, so a repetition is a sign of a replay and no proof."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: set[str] = set()
        self._old: set[str] = set()

    def seen(self, signature: str) -> bool:
        """Whether `signature` was here before; it is remembered from now on."""
        if signature in self._young:
            return True
        repeated = signature in self._old
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, set()
        self._young.add(signature)
        return repeated
