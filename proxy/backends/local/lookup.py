"""What handlers share: their surroundings, finding the key that a call names, and whether its state lets it be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.backends.local.keys import Key, KeyState, KeyView
from proxy.domain import KeyUse, KmsCall
from proxy.errors import KmsError
from proxy.kms.arn import alias_arn, key_arn, parse_key_ref


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a handler takes from outside: the owner of the keys, the time (seconds since the epoch), random bytes."""

    account_id: str
    clock: Callable[[], float]
    random: Callable[[int], bytes]


def named_key(around: Surroundings, view: KeyView, call: KmsCall, key_id: str) -> Key:
    """The key that `key_id` names in any of the four forms. Raises KmsError: not found, or another account's."""
    key = view.find_key(call.region, key_id)  # a plain key id, the usual case: no parsing
    if key is None:
        ref = parse_key_ref(key_id, call.region)
        if ref.account_id is not None and ref.account_id != around.account_id:
            raise _foreign(call)
        name = ref.name
        if ref.is_alias:
            alias = view.find_alias(call.region, name)
            key = None if alias is None else view.find_key(call.region, alias.key_id)
            if key is None or key.is_gone(around.clock()):
                raise alias_not_found(alias_arn(call.region, around.account_id, name))
            return key
        key = view.find_key(call.region, name)
        if key is None:
            raise _no_such_key(key_arn(call.region, around.account_id, name))
    if key.deletion_s is not None and key.is_gone(around.clock()):
        raise _no_such_key(key.arn)
    return key


def managed_key(around: Surroundings, view: KeyView, call: KmsCall, key_id: str) -> Key:
    """The key that `key_id` names, for an operation that takes no aliases."""
    if parse_key_ref(key_id, call.region).is_alias:
        raise KmsError("InvalidArnException", "Key Aliases are not supported for this operation.")
    return named_key(around, view, call, key_id)


def check_usable(key: Key, keys: tuple[KeyUse, ...] | None = None) -> None:
    """Raises KmsError unless the key may be used for cryptography; `keys`: those to record, if not just this one."""
    if key.state is KeyState.ENABLED:
        return
    if key.state is KeyState.DISABLED:
        raise KmsError("DisabledException", f"{key.arn} is disabled.", keys=keys or (key.meant,))
    check_not_pending_deletion(key, keys)


def check_not_pending_deletion(key: Key, keys: tuple[KeyUse, ...] | None = None) -> None:
    if key.state is KeyState.PENDING_DELETION:
        raise KmsError("KMSInvalidStateException", f"{key.arn} is pending deletion.", keys=keys or (key.meant,))


def alias_not_found(arn: str) -> KmsError:
    return KmsError("NotFoundException", f"Alias {arn} is not found.")


def _no_such_key(arn: str) -> KmsError:
    return KmsError("NotFoundException", f"Key '{arn}' does not exist")


def _foreign(call: KmsCall) -> KmsError:
    return KmsError(
        "AccessDeniedException",
        f"User: {call.principal.arn} is not authorized to perform: kms:{call.operation.name} on this resource"
        " because the resource does not exist in this Region, no resource-based policies allow access,"
        " or a resource-based policy explicitly denies access",
    )
