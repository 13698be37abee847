"""Aliases and tags."""

from __future__ import annotations

import pytest

from proxy.domain import KeyUse
from tests.proxy.local.world import ACCOUNT, REGION, START_S, World, arn_of

UNKNOWN = "1234abcd-12ab-34cd-56ef-1234567890ab"


def alias_arn(name: str) -> str:
    return f"arn:aws:kms:{REGION}:{ACCOUNT}:{name}"


def test_an_alias_is_made_moved_listed_and_deleted(world: World) -> None:
    first, second = world.new_key(), world.new_key()
    made = world.ask("CreateAlias", AliasName="alias/app", TargetKeyId=arn_of(first))
    assert (made.members, made.keys) == ({}, (KeyUse(arn_of(first), ACCOUNT),))
    assert made.aliases == (alias_arn("alias/app"),)
    blob = world("Encrypt", KeyId="alias/app", Plaintext=b"x")["CiphertextBlob"]

    world.clock.now_s += 5
    moved = world.ask("UpdateAlias", AliasName="alias/app", TargetKeyId=second)
    assert (moved.keys, moved.aliases) == ((KeyUse(arn_of(second), ACCOUNT),), (alias_arn("alias/app"),))
    assert world("DescribeKey", KeyId="alias/app")["KeyMetadata"]["KeyId"] == second
    assert world("Decrypt", CiphertextBlob=blob)["KeyId"] == arn_of(first)
    assert world("ListAliases") == {
        "Aliases": [
            {
                "AliasName": "alias/app",
                "AliasArn": alias_arn("alias/app"),
                "TargetKeyId": second,
                "CreationDate": START_S,
                "LastUpdatedDate": START_S + 5,
            }
        ],
        "Truncated": False,
    }
    assert world("ListAliases", KeyId=first)["Aliases"] == []
    assert [one["AliasName"] for one in world("ListAliases", KeyId=arn_of(second))["Aliases"]] == ["alias/app"]

    gone = world.ask("DeleteAlias", AliasName="alias/app")
    assert (gone.members, gone.keys, gone.aliases) == (
        {},
        (KeyUse(arn_of(second), ACCOUNT),),
        (alias_arn("alias/app"),),
    )
    for operation, parameters in (("DeleteAlias", {}), ("UpdateAlias", {"TargetKeyId": first})):
        refusal = world.refused(operation, AliasName="alias/app", **parameters)
        assert (refusal.code, refusal.message) == (
            "NotFoundException",
            f"Alias {alias_arn('alias/app')} is not found.",
        )


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("app", "ValidationException"),
        ("Alias/app", "ValidationException"),
        ("alias/aws/s3", "InvalidAliasNameException"),
        ("alias/", "InvalidAliasNameException"),
        ("alias/a:b", "InvalidAliasNameException"),
    ],
)
@pytest.mark.parametrize("operation", ["CreateAlias", "UpdateAlias", "DeleteAlias"])
def test_names_that_no_alias_can_have(world: World, operation: str, name: str, code: str) -> None:
    target = {} if operation == "DeleteAlias" else {"TargetKeyId": world.new_key()}
    refusal = world.refused(operation, AliasName=name, **target)
    assert refusal.code == code
    if code == "ValidationException":
        assert (refusal.message or "").startswith('Alias must start with the prefix "alias/".')
    assert world("ListAliases")["Aliases"] == []


def test_names_next_to_the_reserved_ones_are_free(world: World) -> None:
    world("CreateAlias", AliasName="alias/awsome", TargetKeyId=world.new_key())
    assert len(world("ListAliases")["Aliases"]) == 1


def test_what_an_alias_cannot_point_to(world: World) -> None:
    key = world.new_key()
    world("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    refusal = world.refused("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    assert refusal.code == "AlreadyExistsException"
    assert refusal.message == f"An alias with the name {alias_arn('alias/a')} already exists"
    assert world.refused("CreateAlias", AliasName="alias/b", TargetKeyId="alias/a").code == "ValidationException"
    assert world.refused("CreateAlias", AliasName="alias/b", TargetKeyId=UNKNOWN).code == "NotFoundException"
    elsewhere = world.new_key("eu-west-1")
    refusal = world.refused("CreateAlias", AliasName="alias/b", TargetKeyId=arn_of(elsewhere, "eu-west-1"))
    assert (refusal.code, refusal.message) == ("NotFoundException", "Invalid arn eu-west-1")
    assert world.refused("UpdateAlias", AliasName="alias/a", TargetKeyId=elsewhere).code == "NotFoundException"
    dying = world.new_key()
    world("ScheduleKeyDeletion", KeyId=dying)
    for operation, name in (("CreateAlias", "alias/b"), ("UpdateAlias", "alias/a")):
        assert world.refused(operation, AliasName=name, TargetKeyId=dying).code == "KMSInvalidStateException"
    world("CreateAlias", "eu-west-1", AliasName="alias/a", TargetKeyId=elsewhere)  # a name is a region's own
    assert world("DescribeKey", KeyId="alias/a")["KeyMetadata"]["KeyId"] == key


def test_a_key_has_at_most_fifty_aliases(world: World) -> None:
    key, other = world.new_key(), world.new_key()
    for number in range(50):
        world("CreateAlias", AliasName=f"alias/{number:02}", TargetKeyId=key)
    assert world.refused("CreateAlias", AliasName="alias/more", TargetKeyId=key).code == "LimitExceededException"
    world("CreateAlias", AliasName="alias/more", TargetKeyId=other)
    assert world.refused("UpdateAlias", AliasName="alias/more", TargetKeyId=key).code == "LimitExceededException"
    world("UpdateAlias", AliasName="alias/07", TargetKeyId=key)  # where it is already
    page = world("ListAliases")
    rest = world("ListAliases", Marker=page["NextMarker"])
    names = [alias["AliasName"] for alias in page["Aliases"] + rest["Aliases"]]
    assert (len(page["Aliases"]), names) == (50, [f"alias/{n:02}" for n in range(50)] + ["alias/more"])
    assert world.refused("ListAliases", KeyId=other, Marker=page["NextMarker"]).code == "InvalidMarkerException"


def test_tags_are_added_changed_listed_and_removed(world: World) -> None:
    key = world.new_key(Tags=[{"TagKey": "b", "TagValue": "1"}])
    answer = world.ask("TagResource", KeyId=key, Tags=[{"TagKey": "a", "TagValue": ""}, {"TagKey": "b", "TagValue": "2"}])
    assert (answer.members, answer.keys) == ({}, (KeyUse(arn_of(key), ACCOUNT),))
    first = world("ListResourceTags", KeyId=key, Limit=1)
    assert (first["Tags"], first["Truncated"]) == ([{"TagKey": "a", "TagValue": ""}], True)
    rest = world("ListResourceTags", KeyId=arn_of(key), Marker=first["NextMarker"])
    assert (rest["Tags"], rest["Truncated"]) == ([{"TagKey": "b", "TagValue": "2"}], False)
    world("UntagResource", KeyId=key, TagKeys=["b", "never-there"])
    assert world("ListResourceTags", KeyId=key) == {"Tags": [{"TagKey": "a", "TagValue": ""}], "Truncated": False}
    assert world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]  # the material outlives changes of the row


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([{"TagKey": "a", "TagValue": "1"}, {"TagKey": "a", "TagValue": "2"}], "Duplicate tag keys"),
        ([{"TagKey": "aws:x", "TagValue": "1"}], "Tags beginning with aws: are reserved"),
        ([{"TagKey": "AWS:x", "TagValue": "1"}], "Tags beginning with aws: are reserved"),
        ([{"TagKey": str(number), "TagValue": ""} for number in range(51)], "Too many tags"),
    ],
)
def test_tags_that_are_refused(world: World, tags: list[dict[str, str]], message: str) -> None:
    refusal = world.refused("CreateKey", Tags=tags)
    assert (refusal.code, refusal.message) == ("TagException", message)
    key = world.new_key()
    refusal = world.refused("TagResource", KeyId=key, Tags=tags)
    assert (refusal.code, refusal.message) == ("TagException", message)
    assert world("ListResourceTags", KeyId=key)["Tags"] == []


def test_a_key_has_at_most_fifty_tags(world: World) -> None:
    key = world.new_key(Tags=[{"TagKey": str(number), "TagValue": ""} for number in range(50)])
    more = [{"TagKey": "more", "TagValue": ""}]
    assert world.refused("TagResource", KeyId=key, Tags=more).code == "LimitExceededException"
    world("TagResource", KeyId=key, Tags=[{"TagKey": "7", "TagValue": "changed"}])
    world("UntagResource", KeyId=key, TagKeys=["8"])
    world("TagResource", KeyId=key, Tags=more)
    assert len(world("ListResourceTags", KeyId=key)["Tags"]) == 50
