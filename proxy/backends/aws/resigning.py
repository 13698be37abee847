"""Calls signed anew: the caller was verified here, and AWS sees keytrail's own credentials, or a role of the caller's.

Nothing of the client's signature goes on: what AWS gets is made here from the operation and the body. The region is the one that
the caller's signature is scoped to, never one guessed from a host name.

Source: AWS General Reference, "Create a signed AWS API request".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256

from proxy.backends.aws.answers import about_our_credentials
from proxy.backends.aws.credentials import CredentialSource, CredentialsUnavailable
from proxy.backends.aws.transport import Endpoint, UpstreamRequest
from proxy.domain import KmsCall
from proxy.errors import KmsError
from proxy.sigv4.canonical import ALGORITHM, SignedHeaders, SigningKeys, string_to_sign

_CONTENT_TYPE = b"application/x-amz-json-1.1"
#: What is signed is the same in every call, and stands in the order of its names: so the canonical form is a template.
_SIGNED = SignedHeaders(b"content-type;host;x-amz-date;x-amz-target")
_SIGNED_WITH_TOKEN = SignedHeaders(b"content-type;host;x-amz-date;x-amz-security-token;x-amz-target")


class Resigner:
    """An `Addresser`. `endpoint_of` gives the endpoint of a region; `now_s` is the clock, seconds since the epoch."""

    def __init__(
        self,
        credentials: CredentialSource,
        endpoint_of: Callable[[str], Endpoint],
        account_id: str,
        now_s: Callable[[], float],
    ) -> None:
        self._credentials = credentials
        self._endpoint_of = endpoint_of
        self._account_id = account_id
        self._now_s = now_s
        self._keys = SigningKeys()

    async def address(self, call: KmsCall) -> tuple[Endpoint, UpstreamRequest]:
        try:
            credentials = await self._credentials.for_caller(call.principal)
        except CredentialsUnavailable as error:
            raise KmsError("ServiceUnavailableException", f"keytrail has no credentials for AWS: {error}", status=503) from error
        assert call.raw is not None  # noqa: S101 - only calls from outside are sent on
        endpoint, body = self._endpoint_of(call.region), call.raw.body
        timestamp, host = _timestamp(int(self._now_s())), _host(endpoint)
        target = b"TrentService." + call.operation.name.encode()
        token = credentials.session_token
        values: tuple[bytes, ...] = (_CONTENT_TYPE, host, timestamp, target)
        signed = _SIGNED
        if token is not None:
            signed, values = _SIGNED_WITH_TOKEN, (_CONTENT_TYPE, host, timestamp, token.encode(), target)
        scope = b"%b/%b/kms/aws4_request" % (timestamp[:8], call.region.encode())
        canonical = signed.form % (b"POST", b"/", b"", *values, sha256(body).hexdigest().encode())
        signature = self._keys.sign(credentials.secret_access_key, scope, string_to_sign(timestamp, scope, canonical))
        authorization = b"%b Credential=%b/%b, SignedHeaders=%b, Signature=%b" % (
            ALGORITHM,
            credentials.access_key_id.encode(),
            scope,
            signed.line,
            signature.encode(),
        )
        headers = (*zip(signed.names, values, strict=True), (b"authorization", authorization))
        for name, value in call.raw.headers:
            if name == b"user-agent":
                headers += ((name, value),)
        return endpoint, UpstreamRequest(b"POST", b"/", headers, body)

    def refused(self, call: KmsCall, refusal: KmsError) -> KmsError:
        """Credentials that AWS refuses are keytrail's: the client is told so, and not that its own are wrong."""
        if not about_our_credentials(refusal):
            return refusal
        return KmsError(
            "ServiceUnavailableException",
            f"AWS refused the credentials that keytrail signs with: {refusal.code}",
            status=503,
            keys=refusal.keys,
            upstream=refusal.upstream,
        )

    def account_of(self, call: KmsCall) -> str:
        return self._account_id


@lru_cache(maxsize=4)
def _timestamp(now_s: int) -> bytes:
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ").encode()


@lru_cache(maxsize=128)
def _host(endpoint: Endpoint) -> bytes:
    """The Host header: with a port that is not HTTPS's own."""
    return (endpoint.host if endpoint.port == 443 else f"{endpoint.host}:{endpoint.port}").encode()
