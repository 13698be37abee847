"""What handlers share: finding the key that a call names and may use, and whether usage and state let it be used."""

from __future__ import annotations

from proxy.backends.local.grants import grant_by_token, sent_tokens
from proxy.backends.local.keys import Key, KeyState
from proxy.backends.local.surroundings import Surroundings, foreign
from proxy.backends.local.tables import View
from proxy.backends.local.versions import as_of
from proxy.domain import KeyUse, KmsCall
from proxy.errors import KmsError
from proxy.kms.arn import alias_arn, key_arn, parse_key_ref

#: What a state that forbids something says of the key. Disabled has an error code of its own.
_STATES = {
    KeyState.PENDING_DELETION: "is pending deletion.",
    KeyState.PENDING_REPLICA_DELETION: "is pending replica deletion.",
    KeyState.PENDING_IMPORT: "is pending import.",
    KeyState.UNAVAILABLE: "is unavailable.",
    KeyState.CREATING: "is creating.",
    KeyState.UPDATING: "is updating.",
}
#: Where a key is of no use for cryptography. Updating is none: the key works while its primary region changes.
_UNUSABLE = tuple(state for state in KeyState if state not in (KeyState.ENABLED, KeyState.UPDATING))
#: Keys in these states are on their way out: they are not managed any more, either.
PENDING_DELETIONS = (KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION)


def named_key(around: Surroundings, view: View, call: KmsCall, key_id: str, action: str | None = None) -> Key:
    """The key that `key_id` names in any of the four forms, where the caller may do `action` with it (by default what the
    operation is called). Raises KmsError: not found, or not allowed."""
    action = action or f"kms:{call.operation.name}"
    key = find_key(around, view, call, key_id, action)
    around.authoriser.check(view, call, action, key)
    return key


def managed_key(around: Surroundings, view: View, call: KmsCall, key_id: str, action: str | None = None) -> Key:
    """`named_key`, for an operation that takes no aliases."""
    if parse_key_ref(key_id, call.region).is_alias:
        raise KmsError("InvalidArnException", "Key Aliases are not supported for this operation.")
    return named_key(around, view, call, key_id, action)


def find_key(around: Surroundings, view: View, call: KmsCall, key_id: str, action: str) -> Key:
    """The key that `key_id` names, whether or not the caller may do anything with it. Raises KmsError: not found."""
    own = call.principal.account_id
    key = view.find_key(own, call.region, key_id)  # a plain key id, the usual case: no parsing
    if key is None:
        ref = parse_key_ref(key_id, call.region)
        account_id, name = ref.account_id or own, ref.name
        if ref.is_alias:
            alias = view.find_alias(account_id, call.region, name)
            key = None if alias is None else view.find_key(account_id, call.region, alias.key_id)
        else:
            key = view.find_key(account_id, call.region, name)
        if key is None or key.is_gone(around.clock()):
            if account_id != own:
                raise foreign(call, action)
            if ref.is_alias:
                raise alias_not_found(alias_arn(call.region, account_id, name))
            raise _no_such_key(key_arn(call.region, account_id, name))
    elif key.deletion_s is not None and key.is_gone(around.clock()):
        raise _no_such_key(key.arn)
    return key if key.expires_s is None else as_of(key, around.clock())


def resolve(view: View, call: KmsCall, key_id: str) -> Key | None:
    """The key that `key_id` names, asking nobody; None where there is none, or where that is no name of a key."""
    try:
        ref = parse_key_ref(key_id, call.region)
    except KmsError:
        return None
    account_id, name = ref.account_id or call.principal.account_id, ref.name
    if ref.is_alias:
        alias = view.find_alias(account_id, call.region, name)
        if alias is None:
            return None
        name = alias.key_id
    return view.find_key(account_id, call.region, name)


def check_use(key: Key, call: KmsCall, usage: str, keys: tuple[KeyUse, ...] | None = None) -> None:
    """Raises KmsError unless the key is for `usage`, and its state lets it be used; `keys`: those to record, if not just it."""
    if key.usage != usage:
        message = f"{key.arn} key usage is {key.usage} which is not valid for {call.operation.name}."
        raise KmsError("InvalidKeyUsageException", message, keys=keys or (key.meant,))
    check_usable(key, keys)


def check_usable(key: Key, keys: tuple[KeyUse, ...] | None = None) -> None:
    """Raises KmsError unless the key's state lets it be used for cryptography."""
    if key.state is not KeyState.ENABLED:
        check_state(key, *_UNUSABLE, keys=keys)


def check_algorithm(key: Key, algorithm: str, keys: tuple[KeyUse, ...] | None = None) -> None:
    """Raises KmsError unless the key, of the right usage, can be used with `algorithm`."""
    if algorithm not in key.algorithms:
        message = f"Algorithm {algorithm} is incompatible with key spec {key.spec}."
        raise KmsError("InvalidKeyUsageException", message, keys=keys or (key.meant,))


def check_not_pending_deletion(key: Key, keys: tuple[KeyUse, ...] | None = None) -> None:
    check_state(key, *PENDING_DELETIONS, keys=keys)


def check_state(key: Key, *forbidden: KeyState, keys: tuple[KeyUse, ...] | None = None) -> None:
    """Raises KmsError where the key's state is one of `forbidden`, and is not Enabled."""
    if key.state not in forbidden or key.state is KeyState.ENABLED:
        return
    if key.state is KeyState.DISABLED:
        raise KmsError("DisabledException", f"{key.arn} is disabled.", keys=keys or (key.meant,))
    raise KmsError("KMSInvalidStateException", f"{key.arn} {_STATES[key.state]}", keys=keys or (key.meant,))


def check_grant_tokens(view: View, call: KmsCall) -> None:
    """Raises KmsError where the call sends a grant token that is none of a grant in its region, whether or not it is needed."""
    for token in sent_tokens(call):
        if grant_by_token(view, call.region, token) is None:
            raise invalid_token()


def stop_dry_run(call: KmsCall, *keys: KeyUse) -> None:
    """The last check of all, before any effect: everything else would have let the call through."""
    if call.parameters.get("DryRun"):
        message = "The request would have succeeded, but the DryRun option is set."
        raise KmsError("DryRunOperationException", message, keys=keys)


def wrong_origin(key: Key) -> KmsError:
    """The refusal of what keys of that origin do not have."""
    message = f"{key.arn} origin is {key.origin} which is not valid for this operation."
    return KmsError("UnsupportedOperationException", message, keys=(key.meant,))


def invalid_token() -> KmsError:
    return KmsError("InvalidGrantTokenException", "The grant token is not valid.")


def alias_not_found(arn: str) -> KmsError:
    return KmsError("NotFoundException", f"Alias {arn} is not found.")


def _no_such_key(arn: str) -> KmsError:
    return KmsError("NotFoundException", f"Key '{arn}' does not exist")
