"""Checking a SigV4 signature, written from AWS's documentation alone: it shares nothing with the proxy's own code.

Source: IAM user guide, "Create a signed AWS API request". Only the headers that the client itself listed are taken; the time is
not compared with a clock.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([^/, ]+)/(\d{8})/([^/, ]+)/([^/, ]+)/aws4_request, *SignedHeaders=([a-z0-9;-]+), *"
    r"Signature=([0-9a-f]{64})"
)

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Credential:
    """What an access key id stands for."""

    secret_access_key: str
    session_token: str | None = None
    arn: str = "arn:aws:iam::111122223333:user/stub"


class Refused(Exception):
    """`code` is the error's, in KMS's words; `reason` what did not fit."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


def access_key_id(headers: Headers) -> str | None:
    """The access key id that a request claims."""
    found = _AUTHORIZATION.fullmatch(_joined(headers).get("authorization", ""))
    return found[1] if found else None


def verify(method: str, target: str, headers: Headers, body: bytes, credentials: Mapping[str, Credential]) -> Credential:
    """Whose signature this is. `target` is the request's path and query as they came. Raises Refused."""
    joined = _joined(headers)
    if "authorization" not in joined:
        raise Refused("MissingAuthenticationTokenException", "no Authorization")
    found = _AUTHORIZATION.fullmatch(joined["authorization"])
    if found is None:
        raise Refused("IncompleteSignatureException", "Authorization cannot be read")
    key_id, date, region, service, signed, signature = found.groups()
    credential = credentials.get(key_id)
    if credential is None or joined.get("x-amz-security-token") != credential.session_token:
        raise Refused("UnrecognizedClientException", "no such access key, or not its session token")
    names = signed.split(";")
    required = {"host", "x-amz-date", "x-amz-target", *(["x-amz-security-token"] if credential.session_token else [])}
    if names != sorted(set(names)) or not required <= set(names) <= set(joined):
        raise Refused("InvalidSignatureException", f"SignedHeaders {signed} do not fit the headers")
    path, _, query = target.partition("?")
    canonical = "\n".join(
        [method, quote(path, safe="/-_.~"), _canonical_query(query)]
        + [f"{name}:{joined[name]}" for name in names]
        + ["", signed, hashlib.sha256(body).hexdigest()]
    )
    scope = f"{date}/{region}/{service}/aws4_request"
    to_sign = "\n".join(
        ["AWS4-HMAC-SHA256", joined["x-amz-date"], scope, hashlib.sha256(canonical.encode("latin-1")).hexdigest()]
    )
    expected = hmac.digest(_signing_key(credential.secret_access_key, date, region, service), to_sign.encode(), "sha256")
    if not joined["x-amz-date"].startswith(date) or not hmac.compare_digest(expected.hex(), signature):
        raise Refused("InvalidSignatureException", "the signature does not match the request")
    return credential


@lru_cache(maxsize=256)
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _joined(headers: Headers) -> dict[str, str]:
    """Names in lower case; values trimmed, runs of spaces made one, values of one name joined by commas."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.decode("latin-1").lower(), []).append(" ".join(value.decode("latin-1").split()))
    return {name: ",".join(several) for name, several in values.items()}


def _canonical_query(query: str) -> str:
    pairs = [part.partition("=") for part in query.split("&") if part]
    encoded = sorted((quote(unquote(name), safe="-_.~"), quote(unquote(value), safe="-_.~")) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)
