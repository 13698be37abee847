"""Calls passed through: AWS gets every signed header and every byte of the body as the client sent them, and verifies them.

So the call must be for a name of KMS's own, since the client signed that name; AWS is found by a resolver of its own, which
must not be the one that leads clients here. Who called is claimed until AWS has accepted it.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.backends.aws.transport import Endpoint, UpstreamRequest
from proxy.domain import KmsCall
from proxy.errors import KmsError
from proxy.kms.hosts import kms_region

#: Headers that are for the next hop only, or that would have AWS's answer come in a form that cannot be read for the record.
_FOR_THIS_HOP = frozenset(
    b"accept-encoding connection expect keep-alive proxy-authorization proxy-connection te trailer transfer-encoding upgrade "
    b"x-forwarded-for".split()
)

#: Of those, what says how the message lies on this connection: a client that signed it cannot be passed through.
_NEVER_SIGNED = frozenset(b"connection keep-alive te trailer transfer-encoding upgrade".split())


class Passer:
    """An `Addresser`. `learn` is told the access key id and the text of each AccessDenied, which says whose key it is."""

    def __init__(self, account_id: str, learn: Callable[[str, str], None]) -> None:
        self._account_id = account_id
        self._learn = learn

    async def address(self, call: KmsCall) -> tuple[Endpoint, UpstreamRequest]:
        assert call.raw is not None  # noqa: S101 - only calls from outside are sent on
        raw = call.raw
        headers = dict(raw.headers)
        if raw.method != b"POST" or raw.target != b"/":
            raise KmsError("ValidationException", "KMS is called by POST /, and nothing else is passed through.")
        host = headers.get(b"host", b"").decode("latin-1").partition(":")[0]
        if kms_region(host) is None:
            raise KmsError(
                "ValidationException",
                f"Calls are passed through to AWS under KMS's own host names, and this one was signed for '{host[:256]}'.",
            )
        signed = headers.get(b"authorization", b"").partition(b"SignedHeaders=")[2].partition(b",")[0].strip().split(b";")
        if not _NEVER_SIGNED.isdisjoint(signed):
            raise KmsError(
                "ValidationException", "A header that is for one connection alone was signed; it cannot be passed through."
            )
        if b"accept-encoding" in signed and headers.get(b"accept-encoding", b"").strip().lower() != b"identity":
            raise KmsError(
                "ValidationException", "An Accept-Encoding other than identity was signed; it cannot be passed through."
            )
        kept = tuple((name, value) for name, value in raw.headers if name not in _FOR_THIS_HOP or name in signed)
        return Endpoint(host.lower().removesuffix("."), 443), UpstreamRequest(raw.method, raw.target, kept, raw.body)

    def refused(self, call: KmsCall, refusal: KmsError) -> KmsError:
        if refusal.code == "AccessDeniedException" and refusal.message is not None:
            self._learn(call.principal.access_key_id, refusal.message)
        return refusal

    def account_of(self, call: KmsCall) -> str:
        return call.principal.account_id or self._account_id
