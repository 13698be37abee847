"""The errors of the proxy side. `KmsError` is an answer to a client; everything else is a fault of set-up or operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.domain import KeyUse


class ProxyError(Exception):
    """Root of every error that `proxy` raises."""


class KmsError(ProxyError):
    """A refusal in AWS's words: HTTP `status`, `{"__type": code, "message": message}`.

    `message` is None where AWS sends none (InvalidCiphertextException). `keys` are the keys that were found to be meant before
    the refusal, so that the record can name them.
    """

    def __init__(self, code: str, message: str | None = None, *, status: int = 400, keys: tuple[KeyUse, ...] = ()) -> None:
        super().__init__(code if message is None else f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.keys = keys


class SetupError(ProxyError):
    """The data folder, a setting or the environment is not as it must be; the text says what to do."""


class SealBroken(ProxyError):
    """Something in the sealed store does not open with this master key: wrong key, or changed by another hand."""
