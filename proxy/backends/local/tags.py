"""TagResource, UntagResource, ListResourceTags, and the rules for tags (messages as recorded from AWS by a peer)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.lookup import check_not_pending_deletion, managed_key
from proxy.backends.local.pages import page
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError

MOST_TAGS = 50


def read_tags(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The API's list as a mapping. Raises KmsError TagException for duplicates, reserved keys, or too many."""
    read = {tag["TagKey"]: tag["TagValue"] for tag in tags}
    if len(read) != len(tags):
        raise KmsError("TagException", "Duplicate tag keys")
    if len(read) > MOST_TAGS:
        raise KmsError("TagException", "Too many tags")
    if any(key.lower().startswith("aws:") for key in read):
        raise KmsError("TagException", "Tags beginning with aws: are reserved")
    return read


def tag_resource(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    added = read_tags(call.parameters["Tags"])
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    check_not_pending_deletion(key)
    tags = {**key.tags, **added}
    if len(tags) > MOST_TAGS:
        raise KmsError("LimitExceededException", "Too many tags", keys=(key.meant,))
    if tags != key.tags:
        keys.alter_key(key, tags=tags)
    return Answer({}, (key.meant,))


def untag_resource(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    """Tag keys that the key does not have are passed over, as AWS does."""
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    check_not_pending_deletion(key)
    removed = set(call.parameters["TagKeys"])
    if not removed.isdisjoint(key.tags):
        keys.alter_key(key, tags={name: value for name, value in key.tags.items() if name not in removed})
    return Answer({}, (key.meant,))


def list_resource_tags(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key = managed_key(around, tables, call, call.parameters["KeyId"])
    names, more = page(
        call,
        lambda after: (name for name in sorted(key.tags) if name > after),
        lambda name: name,
        of=key.id,
        default=50,
        most=50,
    )
    return Answer({"Tags": [{"TagKey": name, "TagValue": key.tags[name]} for name in names], **more}, (key.meant,))


READINGS = {"ListResourceTags": list_resource_tags}
CHANGES = {"TagResource": tag_resource, "UntagResource": untag_resource}
