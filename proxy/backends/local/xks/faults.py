"""What can go wrong between here and an external key, and the error that a caller gets for it. Pure.

The codes are AWS's, by the operation that was called (specification, "Error codes", KMS considerations); where its table names
none for an operation, the nearest one of the service model. The words are ours. What a proxy says of an error goes no further.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from proxy.domain import KeyUse
from proxy.errors import KmsError, ProxyError

_IN_STATE = "CustomKeyStoreInvalidStateException"
_BAD_KEY = "XksKeyInvalidConfigurationException"
_BAD_ANSWER = "XksProxyInvalidResponseException"
_BAD_SETTING = "XksProxyInvalidConfigurationException"
_BAD_CREDENTIAL = "XksProxyIncorrectAuthenticationCredentialException"
_NO_ANSWER = "XksProxyUriUnreachableException"


@dataclass(frozen=True, slots=True)
class Meaning:
    """The words, and the error code where a store is made or altered, and where a key is made; `connection` is the
    ConnectionErrorCode of a store that could not be connected because of it."""

    message: str
    store: str
    key: str
    connection: str


class Fault(Enum):
    """Each failure, with what it means."""

    REJECTED = Meaning(
        "The external key store proxy found the request of this KMS invalid.",
        _BAD_ANSWER,
        _IN_STATE,
        "XKS_PROXY_INVALID_RESPONSE",
    )
    KEY_NOT_ENABLED = Meaning(
        "The external key, or the external key store, is not enabled in the external key manager.",
        _BAD_SETTING,
        _BAD_KEY,
        "XKS_PROXY_INVALID_CONFIGURATION",
    )
    CIPHERTEXT = Meaning(
        "The ciphertext or the encryption context is not what the external key manager encrypted.",
        _BAD_ANSWER,
        _IN_STATE,
        "XKS_PROXY_INVALID_RESPONSE",
    )
    KEY_USAGE = Meaning(
        "The external key must be an AES key of 256 bits that encrypts and decrypts.",
        _BAD_ANSWER,
        _BAD_KEY,
        "XKS_PROXY_INVALID_RESPONSE",
    )
    CREDENTIAL = Meaning(
        "The external key store proxy does not accept the credential of this key store.",
        _BAD_CREDENTIAL,
        _IN_STATE,
        "INVALID_CREDENTIALS",
    )
    DENIED = Meaning(
        "The external key store proxy denies the operation to this caller or key.",
        _BAD_ANSWER,
        "KMSInvalidStateException",
        "XKS_PROXY_ACCESS_DENIED",
    )
    NO_SUCH_KEY = Meaning(
        "The external key was not found in the external key manager.",
        _BAD_ANSWER,
        "XksKeyNotFoundException",
        "XKS_PROXY_INVALID_RESPONSE",
    )
    URI_PATH = Meaning(
        "The external key store proxy does not know the URI path of this key store.",
        _BAD_SETTING,
        _IN_STATE,
        "XKS_PROXY_INVALID_CONFIGURATION",
    )
    UNSUPPORTED = Meaning(
        "The external key store proxy does not support the operation.",
        _BAD_ANSWER,
        _BAD_KEY,
        "XKS_PROXY_INVALID_RESPONSE",
    )
    DEPENDENCY_TIMED_OUT = Meaning(
        "The external key manager did not answer the external key store proxy in time.",
        _NO_ANSWER,
        _IN_STATE,
        "XKS_PROXY_TIMED_OUT",
    )
    THROTTLED = Meaning(
        "The external key store proxy gets more requests than it takes.",
        _NO_ANSWER,
        _IN_STATE,
        "XKS_PROXY_NOT_REACHABLE",
    )
    INTERNAL = Meaning(
        "The external key store proxy cannot use the external key manager.",
        _BAD_ANSWER,
        _IN_STATE,
        "XKS_PROXY_INVALID_RESPONSE",
    )
    UNREACHABLE = Meaning(
        "The external key store proxy cannot be reached.",
        _NO_ANSWER,
        _IN_STATE,
        "XKS_PROXY_NOT_REACHABLE",
    )
    TLS = Meaning(
        "There is no TLS connection with the external key store proxy that is to be trusted.",
        _NO_ANSWER,
        _IN_STATE,
        "XKS_PROXY_INVALID_TLS_CONFIGURATION",
    )
    TIMED_OUT = Meaning(
        "The external key store proxy did not answer in time.",
        _NO_ANSWER,
        _IN_STATE,
        "XKS_PROXY_TIMED_OUT",
    )
    UNAVAILABLE = Meaning(
        "All external key managers behind the external key store proxy are unavailable.",
        _NO_ANSWER,
        _IN_STATE,
        "XKS_PROXY_NOT_REACHABLE",
    )
    UNREADABLE = Meaning(
        "The answer of the external key store proxy cannot be understood.",
        _BAD_ANSWER,
        _IN_STATE,
        "XKS_PROXY_INVALID_RESPONSE",
    )

    # Members with one value would be one: each Meaning's message differs.
    @property
    def meaning(self) -> Meaning:
        value: Meaning = self.value
        return value


#: By the errorName of a proxy's answer.
ERROR_NAMES = {
    "ValidationException": Fault.REJECTED,
    "InvalidStateException": Fault.KEY_NOT_ENABLED,
    "InvalidCiphertextException": Fault.CIPHERTEXT,
    "InvalidKeyUsageException": Fault.KEY_USAGE,
    "AuthenticationFailedException": Fault.CREDENTIAL,
    "AccessDeniedException": Fault.DENIED,
    "KeyNotFoundException": Fault.NO_SUCH_KEY,
    "InvalidUriPathException": Fault.URI_PATH,
    "ThrottlingException": Fault.THROTTLED,
    "UnsupportedOperationException": Fault.UNSUPPORTED,
    "DependencyTimeoutException": Fault.DEPENDENCY_TIMED_OUT,
    "InternalException": Fault.INTERNAL,
}


class XksFailed(ProxyError):
    """An external key store proxy did not do what it was asked for."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.meaning.message)
        self.fault = fault

    def for_store(self) -> KmsError:
        """To who makes or alters a key store."""
        return KmsError(self.fault.meaning.store, self.fault.meaning.message)

    def for_new_key(self) -> KmsError:
        """To who makes a key."""
        return KmsError(self.fault.meaning.key, self.fault.meaning.message)

    def for_use(self, keys: tuple[KeyUse, ...]) -> KmsError:
        """To who uses a key."""
        return KmsError("KMSInvalidStateException", self.fault.meaning.message, keys=keys)
