"""CreateAlias, UpdateAlias, DeleteAlias, ListAliases."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.keys import Alias, Key
from proxy.backends.local.lookup import alias_not_found, check_not_pending_deletion, managed_key, named_key
from proxy.backends.local.pages import page
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError
from proxy.kms.arn import ALIAS_PREFIX, RESERVED_ALIAS_PREFIX, alias_arn, is_alias_name, parse_key_ref

MOST_ALIASES_OF_A_KEY = 50


def create_alias(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    name = _own_name(call)
    around.authoriser.check(keys, call, "kms:CreateAlias", None)
    key = _target(around, keys, call)
    arn = alias_arn(call.region, call.principal.account_id, name)
    if _find(around, keys, call, name) is not None:
        raise KmsError("AlreadyExistsException", f"An alias with the name {arn} already exists", keys=(key.meant,))
    _check_room(keys, key)
    now_s = round(around.clock(), 3)
    keys.put_alias(key, name, now_s, now_s)
    return Answer({}, (key.meant,), (arn,))


def update_alias(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    name = _own_name(call)
    around.authoriser.check(keys, call, "kms:UpdateAlias", None)
    alias = _existing(around, keys, call, name)
    key = _target(around, keys, call)
    if key.id != alias.key_id:
        _check_same_kind(around, keys, call, alias, key)
        _check_room(keys, key)
    keys.put_alias(key, name, alias.created_s, round(around.clock(), 3))
    return Answer({}, (key.meant,), (alias.arn,))


def delete_alias(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """Works in every state of the key."""
    name = _own_name(call)
    around.authoriser.check(keys, call, "kms:DeleteAlias", None)
    alias = _existing(around, keys, call, name)
    key = keys.find_key(call.principal.account_id, call.region, alias.key_id)
    if key is not None:
        around.authoriser.check(keys, call, "kms:DeleteAlias", key)
    keys.delete_alias(alias)
    return Answer({}, () if key is None else (key.meant,), (alias.arn,))


def list_aliases(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    """Aliases whose key's deletion date is past are gone with it. AWS's own `alias/aws/…` do not exist here."""
    table = tables.of(call.principal.account_id, call.region)
    around.authoriser.check(tables, call, "kms:ListAliases", None)
    now_s = around.clock()
    only = call.parameters.get("KeyId")
    key = None if only is None else managed_key(around, tables, call, only)

    def is_there(alias: Alias) -> bool:
        target = table.keys.get(alias.key_id)
        return target is not None and not target.is_gone(now_s)

    def after(name: str) -> Iterator[Alias]:
        if key is not None:
            return (table.aliases[own] for own in sorted(table.names_of_key.get(key.id, ())) if own > name)
        return (alias for alias in table.aliases.after(name) if is_there(alias))

    of = "" if key is None else key.id
    aliases, more = page(call, after, lambda alias: alias.name, of=of, default=50, most=100)
    members = [
        {
            "AliasName": alias.name,
            "AliasArn": alias.arn,
            "TargetKeyId": alias.key_id,
            "CreationDate": alias.created_s,
            "LastUpdatedDate": alias.updated_s,
        }
        for alias in aliases
    ]
    return Answer({"Aliases": members, **more}, () if key is None else (key.meant,))


def _own_name(call: KmsCall) -> str:
    """The alias that the call is about; raises KmsError where it cannot be a customer's."""
    name: str = call.parameters["AliasName"]
    if not name.startswith(ALIAS_PREFIX):
        raise KmsError(
            "ValidationException",
            'Alias must start with the prefix "alias/". Please see'
            " https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html",
        )
    if name.startswith(RESERVED_ALIAS_PREFIX):
        raise KmsError("InvalidAliasNameException", f"{name} begins with {RESERVED_ALIAS_PREFIX}, which is reserved for AWS")
    if not is_alias_name(name):
        raise KmsError("InvalidAliasNameException", f"{name} contains invalid characters for an alias")
    return name


def _target(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Key:
    key_id: str = call.parameters["TargetKeyId"]
    if parse_key_ref(key_id, call.region).is_alias:
        raise KmsError("ValidationException", "Aliases must refer to keys. Not aliases")
    key = named_key(around, keys, call, key_id)
    check_not_pending_deletion(key)
    return key


def _find(around: Surroundings, keys: KeysInChange, call: KmsCall, name: str) -> Alias | None:
    """The alias, unless it went with its key."""
    alias = keys.find_alias(call.principal.account_id, call.region, name)
    key = None if alias is None else keys.find_key(call.principal.account_id, call.region, alias.key_id)
    return None if key is None or key.is_gone(around.clock()) else alias


def _existing(around: Surroundings, keys: KeysInChange, call: KmsCall, name: str) -> Alias:
    alias = _find(around, keys, call, name)
    if alias is None:
        raise alias_not_found(alias_arn(call.region, call.principal.account_id, name))
    return alias


def _check_same_kind(around: Surroundings, keys: KeysInChange, call: KmsCall, alias: Alias, key: Key) -> None:
    """The key that an alias leaves, which the caller must be allowed to take it from, and its next are of one kind."""
    left = keys.find_key(alias.account_id, alias.region, alias.key_id)
    if left is None:
        return
    around.authoriser.check(keys, call, "kms:UpdateAlias", left)
    if (left.about.is_pair, left.usage) != (key.about.is_pair, key.usage):
        raise KmsError(
            "ValidationException",
            f"Alias {alias.arn} can be moved only between keys of the same type and key usage",
            keys=(key.meant,),
        )


def _check_room(keys: KeysInChange, key: Key) -> None:
    if keys.count_aliases(key) >= MOST_ALIASES_OF_A_KEY:
        raise KmsError(
            "LimitExceededException",
            f"{key.arn} has {MOST_ALIASES_OF_A_KEY} aliases, the most there can be",
            keys=(key.meant,),
        )


READINGS = {"ListAliases": list_aliases}
CHANGES = {"CreateAlias": create_alias, "UpdateAlias": update_alias, "DeleteAlias": delete_alias}
