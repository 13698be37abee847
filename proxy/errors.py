"""The errors of the proxy side. `KmsError` is an answer to a client; everything else is a fault of set-up or operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.domain import DeniedBy, Forwarded, KeyUse, Upstream


class ProxyError(Exception):
    """Root of every error that `proxy` raises."""


class KmsError(ProxyError):
    """A refusal in AWS's words: HTTP `status`, `{"__type": code, "message": message}`.

    `message` is None where AWS sends none (InvalidCiphertextException). `keys` are the keys that were found to be meant before
    the refusal, so that the record can name them. Where AWS was asked, `upstream` says what is known of that, and `forwarded` is
    its own answer; `effect_unknown`: a change may have been made nevertheless. `denied_by` is the guardrail that refused.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        status: int = 400,
        keys: tuple[KeyUse, ...] = (),
        upstream: Upstream | None = None,
        forwarded: Forwarded | None = None,
        denied_by: DeniedBy | None = None,
        effect_unknown: bool = False,
    ) -> None:
        super().__init__(code if message is None else f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.keys = keys
        self.upstream = upstream
        self.forwarded = forwarded
        self.denied_by = denied_by
        self.effect_unknown = effect_unknown


class SetupError(ProxyError):
    """The data folder, a setting or the environment is not as it must be; the text says what to do."""


class SealBroken(ProxyError):
    """Something in the sealed store does not open with this master key: wrong key, or changed by another hand."""
