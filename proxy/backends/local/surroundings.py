"""What a handler takes from outside: the time, random bytes, who may do what. The one place where that is handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.x509 import Certificate

from proxy.backends.local.keys import Key
from proxy.backends.local.last_uses import LastUses
from proxy.backends.local.tables import View
from proxy.backends.local.xks.client import XksClient
from proxy.domain import KmsCall
from proxy.errors import KmsError


class Authoriser(Protocol):
    """Whether a caller may do a thing. Pure; asked once for each action of a call."""

    def check(self, view: View, call: KmsCall, action: str, key: Key | None) -> None:
        """Raises KmsError (AccessDeniedException, in AWS's words) unless the call's principal may do `action`
        (``kms:Decrypt``) with `key`, or where it is about none, at all. Adds to `call.allowed_by` what allowed it.

        Without a key, kms:CreateAlias and its kin are about the alias that the call names.
        """
        ...

    def check_policy(self, view: View, call: KmsCall, key: Key, *, bypass: bool) -> None:
        """Raises KmsError MalformedPolicyDocumentException where `key.policy` cannot be that key's policy, or, unless `bypass`,
        where the call's principal could then put no other."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`clock` gives seconds since the epoch; `random(n)` n unpredictable bytes. Both may be called on any thread."""

    clock: Callable[[], float]
    random: Callable[[int], bytes]
    authoriser: Authoriser
    attestation_roots: tuple[Certificate, ...] = ()  # whose attestation documents are believed
    xks: XksClient | None = None  # the way to external key stores
    uses: LastUses = field(default_factory=LastUses)


def foreign(call: KmsCall, action: str) -> KmsError:
    """The refusal for another account's key, whether or not there is one."""
    return KmsError(
        "AccessDeniedException",
        f"User: {call.principal.arn} is not authorized to perform: {action} on this resource"
        " because the resource does not exist in this Region, no resource-based policies allow access,"
        " or a resource-based policy explicitly denies access",
    )
