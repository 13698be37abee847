"""A key's life, from CreateKey to the day of its deletion; lists in pages; what is not supported yet."""

from __future__ import annotations

import asyncio
import os
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest
from botocore.session import get_session

from proxy.backends.local.backend import CHANGES, READINGS
from proxy.domain import KeyUse
from proxy.kms.operations import OPERATIONS
from tests.proxy.local.world import ACCOUNT, REGION, START_S, World, arn_of, call

DAY_S = 86400


def test_a_new_keys_metadata_is_as_aws_returns_it(world: World) -> None:
    tags = [{"TagKey": "a", "TagValue": "1"}]
    answer = world.ask("CreateKey", Description="for backups", Tags=tags)
    metadata = dict(answer.members["KeyMetadata"])
    key, material = metadata.pop("KeyId"), metadata.pop("CurrentKeyMaterialId")
    assert metadata == {
        "AWSAccountId": ACCOUNT,
        "Arn": arn_of(key),
        "CreationDate": START_S,
        "Enabled": True,
        "Description": "for backups",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Enabled",
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
    }
    assert len(bytes.fromhex(material)) == 32
    assert answer.keys == (KeyUse(arn_of(key), ACCOUNT),)
    described = world.ask("DescribeKey", KeyId=key)
    assert described.members == answer.members and described.keys == answer.keys
    assert world("ListResourceTags", KeyId=key)["Tags"] == tags


def test_metadata_has_no_member_that_the_service_model_lacks(world: World) -> None:
    world("ScheduleKeyDeletion", KeyId=(key := world.new_key()))
    shape = get_session().get_service_model("kms").shape_for("KeyMetadata")
    members = getattr(shape, "members")  # noqa: B009 - botocore has no types for the kinds of shapes
    assert set(world("DescribeKey", KeyId=key)["KeyMetadata"]) < set(members)


@pytest.mark.parametrize(
    "parameters",
    [
        {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
        {"KeySpec": "HMAC_256"},
        {"CustomerMasterKeySpec": "ECC_NIST_P256"},
        {"KeyUsage": "SIGN_VERIFY"},
        {"Origin": "EXTERNAL"},
        {"MultiRegion": True},
        {"Policy": "{}"},
        {"CustomKeyStoreId": "cks-1"},
        {"XksKeyId": "x"},
    ],
)
def test_what_is_not_supported_is_refused_rather_than_dropped(world: World, parameters: dict[str, Any]) -> None:
    refusal = world.refused("CreateKey", **parameters)
    assert refusal.code == "UnsupportedOperationException" and "supported" in (refusal.message or "")
    assert world("ListKeys")["Keys"] == []


def test_the_old_and_the_new_name_of_the_spec_exclude_each_other(world: World) -> None:
    spec = "SYMMETRIC_DEFAULT"
    assert world.new_key(CustomerMasterKeySpec=spec) != world.new_key(KeySpec=spec, MultiRegion=False)
    assert world.refused("CreateKey", KeySpec=spec, CustomerMasterKeySpec=spec).code == "ValidationException"


def test_every_other_operation_is_unsupported(world: World) -> None:
    others = set(OPERATIONS) - set(READINGS) - set(CHANGES)
    assert len(others) == len(OPERATIONS) - 20
    for operation in others:
        refusal = world.refused(operation, KeyId="x")
        assert refusal.code == "UnsupportedOperationException" and operation in (refusal.message or "")
    assert all(OPERATIONS[name].mutates for name in CHANGES)
    assert not any(OPERATIONS[name].mutates for name in READINGS)


def test_disabling_and_enabling(world: World) -> None:
    key = world.new_key()
    for operation, state in (("DisableKey", "Disabled"), ("DisableKey", "Disabled"), ("EnableKey", "Enabled")):
        answer = world.ask(operation, KeyId=arn_of(key))
        assert (answer.members, answer.keys) == ({}, (KeyUse(arn_of(key), ACCOUNT),))
        metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
        assert (metadata["KeyState"], metadata["Enabled"]) == (state, state == "Enabled")


def test_scheduling_and_cancelling_deletion(world: World) -> None:
    key = world.new_key()
    refusal = world.refused("CancelKeyDeletion", KeyId=key)
    assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is not pending deletion.")
    scheduled = world("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert scheduled == {
        "KeyId": arn_of(key),
        "DeletionDate": START_S + 7 * DAY_S,
        "KeyState": "PendingDeletion",
        "PendingWindowInDays": 7,
    }
    metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Enabled"]) == ("PendingDeletion", False)
    assert metadata["DeletionDate"] == scheduled["DeletionDate"]
    for operation, parameters in (
        ("EnableKey", {}),
        ("DisableKey", {}),
        ("ScheduleKeyDeletion", {}),
        ("TagResource", {"Tags": []}),
        ("UntagResource", {"TagKeys": ["a"]}),
    ):
        refusal = world.refused(operation, KeyId=key, **parameters)
        assert (refusal.code, refusal.message) == ("KMSInvalidStateException", f"{arn_of(key)} is pending deletion.")
        assert refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)
    assert world("CancelKeyDeletion", KeyId=key) == {"KeyId": arn_of(key)}
    metadata = world("DescribeKey", KeyId=key)["KeyMetadata"]
    assert metadata["KeyState"] == "Disabled" and "DeletionDate" not in metadata


def test_the_waiting_period(world: World) -> None:
    key = world.new_key()
    for days in (1, 6, 31, 365):
        refusal = world.refused("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=days)
        assert refusal.code == "ValidationException" and f"'{days}'" in (refusal.message or "")
    assert world("ScheduleKeyDeletion", KeyId=key)["DeletionDate"] == START_S + 30 * DAY_S


def test_after_its_deletion_date_a_key_is_gone_for_every_use(world: World) -> None:
    key, stays = world.new_key(), world.new_key()
    world("CreateAlias", AliasName="alias/gone", TargetKeyId=key)
    blob = world("Encrypt", KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    world("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    world.clock.now_s += 7 * DAY_S - 1
    assert world("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    world.clock.now_s += 1
    calls: dict[str, dict[str, Any]] = {
        "DescribeKey": {},
        "Encrypt": {"Plaintext": b"x"},
        "Decrypt": {"CiphertextBlob": blob},
        "GenerateDataKey": {"KeySpec": "AES_256"},
        "EnableKey": {},
        "CancelKeyDeletion": {},
        "ScheduleKeyDeletion": {},
        "TagResource": {"Tags": []},
        "ListResourceTags": {},
        "ListAliases": {},
    }
    for operation, parameters in calls.items():
        refusal = world.refused(operation, KeyId=key, **parameters)
        assert (refusal.code, refusal.message) == ("NotFoundException", f"Key '{arn_of(key)}' does not exist")
    assert world.refused("Decrypt", CiphertextBlob=blob).code == "AccessDeniedException"
    assert world.refused("DescribeKey", KeyId="alias/gone").message == (
        f"Alias arn:aws:kms:{REGION}:{ACCOUNT}:alias/gone is not found."
    )
    assert world.refused("DeleteAlias", AliasName="alias/gone").code == "NotFoundException"
    assert world("ListAliases")["Aliases"] == []
    assert [one["KeyId"] for one in world("ListKeys")["Keys"]] == [stays]
    world("CreateAlias", AliasName="alias/gone", TargetKeyId=stays)  # its name is free again
    assert world("DescribeKey", KeyId="alias/gone")["KeyMetadata"]["KeyId"] == stays


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("EnableKey", {}),
        ("DisableKey", {}),
        ("ScheduleKeyDeletion", {}),
        ("CancelKeyDeletion", {}),
        ("TagResource", {"Tags": []}),
        ("UntagResource", {"TagKeys": []}),
        ("ListResourceTags", {}),
        ("ListAliases", {}),
    ],
)
def test_management_takes_no_aliases(world: World, operation: str, parameters: dict[str, Any]) -> None:
    world("CreateAlias", AliasName="alias/a", TargetKeyId=world.new_key())
    for form in ("alias/a", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/a"):
        refusal = world.refused(operation, KeyId=form, **parameters)
        assert (refusal.code, refusal.message) == (
            "InvalidArnException",
            "Key Aliases are not supported for this operation.",
        )


def test_keys_are_listed_in_pages_each_once(world: World) -> None:
    made = {world.new_key() for _ in range(7)}
    world.new_key("eu-west-1")
    found: list[str] = []
    page = world("ListKeys", Limit=3)
    while page["Truncated"]:
        assert len(page["Keys"]) == 3
        found += [key["KeyId"] for key in page["Keys"]]
        page = world("ListKeys", Limit=3, Marker=page["NextMarker"])
    found += [key["KeyId"] for key in page["Keys"]]
    assert "NextMarker" not in page
    assert len(found) == 7 and set(found) == made
    assert world("ListKeys", Limit=7)["Truncated"] is False
    assert world("ListKeys")["Keys"][0] == {"KeyId": min(made), "KeyArn": arn_of(min(made))}
    assert world("ListKeys", ResourceOwners=["OTHER_ACCOUNTS_VIA_RAM"]) == {"Keys": [], "Truncated": False}


def test_markers_are_opaque_and_of_one_list(world: World) -> None:
    for _ in range(2):
        world.new_key()
    marker = world("ListKeys", Limit=1)["NextMarker"]
    assert world("ListKeys", Marker=marker)["Keys"]
    for wrong in ("x", "AAAA", marker[:-4], "W10=", "bnVsbA==", "ÿ"):
        assert world.refused("ListKeys", Marker=wrong).code == "InvalidMarkerException"
    assert world.refused("ListAliases", Marker=marker).code == "InvalidMarkerException"


def test_many_changes_at_once_all_happen(world: World) -> None:
    async def main() -> None:
        key = (await world.backend.call(call("CreateKey"))).members["KeyMetadata"]["KeyId"]
        tags = ({"KeyId": key, "Tags": [{"TagKey": str(n), "TagValue": ""}]} for n in range(40))
        await asyncio.gather(*(world.backend.call(call("TagResource", **one)) for one in tags))
        listed = await world.backend.call(call("ListResourceTags", KeyId=key))
        assert {tag["TagKey"] for tag in listed.members["Tags"]} == {str(n) for n in range(40)}

    asyncio.run(main())


def test_no_key_material_shows(world: World) -> None:
    seen: list[bytes] = []

    def watched(size: int) -> bytes:
        seen.append(os.urandom(size))
        return seen[-1]

    object.__setattr__(world.backend._around, "random", watched)
    answer = world.ask("CreateKey")
    secret = seen[-1]
    assert len(secret) == 32
    tables = world.backend._tables
    key = tables.find_key(REGION, answer.members["KeyMetadata"]["KeyId"])
    assert key is not None
    shown = f"{answer!r} {answer.members} {key!r} {key.materials!r} {world.backend!r} {tables!r} {world.store!r}"
    assert key.id in shown
    assert secret.hex() not in shown and repr(secret)[2:-1] not in shown
    for file in world.store.path.parent.iterdir():
        assert secret not in file.read_bytes()
