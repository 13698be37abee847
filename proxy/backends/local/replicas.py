"""ReplicateKey, UpdatePrimaryRegion: keys of one id and one material in several regions of one account.

Shared are id, material, spec, usage, origin and automatic rotation, which the primary keeps in step. Policy, description, tags,
aliases, grants and state are each key's own; so is imported material, which every region gets for itself. A replica is there,
and a primary moved, when the call is answered: AWS's transient states are seen only where a call itself returns them (Creating,
in ReplicateKey's answer), and Updating never.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.creation import EXTERNAL
from proxy.backends.local.key_policies import check_new_policy, check_size, policy_of
from proxy.backends.local.keys import Key, KeyState, new_key_body
from proxy.backends.local.lookup import check_usable, managed_key
from proxy.backends.local.metadata import describe
from proxy.backends.local.related import related
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tags import read_tags
from proxy.backends.local.versions import Versions
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError
from proxy.kms.arn import key_arn, partition_of
from proxy.sealed_store import Secret

_NOT_SHARED = ("valid_to_s", "expiration_model", "description")  # of imported material


def replicate_key(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    parameters, region = call.parameters, call.parameters["ReplicaRegion"]
    tags = read_tags(parameters.get("Tags") or ())
    check_size(parameters.get("Policy"))
    key = _primary(around, keys, call)
    check_usable(key)
    there = replace(call, region=region)  # the replica is made in its own region
    around.authoriser.check(keys, there, "kms:CreateKey", None)
    if tags:
        around.authoriser.check(keys, there, "kms:TagResource", None)
    if parameters.get("Policy"):
        around.authoriser.check(keys, there, "kms:PutKeyPolicy", None)
    _check_region(key, region)
    if keys.find_key(key.account_id, region, key.id) is not None:
        message = f"{key_arn(region, key.account_id, key.id)} already exists."
        raise KmsError("AlreadyExistsException", message, keys=(key.meant,))
    regions = key.multi_region
    if regions is None:
        raise LookupError(f"{key.arn} is no multi-Region key")
    replicas = sorted((*regions.replicas, region))
    materials, secret = _material(key)
    body = new_key_body(
        account_id=key.account_id,
        created_s=round(around.clock(), 3),
        spec=key.spec,
        usage=key.usage,
        origin=key.origin,
        description=parameters.get("Description", ""),
        tags=tags,
        materials=materials,
        state=KeyState.PENDING_IMPORT if key.origin == EXTERNAL else KeyState.ENABLED,
        policy=parameters.get("Policy"),
        public=key.body.get("public"),
        multi_region={"primary": regions.primary, "replicas": replicas},
        rotation=key.body.get("rotation"),
        current=key.body.get("current"),
    )
    set_replicas(keys, key, replicas)
    made = keys.add_key(region, key.id, body, secret)
    check_new_policy(around, keys, there, made)
    metadata = describe(made) | {"KeyState": KeyState.CREATING.value, "Enabled": False}
    listed = [{"TagKey": name, "TagValue": value} for name, value in tags.items()]
    members = {"ReplicaKeyMetadata": metadata, "ReplicaPolicy": policy_of(made), "ReplicaTags": listed}
    return Answer(members, (key.meant,))


def update_primary_region(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    region = call.parameters["PrimaryRegion"]
    key = _primary(around, keys, call)
    check_usable(key)
    if region == key.region:
        raise KmsError("ValidationException", f"{key.arn} is the primary key already.", keys=(key.meant,))
    new = keys.find_key(key.account_id, region, key.id)
    if new is None or new.is_gone(around.clock()):
        message = f"Key '{key_arn(region, key.account_id, key.id)}' does not exist"
        raise KmsError("NotFoundException", message, keys=(key.meant,))
    around.authoriser.check(keys, replace(call, region=region), "kms:UpdatePrimaryRegion", new)
    check_usable(new)
    replicas = sorted({*(one.region for one in related(keys, key)), key.region} - {region})
    for one in (key, *related(keys, key)):
        keys.alter_key(one, multi_region={"primary": region, "replicas": replicas})
    return Answer({}, (key.meant, new.meant))


def set_replicas(keys: KeysInChange, key: Key, replicas: list[str]) -> None:
    """Write the regions of the replicas into the rows of all that are there."""
    if key.multi_region is None:
        raise LookupError(f"{key.arn} is no multi-Region key")
    for one in (key, *related(keys, key)):
        keys.alter_key(one, multi_region={"primary": key.multi_region.primary, "replicas": replicas})


def _primary(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Key:
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    if key.multi_region is None or key.is_replica:
        raise KmsError("UnsupportedOperationException", f"{key.arn} is not a multi-Region primary key.", keys=(key.meant,))
    return key


def _check_region(key: Key, region: str) -> None:
    if region == key.region or partition_of(region) != partition_of(key.region):
        message = f"{key.arn} cannot be replicated into {region}."
        raise KmsError("UnsupportedOperationException", message, keys=(key.meant,))


def _material(key: Key) -> tuple[list[dict[str, Any]], Secret]:  # Any: JSON, as in the row
    """What a replica starts with: all material; of imported material the ids, to be imported again."""
    versions = Versions(key)
    if key.origin == EXTERNAL:
        for version in versions.all:
            version.secret = b""
            version.facts = {name: value for name, value in version.facts.items() if name not in _NOT_SHARED}
    for version in versions.all:
        if "rotation" in version.facts:
            version.facts["rotation"] = {name: value for name, value in version.facts["rotation"].items() if name != "untold"}
    materials: list[dict[str, Any]] = versions.members["materials"]
    return materials, versions.secret


CHANGES = {"ReplicateKey": replicate_key, "UpdatePrimaryRegion": update_primary_region}
