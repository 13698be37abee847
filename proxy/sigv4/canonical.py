"""The canonical form of a request, and its signature; shared by signing and verifying. Pure.

Source: AWS General Reference, "Create a signed AWS API request".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from operator import itemgetter
from urllib.parse import quote_from_bytes, unquote_to_bytes

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

ALGORITHM = b"AWS4-HMAC-SHA256"
_PLAIN_PATH = re.compile(rb"/[A-Za-z0-9\-_~]+(?:/[A-Za-z0-9\-_~]+)*/?")  # no dot, so nothing to normalise or to quote


class SignedHeaders:
    """The names that a signature covers, as the signer lists them: ``host;x-amz-date``. Made once for many requests."""

    __slots__ = ("form", "line", "names", "pick")

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.names = names = tuple(line.split(b";"))
        #: Their values, in this order, out of a table. Raises KeyError.
        self.pick: Callable[[Mapping[bytes, bytes]], tuple[bytes, ...]] = (
            itemgetter(*names) if len(names) > 1 else lambda values: (values[line],)
        )
        headers = b"".join(name + b":%b\n" for name in line.replace(b"%", b"%%").split(b";"))
        #: The canonical request, open where it differs: method, path, query, the values, the body's hash.
        self.form = b"%b\n%b\n%b\n" + headers + b"\n" + line.replace(b"%", b"%%") + b"\n%b"


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
    method: bytes, target: bytes, values: Mapping[bytes, bytes], signed: SignedHeaders, body_sha256: bytes
) -> bytes:
    """The canonical request over the headers `signed`. Raises KeyError for one that `values` does not have."""
    path, _, query = target.partition(b"?")
    if path != b"/":
        path = canonical_path(path)
    if query:
        query = canonical_query(query)
    fields = signed.pick(values)
    together = b"".join(fields)
    if together.split(None, 1) != [together]:  # a blank somewhere: seldom among the headers that SDKs sign
        fields = tuple(b" ".join(field.split()) for field in fields)
    return signed.form % (method, path, query, *fields, body_sha256)


def string_to_sign(timestamp: bytes, scope: bytes, canonical: bytes) -> bytes:
    """`timestamp` is ISO 8601 basic format; `scope` is date/region/service/aws4_request."""
    return b"\n".join((ALGORITHM, timestamp, scope, sha256(canonical).hexdigest().encode()))


class SigningKeys:
    """Derived keys by credential and scope; keeps at most `limit`, the oldest going first. The secret is part of the entry, so a
    changed secret is never answered with the old one's key."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._keys: dict[tuple[str, bytes], HMAC] = {}

    def sign(self, secret_access_key: str, scope: bytes, text: bytes) -> str:
        """The signature of `text`, lower-case hex. `scope` is date/region/service/aws4_request."""
        entry = (secret_access_key, scope)
        keyed = self._keys.get(entry)
        if keyed is None:
            keyed = HMAC(b"AWS4" + secret_access_key.encode(), SHA256())
            for part in scope.split(b"/"):
                keyed.update(part)
                keyed = HMAC(keyed.finalize(), SHA256())
            if len(self._keys) >= self._limit:
                del self._keys[next(iter(self._keys))]
            self._keys[entry] = keyed
        signing = keyed.copy()  # spares the key's schedule
        signing.update(text)
        return signing.finalize().hex()


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
    signed = SignedHeaders(b";".join(sorted(values)))
    scope = b"%b/%b/%b/aws4_request" % (timestamp[:8], region.encode(), service.encode())
    canonical = canonical_request(method, target, values, signed, sha256(body).hexdigest().encode())
    signature = (keys or SigningKeys()).sign(secret_access_key, scope, string_to_sign(timestamp, scope, canonical))
    return b"%b Credential=%b/%b, SignedHeaders=%b, Signature=%b" % (
        ALGORITHM,
        access_key_id.encode(),
        scope,
        signed.line,
        signature.encode(),
    )
