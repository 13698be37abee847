"""Calls signed anew: the caller was verified here, and AWS sees keytrail's own credentials, or a role of the caller's.

Nothing of the client's signature goes on: what AWS gets is made here from the operation and the body. The region is the one that
the caller's signature is scoped to, never one guessed from a host name.

Source: AWS General Reference, "Create a signed AWS API request".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from proxy.backends.aws.answers import about_our_credentials
from proxy.backends.aws.credentials import CredentialSource, CredentialsUnavailable
from proxy.backends.aws.transport import Endpoint, UpstreamRequest
from proxy.domain import KmsCall
from proxy.errors import KmsError
from proxy.sigv4 import SigningKeys, sign

_CONTENT_TYPE = (b"content-type", b"application/x-amz-json-1.1")


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
        endpoint = self._endpoint_of(call.region)
        host = endpoint.host if endpoint.port == 443 else f"{endpoint.host}:{endpoint.port}"
        timestamp = datetime.fromtimestamp(self._now_s(), UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = [
            _CONTENT_TYPE,
            (b"host", host.encode()),
            (b"x-amz-date", timestamp.encode()),
            (b"x-amz-target", b"TrentService." + call.operation.name.encode()),
        ]
        if credentials.session_token is not None:
            headers.append((b"x-amz-security-token", credentials.session_token.encode()))
        authorization = sign(
            b"POST",
            b"/",
            headers,
            call.raw.body,
            access_key_id=credentials.access_key_id,
            secret_access_key=credentials.secret_access_key,
            region=call.region,
            keys=self._keys,
        )
        headers.append((b"authorization", authorization))
        headers += [(name, value) for name, value in call.raw.headers if name == b"user-agent"]
        return endpoint, UpstreamRequest(b"POST", b"/", tuple(headers), call.raw.body)

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
